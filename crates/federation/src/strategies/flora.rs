//! FLoRA (Wang et al., NeurIPS 2024, arXiv 2409.05976): the clients' factors are stacked, `A = [w_1·A_1 … w_K·A_K]` and
//! `B = [B_1; …; B_K]`, so that `A·B` is the mean of the products exactly, whatever the ranks. The stack is merged into
//! the backbone, and everyone starts again from a fresh A, drawn from the seed, and B = 0.

use bonfire_engine::{Active, Plan, Upload};
use bonfire_models::AdapterInit;

use super::{Common, Strategy};
use crate::client_products::{in_order, merge_products};
use crate::{FederationError, Server};

/// The strategy `flora`.
#[derive(Clone, Debug, PartialEq)]
pub struct Flora {
    /// Learning rates, head and ranks.
    pub common: Common,
    /// How A starts, every round.
    pub init: AdapterInit,
}

impl Strategy for Flora {
    fn name(&self) -> &'static str {
        "flora"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        Plan { seeded: true, ..self.common.plan(server, Active::Both) }
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        let uploads = in_order(uploads);
        merge_products(server, &uploads, 1.0)?;
        self.common.average_heads(server, &uploads);
        self.common.restart(server, self.init);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing::{apart, dense_mean_of_products, product_of, server, uploads};
    use bonfire_models::Factor;

    const BOTH: [Factor; 2] = [Factor::A, Factor::B];

    fn aggregate(server: &mut Server, sent: &[Upload]) {
        let strategy = Flora { common: Common::plain(1e-3, 1e-3, true), init: AdapterInit::Kaiming };
        strategy.aggregate(server, sent).expect("aggregates");
    }

    #[test]
    fn the_model_is_the_mean_of_the_products_whatever_the_ranks() {
        let before = server(3, 1);
        let sent = uploads(&before, &BOTH, &[2, 3, 1], 2);
        let mut after = before.clone();
        aggregate(&mut after, &sent);
        for (t, mean) in dense_mean_of_products(&before, &sent).iter().enumerate() {
            assert!(apart(mean, &product_of(&after.model(), t)) < 1e-5);
            assert_eq!(after.merged.a[t].cols, 6, "slots that clients have, and no others");
        }
        assert_eq!(after.merged.pushed, 6 * (5 + 6 + 7 + 4));
    }

    #[test]
    fn rounds_add_up_and_the_log_stays_about_as_wide_as_its_matrices() {
        let mut it = server(3, 1);
        let mut sums = [vec![0.0; 30], vec![0.0; 28]];
        for round in 0..5 {
            let sent = uploads(&it, &BOTH, &[3, 2, 3], round);
            for (sum, mean) in sums.iter_mut().zip(dense_mean_of_products(&it, &sent)) {
                sum.iter_mut().zip(mean).for_each(|(s, m)| *s += m);
            }
            aggregate(&mut it, &sent);
            it.round += 1;
            for (t, sum) in sums.iter().enumerate() {
                assert!(apart(sum, &product_of(&it.model(), t)) < 1e-5);
                assert!(2 * it.merged.a[t].cols <= 3 * [5, 4][t]);
            }
        }
        assert_eq!(it.merged.pushed, 5 * 8 * (5 + 6 + 7 + 4), "what was sent, not what is kept");
    }

    #[test]
    fn every_round_starts_from_its_own_fresh_adapter() {
        let next = |round: usize| {
            let mut it = Server { round, ..server(3, 1) };
            let sent = uploads(&it, &BOTH, &[3, 3], 2);
            aggregate(&mut it, &sent);
            it.adapter
        };
        let (one, again, other) = (next(0), next(0), next(1));
        assert_eq!(one, again);
        assert_ne!(one.a, other.a);
        assert!(one.b.iter().all(|b| b.data.iter().all(|&x| x == 0.0)));
        assert!(one.a[0].data.iter().all(|x| x.abs() <= 1.0 / 5f32.sqrt()), "Kaiming for five inputs");
    }
}
