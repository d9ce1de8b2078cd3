//! What numbers the backbone computes with.

use burn::tensor::{Device, FloatDType};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[train] precision`: of the frozen weights and the activations. Adapters, their moments, the head and the loss are f32
/// either way, and kernels sum in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16: half the memory traffic, and the matrix units of recent GPUs.
    Bf16,
    /// IEEE half precision, whose range is small: for devices that have it and not bfloat16, in tests.
    #[serde(skip)]
    F16,
}

impl Precision {
    /// Burn's name for it; `None` for f32, in which checkpoints are read.
    pub fn dtype(self) -> Option<FloatDType> {
        match self {
            Precision::F32 => None,
            Precision::Bf16 => Some(FloatDType::BF16),
            Precision::F16 => Some(FloatDType::F16),
        }
    }

    /// Whether `device` computes in it. The CPU's own kernels are for f32.
    pub fn runs_on(self, device: &Device) -> bool {
        match self.dtype() {
            None => true,
            Some(dtype) => !bonfire_kernels::runs_on_cpu(device) && device.clone().inner().supports_dtype(dtype),
        }
    }
}
