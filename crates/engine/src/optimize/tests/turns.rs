//! LA-LoRA's turns against loops in f64.

use super::{Case, Number, settings};
use crate::job::Phase;
use crate::{Active, Plan, Role, TrainSettings};
use bonfire_models::Factor;

fn plan(first: Factor) -> Plan {
    let mut plan = Plan { train_head: true, ..Plan::new(1, Active::Both, 0.02, 0.05) };
    plan.terms.turns_from = Some(first);
    plan
}

/// A number's update at a client's step `own`, as many as have come to it by then; `None`: it waits.
fn update(first: Factor, role: Role, own: usize) -> Option<usize> {
    match role {
        Role::Factor(_, factor) if factor == first => (own % 2 == 1).then_some(own.div_ceil(2)),
        Role::Factor(..) => own.is_multiple_of(2).then_some(own / 2),
        _ => Some(own),
    }
}

#[test]
fn factors_move_in_turns_and_the_head_in_every_step() {
    for first in [Factor::A, Factor::B] {
        let (plan, settings) = (plan(first), settings());
        let mut case = Case::new(&plan, &settings, Phase::Training);
        let mut numbers = case.numbers();
        case.follow(&mut numbers, |case, x: &mut Number, role, own, g| {
            if let Some(update) = update(first, role, own) {
                case.adamw(x, g, case.rate(role, own), update);
            }
        });
        case.check("factors in turns", &numbers);
    }
}

#[test]
fn a_factor_that_waits_counts_for_nothing_in_the_norm_that_is_clipped() {
    let (plan, limit) = (plan(Factor::B), 1.2);
    let settings = TrainSettings { clip_norm: Some(limit), ..settings() };
    let mut case = Case::new(&plan, &settings, Phase::Training);
    let mut numbers = case.numbers();
    let moves = |role, own| update(Factor::B, role, own);
    case.follow_clipped(
        &mut numbers,
        limit,
        |role, own| moves(role, own).is_some(),
        |case, x, role, own, g| {
            if let Some(update) = moves(role, own) {
                case.adamw(x, g, case.rate(role, own), update);
            }
        },
    );
    case.check("clipping in turns", &numbers);
}
