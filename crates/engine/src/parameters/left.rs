//! What clients leave when they are done: gathered on the device into one table, so that the host reads all of it at once.

use bonfire_kernels::{gather_lanes, lanes_on, slot_scores};
use bonfire_models::{Factor, Matrix};
use burn::tensor::Tensor;

use super::{Parameters, Role, TargetState, index};
use crate::local_loop::Wanted;

/// Numbers that are gathered for one read: a quarter of a GB.
const AT_ONCE: usize = 1 << 26;

/// What a client that is done leaves.
pub(crate) struct Left {
    /// The number that the losses hold for it.
    pub loss: f32,
    /// Its movement: of every target of every active factor one row a slot it has, `[slots, d]`, then of the head. Empty where
    /// it was not asked for.
    pub movement: Vec<Matrix>,
    /// What the plan wants besides, shaped like it; empty where nothing is.
    pub extra: Vec<Matrix>,
    /// By how much each slot changes the model: of every target one score a slot it has. Empty where nobody asked.
    pub scores: Vec<Vec<f32>>,
}

impl Parameters {
    /// What the clients in `lanes` leave. All of it is gathered on the device and read at once, as far as one buffer holds it.
    pub fn read_lanes(&self, lanes: &[usize], losses: &Tensor<1>, wanted: Wanted) -> Vec<Left> {
        let mut parts = vec![losses.clone().reshape([self.lanes, 1, 1])];
        if wanted.movement {
            parts.extend(self.trained.iter().map(|p| p.state.movement.clone()));
        }
        let report: Vec<&Tensor<3>> = self.trained.iter().filter_map(|p| p.extra.report()).collect();
        let extra = !report.is_empty();
        parts.extend(report.into_iter().cloned());
        if wanted.scores {
            parts.extend(self.scores());
        }
        let width: usize = parts.iter().map(|part| part.dims()[1] * part.dims()[2]).sum();
        let rows = (AT_ONCE / width).max(1);
        let read = |lanes: &[usize]| {
            let whose = lanes_on(lanes, &self.device);
            let mut table = Tensor::<2>::empty([lanes.len(), width], &self.device);
            let mut at = 0;
            for part in &parts {
                table = gather_lanes(table, part.clone(), &whose, at);
                at += part.dims()[1] * part.dims()[2];
            }
            table.into_data().try_to_vec::<f32>().expect("f32 on the device")
        };
        let left = |(&lane, numbers): (&usize, &[f32])| {
            let (loss, mut rest) = (numbers[0], &numbers[1..]);
            Left {
                loss,
                movement: if wanted.movement { self.matrices(lane, &mut rest) } else { Vec::new() },
                extra: if extra { self.matrices(lane, &mut rest) } else { Vec::new() },
                scores: if wanted.scores { self.by_target(lane, rest) } else { Vec::new() },
            }
        };
        let of = |lanes: &[usize]| lanes.iter().zip(read(lanes).chunks(width)).map(left).collect::<Vec<_>>();
        lanes.chunks(rows).flat_map(of).collect()
    }

    /// Takes a lane's matrices, role by role, from the beginning of its `numbers`: of a factor the rows of the slots it has.
    fn matrices(&self, lane: usize, numbers: &mut &[f32]) -> Vec<Matrix> {
        let mut trained = self.trained.iter().peekable();
        let mut of = |&role: &Role| {
            let Some(p) = trained.next_if(|p| p.role == role) else {
                // Of a target of which no client has a slot nothing is here.
                let Role::Factor(t, factor) = role else { unreachable!("weights and head train whole") };
                return Matrix::zeros(0, self.targets[t].host[index(factor)].cols);
            };
            let [_, rows, cols] = p.start.dims();
            let (here, rest) = numbers.split_at(rows * cols);
            *numbers = rest;
            let own = self.rows_of(role, lane).unwrap_or(rows);
            Matrix::new(own, cols, here[..own * cols].to_vec())
        };
        self.roles.iter().map(&mut of).collect()
    }

    /// By how much each slot of every client in flight changes the model, target by target: `[C, slots, 1]`.
    fn scores(&self) -> impl Iterator<Item = Tensor<3>> {
        self.targets.iter().enumerate().filter(|(_, target)| target.slots() > 0).map(|(t, target)| {
            let of = |factor| {
                let p = self.trained.iter().find(|p| p.role == Role::Factor(t, factor));
                p.map_or(&target.device[index(factor)], |p| &p.state.movement).clone()
            };
            slot_scores(of(Factor::A), of(Factor::B)).unsqueeze_dim(2)
        })
    }

    /// A lane's scores as lists by target.
    fn by_target(&self, lane: usize, mut numbers: &[f32]) -> Vec<Vec<f32>> {
        let of_target = |target: &TargetState| {
            let (here, rest) = numbers.split_at(target.slots());
            numbers = rest;
            here[..target.used(lane).unwrap_or(here.len())].to_vec()
        };
        self.targets.iter().map(of_target).collect()
    }
}
