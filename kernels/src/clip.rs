//! Clipping: every client's gradients, brought to a norm over all that the client trains. The norms are summed where the gradients
//! lie, and the optimizer's step multiplies by what comes of them, so that no gradient is written again.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use crate::flat::{FlatLayout, Tensors};
use crate::optimizer::OptimizerOps;

/// What is added to a norm before it divides, as in PyTorch's `clip_grad_norm_`.
pub(crate) const TINY: f64 = 1e-6;

/// `rates` with each client's fourth number, by which the step multiplies its gradients, times `min(1, limit / (norm + 1e-6))`: the
/// norm is that of all its `gradients`, those of every layout together.
///
/// # Shapes
/// `rates` `[K, C, 4]`, see [`crate::optimizer_step`]; of each layout a gradient for each of its tensors `[C, rows, cols]`. All in f32
/// and without a graph. In place where nothing else holds the rates.
///
/// # Panics
/// Without any gradient.
pub fn clip(rates: Tensor<3>, gradients: &[(&FlatLayout, &[Tensor<3>])], limit: f64) -> Tensor<3> {
    let sums = gradients.iter().map(|(layout, gradients)| {
        assert_eq!(gradients.len(), layout.places().len(), "a gradient for every tensor");
        let gradients = Tensors(gradients.iter().cloned().map(Tensor::into_dispatch).collect());
        Tensor::from_dispatch(<Dispatch as OptimizerOps>::square_sums(gradients, (*layout).clone())) // [C, parts]
    });
    let mut sums: Vec<Tensor<2>> = sums.collect();
    let sums = if sums.len() == 1 { sums.remove(0) } else { Tensor::cat(sums, 1) };
    Tensor::from_dispatch(<Dispatch as OptimizerOps>::clip(rates.into_dispatch(), sums.into_dispatch(), limit))
}

/// The reference of [`clip`] in plain tensor operations.
pub fn clip_composed(rates: Tensor<3>, gradients: &[(&FlatLayout, &[Tensor<3>])], limit: f64) -> Tensor<3> {
    let all = gradients.iter().flat_map(|(_, gradients)| gradients.iter());
    let squares = all.map(|g| g.clone().square().sum_dim(2).sum_dim(1)); // [C, 1, 1] each
    let norm = squares.reduce(|x, y| x + y).expect("something trains").sqrt();
    let factor = (norm + TINY).recip().mul_scalar(limit).clamp_max(1.0).swap_dims(0, 1); // [1, C, 1]
    let [before, own] = [(0, 3), (3, 1)].map(|(from, count)| rates.clone().narrow(2, from, count));
    Tensor::cat(vec![before, own * factor], 2)
}
