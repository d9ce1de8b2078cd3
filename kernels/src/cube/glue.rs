//! The crate's operations on CubeCL devices: products of whole matrices through `dense.rs`, everything else
//! through the kernels of this folder.

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::Shape;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::attention::{Qkv, attend};
use super::attention_backward::attend_backward;
use super::factors::Factors;
use super::lowrank::{down, up_add, up_gelu, up_through_gelu};
use super::outer::{Gradient, outer};
use super::tiles::{RankTable, TileTable};
use super::{dense, dropout, gather, gelu, glu, norm, optimizer, scores};
use crate::backends::{Finish, Kernels, LinearGradients, LinearSaved, Pair, UpdateSaved, Wanted};
use crate::flat::{FlatLayout, FlatOps, Tensors};
use crate::masks::DropMask;
use crate::optimizer::{OptimizerOps, StepRule};
use crate::options::{AttentionLayout, Bend, LinearLayout};

/// The slots that each client has of each adapter `[adapters, C]`; `None` where all have all.
fn ranks(pairs: &[Pair<CubeBackend>], layout: &LinearLayout, like: &CubeTensor) -> Option<RankTable> {
    let kept_by = layout.used.iter().flatten().next()?;
    let clients = layout.clients.len();
    let counts = pairs.iter().zip(&layout.used).flat_map(|(pair, used)| {
        let all = pair.rank();
        (0..clients).map(move |client| used.as_ref().map_or(all, |used| used.of(client)) as u32)
    });
    Some(kept_by.table().get(counts.collect(), &like.device))
}

fn tiles(layout: &LinearLayout, like: &CubeTensor) -> TileTable {
    layout.clients.tables().for_clients(&layout.clients, &like.device)
}

/// `y` `[T, N]` with the bias `[N]` added, where there is one.
fn biased(y: CubeTensor, bias: Option<CubeTensor>) -> CubeTensor {
    let Some(bias) = bias else { return y };
    let columns = bias.shape()[0];
    CubeBackend::float_add(y, CubeBackend::float_reshape(bias, Shape::from([1, columns])))
}

/// `x·Aᵀ` of all adapters `[T, ΣR]`, and what takes it up to the linear's result: their B, over these tiles.
fn reading(x: &CubeTensor, pairs: &[Pair<CubeBackend>], layout: &LinearLayout) -> (CubeTensor, Factors, TileTable) {
    let (tiles, ranks) = (tiles(layout, x), ranks(pairs, layout, x));
    let inputs = x.shape()[1];
    let reading = pairs.iter().map(|pair| (pair.a.clone(), 0..inputs));
    let writing = pairs.iter().zip(&layout.columns).map(|(pair, columns)| (pair.b.clone(), columns.clone()));
    let h = down(x.clone(), &Factors::new(reading.collect(), ranks.clone()), &tiles); // [T, ΣR]
    (h, Factors::new(writing.collect(), ranks), tiles)
}

/// What the adapters add to `dx` `[T, K]`, where that is wanted, and the gradients of their factors.
fn factors_backward(
    dx: Option<CubeTensor>,
    finish: Finish<CubeTensor>,
    dy: CubeTensor,
    x: Option<CubeTensor>,
    h: Option<CubeTensor>,
    pairs: Vec<Pair<CubeBackend>>,
    wanted: &Wanted,
    layout: &LinearLayout,
) -> LinearGradients<CubeBackend> {
    let inputs = pairs[0].a.shape()[2];
    let (tiles, ranks) = (tiles(layout, &dy), ranks(&pairs, layout, &dy));
    let trains_a = wanted.pairs.iter().any(|[a, _]| *a);
    let g = (wanted.x || trains_a).then(|| {
        let factors = pairs.iter().zip(&layout.columns).map(|(pair, columns)| (pair.b.clone(), columns.clone()));
        down(dy.clone(), &Factors::new(factors.collect(), ranks.clone()), &tiles) // [T, ΣR]
    });
    // A's gradients are sums of g and x, B's of h and dy.
    let of_a = g.clone().filter(|_| trains_a).map(|g| [g, x.expect("kept for A")]);
    let of_b = h.map(|h| [h, dy]);
    let sides: Vec<[CubeTensor; 2]> = of_a.iter().chain(&of_b).cloned().collect();
    let mut asked = Vec::new();
    let mut slot = 0;
    for (adapter, (pair, columns)) in pairs.iter().zip(&layout.columns).enumerate() {
        let slots = slot..slot + pair.rank();
        slot = slots.end;
        let shared = |factor: &CubeTensor| factor.shape()[0] == 1;
        let one = |pair, columns, shared| Gradient { pair, slots: slots.clone(), columns, shared, adapter };
        if wanted.pairs[adapter][0] {
            asked.push(one(0, 0..inputs, shared(&pair.a)));
        }
        if wanted.pairs[adapter][1] {
            asked.push(one(usize::from(of_a.is_some()), columns.clone(), shared(&pair.b)));
        }
    }
    let mut found = outer(&sides, &asked, layout.scale, &tiles, ranks.as_ref()).into_iter();
    let gradients = wanted.pairs.iter().map(|factors| factors.map(|wanted| wanted.then(|| found.next()).flatten()));
    let gradients = gradients.collect(); // A: [C|1, R, K], B: [C|1, R, n]
    let dx = dx.zip(g).map(|(dx, g)| {
        let factors = pairs.into_iter().map(|pair| (pair.a, 0..inputs)).collect();
        let factors = Factors::new(factors, ranks);
        match finish {
            Finish::AsIs => up_add(dx, g, &factors, layout.scale, None, &tiles),
            Finish::Plus(residual) => up_add(dx, g, &factors, layout.scale, Some(residual), &tiles),
            Finish::ThroughGelu(before) => up_through_gelu(dx, g, &factors, layout.scale, before, &tiles),
        } // [T, K]
    });
    LinearGradients { x: dx, pairs: gradients }
}

impl Kernels for CubeBackend {
    fn linear_forward(
        x: &FloatTensor<Self>,
        w: &FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        pairs: &[Pair<Self>],
        layout: &LinearLayout,
    ) -> (FloatTensor<Self>, Vec<FloatTensor<Self>>) {
        let y = dense::product(x.clone(), w.clone(), layout.arithmetic, true); // [T, N]
        if pairs.is_empty() {
            return (biased(y, bias), Vec::new());
        }
        let (h, factors, tiles) = reading(x, pairs, layout);
        (up_add(y, h.clone(), &factors, layout.scale, bias, &tiles), vec![h]) // [T, N]
    }

    fn linear_gelu_forward(
        x: &FloatTensor<Self>,
        w: &FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        pairs: &[Pair<Self>],
        layout: &LinearLayout,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, Vec<FloatTensor<Self>>) {
        let y = dense::product(x.clone(), w.clone(), layout.arithmetic, true); // [T, N]
        if pairs.is_empty() {
            let y = biased(y, bias);
            let bent = gelu::gelu(&y);
            return (y, bent, Vec::new());
        }
        let (h, factors, tiles) = reading(x, pairs, layout);
        let [y, bent] = up_gelu(y, h.clone(), &factors, layout.scale, bias, &tiles); // [T, N] each
        (y, bent, vec![h])
    }

    fn linear_backward(
        saved: LinearSaved<Self>,
        dy: FloatTensor<Self>,
        finish: Finish<FloatTensor<Self>>,
        wanted: &Wanted,
        layout: &LinearLayout,
    ) -> LinearGradients<Self> {
        let LinearSaved { x, w, h, pairs } = saved;
        let dx = wanted.x.then(|| dense::product(dy.clone(), Self::float_transpose(w), layout.arithmetic, true)); // [T, K]
        if pairs.is_empty() {
            let finished = |dx: CubeTensor| match finish {
                Finish::AsIs => dx,
                Finish::Plus(residual) => Self::float_add(dx, residual),
                Finish::ThroughGelu(before) => gelu::gelu_backward(&before, dx),
            };
            return LinearGradients { x: dx.map(finished), pairs: Vec::new() };
        }
        factors_backward(dx, finish, dy, x, h.into_iter().next(), pairs, wanted, layout)
    }

    fn update_forward(
        y: FloatTensor<Self>,
        x: &FloatTensor<Self>,
        pair: &Pair<Self>,
        layout: &LinearLayout,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (h, factors, tiles) = reading(x, std::slice::from_ref(pair), layout); // [T, R]
        (up_add(y, h.clone(), &factors, layout.scale, None, &tiles), h) // [T, N]
    }

    fn update_backward(
        saved: UpdateSaved<Self>,
        dy: FloatTensor<Self>,
        wanted: &Wanted,
        layout: &LinearLayout,
    ) -> LinearGradients<Self> {
        let UpdateSaved { x, h, pair } = saved;
        let shape = Shape::from([dy.shape()[0], pair.a.shape()[2]]);
        let dx = wanted.x.then(|| Self::float_zeros(shape, &dy.device, dy.dtype().into())); // [T, K]
        factors_backward(dx, Finish::AsIs, dy, x, h, vec![pair], wanted, layout)
    }

    fn drop_elements(x: FloatTensor<Self>, mask: &DropMask) -> FloatTensor<Self> {
        dropout::dropped(x, mask)
    }

    fn add_norm_rows(
        x: FloatTensor<Self>,
        r: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        norm::add_norm(x, r, gamma, beta, eps)
    }

    fn add_norm_backward(
        sum: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        norm::add_norm_backward(sum, gamma, dy, eps)
    }

    fn gelu_elements(x: &FloatTensor<Self>) -> FloatTensor<Self> {
        gelu::gelu(x)
    }

    fn gelu_elements_backward(x: &FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        gelu::gelu_backward(x, dy)
    }

    fn rms_rows(x: &FloatTensor<Self>, gamma: FloatTensor<Self>, offset: f64, eps: f64) -> FloatTensor<Self> {
        norm::rms(x, gamma, offset, eps)
    }

    fn rms_backward(
        x: &FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        residual: Option<FloatTensor<Self>>,
        offset: f64,
        eps: f64,
    ) -> FloatTensor<Self> {
        norm::rms_backward(x, gamma, dy, residual, offset, eps)
    }

    fn glu_forward(wide: &FloatTensor<Self>, bend: Bend) -> FloatTensor<Self> {
        glu::glu(wide, bend)
    }

    fn glu_backward(wide: &FloatTensor<Self>, dy: FloatTensor<Self>, bend: Bend) -> FloatTensor<Self> {
        glu::glu_backward(wide, dy, bend)
    }

    fn turn(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
        back: bool,
    ) -> FloatTensor<Self> {
        glu::turn(x, cos, sin, heads, back)
    }

    fn attention_forward(
        qkv: &FloatTensor<Self>,
        layout: &AttentionLayout,
    ) -> (FloatTensor<Self>, Vec<FloatTensor<Self>>) {
        let (parts, tiles) = attention(qkv, layout);
        let (out, lse) = attend(&parts, qkv.shape()[0], &tiles);
        (out.clone(), vec![out, lse])
    }

    fn attention_backward(
        qkv: &FloatTensor<Self>,
        mut kept: Vec<FloatTensor<Self>>,
        dy: FloatTensor<Self>,
        layout: &AttentionLayout,
    ) -> FloatTensor<Self> {
        let (parts, tiles) = attention(qkv, layout);
        let (lse, out) = (kept.pop().expect("two kept"), kept.pop().expect("two kept"));
        attend_backward(&parts, out, lse, dy, &tiles)
    }
}

fn attention(qkv: &CubeTensor, layout: &AttentionLayout) -> (Qkv, TileTable) {
    let tiles = layout.sequences.tables().for_sequences(&layout.sequences, &qkv.device);
    (Qkv::fused(qkv.clone(), layout.heads, layout.kv_heads, layout.causal), tiles)
}

impl FlatOps for CubeBackend {
    fn part(flat: FloatTensor<Self>, at: usize, dims: [usize; 2]) -> FloatTensor<Self> {
        optimizer::part(flat, at, dims)
    }
}

impl OptimizerOps for CubeBackend {
    fn step(
        movement: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        start: FloatTensor<Self>,
        grads: Tensors<Self>,
        rates: FloatTensor<Self>,
        (rule, layout): (StepRule, FlatLayout),
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        optimizer::optimizer_step(&rule, &layout, [movement, first, second], start, grads.0, rates).into()
    }

    fn square_sums(grads: Tensors<Self>, layout: FlatLayout) -> FloatTensor<Self> {
        optimizer::square_sums(grads.0, &layout)
    }

    fn clip(rates: FloatTensor<Self>, sums: FloatTensor<Self>, limit: f64) -> FloatTensor<Self> {
        optimizer::clip(rates, sums, limit)
    }

    fn slot_norms(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        scores::slot_scores(a, b)
    }

    fn gather(
        table: FloatTensor<Self>,
        stack: FloatTensor<Self>,
        lanes: FloatTensor<Self>,
        at: usize,
    ) -> FloatTensor<Self> {
        gather::gather(table, stack, lanes, at)
    }
}
