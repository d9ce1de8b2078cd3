//! What runs on the clients: many virtual clients train side by side in the same forward and backward pass.
//!
//! The engine takes a [`Plan`], the global adapter and a cohort, and gives back one [`Upload`] a client. It does not
//! know that strategies exist, nor what the server does with an upload.
#![deny(missing_docs)]

mod alignment;
mod batch_schedule;
mod data;
mod device_round;
mod device_thread;
mod engine;
mod error;
mod evaluate;
mod fit;
mod generate;
mod layer_score;
mod local_loop;
mod optimize;
mod parameters;
mod plan;
mod problem;
mod product_sketch;
mod receive;
mod room;
mod scores;
mod select;
mod send;
mod settings;
mod sketch;
mod times;
mod turns;
mod upload;

pub use data::{Split, TokenizedData};
pub use device_thread::{DEVICE_THREAD, is_told_elsewhere, on_device, overhear, overheard};
pub use engine::{Cohort, Engine, Member, Progress, Trained};
pub use error::EngineError;
pub use evaluate::{Evaluation, RowEvaluation, evaluate, evaluate_rows, summarise};
pub use fit::Estimate;
pub use generate::{Sampling, generate};
pub use layer_score::layer_score;
pub use plan::{
    Active, Alignment, Branches, ClientPrivacy, LocalOptimizer, Named, Others, Per, Plan, Private, ProductSketch,
    Score, Selection, SlotDraw, Start, TailPenalty, Terms, Threshold,
};
pub use problem::Problem;
pub use receive::MessageError;
pub use scores::Scorer;
pub use select::top_slots;
pub use send::personal;
pub use settings::{EngineSettings, Flat, InFlight, NotFinite, Probe, Rate, Recompute, Schedule, TrainSettings};
pub use sketch::{Choice, sketch};
pub use times::StepTimes;
pub use upload::{HEADER as UPLOAD_HEADER, MAGIC as UPLOAD_MAGIC, Slots, Upload};
