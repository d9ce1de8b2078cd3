//! SoRA's threshold against loops in f64.

use super::{Case, settings};
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
