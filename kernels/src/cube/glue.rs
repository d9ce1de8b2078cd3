//! The crate's operations on CubeCL devices: products of whole matrices through `dense.rs`, everything else
//! through the kernels of this folder.

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{Shape, Slice};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::attention::{Qkv, attend};
use super::attention_backward::attend_backward;
use super::lowrank::{down, up_add};
use super::outer::outer;
use super::tiles::{RankTable, TileTable};
use super::{adamw, dense, gather, gelu, glu, norm, scores};
use crate::adamw::{AdamW, OptimizerOps};
use crate::backends::{Kernels, LinearGradients, LinearSaved, Pair, Wanted};
use crate::options::{AttentionLayout, Bend, LinearLayout};

/// One adapter's place in a linear.
struct Place<'p> {
    pair: &'p Pair<CubeBackend>,
    columns: std::ops::Range<usize>,
    ranks: Option<RankTable>,
}

fn places<'p>(pairs: &'p [Pair<CubeBackend>], layout: &LinearLayout, like: &CubeTensor) -> Vec<Place<'p>> {
    let each = pairs.iter().zip(&layout.columns).zip(&layout.used);
    each.map(|((pair, columns), used)| Place {
        pair,
        columns: columns.clone(),
        ranks: used.as_ref().map(|used| used.table().get(used.all(), &like.device)),
    })
    .collect()
}

fn tiles(layout: &LinearLayout, like: &CubeTensor) -> TileTable {
    layout.clients.tables().for_clients(&layout.clients, &like.device)
}

impl Kernels for CubeBackend {
    fn linear_forward(
        x: &FloatTensor<Self>,
        w: &FloatTensor<Self>,
        bias: FloatTensor<Self>,
        pairs: &[Pair<Self>],
        layout: &LinearLayout,
    ) -> (FloatTensor<Self>, Vec<FloatTensor<Self>>) {
        let [inputs, outputs] = w.shape().dims();
        let bias = Self::float_reshape(bias, Shape::from([1, outputs]));
        let mut y = Self::float_add(dense::product(x.clone(), w.clone(), layout.arithmetic, true), bias);
        let tiles = tiles(layout, x);
        let mut kept = Vec::new();
        for Place { pair, columns, ranks } in places(pairs, layout, x) {
            let h = down(x.clone(), 0..inputs, pair.a.clone(), true, 1.0, &tiles, ranks.as_ref());
            y = up_add(y, columns, h.clone(), pair.b.clone(), false, layout.scale, &tiles, ranks.as_ref());
            kept.push(h);
        }
        (y, kept)
    }

    fn linear_backward(
        saved: LinearSaved<Self>,
        dy: FloatTensor<Self>,
        wanted: &Wanted,
        layout: &LinearLayout,
    ) -> LinearGradients<Self> {
        let [inputs, _] = saved.w.shape().dims();
        let mut dx =
            wanted.x.then(|| dense::product(dy.clone(), Self::float_transpose(saved.w), layout.arithmetic, true));
        let tiles = tiles(layout, &dy);
        let mut pairs = Vec::new();
        let mut kept = saved.h.into_iter();
        for (Place { pair, columns, ranks }, wanted) in places(&saved.pairs, layout, &dy).into_iter().zip(&wanted.pairs)
        {
            let (ranks, h) = (ranks.as_ref(), kept.next());
            let g = (dx.is_some() || wanted[0])
                .then(|| down(dy.clone(), columns.clone(), pair.b.clone(), true, 1.0, &tiles, ranks));
            let shared = |factor: &CubeTensor| factor.shape()[0] == 1;
            let product = |left: CubeTensor, right: CubeTensor, cols, shared| {
                let rank = 0..pair.rank();
                outer(left, rank, right, cols, layout.scale, &tiles, shared, ranks)
            };
            let b = wanted[1].then(|| product(h.expect("kept for B"), dy.clone(), columns, shared(&pair.b)));
            let a = wanted[0].then(|| {
                let x = saved.x.clone().expect("kept for A");
                product(g.clone().expect("computed for A"), x, 0..inputs, shared(&pair.a))
            });
            if let (Some(d), Some(g)) = (dx.take(), g) {
                dx = Some(up_add(d, 0..inputs, g, pair.a.clone(), false, layout.scale, &tiles, ranks));
            }
            pairs.push([a, b]);
        }
        LinearGradients { x: dx, pairs }
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
        offset: f64,
        eps: f64,
    ) -> FloatTensor<Self> {
        norm::rms_backward(x, gamma, dy, offset, eps)
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
        narrowed(attend_backward(&parts, out, lse, dy, &tiles), layout)
    }
}

fn attention(qkv: &CubeTensor, layout: &AttentionLayout) -> (Qkv, TileTable) {
    let tiles = layout.sequences.tables().for_sequences(&layout.sequences, &qkv.device);
    (Qkv::fused(widened(qkv.clone(), layout), layout.heads, layout.causal), tiles)
}

/// Keys and values repeated for every query head they serve: the kernels know no groups.
fn widened(qkv: CubeTensor, layout: &AttentionLayout) -> CubeTensor {
    let group = layout.heads / layout.kv_heads;
    if group == 1 {
        return qkv;
    }
    let [tokens, columns] = qkv.shape().dims();
    let width = layout.width(columns);
    let (q, kv) = (layout.heads * width, layout.kv_heads * width);
    let part = |start: usize, count: usize| {
        CubeBackend::float_slice(qkv.clone(), &[Slice::full(), Slice::from(start..start + count)])
    };
    let repeat = |start| {
        let heads = CubeBackend::float_reshape(part(start, kv), Shape::from([tokens, layout.kv_heads, 1, width]));
        let heads = CubeBackend::float_expand(heads, Shape::from([tokens, layout.kv_heads, group, width]));
        CubeBackend::float_reshape(heads, Shape::from([tokens, q]))
    };
    CubeBackend::float_cat(vec![part(0, q), repeat(q), repeat(q + kv)], 1)
}

/// The gradient of [`widened`]: what the query heads of a group ask of their keys and values, added up.
fn narrowed(d: CubeTensor, layout: &AttentionLayout) -> CubeTensor {
    let group = layout.heads / layout.kv_heads;
    if group == 1 {
        return d;
    }
    let [tokens, columns] = d.shape().dims();
    let (q, width) = (columns / 3, columns / 3 / layout.heads);
    let part = |start: usize| CubeBackend::float_slice(d.clone(), &[Slice::full(), Slice::from(start..start + q)]);
    let sum = |start| {
        let heads = CubeBackend::float_reshape(part(start), Shape::from([tokens, layout.kv_heads, group, width]));
        CubeBackend::float_reshape(CubeBackend::float_sum_dim(heads, 2), Shape::from([tokens, layout.kv_heads * width]))
    };
    CubeBackend::float_cat(vec![part(0), sum(q), sum(2 * q)], 1)
}

impl OptimizerOps for CubeBackend {
    fn adamw(
        movement: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        start: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        clients: FloatTensor<Self>,
        constants: AdamW,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [movement, first, second] = adamw::adamw_step(&constants, [movement, first, second], start, grad, clients);
        (movement, first, second)
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
