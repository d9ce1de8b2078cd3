//! The round's start in a client's model, where the backbone does not hold it: one factor trains, and it trains as movement alone.

use bonfire_kernels::{LowRank, SlotCounts};
use bonfire_models::{Adapter, ClientAdapter, Factor};
use burn::tensor::{Device, Tensor};

use crate::Active;
use crate::lanes::to_device;

/// What is added of the round's start to what clients move.
pub(crate) enum Starts {
    /// Nothing: the backbone holds it, or start and movement are added anyway.
    Held,
    /// To the factor that moves, whose slots are all there: target by target `[1, R, width]`.
    Added(Active, Vec<Tensor<3>>),
    /// All slots as they began, beside those that a client moves: A `[1, R, d_in]` and B `[1, R, d_out]` of every target, and LoRA's
    /// scale.
    Beside(Vec<[Tensor<3>; 2]>, f32),
}

impl Starts {
    /// To be added to the factor that is `active`.
    pub fn added(active: Active, global: &Adapter, device: &Device) -> Starts {
        // What stands between the factors is in B, of which it is a linear function.
        let factor = if active == Active::A { Factor::A } else { Factor::B };
        let (start, device) = (global.plain(), device.clone().inner());
        let of = |t| to_device(&start.slot_rows(factor, t), &device).autodiff();
        Starts::Added(active, (0..start.targets.len()).map(of).collect())
    }

    /// To stand beside what moves.
    pub fn beside(global: &Adapter, device: &Device) -> Starts {
        let (start, device) = (global.plain(), device.clone().inner());
        let of = |t| [Factor::A, Factor::B].map(|f| to_device(&start.slot_rows(f, t), &device).autodiff());
        Starts::Beside((0..start.targets.len()).map(of).collect(), global.scale() as f32)
    }

    /// Adds it to what clients in so many `lanes` move.
    pub fn add(&self, adapter: &mut ClientAdapter, lanes: usize) {
        match self {
            Starts::Held => {}
            Starts::Added(active, starts) => {
                for (update, start) in adapter.updates.iter_mut().zip(starts) {
                    let Some(LowRank { a, b, .. }) = update else { continue };
                    let moved = if *active == Active::A { a } else { b };
                    *moved = moved.clone() + start.clone(); // [C, R, width]
                }
            }
            Starts::Beside(starts, scale) => {
                for (update, [a, b]) in adapter.updates.iter_mut().zip(starts) {
                    let start = LowRank { a: a.clone(), b: b.clone(), used: None, scale: *scale };
                    *update = Some(match update.take() {
                        None => start,
                        Some(moved) => start_first(start, moved, lanes),
                    });
                }
            }
        }
    }
}

/// Both updates as one of more slots: of every client first those of `start`, then its own.
fn start_first(start: LowRank, moved: LowRank, lanes: usize) -> LowRank {
    let (rank, slots) = (start.a.dims()[1], moved.a.dims()[1]);
    let both = |start: Tensor<3>, moved: Tensor<3>| {
        Tensor::cat([start, moved].map(|factor| of_each(factor, lanes)).to_vec(), 1) // [C, R + slots, width]
    };
    let used = (0..lanes).map(|lane| rank + moved.used.as_ref().map_or(slots, |used| used.of(lane))).collect();
    LowRank {
        a: both(start.a, moved.a),
        b: both(start.b, moved.b),
        used: Some(SlotCounts::new(used)),
        scale: moved.scale,
    }
}

/// `[1, ..]` or `[C, ..]` as `[C, ..]`.
pub(crate) fn of_each(tensor: Tensor<3>, lanes: usize) -> Tensor<3> {
    if tensor.dims()[0] == lanes { tensor } else { tensor.expand([lanes as i64, -1, -1]) }
}
