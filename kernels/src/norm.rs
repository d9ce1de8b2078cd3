//! Layer normalisation with frozen gain and bias: Burn's fused forward, one short backward instead of a tape of ten
//! operations.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use crate::ops::PackedOps;

/// Normalises each row of `x` `[T, D]` to mean 0 and variance 1 (biased), then scales by `gamma` `[D]` and shifts by
/// `beta` `[D]`, which must not be tracked: the backbone is frozen.
pub fn layer_norm(x: Tensor<2>, gamma: Tensor<1>, beta: Tensor<1>, eps: f64) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as PackedOps>::norm_rows(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        eps,
    ))
}

#[cfg(feature = "flex")]
mod cpu {
    use burn::backend::TensorMetadata;
    use burn::backend::tensor::FloatTensor;
    use burn_flex::Flex;
    use rayon::prelude::*;

    use crate::ops::{PackedGradients, cpu_tensor};

    const ROWS_A_TASK: usize = 64;

    impl PackedGradients for Flex {
        fn norm_rows_backward(
            x: FloatTensor<Flex>,
            gamma: FloatTensor<Flex>,
            dy: FloatTensor<Flex>,
            eps: f64,
        ) -> FloatTensor<Flex> {
            let shape = x.shape();
            let width = shape[1];
            let (x, gamma, dy) = (x.to_contiguous(), gamma.to_contiguous(), dy.to_contiguous());
            let (xs, gs, dys): (&[f32], &[f32], &[f32]) = (x.storage(), gamma.storage(), dy.storage());
            let mut out = vec![0f32; xs.len()];
            out.par_chunks_mut(ROWS_A_TASK * width).enumerate().for_each(|(task, out)| {
                let base = task * ROWS_A_TASK * width;
                for (i, out) in out.chunks_mut(width).enumerate() {
                    let at = base + i * width;
                    row(&xs[at..at + width], gs, &dys[at..at + width], eps as f32, out);
                }
            });
            cpu_tensor(out, shape)
        }

        fn gelu_rows_backward(x: FloatTensor<Flex>, dy: FloatTensor<Flex>) -> FloatTensor<Flex> {
            crate::gelu::backward(x, dy)
        }
    }

    /// One row of the gradient; the formula stands at the trait.
    fn row(x: &[f32], gamma: &[f32], dy: &[f32], eps: f32, out: &mut [f32]) {
        let n = x.len() as f32;
        let mean = x.iter().sum::<f32>() / n;
        let var = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / n;
        let inv = 1.0 / (var + eps).sqrt();
        let (mut sum_g, mut sum_gh) = (0f32, 0f32);
        for ((x, gamma), dy) in x.iter().zip(gamma).zip(dy) {
            let g = gamma * dy;
            sum_g += g;
            sum_gh += g * (x - mean) * inv;
        }
        let (mean_g, mean_gh) = (sum_g / n, sum_gh / n);
        for (((x, gamma), dy), out) in x.iter().zip(gamma).zip(dy).zip(out) {
            *out = (gamma * dy - mean_g - (x - mean) * inv * mean_gh) * inv;
        }
    }
}
