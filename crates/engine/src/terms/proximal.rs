//! FedProx (Li et al., arXiv 1812.06127): `(μ/2)·‖θ − θᵗ‖²` over what trains keeps clients near the round's start.

use burn::tensor::Tensor;

/// The gradient of the term is `μ·(θ − θᵗ)`. `movement` is `θ` minus the *global* start; where a client goes on from a part of
/// its own, `centre` is where that part stood, as a movement too.
pub(crate) fn pull(mu: f64, movement: &Tensor<3>, centre: Option<&Tensor<3>>) -> Tensor<3> {
    let moved = match centre {
        Some(centre) => movement.clone() - centre.clone(), // [C, rows, cols]
        None => movement.clone(),
    };
    moved * mu
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::super::testing::{Case, matrix, settings};
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
}
