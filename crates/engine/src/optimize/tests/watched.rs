//! What probes watch against loops in f64.

use super::{Case, Number, settings};
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
