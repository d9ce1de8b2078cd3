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
