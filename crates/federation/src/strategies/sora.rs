//! SoRA (Ding et al., EMNLP 2023, arXiv 2311.11696), in a federated form of our own. Gates stand between A and B,
//! `ΔW = s·A·diag(g)·B`; after every local step they are shrunk by a soft threshold ξ, so that gates of little use reach
//! zero: the soft alternative to LoRA-A²'s hard choice. A slot whose averaged gate is zero is gone for good and no longer
//! sent. Gates start at one, not at random as in the paper, so that clients agree.

use bonfire_engine::{Active, Plan, TargetSlots, Threshold, Upload};
use bonfire_models::Matrix;

use super::{Common, Strategy};
use crate::{FederationError, Norm, Server};

/// The strategy `sora`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sora {
    /// Learning rates and head.
    pub common: Common,
    /// Learning rate of the gates.
    pub lr_gate: f64,
    /// The threshold.
    pub threshold: Threshold,
}

impl Strategy for Sora {
    fn name(&self) -> &'static str {
        "sora"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn begin(&self, server: &mut Server) {
        let gates = || Matrix::new(server.adapter.rank, 1, vec![1.0; server.adapter.rank]);
        server.adapter.core = server.adapter.targets.iter().map(|_| gates()).collect();
    }

    fn plan(&self, server: &Server) -> Plan {
        let mut plan = self.common.plan(server, Active::All);
        plan.lr_core = self.lr_gate;
        plan.terms.threshold = Some(self.threshold);
        plan
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        self.common.average(server, uploads, Norm::All);
        // A mean of gates is zero only where every client's is; what averaging leaves below ξ counts as zero too.
        for gates in &mut server.adapter.core {
            gates.data.iter_mut().filter(|g| f64::from(g.abs()) < self.threshold.xi).for_each(|g| *g = 0.0);
        }
        let open = |gates: &Matrix| (0..gates.rows).filter(|&slot| gates.data[slot] != 0.0).collect();
        let live: TargetSlots = server.adapter.core.iter().map(open).collect();
        if live.iter().any(|slots| slots.len() < server.adapter.rank) {
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
    fn gates_at_zero_close_their_slots() {
        let threshold = Threshold { xi: 1e-3, twice: false };
        let it = Sora { common: Common::plain(1e-3, 1e-3, false), lr_gate: 1e-2, threshold };
        let mut state = server(3, 5);
        it.begin(&mut state);
        assert_eq!(state.model().b, state.adapter.b, "gates of one change nothing");
        let mut sent = uploads(&state, &[Factor::A, Factor::B, Factor::Core], &[3, 3], 1);
        for upload in &mut sent {
            upload.factors[2].1[0].data = vec![0.0, -1.0, 0.5];
        }
        it.aggregate(&mut state, &sent).expect("aggregates");
        assert_eq!(state.live().expect("some are gone")[0], [0, 2]);
        let plain = state.model();
        assert!(plain.core.is_empty());
        let b = &state.adapter.b[0];
        assert_eq!(plain.b[0].data[2 * b.cols], 1.5 * b.data[2 * b.cols]);
        assert!(plain.b[0].data[b.cols..2 * b.cols].iter().all(|v| *v == 0.0));
    }
}
