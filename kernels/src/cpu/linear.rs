//! The adapted linear on the CPU. The frozen product goes through the same matrix multiplication as the backend's own,
//! but adds to its result (bias before, low-rank update after), so that no pass over `[T, N]` is made for an addition.
#![allow(unsafe_code)]

use std::ops::Range;

use burn::backend::TensorMetadata;
use burn::tensor::Shape;
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::gelu;
use super::micro::{Accumulate, Dots, run};
use super::{dense, filled, in_tf32, split, tensor, values};
use crate::SlotCounts;
use crate::backends::{Finish, LinearGradients, LinearSaved, Pair, UpdateSaved, Wanted};
use crate::options::{Arithmetic, LinearLayout};

/// Rows a thread takes at a time; with the widest results that is a few MiB.
const ROWS_A_TASK: usize = 256;
/// Multiplications below which threads cost more than they bring (the backend's own threshold).
const SERIAL: usize = 192 * 192 * 192;

/// A matrix where it lies.
struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    fn new(data: &'a [f32], cols: usize) -> Self {
        Matrix { data, rows: data.len() / cols.max(1), cols, strides: [cols, 1] }
    }

    fn transposed(self) -> Self {
        Matrix { rows: self.cols, cols: self.rows, strides: [self.strides[1], self.strides[0]], ..self }
    }
}

/// `out (+)= x·w`, `out` row-major.
fn product(out: &mut [f32], x: &Matrix, w: &Matrix, add: bool) {
    let (m, k, n) = (x.rows, x.cols, w.cols);
    assert!(k == w.rows && out.len() == m * n, "shapes of a product");
    assert!(x.data.len() == m * k && w.data.len() == k * n, "whole matrices");
    let threads = if m * k * n < SERIAL { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(0) };
    let [x_row, x_col] = x.strides.map(|s| s as isize);
    let [w_row, w_col] = w.strides.map(|s| s as isize);
    // SAFETY: the strides are those of dense matrices of the sizes asserted above; `out` is not aliased. Where `add` is
    // false the result is not read.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            add,
            x.data.as_ptr(),
            x_col,
            x_row,
            w.data.as_ptr(),
            w_col,
            w_row,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            threads,
        );
    }
}

/// Both sides of the product with the frozen weight, as they are multiplied.
fn operands(x: &FlexTensor, w: &FlexTensor, arithmetic: Arithmetic) -> [FlexTensor; 2] {
    let sides = [x.clone(), w.clone()];
    if arithmetic == Arithmetic::Tf32 { sides.map(in_tf32) } else { sides }
}

/// A run of rows of one client; `None`: they belong to nobody.
struct Block {
    client: Option<usize>,
    rows: Range<usize>,
}

/// Cuts the rows at clients' boundaries and into tasks.
fn blocks(layout: &LinearLayout, tokens: usize) -> Vec<Block> {
    let cut = |client: Option<usize>, range: Range<usize>| {
        let starts = range.clone().step_by(ROWS_A_TASK);
        starts.map(move |start| Block { client, rows: start..(start + ROWS_A_TASK).min(range.end) })
    };
    let clients = layout.clients.ranges().enumerate().flat_map(|(c, range)| cut(Some(c), range));
    clients.chain(cut(None, layout.clients.rows()..tokens)).collect()
}

/// One factor's numbers where they lie: `[C|1, R, width]`, of each client row by row.
struct Stack<'a> {
    data: &'a [f32],
    /// Numbers of a client.
    size: usize,
    /// From one client's numbers to the next one's.
    step: usize,
    shared: bool,
}

impl<'a> Stack<'a> {
    fn new(t: &'a FlexTensor) -> Self {
        let [count, rank, width] = t.shape().dims();
        let (layout, data) = (t.layout(), t.storage::<f32>());
        let data = &data[layout.start_offset().min(data.len())..];
        Stack { data, size: rank * width, step: layout.strides()[0] as usize, shared: count == 1 }
    }

    fn of(&self, client: usize) -> &'a [f32] {
        let at = if self.shared { 0 } else { client };
        &self.data[at * self.step..][..self.size]
    }
}

/// One adapter as the kernels read it.
struct Adapter<'a> {
    a: Stack<'a>,
    b: Stack<'a>,
    rank: usize,
    /// Where its slots begin in `h`.
    offset: usize,
    columns: Range<usize>,
    used: Option<&'a SlotCounts>,
}

impl Adapter<'_> {
    fn slots(&self, client: usize) -> usize {
        self.used.map_or(self.rank, |used| used.of(client))
    }
}

fn adapters<'a>(pairs: &'a [Pair<Flex>], layout: &'a LinearLayout) -> Vec<Adapter<'a>> {
    let mut offset = 0;
    let each = pairs.iter().zip(&layout.columns).zip(&layout.used).map(|((pair, columns), used)| {
        let rank = pair.rank();
        offset += rank;
        Adapter {
            a: Stack::new(&pair.a),
            b: Stack::new(&pair.b),
            rank,
            offset: offset - rank,
            columns: columns.clone(),
            used: used.as_ref(),
        }
    });
    each.collect()
}

/// The pairs with each client's numbers row by row: what lies like that among others, as what trains does, is read there.
fn by_client(pairs: &[Pair<Flex>]) -> Vec<Pair<Flex>> {
    let by_client = |t: &FlexTensor| {
        let (strides, width) = (t.layout().strides(), t.shape()[2]);
        let dense_rows = strides[2] == 1 && strides[1] == width as isize && strides[0] >= 0;
        if dense_rows { t.clone() } else { dense(t.clone()) }
    };
    pairs.iter().map(|p| Pair { a: by_client(&p.a), b: by_client(&p.b) }).collect()
}

/// See [`crate::backends::Kernels::linear_forward`].
pub(super) fn forward(
    x: &FlexTensor,
    w: &FlexTensor,
    bias: Option<FlexTensor>,
    pairs: &[Pair<Flex>],
    layout: &LinearLayout,
) -> (FlexTensor, Vec<FlexTensor>) {
    let (x, w, bias, pairs) = (dense(x.clone()), dense(w.clone()), bias.map(dense), by_client(pairs));
    let [tokens, width] = x.shape().dims();
    let n = w.shape()[1];
    let xs = values(&x);
    let [left, right] = operands(&x, &w, layout.arithmetic);
    let frozen = |y: &mut [f32]| {
        if let Some(bias) = &bias {
            let bias = values(bias);
            y.par_chunks_mut(ROWS_A_TASK * n.max(1))
                .for_each(|rows| rows.chunks_mut(n).for_each(|row| row.copy_from_slice(bias)));
        }
        product(y, &Matrix::new(values(&left), width), &Matrix::new(values(&right), n), bias.is_some());
    };
    // SAFETY: every row is written whole before it is read: by the bias, whose copy panics where it is not as long, or by a
    // product that adds nothing to what is there.
    #[allow(unsafe_code)]
    let (mut y, ()) = unsafe { filled(tokens * n, frozen) }; // [T, N]
    let adapters = adapters(&pairs, layout);
    let h = (!adapters.is_empty()).then(|| add_updates(&mut y, n, xs, width, &adapters, layout));
    (tensor(y, Shape::from([tokens, n])), h.into_iter().collect())
}

/// See [`crate::backends::Kernels::update_forward`]; in place where `y` is nobody else's.
pub(super) fn update(
    y: FlexTensor,
    x: &FlexTensor,
    pair: &Pair<Flex>,
    layout: &LinearLayout,
) -> (FlexTensor, FlexTensor) {
    let (mut y, x, pairs) = (dense(y), dense(x.clone()), by_client(std::slice::from_ref(pair)));
    let ([tokens, n], [_, width]) = (y.shape().dims(), x.shape().dims());
    let out = &mut y.storage_mut::<f32>()[..tokens * n];
    let h = add_updates(out, n, values(&x), width, &adapters(&pairs, layout), layout);
    (y, h)
}

/// Adds the adapters' updates to the rows of `y`, `n` wide, and gives `x·Aᵀ` of all of them `[T, ΣR]`.
fn add_updates(
    y: &mut [f32],
    n: usize,
    xs: &[f32],
    width: usize,
    adapters: &[Adapter],
    layout: &LinearLayout,
) -> FlexTensor {
    let tokens = y.len() / n.max(1);
    let total: usize = adapters.iter().map(|a| a.rank).sum();
    let mut h = vec![0f32; tokens * total]; // [T, ΣR]
    let blocks = blocks(layout, tokens);
    let lengths = || blocks.iter().map(|b| b.rows.len());
    let outputs = split(y, lengths(), n).into_iter().zip(split(&mut h, lengths(), total));
    let tasks: Vec<_> = outputs.zip(&blocks).collect();
    tasks.into_par_iter().for_each(|((y, h), block)| {
        let Some(client) = block.client else { return };
        let x = Rows { data: &xs[block.rows.start * width..], stride: width, width, count: block.rows.len() };
        for adapter in adapters {
            let slots = adapter.slots(client);
            read(&mut h[adapter.offset..], total, &x, adapter.a.of(client), slots);
            let h = Rows { data: &h[adapter.offset..], stride: total, width: slots, count: x.count };
            let y = &mut y[adapter.columns.start..];
            write(y, n, &h, adapter.b.of(client), adapter.columns.len(), layout.scale);
        }
    });
    tensor(h, Shape::from([tokens, total]))
}

/// Some rows of a matrix.
struct Rows<'a> {
    data: &'a [f32],
    stride: usize,
    width: usize,
    count: usize,
}

/// `h = x·factorᵀ`, the first `slots` rows of the factor.
fn read(h: &mut [f32], h_stride: usize, x: &Rows, factor: &[f32], slots: usize) {
    run(Dots {
        out: h,
        out_stride: h_stride,
        x: x.data,
        x_stride: x.stride,
        m: factor,
        m_stride: x.width,
        rows: x.count,
        slots,
        width: x.width,
        scale: 1.0,
    });
}

/// `out += scale · h·factor`, `width` columns.
fn write(out: &mut [f32], out_stride: usize, h: &Rows, factor: &[f32], width: usize, scale: f32) {
    run(Accumulate {
        out,
        out_stride,
        coef: h.data,
        coef_strides: [h.stride, 1],
        m: factor,
        m_stride: width,
        rows: h.count,
        depth: h.width,
        width,
        scale,
        fresh: false,
    });
}

/// See [`crate::backends::Kernels::linear_backward`].
pub(super) fn backward(
    saved: LinearSaved<Flex>,
    dy: FlexTensor,
    finish: Finish<FlexTensor>,
    wanted: &Wanted,
    layout: &LinearLayout,
) -> LinearGradients<Flex> {
    let (dy, w) = (dense(dy), dense(saved.w));
    let (residual, before) = match finish {
        Finish::AsIs => (None, None),
        Finish::Plus(residual) => (Some(residual), None),
        Finish::ThroughGelu(before) => (None, Some(before)),
    };
    let [tokens, n] = dy.shape().dims();
    let width = w.shape()[0];
    let dx = wanted.x.then(|| {
        let [left, right] = operands(&dy, &w, layout.arithmetic);
        let (left, right) = (Matrix::new(values(&left), n), Matrix::new(values(&right), n).transposed());
        if let Some(residual) = residual {
            // In place: nobody else has a gradient that is on its way.
            let mut dx = dense(residual);
            product(&mut dx.storage_mut::<f32>()[..tokens * width], &left, &right, true);
            return dx; // [T, K]
        }
        // SAFETY: a product that adds nothing to what is there writes every element.
        #[allow(unsafe_code)]
        let (dx, ()) = unsafe { filled(tokens * width, |dx| product(dx, &left, &right, false)) };
        tensor(dx, Shape::from([tokens, width])) // [T, K]
    });
    let found = factors_backward(dx, dy, saved.x, saved.h.into_iter().next(), &saved.pairs, wanted, layout);
    match before {
        Some(before) => LinearGradients { x: found.x.map(|dx| gelu::backward(&before, dx)), ..found },
        None => found,
    }
}

/// See [`crate::backends::Kernels::update_backward`].
pub(super) fn update_backward(
    saved: UpdateSaved<Flex>,
    dy: FlexTensor,
    wanted: &Wanted,
    layout: &LinearLayout,
) -> LinearGradients<Flex> {
    let dy = dense(dy);
    let [tokens, _] = dy.shape().dims();
    let width = saved.pair.a.shape()[2];
    let dx = wanted.x.then(|| tensor(vec![0f32; tokens * width], Shape::from([tokens, width])));
    factors_backward(dx, dy, saved.x, saved.h, &[saved.pair], wanted, layout)
}

/// What the adapters add to `dx` `[T, K]`, where that is wanted, and the gradients of their factors; `dy` is dense.
fn factors_backward(
    mut dx: Option<FlexTensor>,
    dy: FlexTensor,
    x: Option<FlexTensor>,
    h: Option<FlexTensor>,
    pairs: &[Pair<Flex>],
    wanted: &Wanted,
    layout: &LinearLayout,
) -> LinearGradients<Flex> {
    let pairs = by_client(pairs);
    let [tokens, n] = dy.shape().dims();
    let width = pairs.first().map_or(0, |pair| pair.a.shape()[2]);
    let dys = values(&dy);
    let adapters = adapters(&pairs, layout);
    let total: usize = adapters.iter().map(|a| a.rank).sum();
    let g = (total > 0 && (wanted.x || wanted.pairs.iter().any(|[a, _]| *a))).then(|| {
        let mut g = vec![0f32; tokens * total]; // [T, ΣR]
        slots_backward(
            &mut g,
            dx.as_mut().map(|dx| &mut dx.storage_mut::<f32>()[..tokens * width]),
            Rows { data: dys, stride: n, width, count: tokens },
            &adapters,
            layout,
        );
        g
    });
    let (x, h) = (x.map(dense), h.map(dense));
    let gradients_of = |(adapter, wanted): (&Adapter, &[bool; 2])| {
        let a = wanted[0].then(|| {
            let left = Rows {
                data: &g.as_deref().expect("computed for A")[adapter.offset..],
                stride: total,
                width: adapter.rank,
                count: tokens,
            };
            let right = Rows { data: values(x.as_ref().expect("kept for A")), stride: width, width, count: tokens };
            outer(&left, &right, adapter, adapter.a.shared, layout) // [C|1, R, K]
        });
        let b = wanted[1].then(|| {
            let left = Rows {
                data: &values(h.as_ref().expect("kept for B"))[adapter.offset..],
                stride: total,
                width: adapter.rank,
                count: tokens,
            };
            let right =
                Rows { data: &dys[adapter.columns.start..], stride: n, width: adapter.columns.len(), count: tokens };
            outer(&left, &right, adapter, adapter.b.shared, layout) // [C|1, R, n]
        });
        [a, b]
    };
    let pairs = adapters.iter().zip(&wanted.pairs).map(gradients_of).collect();
    LinearGradients { x: dx, pairs }
}

/// `g = dy·Bᵀ` of every adapter, and `dx += s·g·A`; `dy.width` is that of `dx`.
fn slots_backward(g: &mut [f32], dx: Option<&mut [f32]>, dy: Rows, adapters: &[Adapter], layout: &LinearLayout) {
    let total: usize = adapters.iter().map(|a| a.rank).sum();
    let blocks = blocks(layout, dy.count);
    let lengths = || blocks.iter().map(|b| b.rows.len());
    let width = dy.width;
    let dx = match dx {
        Some(dx) => split(dx, lengths(), width).into_iter().map(Some).collect(),
        None => Vec::from_iter(blocks.iter().map(|_| None)),
    };
    let tasks: Vec<_> = split(g, lengths(), total).into_iter().zip(dx).zip(&blocks).collect();
    tasks.into_par_iter().for_each(|((g, mut dx), block)| {
        let Some(client) = block.client else { return };
        for adapter in adapters {
            let slots = adapter.slots(client);
            let data = &dy.data[block.rows.start * dy.stride + adapter.columns.start..];
            let dy = Rows { data, stride: dy.stride, width: adapter.columns.len(), count: block.rows.len() };
            read(&mut g[adapter.offset..], total, &dy, adapter.b.of(client), slots);
            if let Some(dx) = dx.as_deref_mut() {
                let g = Rows { data: &g[adapter.offset..], stride: total, width: slots, count: dy.count };
                write(dx, width, &g, adapter.a.of(client), width, layout.scale);
            }
        }
    });
}

/// `s · leftᵀ·right` over each client's rows, `[C, R, width]`; one sum over all clients where the factor is shared.
fn outer(left: &Rows, right: &Rows, adapter: &Adapter, shared: bool, layout: &LinearLayout) -> FlexTensor {
    let clients = layout.clients.len();
    let (rank, width) = (adapter.rank, right.width);
    let count = if shared { 1 } else { clients };
    let mut out = vec![0f32; count * rank * width];
    // With few clients the slots are spread over the threads as well.
    let slots_a_task = if count < 2 * rayon::current_num_threads() { 4.min(rank) } else { rank };
    let mut tasks = Vec::new();
    for (c, matrix) in out.chunks_mut((rank * width).max(1)).enumerate() {
        tasks.extend(
            matrix.chunks_mut((slots_a_task * width).max(1)).enumerate().map(|(i, rows)| (c, i * slots_a_task, rows)),
        );
    }
    tasks.into_par_iter().for_each(|(c, first, out)| {
        let here = if shared { 0..clients } else { c..c + 1 };
        for client in here {
            let rows = layout.clients.range(client);
            let slots = adapter.slots(client).saturating_sub(first).min(out.len() / width);
            run(Accumulate {
                out: &mut *out,
                out_stride: width,
                coef: &left.data[(rows.start * left.stride + first).min(left.data.len())..],
                coef_strides: [1, left.stride],
                m: &right.data[(rows.start * right.stride).min(right.data.len())..],
                m_stride: right.stride,
                rows: slots,
                depth: rows.len(),
                width,
                scale: layout.scale,
                fresh: false,
            });
        }
    });
    tensor(out, Shape::from([count, rank, width]))
}
