//! SCAFFOLD against loops in f64.

use std::sync::Arc;

use super::{Case, global, matrix, settings};
use crate::job::Phase;
use crate::terms::scaffold::{correction, next_variates};
use crate::{Active, ClientMemory, Plan, Role, RoleTensors, TargetSlots};
use bonfire_models::Matrix;

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
                let of_slot = |all: &RoleTensors| f64::from(all[&tensor.role].data[slot * all[&tensor.role].cols + i]);
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
