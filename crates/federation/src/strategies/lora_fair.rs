//! LoRA-FAIR (Bian et al., ICCV 2025, arXiv 2411.14961): A and B are averaged as in FedIT; then B is corrected so that the
//! product comes near the mean of the products while Ā stays. The paper minimises a cosine distance by gradient steps;
//! here the squared distance with the penalty `λ·‖ΔB‖²`, which has a closed form:
//! `ΔB = (ĀᵀĀ + λI)⁻¹·Āᵀ·(Σ w_k·A_k·B_k − Ā·B̄)`.

use bonfire_engine::{Active, Plan, Upload};

use super::low_rank::{for_each_target, mean_of_products};
use super::{Common, Strategy};
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
        let ends = for_each_target(server, |t| Ok(mean_of_products(server, uploads, t)))?;
        self.common.average(server, uploads, Norm::All);
        let adapter = &server.adapter;
        let corrections = for_each_target(server, |t| ends[t].ridge(&adapter.a[t], &adapter.b[t], self.lambda))?;
        for (b, delta) in server.adapter.b.iter_mut().zip(corrections) {
            b.data.iter_mut().zip(delta.data).for_each(|(b, d)| *b += d);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::fixture::{self, Dense, RANK};

    /// The means, the server after a correction with `lambda`, and the mean of the products of target 0.
    fn corrected(lambda: f64) -> (Server, Server, Dense) {
        let (before, uploads) = (fixture::server(), fixture::uploads(Active::Both, [4, 4, 4]));
        let (mut means, mut after) = (before.clone(), before.clone());
        Common::plain(1e-3, 1e-3, true).average(&mut means, &uploads, Norm::All);
        LoraFair { common: Common::plain(1e-3, 1e-3, true), lambda }.aggregate(&mut after, &uploads).unwrap();
        fixture::check_head(&before, &after, &uploads);
        (means, after, fixture::mean_of_products(&before, &uploads, [4; 3], 0))
    }

    #[test]
    fn the_correction_is_where_the_objective_has_no_slope() {
        for lambda in [1e-2, 1.0, 50.0] {
            let (means, after, mean) = corrected(lambda);
            assert_eq!(means.adapter.a, after.adapter.a);
            // Āᵀ·(Ā·B − ΔW) + λ·ΔB, number by number.
            let (a, b) = (&after.adapter.a[0], &after.adapter.b[0]);
            let product = fixture::model(&after, 0);
            for slot in 0..RANK {
                for j in 0..b.cols {
                    let at = slot * b.cols + j;
                    let pull: f64 = (0..a.rows)
                        .map(|i| {
                            f64::from(a.data[i * RANK + slot])
                                * (product.data[i * b.cols + j] - mean.data[i * b.cols + j])
                        })
                        .sum();
                    let delta = f64::from(b.data[at]) - f64::from(means.adapter.b[0].data[at]);
                    assert!((pull + lambda * delta).abs() < 1e-4 * (1.0 + lambda), "{pull} and {delta}");
                }
            }
        }
    }

    #[test]
    fn the_model_comes_nearer_the_smaller_lambda_is() {
        let far = |lambda: f64| {
            let (_, after, mean) = corrected(lambda);
            mean.apart(&fixture::model(&after, 0))
        };
        let (means, _, mean) = corrected(1.0);
        let fedit = mean.apart(&fixture::model(&means, 0));
        let [none, little, much] = [0.0, 0.01, 10.0].map(far);
        assert!(none < little && little < much && much < fedit, "{none} {little} {much} {fedit}");
    }
}
