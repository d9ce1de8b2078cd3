//! FedRot-LoRA (Zhang et al., arXiv 2602.23638): `A·B = (A·R)·(Rᵀ·B)` for every rotation R, so that clients that learnt the same
//! may hold it in other slots, and the mean of their factors is nothing. Each client therefore turns its slots among
//! themselves, towards what all began from, before it sends them; its product stays as it is.

use bonfire_models::{Adapter, Factor, Matrix};
use faer::Mat;

use crate::{Alignment, Role};

/// Turns the factors of every target; `movement` is that of `roles`, a row a slot, and stays a movement from `global`.
pub(crate) fn align(alignment: Alignment, global: &Adapter, roles: &[Role], movement: &mut [Matrix]) {
    let place = |t, factor| roles.iter().position(|role| *role == Role::Factor(t, factor));
    for t in 0..global.targets.len() {
        let (Some(a), Some(b)) = (place(t, Factor::A), place(t, Factor::B)) else { continue };
        let starts = [Factor::A, Factor::B].map(|factor| wide(&global.slot_rows(factor, t)));
        let ends = [&starts[0] + wide(&movement[a]), &starts[1] + wide(&movement[b])];
        let at = usize::from(alignment.to == Factor::B);
        let turn = rotation(&ends[at], &starts[at], alignment.strength);
        for ((to, end), start) in [a, b].into_iter().zip(&ends).zip(&starts) {
            let moved = turn.transpose() * end - start;
            let rows = (0..moved.nrows()).flat_map(|i| (0..moved.ncols()).map(move |j| (i, j)));
            movement[to].data = rows.map(|at| moved[at] as f32).collect();
        }
    }
}

fn wide(m: &Matrix) -> Mat<f64> {
    Mat::from_fn(m.rows, m.cols, |i, j| f64::from(m.data[i * m.cols + j]))
}

/// The rotation R `[R, R]` with `Rᵀ·end` nearest to `start` (orthogonal Procrustes, without reflections), of which `strength` is
/// gone: the nearest orthogonal matrix to `(1 − λ)·I + λ·R`.
fn rotation(end: &Mat<f64>, start: &Mat<f64>, strength: f64) -> Mat<f64> {
    let whole = orthogonal(&(end * start.transpose()), true);
    if strength == 1.0 {
        return whole;
    }
    let part = |i, j| strength * whole[(i, j)] + (1.0 - strength) * f64::from(u8::from(i == j));
    orthogonal(&Mat::from_fn(whole.nrows(), whole.ncols(), part), false)
}

/// `U·Vᵀ` of the SVD of `m`, the orthogonal matrix nearest to it; `proper`: the nearest rotation, with the direction that costs least
/// turned where that one would mirror.
fn orthogonal(m: &Mat<f64>, proper: bool) -> Mat<f64> {
    let svd = m.thin_svd().expect("a small finite matrix has one");
    let (mut u, v) = (svd.U().to_owned(), svd.V());
    let product = &u * v.transpose();
    if !proper || product.determinant() >= 0.0 {
        return product;
    }
    let last = u.ncols() - 1;
    (0..u.nrows()).for_each(|i| u[(i, last)] *= -1.0);
    u * v.transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(x: &Mat<f64>, y: &Mat<f64>) -> bool {
        (x - y).norm_l2() < 1e-12
    }

    /// A rotation by `angle` of the first two of three slots.
    fn plane(angle: f64) -> Mat<f64> {
        let (s, c) = angle.sin_cos();
        let rows = [[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]];
        Mat::from_fn(3, 3, |i, j| rows[i][j])
    }

    fn slots() -> Mat<f64> {
        Mat::from_fn(3, 5, |i, j| ((7 * i + 3 * j) % 5) as f64 - 1.5 + 0.25 * (i * j) as f64)
    }

    #[test]
    fn a_turn_is_found_and_taken_back_as_far_as_asked() {
        let (start, angle) = (slots(), 1.1);
        let end = plane(angle) * &start;
        assert!(near(&rotation(&end, &start, 1.0), &plane(angle)));
        assert!(near(&rotation(&end, &start, 0.0), &plane(0.0)));
        // (1 − λ)·I + λ·R in a plane is a rotation times a length: by the angle of ((1 − λ) + λ·cos, λ·sin).
        let part = (0.4 * angle.sin()).atan2(0.6 + 0.4 * angle.cos());
        assert!(near(&rotation(&end, &start, 0.4), &plane(part)));
    }

    #[test]
    fn slots_that_were_mirrored_are_turned_and_not_mirrored_back() {
        let start = slots();
        let mirrored = Mat::from_fn(3, 5, |i, j| if i == 2 { -start[(i, j)] } else { start[(i, j)] });
        let turn = rotation(&mirrored, &start, 1.0);
        assert!((turn.determinant() - 1.0).abs() < 1e-12);
        assert!(near(&(turn.transpose() * &turn), &plane(0.0)));
        let apart = |turn: &Mat<f64>| (turn.transpose() * &mirrored - &start).norm_l2();
        // No rotation of a fine grid of planes comes nearer.
        for i in 0..360 {
            assert!(apart(&turn) <= apart(&plane(f64::from(i).to_radians())) + 1e-12);
        }
    }

    /// What the published code's `rotation_align_optimization_soft` makes of the same numbers, run in PyTorch: A of the paper by rows
    /// `[3, 5]`, its B by columns `[3, 4]`. The second turn would mirror and is made proper there too.
    #[test]
    fn the_published_code_turns_alike() {
        let numbers = |r: usize, c: usize, k: usize| {
            Mat::from_fn(r, c, |i, j| ((7 * i + 3 * j + k * (i * j + 1)) % 11) as f64 / 10.0 - 0.45)
        };
        let (a0, a1, b0, b1) = (numbers(3, 5, 1), numbers(3, 5, 2), numbers(4, 3, 3), numbers(4, 3, 4));
        let (b0, b1) = (b0.transpose().to_owned(), b1.transpose().to_owned());
        type Case<'c> = (&'c Mat<f64>, &'c Mat<f64>, f64, [f64; 15], [f64; 12]);
        let cases: [Case<'_>; 3] = [
            (
                &a1,
                &a0,
                1.0,
                [
                    -0.351228, -0.107815, 0.058404, 0.041067, -0.508779, 0.333562, -0.268602, -0.004164, 0.273361,
                    -0.069638, -0.181315, 0.252446, -0.603383, 0.437135, 0.154255,
                ],
                [
                    0.165894, -0.384602, 0.041717, -0.508779, 0.402606, 0.335942, -0.002975, -0.069638, -0.421768,
                    0.163476, -0.430988, 0.154255,
                ],
            ),
            (
                &b1,
                &b0,
                1.0,
                [
                    0.500987, -0.21569, 0.099583, 0.10188, 0.184565, -0.128447, -0.090865, -0.277728, 0.408269,
                    -0.284583, 0.003657, -0.304502, 0.529575, -0.300727, -0.415269,
                ],
                [
                    0.330648, 0.444082, 0.071131, 0.184565, 0.11646, 0.030254, -0.198377, -0.284583, 0.494579,
                    -0.298958, 0.378268, -0.415269,
                ],
            ),
            (
                &a1,
                &a0,
                0.4,
                [
                    -0.23724, -0.107559, 0.439651, -0.394899, -0.367174, 0.455522, -0.298939, 0.412867, -0.172909,
                    0.036604, -0.060967, -0.215793, -0.061219, 0.285757, -0.389029,
                ],
                [
                    0.192742, -0.488469, 0.314036, -0.367174, 0.4779, 0.219598, 0.294905, 0.036604, 0.319316,
                    -0.025985, -0.043728, -0.389029,
                ],
            ),
        ];
        for (end, start, strength, want_a, want_b) in cases {
            let turn = rotation(end, start, strength);
            let (a, b) = (turn.transpose() * &a1, turn.transpose() * &b1);
            for (at, want) in want_a.iter().enumerate() {
                assert!((a[(at / 5, at % 5)] - want).abs() < 2e-6, "A {at}: {} {want}", a[(at / 5, at % 5)]);
            }
            for (at, want) in want_b.iter().enumerate() {
                assert!((b[(at / 4, at % 4)] - want).abs() < 2e-6, "B {at}: {} {want}", b[(at / 4, at % 4)]);
            }
        }
    }
}
