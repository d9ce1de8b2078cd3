//! Parts of the adapter that move in turns over a client's own local steps, the others frozen meanwhile: DFL's two branches
//! (Luo et al., ICML 2022, arXiv 2206.06818) and LA-LoRA's two factors (Liu et al., ICLR 2026, arXiv 2602.19926).

use bonfire_kernels::Moving;
use bonfire_models::Factor;
use burn::tensor::{Device, Tensor, TensorData};

use crate::{Branches, Role, Terms};

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Turns {
    /// Odd steps move the private slots, even ones the shared slots and the head.
    Branches(Branches),
    /// Odd steps move this factor, even ones the other; the head moves in all.
    Factors(Factor),
}

impl Turns {
    /// Those of a plan; `None`: everything moves in every step.
    pub fn of(terms: &Terms) -> Option<Turns> {
        terms.branches.map(Turns::Branches).or(terms.turns_from.map(Turns::Factors))
    }

    /// Whether row `row` of a tensor moves in a client's own step `step`, from 1.
    fn moves(self, role: Role, row: usize, step: usize) -> bool {
        let odd = step % 2 == 1;
        match (self, role) {
            (Turns::Branches(branches), Role::Factor(..)) => (row >= branches.shared) == odd,
            (Turns::Branches(_), _) => !odd,
            (Turns::Factors(first), Role::Factor(_, factor)) => (factor == first) == odd,
            (Turns::Factors(_), _) => true,
        }
    }

    /// Optimizer steps that a tensor has made where it moves in a client's own step `step`: its moments have seen so many
    /// gradients.
    pub fn updates(self, role: Role, step: usize) -> usize {
        match (self, role) {
            (Turns::Factors(_), Role::Head(_)) => step,
            _ => step.div_ceil(2),
        }
    }

    /// Whether a part that waits has no gradient either, so that it counts for nothing in the norm that is clipped. DFL's
    /// divergence is of both branches in every step.
    pub fn freezes_gradients(self) -> bool {
        matches!(self, Turns::Factors(_))
    }

    /// 1 where a tensor may move in this step, `[C, rows, 1]`; `steps` are the lanes' own steps from 1, `None` for nobody's.
    pub fn mask(self, role: Role, rows: usize, steps: &[Option<usize>], device: &Device) -> Tensor<3> {
        let of_lane = |step: &Option<usize>| {
            let step = step.unwrap_or(0);
            (0..rows).map(move |row| f32::from(self.moves(role, row, step)))
        };
        let mask: Vec<f32> = steps.iter().flat_map(of_lane).collect();
        Tensor::from_data(TensorData::new(mask, [steps.len(), rows, 1]), device)
    }
}

/// `after` a step where it was a number's turn by the `mask` `[C, width]`, and what was `before`, moments included, where it was
/// not. The weights are still those of `after`.
pub(crate) fn moved(mask: &Tensor<2>, before: Moving, after: Moving) -> Moving {
    let stays = mask.clone().neg() + 1.0;
    let mix = |new: Tensor<2>, old: Tensor<2>| new * mask.clone() + old * stays.clone();
    let width = mask.dims()[1];
    let moment = |new: Tensor<2>, old| if new.dims()[1] == width { mix(new, old) } else { new };
    Moving {
        movement: mix(after.movement, before.movement),
        first: moment(after.first, before.first),
        second: moment(after.second, before.second),
        weights: after.weights,
    }
}
