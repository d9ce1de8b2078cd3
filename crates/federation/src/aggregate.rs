//! The weighted average of uploads, the one rule most strategies share.

use bonfire_engine::Upload;
use bonfire_models::{Adapter, Factor, Matrix};

use crate::Norm;

/// Adds the clients' average movement to `adapter`: `X ← X + Σ w_k ΔX_k` with `w_k = n_k / Σ n` over the uploads.
///
/// Slots that a client did not upload count as zero (LoRA-A², algorithm 1); with [`Norm::Choosers`] the weights of a
/// slot are those of its choosers, made to sum to one. Sums are in f64 and in the order of client numbers, so the
/// order in which uploads arrive changes nothing.
pub fn average(adapter: &mut Adapter, uploads: &[Upload], norm: Norm) {
    let mut uploads: Vec<&Upload> = uploads.iter().collect();
    uploads.sort_by_key(|u| u.client);
    let total: f64 = uploads.iter().map(|u| u.examples as f64).sum();
    let Some(first) = uploads.first().filter(|_| total > 0.0) else { return };
    for (f, &factor) in first.active.factors().iter().enumerate() {
        for target in 0..adapter.targets.len() {
            let matrix = &mut adapter.factor_mut(factor)[target];
            average_slots(matrix, factor, &uploads, f, target, (norm == Norm::All).then_some(total));
        }
    }
    for i in 0..first.head.len() {
        let mut sum = vec![0f64; first.head[i].data.len()];
        uploads.iter().for_each(|u| add(&mut sum, &u.head[i].data, u.examples as f64 / total));
        adapter.head[i].value.data.iter_mut().zip(sum).for_each(|(x, d)| *x = (f64::from(*x) + d) as f32);
    }
}

fn add(sum: &mut [f64], values: &[f32], weight: f64) {
    sum.iter_mut().zip(values).for_each(|(s, &v)| *s += weight * f64::from(v));
}

/// One target's factor; `total` is the denominator, or `None` for that of each slot's choosers.
fn average_slots(
    matrix: &mut Matrix,
    factor: Factor,
    uploads: &[&Upload],
    f: usize,
    target: usize,
    total: Option<f64>,
) {
    let (rank, width) = if factor == Factor::A { (matrix.cols, matrix.rows) } else { (matrix.rows, matrix.cols) };
    let mut sums = vec![0f64; rank * width];
    let mut weights = vec![0f64; rank];
    for upload in uploads {
        let vectors = &upload.factors[f].1[target];
        for (row, slot) in upload.slots.of(target).into_iter().enumerate() {
            let examples = upload.examples as f64;
            weights[slot] += examples;
            add(&mut sums[slot * width..(slot + 1) * width], &vectors.data[row * width..(row + 1) * width], examples);
        }
    }
    // A slot nobody chose stays bit for bit as it is.
    for slot in (0..rank).filter(|&s| weights[s] > 0.0) {
        for i in 0..width {
            let at = if factor == Factor::A { i * rank + slot } else { slot * width + i };
            let step = sums[slot * width + i] / total.unwrap_or(weights[slot]);
            matrix.data[at] = (f64::from(matrix.data[at]) + step) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bonfire_engine::{Active, Slots};
    use bonfire_models::{Target, TargetKind};

    fn adapter() -> Adapter {
        let target = Target { name: "t".into(), kind: TargetKind::Query, layer: 0, d_in: 2, d_out: 3 };
        let (a, b) = (vec![Matrix::new(2, 2, vec![1.0; 4])], vec![Matrix::zeros(2, 3)]);
        Adapter { rank: 2, alpha: 2.0, targets: vec![target], a, b, head: vec![] }
    }

    fn upload(client: usize, examples: usize, active: Active, slots: Vec<usize>, value: f32) -> Upload {
        let factor = active.factors()[0];
        let width = if factor == Factor::A { 2 } else { 3 };
        let vectors = Matrix::new(slots.len(), width, vec![value; slots.len() * width]);
        let slots = Slots::Chosen { rank: 2, slots: vec![slots] };
        Upload {
            client,
            examples,
            active,
            slots,
            factors: vec![(factor, vec![vectors])],
            head: vec![],
            loss: 0.0,
            steps: 1,
            tokens: 0,
        }
    }

    #[test]
    fn absent_slots_count_as_zero_or_not_at_all() {
        let uploads = [upload(0, 1, Active::B, vec![0], 4.0), upload(1, 3, Active::B, vec![0, 1], 8.0)];
        let mut all = adapter();
        average(&mut all, &uploads, Norm::All);
        assert_eq!(all.b[0].data, [7.0, 7.0, 7.0, 6.0, 6.0, 6.0]);
        let mut choosers = adapter();
        average(&mut choosers, &uploads, Norm::Choosers);
        assert_eq!(choosers.b[0].data, [7.0, 7.0, 7.0, 8.0, 8.0, 8.0]);
    }

    #[test]
    fn slots_of_a_are_columns_and_unchosen_ones_stay() {
        let mut it = adapter();
        average(&mut it, &[upload(0, 1, Active::A, vec![1], 0.5)], Norm::All);
        assert_eq!(it.a[0].data, [1.0, 1.5, 1.0, 1.5]);
        assert_eq!(it.b, adapter().b);
        average(&mut it, &[upload(0, 1, Active::A, vec![], 0.5)], Norm::All);
        assert_eq!(it.a[0].data, [1.0, 1.5, 1.0, 1.5], "a round in which nobody chose a slot changes nothing");
    }

    #[test]
    fn the_order_of_uploads_changes_nothing() {
        let mut uploads = vec![
            upload(0, 1, Active::B, vec![0], 0.1),
            upload(1, 3, Active::B, vec![0], 0.7),
            upload(2, 9, Active::B, vec![0, 1], -0.3),
        ];
        let mut first = adapter();
        average(&mut first, &uploads, Norm::All);
        uploads.reverse();
        let mut second = adapter();
        average(&mut second, &uploads, Norm::All);
        assert_eq!(first, second);
    }
}
