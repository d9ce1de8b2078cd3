//! The server's state between rounds. What a strategy wants to remember goes into named tensors, so that a checkpoint
//! can hold it without knowing the strategy.

use std::collections::BTreeMap;

use bonfire_models::{Adapter, Matrix};

/// State after `round` complete rounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Complete rounds.
    pub round: usize,
    /// The global adapter.
    pub adapter: Adapter,
    /// What the strategy remembers between rounds.
    pub state: BTreeMap<String, Matrix>,
}

impl Server {
    /// The state before the first round.
    pub fn new(adapter: Adapter) -> Self {
        Server { round: 0, adapter, state: BTreeMap::new() }
    }
}
