//! Custom operations and their hand-written gradients, dispatched to whatever backend holds the tensors.
//!
//! Burn's own operations cannot say "row block i meets matrix i": slicing per client inside autodiff would allocate a
//! full-size gradient for every slice. So these are operations of their own, with backwards that touch each row once.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Slice};

use crate::Segments;

/// Operations every backend has; default bodies are composed from its own.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"), Autodiff)]
pub trait PackedOps: Backend {
    /// `[T, K] × [C, K, N] -> [T, N]`: the rows of segment `c` meet matrix `c`.
    fn segmented_matmul(x: FloatTensor<Self>, w: FloatTensor<Self>, segments: Segments) -> FloatTensor<Self> {
        matmul_by_segment::<Self>(x, w, &segments)
    }

    /// Normalises the last axis of `[T, D]`; `gamma`, `beta` `[D]` are frozen.
    fn norm_rows(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        Self::layer_norm(x, gamma, Some(beta), eps)
    }

    /// GELU elementwise.
    fn gelu_rows(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::gelu(x)
    }
}

/// What the backward passes need of the backend underneath.
pub trait PackedGradients: Backend {
    /// Gradient of [`PackedOps::norm_rows`] for `x`: with x̂ the normalised row and g = γ·dy,
    /// `dx = (g − mean(g) − x̂·mean(g·x̂)) / σ`.
    fn norm_rows_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        let mean = Self::float_mean_dim(x.clone(), 1);
        let centred = Self::float_sub(x, mean);
        let var = Self::float_mean_dim(Self::float_mul(centred.clone(), centred.clone()), 1);
        let inv = Self::float_recip(Self::float_sqrt(Self::float_add_scalar(var, eps.into())));
        let hat = Self::float_mul(centred, inv.clone());
        let width = gamma.shape()[0];
        let g = Self::float_mul(dy, Self::float_reshape(gamma, Shape::from([1, width])));
        let mean_g = Self::float_mean_dim(g.clone(), 1);
        let mean_gh = Self::float_mean_dim(Self::float_mul(g.clone(), hat.clone()), 1);
        let inner = Self::float_sub(Self::float_sub(g, mean_g), Self::float_mul(hat, mean_gh));
        Self::float_mul(inner, inv)
    }

    /// Gradient of [`PackedOps::gelu_rows`].
    fn gelu_rows_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::gelu_backward(x, dy)
    }
}

/// A tensor of the CPU backend from its numbers, row-major.
#[cfg(feature = "flex")]
pub(crate) fn cpu_tensor(data: Vec<f32>, shape: Shape) -> burn_flex::FlexTensor {
    let layout = burn_flex::Layout::contiguous(shape);
    burn_flex::FlexTensor::new(burn::tensor::Bytes::from_elems(data), layout, burn::backend::DType::F32)
}

#[cfg(feature = "flex")]
impl PackedOps for burn_flex::Flex {
    fn gelu_rows(x: FloatTensor<Self>) -> FloatTensor<Self> {
        crate::gelu::forward(x)
    }
}
#[cfg(feature = "cube")]
impl PackedOps for burn_cubecl::CubeBackend {}
#[cfg(feature = "cube")]
impl PackedGradients for burn_cubecl::CubeBackend {}

/// Rows `range` of a matrix, as a matrix.
fn rows<B: Backend>(x: &FloatTensor<B>, range: std::ops::Range<usize>) -> FloatTensor<B> {
    B::float_slice(x.clone(), &[Slice::from(range), Slice::full()])
}

/// Matrix `c` of a stack.
fn matrix<B: Backend>(w: &FloatTensor<B>, c: usize) -> FloatTensor<B> {
    let [_, k, n] = w.shape().dims();
    let one = B::float_slice(w.clone(), &[Slice::from(c..c + 1), Slice::full(), Slice::full()]);
    B::float_reshape(one, Shape::from([k, n]))
}

fn matmul_by_segment<B: Backend>(x: FloatTensor<B>, w: FloatTensor<B>, segments: &Segments) -> FloatTensor<B> {
    assert_eq!(w.shape()[0], segments.len(), "one matrix a segment");
    let parts = segments
        .ranges()
        .enumerate()
        .filter(|(_, range)| !range.is_empty())
        .map(|(c, range)| B::float_matmul(rows::<B>(&x, range), matrix::<B>(&w, c)))
        .collect();
    B::float_cat(parts, 0)
}

/// `[T, K], [T, N] -> [C, K, N]`: the gradient of each segment's matrix; zero where a segment is empty.
fn outer_by_segment<B: Backend>(x: FloatTensor<B>, dy: FloatTensor<B>, segments: &Segments) -> FloatTensor<B> {
    let [k, n] = [x.shape()[1], dy.shape()[1]];
    let device = x.device();
    let dtype = x.dtype();
    let parts = segments
        .ranges()
        .map(|range| {
            if range.is_empty() {
                return B::float_zeros(Shape::from([1, k, n]), &device, dtype.into());
            }
            let left = B::float_transpose(rows::<B>(&x, range.clone()));
            B::float_reshape(B::float_matmul(left, rows::<B>(&dy, range)), Shape::from([1, k, n]))
        })
        .collect();
    B::float_cat(parts, 0)
}

impl<B: PackedOps + PackedGradients, C: CheckpointStrategy> PackedOps for Autodiff<B, C> {
    fn segmented_matmul(x: FloatTensor<Self>, w: FloatTensor<Self>, segments: Segments) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: Backend> Backward<B, 2> for Step {
            type State = (FloatTensor<B>, FloatTensor<B>, Segments);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let [node_x, node_w] = ops.parents;
                let dy = grads.consume::<B>(&ops.node);
                let (x, w, segments) = ops.state;
                if let Some(node) = node_x {
                    let wt = B::float_swap_dims(w, 1, 2);
                    grads.register::<B>(node.id, matmul_by_segment::<B>(dy.clone(), wt, &segments));
                }
                if let Some(node) = node_w {
                    grads.register::<B>(node.id, outer_by_segment::<B>(x, dy, &segments));
                }
            }
        }
        let nodes = [x.node(), w.node()];
        let (x, w) = (x.into_primitive(), w.into_primitive());
        let y = B::segmented_matmul(x.clone(), w.clone(), segments.clone());
        match Step.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, w, segments), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn norm_rows(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: PackedGradients> Backward<B, 1> for Step {
            type State = (FloatTensor<B>, FloatTensor<B>, f64);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let [node] = ops.parents;
                let dy = grads.consume::<B>(&ops.node);
                let (x, gamma, eps) = ops.state;
                if let Some(node) = node {
                    grads.register::<B>(node.id, B::norm_rows_backward(x, gamma, dy, eps));
                }
            }
        }
        assert!(!gamma.is_tracked() && !beta.is_tracked(), "gain and bias of the norm are frozen");
        let node = x.node();
        let (x, gamma) = (x.into_primitive(), gamma.into_primitive());
        let y = B::norm_rows(x.clone(), gamma.clone(), beta.into_primitive(), eps);
        match Step.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, gamma, eps), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn gelu_rows(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: PackedGradients> Backward<B, 1> for Step {
            type State = FloatTensor<B>;
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let [node] = ops.parents;
                let dy = grads.consume::<B>(&ops.node);
                if let Some(node) = node {
                    grads.register::<B>(node.id, B::gelu_rows_backward(ops.state, dy));
                }
            }
        }
        let node = x.node();
        let x = x.into_primitive();
        let y = B::gelu_rows(x.clone());
        match Step.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(x, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
