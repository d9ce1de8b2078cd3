//! A local step of all clients in flight, from gradients to new movements and moments: terms, clipping, AdamW. What one client owns never touches another's:
//! every sum here runs over one lane of the client axis.

use std::sync::Arc;

use bonfire_kernels::{AdamW, adamw_step};
use bonfire_models::{Factor, Matrix};
use burn::tensor::{Device, Gradients, Tensor, TensorData};

use crate::batch_schedule::LaneStep;
use crate::job::ClientJob;
use crate::lanes::{pick, put, take};
use crate::parameters::{Parameter, Parameters, position};
use crate::terms::turns::{self, Turns};
use crate::terms::{proximal, ridge, tail, threshold};
use crate::{ClientPrivacy, LocalOptimizer, Plan, Role, RoleTensors, TailPenalty, Terms, TrainSettings};

/// Which step each lane of the batch is at.
pub(crate) struct LaneSteps {
    /// Factor on the learning rate and corrections of both moments, `[C, 3]`: see [`adamw_step`].
    pub rates: Tensor<2>,
    /// The same for the head, where it makes other steps than the factors.
    pub head: Option<Tensor<2>>,
    /// A client's own step from 1; `None`: nobody is here.
    pub own: Vec<Option<usize>>,
}

impl LaneSteps {
    /// The rates of a trained tensor.
    fn rates_of(&self, role: Role) -> &Tensor<2> {
        match (&self.head, role) {
            (Some(head), Role::Head(_)) => head,
            _ => &self.rates,
        }
    }
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
            LocalOptimizer::AdamW => None,
            LocalOptimizer::Amended { own, second, direction } => Some(Amended { own: *own, second, direction }),
        };
        Optimizer { settings, clip_norm, terms: &plan.terms, turns: Turns::of(&plan.terms), amended }
    }

    /// Gives clients that begin, whose lanes are zero, what they start from besides their movement.
    pub fn begin(&self, parameters: &mut Parameters, starts: &[(usize, &ClientJob)]) {
        let Parameters { trained, roles, device, .. } = parameters;
        for p in trained {
            let dims = p.state.movement.dims();
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
                add(&mut p.state.second, to_all(second));
                add(&mut fedlada.direction, to_all(direction));
            }
        }
    }

    /// One step from the gradients of `leaves`, which lie in one of `parts` each.
    pub fn step(&self, parameters: &mut Parameters, leaves: Vec<Tensor<3>>, parts: Vec<Gradients>, lanes: &LaneSteps) {
        let mut gradients = gradients_of(leaves, parts); // [C, rows, cols] each
        for (p, gradient) in parameters.trained.iter_mut().zip(&mut gradients) {
            self.add_terms(p, gradient);
        }
        if let Some(tail) = self.terms.tail.filter(|tail| tail.weight > 0.0) {
            push_tails(tail, parameters, &mut gradients);
        }
        let device = parameters.device.clone();
        let turn = |turns: Turns, p: &Parameter| turns.mask(p.role, p.start.dims()[1], &lanes.own, &device);
        if let Some(turns) = self.turns.filter(|turns| turns.freezes_gradients()) {
            for (p, gradient) in parameters.trained.iter().zip(&mut gradients) {
                *gradient = gradient.clone() * turn(turns, p);
            }
        }
        if let Some(limit) = self.clip_norm {
            gradients = clipped(gradients, limit);
        }
        for (p, gradient) in parameters.trained.iter_mut().zip(gradients) {
            // What was not at its turn goes back to where it was.
            let before = self.turns.map(|turns| (turns, p.state.clone()));
            let state = take(&mut p.state, &device);
            let (constants, rates) = (self.constants(p.lr), lanes.rates_of(p.role));
            p.state = match (&self.amended, &mut p.terms.fedlada) {
                (Some(Amended { own, .. }), Some(fedlada)) => {
                    fedlada.step(constants, *own, state, &p.start, gradient, rates)
                }
                _ => adamw_step(constants, state, p.start.clone(), gradient, rates.clone()),
            };
            if let Some((turns, before)) = before {
                p.state = turns::moved(&turn(turns, p), before, take(&mut p.state, &device));
            }
            if let (Some(threshold), Role::Factor(_, Factor::Core)) = (self.terms.threshold, p.role) {
                p.state.movement = threshold::shrink(threshold, &p.start, p.state.movement.clone());
            }
        }
    }

    /// What the objective adds to a tensor's gradient of cross-entropy; a probe sees the gradient as it is.
    fn add_terms(&self, p: &mut Parameter, gradient: &mut Tensor<3>) {
        let Terms { prox, ridge, .. } = *self.terms;
        let (start, movement) = (&p.start, &p.state.movement);
        let weight = || start.clone() + movement.clone();
        p.terms.watched.observe(weight, gradient);
        if prox > 0.0 {
            *gradient = gradient.clone() + proximal::pull(prox, movement, p.terms.centre.as_ref());
        }
        if ridge > 0.0 && matches!(p.role, Role::Factor(..)) {
            *gradient = gradient.clone() + ridge::pull(ridge, weight());
        }
        if let Some(scaffold) = &mut p.terms.scaffold {
            *gradient = scaffold.correct(gradient.clone());
        }
    }

    fn constants(&self, lr: f64) -> AdamW {
        let TrainSettings { betas, eps, weight_decay, .. } = *self.settings;
        AdamW { lr, betas, eps, weight_decay }
    }

    /// What the step needs to know of each lane.
    pub fn lane_steps(&self, lanes: &[LaneStep], jobs: &[ClientJob], device: &Device) -> LaneSteps {
        let TrainSettings { schedule, warmup_steps, betas, .. } = *self.settings;
        let rates = |lane: &LaneStep, role: Role| {
            let Some((job, own)) = *lane else { return [0.0, 1.0, 1.0] };
            let updates = self.turns.map_or(own, |turns| turns.updates(role, own)) as i32;
            let [first, second] = betas.map(|beta| 1.0 / (1.0 - beta.powi(updates)));
            [schedule.factor(own - 1, jobs[job].steps, warmup_steps), first, second]
        };
        let rates = |role: Role| {
            let numbers: Vec<f32> = lanes.iter().flat_map(|lane| rates(lane, role)).map(|v| v as f32).collect();
            Tensor::from_data(TensorData::new(numbers, [lanes.len(), 3]), device)
        };
        LaneSteps {
            rates: rates(Role::Factor(0, Factor::A)),
            head: self.turns.filter(|turns| turns.head_differs()).map(|_| rates(Role::Head(0))),
            own: lanes.iter().map(|lane| lane.map(|(_, own)| own)).collect(),
        }
    }
}

/// The leaves' gradients. The leaves are let go, so that the step may write where the movement lies.
fn gradients_of(leaves: Vec<Tensor<3>>, mut parts: Vec<Gradients>) -> Vec<Tensor<3>> {
    let gradient = |leaf: Tensor<3>| {
        parts.iter_mut().find_map(|part| leaf.grad_remove(part)).expect("every trained tensor reaches the loss")
    };
    leaves.into_iter().map(gradient).collect()
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
        let weights = [a, b].map(|i| trained[i].start.clone() + trained[i].state.movement.clone());
        let [push_a, push_b] = tail::pushes(tail, weights, &mask);
        gradients[a] = gradients[a].clone() + push_a;
        gradients[b] = gradients[b].clone() + push_b;
    }
}

/// The gradients, with every client's norm over all that it trains brought to at most `limit`.
fn clipped(gradients: Vec<Tensor<3>>, limit: f64) -> Vec<Tensor<3>> {
    let squares = gradients.iter().map(|g| g.clone().square().sum_dim(2).sum_dim(1)); // [C, 1, 1] each
    let norm = squares.reduce(|x, y| x + y).expect("something trains").sqrt();
    // As in PyTorch: limit / (norm + 1e-6), never above 1.
    let factors = (norm + 1e-6).recip().mul_scalar(limit).clamp_max(1.0);
    gradients.into_iter().map(|gradient| gradient * factors.clone()).collect()
}

#[cfg(all(test, feature = "flex"))]
mod tests;
