//! The product of matrices, and what it is computed in. Burn's own product of f32 matrices may be computed in TF32: on
//! NVIDIA cards since Ampere it tries their matrix units, which keep ten bits of an f32 operand, and stays with whatever
//! kernel is fastest. Here f32 means f32, and TF32 is asked for by name.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{Device, Shape, Tensor};

use crate::options::Arithmetic;

/// `lhs · rhs`, with its graph.
///
/// # Shapes
/// `[.., M, K] x [.., K, N] -> [.., M, N]`; leading axes are equal, or 1 on one side.
pub fn product<const D: usize>(lhs: Tensor<D>, rhs: Tensor<D>, arithmetic: Arithmetic) -> Tensor<D> {
    let (lhs, rhs) = (lhs.into_dispatch(), rhs.into_dispatch());
    Tensor::from_dispatch(<Dispatch as ProductOps>::product(lhs, rhs, arithmetic, true))
}

/// [`product`] in f32 by one kernel on all shapes: on GPUs none is tried out. Where the tuned product is wrong and this one
/// right, tuning chose a kernel that the driver runs wrongly.
pub(crate) fn product_untuned(lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    let (lhs, rhs) = (lhs.into_dispatch(), rhs.into_dispatch());
    Tensor::from_dispatch(<Dispatch as ProductOps>::product(lhs, rhs, Arithmetic::F32, false))
}

/// The kernel that [`product`] of such matrices is computed by, as far as it is known: on GPUs once it was computed. Both lie
/// on a device without autodiff.
pub fn product_kernel<const D: usize>(lhs: &Tensor<D>, rhs: &Tensor<D>, arithmetic: Arithmetic) -> String {
    let (lhs, rhs) = (lhs.clone().into_dispatch(), rhs.clone().into_dispatch());
    <Dispatch as ProductFacts>::kernel(lhs, rhs, arithmetic)
}

/// Whether `device` has matrix units for TF32.
pub fn has_tf32(device: &Device) -> bool {
    <Dispatch as ProductFacts>::has_tf32(Tensor::<1>::zeros([1], &device.clone().inner()).into_dispatch())
}

/// The product of each backend.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"), Autodiff)]
pub trait ProductOps: Backend {
    /// `[.., M, K] x [.., K, N] -> [.., M, N]`, by the kernel found fastest or by one that is always the same.
    fn product(
        lhs: FloatTensor<Self>,
        rhs: FloatTensor<Self>,
        arithmetic: Arithmetic,
        tuned: bool,
    ) -> FloatTensor<Self>;
}

/// Questions to the device that tensors lie on.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"))]
pub trait ProductFacts: Backend {
    /// See [`has_tf32`].
    fn has_tf32(on: FloatTensor<Self>) -> bool;
    /// See [`product_kernel`].
    fn kernel(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>, arithmetic: Arithmetic) -> String;
}

/// What the backward of a product reads: an operand is kept where the other's gradient is asked for.
#[derive(Clone, Debug)]
struct Kept<B: Backend> {
    operands: [Option<FloatTensor<B>>; 2],
    shapes: [Shape; 2],
    arithmetic: Arithmetic,
}

impl<B: ProductOps, C: CheckpointStrategy> ProductOps for Autodiff<B, C> {
    fn product(
        lhs: FloatTensor<Self>,
        rhs: FloatTensor<Self>,
        arithmetic: Arithmetic,
        tuned: bool,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: ProductOps> Backward<B, 2> for Step {
            type State = Kept<B>;
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                let Kept { operands: [lhs, rhs], shapes: [of_lhs, of_rhs], arithmetic } = ops.state;
                let [to_lhs, to_rhs] = ops.parents;
                if let (Some(node), Some(rhs)) = (to_lhs, rhs) {
                    let dx = B::product(dy.clone(), B::float_transpose(rhs), arithmetic, true);
                    grads.register::<B>(node.id, summed::<B>(dx, &of_lhs));
                }
                if let (Some(node), Some(lhs)) = (to_rhs, lhs) {
                    let dw = B::product(B::float_transpose(lhs), dy, arithmetic, true);
                    grads.register::<B>(node.id, summed::<B>(dw, &of_rhs));
                }
            }
        }
        let (nodes, tracked) = ([lhs.node(), rhs.node()], [lhs.is_tracked(), rhs.is_tracked()]);
        let (lhs, rhs) = (lhs.into_primitive(), rhs.into_primitive());
        let shapes = [lhs.shape(), rhs.shape()];
        match Step.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let operands = [tracked[1].then(|| lhs.clone()), tracked[0].then(|| rhs.clone())];
                prep.finish(Kept { operands, shapes, arithmetic }, B::product(lhs, rhs, arithmetic, tuned))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::product(lhs, rhs, arithmetic, tuned)),
        }
    }
}

/// A gradient summed over the axes along which its operand, of `shape`, was repeated.
fn summed<B: Backend>(gradient: FloatTensor<B>, shape: &Shape) -> FloatTensor<B> {
    let repeated = |gradient: &FloatTensor<B>, axis: usize| shape[axis] == 1 && gradient.shape()[axis] > 1;
    (0..shape.num_dims()).fold(gradient, |gradient, axis| {
        if repeated(&gradient, axis) { B::float_sum_dim(gradient, axis) } else { gradient }
    })
}

#[cfg(feature = "flex")]
impl ProductOps for burn_flex::Flex {
    fn product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>, arithmetic: Arithmetic, _: bool) -> FloatTensor<Self> {
        match arithmetic {
            Arithmetic::F32 => Self::float_matmul(lhs, rhs),
            Arithmetic::Tf32 => Self::float_matmul(crate::cpu::in_tf32(lhs), crate::cpu::in_tf32(rhs)),
        }
    }
}

#[cfg(feature = "flex")]
impl ProductFacts for burn_flex::Flex {
    fn has_tf32(_: FloatTensor<Self>) -> bool {
        false
    }

    fn kernel(_: FloatTensor<Self>, _: FloatTensor<Self>, _: Arithmetic) -> String {
        "gemm".into()
    }
}

#[cfg(feature = "cube")]
impl ProductOps for burn_cubecl::CubeBackend {
    fn product(
        lhs: FloatTensor<Self>,
        rhs: FloatTensor<Self>,
        arithmetic: Arithmetic,
        tuned: bool,
    ) -> FloatTensor<Self> {
        crate::cube::product(lhs, rhs, arithmetic, tuned)
    }
}

#[cfg(feature = "cube")]
impl ProductFacts for burn_cubecl::CubeBackend {
    fn has_tf32(on: FloatTensor<Self>) -> bool {
        crate::cube::has_tf32(&on)
    }

    fn kernel(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>, arithmetic: Arithmetic) -> String {
        crate::cube::product_kernel(lhs, rhs, arithmetic)
    }
}
