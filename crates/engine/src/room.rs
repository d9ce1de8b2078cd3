//! How much a run's devices turned out to hold. Memory is estimated before it is used, on some devices it is not even known,
//! and other programs may want it too: so what failed is remembered, and what held is doubled where nothing else is known.
//! Lasts as long as the run.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Tokens of a step where a GPU does not tell its memory, to begin with.
const FIRST: usize = 4_096;

/// What held and what did not.
#[derive(Debug)]
pub(crate) struct Room(Mutex<Found>);

#[derive(Debug)]
struct Found {
    /// Tokens that a step may hold where memory is not known.
    tokens: usize,
    /// Clients in flight at most: half of what failed.
    most: usize,
    /// Tokens of an evaluation batch.
    evaluated: usize,
}

impl Room {
    /// Before anything was tried; evaluation begins with batches of `evaluated` tokens.
    pub fn new(evaluated: usize) -> Room {
        Room(Mutex::new(Found { tokens: FIRST, most: usize::MAX, evaluated }))
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tokens that a step may hold where memory is not known.
    pub fn tokens(&self) -> usize {
        self.found().tokens
    }

    /// Clients in flight at most.
    pub fn most(&self) -> usize {
        self.found().most
    }

    /// Tokens of an evaluation batch.
    pub fn evaluated(&self) -> usize {
        self.found().evaluated
    }

    /// A round held: the next one may be twice as large, up to `goal` tokens a step. Never again what failed.
    pub fn grow(&self, goal: usize) {
        let mut found = self.found();
        if found.most == usize::MAX {
            found.tokens = (found.tokens * 2).min(goal).max(found.tokens);
        }
    }

    /// So many clients in flight failed: how many are tried next. `None`: one failed.
    pub fn halve(&self, tried: usize) -> Option<usize> {
        let mut found = self.found();
        let next = (tried > 1).then_some(tried / 2)?;
        found.most = found.most.min(next);
        Some(next)
    }

    /// An evaluation batch of so many tokens failed, the longest text of which has `longest`: how many are tried next.
    /// `None`: no batch was of more than one text.
    pub fn halve_evaluated(&self, tried: usize, longest: usize) -> Option<usize> {
        let mut found = self.found();
        let next = (tried > longest).then_some(tried / 2)?;
        found.evaluated = found.evaluated.min(next);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_is_doubled_and_what_failed_is_not_tried_again() {
        let room = Room::new(4_096);
        let mut seen = vec![room.tokens()];
        for _ in 0..4 {
            room.grow(20_000);
            seen.push(room.tokens());
        }
        assert_eq!(seen, [4_096, 8_192, 16_384, 20_000, 20_000]);
        assert_eq!(room.most(), usize::MAX);

        assert_eq!((room.halve(9), room.most()), (Some(4), 4));
        room.grow(40_000);
        assert_eq!((room.tokens(), room.most()), (20_000, 4), "doubled after a failure");
        // A device that was late to hear of it does not raise what another found.
        assert_eq!((room.halve(2), room.halve(8), room.most()), (Some(1), Some(4), 1));
        assert_eq!((room.halve(1), room.most()), (None, 1));
    }

    #[test]
    fn evaluation_halves_down_to_one_text() {
        let room = Room::new(4_096);
        assert_eq!((room.halve_evaluated(4_096, 1_500), room.evaluated()), (Some(2_048), 2_048));
        assert_eq!((room.halve_evaluated(2_048, 1_500), room.evaluated()), (Some(1_024), 1_024));
        assert_eq!(room.halve_evaluated(1_024, 1_500), None);
    }
}
