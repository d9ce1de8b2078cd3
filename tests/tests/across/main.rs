//! What crosses crates, in one program, since each links Burn and wgpu: parity with PyTorch, whole rounds in float64, invariants,
//! accounting, resuming, sites, faults. `cargo test --release --workspace --test across -- rounds::` runs one part of it.
#![allow(clippy::unwrap_used)]

mod accounting;
mod asynchronous;
mod attacks;
mod baselines;
mod before;
#[path = "../../support/cases.rs"]
mod cases;
mod checkpoints;
mod clock;
mod composition;
mod dropout;
mod encoder;
mod fair;
mod faults;
mod gang;
mod golden_export;
mod invariants;
mod layer_subset;
mod local_training;
mod parity;
mod personalise;
mod precision;
mod privacy;
mod resume;
mod rounding;
mod rounds;
mod secure;
mod several;
mod sites;
mod strategies;
mod wire;
