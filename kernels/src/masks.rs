//! Masks that are a function and not a sequence of draws: what is dropped of a row depends on the row's key, the place in the model and
//! the column alone. So many clients in a batch have the masks that each has alone, on every backend.

use std::sync::Arc;

/// What the masks of a batch's rows are made of: two words a row. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RowKeys(Arc<Keys>);

#[derive(Debug)]
struct Keys {
    words: Vec<u32>,
    #[cfg(feature = "cube")]
    table: crate::cube::KeyTable,
}

impl RowKeys {
    /// From a key of 64 bits a row.
    pub fn new(keys: impl IntoIterator<Item = u64>) -> Self {
        RowKeys(Arc::new(Keys {
            words: keys.into_iter().flat_map(|key| [key as u32, (key >> 32) as u32]).collect(),
            #[cfg(feature = "cube")]
            table: Default::default(),
        }))
    }

    /// Rows that have a key.
    pub fn len(&self) -> usize {
        self.0.words.len() / 2
    }

    /// Whether no row has one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Two words a row, one row after the other.
    pub(crate) fn words(&self) -> &[u32] {
        &self.0.words
    }

    /// What kernels read, made at the first call.
    #[cfg(feature = "cube")]
    pub(crate) fn table(&self) -> &crate::cube::KeyTable {
        &self.0.table
    }
}

/// One dropout of a forward pass.
#[derive(Clone, Debug)]
pub struct DropMask {
    /// Whose rows these are.
    pub keys: RowKeys,
    /// The first row that has a part, and how many do. A matrix may hold them several times, one block below the other: block `b`
    /// has the masks of place `place + b`.
    pub rows: std::ops::Range<usize>,
    /// Where in the model: two places have masks of their own.
    pub place: u32,
    /// The share that is dropped, in [0, 1).
    pub rate: f64,
}

impl DropMask {
    /// Of all rows that have a key.
    pub fn new(keys: &RowKeys, place: u32, rate: f64) -> Self {
        DropMask { keys: keys.clone(), rows: 0..keys.len(), place, rate }
    }

    /// Numbers below are dropped, of whole numbers below 2³².
    pub(crate) fn threshold(&self) -> u32 {
        (self.rate * 2f64.powi(32)).round() as u32
    }

    /// What is kept is multiplied by this, so that sums stay as large in the mean.
    pub(crate) fn scale(&self) -> f32 {
        (1.0 / (1.0 - self.rate)) as f32
    }

    /// The words that a row's columns are mixed with at this place: `row` counts from the first block's first row.
    pub(crate) fn words_of(&self, row: usize) -> [u32; 2] {
        let (block, row) = (row / self.rows.len(), self.rows.start + row % self.rows.len());
        let place = self.place.wrapping_add(block as u32);
        [mix(self.keys.words()[2 * row] ^ mix(place)), mix(self.keys.words()[2 * row + 1].wrapping_add(place))]
    }
}

/// A bijection of 32-bit words whose every output bit depends on every input bit alike (Wellons' `lowbias32`, in the public
/// domain).
#[inline(always)]
pub(crate) fn mix(word: u32) -> u32 {
    let word = (word ^ (word >> 16)).wrapping_mul(0x7feb_352d);
    let word = (word ^ (word >> 15)).wrapping_mul(0x846c_a68b);
    word ^ (word >> 16)
}

/// The word that says whether a column of a row is dropped.
#[inline(always)]
pub(crate) fn drawn([first, second]: [u32; 2], column: u32) -> u32 {
    mix(mix(column ^ first).wrapping_add(second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mix_as_published() {
        // Computed by Python from the two multipliers and three shifts of github.com/skeeto/hash-prospector.
        assert_eq!([0, 1, 2, 0xffff_ffff].map(mix), LOWBIAS32);
    }

    const LOWBIAS32: [u32; 4] = [0, 0x6889_90c0, 0xd113_2181, 0x6768_824a];
}
