//! From what a client learnt to what leaves it: what it keeps for itself stays (FedSA-LoRA, DFL), HetLoRA's shrunk last slots are
//! dropped, factors are turned (FedRot-LoRA) or sketched (FedASK), what changed of SCAFFOLD's variates is added, privacy clips and
//! adds noise, and the rest becomes the upload.

use bonfire_data::random::{NoiseKey, Use};
use bonfire_models::{Adapter, Factor, Matrix};
use rand::{Rng, RngExt};

use crate::alignment::align;
use crate::job::{ClientJob, Outcome};
use crate::terms::{scaffold, tail};
use crate::{
    Aux, ClientMemory, ClientPrivacy, LocalOptimizer, Plan, Private, Role, RoleTensors, Slots, TargetSlots,
    TrainSettings, Upload,
};

/// Makes the upload of the client of `job`.
pub(crate) fn upload(
    plan: &Plan,
    global: &Adapter,
    settings: &TrainSettings,
    noise: &NoiseKey,
    job: &ClientJob,
    outcome: Outcome,
) -> Upload {
    let roles = Role::all(plan, global);
    let Outcome { mut movement, report, layer_scores, loss, steps, tokens, .. } = outcome;
    let (member, mut slots) = (&job.member, job.slots.clone());
    if let Some(tail) = plan.terms.tail.filter(|_| !plan.active.folds()) {
        let all = slots.clone().unwrap_or_else(|| all_slots(global));
        if let Some(left) = tail::left_after_pruning(tail, global, &roles, &all, &movement) {
            movement = roles.iter().zip(movement).map(|(role, matrix)| first_rows(*role, matrix, &left)).collect();
            slots = Some(left);
        }
    }
    if let Some(alignment) = plan.align {
        align(alignment, global, &roles, &mut movement);
    }
    let mut kept = ClientMemory::default();
    let mut aux = Vec::new();
    if plan.terms.variate.is_some() {
        let (variates, changes) = scaffold::next_variates(&roles, member.memory, slots.as_ref(), &report, global);
        kept.variates = variates;
        aux.push((Aux::Variates, changes));
    }
    if matches!(plan.optimizer, LocalOptimizer::Amended { .. }) {
        aux.push((Aux::SecondMoments, report));
    }
    if let Some(scores) = layer_scores {
        aux.push((Aux::LayerScores, vec![scores]));
    }
    if let Some(sketch) = &plan.sketch {
        aux.push((Aux::ProductSketches, sketch.of(plan.round, global, &roles, &movement)));
    }
    if plan.private.by_group {
        movement = since_its_start(plan, global, member.memory, movement);
    } else if !plan.private.is_nothing() {
        let all = slots.unwrap_or_else(|| all_slots(global));
        let (leaving, shared, own) = keep_private(plan, global, &roles, movement, all);
        (movement, slots, kept.own) = (leaving, Some(shared), own);
    }
    let sent = |role: &Role| match role {
        Role::Factor(..) if plan.sketch.is_some() => false,
        Role::Factor(_, factor) => plan.private.by_group || !plan.private.factors.contains(factor),
        Role::Weight(_) => true,
        Role::Head(_) => plan.private.shares_head(),
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
    let slots = match slots {
        None => Slots::All { rank },
        // The server must be told what a client chose itself.
        Some(slots) if plan.selection.is_some() => Slots::Chosen { rank, slots },
        Some(slots) => Slots::Given { rank, slots },
    };
    let mut upload = Upload {
        client: member.client,
        examples: member.rows.len(),
        active: plan.active,
        slots,
        factors,
        weights,
        head,
        aux,
        coded: None,
        kept,
        loss,
        steps,
        tokens: job.probed_tokens + tokens,
    };
    protect(plan, settings, noise, &mut upload);
    upload
}

fn all_slots(global: &Adapter) -> TargetSlots {
    TargetSlots::first(global.rank, global.targets.len())
}

/// Of a factor the rows of the first slots, as many as are `left`.
fn first_rows(role: Role, matrix: Matrix, left: &TargetSlots) -> Matrix {
    match role {
        Role::Factor(t, _) => matrix.rows(&(0..left[t].len()).collect::<Vec<_>>()),
        Role::Weight(_) | Role::Head(_) => matrix,
    }
}

/// Splits off what stays with the client. Gives the movement that may leave, its slots, and what stays.
fn keep_private(
    plan: &Plan,
    global: &Adapter,
    roles: &[Role],
    movement: Vec<Matrix>,
    mut slots: TargetSlots,
) -> (Vec<Matrix>, TargetSlots, RoleTensors) {
    let (mut leaving, mut own) = (Vec::new(), RoleTensors::new());
    for (&role, matrix) in roles.iter().zip(movement) {
        let from = match role {
            Role::Head(_) if plan.private.head => 0,
            Role::Weight(_) | Role::Head(_) => matrix.rows,
            Role::Factor(t, factor) => {
                let from = plan.private.from_row(t, factor, global.rank);
                slots[t].iter().filter(|&&slot| slot < from).count()
            }
        };
        let stays: Vec<usize> = (from..matrix.rows).collect();
        if !stays.is_empty() {
            own.insert(role, matrix.rows(&stays));
        }
        leaving.push(matrix.rows(&(0..from).collect::<Vec<_>>()));
    }
    slots.retain(|t, slot| {
        let from = plan.private.targets.contains(&t).then_some(0).or(plan.private.slots_from);
        from.is_none_or(|from| slot < from)
    });
    (leaving, slots, own)
}

/// The movement a client goes on from: what it kept, role by role; `None` where it kept nothing.
pub(crate) fn resume(plan: &Plan, global: &Adapter, memory: Option<&ClientMemory>) -> Option<Vec<Matrix>> {
    let memory = memory.filter(|_| !plan.private.is_nothing())?;
    let movement = |role: &Role| {
        let Some(kept) = memory.own.get(role) else { return Matrix::default() };
        // The shared slots come first and have not moved yet.
        let shared = match role {
            Role::Factor(t, factor) => plan.private.from_row(*t, *factor, global.rank),
            Role::Weight(_) | Role::Head(_) => 0,
        };
        let zeros = vec![0.0; shared * kept.cols];
        Matrix::new(shared + kept.rows, kept.cols, [zeros.as_slice(), &kept.data].concat())
    };
    Some(Role::all(plan, global).iter().map(movement).collect())
}

/// By how much a client moved what its group had, of how much that is from the start of all.
fn since_its_start(
    plan: &Plan,
    global: &Adapter,
    memory: Option<&ClientMemory>,
    mut movement: Vec<Matrix>,
) -> Vec<Matrix> {
    for (end, began) in movement.iter_mut().zip(resume(plan, global, memory).unwrap_or_default()) {
        end.data.iter_mut().zip(began.data).for_each(|(end, began)| *end -= began);
    }
    movement
}

/// The model of a client that keeps a part for itself: the global adapter with what it kept added.
pub fn personal(private: &Private, global: &Adapter, memory: Option<&ClientMemory>) -> Adapter {
    let mut model = global.clone();
    let Some(ClientMemory { own, .. }) = memory else { return model };
    for factor in Factor::ALL {
        for (t, whole) in model.factor_mut(factor).iter_mut().enumerate() {
            let Some(kept) = own.get(&Role::Factor(t, factor)) else { continue };
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
    for (i, tensor) in model.head.iter_mut().enumerate() {
        if let Some(kept) = own.get(&Role::Head(i)) {
            tensor.value.data.iter_mut().zip(&kept.data).for_each(|(v, k)| *v += k);
        }
    }
    model
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
