//! XGBLoRA (Zhang et al., arXiv 2410.19694), in a federated form of our own: a round is one boosting step. The seed
//! picks a few layers and fresh rank-1 factors (A at random, B zero), the same for all clients; they train both with a
//! ridge on them, `λ(‖A‖² + ‖B‖²)`; the server merges every client's weighted pair into the backbone, so nothing is lost
//! in averaging, and the next round starts again.

use std::collections::BTreeSet;

use bonfire_data::random::{Use, stream};
use bonfire_engine::{Active, Plan, TargetSlots, Upload};
use bonfire_models::{Adapter, AdapterInit};
use rand::seq::index::sample;

use super::{Common, Strategy};
use crate::client_products::{in_order, merge_products};
use crate::{FederationError, Server};

/// The strategy `xgblora`.
#[derive(Clone, Debug, PartialEq)]
pub struct XgbLora {
    /// Learning rates and head.
    pub common: Common,
    /// Layers that train in a round, L_s.
    pub layers: usize,
    /// λ of the ridge.
    pub ridge: f64,
    /// Share of a round's update that is merged, α_b.
    pub shrinkage: f64,
    /// How A starts.
    pub init: AdapterInit,
}

impl XgbLora {
    /// The slots that train in `round`: all of the drawn layers, none of the others.
    fn slots(&self, round: usize, adapter: &Adapter) -> TargetSlots {
        let layers: Vec<usize> = adapter.targets.iter().map(|t| t.layer).collect::<BTreeSet<_>>().into_iter().collect();
        let mut rng = stream(self.common.seed, Use::Layers, round as u64, 0, 0);
        let drawn = sample(&mut rng, layers.len(), self.layers.min(layers.len()));
        let drawn: BTreeSet<usize> = drawn.into_iter().map(|i| layers[i]).collect();
        let all_or_none = |layer: usize| if drawn.contains(&layer) { (0..adapter.rank).collect() } else { Vec::new() };
        adapter.targets.iter().map(|t| all_or_none(t.layer)).collect()
    }
}

impl Strategy for XgbLora {
    fn name(&self) -> &'static str {
        "xgblora"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        let mut plan = self.common.plan(server, Active::Both);
        plan.live = Some(self.slots(plan.round, &server.adapter));
        plan.terms.ridge = self.ridge;
        plan.seeded = true;
        plan
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        let uploads = in_order(uploads);
        merge_products(server, &uploads, self.shrinkage)?;
        self.common.restart(server, self.init);
        self.common.average_heads(server, &uploads);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing::{dense_mean_of_products, product_of, server, uploads};
    use bonfire_models::{Factor, Matrix};

    #[test]
    fn a_round_is_merged_exactly_and_the_next_starts_again() {
        let common = Common { seed: 3, ..Common::plain(1e-3, 1e-3, false) };
        let it = XgbLora { common, layers: 1, ridge: 0.0, shrinkage: 1.0, init: AdapterInit::Kaiming };
        let mut state = server(1, 2);
        state.adapter.b.iter_mut().for_each(|b| *b = Matrix::zeros(b.rows, b.cols));
        let before = state.clone();
        let sent = uploads(&state, &[Factor::A, Factor::B], &[1, 1, 1], 4);
        it.aggregate(&mut state, &sent).expect("aggregates");
        let want = dense_mean_of_products(&before, &sent);
        let total = state.model();
        for (t, want) in want.iter().enumerate() {
            let got = product_of(&total, t);
            assert!(got.iter().zip(want).all(|(x, y)| (x - y).abs() < 1e-5));
        }
        assert!(state.adapter.b.iter().all(|b| b.data.iter().all(|v| *v == 0.0)), "the next booster starts at zero");
        assert_ne!(state.adapter.a, before.adapter.a);
    }

    #[test]
    fn layers_are_drawn_anew_every_round() {
        let common = Common { seed: 3, ..Common::plain(1e-3, 1e-3, false) };
        let it = XgbLora { common, layers: 1, ridge: 0.0, shrinkage: 1.0, init: AdapterInit::Kaiming };
        let state = server(1, 2);
        let drawn: BTreeSet<TargetSlots> = (1..20).map(|round| it.slots(round, &state.adapter)).collect();
        assert!(drawn.len() > 1);
        assert!(drawn.iter().all(|slots| slots.iter().filter(|s| !s.is_empty()).count() < slots.len()));
    }
}
