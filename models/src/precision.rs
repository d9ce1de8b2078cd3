//! The format that the frozen backbone is held and computed in: f32, TF32, bfloat16.

use bonfire_kernels::{Arithmetic, has_tf32, runs_on_cpu};
use burn::tensor::{Device, FloatDType};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[train] precision`: of the frozen weights and the activations. Adapters, their moments, the head and the loss are f32
/// in all of them, and sums are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits, multiplied and added as such on every device: never in TF32.
    #[default]
    F32,
    /// Held in 32 bits; NVIDIA's matrix units round what they multiply with the frozen weights to 10 bits of mantissa.
    Tf32,
    /// bfloat16: half the memory traffic, and the matrix units of recent GPUs.
    Bf16,
    /// IEEE half precision, whose range is small: for devices that have it and not bfloat16, in tests.
    #[serde(skip)]
    F16,
}

impl Precision {
    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
            Precision::F16 => "f16",
        }
    }

    /// Burn's name for what weights are held in; `None` for f32, in which checkpoints are read.
    pub fn dtype(self) -> Option<FloatDType> {
        match self {
            Precision::F32 | Precision::Tf32 => None,
            Precision::Bf16 => Some(FloatDType::BF16),
            Precision::F16 => Some(FloatDType::F16),
        }
    }

    /// What products with weights held in f32 are computed in.
    pub fn arithmetic(self) -> Arithmetic {
        if self == Precision::Tf32 { Arithmetic::Tf32 } else { Arithmetic::F32 }
    }

    /// Whether `device` computes in it. The CPU has neither TF32 nor any gain by 16 bits, and is offered f32 alone.
    pub fn runs_on(self, device: &Device) -> bool {
        match self {
            Precision::F32 => true,
            Precision::Tf32 => has_tf32(device),
            Precision::Bf16 | Precision::F16 => {
                let dtype = self.dtype().is_some_and(|dtype| device.clone().inner().supports_dtype(dtype));
                dtype && !runs_on_cpu(device)
            }
        }
    }

    /// What products with the frozen weights are computed by on `device`, and in what.
    pub fn products(self, device: &Device) -> &'static str {
        match (runs_on_cpu(device), self) {
            (true, Precision::F32) => "f32 by gemm (Flex)",
            (true, Precision::Tf32) => "tf32 by gemm (Flex), operands rounded before (sums f32)",
            (true, Precision::Bf16) => "bf16 by gemm (Flex), operands widened before (sums f32)",
            (true, Precision::F16) => "f16 by gemm (Flex), operands widened before (sums f32)",
            (false, Precision::F32) => "f32 by CubeK's unit kernels (f32 multiply and add), tuned",
            (false, Precision::Tf32) => "tf32 by CubeK, tuned by CubeCL (operands tf32, sums f32)",
            (false, Precision::Bf16) => "bf16 by CubeK, tuned by CubeCL (operands bf16, sums f32)",
            (false, Precision::F16) => "f16 by CubeK, tuned by CubeCL (operands f16, sums f32)",
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_offered_f32_alone() {
        let device = Device::flex();
        let offered =
            |precision: Precision| precision.runs_on(&device) && precision.runs_on(&device.clone().autodiff());
        assert!(offered(Precision::F32));
        for precision in [Precision::Tf32, Precision::Bf16, Precision::F16] {
            assert!(!offered(precision), "{precision:?}");
        }
    }

    #[test]
    fn f32_is_never_computed_in_tf32() {
        let asked = [Precision::F32, Precision::Tf32, Precision::Bf16, Precision::F16].map(Precision::arithmetic);
        assert_eq!(asked, [Arithmetic::F32, Arithmetic::Tf32, Arithmetic::F32, Arithmetic::F32]);
        assert!(Precision::F32.products(&Device::flex()).starts_with("f32"));
    }
}
