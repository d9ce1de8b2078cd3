//! SoRA's proximal step (Ding et al., EMNLP 2023, arXiv 2311.11696): after every step of the optimizer the gates between A
//! and B are shrunk, `g ← sign(g)·max(|g| − ξ, 0)`, so that gates of little use reach zero.

use burn::tensor::Tensor;

use crate::Threshold;

/// The movement `[C, rows, cols]` that brings gates from `start` to where the soft threshold leaves `start + movement`.
pub(crate) fn shrink(threshold: Threshold, start: &Tensor<3>, movement: Tensor<3>) -> Tensor<3> {
    let gate = start.clone() + movement;
    let size = gate.clone().abs() - threshold.xi; // |g| − ξ
    // The published code also zeroes what was just shrunk below ξ.
    let floor = if threshold.twice { threshold.xi } else { 0.0 };
    let shrunk = gate.sign() * size.clone().clamp_min(0.0) * size.greater_elem(floor).float();
    shrunk - start.clone()
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::super::testing::{Case, settings};
    use crate::job::Phase;
    use crate::{Active, Plan, Role, Threshold};
    use bonfire_models::Factor;

    #[test]
    fn gates_are_shrunk_after_every_step_and_factors_are_not() {
        for twice in [false, true] {
            let xi = 0.04;
            let mut plan = Plan { lr_core: 0.05, ..Plan::new(1, Active::All, 0.02, 0.05) };
            plan.terms.threshold = Some(Threshold { xi, twice });
            let settings = settings();
            let mut case = Case::new(&plan, &settings, Phase::Training);
            let mut numbers = case.numbers();
            let mut closed = 0;
            case.follow(&mut numbers, |case, x, role, own, g| {
                case.adamw(x, g, case.rate(role, own), own);
                if matches!(role, Role::Factor(_, Factor::Core)) {
                    let gate = x.start + x.movement;
                    let mut size = (gate.abs() - xi).max(0.0);
                    if twice && size <= xi {
                        size = 0.0;
                    }
                    closed += usize::from(size == 0.0);
                    x.movement = gate.signum() * size - x.start;
                }
            });
            assert!(closed > 0, "no gate has come to zero");
            case.check(if twice { "threshold, twice" } else { "threshold" }, &numbers);
        }
    }
}
