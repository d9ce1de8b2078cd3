//! Everything against dense f64 matrices, on random factors and on those that break naive code.
#![allow(clippy::unwrap_used)]

use bonfire_models::Matrix;
use faer::Mat;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

type Pair = (Matrix, Matrix, f64);

fn random(rows: usize, cols: usize, rng: &mut ChaCha8Rng) -> Matrix {
    Matrix::new(rows, cols, (0..rows * cols).map(|_| rng.random_range(-1.0f32..1.0)).collect())
}

/// Three weighted pairs of unequal ranks; `kind` spoils them.
fn pairs(d_in: usize, d_out: usize, kind: usize, seed: u64) -> Vec<Pair> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut pairs: Vec<Pair> = [(3, 0.2), (1, 0.5), (4, -0.3)]
        .map(|(n, w)| (random(d_in, n, &mut rng), random(n, d_out, &mut rng), w))
        .to_vec();
    match kind {
        0 => {}
        // The same columns again, and a pair that takes itself back.
        1 => {
            pairs.push(pairs[0].clone());
            let (a, b, w) = pairs[2].clone();
            pairs.push((a, b, -w));
        }
        2 => pairs.iter_mut().for_each(|(a, b, _)| {
            (0..d_in).for_each(|i| a.data[i * a.cols] = 0.0);
            b.data[..d_out].fill(0.0);
        }),
        3 => pairs.iter_mut().enumerate().for_each(|(k, (a, _, _))| {
            let cols = a.cols;
            a.data.iter_mut().enumerate().for_each(|(i, x)| *x *= 1e-4f32.powi(((i % cols + k) % 4) as i32));
        }),
        _ => pairs.iter_mut().for_each(|(a, _, _)| a.data.fill(0.0)),
    }
    pairs
}

fn stack(d_in: usize, d_out: usize, pairs: &[Pair]) -> Stack {
    let mut stack = Stack::new(d_in, d_out);
    pairs.iter().for_each(|(a, b, w)| stack.push(a, b, *w));
    stack
}

fn mat(m: &Matrix) -> Mat<f64> {
    Mat::from_fn(m.rows, m.cols, |i, j| f64::from(m.data[i * m.cols + j]))
}

fn dense(d_in: usize, d_out: usize, pairs: &[Pair]) -> Mat<f64> {
    pairs.iter().fold(Mat::zeros(d_in, d_out), |sum, (a, b, w)| sum + faer::Scale(*w) * (mat(a) * mat(b)))
}

fn product((a, b): &(Matrix, Matrix)) -> Mat<f64> {
    mat(a) * mat(b)
}

#[track_caller]
fn close(x: &Mat<f64>, y: &Mat<f64>, tolerance: f64) {
    let far = (x - y).norm_l2();
    assert!(far <= tolerance, "{far} apart, {tolerance} allowed");
}

/// Every kind of input at shapes with fewer and with more columns (8 and up) than rows.
fn everywhere(check: impl Fn(Stack, Mat<f64>, usize)) {
    for (d_in, d_out) in [(20, 13), (5, 17), (9, 4), (3, 3), (1, 6)] {
        for kind in 0..5 {
            for seed in 0..3 {
                let pairs = pairs(d_in, d_out, kind, seed);
                check(stack(d_in, d_out, &pairs), dense(d_in, d_out, &pairs), kind);
            }
        }
    }
}

#[test]
fn singular_values_are_those_of_the_dense_sum() {
    everywhere(|stack, dense, _| {
        let svd = stack.svd().unwrap();
        let reference = dense.thin_svd().unwrap();
        let reference = reference.S().column_vector();
        for (i, s) in svd.s.iter().enumerate() {
            assert!((s - reference[i]).abs() <= 1e-14 * (1.0 + reference[0]), "{s} and {}", reference[i]);
        }
        assert!(svd.s.is_sorted_by(|x, y| x >= y));
    });
}

#[test]
fn the_decomposition_is_orthonormal_and_gives_the_sum_back() {
    everywhere(|stack, dense, _| {
        let svd = stack.svd().unwrap();
        let p = svd.s.len();
        let u = Mat::from_fn(dense.nrows(), p, |i, j| svd.u[i * p + j]);
        let v = Mat::from_fn(p, dense.ncols(), |i, j| svd.v[i * dense.ncols() + j]);
        close(&(u.transpose() * &u), &Mat::identity(p, p), 1e-13);
        close(&(&v * v.transpose()), &Mat::identity(p, p), 1e-13);
        let s = Mat::from_fn(p, p, |i, j| if i == j { svd.s[i] } else { 0.0 });
        close(&(u * s * v), &dense, 1e-14 * (1.0 + dense.norm_l2()) * 10.0);
    });
}

#[test]
fn what_rounding_made_is_exactly_zero() {
    let (d_in, d_out) = (20, 13);
    let ranks = [(0, 8), (1, 4), (2, 5), (3, 8), (4, 0)];
    for (kind, rank) in ranks {
        assert_eq!(stack(d_in, d_out, &pairs(d_in, d_out, kind, 1)).svd().unwrap().rank(), rank, "kind {kind}");
    }
    assert_eq!(Stack::new(4, 5).svd().unwrap().rank(), 0, "an empty sum is zero");
}

#[test]
fn singular_values_twelve_decades_apart_all_survive() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let a = Mat::from_fn(40, 7, |_, _| rng.random_range(-1.0..1.0)).qr().compute_thin_Q();
    let b = Mat::from_fn(30, 7, |_, _| rng.random_range(-1.0..1.0)).qr().compute_thin_Q();
    let mut stack = Stack::new(40, 30);
    for k in 0..7 {
        let column = Matrix::new(40, 1, (0..40).map(|i| a[(i, k)] as f32).collect());
        let row = Matrix::new(1, 30, (0..30).map(|i| b[(i, k)] as f32).collect());
        stack.push(&column, &row, 100f64.powi(-(k as i32)));
    }
    let svd = stack.svd().unwrap();
    for (k, s) in svd.s.iter().enumerate() {
        let expected = 100f64.powi(-(k as i32));
        // Absolute accuracy goes by the largest value, as for every dense decomposition.
        assert!((s - expected).abs() <= 1e-6 * expected + 1e-14, "{s} for {expected}");
    }
    assert_eq!(svd.rank(), 7);
}

#[test]
fn truncation_is_the_best_of_its_rank_however_s_is_split() {
    everywhere(|stack, dense, _| {
        let svd = stack.svd().unwrap();
        for rank in [0, 1, 2, 30] {
            let best = svd.s.iter().skip(rank).map(|s| s * s).sum::<f64>().sqrt();
            for factors in [svd.split(rank), svd.right_weighted(rank), svd.left_weighted(rank)] {
                assert_eq!((factors.0.cols, factors.1.rows), (rank, rank));
                let far = (product(&factors) - &dense).norm_l2();
                assert!((far - best).abs() <= 1e-6 * (1e-9 + dense.norm_l2()), "{far} and {best}");
            }
        }
    });
}

#[test]
fn s_goes_where_it_is_said_to_go() {
    let svd = stack(20, 13, &pairs(20, 13, 0, 3)).svd().unwrap();
    let gram = |m: Mat<f64>| m.transpose() * &m;
    let diagonal = |power: f64| Mat::from_fn(5, 5, |i, j| if i == j { svd.s[i].powf(power) } else { 0.0 });
    let (a, b) = svd.split(5);
    close(&gram(mat(&a)), &diagonal(1.0), 1e-5);
    close(&gram(mat(&b.transposed())), &diagonal(1.0), 1e-5);
    let (a, b) = svd.right_weighted(5);
    close(&gram(mat(&a)), &diagonal(0.0), 1e-5);
    close(&gram(mat(&b.transposed())), &diagonal(2.0), 1e-4);
    let (a, b) = svd.left_weighted(5);
    close(&gram(mat(&a)), &diagonal(2.0), 1e-4);
    close(&gram(mat(&b.transposed())), &diagonal(0.0), 1e-5);
}

#[test]
fn a_slot_without_value_is_zero_or_a_direction_of_its_own() {
    let zero = stack(20, 13, &pairs(20, 13, 4, 0)).svd().unwrap();
    let (a, b) = zero.split(3);
    assert!(a.data.iter().chain(&b.data).all(|&x| x == 0.0));
    let (a, b) = zero.right_weighted(3);
    close(&(mat(&a).transpose() * mat(&a)), &Mat::identity(3, 3), 1e-6);
    assert!(b.data.iter().all(|&x| x == 0.0));
}

#[test]
fn signs_are_fixed_and_a_second_call_gives_the_same_bits() {
    everywhere(|stack, _, _| {
        let first = stack.svd().unwrap();
        // Something of odd size between the two, so that their memory is not at the same place.
        let between = vec![1u8; 1237];
        let second = stack.clone().svd().unwrap();
        assert_eq!((&first, between.len()), (&second, 1237));
        let p = first.s.len();
        for j in 0..p {
            let column: Vec<f64> = first.u.iter().skip(j).step_by(p).copied().collect();
            let largest = column.iter().copied().fold(0.0f64, |m, x| if x.abs() > m.abs() { x } else { m });
            assert!(largest > 0.0);
        }
    });
}

#[test]
fn energy_picks_the_fewest_values() {
    let mut stack = Stack::new(4, 4);
    for (k, s) in [3.0, 2.0, 1.0].into_iter().enumerate() {
        let unit = |at: usize| (0..4).map(|i| f32::from(u8::from(i == at))).collect();
        stack.push(&Matrix::new(4, 1, unit(k)), &Matrix::new(1, 4, unit(3 - k)), s);
    }
    // Energies 9, 4, 1 of 14.
    let svd = stack.svd().unwrap();
    let ranks = [0.0, 0.6, 0.7, 0.92, 0.95, 1.0].map(|tau| svd.rank_for_energy(tau));
    assert_eq!(ranks, [1, 1, 2, 2, 3, 3]);
    assert_eq!(Stack::new(4, 4).svd().unwrap().rank_for_energy(0.9), 0);
}

#[test]
fn norms_are_those_of_the_dense_sum_and_of_the_trace() {
    everywhere(|stack, dense, _| {
        assert!((stack.frobenius().unwrap() - dense.norm_l2()).abs() <= 1e-14 * (1.0 + dense.norm_l2()));
    });
    let (a, b, _) = &pairs(20, 13, 0, 5)[2];
    let (ga, gb) = (mat(a).transpose() * mat(a), mat(b) * mat(b).transpose());
    let trace: f64 = (ga * gb).diagonal().column_vector().iter().sum();
    assert!((frobenius(a, b).unwrap() - trace.sqrt()).abs() < 1e-12);
}

#[test]
fn ridge_solves_the_normal_equations() {
    everywhere(|stack, dense, _| {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let (a, b) = (random(dense.nrows(), 4, &mut rng), random(4, dense.ncols(), &mut rng));
        for lambda in [1e-2, 1.0, 100.0] {
            let delta = stack.ridge(&a, &b, lambda).unwrap();
            let gram = mat(&a).transpose() * mat(&a) + faer::Scale(lambda) * Mat::<f64>::identity(4, 4);
            let right = mat(&a).transpose() * (&dense - mat(&a) * mat(&b));
            close(&(gram * mat(&delta)), &right, 1e-5);
        }
    });
}

#[test]
fn ridge_without_lambda_stands_equal_columns() {
    let pairs = pairs(20, 13, 0, 2);
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let mut a = random(20, 4, &mut rng);
    (0..20).for_each(|i| a.data[i * 4 + 3] = a.data[i * 4]);
    let b = Matrix::zeros(4, 13);
    let delta = stack(20, 13, &pairs).ridge(&a, &b, 0.0).unwrap();
    // What is left is orthogonal to A, and equal columns share their part.
    let left = dense(20, 13, &pairs) - mat(&a) * mat(&delta);
    close(&(mat(&a).transpose() * left), &Mat::zeros(4, 13), 1e-5);
    close(&mat(&delta.rows(&[0])), &mat(&delta.rows(&[3])), 1e-6);
}

#[test]
fn compression_loses_no_more_than_f32_does() {
    everywhere(|stack, dense, _| {
        let cap = dense.nrows().min(dense.ncols());
        let (a, b) = stack.compressed(cap).unwrap();
        assert!(a.cols <= cap && a.cols == b.rows);
        close(&(mat(&a) * mat(&b)), &dense, 5e-7 * dense.norm_l2() + 1e-9);
    });
    let (a, _) = stack(20, 13, &pairs(20, 13, 1, 0)).compressed(13).unwrap();
    assert_eq!(a.cols, 4, "sixteen slots of rank four");
}

#[test]
fn slots_can_be_pushed_apart() {
    let (a, b, w) = pairs(20, 13, 0, 4)[2].clone();
    let mut parts = Stack::new(20, 13);
    parts.push_slots(&a, &b, 0..1, w);
    parts.push_slots(&a, &b, 1..4, w);
    assert_eq!(parts, stack(20, 13, &[(a.clone(), b.clone(), w)]));
    let (fa, fb) = parts.factors();
    assert_eq!(fb, b);
    close(&mat(&fa), &(faer::Scale(w) * mat(&a)), 1e-6);
}

#[test]
fn numbers_that_are_not_finite_are_an_error() {
    let mut pairs = pairs(5, 6, 0, 0);
    pairs[0].0.data[3] = f32::NAN;
    let stack = stack(5, 6, &pairs);
    assert_eq!(stack.svd(), Err(AlgebraError::NotFinite));
    assert_eq!(stack.frobenius(), Err(AlgebraError::NotFinite));
    assert_eq!(stack.ridge(&Matrix::zeros(5, 2), &Matrix::zeros(2, 6), 1.0), Err(AlgebraError::NotFinite));
}
