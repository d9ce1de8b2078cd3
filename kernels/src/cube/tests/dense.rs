//! Products of whole matrices against loops in f64: by the tuned product and by every kernel that tuning may choose, since
//! which one it takes differs from card to card.

use burn::backend::{DType, TensorMetadata};
use cubek::matmul::multi_level::Strategy;

use super::*;
use crate::Arithmetic;
use crate::cube::dense::{key, launch, product, product_kernel, result, strategies};
use crate::cube::tensors::empty;

/// A matrix or stack of them as a tensor, and its numbers row-major.
struct Side {
    tensor: CubeTensor,
    values: Vec<f32>,
    shape: Vec<usize>,
}

/// How a side lies in memory.
#[derive(Clone, Copy, Debug)]
enum Lying {
    Dense,
    /// Columns before rows.
    Transposed,
    /// Some columns of wider rows, as CUDA pads them.
    Pitched,
    /// Rows of a stack, then its matrices: `[rows, stack, cols]` seen as `[stack, rows, cols]`.
    Woven,
}

fn side(random: &mut Random, shape: &[usize], lying: Lying, device: &CubeDevice) -> Side {
    let axes = shape.len();
    let [rows, cols] = [shape[axes - 2], shape[axes - 1]];
    let stack: usize = shape[..axes - 2].iter().product();
    let values = random.numbers(stack * rows * cols);
    let at = |s: usize, r: usize, c: usize| values[(s * rows + r) * cols + c];
    let tensor = match lying {
        Lying::Dense => to_device(&values, shape, device),
        Lying::Transposed => {
            let mut swapped = shape.to_vec();
            swapped.swap(axes - 2, axes - 1);
            let mut tensor = to_device(&transposed(&values, [stack, rows, cols]), &swapped, device);
            tensor.meta.swap(axes - 2, axes - 1);
            tensor
        }
        Lying::Pitched => {
            let mut wider = shape.to_vec();
            wider[axes - 1] += 7;
            let row = |s: usize, r: usize| {
                let own = (0..cols).map(move |c| at(s, r, c));
                std::iter::repeat_n(f32::NAN, 3).chain(own).chain(std::iter::repeat_n(f32::NAN, 4))
            };
            let all: Vec<f32> = (0..stack).flat_map(|s| (0..rows).flat_map(move |r| row(s, r))).collect();
            let mut here = vec![burn::tensor::Slice::full(); axes - 1];
            here.push(burn::tensor::Slice::from(3..3 + cols));
            CubeBackend::float_slice(to_device(&all, &wider, device), &here)
        }
        Lying::Woven => {
            let all: Vec<f32> =
                (0..rows).flat_map(|r| (0..stack).flat_map(move |s| (0..cols).map(move |c| at(s, r, c)))).collect();
            let mut tensor = to_device(&all, &[rows, stack, cols], device);
            tensor.meta.swap(0, 1);
            tensor
        }
    };
    Side { tensor, values, shape: shape.to_vec() }
}

/// The product in f64, and for each entry the sum of its terms' sizes.
fn by_hand(lhs: &Side, rhs: &Side) -> (Vec<f64>, Vec<f64>) {
    let axes = lhs.shape.len();
    let [m, k, n] = [lhs.shape[axes - 2], lhs.shape[axes - 1], rhs.shape[axes - 1]];
    let stacks = [lhs, rhs].map(|side| side.shape[..axes - 2].iter().product::<usize>());
    let (mut sums, mut sizes) = (Vec::new(), Vec::new());
    for s in 0..stacks[0].max(stacks[1]) {
        let [left, right] = stacks.map(|stack| s.min(stack - 1));
        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let term = |x: usize| {
                f64::from(lhs.values[(left * m + i) * k + x]) * f64::from(rhs.values[(right * k + x) * n + j])
            };
            sums.push((0..k).map(term).sum());
            sizes.push((0..k).map(|x| term(x).abs()).sum());
        }
    }
    (sums, sizes)
}

/// One part in a million of the terms: f32 is nearer, TF32 is five hundred times as far.
fn near(what: &str, found: &[f32], (sums, sizes): &(Vec<f64>, Vec<f64>)) {
    assert_eq!(found.len(), sums.len(), "{what}");
    for (i, &f) in found.iter().enumerate() {
        let off = (f64::from(f) - sums[i]).abs();
        assert!(off <= 1e-6 * sizes[i], "{what}[{i}]: {f}, by hand {}, terms of {}", sums[i], sizes[i]);
    }
}

use Lying::{Dense, Pitched, Transposed, Woven};

/// Shapes of both sides and how they lie.
#[rustfmt::skip]
const CASES: [(&[usize], Lying, &[usize], Lying); 13] = [
    // Forward and backward of a linear, and what trains it.
    (&[37, 40], Dense, &[40, 24], Dense),
    (&[37, 24], Dense, &[24, 40], Transposed),
    (&[40, 37], Transposed, &[37, 24], Dense),
    // Rows with room between them, on either side and in a stack.
    (&[37, 40], Pitched, &[40, 24], Pitched),
    (&[3, 9, 16], Pitched, &[3, 16, 20], Pitched),
    // Heads of clients; weights that they share; one input for all of them.
    (&[5, 6, 33], Dense, &[5, 33, 7], Dense),
    (&[5, 6, 32], Dense, &[1, 32, 8], Dense),
    (&[1, 6, 32], Dense, &[5, 32, 8], Transposed),
    // Scores and what is mixed by them, in generation.
    (&[4, 3, 16], Woven, &[4, 16, 11], Transposed),
    // A single row, a single column, a single number.
    (&[1, 64], Dense, &[64, 96], Transposed),
    (&[65, 64], Pitched, &[64, 1], Dense),
    (&[1, 1], Dense, &[1, 1], Dense),
    // Large enough for kernels that load one part while multiplying another.
    (&[520, 70], Dense, &[70, 33], Dense),
];

/// Both sides of a case and their product by hand.
fn sides(i: usize, device: &CubeDevice) -> (Side, Side, (Vec<f64>, Vec<f64>), String) {
    let (left, lying_left, right, lying_right) = CASES[i];
    let mut random = Random::new(i as u64);
    let lhs = side(&mut random, left, lying_left, device);
    let rhs = side(&mut random, right, lying_right, device);
    let expected = by_hand(&lhs, &rhs);
    (lhs, rhs, expected, format!("{left:?} {lying_left:?} x {right:?} {lying_right:?}"))
}

#[test]
fn tuned_and_untuned_products_are_those_by_hand() {
    let Some(device) = device() else { return };
    let known: Vec<String> =
        strategies().iter().map(|(strategy, _)| strategy).chain([&Strategy::Naive]).map(Strategy::to_string).collect();
    // Each kind of layout and stack once: GPUs compile and tune for every shape.
    for i in [1, 3, 6, 8] {
        let (lhs, rhs, expected, what) = sides(i, &device);
        for tuned in [true, false] {
            let found = product(lhs.tensor.clone(), rhs.tensor.clone(), Arithmetic::F32, tuned);
            near(&format!("{what}, tuned: {tuned}"), &values(found), &expected);
        }
        let kernel = product_kernel(lhs.tensor, rhs.tensor, Arithmetic::F32);
        assert!(known.contains(&kernel), "{what} by {kernel}");
    }
}

#[test]
fn whatever_tuning_may_choose_is_right() {
    let Some(device) = device() else { return };
    for i in 0..CASES.len() {
        let (lhs, rhs, expected, what) = sides(i, &device);
        let shape = result(&lhs.tensor.shape(), &rhs.tensor.shape());
        let key = key(&lhs.tensor, &rhs.tensor);
        let tried = strategies().into_iter().filter(|(_, shapes)| shapes(&key)).map(|(strategy, _)| strategy);
        for strategy in tried.chain([Strategy::Naive]) {
            let out = empty(&lhs.tensor, shape.clone(), DType::F32);
            match launch(&strategy, lhs.tensor.clone(), rhs.tensor.clone(), out.clone()) {
                Ok(()) => near(&format!("{what} by {strategy}"), &values(out), &expected),
                Err(why) => println!("{what} by {strategy} is not to be had: {why}"),
            }
        }
    }
}

#[test]
fn products_of_nothing_are_zero() {
    let Some(device) = device() else { return };
    for (left, right, result) in [([0, 5], [5, 3], [0, 3]), ([4, 0], [0, 3], [4, 3]), ([4, 5], [5, 0], [4, 0])] {
        let side = |shape: [usize; 2]| to_device(&vec![1.0; shape[0] * shape[1]], &shape, &device);
        let found = product(side(left), side(right), Arithmetic::F32, true);
        assert_eq!(dims(&found), result);
        assert_eq!(values(found), vec![0.0; result[0] * result[1]], "{left:?} x {right:?}");
    }
}
