//! What a client keeps for itself from round to round: its own part of the model in methods with personal parts, and
//! SCAFFOLD's control variates, and what it could not send. The server never sees it.

use bonfire_models::Matrix;

use crate::{Role, RoleTensors};

/// Before the names of control variates in files.
const VARIATE: &str = "control/";

/// Before the names of what could not be sent.
const LOST: &str = "lost/";

/// What a client keeps for itself. A round in which a factor is frozen says nothing of that factor, so memories are
/// brought up to date tensor by tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientMemory {
    /// Its own part of the model, as movements from the global start: of a factor the slots that are private, `[slots, d]`.
    pub own: RoleTensors,
    /// SCAFFOLD's control variates, over all slots.
    pub variates: RoleTensors,
    /// What it has learnt and could not send since messages are short, over all slots: see [`crate::wire`].
    pub lost: RoleTensors,
}

impl ClientMemory {
    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty() && self.variates.is_empty() && self.lost.is_empty()
    }

    /// Takes what is newer in the place of what is older.
    pub fn update(&mut self, newer: ClientMemory) {
        self.own.extend(newer.own);
        self.variates.extend(newer.variates);
        self.lost.extend(newer.lost);
    }

    /// The tensors under their names in files: `b/3` and `head/0` of its own part, `control/b/3` of its variates, `lost/b/3` of
    /// what it could not send.
    pub fn named(&self) -> impl Iterator<Item = (String, &Matrix)> {
        let own = self.own.iter().map(|(role, matrix)| (role.to_string(), matrix));
        let variates = self.variates.iter().map(|(role, matrix)| (format!("{VARIATE}{role}"), matrix));
        own.chain(variates).chain(self.lost.iter().map(|(role, matrix)| (format!("{LOST}{role}"), matrix)))
    }

    /// Takes in a tensor by such a name; `false`: it is none.
    pub fn insert_named(&mut self, name: &str, matrix: Matrix) -> bool {
        let (tensors, name) = match (name.strip_prefix(VARIATE), name.strip_prefix(LOST)) {
            (Some(name), _) => (&mut self.variates, name),
            (None, Some(name)) => (&mut self.lost, name),
            (None, None) => (&mut self.own, name),
        };
        let Ok(role) = name.parse::<Role>() else { return false };
        tensors.insert(role, matrix);
        true
    }
}
