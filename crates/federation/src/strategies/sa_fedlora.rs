//! SA-FedLoRA (Yang et al., arXiv 2405.09394), in a federated form of our own, since the paper's rules are not public in
//! detail. *Initiating*: in the first rounds FedProx keeps clients near the global model. *Annealing*: then the server
//! lets the number of slots fall along a cube, `b(t) = b_min + (b_max − b_min)·(1 − (t − T₀)/(T − T₀))³` a target, and
//! keeps those of largest `‖A_i‖·‖B_i‖` over the whole model; the others are gone for good.

use bonfire_engine::{Active, Plan, Upload, top_slots};

use super::common::contributions;
use super::{Common, Strategy};
use crate::{FederationError, Norm, Server};

/// The strategy `sa-fedlora`.
#[derive(Clone, Debug, PartialEq)]
pub struct SaFedLora {
    /// Learning rates and head.
    pub common: Common,
    /// Rounds of the first stage, T₀.
    pub initiating: usize,
    /// μ of FedProx in the first stage.
    pub prox: f64,
    /// Slots a target, on average, in the last round, b_min.
    pub least: f64,
}

impl SaFedLora {
    /// Slots of a model of `targets` targets and global rank `rank` after `round` rounds.
    fn budget(&self, round: usize, rank: usize, targets: usize) -> usize {
        let left = self.common.rounds.saturating_sub(self.initiating).max(1) as f64;
        let done = (round.saturating_sub(self.initiating) as f64 / left).min(1.0);
        let slots = self.least + (rank as f64 - self.least) * (1.0 - done).powi(3);
        // At least one: a model without a slot cannot train.
        ((slots * targets as f64).round() as usize).max(1)
    }
}

impl Strategy for SaFedLora {
    fn name(&self) -> &'static str {
        "sa-fedlora"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        let mut plan = self.common.plan(server, Active::Both);
        if server.round < self.initiating {
            plan.terms.prox += self.prox;
        }
        plan
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        self.common.average(server, uploads, Norm::All);
        let (rank, targets) = (server.adapter.rank, server.adapter.targets.len());
        let budget = self.budget(server.round + 1, rank, targets);
        if budget < rank * targets {
            // A slot that is gone is empty, and ranks after all that live.
            let live = server.live();
            let score = |(t, row): (usize, Vec<f64>)| {
                let gone = |slot: usize| live.as_ref().is_some_and(|live| !live.contains(t, slot));
                row.iter().enumerate().map(|(i, v)| if gone(i) { -1.0 } else { *v as f32 }).collect()
            };
            let scores: Vec<Vec<f32>> = contributions(&server.adapter).into_iter().enumerate().map(score).collect();
            let live = top_slots(&scores, budget);
            server.keep_only(&live);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing::{server, uploads};
    use bonfire_models::Factor;

    #[test]
    fn slots_fall_along_the_cube_and_never_return() {
        let common = Common { rounds: 6, ..Common::plain(1e-3, 1e-3, false) };
        let it = SaFedLora { common, initiating: 2, prox: 0.1, least: 1.0 };
        assert_eq!([2, 3, 4, 5, 6, 9].map(|round| it.budget(round, 9, 1)), [9, 4, 2, 1, 1, 1]);
        let mut state = server(4, 3);
        assert_eq!(it.plan(&state).terms.prox, 0.1);
        let mut before = bonfire_engine::TargetSlots::first(4, state.adapter.targets.len());
        for round in 0..6 {
            let live = state.live().unwrap_or_else(|| before.clone());
            let ranks = [4, 4];
            let mut sent = uploads(&state, &[Factor::A, Factor::B], &ranks, round);
            for upload in &mut sent {
                for (_, list) in &mut upload.factors {
                    list.iter_mut().zip(live.iter()).for_each(|(m, slots)| *m = m.rows(slots));
                }
                upload.slots = bonfire_engine::Slots::Given { rank: 4, slots: live.clone() };
            }
            it.aggregate(&mut state, &sent).expect("aggregates");
            state.round += 1;
            let now = state.live().unwrap_or_else(|| before.clone());
            assert!(now.iter().zip(before.iter()).all(|(now, before)| now.iter().all(|slot| before.contains(slot))));
            assert_eq!(now.count(), it.budget(state.round, 4, now.len()), "round {}", state.round);
            before = now;
        }
        assert_eq!(it.plan(&state).terms.prox, 0.0);
    }
}
