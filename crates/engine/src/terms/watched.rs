//! What a probe sees of its gradients, for rules that choose slots by them: AdaLoRA's importance (Zhang et al., arXiv
//! 2303.10512, equations 8 to 11), the mean gradient, the diagonal of the empirical Fisher information.

use burn::tensor::Tensor;

use crate::Score;

/// AdaLoRA's smoothing of sensitivity and of its uncertainty, β₁ = β₂.
const SMOOTHING: f64 = 0.85;

/// What is kept of a trained tensor's gradients; each `[C, rows, cols]`.
#[derive(Default)]
pub(crate) enum Watched {
    /// Nothing.
    #[default]
    Nothing,
    /// AdaLoRA's smoothed sensitivity Ī, its smoothed uncertainty Ū, and their product.
    Sensitivity(Box<[Tensor<3>; 3]>),
    /// Their sum.
    Sum(Tensor<3>),
    /// The sum of their squares.
    Squares(Tensor<3>),
}

impl Watched {
    /// What the `score` needs, filled by `zeros`.
    pub fn new(score: Score, zeros: &dyn Fn() -> Tensor<3>) -> Watched {
        match score {
            Score::Contribution | Score::Magnitude | Score::Random => Watched::Nothing,
            Score::Importance => Watched::Sensitivity(Box::new([zeros(), zeros(), zeros()])),
            Score::Gradient => Watched::Sum(zeros()),
            Score::Fisher => Watched::Squares(zeros()),
        }
    }

    /// What becomes the score.
    pub fn report(&self) -> Option<&Tensor<3>> {
        match self {
            Watched::Nothing => None,
            Watched::Sensitivity(smoothed) => Some(&smoothed[2]),
            Watched::Sum(sum) | Watched::Squares(sum) => Some(sum),
        }
    }

    pub fn tensors(&mut self) -> &mut [Tensor<3>] {
        match self {
            Watched::Nothing => &mut [],
            Watched::Sensitivity(smoothed) => smoothed.as_mut_slice(),
            Watched::Sum(sum) | Watched::Squares(sum) => std::slice::from_mut(sum),
        }
    }

    /// Takes in a step's `gradient` of cross-entropy; `weight` gives where it was taken.
    pub fn observe(&mut self, weight: impl FnOnce() -> Tensor<3>, gradient: &Tensor<3>) {
        match self {
            Watched::Nothing => {}
            Watched::Sensitivity(smoothed) => **smoothed = importance(smoothed, weight(), gradient.clone()),
            Watched::Sum(sum) => *sum = sum.clone() + gradient.clone(),
            Watched::Squares(sum) => *sum = sum.clone() + gradient.clone().square(),
        }
    }
}

/// With `I = |w·∇w|`: `Ī ← β·Ī + (1−β)·I`, `Ū ← β·Ū + (1−β)·|I − Ī|`, and the importance `Ī·Ū`.
fn importance(smoothed: &[Tensor<3>; 3], weight: Tensor<3>, gradient: Tensor<3>) -> [Tensor<3>; 3] {
    let now = (weight * gradient).abs();
    let mean = smoothed[0].clone() * SMOOTHING + now.clone() * (1.0 - SMOOTHING);
    let doubt = smoothed[1].clone() * SMOOTHING + (now - mean.clone()).abs() * (1.0 - SMOOTHING);
    [mean.clone(), doubt.clone(), mean * doubt]
}
