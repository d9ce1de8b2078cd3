//! A matrix product that skips autotune: on GPUs the same numbers by the kernel that CubeCL takes without trying any. Where
//! the tuned product is wrong and this one right, tuning chose a kernel that the driver runs wrongly.

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

/// The product of each backend.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"))]
pub trait UntunedOps: Backend {
    /// `[M, K] x [K, N] -> [M, N]`.
    fn product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// `[M, K] x [K, N] -> [M, N]` in f32, without a graph.
///
/// # Panics
/// Where CubeCL's own choice of kernel does not fit the device.
pub(crate) fn product_untuned(lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as UntunedOps>::product(lhs.into_dispatch(), rhs.into_dispatch()))
}

#[cfg(feature = "flex")]
impl UntunedOps for burn_flex::Flex {
    fn product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        // The CPU tunes nothing.
        Self::float_matmul(lhs, rhs)
    }
}

#[cfg(feature = "cube")]
impl UntunedOps for burn_cubecl::CubeBackend {
    fn product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
        let dtype = lhs.dtype;
        matmul(lhs, rhs, None, MatmulStrategy::Cube, dtype).expect("a product of two f32 matrices has a kernel")
    }
}
