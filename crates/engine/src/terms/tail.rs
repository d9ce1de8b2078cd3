//! HetLoRA (Cho et al., EMNLP 2024, arXiv 2401.06432): a push on a client's last slots, `λ·Σ ‖B_tail‖·‖A_tail‖`, and its
//! self-pruning: where the product shrinks in local training, the client drops these slots.

use bonfire_models::{Adapter, Factor, Matrix};
use burn::tensor::{Device, Tensor, TensorData};

use crate::{Role, TailPenalty, TargetSlots};

/// Keeps `‖·‖/‖·‖` finite where a tail is zero.
const TINY: f64 = 1e-12;

/// 1 for the last slots of every client, `[C, rows, 1]`: those from `⌊γ·r_k⌋` of the `owned[k] = r_k` that client `k` has.
pub(crate) fn mask(tail: TailPenalty, owned: &[usize], rows: usize, device: &Device) -> Tensor<3> {
    let of_client = |&own: &usize| (0..rows).map(move |row| f32::from(row >= tail.keeps(own) && row < own));
    let numbers: Vec<f32> = owned.iter().flat_map(of_client).collect();
    Tensor::from_data(TensorData::new(numbers, [owned.len(), rows, 1]), device)
}

/// The gradients of the term at `[A, B]` of one target, `[C, rows, d_in]` and `[C, rows, d_out]`: for A it is
/// `λ·‖B_tail‖/‖A_tail‖·A_tail`.
pub(crate) fn pushes(tail: TailPenalty, weights: [Tensor<3>; 2], mask: &Tensor<3>) -> [Tensor<3>; 2] {
    let [a, b] = weights.map(|weight| weight * mask.clone()); // the tails, zeros elsewhere
    let norm = |x: &Tensor<3>| x.clone().square().sum_dim(2).sum_dim(1).sqrt(); // [C, 1, 1]
    let (norm_a, norm_b) = (norm(&a), norm(&b));
    let ratio = |over: &Tensor<3>, under: &Tensor<3>| over.clone() / (under.clone() + TINY) * tail.weight;
    [a * ratio(&norm_b, &norm_a), b * ratio(&norm_a, &norm_b)]
}

/// The slots that are left where `Σ ‖A_tail‖·‖B_tail‖` over the targets has shrunk in training, of a client with these
/// `slots` and this `movement`, role by role. `None`: it has not, and all stay.
pub(crate) fn left_after_pruning(
    tail: TailPenalty,
    global: &Adapter,
    roles: &[Role],
    slots: &TargetSlots,
    movement: &[Matrix],
) -> Option<TargetSlots> {
    let norm =
        |m: &Matrix, keeps: usize| m.data[keeps * m.cols..].iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let (mut before, mut after) = (0.0, 0.0);
    for (t, own) in slots.iter().enumerate() {
        let keeps = tail.keeps(own.len());
        let (mut start, mut end) = (1.0, 1.0);
        for factor in [Factor::A, Factor::B] {
            let mut whole = global.slot_rows(factor, t).rows(own);
            start *= norm(&whole, keeps);
            if let Some(at) = roles.iter().position(|role| *role == Role::Factor(t, factor)) {
                whole.data.iter_mut().zip(&movement[at].data).for_each(|(w, m)| *w += m);
            }
            end *= norm(&whole, keeps);
        }
        (before, after) = (before + start, after + end);
    }
    (after < before).then(|| {
        let mut left = slots.clone();
        left.truncate(|len| tail.keeps(len));
        left
    })
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::super::testing::{Case, Number, Numbers, STEPS, global, settings};
    use super::*;
    use crate::job::Phase;
    use crate::{Active, Plan};

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
}
