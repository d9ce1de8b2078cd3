//! The running softmax of a tile of queries: scores into shared memory, weights relative to the highest score so far,
//! and what earlier sums must be multiplied by.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

use super::attention_tile::{Form, TILE};
use super::product::{Slices, UNITS, col_of, row_of};
use super::tiles::Place;

/// The score of what must not be seen. Finite: WGSL has no infinity, and differences of it stay numbers.
const UNSEEN: f32 = -1e30;
/// Units that share a row of scores.
const LANES: usize = UNITS as usize / TILE.rows;
/// Scores of a row that a unit looks at.
const SHARE: usize = TILE.cols / LANES;

/// Puts scores where a product takes its left side from, `[key][query]`.
#[cube]
pub(super) fn write_scores(
    weights: &mut Shared<[f32]>,
    scores: &Array<f32>,
    here: Place,
    first: usize,
    end: usize,
    scale: f32,
    #[comptime] form: Form,
) {
    #[unroll]
    for i in 0..TILE.unit_rows {
        #[unroll]
        for j in 0..TILE.unit_cols {
            let row = row_of(i, TILE);
            let col = col_of(j, TILE);
            let key = first + col;
            let mut score = UNSEEN.runtime();
            if key < end && (comptime!(!form.causal) || key <= here.first + row) {
                score = scale * scores[comptime!(i * TILE.unit_cols + j)];
            }
            weights[col * comptime!(TILE.rows + 1) + row] = score;
        }
    }
    sync_cube();
}

/// The softmax so far of each of the tile's rows, in shared memory.
#[derive(CubeType)]
pub(super) struct Softmax {
    /// The highest score.
    pub(super) highest: Shared<[f32]>,
    /// Sum of the weights relative to it.
    pub(super) total: Shared<[f32]>,
    /// What earlier sums must be multiplied by since the last step.
    factor: Shared<[f32]>,
}

#[cube]
impl Softmax {
    pub(super) fn new() -> Softmax {
        let mut highest = Shared::<[f32]>::new_slice(TILE.rows);
        let mut total = Shared::<[f32]>::new_slice(TILE.rows);
        if (UNIT_POS as usize) < TILE.rows {
            highest[UNIT_POS as usize] = UNSEEN;
            total[UNIT_POS as usize] = 0.0;
        }
        Softmax { highest, total, factor: Shared::<[f32]>::new_slice(TILE.rows) }
    }

    /// Turns a tile of scores into weights relative to the highest score so far. [`LANES`] units share a row; what they
    /// tell each other goes through the left slice, free at this time.
    pub(super) fn step(&mut self, weights: &mut Shared<[f32]>, slices: &mut Slices) {
        let row = UNIT_POS as usize % TILE.rows;
        let lane = UNIT_POS as usize / TILE.rows;
        let at = lane * comptime!(SHARE * (TILE.rows + 1)) + row;
        let mut highest = UNSEEN.runtime();
        #[unroll]
        for i in 0..SHARE {
            highest = highest.max(weights[at + comptime!(i * (TILE.rows + 1))]);
        }
        slices.left[UNIT_POS as usize] = highest;
        sync_cube();
        let before = self.highest[row];
        highest = before;
        #[unroll]
        for i in 0..LANES {
            highest = highest.max(slices.left[comptime!(i * TILE.rows) + row]);
        }
        let mut total = 0f32;
        #[unroll]
        for i in 0..SHARE {
            let weight = (weights[at + comptime!(i * (TILE.rows + 1))] - highest).exp();
            weights[at + comptime!(i * (TILE.rows + 1))] = weight;
            total += weight;
        }
        slices.left[comptime!(UNITS as usize) + UNIT_POS as usize] = total;
        sync_cube();
        if lane == 0 {
            let factor = (before - highest).exp();
            total = factor * self.total[row];
            #[unroll]
            for i in 0..LANES {
                total += slices.left[comptime!(UNITS as usize + i * TILE.rows) + row];
            }
            self.highest[row] = highest;
            self.total[row] = total;
            self.factor[row] = factor;
        }
        sync_cube();
    }
}

/// Brings earlier sums to the highest score of now.
#[cube]
pub(super) fn rescale(sums: &mut Array<f32>, softmax: &Softmax, #[comptime] form: Form) {
    #[unroll]
    for i in 0..TILE.unit_rows {
        let factor = softmax.factor[row_of(i, TILE)];
        #[unroll]
        for block in 0..comptime!(form.blocks()) {
            #[unroll]
            for j in 0..TILE.unit_cols {
                sums[comptime!(block * TILE.each() + i * TILE.unit_cols + j)] *= factor;
            }
        }
    }
}
