//! Low-rank algebra for the server, on factors alone and in f64: sums of products `Σ w_k·A_k·B_k` are kept as their
//! columns and rows side by side, and no dense `[d_in, d_out]` matrix is ever formed. Row-vector convention: an update
//! is `A·B` with `A [d_in, n]` and `B [n, d_out]`.
//!
//! Every decomposition starts with a thin QR of both stacked factors, so its cost goes by the slots that were pushed
//! and ill-conditioned sums (equal, zero or tiny columns, more columns than rows) are no special case. One thread, one
//! order of sums: the same input gives the same bits.

mod svd;

use bonfire_models::Matrix;
use faer::Mat;
use std::ops::Range;

pub use svd::Svd;

/// What a decomposition can fail at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AlgebraError {
    /// A factor holds an infinity or a NaN.
    #[error("a factor of the sum holds numbers that are not finite")]
    NotFinite,
    /// The singular value decomposition of the core did not end.
    #[error("the singular value decomposition did not converge")]
    NoConvergence,
}

/// A weighted sum of products `Σ w_k·A_k·B_k`, as factors. Weights may be negative, so that a residual such as
/// `Σ w_k·A_k·B_k − Ā·B̄` is a stack as well.
#[derive(Clone, Debug, PartialEq)]
pub struct Stack {
    d_in: usize,
    d_out: usize,
    /// Columns of A with the weights, one after another.
    a: Vec<f64>,
    /// Rows of B, one after another.
    b: Vec<f64>,
}

impl Stack {
    /// The empty sum, a zero matrix `[d_in, d_out]`.
    pub fn new(d_in: usize, d_out: usize) -> Self {
        Stack { d_in, d_out, a: vec![], b: vec![] }
    }

    /// Slots pushed so far: the stack's columns of A and rows of B.
    pub fn slots(&self) -> usize {
        self.b.len() / self.d_out.max(1)
    }

    /// Adds `weight·A·B` for `a [d_in, n]` and `b [n, d_out]`.
    ///
    /// # Panics
    /// When the shapes do not fit each other or the stack.
    pub fn push(&mut self, a: &Matrix, b: &Matrix, weight: f64) {
        self.push_slots(a, b, 0..b.rows, weight);
    }

    /// Adds `weight·A[:, slots]·B[slots, :]`: some of the slots alone, as ranks of unequal clients are taken apart.
    ///
    /// # Panics
    /// When the shapes do not fit each other or the stack, or a slot is not there.
    pub fn push_slots(&mut self, a: &Matrix, b: &Matrix, slots: Range<usize>, weight: f64) {
        assert_eq!((a.rows, a.cols, b.cols), (self.d_in, b.rows, self.d_out), "factors of the stack's shape");
        assert!(slots.end <= b.rows, "slots {slots:?} of {}", b.rows);
        for slot in slots {
            self.a.extend((0..a.rows).map(|i| weight * f64::from(a.data[i * a.cols + slot])));
            self.b.extend(b.data[slot * b.cols..(slot + 1) * b.cols].iter().copied().map(f64::from));
        }
    }

    /// The sum times `scale`.
    pub fn scaled(mut self, scale: f64) -> Stack {
        self.a.iter_mut().for_each(|x| *x *= scale);
        self
    }

    /// The stacked factors themselves, `A [d_in, n]` with the weights on it and `B [n, d_out]`: exact up to f32.
    pub fn factors(&self) -> (Matrix, Matrix) {
        let n = self.slots();
        let a = (0..self.d_in).flat_map(|i| (0..n).map(move |j| self.a[j * self.d_in + i] as f32)).collect();
        let b = self.b.iter().map(|&x| x as f32).collect();
        (Matrix::new(self.d_in, n, a), Matrix::new(n, self.d_out, b))
    }

    /// The singular value decomposition of the sum: thin QR of both stacked factors, SVD of the small core between
    /// them (FLoRIST, arXiv 2506.09199, section 3, with QR where the paper takes two more SVDs).
    ///
    /// # Errors
    /// Numbers that are not finite, or no convergence.
    pub fn svd(&self) -> Result<Svd, AlgebraError> {
        let core = self.core()?;
        Svd::of_core(&core.left, &core.middle, &core.right, core.noise)
    }

    /// `‖Σ w_k·A_k·B_k‖_F`, from the core: unlike `tr((AᵀA)(BBᵀ))` it keeps its digits where the sum nearly cancels.
    ///
    /// # Errors
    /// Numbers that are not finite.
    pub fn frobenius(&self) -> Result<f64, AlgebraError> {
        Ok(self.core()?.middle.norm_l2())
    }

    /// The same sum in at most `max_rank` slots, √S on both factors. Without loss beyond f32 rounding where `max_rank`
    /// is at least `min(d_in, d_out)`: what is left out is below 2⁻²⁴ of the sum in Frobenius norm. At least one slot. A stack that is
    /// within `max_rank` already is handed back as it is.
    ///
    /// # Errors
    /// Numbers that are not finite, or no convergence.
    pub fn compressed(&self, max_rank: usize) -> Result<(Matrix, Matrix), AlgebraError> {
        if self.slots() <= max_rank {
            return Ok(self.factors());
        }
        let svd = self.svd()?;
        Ok(svd.split(svd.rank_within(f64::from(f32::EPSILON) / 2.0).max(1).min(max_rank)))
    }

    /// LoRA-FAIR's correction in closed form (arXiv 2411.14961 with a ridge in place of its cosine distance): the `ΔB`
    /// that minimises `‖ΔW − A·(B + ΔB)‖² + λ‖ΔB‖²`, i.e. `(AᵀA + λI)⁻¹·Aᵀ·(ΔW − A·B)`, where `ΔW` is this stack.
    /// By the SVD of `A`, so that columns of `A` that repeat each other do no harm even at `λ = 0` (there the `ΔB` of
    /// least norm).
    ///
    /// # Errors
    /// Numbers that are not finite, or no convergence.
    ///
    /// # Panics
    /// When the shapes do not fit, or `lambda` is negative.
    pub fn ridge(&self, a: &Matrix, b: &Matrix, lambda: f64) -> Result<Matrix, AlgebraError> {
        assert!(lambda >= 0.0, "lambda is {lambda}");
        let mut residual = self.clone();
        residual.push(a, b, -1.0);
        residual.check()?;
        let a = Mat::from_fn(a.rows, a.cols, |i, j| f64::from(a.data[i * a.cols + j]));
        let svd = a.thin_svd().map_err(|_| AlgebraError::NoConvergence)?;
        let s = svd.S().column_vector();
        let floor = f64::EPSILON * a.nrows().max(a.ncols()) as f64 * (0..s.nrows()).map(|i| s[i]).fold(0.0, f64::max);
        let gain = |i: usize| if s[i] > floor { s[i] / (s[i] * s[i] + lambda) } else { 0.0 };
        let scaled = Mat::from_fn(a.ncols(), s.nrows(), |i, j| svd.V()[(i, j)] * gain(j));
        let onto = svd.U().transpose() * residual.left();
        Ok(to_matrix(&(scaled * (onto * residual.right().transpose()))))
    }

    /// `Σ ‖a_j‖·‖b_j‖` over the slots: how large the sum could be.
    fn size(&self) -> f64 {
        let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let slots = self.a.chunks_exact(self.d_in.max(1)).zip(self.b.chunks_exact(self.d_out.max(1)));
        slots.map(|(a, b)| norm(a) * norm(b)).sum()
    }

    /// How much of the sum is no more than its terms' own rounding to f32: where large terms cancel, such as a mean and what it
    /// is the mean of, singular values up to this say nothing.
    pub fn f32_rounding(&self) -> f64 {
        f64::from(f32::EPSILON) * self.size()
    }

    /// A with the weights, `[d_in, n]`.
    fn left(&self) -> Mat<f64> {
        Mat::from_fn(self.d_in, self.slots(), |i, j| self.a[j * self.d_in + i])
    }

    /// Bᵀ, `[d_out, n]`.
    fn right(&self) -> Mat<f64> {
        Mat::from_fn(self.d_out, self.slots(), |i, j| self.b[j * self.d_out + i])
    }

    fn check(&self) -> Result<(), AlgebraError> {
        let finite = self.a.iter().chain(&self.b).all(|x| x.is_finite());
        finite.then_some(()).ok_or(AlgebraError::NotFinite)
    }

    fn core(&self) -> Result<Core, AlgebraError> {
        self.check()?;
        let (left, right) = (self.left().qr(), self.right().qr());
        let middle = left.thin_R() * right.thin_R().transpose();
        // What rounding alone puts into the core: QR and the product are backward stable, slot by slot.
        let noise = f64::EPSILON * (middle.nrows().max(middle.ncols()) as f64).sqrt() * self.size();
        Ok(Core { left: left.compute_thin_Q(), middle, right: right.compute_thin_Q(), noise })
    }
}

/// `left · middle · rightᵀ`, the sum with orthonormal outer factors.
struct Core {
    left: Mat<f64>,
    middle: Mat<f64>,
    right: Mat<f64>,
    /// Singular values up to this are rounding, not signal.
    noise: f64,
}

/// `‖A·B‖_F` for `a [d_in, n]` and `b [n, d_out]`, without forming the product.
///
/// # Errors
/// Numbers that are not finite.
pub fn frobenius(a: &Matrix, b: &Matrix) -> Result<f64, AlgebraError> {
    let mut stack = Stack::new(a.rows, b.cols);
    stack.push(a, b, 1.0);
    stack.frobenius()
}

fn to_matrix(m: &Mat<f64>) -> Matrix {
    let data = (0..m.nrows()).flat_map(|i| (0..m.ncols()).map(move |j| m[(i, j)] as f32)).collect();
    Matrix::new(m.nrows(), m.ncols(), data)
}

#[cfg(test)]
mod tests;
