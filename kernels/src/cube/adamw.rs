//! The client-axis AdamW step of one tensor for all clients in one launch; formulas and words as in the composed form.

#![allow(unsafe_code)] // launches without bounds checks: the kernels check for themselves

use burn::backend::DType;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::product::UNITS;
use super::tensors::{elem, empty, owned, stack};
use super::tiles::{RankTable, SlotAxis};
use crate::AdamW;

/// What differs between clients in one step, packed once and read for every tensor: `[4, C]`, learning rate,
/// corrections of both moments, factor on the gradient.
#[derive(Clone, Debug)]
pub(crate) struct StepTable(CubeTensor);

impl StepTable {
    /// From f32 tensors of `C` numbers each; without `clip` gradients stay as they are.
    pub(crate) fn new(
        lr: CubeTensor,
        correct_first: CubeTensor,
        correct_second: CubeTensor,
        clip: Option<CubeTensor>,
    ) -> Self {
        let clients = lr.meta.num_elements();
        let clipped = clip.is_some();
        let parts = [lr.clone(), correct_first, correct_second, clip.unwrap_or(lr)];
        for part in &parts {
            assert_eq!((part.meta.num_elements(), part.dtype), (clients, DType::F32), "one number a client");
        }
        let table = empty(&parts[0], [4, clients], DType::F32);
        let [lr, first, second, clip] = parts.map(|part| into_contiguous(part).into_buffer_arg());
        // SAFETY: every part has a number for each client, and units beyond the last write nothing.
        unsafe {
            pack_kernel::launch_unchecked(
                &table.client,
                CubeCount::Static(clients.div_ceil(UNITS as usize) as u32, 1, 1),
                CubeDim::new_1d(UNITS),
                lr,
                first,
                second,
                clip,
                table.clone().into_tensor_arg(),
                clipped,
            );
        }
        StepTable(table)
    }
}

#[cube(launch_unchecked)]
fn pack_kernel(
    lr: &[f32],
    first: &[f32],
    second: &[f32],
    clip: &[f32],
    table: &mut Tensor<f32>,
    #[comptime] clipped: bool,
) {
    let client = ABSOLUTE_POS;
    let clients = table.shape(1);
    if client < clients {
        table[client] = lr[client];
        table[clients + client] = first[client];
        table[2 * clients + client] = second[client];
        table[3 * clients + client] = if comptime!(clipped) { clip[client] } else { 1f32.runtime() };
    }
}

/// One step, returning movement and both moments; in place where nothing else holds them. With `slots`, what belongs to
/// slots a client does not have keeps every bit.
///
/// # Shapes
/// `movement`, `first`, `second`, `grad` `[C, rows, cols]`, `start` `[C|1, rows, cols]`.
pub(crate) fn adamw_step(
    constants: &AdamW,
    movement: CubeTensor,
    start: CubeTensor,
    [first, second]: [CubeTensor; 2],
    grad: CubeTensor,
    step: &StepTable,
    slots: Option<(&RankTable, SlotAxis)>,
) -> (CubeTensor, [CubeTensor; 2]) {
    let shape = movement.meta.shape().clone();
    for tensor in [&first, &second, &grad] {
        assert_eq!(tensor.meta.shape(), &shape, "moments and gradient of the movement's shape");
    }
    assert!(start.meta.shape()[1..] == shape[1..], "one start an element");
    assert!([1, shape[0]].contains(&start.meta.shape()[0]), "one start a client, or one for all");
    assert_eq!(step.0.meta.shape()[1], shape[0], "one column of the step table a client");
    let [movement, first, second] = [movement, first, second].map(owned);
    if shape.num_elements() == 0 {
        return (movement, [first, second]);
    }
    let start = stack(start, false);
    let types = [elem(&movement), elem(&first), elem(&second), elem(&start), elem(&grad)];
    // Without limits any buffer does: it is not read.
    let (ranks, axis) = match slots {
        Some((ranks, axis)) => (ranks.0.clone(), Some(axis)),
        None => (step.0.clone(), None),
    };
    // SAFETY: the kernel reads and writes inside the shapes checked above.
    unsafe {
        adamw_kernel::launch_unchecked(
            &movement.client,
            CubeCount::Static((shape[1] * shape[2]).div_ceil(UNITS as usize) as u32, shape[0] as u32, 1),
            CubeDim::new_1d(UNITS),
            movement.clone().into_tensor_arg(),
            first.clone().into_tensor_arg(),
            second.clone().into_tensor_arg(),
            start.into_tensor_arg(),
            grad.into_tensor_arg(),
            step.0.clone().into_tensor_arg(),
            ranks.into_buffer_arg(),
            constants.betas[0] as f32,
            constants.betas[1] as f32,
            constants.eps as f32,
            constants.weight_decay as f32,
            axis,
            types,
        );
    }
    (movement, [first, second])
}

/// One unit an element, one row of workgroups a client.
#[cube(launch_unchecked)]
fn adamw_kernel<M: Float, F: Float, S: Float, W: Float, G: Float>(
    movement: &mut Tensor<M>,
    first: &mut Tensor<F>,
    second: &mut Tensor<S>,
    start: &Tensor<W>,
    grad: &Tensor<G>,
    step: &Tensor<f32>,
    ranks: &[u32],
    beta1: f32,
    beta2: f32,
    eps: f32,
    weight_decay: f32,
    #[comptime] axis: Option<SlotAxis>,
    #[define(M, F, S, W, G)] _types: [ElemType; 5],
) {
    let client = CUBE_POS_Y as usize;
    let index = CUBE_POS_X as usize * comptime!(UNITS as usize) + UNIT_POS as usize;
    let cols = movement.shape(2);
    let (row, col) = (index / cols, index % cols);
    let mut ours = row < movement.shape(1);
    if comptime!(axis == Some(SlotAxis::Rows)) {
        ours = ours && row < ranks[client] as usize;
    }
    if comptime!(axis == Some(SlotAxis::Cols)) {
        ours = ours && col < ranks[client] as usize;
    }
    if ours {
        let clients = step.shape(1);
        let at_grad = element::<G>(grad, client, row, col);
        let at_start = element::<W>(start, client, row, col);
        let at_first = element::<F>(&*first, client, row, col);
        let at_second = element::<S>(&*second, client, row, col);
        let at = element::<M>(&*movement, client, row, col);
        let g = step[3 * clients + client] * f32::cast_from(grad[at_grad]);
        let mean = beta1 * f32::cast_from(first[at_first]) + (1.0 - beta1) * g;
        let square = beta2 * f32::cast_from(second[at_second]) + (1.0 - beta2) * g * g;
        let moved = f32::cast_from(movement[at]);
        let root = (square * step[2 * clients + client]).sqrt() + eps;
        let update = mean * step[clients + client] / root;
        let decay = weight_decay * (moved + f32::cast_from(start[at_start]));
        first[at_first] = F::cast_from(mean);
        second[at_second] = S::cast_from(square);
        movement[at] = M::cast_from(moved - step[client] * (update + decay));
    }
}

/// Where an element of a stack lies.
#[cube]
fn element<E: Float>(tensor: &Tensor<E>, client: usize, row: usize, col: usize) -> usize {
    client * tensor.stride(0) + row * tensor.stride(1) + col * tensor.stride(2)
}
