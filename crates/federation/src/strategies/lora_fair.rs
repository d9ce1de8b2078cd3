//! LoRA-FAIR (Bian et al., ICCV 2025, arXiv 2411.14961): A and B are averaged as in FedIT; then B is corrected so that the
//! product comes near the mean of the products while Ā stays. The paper minimises a cosine distance by gradient steps;
//! here the squared distance with the penalty `λ·‖ΔB‖²`, which has a closed form:
//! `ΔB = (ĀᵀĀ + λI)⁻¹·Āᵀ·(Σ w_k·A_k·B_k − Ā·B̄)`.

use bonfire_engine::{Active, Plan, Upload};

use super::{Common, Strategy};
use crate::client_products::{each_target, in_order, mean_of_products};
use crate::{FederationError, Norm, Server};

/// The strategy `lora-fair`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraFair {
    /// Learning rates and head.
    pub common: Common,
    /// Weight of the penalty, λ.
    pub lambda: f64,
}

impl Strategy for LoraFair {
    fn name(&self) -> &'static str {
        "lora-fair"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        self.common.plan(server, Active::Both)
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        let (adapter, in_order) = (&server.adapter, in_order(uploads));
        let means = each_target(adapter, |t| Ok(mean_of_products(adapter, &in_order, t)))?;
        self.common.average(server, uploads, Norm::All);
        let adapter = &server.adapter;
        let corrections = each_target(adapter, |t| means[t].ridge(&adapter.a[t], &adapter.b[t], self.lambda))?;
        for (b, delta) in server.adapter.b.iter_mut().zip(corrections) {
            b.data.iter_mut().zip(delta.data).for_each(|(b, d)| *b += d);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing::{apart, dense_mean_of_products, product_of, server, uploads};
    use bonfire_models::Factor;

    /// The means, the server after a correction with `lambda`, and the mean of the products of target 0.
    fn corrected(lambda: f64) -> (Server, Server, Vec<f64>) {
        let before = server(3, 1);
        let sent = uploads(&before, &[Factor::A, Factor::B], &[3, 3, 3], 2);
        let (mut means, mut after) = (before.clone(), before.clone());
        Common::plain(1e-3, 1e-3, true).average(&mut means, &sent, Norm::All);
        LoraFair { common: Common::plain(1e-3, 1e-3, true), lambda }.aggregate(&mut after, &sent).expect("aggregates");
        (means, after, dense_mean_of_products(&before, &sent).swap_remove(0))
    }

    #[test]
    fn the_correction_is_where_the_objective_has_no_slope() {
        for lambda in [1e-2, 1.0, 50.0] {
            let (means, after, mean) = corrected(lambda);
            assert_eq!(means.adapter.a, after.adapter.a);
            // Āᵀ·(Ā·B − ΔW) + λ·ΔB, number by number, without LoRA's scale.
            let (a, b, scale) = (&after.adapter.a[0], &after.adapter.b[0], after.adapter.scale());
            let product = product_of(&after.adapter, 0);
            for (at, new) in b.data.iter().enumerate() {
                let (slot, j) = (at / b.cols, at % b.cols);
                let far = |i: usize| (product[i * b.cols + j] - mean[i * b.cols + j]) / scale;
                let pull: f64 = (0..a.rows).map(|i| f64::from(a.data[i * 3 + slot]) * far(i)).sum();
                let delta = f64::from(*new) - f64::from(means.adapter.b[0].data[at]);
                assert!((pull + lambda * delta).abs() < 1e-5 * (1.0 + lambda), "{pull} and {delta}");
            }
        }
    }

    #[test]
    fn the_model_comes_nearer_the_smaller_lambda_is() {
        let far = |lambda: f64| {
            let (_, after, mean) = corrected(lambda);
            apart(&mean, &product_of(&after.adapter, 0))
        };
        let (means, _, mean) = corrected(1.0);
        let fedit = apart(&mean, &product_of(&means.adapter, 0));
        let [none, little, much] = [0.0, 0.01, 10.0].map(far);
        assert!(none < little && little < much && much < fedit, "{none} {little} {much} {fedit}");
    }
}
