//! Updates that a method merged into the backbone for good, kept as factors: a run can be resumed and exported from
//! them exactly, and the backbone itself stays as it was read.

use crate::{Adapter, Matrix, Target};

/// A sum of low-rank updates of every target, `Σ A·B` with the scale inside; grows by columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeltaLog {
    /// `[d_in, n]` of every target; empty before the first merge.
    pub a: Vec<Matrix>,
    /// `[n, d_out]` of every target.
    pub b: Vec<Matrix>,
    /// Scalars that were ever merged: what clients had to be sent, however the log is kept.
    pub pushed: u64,
}

impl DeltaLog {
    /// Whether nothing was merged yet.
    pub fn is_empty(&self) -> bool {
        self.a.iter().all(|m| m.cols == 0)
    }

    /// Adds an update `a·b` (scale included) to every target.
    ///
    /// # Panics
    /// When the number of targets changes or shapes do not fit.
    pub fn push(&mut self, a: Vec<Matrix>, b: Vec<Matrix>) {
        self.pushed += a.iter().chain(&b).map(|m| m.data.len() as u64).sum::<u64>();
        if self.a.is_empty() {
            (self.a, self.b) = (a, b);
            return;
        }
        assert_eq!((self.a.len(), self.b.len()), (a.len(), b.len()), "an update for every target");
        self.a = self.a.iter().zip(&a).map(|(old, new)| beside(old, new)).collect();
        self.b = self.b.iter().zip(b).map(|(old, new)| below(old, new)).collect();
    }

    /// The merged updates and `adapter` as one plain adapter of one rank, padded with empty slots.
    pub fn total(&self, adapter: &Adapter) -> Adapter {
        let plain = adapter.plain();
        if self.is_empty() {
            return plain;
        }
        let scale = adapter.scale();
        let widest = self.a.iter().map(|m| m.cols).max().unwrap_or(0);
        let rank = widest + plain.rank;
        let scaled = |m: &Matrix| Matrix::new(m.rows, m.cols, m.data.iter().map(|v| v / scale as f32).collect());
        let pad = |t: &Target, n: usize| (Matrix::zeros(t.d_in, widest - n), Matrix::zeros(widest - n, t.d_out));
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for (t, target) in adapter.targets.iter().enumerate() {
            let (pad_a, pad_b) = pad(target, self.a[t].cols);
            a.push(beside(&beside(&plain.a[t], &self.a[t]), &pad_a));
            b.push(below(&below(&plain.b[t], scaled(&self.b[t])), pad_b));
        }
        Adapter { rank, alpha: scale * rank as f64, a, b, ..plain }
    }
}

/// Columns of `x`, then those of `y`.
fn beside(x: &Matrix, y: &Matrix) -> Matrix {
    let row = |r: usize| x.data[r * x.cols..(r + 1) * x.cols].iter().chain(&y.data[r * y.cols..(r + 1) * y.cols]);
    Matrix::new(x.rows, x.cols + y.cols, (0..x.rows).flat_map(row).copied().collect())
}

/// Rows of `x`, then those of `y`.
fn below(x: &Matrix, y: Matrix) -> Matrix {
    let (rows, cols) = (x.rows + y.rows, x.cols);
    Matrix::new(rows, cols, [x.data.as_slice(), &y.data].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TargetKind;

    #[test]
    fn the_total_is_the_sum_of_all_products() {
        let target = Target { name: "t".into(), kind: TargetKind::Query, layer: 0, d_in: 2, d_out: 2 };
        let adapter = Adapter {
            rank: 1,
            alpha: 2.0,
            targets: vec![target],
            a: vec![Matrix::new(2, 1, vec![1.0, 2.0])],
            b: vec![Matrix::new(1, 2, vec![3.0, 4.0])],
            core: vec![Matrix::new(1, 1, vec![10.0])],
            head: vec![],
            weights: vec![],
        };
        let mut log = DeltaLog::default();
        assert_eq!(log.total(&adapter), adapter.plain());
        let once = || (vec![Matrix::new(2, 1, vec![1.0, 0.0])], vec![Matrix::new(1, 2, vec![5.0, 7.0])]);
        log.push(once().0, once().1);
        log.push(once().0, once().1);
        let total = log.total(&adapter);
        let product = total.a[0].matmul(&total.b[0]);
        let scaled: Vec<f64> = product.data.iter().map(|v| f64::from(*v) * total.scale()).collect();
        // 2·10·[1 2]ᵀ[3 4] + 2·[1 0]ᵀ[5 7]
        assert_eq!(scaled, [60.0 + 10.0, 80.0 + 14.0, 120.0, 160.0]);
        assert_eq!(total.rank, 3);
    }
}
