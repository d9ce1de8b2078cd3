//! Parts of the adapter that move in turns over a client's local steps.

use bonfire_models::Factor;

use crate::parameters::Role;
use crate::plan::{Branches, Terms};

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Turns {
    /// Odd steps move the private slots, even ones the shared slots and the head.
    Branches(Branches),
    /// Odd steps move this factor, even ones the other, and the head moves in all (LA-LoRA, arXiv 2602.19926).
    Factors(Factor),
}

impl Turns {
    /// Those of a plan.
    pub fn of(terms: &Terms) -> Option<Turns> {
        terms.branches.map(Turns::Branches).or(terms.turns_from.map(Turns::Factors))
    }

    /// Whether row `row` of a tensor moves in a client's step `own`, from 1.
    pub fn moves(self, role: Role, row: usize, own: usize) -> bool {
        let odd = own % 2 == 1;
        match (self, role) {
            (Turns::Branches(branches), Role::Factor(..)) => (row >= branches.shared) == odd,
            (Turns::Branches(_), _) => !odd,
            (Turns::Factors(first), Role::Factor(_, factor)) => (factor == first) == odd,
            (Turns::Factors(_), _) => true,
        }
    }

    /// How often a tensor that moves in a client's step `own` has moved then: its moments have seen so many gradients.
    pub fn updates(self, role: Role, own: usize) -> usize {
        match (self, role) {
            (Turns::Factors(_), Role::Head(_)) => own,
            _ => own.div_ceil(2),
        }
    }
}
