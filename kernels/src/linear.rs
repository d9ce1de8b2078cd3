//! A frozen linear with its adapters, `y = x·W + b + s·(x·A_kᵀ)·B_k`, where `k` is the client a token belongs to. The
//! frozen product is one for all clients; the low-rank update is computed slot by slot, only for slots a client has.

mod graph;

use std::ops::Range;

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use self::graph::{Bias, Factors, LinearOps};
use crate::masks::DropMask;
use crate::options::{Arithmetic, LinearLayout};
use crate::{Segments, SlotCounts, gelu, product};

/// The factors of one target for the clients in flight. Both lie slot by slot: row `i` of A is what slot `i` reads, row
/// `i` of B what it writes.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// `[C, R, d_in]`, or `[1, R, d_in]` when all clients share it.
    pub a: Tensor<3>,
    /// `[C, R, d_out]`, or `[1, R, d_out]` when all clients share it.
    pub b: Tensor<3>,
    /// How many of the `R` slots each client has, the first ones `[C]`; `None`: all. Cost goes by them.
    pub used: Option<SlotCounts>,
    /// LoRA's scale `s = alpha / rank`.
    pub scale: f32,
}

/// A frozen linear with up to three adapters, each adding to a range of the result's columns (query, key and value
/// share an input and so one pass).
///
/// # Shapes
/// `x` `[T, d_in]`, `weight` `[d_in, N]`, `bias` `[N]` or `None` -> `[T, N]`; `clients` are the token ranges of the `C` clients.
/// Tokens after the last client's belong to nobody: they meet the frozen weight alone. `arithmetic` is that of the products
/// with the weight; what adapters add is f32, but for `x·A_kᵀ` and `dy·B_k` where x has 16 bits and the device multiplies such matrices by
/// itself (`cube/cooperative.rs`): there factors are rounded to x's type, and sums stay f32.
///
/// # Panics
/// When `weight` or `bias` is tracked, when scales differ (a model has one), or an adapter has no slots at all.
pub fn adapted_linear(
    x: Tensor<2>,
    weight: Tensor<2>,
    bias: impl Into<Option<Tensor<1>>>,
    adapters: &[(&LowRank, Range<usize>)],
    clients: &Segments,
    arithmetic: Arithmetic,
) -> Tensor<2> {
    adapted_linear_and_input(x, weight, bias, adapters, clients, arithmetic).0
}

/// [`adapted_linear`], and `x` once more for a residual connection past the linear: what the connection adds to the gradient of
/// `x` is added where that is computed, and not in a pass of its own. For that `x` itself must not be used further.
///
/// # Panics
/// As [`adapted_linear`]; and in the backward pass, where a loss depends on the second tensor and not on the first.
pub fn adapted_linear_and_input(
    x: Tensor<2>,
    weight: Tensor<2>,
    bias: impl Into<Option<Tensor<1>>>,
    adapters: &[(&LowRank, Range<usize>)],
    clients: &Segments,
    arithmetic: Arithmetic,
) -> (Tensor<2>, Tensor<2>) {
    let (factors, layout) = told(adapters, clients, arithmetic);
    let bias = Bias::new(bias.into().map(Tensor::into_dispatch));
    let (y, x) =
        <Dispatch as LinearOps>::adapted_linear(x.into_dispatch(), weight.into_dispatch(), bias, factors, layout);
    (Tensor::from_dispatch(y), Tensor::from_dispatch(x))
}

/// Numbers and GELU of them, both `[T, D]`: what a linear gives that an activation follows. Whatever reads `after` alone is right too;
/// [`adapted_linear_of_gelu`] reads both, so that on GPUs the backward pass needs no launch for GELU.
#[derive(Clone, Debug)]
pub struct Activated {
    /// The numbers.
    pub before: Tensor<2>,
    /// GELU of them, as [`gelu`] has it.
    pub after: Tensor<2>,
}

impl Activated {
    /// Numbers with GELU of them.
    pub fn gelu(before: Tensor<2>) -> Self {
        Activated { after: gelu(before.clone()), before }
    }
}

/// [`adapted_linear_and_input`], and GELU of the result: on GPUs computed where adapters are added to it. In 16 bits it is GELU of the rounded result,
/// which is what the backward pass reads.
///
/// # Panics
/// As [`adapted_linear_and_input`].
pub fn adapted_linear_gelu(
    x: Tensor<2>,
    weight: Tensor<2>,
    bias: impl Into<Option<Tensor<1>>>,
    adapters: &[(&LowRank, Range<usize>)],
    clients: &Segments,
    arithmetic: Arithmetic,
) -> (Activated, Tensor<2>) {
    let (factors, layout) = told(adapters, clients, arithmetic);
    let bias = Bias::new(bias.into().map(Tensor::into_dispatch));
    let (before, after, x) =
        <Dispatch as LinearOps>::adapted_linear_gelu(x.into_dispatch(), weight.into_dispatch(), bias, factors, layout);
    let [before, after, x] = [before, after, x].map(Tensor::from_dispatch);
    (Activated { before, after }, x)
}

/// [`adapted_linear`] of what GELU gave, whose slope is multiplied in where the input's gradient is written, on GPUs and with adapters in the same launch: that goes to
/// `input.before`, and none to `input.after`.
///
/// # Panics
/// As [`adapted_linear`]; shapes of the two that do not agree.
pub fn adapted_linear_of_gelu(
    input: Activated,
    weight: Tensor<2>,
    bias: impl Into<Option<Tensor<1>>>,
    adapters: &[(&LowRank, Range<usize>)],
    clients: &Segments,
    arithmetic: Arithmetic,
) -> Tensor<2> {
    let Activated { before, after } = input;
    assert_eq!(before.dims(), after.dims(), "GELU of every number");
    let (factors, layout) = told(adapters, clients, arithmetic);
    let bias = Bias::new(bias.into().map(Tensor::into_dispatch));
    let [before, after, weight] = [before, after, weight].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as LinearOps>::adapted_linear_of_gelu(before, after, weight, bias, factors, layout))
}

/// What backends are told of a linear's adapters.
fn told(
    adapters: &[(&LowRank, Range<usize>)],
    clients: &Segments,
    arithmetic: Arithmetic,
) -> (Factors<Dispatch>, LinearLayout) {
    let scale = adapters.first().map_or(1.0, |(f, _)| f.scale);
    assert!(adapters.iter().all(|(f, _)| f.scale == scale), "one scale a model");
    assert!(adapters.iter().all(|(f, _)| f.a.dims()[1] > 0), "an adapter has slots");
    let layout = LinearLayout {
        clients: clients.clone(),
        scale,
        columns: adapters.iter().map(|(_, columns)| columns.clone()).collect(),
        used: adapters.iter().map(|(f, _)| f.used.clone()).collect(),
        arithmetic,
    };
    let pairs = adapters.iter().map(|(f, _)| [f.a.clone().into_dispatch(), f.b.clone().into_dispatch()]);
    (Factors::new(pairs.collect()), layout)
}

/// `y` with what one adapter makes of a dropped input: `y + s·(dropout(x)·A_kᵀ)·B_k` in a range of columns, which is where PEFT has
/// `lora_dropout`. Backward computes the mask again, so that nothing is kept but `x`, which others keep too.
///
/// # Shapes
/// `y` `[T, N]`, `x` `[T, d_in]` with the rows of the mask -> `[T, N]`; see [`adapted_linear`].
pub fn dropped_update(
    y: Tensor<2>,
    x: Tensor<2>,
    adapter: (&LowRank, Range<usize>),
    clients: &Segments,
    mask: DropMask,
) -> Tensor<2> {
    let (factors, columns) = adapter;
    assert!(factors.a.dims()[1] > 0, "an adapter has slots");
    assert!(x.dims()[0] == mask.rows.len() && mask.rows.end <= mask.keys.len(), "a key for every row");
    let layout = LinearLayout {
        clients: clients.clone(),
        scale: factors.scale,
        columns: vec![columns],
        used: vec![factors.used.clone()],
        arithmetic: Arithmetic::F32,
    };
    let [a, b] = [&factors.a, &factors.b].map(|factor| factor.clone().into_dispatch());
    Tensor::from_dispatch(<Dispatch as LinearOps>::dropped_update(
        y.into_dispatch(),
        x.into_dispatch(),
        a,
        b,
        layout,
        mask,
    ))
}

/// [`adapted_linear`] in plain tensor operations, client by client: its reference, and the way to take where `weight` and
/// `bias` train, since gradients reach them.
pub fn adapted_linear_composed(
    x: Tensor<2>,
    weight: Tensor<2>,
    bias: impl Into<Option<Tensor<1>>>,
    adapters: &[(&LowRank, Range<usize>)],
    clients: &Segments,
    arithmetic: Arithmetic,
) -> Tensor<2> {
    let [tokens, _] = x.dims();
    let frozen = product(x.clone(), weight, arithmetic); // [T, N]
    let frozen = match bias.into() {
        Some(bias) => frozen + bias.unsqueeze_dim(0),
        None => frozen,
    };
    if adapters.is_empty() {
        return frozen;
    }
    let mut parts = Vec::new();
    for (c, range) in clients.ranges().enumerate().filter(|(_, r)| !r.is_empty()) {
        let [x, mut y] = [&x, &frozen].map(|t| t.clone().narrow(0, range.start, range.len())); // [t, K], [t, N]: one client's rows
        for (factors, columns) in adapters {
            let used = factors.used.as_ref().map_or(factors.a.dims()[1], |used| used.of(c));
            if used == 0 {
                continue;
            }
            let factor_of_client = |t: &Tensor<3>| {
                let client = if t.dims()[0] == 1 { 0 } else { c };
                t.clone().narrow(0, client, 1).squeeze_dim::<2>(0).narrow(0, 0, used)
            };
            let h = product(x.clone(), factor_of_client(&factors.a).transpose(), Arithmetic::F32); // [t, r]
            let update = product(h, factor_of_client(&factors.b), Arithmetic::F32) * factors.scale; // [t, n]
            let here = [0..range.len(), columns.clone()];
            let old = y.clone().slice(here.clone());
            y = y.slice_assign(here, old + update);
        }
        parts.push(y);
    }
    if clients.rows() < tokens {
        parts.push(frozen.narrow(0, clients.rows(), tokens - clients.rows()));
    }
    Tensor::cat(parts, 0) // [T, N]
}
