//! The server's orders for one round: pure data, the same for every client save where a list says so.

mod draw;
mod message;
mod objective;
mod reshape;

use std::collections::BTreeMap;

use bonfire_models::{Adapter, DeltaLog, Factor, Matrix};
use serde::{Deserialize, Serialize};

use crate::{Probe, TargetSlots, WireSettings};
pub use draw::{Others, SlotDraw};
pub use objective::{Branches, ClientPrivacy, LocalOptimizer, Private, TailPenalty, Terms, Threshold};
pub use reshape::{Alignment, ProductSketch};

/// Tensors by name, as messages and files hold them.
pub type Named = BTreeMap<String, Matrix>;

/// What trains in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Active {
    /// A alone; B is frozen.
    A,
    /// B alone; A is frozen.
    B,
    /// Both factors.
    Both,
    /// What stands between A and B alone.
    Core,
    /// Both factors and what stands between them.
    All,
    /// No adapter: every weight of the encoder.
    Full,
}

impl Active {
    /// The factors that train, in the order they are uploaded.
    pub fn factors(self) -> &'static [Factor] {
        match self {
            Active::A => &[Factor::A],
            Active::B => &[Factor::B],
            Active::Both => &[Factor::A, Factor::B],
            Active::Core => &[Factor::Core],
            Active::All => &[Factor::A, Factor::B, Factor::Core],
            Active::Full => &[],
        }
    }

    /// The name in records: `"A"`, `"B"`, `"AB"`, `"core"`, `"AB+core"` or `"full"`.
    pub fn name(self) -> &'static str {
        match self {
            Active::A => "A",
            Active::B => "B",
            Active::Both => "AB",
            Active::Core => "core",
            Active::All => "AB+core",
            Active::Full => "full",
        }
    }

    /// Whether the round's start can be folded into the backbone: with one active factor it is the same for all and
    /// the update is linear in what moves.
    pub(crate) fn folds(self) -> bool {
        self.factors().len() == 1
    }
}

/// What every client starts from.
#[derive(Clone, Copy, Debug)]
pub struct Start<'s> {
    /// The global adapter.
    pub adapter: &'s Adapter,
    /// What earlier rounds merged into the backbone.
    pub merged: &'s DeltaLog,
}

/// Orders for every client of a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Round, from 1.
    pub round: usize,
    /// What trains.
    pub active: Active,
    /// Slots that exist; `None`: all. The others neither train nor cross the wire.
    pub live: Option<TargetSlots>,
    /// Ranks of the clients: client `k` works with the first `ranks[k]` of the live slots of every target.
    pub ranks: Option<Vec<usize>>,
    /// The slots of `ranks` are not the first ones but drawn for every client and round; `None`: the first ones.
    #[serde(default)]
    pub draw: Option<SlotDraw>,
    /// How each client chooses among its slots; `None`: all of them train.
    pub selection: Option<Selection>,
    /// Whether the head trains too.
    pub train_head: bool,
    /// Learning rate of A, and of the weights in full fine-tuning.
    pub lr_a: f64,
    /// Learning rate of B.
    pub lr_b: f64,
    /// Learning rate of what stands between them.
    pub lr_core: f64,
    /// What the local objective adds to cross-entropy.
    pub terms: Terms,
    /// How clients step.
    pub optimizer: LocalOptimizer,
    /// What clients keep for themselves.
    pub private: Private,
    /// How clients turn their slots before they send them.
    #[serde(default)]
    pub align: Option<Alignment>,
    /// Clients send these sketches of their product in place of its factors.
    #[serde(default)]
    pub sketch: Option<ProductSketch>,
    /// What is done to an upload for privacy before it leaves.
    pub privacy: ClientPrivacy,
    /// How messages are written.
    #[serde(default)]
    pub wire: WireSettings,
    /// Each client also reports, layer by layer, how much the states of its first batch say ([`crate::layer_score`]).
    pub layer_scores: bool,
    /// Each client also reports the mean loss of its training rows by the model that it starts from.
    #[serde(default)]
    pub start_loss: bool,
    /// A and B are a start that every client makes from the seed, so nobody is sent them.
    pub seeded: bool,
    /// Clients go on by themselves after the last round: their orders of rows and their masks are other streams than a round's, their
    /// rates those of the settings whatever the round, and nothing is noised.
    #[serde(default)]
    pub alone: bool,
}

impl Plan {
    /// Orders to train `active` in `round`, and nothing special.
    pub fn new(round: usize, active: Active, lr_a: f64, lr_b: f64) -> Plan {
        Plan {
            round,
            active,
            live: None,
            ranks: None,
            draw: None,
            selection: None,
            train_head: false,
            lr_a,
            lr_b,
            lr_core: lr_b,
            terms: Terms::default(),
            optimizer: LocalOptimizer::default(),
            private: Private::default(),
            align: None,
            sketch: None,
            privacy: ClientPrivacy::Off,
            wire: WireSettings::default(),
            layer_scores: false,
            start_loss: false,
            seeded: false,
            alone: false,
        }
    }

    /// The same orders at so many times the learning rates.
    pub(crate) fn at_rates(&self, factor: f64) -> Plan {
        let [lr_a, lr_b, lr_core] = [self.lr_a, self.lr_b, self.lr_core].map(|lr| lr * factor);
        Plan { lr_a, lr_b, lr_core, ..self.clone() }
    }

    /// Numbers that train on a client where all slots do.
    pub fn scalars(&self, global: &Adapter) -> u64 {
        let factors: u64 = self.active.factors().iter().map(|&factor| global.factor_params(factor)).sum();
        let weights = if self.active == Active::Full { global.weight_params() } else { 0 };
        factors + weights + if self.train_head { global.head_params() } else { 0 }
    }

    /// Whether nothing at all trains on `client`: its last slot is gone, and the head is frozen.
    pub(crate) fn trains_nothing(&self, client: usize, global: &Adapter) -> bool {
        let gone = || self.slots_of(client, global).is_some_and(|slots| slots.count() == 0);
        !self.train_head && !self.active.factors().is_empty() && gone()
    }

    /// The slots that `client` trains, or chooses among; `None`: all of them.
    pub fn slots_of(&self, client: usize, global: &Adapter) -> Option<TargetSlots> {
        if self.live.is_none() && self.ranks.is_none() {
            return None;
        }
        let all = || TargetSlots::first(global.rank, global.targets.len());
        let mut slots = self.live.clone().unwrap_or_else(all);
        match (&self.ranks, &self.draw) {
            (Some(ranks), None) => slots.truncate(|_| ranks[client]),
            (Some(ranks), Some(draw)) => slots = draw.draw(&slots, self.round, client, ranks[client]),
            (None, _) => {}
        }
        Some(slots)
    }

    /// The slots that `client` must hold to begin: those it trains, and what it computes with besides. `None`: all of them.
    pub fn slots_held(&self, client: usize, global: &Adapter) -> Option<TargetSlots> {
        if self.keeps_frozen_slots() { self.live.clone() } else { self.slots_of(client, global) }
    }

    /// Whether a client's slots may be others in the next round, so that what it holds of the last ones is of no use.
    pub fn draws_anew(&self) -> bool {
        self.draw.as_ref().is_some_and(|draw| draw.others == Others::Absent)
    }

    /// Whether slots that a client does not train stay in its model.
    pub(crate) fn keeps_frozen_slots(&self) -> bool {
        self.draw.as_ref().is_some_and(|draw| draw.others == Others::Frozen)
    }

    /// Whether the round's start is folded into the backbone of all clients: with one active factor the update is linear in
    /// what moves, and where slots are frozen beside those that train they are the same for all. Where a share of what adapters
    /// read is dropped, the start is dropped with what moved, so it stays beside the backbone.
    pub(crate) fn folds(&self, dropped: f64) -> bool {
        (self.active.folds() && dropped == 0.0) || self.keeps_frozen_slots()
    }

    /// Whether clients can drop a share of what adapters read: not where the slots that one does not train are in its backbone.
    pub fn allows_dropout(&self) -> bool {
        let some = self.selection.is_some() || self.ranks.is_some() || self.live.is_some();
        let others_are_folded = self.active.folds() && some;
        self.active != Active::Full && !self.keeps_frozen_slots() && !others_are_folded
    }

    /// What a client's update is multiplied by, beside LoRA's scale.
    pub(crate) fn update_factor(&self, client: usize, global: &Adapter) -> f32 {
        match (&self.ranks, self.draws_anew()) {
            (Some(ranks), true) => (global.rank as f64 / ranks[client] as f64) as f32,
            _ => 1.0,
        }
    }
}

/// LoRA-A²'s adaptive rank selection; needs a single active factor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// How slots are probed.
    pub probe: Probe,
    /// What the probe is asked for.
    pub score: Score,
    /// What a score is divided by.
    #[serde(default)]
    pub per: Per,
    /// Slots per target on average, for every client of the federation (r_i).
    pub budgets: Vec<usize>,
}

/// What makes a slot worth training: the first three are the rules of LoRA-A²'s table 9, the others ask what those could be
/// measured against. With `i` a slot, X the factor that trains and F the one that is frozen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Score {
    /// `‖ΔB_i‖·‖A_i‖`: what the slot's movement adds to the model (the paper's rule).
    #[default]
    Contribution,
    /// `‖ΔB_i‖` or `‖ΔA_i‖`: the movement alone.
    Magnitude,
    /// Smoothed sensitivity `|w·∇w|` times its uncertainty, as in AdaLoRA (arXiv 2303.10512, eq. 8 to 11).
    Importance,
    /// `‖ḡ_i‖·‖F_i‖` with ḡ the mean gradient of X over the probe's steps: the norm of the slot's rank-1 gradient. Unlike a
    /// movement by AdamW, whose every number has the size of the learning rate, it knows large gradients from small ones.
    Gradient,
    /// `Σ g²` over the numbers of X_i and the probe's steps, g being the gradient of a step: the diagonal of the empirical
    /// Fisher information.
    Fisher,
    /// A uniform number from the run's seed: the control. Nothing is probed, unless the slots are to keep what a probe
    /// learnt.
    Random,
}

/// What a slot's score is divided by before slots are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Per {
    /// Nothing: a slot is a slot.
    #[default]
    Slot,
    /// The bytes its vector costs in an upload, so that wide linears do not win by their width.
    Byte,
}
