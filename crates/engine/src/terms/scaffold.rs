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

#[cfg(all(test, feature = "flex"))]
mod tests {
    use std::sync::Arc;

    use super::super::testing::{Case, global, matrix, settings};
    use super::*;
    use crate::job::Phase;
    use crate::{Active, Plan};

    fn plan() -> Plan {
        let mut plan = Plan { train_head: true, ..Plan::new(2, Active::Both, 0.02, 0.05) };
        plan.terms.variate = Some(Arc::default());
        plan
    }

    fn tensors(plan: &Plan, from: usize) -> RoleTensors {
        let start = global(false);
        let one = |(i, role): (usize, Role)| {
            let [rows, cols] = role.shape(&start);
            (role, matrix(rows, cols, from + 41 * i))
        };
        Role::all(plan, &start).into_iter().enumerate().map(one).collect()
    }

    #[test]
    fn gradients_are_corrected_by_the_variates_of_a_clients_own_slots() {
        let (plan, settings) = (plan(), settings());
        let (server, start) = (tensors(&plan, 300), global(false));
        let memory = ClientMemory { variates: tensors(&plan, 700), ..ClientMemory::default() };
        let mut case = Case::new(&plan, &settings, Phase::Training);
        // The second client takes part for the first time.
        let memories = [Some(&memory), None];
        for (job, memory) in case.jobs.iter_mut().zip(memories) {
            job.correction = Some(correction(&Role::all(&plan, &start), &server, memory, &start));
        }
        let mut numbers = case.numbers();
        for tensor in &mut numbers {
            for (slot, row) in tensor.slots.iter().zip(&mut tensor.rows) {
                for (i, x) in row.iter_mut().enumerate() {
                    let of_slot =
                        |all: &RoleTensors| f64::from(all[&tensor.role].data[slot * all[&tensor.role].cols + i]);
                    x.own[0] = of_slot(&server) - memories[tensor.lane].map_or(0.0, |own| of_slot(&own.variates));
                }
            }
        }
        case.follow(&mut numbers, |case, x, role, own, g| {
            x.own[1] += g;
            case.adamw(x, g + x.own[0], case.rate(role, own), own);
        });
        case.check_report("scaffold, sum of gradients", &numbers, 1);
        case.check("scaffold", &numbers);
    }

    #[test]
    fn the_next_variate_is_the_mean_gradient_in_the_slots_a_client_has() {
        let (plan, start) = (plan(), global(false));
        let roles = Role::all(&plan, &start);
        let before = tensors(&plan, 700);
        let memory = ClientMemory { variates: before.clone(), ..ClientMemory::default() };
        let slots: TargetSlots = [vec![1, 3], vec![]].into_iter().collect();
        let rows = |role: &Role| match role {
            Role::Factor(t, _) => slots[*t].len(),
            _ => role.shape(&start)[0],
        };
        let gradients: Vec<Matrix> = roles.iter().map(|role| matrix(rows(role), role.shape(&start)[1], 55)).collect();
        let (next, changes) = next_variates(&roles, Some(&memory), Some(&slots), &gradients, &start);
        for ((role, gradient), change) in roles.iter().zip(&gradients).zip(&changes) {
            let (old, new) = (&before[role], &next[role]);
            for slot in 0..old.rows {
                let row = match role {
                    Role::Factor(t, _) => slots[*t].iter().position(|own| *own == slot),
                    _ => Some(slot),
                };
                for i in 0..old.cols {
                    let at = slot * old.cols + i;
                    let expected = row.map_or(old.data[at], |row| gradient.data[row * old.cols + i]);
                    assert_eq!(new.data[at], expected, "{role}, slot {slot}");
                    if let Some(row) = row {
                        assert_eq!(change.data[row * old.cols + i], expected - old.data[at], "{role}, slot {slot}");
                    }
                }
            }
        }
    }
}
