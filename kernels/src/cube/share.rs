//! How the way down to slots is shared out over workgroups: tiles of tokens by tiles of slots. What `lowrank.rs` and `cooperative.rs` have
//! in common.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::factors::{Factors, Part, part};
use super::product::agreed;
use super::tiles::{Place, TileTable, place};

/// The most slots that are summed from the same columns. Adapters that read the same columns share tiles of slots; others would add
/// zeros to each other's sums.
pub(crate) fn widest(factors: &Factors) -> usize {
    if factors.overlap() { factors.slots() } else { factors.ranks().max().unwrap_or(0) }
}

/// Tiles of so many slots that the slots of all adapters take.
pub(super) fn across(factors: &Factors, cols: usize) -> usize {
    if factors.overlap() {
        factors.slots().div_ceil(cols)
    } else {
        factors.ranks().map(|rank| rank.div_ceil(cols)).sum()
    }
}

/// What a workgroup of the way down sums for a tile of tokens.
#[derive(CubeType)]
pub(super) struct Share {
    /// The tokens.
    pub(super) here: Place,
    /// The first slot, behind all slots where there is nothing to sum, and one past the last.
    pub(super) first: usize,
    pub(super) end: usize,
    /// The columns that the slots read; none where the client has none of the slots.
    pub(super) column: usize,
    pub(super) column_end: usize,
    /// The adapters for the tile's client.
    pub(super) parts: Sequence<Part>,
}

/// This workgroup's share, of `count` tiles of tokens and as many slots at a time as `cols`. `apart`: adapters read columns of their own;
/// see [`widest`].
#[cube]
pub(super) fn share<W: Float>(
    tiles: &[u32],
    factors: &Sequence<OwnedTensor<W>>,
    columns: &Sequence<usize>,
    ranks: &[u32],
    slots: usize,
    count: usize,
    clients: usize,
    #[comptime] cols: usize,
    #[comptime] apart: bool,
    #[comptime] limited: bool,
) -> Share {
    let number = CUBE_POS / count;
    let here = place(tiles, CUBE_POS % count);
    let client = here.segment;
    let mut first = number * cols;
    let mut last = slots;
    let mut column = columns[0];
    let mut column_end = columns[0] + factors[0].shape(2);
    if comptime!(apart) {
        first = slots;
        let mut before = 0usize.runtime();
        #[unroll]
        for i in 0..factors.len() {
            let own = part::<W>(factors, columns, ranks, client, clients, i, false);
            let across = (own.last - own.slot).div_ceil(cols);
            if number >= before && number < before + across {
                first = own.slot + (number - before) * cols;
                last = own.last;
                column = own.column;
                column_end = own.column_end;
            }
            before += across;
        }
    }
    let end = last.min(first + cols);
    let mut parts = Sequence::<Part>::new();
    let mut any = false.runtime();
    #[unroll]
    for i in 0..factors.len() {
        let own = part::<W>(factors, columns, ranks, client, clients, i, limited);
        any = any || (own.slot < end && own.end > first.max(own.slot));
        parts.push(own);
    }
    // Slots that the client does not have are sums of nothing.
    let column_end = agreed(select(any, column_end, column));
    Share { here, first, end, column, column_end, parts }
}

/// `tensor` has a row a token and the columns `cols`.
pub(super) fn check(tensor: &CubeTensor, cols: &std::ops::Range<usize>, tiles: &TileTable) {
    let shape = tensor.meta.shape();
    assert!(shape[0] >= tiles.segments.rows(), "one row a token");
    assert!(cols.start <= cols.end && cols.end <= shape[1], "columns {cols:?} of {}", shape[1]);
}
