//! What all strategies share: rates, what composes with them (FedProx, SCAFFOLD, privacy, the server's rule), and rank
//! pruning by the server.

use std::sync::Arc;

use bonfire_data::random::{Use, stream};
use bonfire_engine::{Active, Aux, ClientPrivacy, Plan, Role, RoleTensors, Schedule, TargetSlots, Terms, Upload};
use bonfire_models::{Adapter, AdapterInit, Matrix};

use crate::aggregate::{CentralNoise, Rule};
use crate::fair::Fair;
use crate::protection::Protection;
use crate::{Aggregation, BudgetUse, Norm, PrivacySettings, Prune, Server, Settings};

/// Name of the state that counts for how many rounds each slot has contributed little, `[targets, R]`.
const QUIET: &str = "quiet";

/// Kind of the state that holds SCAFFOLD's control variates.
const CONTROL: &str = "control";

/// What every strategy needs to know to write a plan and to average.
#[derive(Clone, Debug, PartialEq)]
pub struct Common {
    /// Learning rate of A.
    pub lr_a: f64,
    /// Learning rate of B.
    pub lr_b: f64,
    /// Whether the head trains.
    pub train_head: bool,
    /// Clients in the federation.
    pub clients: usize,
    /// Ranks of the clients, where the strategy lets them differ.
    pub ranks: Option<Vec<usize>>,
    /// Local objective: FedProx's μ.
    pub prox: f64,
    /// Whether SCAFFOLD's control variates correct gradients.
    pub scaffold: bool,
    /// What is done to uploads for privacy.
    pub privacy: ClientPrivacy,
    /// How movements are combined.
    pub rule: Rule,
    /// Rank pruning.
    pub prune: Option<Prune>,
    /// Shape of the learning rate over a client's steps, and the steps in which it rises.
    pub schedule: (Schedule, usize),
    /// Rounds of the run.
    pub rounds: usize,
    /// Seed of the run.
    pub seed: u64,
}

impl Common {
    /// Plain local training with these rates: nothing composed with it.
    pub fn plain(lr_a: f64, lr_b: f64, train_head: bool) -> Self {
        Common {
            lr_a,
            lr_b,
            train_head,
            clients: 1,
            ranks: None,
            prox: 0.0,
            scaffold: false,
            privacy: ClientPrivacy::Off,
            rule: Rule::default(),
            prune: None,
            schedule: (Schedule::Constant, 0),
            rounds: 1,
            seed: 0,
        }
    }

    /// `b_over_a` is the strategy's own ratio of learning rates, for when the user gave none for B.
    pub(crate) fn new(settings: &Settings, protection: &Protection, budgets: &[usize], b_over_a: f64) -> Self {
        let train = &settings.train;
        let lr_a = train.rate_a();
        let lr_b = train.lr_b.map_or(b_over_a * lr_a, |rate| rate.of(lr_a));
        let (clients, seed) = (settings.clients.count, train.seed);
        let noise = match (settings.privacy, protection.mechanism) {
            (Some(PrivacySettings::Gaussian { clip, .. }), Some(mechanism)) => {
                let expected = settings.expected_clients();
                Some(CentralNoise { multiplier: mechanism.noise, clip, expected, key: protection.key.clone() })
            }
            _ => None,
        };
        let (aggregation, optimizer) = (settings.server.aggregate, settings.server.optimizer);
        let schedule = settings.server.schedule.map(|schedule| (schedule, train.rounds));
        let differ = matches!(settings.strategy.traits().budget, BudgetUse::Ranks | BudgetUse::Drawn)
            && budgets.iter().any(|&b| b < settings.adapter.rank);
        Common {
            clients,
            ranks: differ.then(|| budgets.to_vec()),
            prox: train.prox,
            scaffold: train.scaffold,
            privacy: settings.client_privacy(),
            rule: Rule { aggregation, optimizer, schedule, noise, fair: fair(settings, lr_a, lr_b), smoothing: 0.0 },
            prune: settings.strategy.prune(),
            schedule: (train.schedule, train.warmup_steps),
            rounds: train.rounds,
            seed,
            ..Common::plain(lr_a, lr_b, settings.trains_head())
        }
    }

    /// A plan without selection for the server's next round.
    pub fn plan(&self, server: &Server, active: Active) -> Plan {
        let variate = self.scaffold.then(|| Arc::new(control_of(server, active)));
        Plan {
            live: server.live(),
            ranks: self.ranks.clone(),
            train_head: self.train_head,
            terms: Terms { prox: self.prox, variate, ..Terms::default() },
            privacy: self.privacy,
            start_loss: self.rule.fair.is_some(),
            ..Plan::new(server.round + 1, active, self.lr_a, self.lr_b)
        }
    }

    /// What the rates of a client's `steps` add up to, in rates of the settings: `steps` where the rate is constant. A
    /// movement over this is a mean gradient.
    pub(crate) fn steps_at_full_rate(&self, steps: usize) -> f64 {
        let (schedule, warmup) = self.schedule;
        (0..steps).map(|step| schedule.factor(step, steps, warmup)).sum()
    }

    /// The average of every uploaded tensor, by the rule; then control variates and pruning.
    pub fn average(&self, server: &mut Server, uploads: &[Upload], norm: Norm) {
        let round = server.round + 1;
        self.rule.apply(&mut server.adapter, &mut server.state, round, uploads, norm);
        if self.scaffold {
            self.variate(server, uploads);
        }
        if let Some(prune) = self.prune {
            prune_slots(prune, server);
        }
    }

    /// The average of the heads alone, for strategies that combine factors in their own way.
    pub(crate) fn average_heads(&self, server: &mut Server, uploads: &[&Upload]) {
        let bare = |u: &&Upload| Upload { factors: Vec::new(), ..(*u).clone() };
        if uploads.iter().any(|u| !u.head.is_empty()) {
            let heads: Vec<Upload> = uploads.iter().map(bare).collect();
            self.rule.apply(&mut server.adapter, &mut server.state, server.round + 1, &heads, Norm::All);
        }
    }

    /// A fresh start of A and B for the next round, from the seed, so that clients make it themselves.
    pub(crate) fn restart(&self, server: &mut Server, init: AdapterInit) {
        let old = &server.adapter;
        let mut rng = stream(self.seed, Use::Restart, server.round as u64 + 1, 0, 0);
        let fresh = Adapter::fresh(&old.targets, old.rank, old.alpha, init, Vec::new(), &mut rng);
        (server.adapter.a, server.adapter.b) = (fresh.a, fresh.b);
    }

    /// SCAFFOLD: `c ← c + (1/K)·Σ Δc_k` over the round's clients; a slot a client does not have counts as zero.
    fn variate(&self, server: &mut Server, uploads: &[Upload]) {
        for upload in uploads {
            let Some(changes) = upload.aux(Aux::Variates) else { continue };
            for (role, change) in upload.roles().zip(changes) {
                let slots = match role {
                    Role::Factor(t, _) => upload.slots.of(t),
                    Role::Weight(_) | Role::Head(_) => (0..change.rows).collect(),
                };
                let sum = server.state.tensor_mut(CONTROL, role, role.shape(&server.adapter));
                for (row, slot) in slots.into_iter().enumerate() {
                    let from = &change.data[row * change.cols..(row + 1) * change.cols];
                    let into = &mut sum.data[slot * change.cols..(slot + 1) * change.cols];
                    into.iter_mut().zip(from).for_each(|(c, d)| *c += d / self.clients as f32);
                }
            }
        }
    }
}

/// What q-FedAvg goes by, with clients' rates `lr_a` and `lr_b`.
fn fair(settings: &Settings, lr_a: f64, lr_b: f64) -> Option<Fair> {
    let Aggregation::QFedAvg { q, lipschitz } = settings.server.aggregate else { return None };
    let of = |rate: f64| lipschitz.unwrap_or(1.0 / rate);
    let lr_core = settings.gates().map_or(lr_b, |(_, rate)| rate);
    Some(Fair { q, factors: [lr_a, lr_b, lr_core].map(of), head: of(settings.train.lr_head) })
}

/// The server's control variates of what trains.
fn control_of(server: &Server, active: Active) -> RoleTensors {
    let mut variates = server.state.tensors(CONTROL);
    variates.retain(|role, _| match role {
        Role::Factor(_, factor) => active.factors().contains(factor),
        Role::Weight(_) | Role::Head(_) => true,
    });
    variates
}

/// What each slot adds to the global model: `‖A_i‖·‖B_i‖` by target and slot.
pub(crate) fn contributions(adapter: &Adapter) -> Vec<Vec<f64>> {
    use bonfire_models::Factor::{A, B};
    let norms = |m: &Matrix| -> Vec<f64> {
        let norm = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        m.data.chunks(m.cols.max(1)).map(norm).collect()
    };
    let products = |t: usize| {
        let (a, b) = (norms(&adapter.slot_rows(A, t)), norms(&adapter.slot_rows(B, t)));
        a.iter().zip(b).map(|(x, y)| x * y).collect()
    };
    (0..adapter.targets.len()).map(products).collect()
}

/// Removes slots that have contributed little for long enough. A round's end is evaluated by the global model, so all
/// clients agree; the slot of largest contribution always stays.
fn prune_slots(prune: Prune, server: &mut Server) {
    let shares = contributions(&server.adapter);
    let largest = shares.iter().flatten().copied().fold(0.0, f64::max);
    let rank = server.adapter.rank;
    let mut quiet = server.state.table(QUIET).cloned().unwrap_or_else(|| Matrix::zeros(shares.len(), rank));
    if server.round + 1 > prune.warmup {
        let flat = shares.iter().flatten();
        for (count, share) in quiet.data.iter_mut().zip(flat) {
            *count = if *share < prune.threshold * largest { *count + 1.0 } else { 0.0 };
        }
        let before = server.live().unwrap_or_else(|| TargetSlots::first(rank, shares.len()));
        let mut live = before.clone();
        live.retain(|t, slot| quiet.data[t * rank + slot] < prune.patience as f32);
        if live != before {
            server.keep_only(&live);
        }
    }
    server.state.set_table(QUIET, quiet);
}
