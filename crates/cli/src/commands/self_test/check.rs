//! One question to a device.

use burn::tensor::Device;

/// Parts of a result, each with how far it is off.
pub type Offs = Vec<(String, f64)>;

/// What answers a question.
type Run = Box<dyn Fn(&Device) -> Result<Offs, String>>;

/// One question to a device.
pub struct Check {
    /// What is computed.
    pub what: String,
    /// On which shape.
    pub shape: String,
    /// In which format.
    pub format: &'static str,
    /// How far any part may be off.
    pub allowed: f64,
    /// Computes it on the device, without autodiff.
    pub run: Run,
}
