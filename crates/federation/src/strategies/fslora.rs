//! FSLoRA, federated sketching LoRA (Fang et al., arXiv 2501.19389): in every round each client draws `r_k` of the `R` slots of every
//! target and trains `s·(R/r_k)·A·S·B`, S picking its slots, which is in the mean over draws the whole product; the server adds
//! the mean of the movements, an absent slot counting as zero. Unlike LoRA-A²'s choice the draw sees no data and costs no byte.

use bonfire_engine::{Active, Others, Plan, SlotDraw};

use super::{Common, Strategy};
use crate::Server;

/// The strategy `fslora`.
#[derive(Clone, Debug, PartialEq)]
pub struct FsLora {
    /// Learning rates, head and ranks.
    pub common: Common,
}

impl Strategy for FsLora {
    fn name(&self) -> &'static str {
        "fslora"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        let plan = self.common.plan(server, Active::Both);
        let draw = plan.ranks.is_some().then_some(SlotDraw { seed: self.common.seed, others: Others::Absent });
        Plan { draw, ..plan }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing::server;

    #[test]
    fn clients_draw_slots_anew_each_round_unless_all_have_all() {
        let mut it = FsLora { common: Common::plain(1e-3, 1e-3, false) };
        let mut server = server(4, 1);
        assert_eq!(it.plan(&server).slots_of(0, &server.adapter), None);
        it.common.ranks = Some(vec![1, 2, 4]);
        let mut drawn = |round: usize, client: usize| {
            server.round = round - 1;
            it.plan(&server).slots_of(client, &server.adapter).expect("ranks differ")
        };
        for (client, rank) in [1, 2, 4].into_iter().enumerate() {
            assert!(drawn(1, client).iter().all(|slots| slots.len() == rank));
        }
        assert!((2..20).any(|round| drawn(round, 0) != drawn(1, 0)));
        assert_eq!(drawn(1, 1), drawn(1, 1));
    }
}
