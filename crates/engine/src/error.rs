//! What can go wrong while clients train.

use crate::fit::size;

/// Local training or evaluation that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A client's loss or update is not a number any more.
    #[error(
        "round {round}, client {client}: {what} is not finite after {steps} local steps; lower train.lr_a, train.lr_b or train.lr_head, set train.clip_norm, or go on without such clients by train.not_finite = \"skip-client\""
    )]
    NotFinite {
        /// Round, from 1.
        round: usize,
        /// Client, from 0.
        client: usize,
        /// Local steps done.
        steps: usize,
        /// Loss, or the update.
        what: &'static str,
    },
    /// Not even one client has room.
    #[error(
        "the device has too little memory for one client: {estimate}; lower train.batch_size or data.max_length, set engine.recompute = \"block\" or engine.precision = \"bf16\", or set engine.in_flight = 1 to try it all the same"
    )]
    TooLarge {
        /// What is needed and what is there.
        estimate: crate::Estimate,
    },
    /// Nothing is left that could train.
    #[error(
        "round {round}: every slot has been removed and the head is frozen, so nothing is left to train; remove fewer of them (strategy.xi of sora, strategy.prune, strategy.least) or train the head too (adapter.head = \"trained\"); the state after round {} is kept", round - 1
    )]
    NothingTrains {
        /// Round, from 1.
        round: usize,
    },
    /// A client without examples cannot train.
    #[error("client {client} has no training examples; raise data.min_shard or lower clients.count")]
    EmptyShard {
        /// Client, from 0.
        client: usize,
    },
    /// A tensor that the device cannot hold in one piece, however few clients are in flight.
    #[error("{tensor} takes {} in one piece, and this device holds at most {} in one; {way_out}", size(*.bytes), size(*.limit))]
    Unbreakable {
        /// Which.
        tensor: &'static str,
        /// What it takes.
        bytes: u64,
        /// What the device allows.
        limit: u64,
        /// What can be done.
        way_out: &'static str,
    },
    /// The device ran out of memory, and there is nothing left to halve.
    #[error(
        "the device's memory does not hold {what} ({words}); lower train.batch_size or data.max_length, set engine.recompute = \"block\" or engine.precision = \"bf16\", or leave the device to this run alone"
    )]
    OutOfMemory {
        /// The least that was tried.
        what: &'static str,
        /// What the device said.
        words: String,
    },
    /// A device that does not answer as it should.
    #[error("the device failed in the middle of its work: {0}")]
    Device(String),
}
