//! What runs on the clients: many virtual clients train side by side in the same forward and backward pass.
//!
//! The engine takes a [`Plan`], the global adapter and a cohort, and gives back one [`Upload`] a client. It does not
//! know that strategies exist, nor what the server does with an upload.
//!
//! Words that its files use without another word, and letters in shapes:
//!
//! * *target*: a linear layer that carries an adapter, `y = x·W + s·x·A·B`; its adapter has rank R.
//! * *slot*: one of the R rank-1 pairs of a target, column i of A with row i of B. Factors lie slot by slot, a row a slot.
//! * *lane*: a position on the client axis of the batch, C of them. A client holds one until its local steps are done.
//! * *movement*: where a tensor is minus where it was at the round's start. It is what trains, and what is sent.
//! * *role*: what a trained tensor is, such as B of target 3.
//! * `T` tokens of a packed batch, `S` sequences, `N` rows that are scored, `K` classes, `V` tokens of a vocabulary.
#![deny(missing_docs)]

mod alignment;
mod batch_schedule;
mod capacity;
mod cohort;
mod confusion;
mod correlation;
mod data;
mod device_round;
mod device_thread;
mod engine;
mod error;
mod evaluate;
mod fit;
mod gang;
mod generate;
mod job;
mod lanes;
mod layer_score;
mod memory;
mod optimize;
mod parameters;
mod plan;
mod problem;
mod product_sketch;
mod receive;
mod role;
mod room;
mod scores;
mod select;
mod send;
mod settings;
mod sketch;
mod slots;
mod start_loss;
mod starts;
mod tally;
mod terms;
mod times;
mod upload;
pub mod wire;

pub use cohort::{Cohort, Member, passes};
pub use confusion::{ClassScore, ClassScores, Confusion};
pub use correlation::NumberScores;
pub use data::{Split, TokenizedData, Triggered};
pub use device_thread::{DEVICE_THREAD, is_told_elsewhere, on_device, overhear, overheard};
pub use engine::{Engine, Progress, Trained};
pub use error::EngineError;
pub use evaluate::{Evaluation, RowEvaluation, evaluate, evaluate_rows, summarise};
pub use fit::Estimate;
pub use gang::{Gang, GangCounts, Seat};
pub use generate::{Sampling, generate};
pub use layer_score::layer_score;
pub use memory::ClientMemory;
pub use plan::{
    Active, Alignment, Branches, ClientPrivacy, LocalOptimizer, Named, Others, Per, Plan, Private, ProductSketch,
    Score, Selection, SlotDraw, Start, TailPenalty, Terms, Threshold,
};
pub use problem::Problem;
pub use receive::MessageError;
pub use role::{Role, RoleTensors};
pub use scores::Scorer;
pub use select::top_slots;
pub use send::personal;
pub use settings::{
    ClientOptimizer, EarlyStop, EngineSettings, Flat, InFlight, NotFinite, Probe, Rate, Recompute, RoundSchedule,
    Schedule, TrainSettings, default_rate,
};
pub use sketch::{Choice, sketch};
pub use slots::TargetSlots;
pub use tally::{Counted, SpanScores, Tally};
pub use times::StepTimes;
pub use upload::{Aux, CODED as UPLOAD_CODED, HEADER as UPLOAD_HEADER, MAGIC as UPLOAD_MAGIC, Slots, Upload};
pub use wire::{Coding, WireSettings};
