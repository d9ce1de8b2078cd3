//! One factor of every adapter on a linear (all A, or all B), slots below one another, as one matrix a client: the kernels read
//! what several adapters have in common once, and are launched once for all of them.
//!
//! Adapter `i` has `R_i` slots and the columns `columns_i`. Together they are `[C, ΣR, N]`, zero where a slot's adapter does not
//! have the column. Each stays the tensor it is; nothing is copied.

use std::ops::Range;

use burn::backend::TensorMetadata;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::product::{Tile, UNITS};
use super::tensors::stack;
use super::tiles::{RankTable, TileTable};

/// One factor of each adapter, and how many of its slots each client has.
#[derive(Clone, Debug)]
pub(crate) struct Factors {
    /// `[C|1, R_i, n_i]` of each adapter, and the columns it has among those of the linear's input or result.
    parts: Vec<(CubeTensor, Range<usize>)>,
    /// `[adapters, C]`; `None`: all clients have all slots.
    ranks: Option<RankTable>,
}

impl Factors {
    pub(crate) fn new(parts: Vec<(CubeTensor, Range<usize>)>, ranks: Option<RankTable>) -> Self {
        assert!(!parts.is_empty(), "adapters to be computed");
        for (factor, columns) in &parts {
            assert_eq!(factor.meta.shape()[2], columns.len(), "a column of the factor for each of its columns");
            assert_eq!(factor.dtype, parts[0].0.dtype, "one type for the factors of a linear");
        }
        Factors { parts, ranks }
    }

    /// Slots of all adapters.
    pub(super) fn slots(&self) -> usize {
        self.parts.iter().map(|(factor, _)| factor.meta.shape()[1]).sum()
    }

    /// Slots of each adapter.
    pub(super) fn ranks(&self) -> impl Iterator<Item = usize> + '_ {
        self.parts.iter().map(|(factor, _)| factor.meta.shape()[1])
    }

    /// From the first column that any of them has to the last.
    pub(super) fn columns(&self) -> Range<usize> {
        let start = self.parts.iter().map(|(_, columns)| columns.start).min().unwrap_or(0);
        start..self.parts.iter().map(|(_, columns)| columns.end).max().unwrap_or(0)
    }

    /// Whether all of them have the same columns.
    pub(super) fn overlap(&self) -> bool {
        self.parts.iter().all(|(_, columns)| *columns == self.parts[0].1)
    }

    /// Any of them.
    pub(super) fn first(&self) -> &CubeTensor {
        &self.parts[0].0
    }

    /// Each has a matrix a client, or one for all.
    pub(super) fn check(&self, tiles: &TileTable) {
        for (factor, _) in &self.parts {
            let matrices = factor.shape()[0];
            assert!(matrices == 1 || matrices == tiles.segments.len(), "one matrix a client, or one for all");
        }
    }

    /// Whether clients have fewer slots than the tensors.
    pub(super) fn limited(&self) -> bool {
        self.ranks.is_some()
    }

    /// The rank table as a kernel is given it; one that does not read it is given another table.
    pub(super) fn rank_table(&self, tiles: &TileTable) -> CubeTensor {
        self.ranks.as_ref().map_or(&tiles.offsets, |ranks| &ranks.0).clone()
    }

    pub(super) fn tensor_args<W: CubePrimitive>(&self) -> SequenceArg<OwnedTensor<W>> {
        self.parts.iter().map(|(factor, _)| stack(factor.clone(), false).into_tensor_arg()).collect()
    }

    pub(super) fn column_args(&self) -> SequenceArg<usize> {
        self.parts.iter().map(|(_, columns)| columns.start).collect()
    }
}

/// One adapter's part of the matrix, for one client.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(super) struct Part {
    /// Its first slot.
    pub(super) slot: usize,
    /// One past the last slot that the client has.
    pub(super) end: usize,
    /// One past the last slot there is.
    pub(super) last: usize,
    /// Its first column, and one past its last.
    pub(super) column: usize,
    pub(super) column_end: usize,
    /// Where the client's numbers begin in the factor.
    base: usize,
}

/// Adapter `i`'s part for `client` of `clients`.
#[cube]
pub(super) fn part<W: Float>(
    factors: &Sequence<OwnedTensor<W>>,
    columns: &Sequence<usize>,
    ranks: &[u32],
    client: usize,
    clients: usize,
    #[comptime] i: usize,
    #[comptime] limited: bool,
) -> Part {
    let mut slot = 0usize.runtime();
    #[unroll]
    for before in 0..i {
        slot += factors[before].shape(1);
    }
    let slots = factors[i].shape(1);
    let has = if comptime!(limited) { (ranks[i * clients + client] as usize).min(slots) } else { slots };
    Part {
        slot,
        end: slot + has,
        last: slot + slots,
        column: columns[i],
        column_end: columns[i] + factors[i].shape(2),
        base: client * factors[i].stride(0),
    }
}

/// Some slots and columns of the matrix.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(super) struct Window {
    pub(super) slot: usize,
    pub(super) slot_end: usize,
    pub(super) column: usize,
    pub(super) column_end: usize,
}

/// What the matrix has at a slot and a column, in the type that it is multiplied in; zero where they are not in the window, or nothing
/// stands there.
#[cube]
fn entry<W: Float, S: Float>(
    factors: &Sequence<OwnedTensor<W>>,
    parts: &Sequence<Part>,
    window: Window,
    slot: usize,
    column: usize,
) -> S {
    let mut value = S::from_int(0);
    if slot < window.slot_end && column < window.column_end {
        #[unroll]
        for i in 0..factors.len() {
            let part = &parts[i];
            if slot >= part.slot && slot < part.end && column >= part.column && column < part.column_end {
                let at = (slot - part.slot) * factors[i].stride(1) + (column - part.column) * factors[i].stride(2);
                value = S::cast_from(factors[i][part.base + at]);
            }
        }
    }
    value
}

/// Brings a window of the matrix into shared memory as the right side of a product, zeros where it has nothing. The product's
/// columns are slots and its depth columns where `slots_across`, else the other way round.
#[cube]
pub(super) fn load_factors<W: Float>(
    shared: &mut Shared<[f32]>,
    factors: &Sequence<OwnedTensor<W>>,
    parts: &Sequence<Part>,
    window: Window,
    #[comptime] slots_across: bool,
    #[comptime] tile: Tile,
) {
    #[unroll]
    for step in 0..comptime!(tile.cols * tile.depth / UNITS as usize) {
        // Neighbouring units read neighbouring columns, which are neighbours in memory.
        let at = UNIT_POS as usize + comptime!(step * UNITS as usize);
        let across = if comptime!(slots_across) { at / tile.depth } else { at % tile.cols };
        let deep = if comptime!(slots_across) { at % tile.depth } else { at / tile.cols };
        let slot = window.slot + if comptime!(slots_across) { across } else { deep };
        let column = window.column + if comptime!(slots_across) { deep } else { across };
        shared[deep * comptime!(tile.cols + 1) + across] = entry::<W, f32>(factors, parts, window, slot, column);
    }
}

/// As [`load_factors`] for slots across, in the type that they are multiplied in, slot by slot, `step` elements apart.
#[cube]
pub(super) fn load_factors_as<W: Float, S: Float>(
    shared: &mut Shared<[S]>,
    factors: &Sequence<OwnedTensor<W>>,
    parts: &Sequence<Part>,
    window: Window,
    #[comptime] cols: usize,
    #[comptime] depth: usize,
    #[comptime] step: usize,
) {
    // Not unrolled: as many loads at once as there are turns would take all registers.
    for turn in 0..comptime!(cols * depth / UNITS as usize) {
        let at = UNIT_POS as usize + turn * comptime!(UNITS as usize);
        let across = at / depth;
        let deep = at % depth;
        let value = entry::<W, S>(factors, parts, window, window.slot + across, window.column + deep);
        shared[across * step + deep] = value;
    }
}
