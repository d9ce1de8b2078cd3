//! FedASK (Wen et al., arXiv 2507.09990): clients train A and B and send sketches of their product, of which the server needs the
//! sum alone to know `Σ w_k·A_k·B_k`; its singular values, √S on both sides, are the next A and B.
//!
//! The paper asks twice in a round: for `Y = Σ w_k·A_k·B_k·Ω`, then, `Q` being an orthonormal basis of Y, for `Σ w_k·(A_k·B_k)ᵀ·Q`.
//! Here a round is one exchange: the second sketch is `Z = Σ w_k·Ψ·A_k·B_k` with Ψ by chance as Ω is, and what the paper is told,
//! `X = Qᵀ·Σ w_k·A_k·B_k`, is found from `Ψ·Q·X = Z` (Tropp, Yurtsever, Udell and Cevher, arXiv 1609.00048, algorithm 4). Both are
//! exact where the sum's rank is no more than the columns of Ω.

use bonfire_engine::{Active, Aux, Plan, ProductSketch, Upload};
use bonfire_models::Matrix;

use super::{Common, Strategy};
use crate::algebra::Svd;
use crate::client_products::{each_target, in_order, set_from_svd, weights};
use crate::{FederationError, Server};

/// The strategy `fedask`.
#[derive(Clone, Debug, PartialEq)]
pub struct FedAsk {
    /// Learning rates and head.
    pub common: Common,
    /// Columns of Ω.
    pub columns: usize,
}

impl FedAsk {
    fn sketch(&self) -> ProductSketch {
        ProductSketch { seed: self.common.seed, columns: self.columns, rows: 2 * self.columns }
    }
}

impl Strategy for FedAsk {
    fn name(&self) -> &'static str {
        "fedask"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        Plan { sketch: Some(self.sketch()), ..self.common.plan(server, Active::Both) }
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        let (uploads, round) = (in_order(uploads), server.round + 1);
        let adapter = &server.adapter;
        let sums = each_target(adapter, |t| {
            let target = &adapter.targets[t];
            let (_, psi) = self.sketch().matrices(round, t, target.d_in, target.d_out);
            Svd::of_sketches(&mean(&uploads, 2 * t), &psi, &mean(&uploads, 2 * t + 1))
        })?;
        sums.iter().enumerate().for_each(|(t, svd)| set_from_svd(&mut server.adapter, t, svd));
        self.common.average_heads(server, &uploads);
        Ok(())
    }
}

/// `Σ w_k` times the matrix number `at` of the clients' sketches.
fn mean(uploads: &[&Upload], at: usize) -> Matrix {
    let of = |upload: &Upload| upload.aux(Aux::ProductSketches).expect("clients send sketches")[at].clone();
    let first = of(uploads[0]);
    let mut sum = vec![0.0; first.data.len()];
    for (upload, weight) in uploads.iter().zip(weights(uploads)) {
        sum.iter_mut().zip(of(upload).data).for_each(|(s, v)| *s += weight * f64::from(v));
    }
    Matrix::new(first.rows, first.cols, sum.into_iter().map(|v| v as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing::{apart, beyond, dense, dense_mean_of_products, product_of, server, uploads};
    use bonfire_models::Factor;

    /// The uploads of clients that trained at random, as sketches by dense arithmetic.
    fn sketched(it: &FedAsk, before: &Server, clients: usize) -> (Vec<Upload>, Vec<Upload>) {
        let plain = uploads(before, &[Factor::A, Factor::B], &vec![before.adapter.rank; clients], 2);
        let sketch = |upload: &Upload| {
            let mut aux = Vec::new();
            for (t, target) in before.adapter.targets.iter().enumerate() {
                let (omega, psi) = it.sketch().matrices(1, t, target.d_in, target.d_out);
                let (a, b) = crate::client_products::trained(&before.adapter, upload, t);
                let product = dense(&a, &b).into_iter().map(|v| v as f32).collect();
                let product = Matrix::new(target.d_in, target.d_out, product);
                aux.extend([product.matmul(&omega), psi.matmul(&product)]);
            }
            Upload { factors: vec![], aux: vec![(Aux::ProductSketches, aux)], ..upload.clone() }
        };
        (plain.iter().map(sketch).collect(), plain)
    }

    #[test]
    fn sums_of_sketches_are_the_mean_of_the_products_cut_to_the_rank() {
        let before = server(2, 1);
        for columns in [4, 9] {
            let it = FedAsk { common: Common::plain(1e-3, 1e-3, false), columns };
            // Two clients of rank 2: the sum has rank 4.
            let (sent, plain) = sketched(&it, &before, 2);
            let mut after = before.clone();
            it.aggregate(&mut after, &sent).expect("aggregates");
            for (t, mean) in dense_mean_of_products(&before, &plain).iter().enumerate() {
                let (far, least) =
                    (apart(mean, &product_of(&after.adapter, t)), beyond(2, mean, after.adapter.b[t].cols));
                assert!((far - least).abs() < 1e-4, "target {t}: {far} and {least}");
            }
        }
    }

    #[test]
    fn a_product_that_is_zero_leaves_slots_able_to_learn() {
        let it = FedAsk { common: Common::plain(1e-3, 1e-3, false), columns: 4 };
        let mut before = server(2, 1);
        before.adapter.b.iter_mut().for_each(|b| b.data.fill(0.0));
        let (mut sent, _) = sketched(&it, &before, 2);
        sent.iter_mut().flat_map(|u| &mut u.aux[0].1).for_each(|m| m.data.fill(0.0));
        let mut after = before.clone();
        it.aggregate(&mut after, &sent).expect("aggregates");
        assert_eq!(after.adapter, before.adapter);
    }

    /// What the published code's `FedASKPolicy` makes of two clients (weights 1/4 and 3/4) with a sketch of 4, which their sum's rank of 4
    /// fits: its own second sketch needs another exchange, and where both are exact it comes to the same.
    #[test]
    fn the_published_code_comes_to_the_same_product() {
        let numbers = |r: usize, c: usize, k: usize| -> Matrix {
            let at = |i: usize, j: usize| ((5 * i + 3 * j + k * (i * j + 2)) % 13) as f32 / 12.0 - 0.5;
            Matrix::new(r, c, (0..r * c).map(|n| at(n / c, n % c)).collect())
        };
        let sketch = ProductSketch { seed: 1, columns: 4, rows: 8 };
        let (omega, psi) = sketch.matrices(1, 0, 6, 5);
        let mut sum = Matrix::zeros(6, 5);
        for (k, weight) in [0.25, 0.75].into_iter().enumerate() {
            // The paper's A [2, 6] and B [5, 2], transposed.
            let product = numbers(2, 6, k + 1).transposed().matmul(&numbers(5, 2, k + 4).transposed());
            sum.data.iter_mut().zip(product.data).for_each(|(s, v)| *s += weight * v);
        }
        let svd = Svd::of_sketches(&sum.matmul(&omega), &psi, &psi.matmul(&sum)).expect("finite");
        let (a, b) = svd.split(2);
        let published = [
            -0.14409, 0.12505, -0.00535, -0.12882, -0.0248, 0.21775, -0.10614, -0.03414, 0.12636, 0.1472, 0.05544,
            -0.1091, 0.03316, 0.09986, -0.07126, -0.26106, 0.18676, 0.01059, -0.20057, -0.09764, 0.04881, 0.06709,
            -0.05399, -0.04663, 0.15339, -0.1135, 0.06413, 0.01331, -0.07312, -0.06507,
        ];
        a.matmul(&b).data.iter().zip(published).for_each(|(x, y)| assert!((f64::from(*x) - y).abs() < 2e-5, "{x} {y}"));
    }
}
