//! What training asks of the rows that are read, where it is not plain cross-entropy: smoothed labels and weights of classes, as
//! PyTorch's `CrossEntropyLoss` has them. Evaluation knows nothing of it.

use bonfire_kernels::cross_entropy;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::PackedBatch;

/// The local objective of a batch.
#[derive(Clone, Debug, Default)]
pub struct Objective {
    /// ε: so much of a row's target is spread over all answers.
    pub smoothing: f64,
    /// What the classes weigh.
    pub(crate) classes: Option<ClassWeights>,
}

#[derive(Clone, Debug)]
pub(crate) struct ClassWeights {
    /// `[K]`.
    all: Tensor<1>,
    /// Of each row `[N]` without surplus: the rows of its client over the sum of their classes' weights, so that the mean over
    /// the client's rows is the weighted mean.
    rows: Tensor<1>,
}

impl PackedBatch {
    /// The objective of this batch on `device`; `class_weights` has one for each class.
    pub fn objective(&self, smoothing: f64, class_weights: Option<&[f64]>, device: &Device) -> Objective {
        let put = |numbers: Vec<f32>| {
            let n = numbers.len();
            Tensor::<1>::from_data(TensorData::new(numbers, [n]), device)
        };
        let classes = class_weights.map(|weights| {
            let of_client = |texts: std::ops::Range<usize>| {
                let sum: f64 = self.weights_of(texts.clone(), weights).sum();
                let rows = self.weights_of(texts, weights).count();
                let factor = if sum > 0.0 { rows as f64 / sum } else { 0.0 };
                std::iter::repeat_n(factor as f32, rows)
            };
            let rows = self.clients.ranges().flat_map(of_client).collect();
            ClassWeights { all: put(weights.iter().map(|&w| w as f32).collect()), rows: put(rows) }
        });
        Objective { smoothing, classes }
    }

    /// What each client's answers weigh together, `C` numbers: their count, or the sum of their classes' weights.
    pub fn weights_by_client(&self, class_weights: Option<&[f64]>) -> Vec<f64> {
        let count = |s: usize| self.goals[s].answers(self.sequences.range(s).len()) as f64;
        let of_client = |texts: std::ops::Range<usize>| match class_weights {
            Some(weights) => self.weights_of(texts, weights).sum(),
            None => texts.map(count).sum(),
        };
        self.clients.ranges().map(of_client).collect()
    }

    fn weights_of<'w>(&'w self, texts: std::ops::Range<usize>, weights: &'w [f64]) -> impl Iterator<Item = f64> + 'w {
        texts.flat_map(|s| self.goals[s].classes().map(|class| weights[class]))
    }
}

impl Objective {
    /// A row's loss from its scores: `logits` `[N, K]`, `labels` `[N]` -> `[N]`. With weights w of K classes and smoothing ε,
    /// `(1−ε)·w_y·(−log p_y) + (ε/K)·Σ_k w_k·(−log p_k)`, over the client's sum of `w_y`.
    pub(crate) fn losses(&self, logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
        let epsilon = self.smoothing;
        let Some(ClassWeights { all, rows }) = &self.classes else {
            let spread = if epsilon > 0.0 { Some(self.spread(logits.clone(), labels.clone())) } else { None };
            let losses = cross_entropy(logits, labels);
            return match spread {
                Some(spread) => losses + spread,
                None => losses,
            };
        };
        let [n, classes] = logits.dims();
        let log_p = log_softmax(logits, 1); // [N, K]
        let own = all.clone().select(0, labels.clone()); // [N]
        let right = log_p.clone().gather(1, labels.unsqueeze_dim::<2>(1)).reshape([n]);
        let mut losses = right * own * (epsilon - 1.0);
        if epsilon > 0.0 {
            let spread = (log_p * all.clone().unsqueeze_dim(0)).sum_dim(1).reshape([n]);
            losses = losses - spread * (epsilon / classes as f64);
        }
        losses * rows.clone()
    }

    /// What smoothing adds to plain cross-entropy, `ε·(s_y − mean(s))` of scores s: `[N, K]`, `[N]` -> `[N]`.
    fn spread(&self, logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
        let n = logits.dims()[0];
        let right = logits.clone().gather(1, labels.unsqueeze_dim::<2>(1)).reshape([n]);
        (right - logits.mean_dim(1).reshape([n])) * self.smoothing
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::Goal;

    const LOGITS: [f32; 15] = [1.0, -0.5, 0.25, 2.0, 0.1, -1.0, 0.0, 0.5, 1.5, -2.0, 0.3, -0.2, 0.7, 0.9, 0.0];
    const LABELS: [usize; 5] = [0, 2, 1, 1, 2];

    /// Losses of two clients (three rows, two rows) and their gradients, by the formula in plain numbers.
    fn found(smoothing: f64, weights: Option<&[f64]>) -> (Vec<f64>, Vec<f64>) {
        let device = Device::flex().autodiff();
        let ids = [1u32, 2];
        let text = |class: &usize| (&ids[..], Goal::Class(*class));
        let batch = PackedBatch::pack(&[
            LABELS[..3].iter().map(text).collect::<Vec<_>>(),
            LABELS[3..].iter().map(text).collect(),
        ]);
        let leaf = Tensor::<2>::from_data(TensorData::new(LOGITS.to_vec(), [5, 3]), &device).require_grad();
        let labels: Vec<i32> = LABELS.iter().map(|&l| l as i32).collect();
        let rows = batch.objective(smoothing, weights, &device);
        let losses = rows.losses(leaf.clone(), Tensor::from_ints(labels.as_slice(), &device));
        let clients = bonfire_kernels::Grouped::new(&batch.clients, &device).mean(losses);
        let gradient = leaf.grad(&clients.clone().sum().backward()).expect("a gradient");
        (clients.into_data().iter::<f64>().collect(), gradient.into_data().iter::<f64>().collect())
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 2e-6), "{found:?}, PyTorch {expected:?}");
    }

    /// `F.cross_entropy(logits, labels, weight=…, label_smoothing=…)` of PyTorch for each client alone; gradients of the first row.
    #[test]
    fn losses_are_those_of_pytorch() {
        let weights = [0.5, 2.0, 1.25];
        let cases: [(f64, Option<&[f64]>); 4] =
            [(0.0, None), (0.1, None), (0.0, Some(&weights)), (0.2, Some(&weights))];
        for ((smoothing, weights), (losses, first)) in cases.into_iter().zip(PYTORCH) {
            let (found_losses, gradients) = found(smoothing, weights);
            close(&found_losses, &losses);
            close(&gradients[..3], &first);
        }
    }

    const PYTORCH: [([f64; 2], [f64; 3]); 4] = [
        ([1.724709671, 1.117253023], [-0.136734112, 0.043867216, 0.092866896]),
        ([1.698598560, 1.137253023], [-0.114511890, 0.032756105, 0.081755785]),
        ([1.911988279, 0.982797892], [-0.054693645, 0.017546886, 0.037146759]),
        ([1.860977002, 0.950431086], [-0.013323961, -0.012744603, 0.026068564]),
    ];
}
