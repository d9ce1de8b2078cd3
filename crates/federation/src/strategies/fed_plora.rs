//! Fed-PLoRA (Zhang, Hu, Xu; ICLR 2026, arXiv 2602.16936): an adapter of rank R is R parallel modules of rank one. In every round each
//! client selects `r_k` of them at random for every target, folds the others into its frozen weights (so that it begins with the
//! whole global model) and trains those alone; the server averages every module over the clients that trained it.

use bonfire_engine::{Active, Others, Plan, SlotDraw, Upload};

use super::{Common, Strategy};
use crate::{FederationError, Norm, Server};

/// The strategy `fed-plora`.
#[derive(Clone, Debug, PartialEq)]
pub struct FedPlora {
    /// Learning rates, head and ranks.
    pub common: Common,
}

impl Strategy for FedPlora {
    fn name(&self) -> &'static str {
        "fed-plora"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        let plan = self.common.plan(server, Active::Both);
        let draw = plan.ranks.is_some().then_some(SlotDraw { seed: self.common.seed, others: Others::Frozen });
        Plan { draw, ..plan }
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        self.common.average(server, uploads, Norm::Choosers);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing::{server, uploads};
    use bonfire_engine::Slots;
    use bonfire_models::Factor;

    #[test]
    fn a_client_is_sent_all_modules_and_sends_its_own() {
        let mut it = FedPlora { common: Common::plain(1e-3, 1e-3, false) };
        let server = server(4, 1);
        it.common.ranks = Some(vec![1, 4]);
        let plan = it.plan(&server);
        assert_eq!(plan.slots_held(0, &server.adapter), None);
        assert!(plan.slots_of(0, &server.adapter).expect("its own").iter().all(|slots| slots.len() == 1));
    }

    #[test]
    fn modules_are_averaged_over_those_that_trained_them_wherever_they_lie() {
        let it = FedPlora { common: Common::plain(1e-3, 1e-3, false) };
        let before = server(4, 1);
        let mut sent = uploads(&before, &[Factor::A, Factor::B], &[2, 2], 3);
        let slots = [[vec![0, 2], vec![1, 3]], [vec![2, 3], vec![0, 1]]];
        for (upload, slots) in sent.iter_mut().zip(&slots) {
            upload.slots = Slots::Given { rank: 4, slots: slots.iter().cloned().collect() };
        }
        let mut after = before.clone();
        it.aggregate(&mut after, &sent).expect("aggregates");
        // Client 0 has 1 example, client 1 has 4.
        for (t, start) in before.adapter.b.iter().enumerate() {
            for slot in 0..4 {
                let (mut sum, mut weight) = (vec![0.0; start.cols], 0.0);
                for (k, examples) in [1.0, 4.0].into_iter().enumerate() {
                    let Some(row) = slots[k][t].iter().position(|&s| s == slot) else { continue };
                    let own = &sent[k].factors[1].1[t];
                    sum.iter_mut().zip(&own.data[row * own.cols..]).for_each(|(s, v)| *s += examples * f64::from(*v));
                    weight += examples;
                }
                let (old, new) = (start.rows(&[slot]), after.adapter.b[t].rows(&[slot]));
                for ((new, old), sum) in new.data.iter().zip(old.data).zip(sum) {
                    let moved = if weight > 0.0 { sum / weight } else { 0.0 };
                    assert!((f64::from(*new) - f64::from(old) - moved).abs() < 1e-6, "target {t}, slot {slot}");
                }
            }
        }
    }
}
