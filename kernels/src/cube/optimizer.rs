//! The client-axis step of the optimizers, of all that clients own in one launch, and what clips its gradients in two; formulas and
//! words as in the composed forms.

#![allow(unsafe_code)] // launches without bounds checks: the kernel checks for itself

use std::sync::OnceLock;

use burn::backend::DType;
use burn_cubecl::CubeDevice;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::norm::{TEAM, total};
use super::product::UNITS;
use super::tensors::{empty, groups, owned, stack, view};
use super::tiles::{kept_for, numbers};
use crate::clip::TINY;
use crate::flat::{FlatLayout, Place};
use crate::{AdamW, Sgd, StepRule};

/// Numbers that a unit steps.
const EACH: usize = 4;

/// Numbers that a workgroup steps, all of one client and one tensor.
const BLOCK: usize = UNITS as usize * EACH;

/// Tensors that a launch has besides the gradients, and one that CubeCL may add.
const OTHERS: u32 = 8;

/// Gradients that a launch has at most: a kernel chooses among them one after the other.
const MOST: u32 = 512;

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    AdamW,
    Adam,
    Sgd,
    Momentum,
    Nesterov,
}

impl Kind {
    fn of(rule: &StepRule) -> Kind {
        match rule {
            StepRule::AdamW(_) => Kind::AdamW,
            StepRule::Adam(_) => Kind::Adam,
            StepRule::Sgd(Sgd { momentum, .. }) if *momentum == 0.0 => Kind::Sgd,
            StepRule::Sgd(Sgd { nesterov, .. }) => {
                if *nesterov {
                    Kind::Nesterov
                } else {
                    Kind::Momentum
                }
            }
        }
    }
}

/// What a launch steps: the tensors of some gradients, cut into blocks.
#[derive(Clone, Debug)]
struct Part {
    /// How many tensors.
    tensors: usize,
    /// Blocks of a client.
    blocks: usize,
    /// Of each block [`FIELDS`] numbers.
    table: CubeTensor,
}

/// Numbers that say what a block is: its tensor among those of the launch, its first number in it, how many numbers the tensor
/// has, the tensor's first column, its rates, whether it is folded.
const FIELDS: usize = 6;

/// The launches of a layout, made when it is first stepped.
#[derive(Debug, Default)]
pub(crate) struct StepTables(OnceLock<(CubeDevice, Vec<Part>)>);

impl StepTables {
    fn get(&self, layout: &FlatLayout, most: usize, device: &CubeDevice) -> Vec<Part> {
        kept_for(&self.0, device, || layout.places().chunks(most).map(|places| Part::new(places, device)).collect())
    }
}

impl Part {
    fn new(places: &[Place], device: &CubeDevice) -> Part {
        let blocks = places.iter().enumerate().flat_map(|(i, place)| {
            let block = move |first| [i, first, place.len(), place.at, place.rates, usize::from(place.folded)];
            (0..place.len()).step_by(BLOCK).map(block)
        });
        let table: Vec<u32> = blocks.flatten().map(|number| number as u32).collect();
        Part { tensors: places.len(), blocks: table.len() / FIELDS, table: numbers(&table, device) }
    }
}

/// One step, returning movement and both moments, in place where nothing else holds them, and weights.
///
/// # Shapes
/// `movement`, `first`, `second` `[C, width]` (moments that the rule has none of may have any shape), `start` `[C|1, width]`, a gradient
/// `[C, rows, cols]` for each of the layout's tensors, `rates` `[K, C, 3]`: learning rate, corrections of both moments, and in `[K, C, 4]`
/// what gradients are multiplied by. All in f32.
pub(super) fn optimizer_step(
    rule: &StepRule,
    layout: &FlatLayout,
    [movement, first, second]: [CubeTensor; 3],
    start: CubeTensor,
    grads: Vec<CubeTensor>,
    rates: CubeTensor,
) -> [CubeTensor; 4] {
    let shape = movement.meta.shape().clone();
    let [clients, width] = [shape[0], shape[1]];
    assert_eq!(width, layout.width(), "buffers of the layout");
    for (tensor, kept) in [&first, &second].into_iter().zip(rule.moments()) {
        assert!(!kept || tensor.meta.shape() == &shape, "moments of the movement's shape");
    }
    let [beta1, beta2, eps, weight_decay] = match *rule {
        StepRule::AdamW(AdamW { betas, eps, weight_decay }) | StepRule::Adam(AdamW { betas, eps, weight_decay }) => {
            [betas[0], betas[1], eps, weight_decay]
        }
        StepRule::Sgd(Sgd { momentum, weight_decay, .. }) => [momentum, 0.0, 0.0, weight_decay],
    }
    .map(|number| number as f32);
    assert!([1, clients].contains(&start.meta.shape()[0]) && start.meta.shape()[1] == width, "a start for all");
    let kinds = layout.places().iter().map(|place| place.rates + 1).max().unwrap_or(0);
    let found = rates.meta.shape();
    assert!(found[0] >= kinds && found[1] == clients && [3, 4].contains(&found[2]), "three or four numbers a client");
    check(layout, &grads, clients);
    let all = [&movement, &first, &second, &start, &rates].into_iter().chain(&grads);
    assert!(all.into_iter().all(|tensor| tensor.dtype == DType::F32), "what clients own is f32");
    let [movement, first, second] = [movement, first, second].map(owned);
    let apart = !layout.all_folded();
    let weights = if apart { empty(&movement, shape, DType::F32) } else { movement.clone() };
    let scaled = rates.meta.shape()[2] > 3;
    let parts = parts(layout, &movement);
    let mut grads = grads.into_iter().map(into_contiguous);
    for Part { tensors, blocks, table } in parts {
        let grads: Vec<CubeTensor> = grads.by_ref().take(tensors).collect();
        if clients * blocks == 0 {
            continue;
        }
        let [ws, ms, vs] = [&movement, &first, &second].map(|tensor| tensor.clone().into_tensor_arg());
        // SAFETY: the kernel reads and writes inside the shapes checked above.
        unsafe {
            optimizer_kernel::launch_unchecked(
                &movement.client,
                groups(clients * blocks),
                CubeDim::new_1d(UNITS),
                ws,
                ms,
                vs,
                // A tensor that is written must not be bound twice.
                if apart { weights.clone() } else { empty(&weights, [1, 1], DType::F32) }.into_tensor_arg(),
                rows(start.clone()).into_tensor_arg(),
                grads.into_iter().map(CubeTensor::into_buffer_arg).collect(),
                stack(rates.clone(), false).into_tensor_arg(),
                table.into_buffer_arg(),
                blocks,
                beta1,
                beta2,
                eps,
                weight_decay,
                apart,
                Kind::of(rule),
                scaled,
            );
        }
    }
    [movement, first, second, weights]
}

/// See [`crate::clip`]: a sum a block of each client.
pub(super) fn square_sums(grads: Vec<CubeTensor>, layout: &FlatLayout) -> CubeTensor {
    let first = grads.first().expect("gradients to be clipped");
    let clients = first.meta.shape()[0];
    check(layout, &grads, clients);
    assert!(grads.iter().all(|grad| grad.dtype == DType::F32), "what clients own is f32");
    let parts = parts(layout, first);
    let sums = empty(first, [clients, parts.iter().map(|part| part.blocks).sum()], DType::F32);
    let mut grads = grads.into_iter().map(into_contiguous);
    let mut at = 0;
    for Part { tensors, blocks, table } in parts {
        let grads: Vec<CubeTensor> = grads.by_ref().take(tensors).collect();
        if clients * blocks > 0 {
            // SAFETY: the kernel reads and writes inside the shapes checked above.
            unsafe {
                squares_kernel::launch_unchecked(
                    &sums.client,
                    groups(clients * blocks),
                    CubeDim::new_1d(UNITS),
                    sums.clone().into_tensor_arg(),
                    grads.into_iter().map(CubeTensor::into_buffer_arg).collect(),
                    table.into_buffer_arg(),
                    blocks,
                    at,
                );
            }
        }
        at += blocks;
    }
    sums
}

/// See [`crate::clip`]: in place where nothing else holds the rates.
pub(super) fn clip(rates: CubeTensor, sums: CubeTensor, limit: f64) -> CubeTensor {
    let (shape, clients) = (rates.meta.shape(), sums.meta.shape()[0]);
    assert!(shape[1] == clients && shape[2] == 4, "four numbers a client");
    assert!(rates.dtype == DType::F32 && sums.dtype == DType::F32, "what clients own is f32");
    let rates = owned(rates);
    if clients > 0 {
        // SAFETY: the kernel reads and writes inside the shapes checked above.
        unsafe {
            clip_kernel::launch_unchecked(
                &rates.client,
                groups(clients),
                CubeDim::new_1d(UNITS),
                rates.clone().into_tensor_arg(),
                sums.into_tensor_arg(),
                limit as f32,
            );
        }
    }
    rates
}

fn check(layout: &FlatLayout, grads: &[CubeTensor], clients: usize) {
    for (place, grad) in layout.places().iter().zip(grads) {
        assert_eq!(grad.meta.shape().as_slice(), [clients, place.dims[0], place.dims[1]], "a gradient for each number");
    }
}

/// The launches over gradients that are `like`'s device takes.
fn parts(layout: &FlatLayout, like: &CubeTensor) -> Vec<Part> {
    let most = like.client.properties().hardware.max_bindings.saturating_sub(OTHERS).clamp(1, MOST);
    layout.tables().get(layout, most as usize, &like.device)
}

/// `[C|1, width]` with a single row repeated for every client, by strides alone.
fn rows(mut tensor: CubeTensor) -> CubeTensor {
    if tensor.meta.shape()[0] == 1 {
        tensor.meta.strides_mut()[0] = 0;
    }
    tensor
}

/// A tensor of every client where it lies in `flat` `[C, width]`.
pub(super) fn part(flat: CubeTensor, at: usize, [height, cols]: [usize; 2]) -> CubeTensor {
    let flat = into_contiguous(flat);
    let ([clients, width], count) = ([flat.meta.shape()[0], flat.meta.shape()[1]], height * cols);
    assert!(at + count <= width, "columns {at} to {} of {width}", at + count);
    view(flat, at, &[clients, height, cols], &[width, cols, 1])
}

/// `blocks` workgroups a client. SGD's momentum is `beta1`.
#[cube(launch_unchecked)]
fn optimizer_kernel(
    movement: &mut Tensor<f32>,
    first: &mut Tensor<f32>,
    second: &mut Tensor<f32>,
    weights: &mut Tensor<f32>,
    start: &Tensor<f32>,
    grads: &Sequence<Box<[f32]>>,
    rates: &Tensor<f32>,
    table: &[u32],
    blocks: usize,
    beta1: f32,
    beta2: f32,
    eps: f32,
    weight_decay: f32,
    #[comptime] apart: bool,
    #[comptime] kind: Kind,
    #[comptime] scaled: bool,
) {
    let client = CUBE_POS / blocks;
    if client >= movement.shape(0) {
        terminate!();
    }
    let block = CUBE_POS % blocks * FIELDS;
    let tensor = table[block] as usize;
    let from = table[block + 1] as usize + UNIT_POS as usize;
    let count = table[block + 2] as usize;
    let column = table[block + 3] as usize;
    let folded = table[block + 5] == 1;
    let own = table[block + 4] as usize * rates.stride(0) + client * rates.stride(1);
    let rate = rates[own];
    let correct_first = rates[own + rates.stride(2)];
    let correct_second = rates[own + 2 * rates.stride(2)];
    // Moments of a place without a client stay zero.
    let coupled = select(rate == 0.0, 0.0, weight_decay);
    let mut g = gradients(grads, tensor, client, from, count);
    if comptime!(scaled) {
        let scale = rates[own + 3 * rates.stride(2)];
        #[unroll]
        for e in 0..EACH {
            g[e] *= scale;
        }
    }
    #[unroll]
    for e in 0..EACH {
        let at = from + comptime!(e * UNITS as usize);
        if at < count {
            let at = column + at;
            let at_first = client * first.stride(0) + at * first.stride(1);
            let at_second = client * second.stride(0) + at * second.stride(1);
            let at_movement = client * movement.stride(0) + at * movement.stride(1);
            let began = start[client * start.stride(0) + at * start.stride(1)];
            let moved = movement[at_movement];
            let gradient = if comptime!(kind == Kind::AdamW) { g[e] } else { g[e] + coupled * (moved + began) };
            let update = if comptime!(kind == Kind::AdamW || kind == Kind::Adam) {
                let mean = beta1 * first[at_first] + (1.0 - beta1) * gradient;
                let square = beta2 * second[at_second] + (1.0 - beta2) * gradient * gradient;
                first[at_first] = mean;
                second[at_second] = square;
                let scaled = mean * correct_first / ((square * correct_second).sqrt() + eps);
                if comptime!(kind == Kind::AdamW) { scaled + weight_decay * (moved + began) } else { scaled }
            } else if comptime!(kind == Kind::Sgd) {
                gradient
            } else {
                let sum = beta1 * first[at_first] + gradient;
                first[at_first] = sum;
                if comptime!(kind == Kind::Nesterov) { gradient + beta1 * sum } else { sum }
            };
            let now = moved - rate * update;
            movement[at_movement] = now;
            if comptime!(apart) {
                let to = client * weights.stride(0) + at * weights.stride(1);
                weights[to] = select(folded, now, began + now);
            }
        }
    }
}

/// A unit's numbers of a block, zeros where the tensor has no more of them.
#[cube]
fn gradients(grads: &Sequence<Box<[f32]>>, tensor: usize, client: usize, from: usize, count: usize) -> Array<f32> {
    let mut g = Array::<f32>::new(EACH);
    #[unroll]
    for e in 0..EACH {
        g[e] = 0.0;
    }
    // Which gradient it is must be told without an index: they are tensors of their own.
    #[unroll]
    for i in 0..grads.len() {
        if tensor == i {
            #[unroll]
            for e in 0..EACH {
                let at = from + comptime!(e * UNITS as usize);
                if at < count {
                    g[e] = grads[i][client * count + at];
                }
            }
        }
    }
    g
}

/// `blocks` workgroups a client, of each a sum of squares in the columns of `sums` from `at` on.
#[cube(launch_unchecked)]
fn squares_kernel(sums: &mut Tensor<f32>, grads: &Sequence<Box<[f32]>>, table: &[u32], blocks: usize, at: usize) {
    let (client, number) = (CUBE_POS / blocks, CUBE_POS % blocks);
    if client < sums.shape(0) {
        let block = number * FIELDS;
        let from = table[block + 1] as usize + UNIT_POS as usize;
        let g = gradients(grads, table[block] as usize, client, from, table[block + 2] as usize);
        let mut sum = 0f32;
        #[unroll]
        for e in 0..EACH {
            sum += g[e] * g[e];
        }
        let mut scratch = Shared::<[f32]>::new_slice(comptime!(UNITS as usize + TEAM));
        let all = total(sum, &mut scratch);
        if UNIT_POS == 0 {
            let to = client * sums.stride(0) + (at + number) * sums.stride(1);
            sums[to] = all;
        }
    }
}

/// A workgroup a client.
#[cube(launch_unchecked)]
fn clip_kernel(rates: &mut Tensor<f32>, sums: &Tensor<f32>, limit: f32) {
    let client = CUBE_POS;
    if client < rates.shape(1) {
        let mut sum = 0f32;
        for part in range_stepped(UNIT_POS as usize, sums.shape(1), UNITS as usize) {
            sum += sums[client * sums.stride(0) + part * sums.stride(1)];
        }
        let mut scratch = Shared::<[f32]>::new_slice(comptime!(UNITS as usize + TEAM));
        let norm = total(sum, &mut scratch).sqrt();
        let factor = (limit / (norm + comptime!(TINY as f32))).min(1.0);
        for kind in range_stepped(UNIT_POS as usize, rates.shape(0), UNITS as usize) {
            let at = kind * rates.stride(0) + client * rates.stride(1) + 3 * rates.stride(2);
            rates[at] *= factor;
        }
    }
}
