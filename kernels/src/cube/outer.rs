//! Gradients of factors for all clients in one launch, however many adapters a linear has: for each client the sum over its
//! tokens of outer products.
//!
//! Letters in shapes: `T` tokens, `D` features, `ΣR` slots of all adapters, `C` clients.
#![allow(unsafe_code)] // launches without bounds checks: the kernels check for themselves

use std::ops::Range;

use burn::backend::Shape;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::product::{Side, Tile, UNITS, agreed, col_of, load, multiply, row_of, side, slices, zeros};
use super::share::check;
use super::tensors::{elem, empty, groups, runs_along};
use super::tiles::{RankTable, TileTable};

/// The gradient of one factor: `[C, slots, columns]`, or `[1, ..]` where all clients share it.
#[derive(Clone, Debug)]
pub(crate) struct Gradient {
    /// Which pair of matrices it is a sum of.
    pub(crate) pair: usize,
    /// Its adapter's columns on the left.
    pub(crate) slots: Range<usize>,
    /// The columns on the right.
    pub(crate) columns: Range<usize>,
    /// One sum over all tokens; slots are then not limited by rank.
    pub(crate) shared: bool,
    /// Its adapter's row in the table of ranks.
    pub(crate) adapter: usize,
}

impl Gradient {
    fn shape(&self, tiles: &TileTable) -> [usize; 3] {
        [if self.shared { 1 } else { tiles.segments.len() }, self.slots.len(), self.columns.len()]
    }

    fn workgroups(&self, tile: Tile, tiles: &TileTable) -> usize {
        let [matrices, rows, cols] = self.shape(tiles);
        matrices * rows.div_ceil(tile.rows) * cols.div_ceil(tile.cols)
    }
}

/// For each of `wanted` `out[c, k, n] = scale · Σ left[t, slots.start + k] · right[t, columns.start + n]` over the tokens `t` of
/// client `c`; zeros for clients without tokens and for slots a client does not have. The results lie in one buffer.
///
/// # Shapes
/// `pairs`: `left` `[T, ΣR]`, whose columns are slots, `right` `[T, D]`, all left sides of one type and all right sides of one
/// -> each `[C|1, slots, columns]`, of the left sides' type. `ranks` `[adapters, C]`.
pub(crate) fn outer(
    pairs: &[[CubeTensor; 2]],
    wanted: &[Gradient],
    scale: f32,
    tiles: &TileTable,
    ranks: Option<&RankTable>,
) -> Vec<CubeTensor> {
    for Gradient { pair, slots, columns, .. } in wanted {
        let [left, right] = &pairs[*pair];
        check(left, slots, tiles);
        check(right, columns, tiles);
    }
    let Some([left, right]) = pairs.first() else { return Vec::new() };
    for [one, other] in pairs {
        assert!(one.dtype == left.dtype && other.dtype == right.dtype, "one type a side");
    }
    // Where each begins in the buffer: at an address that a device lets a tensor begin at.
    let align = (left.client.properties().memory.alignment as usize / left.dtype.size()).max(1);
    let sizes = wanted.iter().map(|gradient| gradient.shape(tiles).iter().product::<usize>());
    let starts: Vec<usize> = sizes
        .scan(0, |end, size| {
            let start = *end;
            *end = start + size.next_multiple_of(align);
            Some(start)
        })
        .collect();
    let total = wanted.last().map_or(0, |last| last.shape(tiles).iter().product::<usize>());
    let total = starts.last().map_or(0, |start| start + total);
    let buffer = empty(left, [total], left.dtype); // all gradients end to end
    let most = |size: fn(&Gradient) -> usize| wanted.iter().map(size).max().unwrap_or(0);
    let tile = Tile::new(side(most(|g| g.slots.len()), 32), side(most(|g| g.columns.len()), 64));
    let workgroups: usize = wanted.iter().map(|gradient| gradient.workgroups(tile, tiles)).sum();
    if workgroups > 0 {
        let mut before = 0;
        let fields = wanted.iter().zip(&starts).flat_map(|(gradient, start)| {
            let [matrices, rows, cols] = gradient.shape(tiles);
            let Gradient { pair, slots, columns, shared, adapter } = gradient;
            let first = before;
            before += gradient.workgroups(tile, tiles);
            [first, matrices, rows, cols, slots.start, columns.start, *start, *pair, usize::from(*shared), *adapter]
        });
        let along = (runs_along(left, 0, 1), runs_along(right, 0, 1));
        let types = [elem(left), elem(right)];
        let limits = ranks.map_or(&tiles.offsets, |ranks| &ranks.0).clone();
        // SAFETY: the kernel reads and writes inside the shapes checked above.
        unsafe {
            outer_kernel::launch_unchecked(
                &buffer.client,
                groups(workgroups),
                CubeDim::new_1d(UNITS),
                pairs.iter().map(|[left, _]| left.clone().into_tensor_arg()).collect(),
                pairs.iter().map(|[_, right]| right.clone().into_tensor_arg()).collect(),
                fields.collect(),
                tiles.offsets.clone().into_buffer_arg(),
                limits.into_buffer_arg(),
                buffer.clone().into_tensor_arg(),
                tiles.segments.rows(),
                tiles.segments.len(),
                scale,
                ranks.is_some(),
                along,
                tile,
                types,
            );
        }
    }
    let one = |(gradient, start): (&Gradient, usize)| {
        let shape = gradient.shape(tiles);
        let end = start + shape.iter().product::<usize>();
        let size = left.dtype.size() as u64;
        let handle = buffer.handle.clone().offset_start(start as u64 * size).offset_end((total - end) as u64 * size);
        CubeTensor::new_contiguous(buffer.client.clone(), buffer.device.clone(), Shape::from(shape), handle, left.dtype)
    };
    wanted.iter().zip(starts).map(one).collect()
}

/// Numbers that say what a gradient is: its first workgroup, its shape, where its slots and columns begin, where it begins in
/// the buffer, its pair, whether it is shared, its adapter.
const FIELDS: usize = 10;

#[cube(launch_unchecked)]
fn outer_kernel<L: Float, R: Float>(
    lefts: &Sequence<OwnedTensor<L>>,
    rights: &Sequence<OwnedTensor<R>>,
    fields: &Sequence<usize>,
    offsets: &[u32],
    ranks: &[u32],
    out: &mut Tensor<L>,
    tokens: usize,
    clients: usize,
    scale: f32,
    #[comptime] limited: bool,
    #[comptime] along: (bool, bool),
    #[comptime] tile: Tile,
    #[define(L, R)] _types: [ElemType; 2],
) {
    // Which gradient this workgroup computes a tile of.
    let mut mine = false.runtime();
    let mut matrix = 0usize.runtime();
    let mut rows = 0usize.runtime();
    let mut cols = 0usize.runtime();
    let mut first_row = 0usize.runtime();
    let mut first_col = 0usize.runtime();
    let mut slot = 0usize.runtime();
    let mut column = 0usize.runtime();
    let mut to = 0usize.runtime();
    let mut pair = 0usize.runtime();
    let mut shared = 0usize.runtime();
    let mut adapter = 0usize.runtime();
    #[unroll]
    for g in 0..comptime!(fields.len() / FIELDS) {
        let at = comptime!(g * FIELDS);
        let number = CUBE_POS - fields[at].min(CUBE_POS);
        let across = fields[comptime!(at + 2)].div_ceil(tile.rows);
        let down = fields[comptime!(at + 3)].div_ceil(tile.cols);
        if CUBE_POS >= fields[at] && number < fields[comptime!(at + 1)] * across * down {
            mine = true;
            matrix = number / (across * down);
            rows = fields[comptime!(at + 2)];
            cols = fields[comptime!(at + 3)];
            first_row = number % across * tile.rows;
            first_col = number / across % down * tile.cols;
            slot = fields[comptime!(at + 4)];
            column = fields[comptime!(at + 5)];
            to = fields[comptime!(at + 6)];
            pair = fields[comptime!(at + 7)];
            shared = fields[comptime!(at + 8)];
            adapter = fields[comptime!(at + 9)];
        }
    }
    if !mine {
        terminate!();
    }
    let is_shared = shared == 1;
    let start = select(is_shared, 0, offsets[matrix] as usize);
    let end = select(is_shared, tokens, offsets[matrix + 1] as usize);
    let mut rank = rows;
    if comptime!(limited) {
        rank = select(is_shared, rows, (ranks[adapter * clients + matrix] as usize).min(rows));
    }
    // Slots that the client does not have are sums of nothing.
    let depth = agreed(select(first_row < rank, end - start, 0));
    let mut slices = slices(tile);
    let mut sums = zeros(comptime!(tile.each()));
    for at in range_stepped(0, depth, tile.depth) {
        #[unroll]
        for p in 0..lefts.len() {
            if pair == p {
                let left = &lefts[p];
                let right = &rights[p];
                let at_left = Side {
                    base: start * left.stride(0) + (slot + first_row) * left.stride(1),
                    count: rank.max(first_row) - first_row,
                    step: left.stride(1),
                    depth_step: left.stride(0),
                };
                let at_right = Side {
                    base: start * right.stride(0) + (column + first_col) * right.stride(1),
                    count: cols - first_col,
                    step: right.stride(1),
                    depth_step: right.stride(0),
                };
                load::<L>(&mut slices.left, left, at_left, at, depth, tile.rows, tile.depth, along.0);
                load::<R>(&mut slices.right, right, at_right, at, depth, tile.cols, tile.depth, along.1);
            }
        }
        sync_cube();
        multiply(&mut sums, &slices.left, &slices.right, 0usize, tile);
        sync_cube();
    }
    #[unroll]
    for i in 0..tile.unit_rows {
        #[unroll]
        for j in 0..tile.unit_cols {
            let row = first_row + row_of(i, tile);
            let col = first_col + col_of(j, tile);
            if row < rows && col < cols {
                let at = to + (matrix * rows + row) * cols + col;
                out[at] = L::cast_from(scale * sums[comptime!(i * tile.unit_cols + j)]);
            }
        }
    }
}
