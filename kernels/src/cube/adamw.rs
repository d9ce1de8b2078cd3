//! The client-axis AdamW step of one tensor for all clients in one launch; formulas and words as in the composed form.

#![allow(unsafe_code)] // launches without bounds checks: the kernel checks for itself

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::product::UNITS;
use super::tensors::{elem, groups, owned, stack};
use crate::AdamW;

/// One step, returning movement and both moments; in place where nothing else holds them.
///
/// # Shapes
/// `movement`, `first`, `second`, `grad` `[C, rows, cols]`, `start` `[C|1, rows, cols]`; `clients` `[C, 3]` in f32: factor
/// on the learning rate, corrections of both moments.
pub(super) fn adamw_step(
    constants: &AdamW,
    [movement, first, second]: [CubeTensor; 3],
    start: CubeTensor,
    grad: CubeTensor,
    clients: CubeTensor,
) -> [CubeTensor; 3] {
    let shape = movement.meta.shape().clone();
    for tensor in [&first, &second, &grad] {
        assert_eq!(tensor.meta.shape(), &shape, "moments and gradient of the movement's shape");
    }
    assert!(start.meta.shape()[1..] == shape[1..], "one start an element");
    assert!([1, shape[0]].contains(&start.meta.shape()[0]), "one start a client, or one for all");
    assert_eq!(clients.meta.shape().as_slice(), [shape[0], 3], "three numbers a client");
    let [movement, first, second] = [movement, first, second].map(owned);
    if shape.num_elements() == 0 {
        return [movement, first, second];
    }
    let start = stack(start, false);
    let types = [elem(&movement), elem(&first), elem(&second), elem(&start), elem(&grad)];
    let each = (shape[1] * shape[2]).div_ceil(UNITS as usize);
    // SAFETY: the kernel reads and writes inside the shapes checked above.
    unsafe {
        adamw_kernel::launch_unchecked(
            &movement.client,
            groups(shape[0] * each),
            CubeDim::new_1d(UNITS),
            movement.clone().into_tensor_arg(),
            first.clone().into_tensor_arg(),
            second.clone().into_tensor_arg(),
            start.into_tensor_arg(),
            grad.into_tensor_arg(),
            clients.into_tensor_arg(),
            each,
            constants.lr as f32,
            constants.betas[0] as f32,
            constants.betas[1] as f32,
            constants.eps as f32,
            constants.weight_decay as f32,
            types,
        );
    }
    [movement, first, second]
}

/// One unit an element, `each` workgroups a client.
#[cube(launch_unchecked)]
fn adamw_kernel<M: Float, F: Float, S: Float, W: Float, G: Float>(
    movement: &mut Tensor<M>,
    first: &mut Tensor<F>,
    second: &mut Tensor<S>,
    start: &Tensor<W>,
    grad: &Tensor<G>,
    clients: &Tensor<f32>,
    each: usize,
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    weight_decay: f32,
    #[define(M, F, S, W, G)] _types: [ElemType; 5],
) {
    let client = CUBE_POS / each;
    let index = CUBE_POS % each * comptime!(UNITS as usize) + UNIT_POS as usize;
    let cols = movement.shape(2);
    let (row, col) = (index / cols, index % cols);
    if client < movement.shape(0) && row < movement.shape(1) {
        let own = client * clients.stride(0);
        let rate = lr * clients[own];
        let correct_first = clients[own + clients.stride(1)];
        let correct_second = clients[own + 2 * clients.stride(1)];
        let at_grad = element::<G>(grad, client, row, col);
        let at_start = element::<W>(start, client, row, col);
        let at_first = element::<F>(&*first, client, row, col);
        let at_second = element::<S>(&*second, client, row, col);
        let at = element::<M>(&*movement, client, row, col);
        let g = f32::cast_from(grad[at_grad]);
        let mean = beta1 * f32::cast_from(first[at_first]) + (1.0 - beta1) * g;
        let square = beta2 * f32::cast_from(second[at_second]) + (1.0 - beta2) * g * g;
        let moved = f32::cast_from(movement[at]);
        let root = (square * correct_second).sqrt() + eps;
        let update = mean * correct_first / root + weight_decay * (moved + f32::cast_from(start[at_start]));
        first[at_first] = F::cast_from(mean);
        second[at_second] = S::cast_from(square);
        movement[at] = M::cast_from(moved - rate * update);
    }
}

/// Where an element of a stack lies.
#[cube]
fn element<E: Float>(tensor: &Tensor<E>, client: usize, row: usize, col: usize) -> usize {
    client * tensor.stride(0) + row * tensor.stride(1) + col * tensor.stride(2)
}
