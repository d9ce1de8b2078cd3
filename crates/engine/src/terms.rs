//! What a strategy adds to the local objective or to the step, a file each: the formula of its paper on tensors with a
//! client axis. `optimize/tests/` holds each, in the step that it is for, to a loop over single numbers in f64.
//!
//! All tensors are `[C, rows, cols]`: the clients in flight, a factor's slots (or a weight's rows), and numbers. No term
//! sums over the client axis.

pub(crate) mod branches;
pub(crate) mod fedlada;
pub(crate) mod flat;
pub(crate) mod proximal;
pub(crate) mod ridge;
pub(crate) mod scaffold;
pub(crate) mod tail;
pub(crate) mod threshold;
pub(crate) mod turns;
pub(crate) mod watched;

use burn::tensor::Tensor;

use crate::job::Phase;
use crate::{LocalOptimizer, Plan};
use fedlada::FedLada;
use scaffold::Scaffold;
use watched::Watched;

/// What one trained tensor carries for the terms of a plan, from step to step.
#[derive(Default)]
pub(crate) struct TermState {
    /// SCAFFOLD's correction, and the sum of gradients.
    pub scaffold: Option<Scaffold>,
    /// FedLADA's highest second moment and direction.
    pub fedlada: Option<FedLada>,
    /// FedProx's centre `[C, rows, cols]` where clients go on from a part of their own: the movement they began the round
    /// with. Elsewhere that is zero.
    pub centre: Option<Tensor<3>>,
    /// What a probe sees of gradients.
    pub watched: Watched,
}

impl TermState {
    /// What `plan` asks for, filled by `zeros`.
    pub fn new(plan: &Plan, phase: Phase, zeros: &dyn Fn() -> Tensor<3>) -> TermState {
        if let Phase::Probe(selection) = phase {
            return TermState { watched: Watched::new(selection.score, zeros), ..TermState::default() };
        }
        let goes_on = plan.terms.prox > 0.0 && !plan.private.is_nothing();
        let amended = matches!(plan.optimizer, LocalOptimizer::Amended { .. });
        TermState {
            scaffold: plan.terms.variate.is_some().then(|| Scaffold::new(zeros)),
            fedlada: amended.then(|| FedLada::new(zeros)),
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

    /// What the clients tell of it in the end.
    pub fn report(&self) -> Option<&Tensor<3>> {
        let gradients = self.scaffold.as_ref().map(|scaffold| &scaffold.sum);
        let moment = self.fedlada.as_ref().map(|fedlada| &fedlada.highest);
        gradients.or(moment).or(self.watched.report())
    }

    /// Makes the lanes of new clients zero.
    pub fn clear(&mut self, clear: &dyn Fn(Tensor<3>) -> Tensor<3>) {
        let scaffold = self.scaffold.iter_mut().flat_map(Scaffold::tensors);
        let fedlada = self.fedlada.iter_mut().flat_map(FedLada::tensors);
        let all = scaffold.chain(fedlada).chain(&mut self.centre).chain(self.watched.tensors());
        all.for_each(|tensor| *tensor = clear(tensor.clone()));
    }
}
