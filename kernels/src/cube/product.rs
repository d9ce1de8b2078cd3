//! The one matrix product behind the low-rank update and attention: a workgroup sums a tile of `L · R` over the
//! depth, a slice of it at a time through shared memory. Both sides are described by strides, so that rows, columns,
//! transposes and ranges of a wider tensor are all the same code.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

/// Units in a workgroup: what WebGPU promises.
pub(crate) const UNITS: u32 = 256;

/// Sizes of a workgroup's tile. Unit `u` sums the elements `(u / across + i·down, u % across + j·across)`, spread out
/// so that neighbouring units write neighbouring columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tile {
    /// Rows of the result.
    pub(crate) rows: usize,
    /// Columns of the result.
    pub(crate) cols: usize,
    /// Depth in shared memory at a time.
    pub(crate) depth: usize,
    /// Rows a unit sums.
    pub(crate) unit_rows: usize,
    /// Columns a unit sums.
    pub(crate) unit_cols: usize,
}

impl Tile {
    /// A tile of 16 or 32 rows and 16, 32 or 64 columns, shared out over [`UNITS`] units.
    pub(crate) const fn new(rows: usize, cols: usize) -> Self {
        let each = rows * cols / UNITS as usize;
        let unit_rows = if each >= 8 {
            4
        } else if each >= 2 {
            2
        } else {
            1
        };
        Tile { rows, cols, depth: 32, unit_rows, unit_cols: each / unit_rows }
    }

    /// Elements a unit sums.
    pub(crate) const fn each(&self) -> usize {
        self.unit_rows * self.unit_cols
    }

    /// Units side by side.
    pub(crate) const fn across(&self) -> usize {
        self.cols / self.unit_cols
    }

    /// Units one below the other.
    pub(crate) const fn down(&self) -> usize {
        self.rows / self.unit_rows
    }
}

/// The smallest tile side that holds `n`, up to `most`.
pub(crate) fn side(n: usize, most: usize) -> usize {
    n.next_power_of_two().clamp(16, most)
}

/// One side of a product: where its rows (left) or columns (right) lie.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Side {
    /// Element of the first row at depth 0.
    pub(crate) base: usize,
    /// Rows there are; the tile's others count as zeros.
    pub(crate) count: usize,
    /// From a row to the next.
    pub(crate) step: usize,
    /// From a depth to the next.
    pub(crate) depth_step: usize,
}

/// Shared memory of a product, each side `[depth][side + 1]`: the odd width keeps units off each other's banks.
#[derive(CubeType)]
pub(crate) struct Slices {
    pub(crate) left: Shared<[f32]>,
    pub(crate) right: Shared<[f32]>,
}

/// Shared memory for the products of one tile size.
#[cube]
pub(crate) fn slices(#[comptime] tile: Tile) -> Slices {
    Slices {
        left: Shared::new_slice(comptime!(tile.depth * (tile.rows + 1))),
        right: Shared::new_slice(comptime!(tile.depth * (tile.cols + 1))),
    }
}

/// A unit's sums, all zero.
#[cube]
pub(crate) fn zeros(#[comptime] count: usize) -> Array<f32> {
    let mut sums = Array::<f32>::new(count);
    #[unroll]
    for i in 0..count {
        sums[i] = 0.0;
    }
    sums
}

/// The row of the tile where a unit's `i`-th row of sums lies.
#[cube]
pub(crate) fn row_of(#[comptime] i: usize, #[comptime] tile: Tile) -> usize {
    UNIT_POS as usize / comptime!(tile.across()) + comptime!(i * tile.down())
}

/// The column of the tile where a unit's `j`-th column of sums lies.
#[cube]
pub(crate) fn col_of(#[comptime] j: usize, #[comptime] tile: Tile) -> usize {
    UNIT_POS as usize % comptime!(tile.across()) + comptime!(j * tile.across())
}

/// The number that the first unit of the workgroup has, for all of them. For the bounds of loops with barriers inside:
/// units of a workgroup read the same bound from a table, but a WGSL front end (Tint, in browsers) does not know that, and
/// refuses a barrier behind a number out of a buffer that some kernel may write. Once a kernel, all units together.
#[cube]
pub(crate) fn agreed(number: usize) -> usize {
    let mut shared = Shared::<[u32]>::new_slice(1usize);
    if UNIT_POS == 0 {
        shared[0] = number as u32;
    }
    workgroup_uniform_load(&shared[0]) as usize
}

/// Brings a slice of one side into shared memory, zeros where there is nothing. `along_depth`: neighbours in memory
/// are neighbours in depth.
#[cube]
pub(crate) fn load<E: Float>(
    shared: &mut Shared<[f32]>,
    from: &Tensor<E>,
    side: Side,
    first: usize,
    end: usize,
    #[comptime] width: usize,
    #[comptime] depth: usize,
    #[comptime] along_depth: bool,
) {
    #[unroll]
    for step in 0..comptime!(width * depth / UNITS as usize) {
        let at = UNIT_POS as usize + comptime!(step * UNITS as usize);
        let row = if comptime!(along_depth) { at / depth } else { at % width };
        let deep = if comptime!(along_depth) { at % depth } else { at / width };
        let mut value = 0f32;
        if row < side.count && first + deep < end {
            value = f32::cast_from(from[side.base + row * side.step + (first + deep) * side.depth_step]);
        }
        shared[deep * comptime!(width + 1) + row] = value;
    }
}

/// Brings a slice of one side into shared memory in the type that it is multiplied in, row by row of the side, `step` elements
/// apart; zeros where there is nothing. Neighbours in memory are neighbours in depth.
#[cube]
pub(crate) fn load_as<E: Float, S: Float>(
    shared: &mut Shared<[S]>,
    from: &Tensor<E>,
    side: Side,
    first: usize,
    end: usize,
    #[comptime] width: usize,
    #[comptime] depth: usize,
    #[comptime] step: usize,
) {
    // Not unrolled: as many loads at once as there are turns would take all registers.
    for turn in 0..comptime!(width * depth / UNITS as usize) {
        let at = UNIT_POS as usize + turn * comptime!(UNITS as usize);
        let row = at / depth;
        let deep = at % depth;
        let mut value = S::from_int(0);
        if row < side.count && first + deep < end {
            value = S::cast_from(from[side.base + row * side.step + (first + deep) * side.depth_step]);
        }
        shared[row * step + deep] = value;
    }
}

/// Adds the product of two slices in shared memory to a unit's sums, those from `offset` on.
#[cube]
pub(crate) fn multiply(
    sums: &mut Array<f32>,
    left: &Shared<[f32]>,
    right: &Shared<[f32]>,
    #[comptime] offset: usize,
    #[comptime] tile: Tile,
) {
    let row = row_of(0usize, tile);
    let col = col_of(0usize, tile);
    let mut line = Array::<f32>::new(tile.unit_cols);
    for k in 0..tile.depth {
        let l = k * comptime!(tile.rows + 1) + row;
        let r = k * comptime!(tile.cols + 1) + col;
        #[unroll]
        for j in 0..tile.unit_cols {
            line[j] = right[r + comptime!(j * tile.across())];
        }
        #[unroll]
        for i in 0..tile.unit_rows {
            let value = left[l + comptime!(i * tile.down())];
            #[unroll]
            for j in 0..tile.unit_cols {
                sums[comptime!(offset + i * tile.unit_cols + j)] += value * line[j];
            }
        }
    }
}

/// Adds `L · R` over the whole depth to a unit's sums. All units of a workgroup call it together; the slices are free
/// again when it returns. `along` says for each side whether memory runs along the depth. A `depth` out of a table must
/// be [`agreed`].
#[cube]
pub(crate) fn accumulate<L: Float, R: Float>(
    sums: &mut Array<f32>,
    slices: &mut Slices,
    left: &Tensor<L>,
    at_left: Side,
    right: &Tensor<R>,
    at_right: Side,
    depth: usize,
    #[comptime] along: (bool, bool),
    #[comptime] tile: Tile,
) {
    for first in range_stepped(0, depth, tile.depth) {
        load::<L>(&mut slices.left, left, at_left, first, depth, tile.rows, tile.depth, along.0);
        load::<R>(&mut slices.right, right, at_right, first, depth, tile.cols, tile.depth, along.1);
        sync_cube();
        multiply(sums, &slices.left, &slices.right, 0usize, tile);
        sync_cube();
    }
}
