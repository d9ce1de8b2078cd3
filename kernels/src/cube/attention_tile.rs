//! The sizes that attention's kernels, the softmax and the table of tiles agree on.

use super::product::Tile;

/// Queries by keys, and also queries by columns of a head: one tile size for every product.
pub(crate) const TILE: Tile = Tile::new(32, 32);
/// Elements of a tile in shared memory.
pub(super) const SHARED: usize = TILE.depth * (TILE.rows + 1);

/// What the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Form {
    /// Columns of a head.
    pub(super) width: usize,
    /// Tokens see only themselves and those before them.
    pub(super) causal: bool,
    /// Heads of queries, one after the other, that share a head of keys and values.
    pub(super) group: usize,
}

impl Form {
    /// Workgroups that share out a head's columns: one computes 128 of them at most, so that its units' sums stay in
    /// registers. Each of them computes the scores, over all of the head, again.
    pub(super) fn parts(&self) -> usize {
        self.width.div_ceil(4 * TILE.cols)
    }

    /// Tiles side by side that cover a part.
    pub(super) fn blocks(&self) -> usize {
        self.width.div_ceil(TILE.cols).div_ceil(self.parts())
    }
}
