//! DFL's turns against loops in f64.

use super::{Case, settings};
use crate::job::Phase;
use crate::{Active, Branches, Plan, Role};

#[test]
fn branches_move_in_turns_with_moments_of_their_own() {
    let mut plan = Plan { train_head: true, ..Plan::new(1, Active::Both, 0.02, 0.05) };
    // Of the first client's three slots of the first target one is shared.
    plan.terms.branches = Some(Branches { shared: 1, divergence_weight: 0.0 });
    let settings = settings();
    let mut case = Case::new(&plan, &settings, Phase::Training);
    let mut numbers = case.numbers();
    // Which branch a number belongs to.
    for tensor in &mut numbers {
        let factor = matches!(tensor.role, Role::Factor(..));
        for (row, numbers) in tensor.rows.iter_mut().enumerate() {
            numbers.iter_mut().for_each(|x| x.own[0] = f64::from(u8::from(factor && row >= 1)));
        }
    }
    case.follow(&mut numbers, |case, x, role, own, g| {
        let (private, odd) = (x.own[0] == 1.0, own % 2 == 1);
        if private == odd {
            // The first, third and fifth step are a private number's first, second and third update.
            let updates = if private { own.div_ceil(2) } else { own / 2 };
            case.adamw(x, g, case.rate(role, own), updates);
        }
    });
    case.check("branches", &numbers);
}
