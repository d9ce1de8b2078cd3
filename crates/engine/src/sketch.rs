//! Uploads without training: the message a client would send by a plan, with made-up numbers in it. What a federation
//! would send is known before anything is trained.

use bonfire_data::random::NoiseKey;
use bonfire_models::{Adapter, Matrix};

use crate::job::{ClientJob, Outcome};
use crate::send::upload;
use crate::start_loss;
use crate::{Member, Plan, Role, TargetSlots, TrainSettings, Upload};

/// Which slots a client is taken to choose where it chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Those of the shortest vectors: the least it could send.
    Narrowest,
    /// Those of the longest vectors: the most it could send.
    Widest,
}

/// The upload of `client` by the `plan`, as if it held one example.
pub fn sketch(plan: &Plan, global: &Adapter, settings: &TrainSettings, client: usize, choice: Choice) -> Upload {
    let given = plan.slots_of(client, global);
    let slots = match &plan.selection {
        Some(selection) => Some(choose(plan, global, given.as_ref(), selection.budgets[client], choice)),
        None => given,
    };
    sketch_of(plan, global, settings, client, slots)
}

/// The upload of `client` with these `slots` (`None`: all), as if it held one example.
pub(crate) fn sketch_of(
    plan: &Plan,
    global: &Adapter,
    settings: &TrainSettings,
    client: usize,
    slots: Option<TargetSlots>,
) -> Upload {
    let matrix = |role: &Role| {
        let [all, cols] = role.shape(global);
        let rows = match (role, &slots) {
            (Role::Factor(t, _), Some(slots)) => slots[*t].len(),
            _ => all,
        };
        Matrix::new(rows, cols, (0..rows * cols).map(|i| made_up(i, client)).collect())
    };
    let movement: Vec<Matrix> = Role::all(plan, global).iter().map(matrix).collect();
    let layer_scores = plan.layer_scores.then(|| Matrix::zeros(1, layers(global)));
    let outcome = Outcome { report: movement.clone(), movement, layer_scores, steps: 1, ..Outcome::default() };
    let member = Member::new(client, &[0]);
    let update_factor = plan.update_factor(client, global);
    let job = ClientJob { member, steps: 1, slots, movement: None, correction: None, update_factor, probed_tokens: 0 };
    // Made-up numbers have nothing to protect, so their noise may come from the run's seed.
    let mut made = upload(plan, global, settings, &NoiseKey::Seed(settings.seed), &job, outcome);
    made.aux.extend(plan.start_loss.then(|| start_loss::message(1.0)));
    made
}

/// Layers that carry an adapter.
fn layers(global: &Adapter) -> usize {
    global.targets.iter().map(|t| t.layer + 1).max().unwrap_or(0)
}

/// A small number that differs within a matrix and from client to client (SplitMix64's finaliser), so that neither a
/// matrix nor a difference of two clients' is singular by accident.
fn made_up(number: usize, client: usize) -> f32 {
    let mut mixed = ((client as u64) << 40 | number as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    1e-3 * (((mixed ^ (mixed >> 31)) >> 40) as f32 / (1 << 24) as f32 - 0.5)
}

/// As many slots as the budget allows, from the narrowest targets or the widest.
fn choose(plan: &Plan, global: &Adapter, given: Option<&TargetSlots>, budget: usize, choice: Choice) -> TargetSlots {
    let factor = plan.active.factors()[0];
    let width = |t: usize| global.factor(factor)[t].data.len();
    let mut order: Vec<usize> = (0..global.targets.len()).collect();
    order.sort_by_key(|&t| width(t));
    if choice == Choice::Widest {
        order.reverse();
    }
    let mut left = budget * global.targets.len();
    let mut slots = vec![Vec::new(); global.targets.len()];
    for t in order {
        let all: Vec<usize> = given.map_or_else(|| (0..global.rank).collect(), |given| given[t].clone());
        slots[t] = all.into_iter().take(left).collect();
        left -= slots[t].len();
    }
    slots.into_iter().collect()
}
