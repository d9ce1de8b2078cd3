//! Slots that a client is given by chance: who knows the run's seed knows them, so nothing is said about them.

use bonfire_data::random::{Use, stream};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::TargetSlots;

/// How the slots of [`super::Plan::ranks`] are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotDraw {
    /// The run's seed.
    pub seed: u64,
    /// What becomes of the slots that a client was not given.
    pub others: Others,
}

/// What becomes of the slots that a client was not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Others {
    /// They are not in its model, which is `s·(R/r_k)·A·S·B`, S picking its r_k slots: an unbiased sketch of the whole
    /// (FSLoRA, arXiv 2501.19389).
    Absent,
    /// They are in its model, frozen (Fed-PLoRA, arXiv 2602.16936).
    Frozen,
}

impl SlotDraw {
    /// Up to `count` of every target's `slots`: each target by a draw of its own, without repetition.
    pub(super) fn draw(&self, slots: &TargetSlots, round: usize, client: usize, count: usize) -> TargetSlots {
        let mut rng = stream(self.seed, Use::Selection, round as u64, client as u64, 0);
        let mut of_target = |slots: &Vec<usize>| {
            let mut drawn = slots.clone();
            drawn.shuffle(&mut rng);
            drawn.truncate(count);
            drawn
        };
        slots.iter().map(&mut of_target).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_drawn_as_often_and_targets_apart() {
        let draw = SlotDraw { seed: 3, others: Others::Absent };
        let of = |round, client| draw.draw(&TargetSlots::first(4, 2), round, client, 2);
        assert_eq!(of(1, 5), of(1, 5));
        let (mut seen, mut alike) = ([[0usize; 4]; 2], 0);
        for round in 1..=400 {
            let slots = of(round, round % 7);
            assert!(slots.iter().all(|s| s.len() == 2 && s[0] < s[1]));
            slots.iter().enumerate().for_each(|(t, s)| s.iter().for_each(|&slot| seen[t][slot] += 1));
            alike += usize::from(slots[0] == slots[1]);
        }
        // Binomials: half of 400, deviation 10; the six pairs agree in a sixth of 400, deviation 7.5.
        assert!(seen.iter().flatten().all(|&n| n.abs_diff(200) < 50), "{seen:?}");
        assert!(alike.abs_diff(67) < 38, "{alike}");
    }
}
