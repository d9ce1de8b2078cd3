//! The server's orders for one round.

use bonfire_models::{Adapter, Factor};

use crate::Probe;

/// What trains in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Active {
    /// A alone; B is frozen.
    A,
    /// B alone; A is frozen.
    B,
    /// Both factors.
    Both,
}

impl Active {
    /// The factors that train, in the order they are uploaded.
    pub fn factors(self) -> &'static [Factor] {
        match self {
            Active::A => &[Factor::A],
            Active::B => &[Factor::B],
            Active::Both => &[Factor::A, Factor::B],
        }
    }

    /// The name in records: `"A"`, `"B"` or `"AB"`.
    pub fn name(self) -> &'static str {
        match self {
            Active::A => "A",
            Active::B => "B",
            Active::Both => "AB",
        }
    }
}

/// Orders for every client of a round.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Round, from 1.
    pub round: usize,
    /// What trains.
    pub active: Active,
    /// How each client chooses its slots; `None`: all slots train.
    pub selection: Option<Selection>,
    /// Whether the head trains too.
    pub train_head: bool,
    /// Learning rate of A.
    pub lr_a: f64,
    /// Learning rate of B.
    pub lr_b: f64,
}

impl Plan {
    /// Numbers that train on a client where all slots do.
    pub fn scalars(&self, global: &Adapter) -> u64 {
        let factors: u64 = self.active.factors().iter().map(|&factor| global.factor_params(factor)).sum();
        factors + if self.train_head { global.head_params() } else { 0 }
    }
}

/// LoRA-A²'s adaptive rank selection; needs a single active factor.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// How slots are scored.
    pub probe: Probe,
    /// Slots per target on average, for every client of the federation (r_i).
    pub budgets: Vec<usize>,
}
