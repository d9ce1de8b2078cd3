//! Tables on the device that say where clients and sequences lie. Built once a batch, read by every layer.

use std::sync::{Mutex, OnceLock, PoisonError};

use burn::backend::DType;
use burn::tensor::Shape;
use burn_cubecl::CubeDevice;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::tensors::view;
use crate::Segments;
use crate::flat::ALIGN;

/// Numbers a tile takes in the table.
const FIELDS: usize = 5;

/// The tokens of a batch cut into tiles that never straddle two segments.
#[derive(Clone, Debug)]
pub(crate) struct TileTable {
    /// Segment, first row, rows, and the segment's first and end row, tile after tile.
    pub(crate) tiles: CubeTensor,
    /// Boundaries of the segments `[C + 1]`.
    pub(crate) offsets: CubeTensor,
    /// Number of tiles.
    pub(crate) count: usize,
    /// Most rows a tile has.
    pub(crate) rows: usize,
    /// The segments themselves.
    pub(crate) segments: Segments,
}

impl TileTable {
    /// Tiles of at most `rows` rows.
    pub(crate) fn new(segments: &Segments, rows: usize, device: &CubeDevice) -> Self {
        let mut tiles = Vec::new();
        for (segment, range) in segments.ranges().enumerate() {
            for first in range.clone().step_by(rows) {
                let here = rows.min(range.end - first);
                tiles.extend([segment, first, here, range.start, range.end].map(|n| n as u32));
            }
        }
        let count = tiles.len() / FIELDS;
        // Kernels may look at the first tile where there is none.
        tiles.resize(tiles.len().max(FIELDS), 0);
        // Both in one transfer.
        let at = tiles.len().next_multiple_of(ALIGN);
        let mut all = tiles;
        let taken = all.len();
        all.resize(at, 0);
        all.extend(std::iter::once(0).chain(segments.ranges().map(|r| r.end as u32)));
        let ends = all.len() - at;
        let all = numbers(&all, device);
        TileTable {
            count,
            tiles: view(all.clone(), 0, &[taken], &[1]),
            offsets: view(all, at, &[ends], &[1]),
            rows,
            segments: segments.clone(),
        }
    }
}

/// The tables of one batch's segments, each made when it is first asked for.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    clients: OnceLock<(CubeDevice, TileTable)>,
    sequences: OnceLock<(CubeDevice, TileTable)>,
}

/// What `kept` holds for `device`; made anew where it holds it for another.
pub(super) fn kept_for<T: Clone>(kept: &OnceLock<(CubeDevice, T)>, device: &CubeDevice, make: impl Fn() -> T) -> T {
    let (at, table) = kept.get_or_init(|| (device.clone(), make()));
    if at == device { table.clone() } else { make() }
}

impl Tables {
    /// Tiles for the grouped products of clients: small ones where there are too few tokens to fill a device.
    pub(super) fn for_clients(&self, clients: &Segments, device: &CubeDevice) -> TileTable {
        let rows = if clients.rows() > 8192 { 32 } else { 16 };
        kept_for(&self.clients, device, || TileTable::new(clients, rows, device))
    }

    /// Tiles for attention inside sequences.
    pub(super) fn for_sequences(&self, sequences: &Segments, device: &CubeDevice) -> TileTable {
        kept_for(&self.sequences, device, || TileTable::new(sequences, super::attention_tile::TILE.rows, device))
    }
}

/// Slot counts on the device, of a target alone or with those of targets that share a linear's input with it; each made when it is
/// first asked for.
#[derive(Debug, Default)]
pub(crate) struct RankTables(Mutex<Vec<(CubeDevice, Vec<u32>, RankTable)>>);

impl RankTables {
    /// The table of these counts.
    pub(super) fn get(&self, counts: Vec<u32>, device: &CubeDevice) -> RankTable {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((.., table)) = kept.iter().find(|(at, of, _)| at == device && *of == counts) {
            return table.clone();
        }
        let table = RankTable::new(&counts, device);
        kept.push((device.clone(), counts, table.clone()));
        table
    }
}

/// How many slots each client has of each target `[targets, C]`: the first ones.
#[derive(Clone, Debug)]
pub(crate) struct RankTable(pub(crate) CubeTensor);

impl RankTable {
    /// The table for these ranks.
    pub(crate) fn new(ranks: &[u32], device: &CubeDevice) -> Self {
        RankTable(numbers(ranks, device))
    }
}

/// A row of numbers on the device; never empty, since a buffer of no bytes cannot be bound.
pub(super) fn numbers(values: &[u32], device: &CubeDevice) -> CubeTensor {
    let values = if values.is_empty() { &[0] } else { values };
    let client = device.client();
    let handle = client.create_from_slice(u32::as_bytes(values));
    CubeTensor::new_contiguous(client, device.clone(), Shape::from([values.len()]), handle, DType::U32)
}

/// One tile of the table, inside a kernel.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Place {
    pub(crate) segment: usize,
    pub(crate) first: usize,
    pub(crate) rows: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Tile `index` of a table.
#[cube]
pub(crate) fn place(tiles: &[u32], index: usize) -> Place {
    let at = index * FIELDS;
    Place {
        segment: tiles[at] as usize,
        first: tiles[at + 1] as usize,
        rows: tiles[at + 2] as usize,
        start: tiles[at + 3] as usize,
        end: tiles[at + 4] as usize,
    }
}

/// Tile `index` of a table of `count` tiles; further ones cut up the rows after `tokens`, of `rows` in all, that are nobody's. They
/// have no segment: its first and end row are 0, and it is the first one where a number is needed.
#[cube]
pub(crate) fn place_of_all(
    tiles: &[u32],
    index: usize,
    count: usize,
    tokens: usize,
    rows: usize,
    #[comptime] height: usize,
) -> Place {
    let owned = index < count;
    let here = place(tiles, select(owned, index, 0));
    let nobody = (tokens + (index - index.min(count)) * height).min(rows);
    Place {
        segment: select(owned, here.segment, 0),
        first: select(owned, here.first, nobody),
        rows: select(owned, here.rows, (rows - nobody).min(height)),
        start: select(owned, here.start, 0),
        end: select(owned, here.end, 0),
    }
}

/// Tiles that rows after those of `tiles` need, of `rows` in all.
pub(crate) fn surplus_tiles(tiles: &TileTable, rows: usize) -> usize {
    rows.saturating_sub(tiles.segments.rows()).div_ceil(tiles.rows)
}
