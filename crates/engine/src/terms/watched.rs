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

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::super::testing::{Case, Number, settings};
    use crate::job::Phase;
    use crate::{Active, Per, Plan, Probe, Score, Selection};

    /// A probe of B by this score beside `watch`, which takes in the gradient at a number.
    fn check(term: &str, score: Score, report: usize, watch: impl Fn(&mut Number, f64)) {
        let selection = Selection { probe: Probe::default(), score, per: Per::Slot, budgets: vec![1, 1] };
        let mut plan = Plan::new(1, Active::B, 0.02, 0.05);
        // A term of the objective is none of what is watched.
        plan.terms.prox = 0.5;
        let settings = settings();
        let mut case = Case::new(&plan, &settings, Phase::Probe(&selection));
        let mut numbers = case.numbers();
        case.follow(&mut numbers, |case, x, role, own, g| {
            watch(x, g);
            case.adamw(x, g + 0.5 * x.movement, case.rate(role, own), own);
        });
        case.check_report(term, &numbers, report);
        case.check(&format!("{term}, steps"), &numbers);
    }

    #[test]
    fn importance_is_adaloras() {
        check("importance", Score::Importance, 2, |x, g| {
            let sensitivity = ((x.start + x.movement) * g).abs();
            let mean = 0.85 * x.own[0] + 0.15 * sensitivity;
            let doubt = 0.85 * x.own[1] + 0.15 * (sensitivity - mean).abs();
            x.own = [mean, doubt, mean * doubt];
        });
    }

    #[test]
    fn gradients_and_their_squares_are_summed() {
        check("gradient", Score::Gradient, 0, |x, g| x.own[0] += g);
        check("fisher", Score::Fisher, 0, |x, g| x.own[0] += g * g);
    }
}
