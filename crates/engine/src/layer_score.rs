//! How much a layer's states say, FedPepTAO's score (arXiv 2310.15080; its published code).

use bonfire_models::Matrix;
use faer::{Mat, Side};

/// Added to every eigenvalue, so that none is zero.
const FLOOR: f64 = 1e-5;

/// `Σ_j (log λ_j + 1/λ_j)` over the eigenvalues of the matrix of cosine similarities between the rows of `states`
/// `[S, D]`, one row a sequence. 0 for no rows; a row of zeros is like no other.
pub fn layer_score(states: &Matrix) -> f64 {
    let row = |i: usize| states.data[i * states.cols..(i + 1) * states.cols].iter().map(|&v| f64::from(v));
    let norms: Vec<f64> = (0..states.rows).map(|i| row(i).map(|v| v * v).sum::<f64>().sqrt()).collect();
    let unit = Mat::from_fn(states.rows, states.cols, |i, j| {
        f64::from(states.data[i * states.cols + j]) / norms[i].max(f64::MIN_POSITIVE)
    });
    let similar = &unit * unit.transpose();
    let eigenvalues = similar.self_adjoint_eigenvalues(Side::Lower).expect("similarities are finite");
    // Rounding may leave a zero a little below zero.
    eigenvalues.iter().map(|v| v.max(0.0) + FLOOR).map(|v| v.ln() + 1.0 / v).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> f64 {
        values.iter().map(|v| (v + FLOOR).ln() + 1.0 / (v + FLOOR)).sum()
    }

    #[test]
    fn scores_of_known_spectra() {
        let apart = Matrix::new(3, 3, vec![2.0, 0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0, 0.1]);
        assert!((layer_score(&apart) - of(&[1.0, 1.0, 1.0])).abs() < 1e-9);
        // Two rows at 60 degrees: eigenvalues 1 ± cos 60°.
        let slanted = Matrix::new(2, 2, vec![1.0, 0.0, 1.0, 3f32.sqrt()]);
        assert!((layer_score(&slanted) - of(&[0.5, 1.5])).abs() < 1e-6);
        // All alike: one eigenvalue 3, the others 0, whose terms are 1/FLOOR each.
        let alike = Matrix::new(3, 2, vec![1.0, 2.0, 2.0, 4.0, 0.5, 1.0]);
        assert!((layer_score(&alike) / of(&[3.0, 0.0, 0.0]) - 1.0).abs() < 1e-6);
        assert_eq!(layer_score(&Matrix::zeros(0, 4)), 0.0);
    }

    #[test]
    fn rows_may_come_in_any_order_and_size() {
        let states = Matrix::new(3, 4, vec![0.3, -1.0, 2.0, 0.7, 1.1, 0.2, -0.4, 0.9, -0.5, 0.6, 0.8, 1.3]);
        let other = Matrix::new(3, 4, states.rows(&[2, 0, 1]).data.iter().map(|v| v * 4.0).collect());
        assert!((layer_score(&states) - layer_score(&other)).abs() < 1e-9);
    }
}
