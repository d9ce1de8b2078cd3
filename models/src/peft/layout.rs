//! What each linear carries in an adapter file: all slots of the global rank, or those that do something.

use crate::{Adapter, Matrix, Target};

/// How ranks are laid out in an adapter file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// One rank for all linears, empty slots as zeros: what every loader understands.
    #[default]
    Uniform,
    /// Slots that change nothing are left out, so ranks differ; a linear without any carries no adapter.
    Compact,
}

/// A linear's factors as they go into a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Carried<'a> {
    pub target: &'a Target,
    /// `[d_in, r]`.
    pub a: Matrix,
    /// `[r, d_out]`.
    pub b: Matrix,
}

impl Carried<'_> {
    pub fn rank(&self) -> usize {
        self.a.cols
    }
}

impl Layout {
    /// What each linear carries. At least one does: PEFT knows no adapter of nothing.
    pub(crate) fn carried<'a>(self, adapter: &'a Adapter) -> Vec<Carried<'a>> {
        let used: Vec<Vec<usize>> = (0..adapter.targets.len()).map(|t| self.slots(adapter, t)).collect();
        let nothing = used.iter().all(Vec::is_empty);
        let positions = |(t, slots): (usize, &Vec<usize>)| {
            let first = [0].as_slice();
            let slots = if nothing && t == 0 { first } else { slots };
            (!slots.is_empty()).then(|| Carried {
                target: &adapter.targets[t],
                a: adapter.a[t].transposed().rows(slots).transposed(),
                b: adapter.b[t].rows(slots),
            })
        };
        used.iter().enumerate().filter_map(positions).collect()
    }

    /// The slots of a target that go into the file.
    fn slots(self, adapter: &Adapter, t: usize) -> Vec<usize> {
        let (a, b) = (&adapter.a[t], &adapter.b[t]);
        let works = |slot: &usize| {
            let down = a.data.iter().skip(*slot).step_by(a.cols).any(|v| *v != 0.0);
            down && b.data[slot * b.cols..(slot + 1) * b.cols].iter().any(|v| *v != 0.0)
        };
        (0..adapter.rank).filter(|slot| self == Layout::Uniform || works(slot)).collect()
    }
}
