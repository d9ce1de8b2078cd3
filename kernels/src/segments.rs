//! Boundaries inside a packed axis: which rows belong to which client, which tokens to which sequence.

use std::ops::Range;
use std::sync::Arc;

/// Consecutive runs of rows: run `i` covers rows `offsets[i]..offsets[i + 1]`. Runs may be empty. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments(Arc<[usize]>);

impl Segments {
    /// Segments with the given boundaries: the first is 0, none is smaller than the one before.
    ///
    /// # Panics
    /// When the boundaries are not of that form; they are made by the engine, never read from a user.
    pub fn new(offsets: Vec<usize>) -> Self {
        assert!(offsets.first() == Some(&0), "boundaries start at 0");
        assert!(offsets.is_sorted(), "boundaries never fall");
        Segments(offsets.into())
    }

    /// Segments of the given lengths.
    pub fn from_lengths(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut offsets = vec![0];
        let mut end = 0;
        offsets.extend(lengths.into_iter().map(|n| {
            end += n;
            end
        }));
        Segments(offsets.into())
    }

    /// Number of segments.
    pub fn len(&self) -> usize {
        self.0.len() - 1
    }

    /// Whether there is no segment at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows covered in total.
    pub fn rows(&self) -> usize {
        self.0[self.0.len() - 1]
    }

    /// Rows of segment `i`.
    pub fn range(&self, i: usize) -> Range<usize> {
        self.0[i]..self.0[i + 1]
    }

    /// The rows of every segment in turn.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
        self.0.windows(2).map(|w| w[0]..w[1])
    }

    /// For every row the segment it lies in.
    pub fn owners(&self) -> Vec<usize> {
        self.ranges().enumerate().flat_map(|(i, r)| std::iter::repeat_n(i, r.len())).collect()
    }
}
