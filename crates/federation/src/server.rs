//! The server's state between rounds.

use bonfire_engine::{Start, TargetSlots};
use bonfire_models::{Adapter, DeltaLog, Matrix};

use crate::{State, groups};

/// Name of the state that says which slots exist, `[targets, R]` of ones and zeros; absent: all do.
const LIVE: &str = "live";

/// State after `round` complete rounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Complete rounds.
    pub round: usize,
    /// The global adapter.
    pub adapter: Adapter,
    /// Updates that earlier rounds merged into the backbone.
    pub merged: DeltaLog,
    /// What the strategy remembers between rounds.
    pub state: State,
}

impl Server {
    /// The state before the first round.
    pub fn new(adapter: Adapter) -> Self {
        Server { round: 0, adapter, merged: DeltaLog::default(), state: State::default() }
    }

    /// What clients start from.
    pub fn start(&self) -> Start<'_> {
        Start { adapter: &self.adapter, merged: &self.merged }
    }

    /// The global model as one plain adapter over the untouched backbone: what is evaluated and exported.
    pub fn model(&self) -> Adapter {
        self.merged.total(&self.adapter)
    }

    /// The group that `client` is in, from 0, where strategies put clients in groups; `None`: in none (yet).
    pub fn group_of(&self, client: usize) -> Option<usize> {
        groups::group_of(&self.state, client)
    }

    /// The slots that exist; `None`: all of them.
    pub fn live(&self) -> Option<TargetSlots> {
        let live = self.state.table(LIVE)?;
        let slots = |row: &[f32]| row.iter().enumerate().filter(|(_, v)| **v > 0.0).map(|(slot, _)| slot).collect();
        Some(live.data.chunks(live.cols).map(slots).collect())
    }

    /// Removes every slot that is not in `live`: it is empty from now on, trained by nobody and sent to nobody.
    pub fn keep_only(&mut self, live: &TargetSlots) {
        let rank = self.adapter.rank;
        let mut flags = Matrix::zeros(live.len(), rank);
        for t in 0..live.len() {
            for slot in 0..rank {
                if live.contains(t, slot) { flags.data[t * rank + slot] = 1.0 } else { self.clear_slot(t, slot) }
            }
        }
        self.state.set_table(LIVE, flags);
    }

    fn clear_slot(&mut self, target: usize, slot: usize) {
        let rank = self.adapter.rank;
        self.adapter.a[target].data.iter_mut().skip(slot).step_by(rank).for_each(|v| *v = 0.0);
        let b = &mut self.adapter.b[target];
        b.data[slot * b.cols..(slot + 1) * b.cols].fill(0.0);
    }
}
