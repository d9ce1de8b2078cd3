//! Who watches an experiment.

use std::ops::ControlFlow;

use bonfire_data::{Dataset, Shards};
use bonfire_engine::{Progress, TokenizedData};
use bonfire_federation::{ClientMetrics, RoundMetrics};
use bonfire_models::ModelInfo;

/// What an experiment was read as.
pub struct Facts<'r> {
    /// The texts and their labels.
    pub data: &'r Dataset,
    /// The texts as the model reads them.
    pub tokens: &'r TokenizedData,
    /// Which client holds which rows.
    pub shards: &'r Shards,
    /// The model's shape.
    pub model: &'r ModelInfo,
    /// The devices, in words.
    pub devices: &'r str,
}

/// Hears how an experiment goes. Every method may be left out; `()` hears nothing.
///
/// What answers [`ControlFlow::Break`] ends the run: inside a round that round is given up, after one the run ends with it. The
/// run folder holds the rounds that ended either way. What a user should know in any case (rows that were left out, a key that
/// changes nothing) is a `tracing` event with a target that begins with `bonfire`.
pub trait Watch {
    /// Something begins that takes a while, in words: a download, the check of a GPU.
    fn note(&mut self, words: &str) {
        let _ = words;
    }

    /// `done` of the `size` bytes of a file that is fetched are there.
    fn fetching(&mut self, file: &str, done: u64, size: u64) {
        let _ = (file, done, size);
    }

    /// The file that was being fetched is whole, or will not be.
    fn fetched(&mut self) {}

    /// Data, tokens and models were read; the federation is about to be made of them.
    fn prepared(&mut self, facts: &Facts<'_>) {
        let _ = facts;
    }

    /// The untrained model was evaluated: the row of round 0.
    fn evaluated_before(&mut self, metrics: &RoundMetrics) -> ControlFlow<()> {
        let _ = metrics;
        ControlFlow::Continue(())
    }

    /// A round begins, in which so many clients train `phase`: `"A"`, `"B"`, `"AB"`, `"core"`, `"AB+core"` or `"full"`.
    fn round_started(&mut self, round: usize, phase: &str, clients: usize) -> ControlFlow<()> {
        let _ = (round, phase, clients);
        ControlFlow::Continue(())
    }

    /// Some of the round's local steps are done.
    fn step_done(&mut self, progress: Progress) -> ControlFlow<()> {
        let _ = progress;
        ControlFlow::Continue(())
    }

    /// A round has ended and is in the run folder: its row, a row for each upload, and the bytes uploaded in the run so far.
    fn round_ended(&mut self, metrics: &RoundMetrics, clients: &[ClientMetrics], upload_bytes: u64) -> ControlFlow<()> {
        let _ = (metrics, clients, upload_bytes);
        ControlFlow::Continue(())
    }
}

impl Watch for () {}
