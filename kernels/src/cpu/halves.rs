//! Tensors held in 16 bits. The CPU gains nothing by them, so users are not offered them here; tests compute in them as GPUs do:
//! each operation in f32, its result rounded.

use burn::backend::DType;
use burn::backend::ops::FloatTensorOps;
use burn_flex::{Flex, FlexTensor};

/// The numbers in f32.
pub(super) fn wide(t: FlexTensor) -> FlexTensor {
    narrow(t, DType::F32)
}

/// The numbers rounded to what `held` holds.
pub(super) fn narrow(t: FlexTensor, held: DType) -> FlexTensor {
    if t.dtype() == held { t } else { Flex::float_cast(t, held.into()) }
}
