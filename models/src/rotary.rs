//! Rotary position embeddings (arXiv 2104.09864): pairs of features of queries and keys are rotated by angles that grow with a
//! token's position. Letters in shapes: `T` tokens, `w` features a head.

use bonfire_kernels::rotate;
use burn::tensor::{Device, Int, Tensor};

use crate::transfer::matrix;
use crate::{Matrix, Rope};

/// Positions whose angles are kept; those of longer texts are computed for each batch that has one. Models of 131,072
/// positions would keep more angles than weights.
const KEPT: usize = 4096;

/// Cosine and sine of every position's angles, `[positions, w/2]` each.
#[derive(Clone, Debug)]
pub(crate) struct Rotary {
    /// Angle a position of each pair of features.
    frequencies: Vec<f64>,
    tables: [Tensor<2>; 2],
}

/// The same of every token, `[T, w/2]`.
#[derive(Clone, Debug)]
pub(crate) struct Angles {
    cos: Tensor<2>,
    sin: Tensor<2>,
}

impl Rotary {
    pub fn new(rope: &Rope, head_width: usize, positions: usize, device: &Device) -> Rotary {
        let frequencies = rope.frequencies(head_width);
        let tables = tables(&frequencies, positions.min(KEPT), device);
        Rotary { frequencies, tables }
    }

    /// Of tokens at `positions` `[T]`, all of them below `end`.
    pub fn angles(&self, positions: &Tensor<1, Int>, end: usize) -> Angles {
        let kept = &self.tables[0];
        let longer = (end > kept.dims()[0]).then(|| tables(&self.frequencies, end, &kept.device()));
        let [cos, sin] = longer.as_ref().unwrap_or(&self.tables);
        let rows_of = |table: &Tensor<2>| table.clone().select(0, positions.clone());
        Angles { cos: rows_of(cos), sin: rows_of(sin) }
    }
}

fn tables(frequencies: &[f64], positions: usize, device: &Device) -> [Tensor<2>; 2] {
    let table = |of: fn(f64) -> f64| {
        let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
        let data = angles.map(|angle| of(angle) as f32).collect();
        matrix(Matrix::new(positions, frequencies.len(), data), device)
    };
    [table(f64::cos), table(f64::sin)]
}

impl Angles {
    /// Turns the first `heads` heads of every row of `[T, N]`; what lies behind them stays.
    pub fn turn(&self, rows: Tensor<2>, heads: usize) -> Tensor<2> {
        rotate(rows, self.cos.clone(), self.sin.clone(), heads)
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn angles_beyond_those_kept_go_on() {
        let device = Device::flex();
        let long = Rotary::new(&Rope::plain(10_000.0), 8, 10_000, &device);
        let [short, far] = [3, KEPT as i32 + 5].map(|p| Tensor::<1, Int>::from_ints([p], &device));
        for (positions, end, at) in [(short, 4, 3.0), (far, KEPT + 6, KEPT as f64 + 5.0)] {
            let cos: Vec<f64> = long.angles(&positions, end).cos.into_data().iter::<f64>().collect();
            let expected = [1.0, 0.1, 0.01, 0.001].map(|f: f64| (at * f).cos());
            assert!(cos.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-6), "{cos:?}");
        }
    }
}
