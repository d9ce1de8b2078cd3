//! From what a client learnt to what leaves it: the private part stays, a shrinking tail is dropped, privacy is
//! applied, and the rest becomes the upload.

use bonfire_data::random::{NoiseKey, Use};
use bonfire_models::{Adapter, Factor, Matrix};
use rand::{Rng, RngExt};

use crate::alignment::align;
use crate::parameters::Role;
use crate::{ClientPrivacy, Named, Plan, Private, Slots, TailPenalty, TrainSettings, Upload};

/// What a client holds at the end of a round, role by role.
pub(crate) struct Learnt {
    pub client: usize,
    /// Examples in its shard.
    pub examples: usize,
    /// Its slots by target; `None`: all.
    pub slots: Option<Vec<Vec<usize>>>,
    /// Whether it chose them itself, so that the server must be told.
    pub chosen: bool,
    pub movement: Vec<Matrix>,
    /// See [`crate::local_loop::Outcome::extra`].
    pub extra: Vec<Matrix>,
    /// A score a layer, if the plan asks for them.
    pub layer_scores: Option<Matrix>,
    pub loss: f64,
    pub steps: usize,
    pub tokens: u64,
}

/// Makes the upload. `memory` is what the client kept from earlier rounds.
pub(crate) fn upload(
    plan: &Plan,
    global: &Adapter,
    settings: &TrainSettings,
    noise: &NoiseKey,
    memory: Option<&Named>,
    mut learnt: Learnt,
) -> Upload {
    let roles = Role::all(plan, global);
    if let Some(tail) = plan.terms.tail {
        drop_tail(plan, global, tail, &roles, &mut learnt);
    }
    if let Some(alignment) = plan.align {
        align(alignment, global, &roles, &mut learnt.movement);
    }
    let mut kept = Named::new();
    let mut aux = Vec::new();
    if let Some(server) = &plan.terms.variate {
        aux.push(("control", variate(server, memory, &roles, &learnt, global, &mut kept)));
    }
    if matches!(plan.optimizer, crate::LocalOptimizer::Amended { .. }) {
        aux.push(("second", std::mem::take(&mut learnt.extra)));
    }
    if let Some(scores) = learnt.layer_scores.take() {
        aux.push(("layers", vec![scores]));
    }
    if let Some(sketch) = &plan.sketch {
        aux.push(("sketch", sketch.of(plan.round, global, &roles, &learnt.movement)));
    }
    let movement = keep_private(plan, global, &roles, &mut learnt, &mut kept);
    let sent = |role: &Role| match role {
        Role::Factor(..) if plan.sketch.is_some() => false,
        Role::Factor(_, factor) => !plan.private.factors.contains(factor),
        Role::Weight(_) => true,
        Role::Head(_) => !plan.private.head,
    };
    let mut factors: Vec<(Factor, Vec<Matrix>)> = Vec::new();
    let (mut weights, mut head) = (Vec::new(), Vec::new());
    for (role, matrix) in roles.iter().zip(movement).filter(|(role, _)| sent(role)) {
        match role {
            Role::Weight(_) => weights.push(matrix),
            Role::Head(_) => head.push(matrix),
            Role::Factor(_, factor) => match factors.last_mut().filter(|(f, _)| f == factor) {
                Some((_, list)) => list.push(matrix),
                None => factors.push((*factor, vec![matrix])),
            },
        }
    }
    let rank = global.rank;
    let slots = match learnt.slots {
        None => Slots::All { rank },
        Some(slots) if learnt.chosen => Slots::Chosen { rank, slots },
        Some(slots) => Slots::Given { rank, slots },
    };
    let mut upload = Upload {
        client: learnt.client,
        examples: learnt.examples,
        active: plan.active,
        slots,
        factors,
        weights,
        head,
        aux,
        kept,
        loss: learnt.loss,
        steps: learnt.steps,
        tokens: learnt.tokens,
    };
    protect(plan, settings, noise, &mut upload);
    upload
}

/// HetLoRA's self-pruning: the last slots go when their product has shrunk in training.
fn drop_tail(plan: &Plan, global: &Adapter, tail: TailPenalty, roles: &[Role], learnt: &mut Learnt) {
    let targets = global.targets.len();
    let mut slots = learnt.slots.clone().unwrap_or_else(|| vec![(0..global.rank).collect::<Vec<usize>>(); targets]);
    let norm =
        |m: &Matrix, keeps: usize| m.data[keeps * m.cols..].iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let (mut before, mut after) = (0.0, 0.0);
    for (t, own) in slots.iter().enumerate() {
        let keeps = tail.keeps(own.len());
        let (mut start, mut end) = (1.0, 1.0);
        for factor in [Factor::A, Factor::B] {
            let mut whole = global.slot_rows(factor, t).rows(own);
            start *= norm(&whole, keeps);
            if let Some(at) = roles.iter().position(|r| *r == Role::Factor(t, factor)) {
                whole.data.iter_mut().zip(&learnt.movement[at].data).for_each(|(w, m)| *w += m);
            }
            end *= norm(&whole, keeps);
        }
        (before, after) = (before + start, after + end);
    }
    if after >= before || plan.active.folds() {
        return;
    }
    for own in &mut slots {
        own.truncate(tail.keeps(own.len()));
    }
    for (role, matrix) in roles.iter().zip(&mut learnt.movement) {
        if let Role::Factor(t, _) = role {
            *matrix = matrix.rows(&(0..slots[*t].len()).collect::<Vec<_>>());
        }
    }
    learnt.slots = Some(slots);
}

/// SCAFFOLD: the client's next control variate is its mean gradient (with plain SGD the paper's option II exactly);
/// what changed of it is sent. Slots it does not have keep their variate.
fn variate(
    server: &Named,
    memory: Option<&Named>,
    roles: &[Role],
    learnt: &Learnt,
    global: &Adapter,
    kept: &mut Named,
) -> Vec<Matrix> {
    let mut changes = Vec::new();
    for (role, gradient) in roles.iter().zip(&learnt.extra) {
        let name = format!("control/{}", role.name());
        let zero = || role_zeros(*role, global, server);
        let mut own = memory.and_then(|m| m.get(&name).cloned()).unwrap_or_else(zero);
        let rows: Vec<usize> = match (role, &learnt.slots) {
            (Role::Factor(t, _), Some(slots)) => slots[*t].clone(),
            _ => (0..own.rows).collect(),
        };
        let mut change = gradient.clone();
        for (row, &slot) in rows.iter().enumerate() {
            let (here, there) = (row * own.cols..(row + 1) * own.cols, slot * own.cols..(slot + 1) * own.cols);
            for (new, old) in change.data[here].iter_mut().zip(&mut own.data[there]) {
                let gradient = *new;
                *new -= *old;
                *old = gradient;
            }
        }
        kept.insert(name, own);
        changes.push(change);
    }
    changes
}

/// Zeros of a role's shape over all slots.
pub(crate) fn role_zeros(role: Role, global: &Adapter, like: &Named) -> Matrix {
    if let Some(m) = like.get(&role.name()) {
        return Matrix::zeros(m.rows, m.cols);
    }
    match role {
        Role::Factor(t, factor) => {
            let whole = global.slot_rows(factor, t);
            Matrix::zeros(whole.rows, whole.cols)
        }
        Role::Weight(i) => Matrix::zeros(global.weights[i].rows, global.weights[i].cols),
        Role::Head(i) => Matrix::zeros(global.head[i].value.rows, global.head[i].value.cols),
    }
}

/// Splits off what stays with the client; gives what may leave and cuts the slots to it.
fn keep_private(plan: &Plan, global: &Adapter, roles: &[Role], learnt: &mut Learnt, kept: &mut Named) -> Vec<Matrix> {
    let movement = std::mem::take(&mut learnt.movement);
    if plan.private.is_nothing() {
        return movement;
    }
    let mut slots = learnt.slots.take().unwrap_or_else(|| vec![(0..global.rank).collect(); global.targets.len()]);
    let mut leaving = Vec::new();
    for (role, matrix) in roles.iter().zip(movement) {
        let from = match role {
            Role::Head(_) if plan.private.head => 0,
            Role::Weight(_) | Role::Head(_) => matrix.rows,
            Role::Factor(t, factor) => {
                let from = plan.private.from_row(*t, *factor, global.rank);
                slots[*t].iter().filter(|&&slot| slot < from).count()
            }
        };
        let stays: Vec<usize> = (from..matrix.rows).collect();
        if !stays.is_empty() {
            kept.insert(role.name(), matrix.rows(&stays));
        }
        leaving.push(matrix.rows(&(0..from).collect::<Vec<_>>()));
    }
    for (t, slots) in slots.iter_mut().enumerate() {
        let from = plan.private.targets.contains(&t).then_some(0).or(plan.private.slots_from);
        slots.retain(|slot| from.is_none_or(|from| *slot < from));
    }
    learnt.slots = Some(slots);
    leaving
}

/// The movement a client goes on from: what it kept, role by role; `None` where it kept nothing.
pub(crate) fn resume(plan: &Plan, global: &Adapter, memory: Option<&Named>) -> Option<Vec<Matrix>> {
    let memory = memory.filter(|_| !plan.private.is_nothing())?;
    let of = |role: &Role| {
        let Some(kept) = memory.get(&role.name()) else { return Matrix::default() };
        // The shared slots come first and have not moved yet.
        let shared = match role {
            Role::Factor(t, factor) => plan.private.from_row(*t, *factor, global.rank),
            Role::Weight(_) | Role::Head(_) => 0,
        };
        let zeros = vec![0.0; shared * kept.cols];
        Matrix::new(shared + kept.rows, kept.cols, [zeros.as_slice(), &kept.data].concat())
    };
    Some(Role::all(plan, global).iter().map(of).collect())
}

/// The model of a client that keeps a part for itself: the global adapter with what it kept added.
pub fn personal(private: &Private, global: &Adapter, memory: Option<&Named>) -> Adapter {
    let mut own = global.clone();
    let Some(memory) = memory else { return own };
    for factor in Factor::ALL {
        for (t, whole) in own.factor_mut(factor).iter_mut().enumerate() {
            let Some(kept) = memory.get(&Role::Factor(t, factor).name()) else { continue };
            let from = private.from_row(t, factor, global.rank);
            let kept_at = |slot: usize, i: usize| kept.data[(slot - from) * kept.cols + i];
            for slot in from..from + kept.rows {
                for i in 0..kept.cols {
                    let at = if factor == Factor::A { i * global.rank + slot } else { slot * kept.cols + i };
                    whole.data[at] += kept_at(slot, i);
                }
            }
        }
    }
    for (i, tensor) in own.head.iter_mut().enumerate() {
        if let Some(kept) = memory.get(&Role::Head(i).name()) {
            tensor.value.data.iter_mut().zip(&kept.data).for_each(|(v, k)| *v += k);
        }
    }
    own
}

/// What privacy asks of an upload.
fn protect(plan: &Plan, settings: &TrainSettings, noise: &NoiseKey, upload: &mut Upload) {
    match plan.privacy {
        ClientPrivacy::Off => {}
        ClientPrivacy::Laplace { epsilon, clip } => {
            let mut rng = noise.stream(Use::Privacy, plan.round as u64, upload.client as u64, 0);
            for (factor, list) in &mut upload.factors {
                let lr = [plan.lr_a, plan.lr_b, plan.lr_core][crate::parameters::index(*factor)];
                list.iter_mut().for_each(|m| add_laplace(m, 2.0 * clip * lr / epsilon, &mut rng));
            }
            upload.weights.iter_mut().for_each(|m| add_laplace(m, 2.0 * clip * plan.lr_a / epsilon, &mut rng));
            upload.head.iter_mut().for_each(|m| add_laplace(m, 2.0 * clip * settings.lr_head / epsilon, &mut rng));
        }
        ClientPrivacy::Clip { clip } => upload.clip(clip),
    }
}

/// Adds Laplace(0, `scale`) to every number, by the inverse of its distribution.
fn add_laplace(m: &mut Matrix, scale: f64, rng: &mut impl Rng) {
    for v in &mut m.data {
        let u: f64 = rng.random::<f64>() - 0.5;
        *v += (-scale * u.signum() * (1.0 - 2.0 * u.abs()).max(f64::MIN_POSITIVE).ln()) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn laplace_noise_has_the_scale_asked_for() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let mut m = Matrix::zeros(100, 400);
        add_laplace(&mut m, 0.3, &mut rng);
        let n = m.data.len() as f64;
        let mean = m.data.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let size = m.data.iter().map(|v| f64::from(v.abs())).sum::<f64>() / n;
        // E|X| = b; deviations of the two means: b·√2/√n and b/√n.
        assert!(mean.abs() < 0.3 * 6.0 / n.sqrt() && (size - 0.3).abs() < 0.3 * 5.0 / n.sqrt(), "{mean} {size}");
    }
}
