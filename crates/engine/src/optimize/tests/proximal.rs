//! FedProx against loops in f64.

use super::{Case, matrix, settings};
use crate::job::Phase;
use crate::{Active, Plan, Private};

const MU: f64 = 0.7;

fn plan() -> Plan {
    let mut plan = Plan { train_head: true, ..Plan::new(1, Active::Both, 0.02, 0.05) };
    plan.terms.prox = MU;
    plan
}

#[test]
fn clients_are_pulled_to_the_rounds_start() {
    let (plan, settings) = (plan(), settings());
    let mut case = Case::new(&plan, &settings, Phase::Training);
    let mut numbers = case.numbers();
    case.follow(&mut numbers, |case, x, role, own, g| {
        case.adamw(x, g + MU * x.movement, case.rate(role, own), own);
    });
    case.check("proximal", &numbers);
}

#[test]
fn who_goes_on_from_a_part_of_its_own_is_pulled_to_that() {
    let (mut plan, settings) = (plan(), settings());
    plan.private = Private { head: true, ..Private::default() };
    let mut case = Case::new(&plan, &settings, Phase::Training);
    let mut numbers = case.numbers();
    // The first client's own part of every tensor, in its slots; the second has none yet.
    let kept: Vec<_> = numbers.iter().filter(|tensor| tensor.lane == 0).map(|tensor| tensor.rows.len()).collect();
    let cols = |i: usize| numbers[2 * i].rows[0].len();
    let own: Vec<_> = kept.iter().enumerate().map(|(i, rows)| matrix(*rows, cols(i), 17 * i)).collect();
    for (tensor, own) in numbers.iter_mut().filter(|tensor| tensor.lane == 0).zip(&own) {
        for (x, v) in tensor.rows.iter_mut().flatten().zip(&own.data) {
            (x.movement, x.own[0]) = (f64::from(*v), f64::from(*v));
        }
    }
    case.jobs[0].movement = Some(own);
    case.follow(&mut numbers, |case, x, role, own, g| {
        case.adamw(x, g + MU * (x.movement - x.own[0]), case.rate(role, own), own);
    });
    case.check("proximal, own centre", &numbers);
}
