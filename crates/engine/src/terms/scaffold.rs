//! SCAFFOLD (Karimireddy et al., arXiv 1910.06378): every gradient of a client is corrected by the server's control variate
//! minus the client's own. The client's next variate is its mean gradient: with plain SGD the paper's option II exactly,
//! with AdamW in its sense. The server's half is in the federation crate.

use bonfire_models::{Adapter, Matrix};
use burn::tensor::Tensor;

use crate::{ClientMemory, Role, RoleTensors, TargetSlots};

/// What a trained tensor carries, each `[C, rows, cols]`.
pub(crate) struct Scaffold {
    /// The server's control variate minus the client's.
    pub correction: Tensor<3>,
    /// The sum of the client's gradients so far, uncorrected.
    pub sum: Tensor<3>,
}

impl Scaffold {
    pub fn new(zeros: &dyn Fn() -> Tensor<3>) -> Scaffold {
        Scaffold { correction: zeros(), sum: zeros() }
    }

    /// `g + c − c_k`; takes note of `g`.
    pub fn correct(&mut self, gradient: Tensor<3>) -> Tensor<3> {
        self.sum = self.sum.clone() + gradient.clone();
        gradient + self.correction.clone()
    }

    pub fn tensors(&mut self) -> [&mut Tensor<3>; 2] {
        [&mut self.correction, &mut self.sum]
    }
}

/// `c − c_k`, role by role over all slots; who took no part yet has a variate of zero.
pub(crate) fn correction(
    roles: &[Role],
    server: &RoleTensors,
    memory: Option<&ClientMemory>,
    global: &Adapter,
) -> Vec<Matrix> {
    let minus_own = |role: &Role| {
        let mut all = server.get(role).cloned().unwrap_or_else(|| role.zeros(global));
        if let Some(own) = memory.and_then(|memory| memory.variates.get(role)) {
            all.data.iter_mut().zip(&own.data).for_each(|(c, own)| *c -= own);
        }
        all
    };
    roles.iter().map(minus_own).collect()
}

/// The client's next variates over all slots, and role by role what changed of them, in the rows that it has. Slots that it
/// does not have keep their variate. `gradients` are its mean gradients.
pub(crate) fn next_variates(
    roles: &[Role],
    memory: Option<&ClientMemory>,
    slots: Option<&TargetSlots>,
    gradients: &[Matrix],
    global: &Adapter,
) -> (RoleTensors, Vec<Matrix>) {
    let (mut variates, mut changes) = (RoleTensors::new(), Vec::new());
    for (&role, gradient) in roles.iter().zip(gradients) {
        let kept = memory.and_then(|memory| memory.variates.get(&role).cloned());
        let mut own = kept.unwrap_or_else(|| role.zeros(global));
        let rows: Vec<usize> = match (role, slots) {
            (Role::Factor(t, _), Some(slots)) => slots[t].clone(),
            _ => (0..own.rows).collect(),
        };
        let mut change = gradient.clone();
        for (row, &slot) in rows.iter().enumerate() {
            let (here, there) = (row * own.cols..(row + 1) * own.cols, slot * own.cols..(slot + 1) * own.cols);
            for (new, old) in change.data[here].iter_mut().zip(&mut own.data[there]) {
                let gradient = *new;
                *new -= *old;
                *old = gradient;
            }
        }
        variates.insert(role, own);
        changes.push(change);
    }
    (variates, changes)
}
