//! Runs that step together: the clients of several runs over the same backbone go through it in one forward and one backward
//! pass. A run's own part of a step, from its batch and its adapters before the pass to the optimizer after it, is what it is
//! alone, so strategies, ranks, rates, terms and batch sizes may differ from run to run. A pass waits until every run that is
//! expected has brought its part; whoever comes last computes it, for all.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bonfire_kernels::{LowRank, SlotCounts};
use bonfire_models::{ClientAdapter, Clock, DeviceBatch, Model, PackedBatch, Rounding};
use burn::tensor::Tensor;

use crate::device_round::{Pass, gradient};
use crate::device_thread;
use crate::starts::of_each;
use crate::{EngineSettings, Recompute, TrainSettings};

/// Runs that step together on one device.
pub struct Gang {
    model: Box<dyn Model>,
    label_smoothing: f64,
    class_weights: Option<Vec<f64>>,
    recompute: bool,
    state: Mutex<State>,
    changed: Condvar,
    /// Held by the run that evaluates: an evaluation has the device's memory to itself.
    evaluation: Mutex<()>,
}

/// What a gang has computed so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GangCounts {
    /// Passes.
    pub passes: u64,
    /// Runs that were in them, summed over the passes: as many passes as they would have been alone.
    pub parts: u64,
}

#[derive(Default)]
struct State {
    seats: BTreeMap<usize, SeatState>,
    /// Seats taken so far.
    taken: usize,
    /// A pass is being computed.
    busy: bool,
    counts: GangCounts,
}

#[derive(Default)]
struct SeatState {
    /// The next pass waits for this run.
    expected: bool,
    asked: Option<Asked>,
    /// What came of it, or the words with which the pass broke.
    found: Option<Result<Pass, String>>,
}

/// A run's part of a pass.
pub(crate) struct Asked {
    /// What trains, `[C, rows, cols]` each.
    pub leaves: Vec<Tensor<3>>,
    /// The adapter made of them.
    pub adapter: ClientAdapter,
    pub batch: PackedBatch,
    /// What each client's masks are made of, where the model drops something.
    pub keys: Vec<u64>,
}

impl Asked {
    fn lanes(&self) -> usize {
        self.batch.clients.len()
    }
}

impl Gang {
    /// Of runs over the backbone of `model`, whose local objective and way of computing `train` and `engine` say; their targets,
    /// precision and dropout are the model's.
    pub fn new(model: Box<dyn Model>, train: &TrainSettings, engine: &EngineSettings) -> Arc<Gang> {
        Arc::new(Gang {
            model,
            label_smoothing: train.label_smoothing,
            class_weights: train.class_weights.clone(),
            recompute: engine.recompute == Recompute::Block,
            state: Mutex::default(),
            changed: Condvar::new(),
            evaluation: Mutex::default(),
        })
    }

    /// A place for a run. From now on every pass waits for it, until it is dropped.
    pub fn seat(self: &Arc<Self>) -> Seat {
        let mut state = self.state();
        let number = state.taken;
        state.taken += 1;
        state.seats.insert(number, SeatState { expected: true, ..SeatState::default() });
        Seat { gang: Arc::clone(self), number }
    }

    /// What has been computed so far.
    pub fn counts(&self) -> GangCounts {
        self.state().counts
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pass of all that is asked.
    fn compute(&self, asked: Vec<Asked>) -> Vec<Pass> {
        let lanes: Vec<usize> = asked.iter().map(Asked::lanes).collect();
        let (mut parts, mut leaves, mut batches, mut keys) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for one in asked {
            parts.push(one.adapter);
            leaves.push(one.leaves);
            batches.push(one.batch);
            keys.extend(one.keys);
        }
        let batch = PackedBatch::joined(&batches.iter().collect::<Vec<_>>());
        let mut adapter = joined(parts, &lanes);
        let (info, device) = (self.model.info(), self.model.device());
        if self.model.dropout().any() {
            adapter.masks = Some(batch.masks(&keys, info, Rounding::of(device)));
        }
        let objective = batch.objective(self.label_smoothing, self.class_weights.as_deref(), device);
        let batch = DeviceBatch { objective, ..batch.to_device(info, Rounding::of(device), device) };
        let (losses, mut gradients) =
            self.model.gradients(&adapter, &batch, self.recompute, &mut Clock::stopped(device)); // losses [sum of C]
        let mut next = 0;
        let own = |(leaves, lanes): (Vec<Tensor<3>>, usize)| {
            let losses = losses.clone().narrow(0, next, lanes);
            next += lanes;
            Pass { losses, gradients: leaves.into_iter().map(|leaf| gradient(leaf, &mut gradients)).collect() }
        };
        leaves.into_iter().zip(lanes).map(own).collect()
    }
}

impl State {
    /// Whether somebody asks, and all that are expected do.
    fn is_complete(&self) -> bool {
        let mut seats = self.seats.values();
        !self.busy && seats.clone().any(|seat| seat.asked.is_some()) && seats.all(|s| s.asked.is_some() || !s.expected)
    }
}

/// A run's place in a gang. Dropped, it is waited for no more.
pub struct Seat {
    gang: Arc<Gang>,
    number: usize,
}

impl Seat {
    /// The clients that this run may have in a pass that holds `most`: an even share, at least one.
    pub(crate) fn share(&self, most: usize) -> usize {
        let state = self.gang.state();
        let (runs, before) = (state.seats.len(), state.seats.range(..self.number).count());
        (most / runs + usize::from(before < most % runs)).max(1)
    }

    /// The next pass waits for this run: it trains, or is about to.
    pub(crate) fn expect(&self) {
        self.set(true);
    }

    /// No pass waits for this run until it is expected again.
    pub(crate) fn rest(&self) {
        self.set(false);
    }

    fn set(&self, expected: bool) {
        if let Some(seat) = self.gang.state().seats.get_mut(&self.number) {
            seat.expected = expected;
        }
        self.gang.changed.notify_all();
    }

    /// Until it is dropped, no other run evaluates.
    pub(crate) fn evaluation(&self) -> MutexGuard<'_, ()> {
        self.gang.evaluation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forward and backward on `asked`, in one pass with what the other runs ask.
    ///
    /// # Panics
    /// Where the pass breaks, with the same words for every run that was in it.
    pub(crate) fn pass(&self, asked: Asked) -> Pass {
        let gang = &*self.gang;
        let mut state = gang.state();
        state.seats.get_mut(&self.number).expect("taken until it is dropped").asked = Some(asked);
        gang.changed.notify_all();
        loop {
            let own = state.seats.get_mut(&self.number).expect("taken until it is dropped");
            match own.found.take() {
                Some(Ok(pass)) => return pass,
                Some(Err(words)) => {
                    drop(state);
                    panic!("{words}")
                }
                None => {}
            }
            if !state.is_complete() {
                state = gang.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.busy = true;
            let (numbers, asked): (Vec<usize>, Vec<Asked>) =
                state.seats.iter_mut().filter_map(|(number, seat)| Some((*number, seat.asked.take()?))).unzip();
            drop(state);
            let found = catch_unwind(AssertUnwindSafe(|| gang.compute(asked)));
            let found: Vec<Result<Pass, String>> = match found {
                Ok(passes) => passes.into_iter().map(Ok).collect(),
                Err(panic) => {
                    let words = device_thread::what_failed(panic.as_ref());
                    numbers.iter().map(|_| Err(words.clone())).collect()
                }
            };
            state = gang.state();
            state.busy = false;
            state.counts.passes += 1;
            state.counts.parts += numbers.len() as u64;
            for (number, found) in numbers.iter().zip(found) {
                // Nobody leaves while it waits for a pass.
                if let Some(seat) = state.seats.get_mut(number) {
                    seat.found = Some(found);
                }
            }
            gang.changed.notify_all();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.gang.state().seats.remove(&self.number);
        self.gang.changed.notify_all();
    }
}

/// One adapter of all runs' clients; `lanes` says how many each has.
fn joined(mut parts: Vec<ClientAdapter>, lanes: &[usize]) -> ClientAdapter {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    // A model's linears have one scale: where those of the runs differ, they go into B.
    let mut scales = parts.iter().flat_map(|part| part.updates.iter().flatten().map(|update| update.scale));
    let first = scales.next().unwrap_or(1.0);
    let scale = if scales.all(|scale| scale == first) { first } else { 1.0 };
    // Most targets have the same counts, and kernels make a table of each that they are given.
    let mut known = HashMap::new();
    let targets = parts[0].updates.len();
    let updates = (0..targets).map(|t| {
        let of = parts.iter().zip(lanes).map(|(part, lanes)| (part.updates[t].as_ref(), *lanes));
        joined_update(&of.collect::<Vec<_>>(), scale, &mut known)
    });
    let updates = updates.collect();
    let head = (0..parts[0].head.len()).map(|i| {
        let of = parts.iter().zip(lanes).map(|(part, lanes)| of_each(part.head[i].clone(), *lanes));
        Tensor::cat(of.collect(), 0) // [sum of C, rows, cols]
    });
    let head = head.collect();
    ClientAdapter::new(updates, head)
}

/// The update of one target for all runs' clients: of clients with fewer slots the last ones are nothing, and are not computed.
fn joined_update(
    parts: &[(Option<&LowRank>, usize)],
    scale: f32,
    known: &mut HashMap<Vec<usize>, SlotCounts>,
) -> Option<LowRank> {
    let some: Vec<&LowRank> = parts.iter().filter_map(|(update, _)| *update).collect();
    let first = *some.first()?;
    let slots = some.iter().map(|update| update.a.dims()[1]).max()?;
    let of_client = |&(update, lanes): &(Option<&LowRank>, usize)| {
        let count = move |lane: usize| {
            let update = update?;
            Some(update.used.as_ref().map_or(update.a.dims()[1], |used| used.of(lane)))
        };
        (0..lanes).map(move |lane| count(lane).unwrap_or(0)).collect::<Vec<_>>()
    };
    let counts: Vec<usize> = parts.iter().flat_map(of_client).collect();
    let used = counts.iter().any(|&count| count < slots).then(|| {
        let new = || SlotCounts::new(counts.clone());
        known.entry(counts.clone()).or_insert_with(new).clone()
    });
    let device = first.a.device().inner();
    let factor = |of: fn(&LowRank) -> &Tensor<3>, scaled: bool| {
        let width = of(first).dims()[2];
        let nothing = |lanes: usize, rows: usize| Tensor::<3>::zeros([lanes, rows, width], &device).autodiff();
        let rows = parts.iter().map(|&(update, lanes)| {
            let Some(update) = update else { return nothing(lanes, slots) };
            let own = of_each(of(update).clone(), lanes);
            let own = if scaled && update.scale != scale { own * (update.scale / scale) } else { own };
            match slots - own.dims()[1] {
                0 => own,
                lacking => Tensor::cat(vec![own, nothing(lanes, lacking)], 1),
            }
        });
        Tensor::cat(rows.collect(), 0) // [sum of C, slots, width]
    };
    Some(LowRank { a: factor(|u| &u.a, false), b: factor(|u| &u.b, true), used, scale })
}
