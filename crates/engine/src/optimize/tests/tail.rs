//! HetLoRA's tails against loops in f64.

use super::{Case, Number, Numbers, STEPS, global, settings};
use crate::job::Phase;
use crate::terms::tail::left_after_pruning;
use crate::{Active, Plan, Role, TailPenalty, TargetSlots};
use bonfire_models::{Factor, Matrix};

/// `⌊0.5·r⌋` slots stay: of three the first, of one none.
const TAIL: TailPenalty = TailPenalty { weight: 0.4, decay: 0.5, least: 0 };

/// `‖A_tail‖·‖B_tail‖` of one target of one client, in f64.
fn product(factors: [&[Vec<Number>]; 2]) -> f64 {
    let norm = |rows: &[Vec<Number>]| {
        let tail = &rows[rows.len() / 2..];
        tail.iter().flatten().map(|x| (x.start + x.movement).powi(2)).sum::<f64>().sqrt()
    };
    norm(factors[0]) * norm(factors[1])
}

#[test]
fn last_slots_are_pushed_by_the_slope_of_the_product_of_their_norms() {
    let mut plan = Plan { train_head: true, ..Plan::new(1, Active::Both, 0.02, 0.05) };
    plan.terms.tail = Some(TAIL);
    let settings = settings();
    let mut case = Case::new(&plan, &settings, Phase::Training);
    let mut numbers = case.numbers();
    for _ in 0..STEPS {
        case.step();
        let before: Vec<(Role, usize, Vec<Vec<Number>>)> =
            numbers.iter().map(|tensor| (tensor.role, tensor.lane, tensor.rows.clone())).collect();
        for Numbers { role, lane, rows, .. } in &mut numbers {
            let Some(own) = case.own_step(*lane) else { continue };
            let rows_of = |role: Role| &before.iter().find(|(r, l, _)| (*r, *l) == (role, *lane)).expect("there").2;
            for (row, numbers) in rows.iter_mut().enumerate() {
                for (col, x) in numbers.iter_mut().enumerate() {
                    let mut g = case.gradient(*role, *lane, row, col);
                    if let Role::Factor(t, factor) = *role {
                        // The slope by a central difference.
                        let h = 1e-6;
                        let at = |by: f64| {
                            let [mut a, mut b] =
                                [Factor::A, Factor::B].map(|factor| rows_of(Role::Factor(t, factor)).clone());
                            (if factor == Factor::A { &mut a } else { &mut b })[row][col].movement += by;
                            product([&a, &b])
                        };
                        g += TAIL.weight * (at(h) - at(-h)) / (2.0 * h);
                    }
                    case.adamw(x, g, case.rate(*role, own), own);
                }
            }
        }
    }
    case.check("tail", &numbers);
}

#[test]
fn tails_go_where_their_product_has_shrunk() {
    let (plan, start) = (Plan::new(1, Active::Both, 0.02, 0.05), global(false));
    let roles = Role::all(&plan, &start);
    let slots: TargetSlots = [vec![0, 2, 3], vec![1]].into_iter().collect();
    let tail = TailPenalty { least: 1, ..TAIL };
    let movement = |by: f32| -> Vec<Matrix> {
        let scaled = |role: &Role| {
            let Role::Factor(t, factor) = *role else { unreachable!("no head trains") };
            let mut rows = start.slot_rows(factor, t).rows(&slots[t]);
            rows.data.iter_mut().for_each(|v| *v *= by);
            rows
        };
        roles.iter().map(scaled).collect()
    };
    let left = |by: f32| left_after_pruning(tail, &start, &roles, &slots, &movement(by));
    assert_eq!(left(0.1), None, "it has grown");
    assert_eq!(left(-0.1), Some([vec![0], vec![1]].into_iter().collect()));
}
