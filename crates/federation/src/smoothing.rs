//! Laplacian smoothing (Osher et al., arXiv 1806.06317) of a movement: `(I − σ·L)⁻¹·G`, L being the five-point Laplacian over the
//! tensor's rows and columns, with the last next to the first. A low-pass filter: it leaves the mean as it is, and takes from what
//! changes from number to number, as noise does.

use std::f64::consts::TAU;

/// Smooths `values` `[rows, cols]`, row-major. By the eigenvectors of the Laplacian over rows (there are few: the slots), and for each of
/// them a filter along the columns that costs one pass in either direction.
pub(crate) fn smooth(values: &mut [f64], cols: usize, sigma: f64) {
    let rows = values.len() / cols.max(1);
    if sigma == 0.0 || values.is_empty() {
        return;
    }
    let mut out = vec![0.0; values.len()];
    for (frequency, wave) in waves(rows) {
        let mut along = vec![0.0; cols];
        for (row, weight) in values.chunks(cols).zip(&wave) {
            along.iter_mut().zip(row).for_each(|(sum, v)| *sum += weight * v);
        }
        let own = 1.0 + sigma * (2.0 - 2.0 * (TAU * frequency as f64 / rows as f64).cos());
        filter(&mut along, own, sigma);
        for (row, weight) in out.chunks_mut(cols).zip(&wave) {
            row.iter_mut().zip(&along).for_each(|(sum, v)| *sum += weight * v);
        }
    }
    values.copy_from_slice(&out);
}

/// An orthonormal basis of sines and cosines over `n` places, each with its frequency.
fn waves(n: usize) -> Vec<(usize, Vec<f64>)> {
    let wave = |frequency: usize, shift: f64| {
        let twice = frequency == 0 || 2 * frequency == n;
        let size = (if twice { 1.0 } else { 2.0 } / n as f64).sqrt();
        let at = |k: usize| size * (TAU * (frequency * k) as f64 / n as f64 - shift).cos();
        (frequency, (0..n).map(at).collect())
    };
    let cosines = (0..=n / 2).map(|frequency| wave(frequency, 0.0));
    cosines.chain((1..n.div_ceil(2)).map(|frequency| wave(frequency, TAU / 4.0))).collect()
}

/// Solves `own·x_j + σ·(2·x_j − x_{j−1} − x_{j+1}) = g_j` around a ring, `own ≥ 1`. The inverse falls by ρ from place to place in both
/// directions, ρ being the smaller root of `σ·ρ² − (own + 2σ)·ρ + σ = 0`.
fn filter(g: &mut [f64], own: f64, sigma: f64) {
    let (n, middle) = (g.len(), own + 2.0 * sigma);
    let rho = 2.0 * sigma / (middle + (middle * middle - 4.0 * sigma * sigma).sqrt());
    let once_around = 1.0 - rho.powi(n as i32);
    let pass = |at: &dyn Fn(usize) -> usize| {
        // What comes around the ring to the first place, then one place after the other.
        let mut sum = (0..n).fold(0.0, |sum, i| rho * sum + g[at(i)]) / once_around;
        let mut out = vec![0.0; n];
        for i in 0..n {
            sum = rho * sum + g[at(i)];
            out[at(i)] = sum;
        }
        out
    };
    let (there, back) = (pass(&|i| i), pass(&|i| n - 1 - i));
    let gain = 1.0 / (sigma * (1.0 / rho - rho));
    (0..n).for_each(|i| g[i] = gain * (there[i] + back[i] - g[i]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_smoothed_solves_the_equation_in_every_shape() {
        for (rows, cols) in [(1, 1), (1, 2), (2, 1), (2, 2), (1, 7), (3, 5), (4, 6), (5, 3), (8, 40)] {
            for sigma in [0.1, 1.0, 30.0] {
                let g: Vec<f64> = (0..rows * cols).map(|i| ((i * i + 3 * i) % 11) as f64 - 5.0).collect();
                let mut x = g.clone();
                smooth(&mut x, cols, sigma);
                for i in 0..rows {
                    for j in 0..cols {
                        let at = |i: usize, j: usize| x[i % rows * cols + j % cols];
                        let beside = at(i + 1, j) + at(i + rows - 1, j) + at(i, j + 1) + at(i, j + cols - 1);
                        let back = at(i, j) - sigma * (beside - 4.0 * at(i, j));
                        assert!((back - g[i * cols + j]).abs() < 1e-9, "{rows} x {cols}, σ {sigma}: {back}");
                    }
                }
            }
        }
    }

    /// The published code's filter by Fourier transforms, `ifft2(fft2(g) / (1 − σ·fft2(c)))`, run in PyTorch on
    /// `g[i][j] = ((7·i + 3·j) mod 5) − 2`, 3 by 4, σ = 1.
    #[test]
    fn the_published_filter_gives_the_same() {
        let mut g: Vec<f64> = (0..12).map(|at| ((7 * (at / 4) + 3 * (at % 4)) % 5) as f64 - 2.0).collect();
        smooth(&mut g, 4, 1.0);
        let published = [
            -0.2965278, -0.0229167, -0.2409722, 0.3104167, -0.1090278, -0.4604167, -0.0534723, -0.1270833, 0.3388889,
            -0.1166667, -0.4388889, 0.2166667,
        ];
        g.iter().zip(published).for_each(|(x, y)| assert!((x - y).abs() < 1e-6, "{x} {y}"));
    }

    #[test]
    fn the_mean_stays_and_noise_shrinks() {
        let mut rough: Vec<f64> = (0..64).map(|i| 3.0 + if (i / 8 + i % 8) % 2 == 0 { 1.0 } else { -1.0 }).collect();
        smooth(&mut rough, 8, 1.0);
        // The highest frequency is divided by 1 + 8σ.
        assert!(rough.iter().all(|v| ((v - 3.0).abs() - 1.0 / 9.0).abs() < 1e-12));
    }
}
