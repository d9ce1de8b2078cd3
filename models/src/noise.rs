//! Noise on frozen weights, Flat-LoRA's (arXiv 2409.14396), for many clients in one product.
//!
//! The paper adds to every adapted weight, at every step, `ε_ij ~ N(0, σ²/n·‖W'_j‖²)`, with `W'_j` the weights of output
//! unit `j` and `n` their number. A draw of its own for each client and step would cost as much as the step. So a
//! *bank* `E` of such entries for σ = 1 is drawn once a round, and client `k` at step `t` draws random signs only:
//! `ε = σ·diag(u)·E·diag(v)`. Each entry has exactly the paper's distribution; the entries of one step are independent;
//! those of different clients and steps are uncorrelated (not independent: their sizes agree). And for rows of all
//! clients, `x·ε = σ·((x∘u)·E)∘v` is one product.

use bonfire_kernels::{Arithmetic, product};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::{Rng, RngExt};

use crate::Target;

/// The signs of the clients in flight for one target.
#[derive(Clone, Debug)]
pub struct NoiseSigns {
    /// 1 or -1 `[C, d_in]`.
    pub input: Tensor<2>,
    /// σ or -σ, each client's own `[C, d_out]`.
    pub output: Tensor<2>,
}

impl NoiseSigns {
    /// Numbers that one client draws for `targets`.
    pub fn numbers(targets: &[Target]) -> usize {
        targets.iter().map(|t| t.d_in + t.d_out).sum()
    }

    /// One client's numbers for one step: for every target its signs on the side of the input, then those on the side
    /// of the output times `sigma`.
    pub fn draw(targets: &[Target], sigma: f32, rng: &mut impl Rng) -> Vec<f32> {
        let mut signs = Signs { rng, bits: 0, left: 0 };
        let mut all = Vec::with_capacity(Self::numbers(targets));
        for t in targets {
            all.extend((0..t.d_in).map(|_| signs.next(1.0)));
            all.extend((0..t.d_out).map(|_| signs.next(sigma)));
        }
        all
    }

    /// The signs of every target from what the clients have drawn, client after client; one transfer to `device`. A
    /// client without noise has zeros.
    pub fn to_device(drawn: Vec<f32>, targets: &[Target], device: &Device) -> Vec<NoiseSigns> {
        let width = Self::numbers(targets);
        let clients = drawn.len() / width.max(1);
        let all = Tensor::<2>::from_data(TensorData::new(drawn, [clients, width]), device);
        let mut at = 0;
        let mut take = |columns: usize| {
            at += columns;
            all.clone().narrow(1, at - columns, columns)
        };
        targets.iter().map(|t| NoiseSigns { input: take(t.d_in), output: take(t.d_out) }).collect()
    }
}

/// Signs from single bits.
struct Signs<'r, R> {
    rng: &'r mut R,
    bits: u64,
    left: u32,
}

impl<R: Rng> Signs<'_, R> {
    fn next(&mut self, size: f32) -> f32 {
        if self.left == 0 {
            (self.bits, self.left) = (self.rng.next_u64(), 64);
        }
        let minus = self.bits & 1 == 1;
        (self.bits, self.left) = (self.bits >> 1, self.left - 1);
        if minus { -size } else { size }
    }
}

/// `n` standard normal numbers, two from each pair of uniform ones (Box-Muller).
pub fn normals(n: usize, rng: &mut impl Rng) -> Vec<f32> {
    let mut all = Vec::with_capacity(n + 1);
    while all.len() < n {
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * rng.random::<f64>()).sin_cos();
        all.extend([(radius * cos) as f32, (radius * sin) as f32]);
    }
    all.truncate(n);
    all
}

/// The bank of a weight `[d_in, d_out]`: `normals` scaled by each output unit's norm over `√d_in`.
pub(crate) fn bank(weight: Tensor<2>, normals: Vec<f32>) -> Tensor<2> {
    let [d_in, d_out] = weight.dims();
    let sizes = (weight.square().sum_dim(0) / d_in as f64).sqrt(); // [1, d_out]
    Tensor::from_data(TensorData::new(normals, [d_in, d_out]), &sizes.device()) * sizes
}

/// What noise adds to a linear's result: `((x∘u_k)·E)∘v_k` with `k` the client a row belongs to, `[T, d_in] -> [T, d_out]`.
/// `owners` `[T]` names the client; rows of nobody may name any.
pub(crate) fn perturbed(
    x: Tensor<2>,
    bank: Tensor<2>,
    signs: &NoiseSigns,
    owners: &Tensor<1, Int>,
    arithmetic: Arithmetic,
) -> Tensor<2> {
    let of_each_row = |signs: &Tensor<2>| signs.clone().select(0, owners.clone()); // [C, d] -> [T, d]
    product(x * of_each_row(&signs.input), bank, arithmetic) * of_each_row(&signs.output) // [T, d_out]
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::TargetKind;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    const SIGMA: f64 = 0.5;

    fn target(d_in: usize, d_out: usize) -> Target {
        Target { name: String::new(), kind: TargetKind::Query, layer: 0, d_in, d_out }
    }

    fn numbers(t: Tensor<2>) -> Vec<f64> {
        t.into_data().iter::<f64>().collect()
    }

    /// The noise itself: what it adds for the unit rows.
    fn noise(bank: &Tensor<2>, signs: &NoiseSigns) -> Vec<f64> {
        let device = bank.device();
        let owners = Tensor::<1, Int>::zeros([bank.dims()[0]], &device);
        numbers(perturbed(Tensor::eye(bank.dims()[0], &device), bank.clone(), signs, &owners, Arithmetic::F32))
    }

    #[test]
    fn entries_have_the_papers_mean_and_variance_and_are_uncorrelated() {
        let (device, targets) = (Device::flex(), [target(3, 2)]);
        let weight = Tensor::<2>::from_data([[1.0, 0.2], [2.0, 0.0], [-2.0, 0.1]], &device);
        let sizes = [9.0f64, 0.05].map(|squares| SIGMA * SIGMA / 3.0 * squares);
        let (banks, steps) = (4000, 4);
        let (mut sums, mut products) = (vec![0.0; 6], vec![0.0; 36]);
        let mut across = [0.0; 6];
        for b in 0..banks {
            let mut rng = ChaCha8Rng::seed_from_u64(b);
            let bank = bank(weight.clone(), normals(6, &mut rng));
            let mut before: Option<Vec<f64>> = None;
            for _ in 0..steps {
                let drawn = NoiseSigns::draw(&targets, SIGMA as f32, &mut rng);
                let found = noise(&bank, &NoiseSigns::to_device(drawn, &targets, &device)[0]);
                for i in 0..6 {
                    sums[i] += found[i];
                    (0..6).for_each(|j| products[i * 6 + j] += found[i] * found[j]);
                    across[i] += before.as_ref().map_or(0.0, |before| before[i] * found[i]);
                }
                before = Some(found);
            }
        }
        let n = (banks * steps) as f64;
        for i in 0..6 {
            let deviation = sizes[i % 2].sqrt();
            assert!(sums[i].abs() / n < 0.04 * deviation, "mean of entry {i}");
            assert!(across[i].abs() / n < 0.06 * sizes[i % 2], "steps of entry {i} are correlated");
            for j in 0..6 {
                let covariance = products[i * 6 + j] / n;
                let expected = if i == j { sizes[i % 2] } else { 0.0 };
                let scale = deviation * sizes[j % 2].sqrt();
                assert!((covariance - expected).abs() < 0.06 * scale, "{i} and {j}: {covariance}, not {expected}");
            }
        }
    }

    #[test]
    fn rows_meet_their_own_clients_noise_and_only_they_get_gradients() {
        let device = Device::flex().autodiff();
        let targets = [target(4, 3), target(3, 5)];
        let draw = |seed| NoiseSigns::draw(&targets, 0.2 + seed as f32, &mut ChaCha8Rng::seed_from_u64(seed));
        let drawn: Vec<f32> = (0..2).flat_map(draw).collect();
        assert_eq!(drawn.len(), 2 * NoiseSigns::numbers(&targets));
        let together = NoiseSigns::to_device(drawn.clone(), &targets, &device);
        for (t, target) in targets.iter().enumerate() {
            let mut rng = ChaCha8Rng::seed_from_u64(7);
            let mut random = |rows: usize, cols: usize| {
                Tensor::<2>::from_data(TensorData::new(normals(rows * cols, &mut rng), [rows, cols]), &device)
            };
            let bank = bank(
                random(target.d_in, target.d_out),
                normals(target.d_in * target.d_out, &mut ChaCha8Rng::seed_from_u64(8)),
            );
            let x = random(3, target.d_in).require_grad();
            let owners = Tensor::<1, Int>::from_data([1, 0, 1], &device);
            let y = perturbed(x.clone(), bank.clone(), &together[t], &owners, Arithmetic::F32);
            let weighting = random(3, target.d_out);
            let grads = (y.clone() * weighting.clone()).sum().backward();
            let gradient = numbers(x.grad(&grads).expect("x is tracked"));
            assert!(bank.grad(&grads).is_none() && together[t].input.grad(&grads).is_none());
            for (row, client) in [1usize, 0, 1].into_iter().enumerate() {
                let own = NoiseSigns::to_device(draw(client as u64), &targets, &device);
                let epsilon = own[t].input.clone().transpose() * bank.clone() * own[t].output.clone();
                let expected = numbers(x.clone().narrow(0, row, 1).matmul(epsilon.clone()));
                let slope = numbers(weighting.clone().narrow(0, row, 1).matmul(epsilon.transpose()));
                let found = numbers(y.clone().narrow(0, row, 1));
                assert!(found.iter().zip(&expected).all(|(x, y)| (x - y).abs() < 1e-5));
                let here = &gradient[row * target.d_in..(row + 1) * target.d_in];
                assert!(here.iter().zip(&slope).all(|(x, y)| (x - y).abs() < 1e-5));
            }
        }
    }
}
