//! The singular value decomposition of a stack, and the ways to cut it into two factors again.

use bonfire_models::Matrix;
use faer::Mat;

use super::AlgebraError;

/// `U·diag(s)·V` with `u [d_in, p]` of orthonormal columns, `v [p, d_out]` of orthonormal rows and `s` descending.
///
/// Values that are rounding of the sum they came from are exactly zero; their vectors are still orthonormal. Of the
/// two signs of a pair of vectors, the one that makes the left vector's largest entry positive.
#[derive(Clone, Debug, PartialEq)]
pub struct Svd {
    /// Left singular vectors, row-major `[d_in, p]`.
    pub u: Vec<f64>,
    /// Singular values, descending.
    pub s: Vec<f64>,
    /// Right singular vectors, row-major `[p, d_out]`.
    pub v: Vec<f64>,
    d_in: usize,
    d_out: usize,
}

impl Svd {
    /// Decomposes `left · core · rightᵀ`, whose outer factors have orthonormal columns.
    pub(super) fn of_core(left: &Mat<f64>, core: &Mat<f64>, right: &Mat<f64>, noise: f64) -> Result<Svd, AlgebraError> {
        let small = core.thin_svd().map_err(|_| AlgebraError::NoConvergence)?;
        let (u, v) = (left * small.U(), right * small.V());
        let (d_in, d_out, p) = (u.nrows(), v.nrows(), u.ncols());
        let values = small.S().column_vector();
        let s = (0..p).map(|i| if values[i] > noise { values[i] } else { 0.0 }).collect();
        let signs: Vec<f64> = (0..p).map(|j| sign((0..d_in).map(|i| u[(i, j)]))).collect();
        let u = (0..d_in).flat_map(|i| (0..p).map(|j| (i, j)).collect::<Vec<_>>()).map(|(i, j)| signs[j] * u[(i, j)]);
        let v = (0..p).flat_map(|j| (0..d_out).map(|i| (i, j)).collect::<Vec<_>>()).map(|(i, j)| signs[j] * v[(i, j)]);
        Ok(Svd { u: u.collect(), s, v: v.collect(), d_in, d_out })
    }

    /// Of the matrix W that `y = W·Ω` and `z = Ψ·W` are sketches of, as far as they tell: `Q·X` with Q an orthonormal basis of y and X the
    /// least-squares solution of `Ψ·Q·X = z` (Tropp et al., arXiv 1609.00048, algorithm 4). Values that are no more than the sketches'
    /// rounding to f32 are zero.
    ///
    /// # Errors
    /// Numbers that are not finite, or no convergence.
    pub fn of_sketches(y: &Matrix, psi: &Matrix, z: &Matrix) -> Result<Svd, AlgebraError> {
        if ![y, z].iter().all(|m| m.data.iter().all(|v| v.is_finite())) {
            return Err(AlgebraError::NotFinite);
        }
        let wide = |m: &Matrix| Mat::from_fn(m.rows, m.cols, |i, j| f64::from(m.data[i * m.cols + j]));
        let q = wide(y).qr().compute_thin_Q();
        let seen = (wide(psi) * &q).thin_svd().map_err(|_| AlgebraError::NoConvergence)?;
        let onto = seen.U().transpose() * wide(z);
        let s = seen.S().column_vector();
        let solved = Mat::from_fn(s.nrows(), z.cols, |i, j| onto[(i, j)] / s[i]);
        let x = seen.V() * solved;
        let right = x.transpose().to_owned().qr();
        let core = right.thin_R().transpose().to_owned();
        let noise = f64::from(f32::EPSILON) * core.norm_l2() * (y.cols as f64).sqrt();
        Svd::of_core(&q, &core, &right.compute_thin_Q(), noise)
    }

    /// Singular values that are not zero.
    pub fn rank(&self) -> usize {
        self.rank_above(0.0)
    }

    /// Singular values above `floor`.
    pub fn rank_above(&self, floor: f64) -> usize {
        self.s.iter().filter(|&&s| s > floor).count()
    }

    /// The fewest leading values that hold a share `tau` of the energy `Σ s²` (FLoRIST's threshold); all that are not
    /// zero for `tau ≥ 1`, none of a zero sum.
    pub fn rank_for_energy(&self, tau: f64) -> usize {
        let total: f64 = self.s.iter().map(|s| s * s).sum();
        let mut held = 0.0;
        let reaches = |s: &f64| {
            held += s * s;
            held >= tau * total
        };
        if tau >= 1.0 || total == 0.0 {
            return self.rank();
        }
        self.s.iter().position(reaches).map_or(self.rank(), |i| i + 1).min(self.rank())
    }

    /// The fewest leading values that leave out at most `share` of the Frobenius norm.
    pub(super) fn rank_within(&self, share: f64) -> usize {
        let total: f64 = self.s.iter().map(|s| s * s).sum();
        let mut left_out = 0.0;
        // From the smallest up, so that small values are not lost in the sum of large ones.
        let kept = |s: &f64| {
            left_out += s * s;
            left_out > share * share * total
        };
        self.s.iter().rev().position(kept).map_or(0, |dropped| self.s.len() - dropped)
    }

    /// The leading `rank` slots with √S on both sides: `A [d_in, rank] = U·√S`, `B [rank, d_out] = √S·V`. Zeros where
    /// there are fewer; such a slot gets no gradient while both its factors are zero.
    pub fn split(&self, rank: usize) -> (Matrix, Matrix) {
        self.factors(rank, |s| (s.sqrt(), s.sqrt()))
    }

    /// The leading `rank` slots with S on the right: `A = U` orthonormal, `B = S·V` (FedSVD). Columns of A that belong to no
    /// value are orthonormal too as far as there are any, so their slots stay trainable through B.
    pub fn right_weighted(&self, rank: usize) -> (Matrix, Matrix) {
        self.factors(rank, |s| (1.0, s))
    }

    /// The leading `rank` slots with S on the left: `A = U·S`, `B = V` orthonormal.
    pub fn left_weighted(&self, rank: usize) -> (Matrix, Matrix) {
        self.factors(rank, |s| (s, 1.0))
    }

    fn factors(&self, rank: usize, split: impl Fn(f64) -> (f64, f64)) -> (Matrix, Matrix) {
        let (mut a, mut b) = (Matrix::zeros(self.d_in, rank), Matrix::zeros(rank, self.d_out));
        let p = self.s.len();
        for j in 0..rank.min(p) {
            let (left, right) = split(self.s[j]);
            (0..self.d_in).for_each(|i| a.data[i * rank + j] = (left * self.u[i * p + j]) as f32);
            (0..self.d_out).for_each(|i| b.data[j * self.d_out + i] = (right * self.v[j * self.d_out + i]) as f32);
        }
        (a, b)
    }
}

/// The sign of the entry of largest magnitude, the first of equals.
fn sign(entries: impl Iterator<Item = f64>) -> f64 {
    let largest = entries.fold(0.0f64, |best, x| if x.abs() > best.abs() { x } else { best });
    if largest < 0.0 { -1.0 } else { 1.0 }
}
