//! DFL's two branches (Luo et al., ICML 2022, arXiv 2206.06818) in one adapter, a form of our own: the first slots are
//! shared, the others private. They move in turns (`turns.rs`), and `−β·JS(z_shared, z_private)` pushes the branches'
//! answers apart.

use bonfire_kernels::LowRank;
use bonfire_models::{ClientAdapter, DeviceBatch, Model};
use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;

/// Mean Jensen-Shannon divergence `[C]`, in nats, between the answers of the first `shared` slots alone and of the others
/// alone.
pub(crate) fn divergence(model: &dyn Model, adapter: &ClientAdapter, batch: &DeviceBatch, shared: usize) -> Tensor<1> {
    let answers = |from: usize, to: Option<usize>| {
        let part = |update: &LowRank| {
            let range = from..to.unwrap_or(update.a.dims()[1]);
            let slots = |t: &Tensor<3>| t.clone().slice_dim(1, range.clone()); // [C, slots, d]
            LowRank { a: slots(&update.a), b: slots(&update.b), used: None, scale: update.scale }
        };
        let updates = adapter.updates.iter().map(|update| update.as_ref().map(part)).collect();
        log_softmax(model.logits(&ClientAdapter { updates, ..adapter.clone() }, batch), 1) // [N, K]
    };
    batch.by_client.mean(jensen_shannon(answers(0, Some(shared)), answers(shared, None)))
}

/// `½·KL(p ‖ m) + ½·KL(q ‖ m)` with `m = ½(p + q)`, row by row `[N]`, of log-probabilities `[N, K]`.
fn jensen_shannon(p: Tensor<2>, q: Tensor<2>) -> Tensor<1> {
    let middle = ((p.clone().exp() + q.clone().exp()) * 0.5).log(); // [N, K]
    let to_middle = |x: Tensor<2>| (x.clone().exp() * (x - middle.clone())).sum_dim(1).squeeze_dim::<1>(1);
    (to_middle(p) + to_middle(q)) * 0.5
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn the_divergence_is_jensens_and_shannons() {
        let rows: [[[f64; 3]; 2]; 2] = [[[0.2, 0.3, 0.5], [0.9, 0.05, 0.05]], [[0.6, 0.3, 0.1], [0.05, 0.05, 0.9]]];
        let logs = |of: usize| Tensor::<2>::from_data(rows[of].map(|row| row.map(|p| p.ln() as f32)), &Device::flex());
        let found: Vec<f32> = jensen_shannon(logs(0), logs(1)).into_data().try_to_vec().expect("f32");
        let mut far = 0f64;
        for (row, found) in found.iter().enumerate() {
            let kl = |p: f64, q: f64| p * (p / ((p + q) / 2.0)).ln();
            let sum: f64 =
                (0..3).map(|i| kl(rows[0][row][i], rows[1][row][i]) + kl(rows[1][row][i], rows[0][row][i])).sum();
            far = far.max((f64::from(*found) - sum / 2.0).abs() / (sum / 2.0));
        }
        assert!(far < 1e-6, "off by {far:.1e}");
    }
}
