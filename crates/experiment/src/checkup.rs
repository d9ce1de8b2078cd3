//! Whether a device computes right: every operation and a small model's training step against the CPU's. `bonfire doctor`
//! shows the whole of it; before the first training on a GPU a short form decides (`checkup/admit.rs`).

pub mod admit;
mod examine;
mod finding;
mod model;
mod purpose;

pub use examine::{examine, verdict};
pub use finding::{Depth, Finding, Verdict, answer};
pub use purpose::{Purpose, Small};
