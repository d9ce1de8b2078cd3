//! Some of the slots of every target: those that exist, those a client may train, those it chose. A slot is one of the R
//! rank-1 pairs of a target's adapter, column i of A with row i of B.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

/// For every target a list of slots, ascending and each once. Reads as a slice of lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Vec<Vec<usize>>")]
pub struct TargetSlots(Vec<Vec<usize>>);

impl TargetSlots {
    /// The first `count` slots of each of `targets` targets.
    pub fn first(count: usize, targets: usize) -> TargetSlots {
        TargetSlots(vec![(0..count).collect(); targets])
    }

    /// Slots over all targets.
    pub fn count(&self) -> usize {
        self.iter().map(Vec::len).sum()
    }

    /// Whether `slot` of `target` is among them.
    pub fn contains(&self, target: usize, slot: usize) -> bool {
        self[target].binary_search(&slot).is_ok()
    }

    /// Leaves those slots `(target, slot)` that `stays` says yes to.
    pub fn retain(&mut self, mut stays: impl FnMut(usize, usize) -> bool) {
        for (target, slots) in self.0.iter_mut().enumerate() {
            slots.retain(|&slot| stays(target, slot));
        }
    }

    /// Leaves the first of each target's slots: as many as `most` says to their number.
    pub fn truncate(&mut self, most: impl Fn(usize) -> usize) {
        for slots in &mut self.0 {
            slots.truncate(most(slots.len()));
        }
    }

    /// The slots as one number each, target after target, where every target has `rank` of them.
    pub fn flat(&self, rank: usize) -> impl Iterator<Item = usize> {
        self.iter().enumerate().flat_map(move |(target, slots)| slots.iter().map(move |slot| target * rank + slot))
    }
}

impl Deref for TargetSlots {
    type Target = [Vec<usize>];

    fn deref(&self) -> &[Vec<usize>] {
        &self.0
    }
}

/// Lists may come in any order; a slot that is named twice counts once.
impl FromIterator<Vec<usize>> for TargetSlots {
    fn from_iter<I: IntoIterator<Item = Vec<usize>>>(lists: I) -> TargetSlots {
        let ascending = |mut slots: Vec<usize>| {
            slots.sort_unstable();
            slots.dedup();
            slots
        };
        TargetSlots(lists.into_iter().map(ascending).collect())
    }
}

/// Lists of others' are taken as they are or not at all.
impl TryFrom<Vec<Vec<usize>>> for TargetSlots {
    type Error = &'static str;

    fn try_from(lists: Vec<Vec<usize>>) -> Result<TargetSlots, &'static str> {
        let ascending = |slots: &Vec<usize>| slots.windows(2).all(|pair| pair[0] < pair[1]);
        if lists.iter().all(ascending) { Ok(TargetSlots(lists)) } else { Err("slots of a target must ascend") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_ascend_whoever_made_them() {
        let slots: TargetSlots = [vec![3, 0, 3, 1], vec![]].into_iter().collect();
        assert_eq!(*slots, [vec![0, 1, 3], vec![]]);
        assert!(slots.contains(0, 3) && !slots.contains(0, 2) && slots.count() == 3);
        assert_eq!(slots.flat(4).collect::<Vec<_>>(), [0, 1, 3]);
        assert_eq!(serde_json::to_string(&slots).expect("JSON"), "[[0,1,3],[]]");
        assert_eq!(serde_json::from_str::<TargetSlots>("[[0,1,3],[]]").expect("ascends"), slots);
        for wrong in ["[[1,0]]", "[[2,2]]"] {
            let error = serde_json::from_str::<TargetSlots>(wrong).expect_err("refused").to_string();
            assert!(error.contains("must ascend"), "{error}");
        }
    }

    #[test]
    fn fewer_are_left_by_a_rule_or_by_number() {
        let mut slots = TargetSlots::first(4, 2);
        slots.retain(|target, slot| target == 0 || slot % 2 == 1);
        assert_eq!(*slots, [vec![0, 1, 2, 3], vec![1, 3]]);
        slots.truncate(|len| len / 2);
        assert_eq!(*slots, [vec![0, 1], vec![1]]);
    }
}
