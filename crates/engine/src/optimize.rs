//! A local step of all clients in flight, from gradients to new movements and moments: terms, clipping, the optimizer. What one client owns never touches another's:
//! every sum here runs over one lane of the client axis.

use std::sync::Arc;

use bonfire_kernels::{AdamW, Moving, clip, optimizer_step};
use bonfire_models::{Factor, Matrix};
use burn::tensor::{Device, Tensor, TensorData};

use crate::batch_schedule::LaneStep;
use crate::job::ClientJob;
use crate::lanes::{pick, put};
use crate::parameters::{Group, Parameter, Parameters, Rate, position};
use crate::terms::turns::{self, Turns};
use crate::terms::{proximal, ridge, tail, threshold};
use crate::{ClientPrivacy, LocalOptimizer, Plan, Role, RoleTensors, TailPenalty, Terms, TrainSettings};

/// Which step each lane of the batch is at.
pub(crate) struct LaneSteps {
    /// Learning rate and corrections of both moments, for each of [`Parameters::rates`]: `[K, C, 3]`; where gradients are clipped a 1
    /// besides, `[K, C, 4]`; see [`optimizer_step`].
    pub rates: Tensor<3>,
    /// A client's own step from 1; `None`: nobody is here.
    pub own: Vec<Option<usize>>,
}

/// How the clients of a round step.
pub(crate) struct Optimizer<'p> {
    settings: &'p TrainSettings,
    clip_norm: Option<f64>,
    terms: &'p Terms,
    turns: Option<Turns>,
    amended: Option<Amended<'p>>,
}

/// FedLADA's α, second moments to start from, and direction.
struct Amended<'p> {
    own: f64,
    second: &'p Arc<RoleTensors>,
    direction: &'p Arc<RoleTensors>,
}

impl<'p> Optimizer<'p> {
    pub fn new(plan: &'p Plan, settings: &'p TrainSettings) -> Optimizer<'p> {
        let clip_norm = match plan.privacy {
            ClientPrivacy::Laplace { clip, .. } => Some(clip),
            _ => settings.clip_norm,
        };
        let amended = match &plan.optimizer {
            LocalOptimizer::Configured => None,
            LocalOptimizer::Amended { own, second, direction } => Some(Amended { own: *own, second, direction }),
        };
        Optimizer { settings, clip_norm, terms: &plan.terms, turns: Turns::of(&plan.terms), amended }
    }

    /// Gives clients that begin, whose lanes are zero, what they start from besides their movement.
    pub fn begin(&self, parameters: &mut Parameters, starts: &[(usize, &ClientJob)]) {
        let Parameters { trained, groups, roles, device, lanes, .. } = parameters;
        for p in trained {
            let dims = [*lanes, p.place.dims[0], p.place.dims[1]];
            // Of a factor the slots that the client has, side by side.
            let own = |job: &ClientJob, all: &Matrix| match (p.role, &job.slots) {
                (Role::Factor(t, _), Some(slots)) => pick(all, &slots[t], dims[1]),
                _ => all.clone(),
            };
            let add = |tensor: &mut Tensor<3>, rows: Vec<(usize, Matrix)>| {
                let rows: Vec<(usize, &Matrix)> = rows.iter().map(|(lane, matrix)| (*lane, matrix)).collect();
                if !rows.is_empty() {
                    *tensor = tensor.clone() + put(&rows, dims, device);
                }
            };
            if let Some(scaffold) = &mut p.terms.scaffold {
                let at = position(roles, p.role);
                let correction =
                    |(lane, job): &(usize, &ClientJob)| Some((*lane, own(job, &job.correction.as_ref()?[at])));
                add(&mut scaffold.correction, starts.iter().filter_map(correction).collect());
            }
            if let (Some(amended), Some(fedlada)) = (&self.amended, &mut p.terms.fedlada) {
                // In the first round nobody knows of any.
                let (Some(second), Some(direction)) = (amended.second.get(&p.role), amended.direction.get(&p.role))
                else {
                    continue;
                };
                let to_all =
                    |matrix: &Matrix| starts.iter().map(|(lane, job)| (*lane, own(job, matrix))).collect::<Vec<_>>();
                add(&mut fedlada.highest, to_all(second));
                let Group { layout, state, .. } = &mut groups[p.place.group];
                let mut own = layout.tensor(&state.second, p.place.number);
                add(&mut own, to_all(second));
                state.second = layout.put(state.second.clone(), p.place.number, own);
                add(&mut fedlada.direction, to_all(direction));
            }
        }
    }

    /// One step from the gradients of what trains, `[C, rows, cols]` each.
    pub fn step(&self, parameters: &mut Parameters, mut gradients: Vec<Tensor<3>>, lanes: LaneSteps) {
        let Parameters { trained, groups, .. } = &mut *parameters;
        for (p, gradient) in trained.iter_mut().zip(&mut gradients) {
            self.add_terms(p, groups, gradient);
        }
        if let Some(tail) = self.terms.tail.filter(|tail| tail.weight > 0.0) {
            push_tails(tail, parameters, &mut gradients);
        }
        if let Some(turns) = self.turns.filter(|turns| turns.freezes_gradients()) {
            for (p, gradient) in parameters.trained.iter().zip(&mut gradients) {
                *gradient = gradient.clone() * turn(turns, p, &lanes, &parameters.device);
            }
        }
        let lanes = match self.clip_norm {
            Some(limit) => clipped(lanes, &parameters.groups, &gradients, limit),
            None => lanes,
        };
        let (mut gradients, mut trained) = (gradients.into_iter(), parameters.trained.as_mut_slice());
        for group in &mut parameters.groups {
            let (own, rest) = trained.split_at_mut(group.layout.places().len());
            trained = rest;
            self.step_group(group, own, gradients.by_ref().take(own.len()).collect(), &lanes);
        }
    }

    /// THE STEP of the optimizer: all clients' tensors of a group, from their gradients `[C, rows, cols]`.
    fn step_group(&self, group: &mut Group, trained: &mut [Parameter], gradients: Vec<Tensor<3>>, lanes: &LaneSteps) {
        let before = self.turns.map(|turns| (turns, group.state.clone()));
        let state = group.taken();
        let Group { layout, start, .. } = &*group;
        let mut state = match &self.amended {
            Some(Amended { own, .. }) => amended_step(*own, self.constants(), group, state, trained, gradients, lanes),
            None => {
                let rule = self.settings.step_rule();
                optimizer_step(rule, layout, state, start.clone(), gradients, lanes.rates.clone())
            }
        };
        // What was not at its turn goes back to where it was.
        if let Some((turns, before)) = before {
            let masks = trained.iter().map(|p| {
                let mask = turn(turns, p, lanes, &start.device()); // [C, rows, 1]
                mask.expand([-1, -1, p.place.dims[1] as i64])
            });
            let mask = layout.flat(&masks.collect::<Vec<_>>()); // [C, width]
            state = turns::moved(&mask, before, state).from_start(start, layout);
        }
        let gates = trained.iter().filter(|p| matches!(p.role, Role::Factor(_, Factor::Core)));
        if let Some(threshold) = self.terms.threshold {
            for Parameter { place, .. } in gates {
                let [start, movement] = [start, &state.movement].map(|flat| layout.tensor(flat, place.number));
                let shrunk = threshold::shrink(threshold, &start, movement);
                state.movement = layout.put(state.movement.clone(), place.number, shrunk);
            }
            state = state.from_start(start, layout);
        }
        group.state = state;
    }

    /// What the objective adds to a tensor's gradient of cross-entropy; a probe sees the gradient as it is.
    fn add_terms(&self, p: &mut Parameter, groups: &[Group], gradient: &mut Tensor<3>) {
        let Terms { prox, ridge, .. } = *self.terms;
        let (start, movement) = (p.start(groups), p.movement(groups));
        let weight = || start.clone() + movement.clone();
        p.terms.watched.observe(weight, gradient);
        if prox > 0.0 {
            *gradient = gradient.clone() + proximal::pull(prox, &movement, p.terms.centre.as_ref());
        }
        if ridge > 0.0 && matches!(p.role, Role::Factor(..)) {
            *gradient = gradient.clone() + ridge::pull(ridge, weight());
        }
        if let Some(scaffold) = &mut p.terms.scaffold {
            *gradient = scaffold.correct(gradient.clone());
        }
    }

    fn constants(&self) -> AdamW {
        let TrainSettings { betas, eps, weight_decay, .. } = *self.settings;
        AdamW { betas, eps, weight_decay }
    }

    /// What the step needs to know of each lane.
    pub fn lane_steps(&self, lanes: &[LaneStep], jobs: &[ClientJob], parameters: &Parameters) -> LaneSteps {
        let TrainSettings { schedule, warmup_steps, betas, .. } = *self.settings;
        let one = |Rate { lr, role }: Rate, lane: &LaneStep| {
            let Some((job, own)) = *lane else { return [0.0, 1.0, 1.0, 1.0] };
            let updates = self.turns.map_or(own, |turns| turns.updates(role, own)) as i32;
            let [first, second] = betas.map(|beta| (1.0 / (1.0 - beta.powi(updates))) as f32);
            [schedule.factor(own - 1, jobs[job].steps, warmup_steps) as f32 * lr as f32, first, second, 1.0]
        };
        let numbers = if self.clip_norm.is_some() { 4 } else { 3 };
        let of_rate = |&rate| lanes.iter().flat_map(move |lane| one(rate, lane).into_iter().take(numbers));
        let rates = parameters.rates.iter().flat_map(of_rate).collect();
        let rates = TensorData::new(rates, [parameters.rates.len(), lanes.len(), numbers]);
        LaneSteps {
            rates: Tensor::from_data(rates, &parameters.device),
            own: lanes.iter().map(|lane| lane.map(|(_, own)| own)).collect(),
        }
    }
}

/// 1 where a tensor may move in this step, `[C, rows, 1]`.
fn turn(turns: Turns, p: &Parameter, lanes: &LaneSteps, device: &Device) -> Tensor<3> {
    turns.mask(p.role, p.place.dims[0], &lanes.own, device)
}

/// FedLADA's step in the place of the optimizer's.
fn amended_step(
    own: f64,
    constants: AdamW,
    Group { layout, start, .. }: &Group,
    state: Moving,
    trained: &mut [Parameter],
    gradients: Vec<Tensor<3>>,
    lanes: &LaneSteps,
) -> Moving {
    let [mut movements, mut firsts, mut seconds] = [const { Vec::new() }; 3];
    for ((p, place), gradient) in trained.iter_mut().zip(layout.places()).zip(gradients) {
        let part = |flat: &Tensor<2>| layout.tensor(flat, p.place.number);
        let before = [&state.movement, &state.first, &state.second].map(part);
        let rates = lanes.rates.clone().narrow(0, place.rates, 1).squeeze_dim::<2>(0); // [C, 3], [C, 4] where clipped
        let gradient = match rates.dims()[1] {
            4 => gradient * rates.clone().narrow(1, 3, 1).unsqueeze_dim::<3>(2),
            _ => gradient,
        };
        let fedlada = p.terms.fedlada.as_mut().expect("what the plan asks for");
        let [movement, first, second] = fedlada.step(constants, own, before, &part(start), gradient, &rates);
        movements.push(movement);
        firsts.push(first);
        seconds.push(second);
    }
    let [movement, first, second] = [movements, firsts, seconds].map(|parts| layout.flat(&parts));
    Moving { movement, first, second, ..state }.from_start(start, layout)
}

/// HetLoRA's push on the last slots of every target of which both factors train.
fn push_tails(tail: TailPenalty, parameters: &Parameters, gradients: &mut [Tensor<3>]) {
    let trained = &parameters.trained;
    let find = |t: usize, factor| trained.iter().position(|p| p.role == Role::Factor(t, factor));
    for t in 0..parameters.targets() {
        let (Some(a), Some(b)) = (find(t, Factor::A), find(t, Factor::B)) else { continue };
        let rows = parameters.rows(t);
        let owned = |lane: usize| parameters.rows_of(trained[a].role, lane).unwrap_or(rows);
        let owned: Vec<usize> = (0..parameters.lanes).map(owned).collect();
        let mask = tail::mask(tail, &owned, rows, &parameters.device);
        let groups = &parameters.groups;
        let weights = [a, b].map(|i| trained[i].start(groups) + trained[i].movement(groups));
        let [push_a, push_b] = tail::pushes(tail, weights, &mask);
        gradients[a] = gradients[a].clone() + push_a;
        gradients[b] = gradients[b].clone() + push_b;
    }
}

/// The lanes, whose gradients are to be multiplied by what brings every client's norm over all that it trains to at most `limit`.
fn clipped(lanes: LaneSteps, groups: &[Group], mut gradients: &[Tensor<3>], limit: f64) -> LaneSteps {
    let of_group = groups.iter().map(|group| {
        let (own, rest) = gradients.split_at(group.layout.places().len());
        gradients = rest;
        (&group.layout, own)
    });
    let of_group: Vec<_> = of_group.collect();
    LaneSteps { rates: clip(lanes.rates, &of_group, limit), ..lanes }
}

#[cfg(all(test, feature = "flex"))]
mod tests;
