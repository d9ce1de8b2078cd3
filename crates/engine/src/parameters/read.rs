//! What clients leave when they are done: gathered on the device into one table, so that the host reads all of it at once.

use bonfire_kernels::{gather_lanes, lanes_on, slot_scores};
use bonfire_models::{Factor, Matrix};
use burn::tensor::Tensor;

use super::{Parameter, Parameters, TargetState, index};
use crate::Role;
use crate::batch_schedule::Finished;
use crate::job::{Outcome, Phase};

/// Numbers that are gathered for one read: a quarter of a GB.
const AT_ONCE: usize = 1 << 26;

impl Parameters {
    /// What the clients leave that are done: `losses` `[C]` are sums over their steps. All of it is gathered on the device and
    /// read at once, as far as one buffer holds it.
    pub fn read_lanes(&self, ends: &[Finished], losses: &Tensor<1>, phase: Phase) -> Vec<Outcome> {
        let mut parts = vec![losses.clone().reshape([self.lanes, 1, 1])];
        if phase.reads_movement() {
            parts.extend(self.groups.iter().map(|group| group.state.movement.clone().unsqueeze_dim(1))); // [C, 1, width]
        }
        let reports: Vec<&Tensor<3>> = self.trained.iter().filter_map(|p| p.terms.report()).collect();
        let reported = !reports.is_empty();
        parts.extend(reports.into_iter().cloned());
        if phase.reads_slot_scores() {
            parts.extend(self.slot_scores());
        }
        let width: usize = parts.iter().map(|part| part.dims()[1] * part.dims()[2]).sum();
        let read = |ends: &[Finished]| {
            let whose = lanes_on(&ends.iter().map(|end| end.lane).collect::<Vec<_>>(), &self.device);
            let mut table = Tensor::<2>::empty([ends.len(), width], &self.device); // a row a client
            let mut at = 0;
            for part in &parts {
                table = gather_lanes(table, part.clone(), &whose, at);
                at += part.dims()[1] * part.dims()[2];
            }
            table.into_data().try_to_vec::<f32>().expect("f32 on the device")
        };
        let outcome = |(end, numbers): (&Finished, &[f32])| {
            let (loss, mut rest) = (numbers[0], &numbers[1..]);
            Outcome {
                job: end.job,
                loss: f64::from(loss) / end.steps as f64,
                steps: end.steps,
                tokens: end.tokens,
                movement: if phase.reads_movement() { self.movement(end.lane, &mut rest) } else { Vec::new() },
                report: if reported { self.report(end.lane, &mut rest) } else { Vec::new() },
                slot_scores: if phase.reads_slot_scores() { self.by_target(end.lane, rest) } else { Vec::new() },
                layer_scores: None,
            }
        };
        let rows = (AT_ONCE / width).max(1);
        let together = |ends: &[Finished]| ends.iter().zip(read(ends).chunks(width)).map(outcome).collect::<Vec<_>>();
        ends.chunks(rows).flat_map(together).collect()
    }

    /// Takes a lane's movement, role by role, from the beginning of its `numbers`, where it lies as in the flat buffers.
    fn movement(&self, lane: usize, numbers: &mut &[f32]) -> Vec<Matrix> {
        let rows = self.groups.iter().map(|group| taken(numbers, group.layout.width())).collect::<Vec<_>>();
        self.matrices(lane, |p| {
            &rows[p.place.group][self.groups[p.place.group].layout.places()[p.place.number].columns()]
        })
    }

    /// Takes a lane's report, role by role, from the beginning of its `numbers`.
    fn report(&self, lane: usize, numbers: &mut &[f32]) -> Vec<Matrix> {
        self.matrices(lane, |p| taken(numbers, p.place.dims.iter().product()))
    }

    /// A lane's matrices, role by role, from the `numbers` of its tensors: of a factor the rows of the slots it has.
    fn matrices<'n>(&self, lane: usize, mut numbers: impl FnMut(&Parameter) -> &'n [f32]) -> Vec<Matrix> {
        let mut trained = self.trained.iter().peekable();
        let mut matrix = |&role: &Role| {
            let Some(p) = trained.next_if(|p| p.role == role) else {
                // No client in flight has a slot of this target, so it has no tensors on the device.
                let Role::Factor(t, factor) = role else { unreachable!("weights and head train whole") };
                return Matrix::zeros(0, self.targets[t].host[index(factor)].cols);
            };
            let ([rows, cols], here) = (p.place.dims, numbers(p));
            let own = self.rows_of(role, lane).unwrap_or(rows);
            Matrix::new(own, cols, here[..own * cols].to_vec())
        };
        self.roles.iter().map(&mut matrix).collect()
    }

    /// By how much each slot of every client in flight changes the model, target by target: `[C, slots, 1]`.
    fn slot_scores(&self) -> impl Iterator<Item = Tensor<3>> {
        self.targets.iter().enumerate().filter(|(_, target)| target.slots() > 0).map(|(t, target)| {
            let moved_or_frozen = |factor| {
                let p = self.trained.iter().find(|p| p.role == Role::Factor(t, factor));
                p.map_or_else(|| target.device[index(factor)].clone(), |p| p.movement(&self.groups))
            };
            slot_scores(moved_or_frozen(Factor::A), moved_or_frozen(Factor::B)).unsqueeze_dim(2)
        })
    }

    /// A lane's slot scores as lists by target.
    fn by_target(&self, lane: usize, mut numbers: &[f32]) -> Vec<Vec<f32>> {
        let of_target = |target: &TargetState| {
            let (here, rest) = numbers.split_at(target.slots());
            numbers = rest;
            here[..target.used(lane).unwrap_or(here.len())].to_vec()
        };
        self.targets.iter().map(of_target).collect()
    }
}

/// Takes so many numbers from the beginning.
fn taken<'n>(numbers: &mut &'n [f32], count: usize) -> &'n [f32] {
    let (here, rest) = numbers.split_at(count);
    *numbers = rest;
    here
}
