//! MPNet's bias of attention: a number a head for how far apart two tokens are, on which side.

use bonfire_kernels::Segments;
use burn::tensor::{Int, Tensor, TensorData};

/// Distances that have a bucket of their own, and from which on all share the last one.
const EXACT: usize = 8;
const FARTHEST: f64 = 128.0;

/// What is added to the scores of every sequence, `[heads, length, length]`, from the table `[2·16, heads]`. Sequences of
/// one length share theirs.
pub(super) fn scores(table: &Tensor<2>, sequences: &Segments) -> Vec<Tensor<3>> {
    let mut made: std::collections::HashMap<usize, Tensor<3>> = Default::default();
    let lengths: Vec<usize> = sequences.ranges().map(|range| range.len()).collect();
    lengths.into_iter().map(|length| made.entry(length).or_insert_with(|| of_length(table, length)).clone()).collect()
}

fn of_length(table: &Tensor<2>, length: usize) -> Tensor<3> {
    let [buckets, heads] = table.dims();
    let pairs = (0..length).flat_map(|i| (0..length).map(move |j| bucket(i, j, buckets) as i32));
    let index = TensorData::new(pairs.collect::<Vec<i32>>(), [length * length]);
    let index = Tensor::<1, Int>::from_data(index, &table.device());
    // Turned first, so that the result needs no other order of its axes.
    table.clone().transpose().select(1, index).reshape([heads, length, length]) // [H, length, length]
}

/// The row of the table for a token at `i` that looks at one at `j`, as T5 counts them (arXiv 1910.10683): half for what
/// stands before, half for what comes after; near ones exactly, far ones by their logarithm.
fn bucket(i: usize, j: usize, buckets: usize) -> usize {
    let (half, apart) = (buckets / 2, i.abs_diff(j));
    let side = if j > i { half } else { 0 };
    if apart < EXACT {
        return side + apart;
    }
    // In f32, as PyTorch has it.
    let log = (apart as f32 / EXACT as f32).ln() / (FARTHEST / EXACT as f64).ln() as f32 * (half - EXACT) as f32;
    side + (EXACT + log as usize).min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::bucket;

    #[test]
    fn buckets_are_those_of_transformers() {
        // `MPNetEncoder.relative_position_bucket(torch.tensor([j - i]))`.
        let bucket_of = |i: usize, j: usize| bucket(i, j, 32);
        assert_eq!(
            [
                bucket_of(0, 0),
                bucket_of(3, 0),
                bucket_of(0, 3),
                bucket_of(8, 0),
                bucket_of(0, 20),
                bucket_of(63, 0),
                bucket_of(0, 64)
            ],
            [0, 3, 19, 8, 26, 13, 30]
        );
        assert_eq!(
            [bucket_of(127, 0), bucket_of(128, 0), bucket_of(0, 500), bucket_of(16, 0), bucket_of(0, 32)],
            [15, 15, 31, 10, 28]
        );
    }
}
