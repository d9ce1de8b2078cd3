//! Boundaries inside a packed axis: which rows belong to which client, which tokens to which sequence; and how many
//! slots each client has. Kernels on a GPU read them from tables, which are made once and kept here.

use std::ops::Range;
use std::sync::Arc;

/// Consecutive runs of rows: run `i` covers rows `offsets[i]..offsets[i + 1]`. Runs may be empty. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Segments(Arc<Boundaries>);

#[derive(Debug)]
struct Boundaries {
    offsets: Vec<usize>,
    #[cfg(feature = "cube")]
    tables: crate::cube::Tables,
}

impl PartialEq for Segments {
    fn eq(&self, other: &Self) -> bool {
        self.0.offsets == other.0.offsets
    }
}

impl Eq for Segments {}

impl Segments {
    /// Segments with the given boundaries: the first is 0, none is smaller than the one before.
    ///
    /// # Panics
    /// When the boundaries are not of that form; they are made by the engine, never read from a user.
    pub fn new(offsets: Vec<usize>) -> Self {
        assert!(offsets.first() == Some(&0), "boundaries start at 0");
        assert!(offsets.is_sorted(), "boundaries never fall");
        Segments(Arc::new(Boundaries {
            offsets,
            #[cfg(feature = "cube")]
            tables: Default::default(),
        }))
    }

    /// Segments of the given lengths.
    pub fn from_lengths(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut offsets = vec![0];
        let mut end = 0;
        offsets.extend(lengths.into_iter().map(|n| {
            end += n;
            end
        }));
        Segments::new(offsets)
    }

    /// Number of segments.
    pub fn len(&self) -> usize {
        self.0.offsets.len() - 1
    }

    /// Whether there is no segment at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows covered in total.
    pub fn rows(&self) -> usize {
        self.0.offsets[self.len()]
    }

    /// Rows of segment `i`.
    pub fn range(&self, i: usize) -> Range<usize> {
        self.0.offsets[i]..self.0.offsets[i + 1]
    }

    /// The rows of every segment in turn.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
        self.0.offsets.windows(2).map(|w| w[0]..w[1])
    }

    /// For every row the segment it lies in.
    pub fn owners(&self) -> Vec<usize> {
        self.ranges().enumerate().flat_map(|(i, r)| std::iter::repeat_n(i, r.len())).collect()
    }

    /// What kernels read, made at the first call.
    #[cfg(feature = "cube")]
    pub(crate) fn tables(&self) -> &crate::cube::Tables {
        &self.0.tables
    }
}

/// How many of a target's slots each client has: the first ones of those in the tensor. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SlotCounts(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    slots: Vec<usize>,
    #[cfg(feature = "cube")]
    table: crate::cube::RankTables,
}

impl SlotCounts {
    /// One number a client.
    pub fn new(slots: Vec<usize>) -> Self {
        SlotCounts(Arc::new(Counts {
            slots,
            #[cfg(feature = "cube")]
            table: Default::default(),
        }))
    }

    /// Slots of `client`.
    pub fn of(&self, client: usize) -> usize {
        self.0.slots[client]
    }

    /// What kernels read, made at the first call.
    #[cfg(feature = "cube")]
    pub(crate) fn table(&self) -> &crate::cube::RankTables {
        &self.0.table
    }
}
