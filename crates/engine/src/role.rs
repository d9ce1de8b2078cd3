//! What a trained tensor is: a factor of a target, a weight of the encoder, or a tensor of the head. Everything that
//! clients and server keep tensor by tensor is keyed by it; names are for files and messages.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use bonfire_models::{Adapter, Factor, Matrix};

use crate::{Active, Plan};

/// What one tensor of the client's state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A factor of a target, by target number.
    Factor(usize, Factor),
    /// A tensor of the encoder in full fine-tuning, by number.
    Weight(usize),
    /// A tensor of the head, by number.
    Head(usize),
}

/// Tensors by what they are, each as one row a slot: a factor `[slots, d]`, others `[rows, cols]`.
pub type RoleTensors = BTreeMap<Role, Matrix>;

impl Role {
    /// Everything that trains by `plan`: active factors target by target, or the weights; then the head.
    pub(crate) fn all(plan: &Plan, global: &Adapter) -> Vec<Role> {
        let targets = 0..global.targets.len();
        let factors = plan.active.factors().iter();
        let mut roles: Vec<Role> =
            factors.flat_map(|&factor| targets.clone().map(move |t| Role::Factor(t, factor))).collect();
        if plan.active == Active::Full {
            roles.extend((0..global.weights.len()).map(Role::Weight));
        }
        if plan.train_head {
            roles.extend((0..global.head.len()).map(Role::Head));
        }
        roles
    }

    /// Rows and columns over all slots of `global`.
    pub fn shape(self, global: &Adapter) -> [usize; 2] {
        let dims = |m: &Matrix| [m.rows, m.cols];
        match self {
            // A is kept with its slots as columns.
            Role::Factor(t, Factor::A) => [global.a[t].cols, global.a[t].rows],
            Role::Factor(t, factor) => dims(&global.factor(factor)[t]),
            Role::Weight(i) => dims(&global.weights[i]),
            Role::Head(i) => dims(&global.head[i].value),
        }
    }

    /// Zeros of that shape.
    pub(crate) fn zeros(self, global: &Adapter) -> Matrix {
        let [rows, cols] = self.shape(global);
        Matrix::zeros(rows, cols)
    }
}

/// The name in files and messages: `a/3`, `b/3` and `core/3` (of target 3), `weight/0`, `head/0`.
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Factor(t, factor) => write!(f, "{}/{t}", factor.name().to_lowercase()),
            Role::Weight(i) => write!(f, "weight/{i}"),
            Role::Head(i) => write!(f, "head/{i}"),
        }
    }
}

/// Reads what `Display` writes, and nothing else.
impl FromStr for Role {
    type Err = ();

    fn from_str(name: &str) -> Result<Role, ()> {
        let (kind, number) = name.split_once('/').ok_or(())?;
        let number: usize = number.parse().map_err(|_| ())?;
        let role = match kind {
            "weight" => Role::Weight(number),
            "head" => Role::Head(number),
            kind => {
                let factor = Factor::ALL.into_iter().find(|factor| factor.name().to_lowercase() == kind).ok_or(())?;
                Role::Factor(number, factor)
            }
        };
        // `a/+3` and `a/03` are nobody's names.
        if role.to_string() == name { Ok(role) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_nothing_else_is() {
        let factors = Factor::ALL.map(|factor| Role::Factor(12, factor));
        for role in factors.into_iter().chain([Role::Weight(0), Role::Head(3)]) {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        assert_eq!(Role::Factor(3, Factor::A).to_string(), "a/3");
        for name in ["", "a", "a/", "A/3", "a/x", "a/+3", "a/03", "d/3", "control/a/3", "head/1/2"] {
            assert_eq!(name.parse::<Role>(), Err(()), "{name}");
        }
    }
}
