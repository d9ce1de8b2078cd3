//! What one client is to do in a pass over the cohort, and what comes of it. There are two passes: a probe, where clients are
//! to choose the slots that they train, and local training itself.

use bonfire_data::random::Use;
use bonfire_models::Matrix;

use crate::{Member, Plan, Score, Selection, TargetSlots};

/// What the clients of a pass do it for.
#[derive(Clone, Copy)]
pub(crate) enum Phase<'p> {
    /// To find out which slots to train: nothing is kept of it but what the selection asks for.
    Probe(&'p Selection),
    /// To learn.
    Training,
}

impl Phase<'_> {
    /// What the orders of a client's rows are drawn for.
    pub fn shuffles(self, plan: &Plan) -> Use {
        match self {
            Phase::Probe(_) => Use::Probe,
            Phase::Training if plan.alone => Use::Personalise,
            Phase::Training => Use::Batches,
        }
    }

    /// What the masks of dropout are drawn for.
    pub fn masks(self, plan: &Plan) -> Use {
        match self {
            Phase::Probe(_) => Use::ProbeMasks,
            Phase::Training if plan.alone => Use::PersonaliseMasks,
            Phase::Training => Use::Masks,
        }
    }

    /// Whether it matters how clients moved.
    pub fn reads_movement(self) -> bool {
        match self {
            Phase::Probe(selection) => !selection.probe.reset || selection.score == Score::Magnitude,
            Phase::Training => true,
        }
    }

    /// Whether it matters by how much each slot has changed the model.
    pub fn reads_slot_scores(self) -> bool {
        matches!(self, Phase::Probe(selection) if selection.score == Score::Contribution)
    }

    /// Whether what the clients report besides is a sum of gradients over their steps.
    pub fn reports_gradients(self, plan: &Plan) -> bool {
        match self {
            Phase::Probe(selection) => selection.score == Score::Gradient,
            Phase::Training => plan.terms.variate.is_some(),
        }
    }
}

/// One client's work in a pass.
pub(crate) struct ClientJob<'j> {
    /// Who it is.
    pub member: Member<'j>,
    /// Steps to do at most; whole epochs unless a probe is cut short.
    pub steps: usize,
    /// Slots that may move; `None`: all.
    pub slots: Option<TargetSlots>,
    /// Movement of those slots to start from, role by role (no rows: zero); `None`: zero.
    pub movement: Option<Vec<Matrix>>,
    /// SCAFFOLD's correction of every role, over all slots.
    pub correction: Option<Vec<Matrix>>,
    /// What its update is multiplied by, beside LoRA's scale.
    pub update_factor: f32,
    /// Tokens that its probe has trained before.
    pub probed_tokens: u64,
}

/// What came of a job.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Which job, by its number in the pass.
    pub job: usize,
    /// Mean loss over its steps.
    pub loss: f64,
    /// Local steps done.
    pub steps: usize,
    /// Tokens trained.
    pub tokens: u64,
    /// Its movement, role by role: of a factor one row a slot it has, `[slots, d]`. Empty where it was not read.
    pub movement: Vec<Matrix>,
    /// By how much each slot changes the model: of every target one score a slot it has. Empty where it was not read.
    pub slot_scores: Vec<Vec<f32>>,
    /// What the plan wants besides, shaped like the movement: the mean gradient (SCAFFOLD), the highest second moment
    /// (FedLADA), or what a probe watches of every number (importance, the mean gradient, the sum of squares). Empty where
    /// nothing is.
    pub report: Vec<Matrix>,
    /// A score a layer `[1, layers]`, where the plan asks for them.
    pub layer_scores: Option<Matrix>,
}
