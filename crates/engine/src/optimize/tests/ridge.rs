//! The ridge against loops in f64.

use super::{Case, settings};
use crate::job::Phase;
use crate::{Active, Plan, Role};

const LAMBDA: f64 = 0.3;

#[test]
fn factors_are_pulled_to_zero_and_the_head_is_not() {
    let mut plan = Plan { train_head: true, ..Plan::new(1, Active::Both, 0.02, 0.05) };
    plan.terms.ridge = LAMBDA;
    let settings = settings();
    let mut case = Case::new(&plan, &settings, Phase::Training);
    let mut numbers = case.numbers();
    case.follow(&mut numbers, |case, x, role, own, g| {
        let slope = if matches!(role, Role::Factor(..)) { 2.0 * LAMBDA * (x.start + x.movement) } else { 0.0 };
        case.adamw(x, g + slope, case.rate(role, own), own);
    });
    case.check("ridge", &numbers);
}
