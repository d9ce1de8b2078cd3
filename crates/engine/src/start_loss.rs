//! The loss of every client's training rows by the model that it starts from, before it trains: what rules ask for that look at who is
//! served badly (q-FedAvg, arXiv 1905.10497). A forward pass over its rows, without a backward one.

use std::collections::BTreeMap;

use bonfire_models::Matrix;

use crate::{Aux, Cohort, Engine, EngineError, Member, Plan, RowEvaluation, Split, Start, Upload, personal};

/// Of every client of a cohort, in nats an answer, and the tokens that are counted for it.
pub(crate) struct StartLosses(BTreeMap<usize, (f32, u64)>);

/// A forward pass is a third of a step.
const SHARE_OF_A_STEP: f64 = 1.0 / 3.0;

/// How much of a pass over its rows it costs a client to tell that loss, where `plan` asks for it.
pub(crate) fn passes(plan: &Plan) -> f64 {
    if plan.start_loss { SHARE_OF_A_STEP } else { 0.0 }
}

/// Tokens that are counted for it: a third of the client's.
pub(crate) fn tokens(plan: &Plan, train: &Split, rows: &[usize]) -> u64 {
    let all: usize = rows.iter().map(|&row| train.ids[row].len()).sum();
    (passes(plan) * all as f64).round() as u64
}

impl Engine {
    /// Plain mean cross-entropy (as evaluation has it: nothing dropped, smoothed or weighted) of each client's rows by the model it
    /// starts from, its own part included; `None`: the plan does not ask.
    pub(crate) fn start_losses(
        &self,
        plan: &Plan,
        start: Start<'_>,
        cohort: &Cohort,
    ) -> Result<Option<StartLosses>, EngineError> {
        if !plan.start_loss {
            return Ok(None);
        }
        let (own, same): (Vec<&Member>, Vec<&Member>) =
            cohort.iter().partition(|m| m.memory.is_some() && !plan.private.is_nothing());
        let told = |m: &Member, evaluated: &[Option<RowEvaluation>]| {
            (m.client, (mean(m.rows, evaluated), tokens(plan, self.rows(), m.rows)))
        };
        let mut losses = BTreeMap::new();
        if !same.is_empty() {
            let rows: Vec<&[usize]> = same.iter().map(|m| m.rows).collect();
            let evaluated = self.evaluate_groups(&start.merged.total(start.adapter), self.rows(), &rows)?;
            losses.extend(same.iter().map(|m| told(m, &evaluated)));
        }
        for member in own {
            let model = start.merged.total(&personal(&plan.private, start.adapter, member.memory));
            let evaluated = self.evaluate_rows(&model, self.rows(), member.rows)?;
            losses.extend([told(member, &evaluated)]);
        }
        Ok(Some(StartLosses(losses)))
    }
}

impl StartLosses {
    /// Puts each client's loss into its upload.
    pub fn put(&self, uploads: &mut [Upload]) {
        for upload in uploads {
            let (loss, tokens) = self.0[&upload.client];
            upload.aux.push(message(loss));
            upload.tokens += tokens;
        }
    }
}

/// A loss as it crosses.
pub(crate) fn message(loss: f32) -> (Aux, Vec<Matrix>) {
    (Aux::StartLoss, vec![Matrix::new(1, 1, vec![loss])])
}

/// The mean loss of an answer.
fn mean(rows: &[usize], evaluated: &[Option<RowEvaluation>]) -> f32 {
    let of = || rows.iter().filter_map(|&row| evaluated[row].as_ref());
    let answers: usize = of().map(|row| row.answers).sum();
    (of().map(|row| row.loss).sum::<f64>() / answers.max(1) as f64) as f32
}
