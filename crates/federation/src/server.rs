//! The server's state between rounds. What a strategy wants to remember goes into named tensors, so that a checkpoint
//! can hold it without knowing the strategy.

use std::collections::BTreeSet;

use bonfire_models::{Adapter, DeltaLog, Matrix};

pub use bonfire_engine::Named;
use bonfire_engine::Start;

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
    pub state: Named,
}

impl Server {
    /// The state before the first round.
    pub fn new(adapter: Adapter) -> Self {
        Server { round: 0, adapter, merged: DeltaLog::default(), state: Named::new() }
    }

    /// What clients start from.
    pub fn start(&self) -> Start<'_> {
        Start { adapter: &self.adapter, merged: &self.merged }
    }

    /// The global model as one plain adapter over the untouched backbone: what is evaluated and exported.
    pub fn model(&self) -> Adapter {
        self.merged.total(&self.adapter)
    }

    /// The slots that exist, for every target; `None`: all of them.
    pub fn live(&self) -> Option<Vec<Vec<usize>>> {
        let live = self.state.get(LIVE)?;
        let of = |row: &[f32]| row.iter().enumerate().filter(|(_, v)| **v > 0.0).map(|(slot, _)| slot).collect();
        Some(live.data.chunks(live.cols).map(of).collect())
    }

    /// Removes every slot that is not in `live`: it is empty from now on, trained by nobody and sent to nobody.
    pub fn keep_only(&mut self, live: &[Vec<usize>]) {
        let rank = self.adapter.rank;
        let mut flags = Matrix::zeros(live.len(), rank);
        for (t, slots) in live.iter().enumerate() {
            let slots: BTreeSet<usize> = slots.iter().copied().collect();
            for slot in 0..rank {
                if slots.contains(&slot) { flags.data[t * rank + slot] = 1.0 } else { self.clear_slot(t, slot) }
            }
        }
        self.state.insert(LIVE.into(), flags);
    }

    fn clear_slot(&mut self, target: usize, slot: usize) {
        let rank = self.adapter.rank;
        self.adapter.a[target].data.iter_mut().skip(slot).step_by(rank).for_each(|v| *v = 0.0);
        let b = &mut self.adapter.b[target];
        b.data[slot * b.cols..(slot + 1) * b.cols].fill(0.0);
    }
}
