//! FlexLoRA (Bai et al., NeurIPS 2024, arXiv 2402.11505): the server takes the mean of the clients' products
//! `ΔW = Σ w_k·A_k·B_k`, which is exact for any ranks, and its SVD; the leading R parts are the next global adapter, √S on
//! both sides, and a client of rank r_k gets the first r_k of them. The paper forms ΔW densely; here it stays factors.
//! Where a round's clients have fewer than R slots in all, the slots that are left over keep their A at B = 0 (in the
//! paper both are zero, and such a slot never learns again).

use bonfire_engine::{Active, Plan, Upload};

use super::{Common, Strategy};
use crate::client_products::{each_target, in_order, mean_of_products, set_from_svd};
use crate::{FederationError, Server};

/// The strategy `flexlora`.
#[derive(Clone, Debug, PartialEq)]
pub struct FlexLora {
    /// Learning rates, head and ranks.
    pub common: Common,
}

impl Strategy for FlexLora {
    fn name(&self) -> &'static str {
        "flexlora"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        self.common.plan(server, Active::Both)
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        let (adapter, uploads) = (&server.adapter, in_order(uploads));
        let means = each_target(adapter, |t| mean_of_products(adapter, &uploads, t).svd())?;
        means.iter().enumerate().for_each(|(t, svd)| set_from_svd(&mut server.adapter, t, svd));
        self.common.average_heads(server, &uploads);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing::{apart, beyond, dense, dense_mean_of_products, product_of, server, uploads};
    use bonfire_models::{Factor, Matrix};

    const BOTH: [Factor; 2] = [Factor::A, Factor::B];

    fn aggregated(before: &Server, sent: &[Upload]) -> Server {
        let mut after = before.clone();
        FlexLora { common: Common::plain(1e-3, 1e-3, true) }.aggregate(&mut after, sent).expect("aggregates");
        after
    }

    #[test]
    fn the_new_adapter_is_the_best_of_its_rank() {
        for ranks in [[3, 3, 3], [1, 3, 2], [3, 1, 1]] {
            let before = server(3, 1);
            let sent = uploads(&before, &BOTH, &ranks, 2);
            let after = aggregated(&before, &sent);
            for (t, mean) in dense_mean_of_products(&before, &sent).iter().enumerate() {
                let cols = before.adapter.targets[t].d_out;
                let (far, best) = (apart(mean, &product_of(&after.adapter, t)), beyond(3, mean, cols));
                assert!(best > 1e-3 && (far - best).abs() < 1e-5, "{far} and {best}");
                // What a client of lower rank gets is the best of that rank.
                let (a, b) = (&after.adapter.a[t], &after.adapter.b[t]);
                let first = dense(&a.transposed().rows(&[0, 1]).transposed(), &b.rows(&[0, 1]));
                let first: Vec<f64> = first.iter().map(|v| v * after.adapter.scale()).collect();
                assert!((apart(mean, &first) - beyond(2, mean, cols)).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn slots_left_over_add_nothing_and_can_still_learn() {
        let before = server(3, 1);
        // Two clients with a slot each: the third slot is left over.
        let after = aggregated(&before, &uploads(&before, &BOTH, &[1, 1], 2)).adapter;
        for (t, b) in after.b.iter().enumerate() {
            assert!(b.data[2 * b.cols..].iter().all(|&x| x == 0.0) && b.data[..2 * b.cols].iter().all(|&x| x != 0.0));
            let column = |m: &Matrix| m.transposed().rows(&[2]);
            assert_eq!(column(&after.a[t]), column(&before.adapter.a[t]));
        }
    }

    #[test]
    fn heads_are_averaged_by_examples_and_order_changes_nothing() {
        let before = server(3, 1);
        let mut sent = uploads(&before, &BOTH, &[3, 3], 2);
        for (upload, value) in sent.iter_mut().zip([1.0, 2.0]) {
            upload.head = vec![Matrix::new(3, 2, vec![value; 6])];
        }
        let after = aggregated(&before, &sent);
        // One example and four: (1·1 + 4·2) / 5.
        let heads = before.adapter.head[0].value.data.iter().zip(&after.adapter.head[0].value.data);
        heads.for_each(|(x, y)| assert!((y - x - 1.8).abs() < 1e-6));
        sent.reverse();
        assert_eq!(after, aggregated(&before, &sent));
    }
}
