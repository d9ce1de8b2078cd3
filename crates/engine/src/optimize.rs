//! A local step: what the objective adds to the gradients, clipping, and the optimizer. What one client owns never
//! touches another's: every sum here runs over one place of the client axis.

use std::sync::Arc;

use bonfire_kernels::{AdamW, Moving, adamw_step};
use bonfire_models::{Factor, Matrix};
use burn::tensor::{Device, Gradients, Tensor, TensorData};

use crate::batch_schedule::ClientJob;
use crate::parameters::{Parameter, Parameters, Role, pick, put, take};
use crate::plan::{Branches, ClientPrivacy, LocalOptimizer, Named, Plan, Score, Terms};
use crate::turns::Turns;
use crate::{TailPenalty, Threshold, TrainSettings};

/// AdaLoRA's smoothing of sensitivity and of its uncertainty.
const SMOOTHING: f64 = 0.85;

/// What a trained tensor carries for some methods alone, each `[C, rows, cols]`.
#[derive(Default)]
pub(crate) struct Extra {
    /// SCAFFOLD: the server's control variate minus the client's, and the sum of gradients for its next one.
    variate: Option<[Tensor<3>; 2]>,
    /// FedLADA: the highest second moment so far, and the federation's direction.
    amended: Option<[Tensor<3>; 2]>,
    /// FedProx's centre where a client goes on from a part of its own: the movement it began the round with. Elsewhere that
    /// is zero.
    centre: Option<Tensor<3>>,
    /// What a probe watches.
    watched: Watched,
}

/// What a probe keeps of its gradients, by the score it is asked for; each `[C, rows, cols]`.
#[derive(Default)]
enum Watched {
    /// Nothing.
    #[default]
    Nothing,
    /// AdaLoRA's sensitivity, its uncertainty, and their product.
    Sensitivity(Box<[Tensor<3>; 3]>),
    /// Their sum.
    Sum(Tensor<3>),
    /// The sum of their squares.
    Squares(Tensor<3>),
}

impl Watched {
    fn new(score: Score, zeros: &dyn Fn() -> Tensor<3>) -> Watched {
        match score {
            Score::Contribution | Score::Magnitude | Score::Random => Watched::Nothing,
            Score::Importance => Watched::Sensitivity(Box::new([zeros(), zeros(), zeros()])),
            Score::Gradient => Watched::Sum(zeros()),
            Score::Fisher => Watched::Squares(zeros()),
        }
    }

    /// What becomes the score.
    fn report(&self) -> Option<&Tensor<3>> {
        match self {
            Watched::Nothing => None,
            Watched::Sensitivity(books) => Some(&books[2]),
            Watched::Sum(sum) | Watched::Squares(sum) => Some(sum),
        }
    }

    fn tensors(&mut self) -> &mut [Tensor<3>] {
        match self {
            Watched::Nothing => &mut [],
            Watched::Sensitivity(books) => books.as_mut_slice(),
            Watched::Sum(sum) | Watched::Squares(sum) => std::slice::from_mut(sum),
        }
    }

    /// Takes in a step's `gradient` of cross-entropy; `weight` gives where it was taken.
    fn observe(&mut self, weight: impl FnOnce() -> Tensor<3>, gradient: &Tensor<3>) {
        match self {
            Watched::Nothing => {}
            Watched::Sensitivity(books) => observe(books, weight(), gradient.clone()),
            Watched::Sum(sum) => *sum = sum.clone() + gradient.clone(),
            Watched::Squares(sum) => *sum = sum.clone() + gradient.clone().square(),
        }
    }
}

impl Extra {
    /// What `plan` asks for, filled by `zeros`.
    pub fn new(plan: &Plan, probing: bool, zeros: &dyn Fn() -> Tensor<3>) -> Extra {
        if probing {
            let watched = plan.selection.as_ref().map(|s| Watched::new(s.score, zeros)).unwrap_or_default();
            return Extra { watched, ..Extra::default() };
        }
        let goes_on = plan.terms.prox > 0.0 && !plan.private.is_nothing();
        Extra {
            variate: plan.terms.variate.is_some().then(|| [zeros(), zeros()]),
            amended: matches!(plan.optimizer, LocalOptimizer::Amended { .. }).then(|| [zeros(), zeros()]),
            centre: goes_on.then(zeros),
            watched: Watched::Nothing,
        }
    }

    /// Clients that begin go on from `movement` of their own, which is zero for all others.
    pub fn goes_on(&mut self, movement: &Tensor<3>) {
        if let Some(centre) = &mut self.centre {
            *centre = centre.clone() + movement.clone();
        }
    }

    /// What the client tells of it in the end.
    pub fn report(&self) -> Option<&Tensor<3>> {
        let variate = self.variate.as_ref().map(|[_, sum]| sum);
        let amended = self.amended.as_ref().map(|[highest, _]| highest);
        variate.or(amended).or(self.watched.report())
    }

    /// Makes the lanes of new clients zero.
    pub fn clear(&mut self, clear: &dyn Fn(Tensor<3>) -> Tensor<3>) {
        let pairs = self.variate.iter_mut().flatten().chain(self.amended.iter_mut().flatten());
        pairs.chain(&mut self.centre).chain(self.watched.tensors()).for_each(|t| *t = clear(t.clone()));
    }
}

/// Which step each place of the batch is at.
pub(crate) struct Lanes {
    /// Factor on the learning rate and corrections of both moments, `[C, 3]`: see [`adamw_step`].
    pub clients: Tensor<2>,
    /// The same for the head, where it moves at other steps than the factors.
    pub head: Option<Tensor<2>>,
    /// A client's own step from 1; `None`: nobody is here.
    pub own: Vec<Option<usize>>,
}

/// How the clients of a round step.
pub(crate) struct Optimizer {
    constants: AdamW,
    clip_norm: Option<f64>,
    terms: Terms,
    amended: Option<(f64, Arc<Named>, Arc<Named>)>,
}

impl Optimizer {
    pub fn new(plan: &Plan, settings: &TrainSettings) -> Optimizer {
        let (betas, eps, weight_decay) = (settings.betas, settings.eps, settings.weight_decay);
        let clip_norm = match plan.privacy {
            ClientPrivacy::Laplace { clip, .. } => Some(clip),
            _ => settings.clip_norm,
        };
        let amended = match &plan.optimizer {
            LocalOptimizer::AdamW => None,
            LocalOptimizer::Amended { own, second, direction } => Some((*own, second.clone(), direction.clone())),
        };
        Optimizer {
            constants: AdamW { lr: 0.0, betas, eps, weight_decay },
            clip_norm,
            terms: plan.terms.clone(),
            amended,
        }
    }

    /// Two branches, if the plan has them.
    pub fn branches(&self) -> Option<Branches> {
        self.terms.branches
    }

    /// Gives clients that begin, whose lanes are zero, what they start from besides their movement; the tensor is number `at` of
    /// those that train.
    pub fn begin(&self, p: &mut Parameter, at: usize, starts: &[(usize, &ClientJob)], device: &Device) {
        let dims = p.state.movement.dims();
        let own = |job: &ClientJob, all: &Matrix| match (p.role, &job.slots) {
            (Role::Factor(t, _), Some(slots)) => pick(all, &slots[t], dims[1]),
            _ => all.clone(),
        };
        let put = |tensor: &mut Tensor<3>, rows: Vec<(usize, Matrix)>| {
            let rows: Vec<(usize, &Matrix)> = rows.iter().map(|(lane, matrix)| (*lane, matrix)).collect();
            if !rows.is_empty() {
                *tensor = tensor.clone() + put(&rows, dims, device);
            }
        };
        if let Some([correction, _]) = &mut p.extra.variate {
            let variate = |(lane, job): &(usize, &ClientJob)| Some((*lane, own(job, &job.variate.as_ref()?[at])));
            put(correction, starts.iter().filter_map(variate).collect());
        }
        if let (Some((_, second, direction)), Some([highest, here])) = (&self.amended, &mut p.extra.amended) {
            let name = p.role.name();
            let (Some(second), Some(direction)) = (second.get(&name), direction.get(&name)) else { return };
            let all = |matrix: &Matrix| starts.iter().map(|(lane, job)| (*lane, own(job, matrix))).collect::<Vec<_>>();
            put(highest, all(second));
            put(&mut p.state.second, all(second));
            put(here, all(direction));
        }
    }
}

impl Parameters {
    /// One optimizer step from the gradients of `leaves`.
    pub fn step(&mut self, leaves: Vec<Tensor<3>>, mut parts: Vec<Gradients>, lanes: &Lanes) {
        let gradient = |leaf: Tensor<3>| {
            parts.iter_mut().find_map(|part| leaf.grad_remove(part)).expect("every trained tensor reaches the loss")
        };
        // The leaves are let go here, so that the step may write where the movement lies.
        let gradients: Vec<Tensor<3>> = leaves.into_iter().map(gradient).collect();
        let mut gradients = self.with_terms(gradients);
        let turns = Turns::of(&self.optimizer.terms);
        if let Some(turns @ Turns::Factors(_)) = turns {
            // A factor that waits has no gradient, which counts for the norm that is clipped.
            for (p, gradient) in self.trained.iter().zip(&mut gradients) {
                *gradient = gradient.clone() * whose_turn(turns, p, lanes, &self.device);
            }
        }
        let clip = self.optimizer.clip_norm.map(|limit| clip_factors(&gradients, limit));
        let device = self.device.clone();
        for (p, gradient) in self.trained.iter_mut().zip(gradients) {
            let gradient = match &clip {
                Some(factors) => gradient * factors.clone(),
                None => gradient,
            };
            let before = turns.map(|turns| (turns, p.state.clone()));
            let state = take(&mut p.state, &device);
            let clients = match (&lanes.head, p.role) {
                (Some(head), Role::Head(_)) => head,
                _ => &lanes.clients,
            };
            p.state = match &self.optimizer.amended {
                Some((own, ..)) => amended_step(self.optimizer.constants, *own, state, p, gradient, clients),
                None => {
                    let constants = AdamW { lr: p.lr, ..self.optimizer.constants };
                    adamw_step(constants, state, p.start.clone(), gradient, clients.clone())
                }
            };
            if let Some((turns, before)) = before {
                let turn = whose_turn(turns, p, lanes, &device);
                restore(&mut p.state, before, turn);
            }
            if let (Some(threshold), Role::Factor(_, Factor::Core)) = (self.optimizer.terms.threshold, p.role) {
                shrink(threshold, p);
            }
        }
    }

    /// Gradients with what the objective adds, SCAFFOLD's correction, and the books that some methods keep.
    fn with_terms(&mut self, mut gradients: Vec<Tensor<3>>) -> Vec<Tensor<3>> {
        let Terms { prox, ridge, tail, .. } = self.optimizer.terms;
        for (p, gradient) in self.trained.iter_mut().zip(&mut gradients) {
            p.extra.watched.observe(|| p.start.clone() + p.state.movement.clone(), gradient);
            let factor = matches!(p.role, Role::Factor(..));
            if prox > 0.0 {
                let moved = match &p.extra.centre {
                    Some(centre) => p.state.movement.clone() - centre.clone(),
                    None => p.state.movement.clone(),
                };
                *gradient = gradient.clone() + moved * prox;
            }
            if ridge > 0.0 && factor {
                *gradient = gradient.clone() + (p.start.clone() + p.state.movement.clone()) * (2.0 * ridge);
            }
            if let Some([correction, sum]) = &mut p.extra.variate {
                *sum = sum.clone() + gradient.clone();
                *gradient = gradient.clone() + correction.clone();
            }
        }
        if let Some(tail) = tail.filter(|tail| tail.weight > 0.0) {
            self.push_tails(tail, &mut gradients);
        }
        gradients
    }

    /// The gradient of `λ·‖B_tail‖·‖A_tail‖` for every target: for A it is `λ·‖B_tail‖/‖A_tail‖ · A_tail`.
    fn push_tails(&self, tail: TailPenalty, gradients: &mut [Tensor<3>]) {
        let find = |t: usize, factor| self.trained.iter().position(|p| p.role == Role::Factor(t, factor));
        for t in 0..self.targets() {
            let (Some(a), Some(b)) = (find(t, Factor::A), find(t, Factor::B)) else { continue };
            let mask = self.tail_mask(t, tail);
            let tails = [a, b].map(|i| {
                let p = &self.trained[i];
                (p.start.clone() + p.state.movement.clone()) * mask.clone()
            });
            let norms = tails.each_ref().map(|x| x.clone().square().sum_dim(2).sum_dim(1).sqrt());
            let [norm_a, norm_b] = norms;
            let [tail_a, tail_b] = tails;
            let ratio = |over: &Tensor<3>, under: &Tensor<3>| over.clone() / (under.clone() + 1e-12) * tail.weight;
            gradients[a] = gradients[a].clone() + tail_a * ratio(&norm_b, &norm_a);
            gradients[b] = gradients[b].clone() + tail_b * ratio(&norm_a, &norm_b);
        }
    }

    /// 1 for the last slots of every client `[C, rows, 1]`.
    fn tail_mask(&self, target: usize, tail: TailPenalty) -> Tensor<3> {
        let rows = self.rows(target);
        let of = |lane: usize| {
            let own = self.rows_of(Role::Factor(target, Factor::A), lane).unwrap_or(rows);
            (0..rows).map(move |row| f32::from(row >= tail.keeps(own) && row < own))
        };
        let mask: Vec<f32> = (0..self.lanes).flat_map(of).collect();
        Tensor::from_data(TensorData::new(mask, [self.lanes, rows, 1]), &self.device)
    }
}

/// FedLADA's step (arXiv 2308.00522): AMSGrad's moments without bias correction, amended by the federation's direction.
fn amended_step(
    constants: AdamW,
    own: f64,
    state: Moving,
    p: &mut Parameter,
    gradient: Tensor<3>,
    clients: &Tensor<2>,
) -> Moving {
    let [beta1, beta2] = constants.betas;
    let Some([highest, direction]) = &mut p.extra.amended else { return state };
    let first = state.first * beta1 + gradient.clone() * (1.0 - beta1);
    let second = state.second * beta2 + gradient.square() * (1.0 - beta2);
    *highest = highest.clone().max_pair(second.clone());
    // An empty place has no moment at all; the floor keeps it from dividing by zero.
    let root = highest.clone().sqrt().clamp_min(constants.eps);
    let decay = (state.movement.clone() + p.start.clone()) * constants.weight_decay;
    let update = first.clone() / root * own + direction.clone() * (1.0 - own) + decay;
    let rate = clients.clone().narrow(1, 0, 1).unsqueeze_dim::<3>(2) * p.lr;
    Moving { movement: state.movement - update * rate, first, second }
}

/// AdaLoRA's books: smoothed sensitivity `|w·∇w|`, smoothed uncertainty, and their product.
fn observe(books: &mut [Tensor<3>; 3], weight: Tensor<3>, gradient: Tensor<3>) {
    let now = (weight * gradient).abs();
    let mean = books[0].clone() * SMOOTHING + now.clone() * (1.0 - SMOOTHING);
    let doubt = books[1].clone() * SMOOTHING + (now - mean.clone()).abs() * (1.0 - SMOOTHING);
    *books = [mean.clone(), doubt.clone(), mean * doubt];
}

/// 1 where a tensor may move in this step: `[C, rows, 1]`.
fn whose_turn(turns: Turns, p: &Parameter, lanes: &Lanes, device: &Device) -> Tensor<3> {
    let [_, rows, _] = p.start.dims();
    let of = |own: &Option<usize>| {
        let own = own.unwrap_or(0);
        (0..rows).map(move |row| f32::from(turns.moves(p.role, row, own))).collect::<Vec<_>>()
    };
    let mask: Vec<f32> = lanes.own.iter().flat_map(of).collect();
    Tensor::from_data(TensorData::new(mask, [lanes.own.len(), rows, 1]), device)
}

/// Undoes a step, moments included, where it was not this tensor's turn.
fn restore(state: &mut Moving, before: Moving, turn: Tensor<3>) {
    let stays = turn.clone().neg() + 1.0;
    let mix = |new: &mut Tensor<3>, old: Tensor<3>| *new = new.clone() * turn.clone() + old * stays.clone();
    mix(&mut state.movement, before.movement);
    mix(&mut state.first, before.first);
    mix(&mut state.second, before.second);
}

/// The soft threshold on start + movement.
fn shrink(threshold: Threshold, p: &mut Parameter) {
    let gate = p.start.clone() + p.state.movement.clone();
    let size = gate.clone().abs() - threshold.xi;
    // The published code also zeroes what was just shrunk below ξ.
    let floor = if threshold.twice { threshold.xi } else { 0.0 };
    let shrunk = gate.sign() * size.clone().clamp_min(0.0) * size.greater_elem(floor).float();
    p.state.movement = shrunk - p.start.clone();
}

/// What brings every client's gradient norm to at most `limit`: `[C, 1, 1]`.
fn clip_factors(gradients: &[Tensor<3>], limit: f64) -> Tensor<3> {
    let squares = gradients.iter().map(|g| g.clone().square().sum_dim(2).sum_dim(1));
    let norm = squares.reduce(|x, y| x + y).expect("something trains").sqrt();
    // As in PyTorch: limit / (norm + 1e-6), never above 1.
    (norm + 1e-6).recip().mul_scalar(limit).clamp_max(1.0)
}
