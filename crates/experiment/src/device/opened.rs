//! A device that is open.

use burn::tensor::Device;

/// A device that answers, and its name in words.
pub struct Opened {
    /// The device, without autodiff.
    pub device: Device,
    /// Backend and part, as in `summary.json`.
    pub name: String,
    /// What the user should know about the choice.
    pub notice: Option<String>,
    /// Whether a GPU's work is done by the CPU.
    pub software: bool,
}
