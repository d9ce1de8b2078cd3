//! Many tensors of every client in one buffer: client `k`'s are row `k` of `[C, width]`, one after the other, so that a step of the
//! optimizer is one pass over all of them and what a client leaves is one row.

use std::sync::Arc;

use burn::backend::{Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor, ExtensionType};
use burn::backend::{DispatchTensorKind, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

/// Numbers whose multiples a tensor may begin at: 512 bytes, which every device takes a view from.
pub(crate) const ALIGN: usize = 128;

/// What is asked of a buffer.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"))]
pub trait FlatOps: Backend {
    /// A tensor of every client where it lies; see [`FlatLayout::tensor`].
    fn part(flat: FloatTensor<Self>, at: usize, dims: [usize; 2]) -> FloatTensor<Self>;
}

/// Where each of a client's tensors lies in the client's row. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FlatLayout(Arc<Places>);

#[derive(Debug)]
struct Places {
    places: Vec<Place>,
    #[cfg(feature = "cube")]
    tables: crate::cube::StepTables,
}

/// One tensor of every client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The column that it begins at.
    pub at: usize,
    /// Its rows and columns; they lie row by row.
    pub dims: [usize; 2],
    /// Which of the optimizer's rates are its own: see [`crate::optimizer_step`].
    pub rates: usize,
    /// Whether a model reads its movement alone: where the start is in the backbone already.
    pub folded: bool,
}

impl Place {
    /// Numbers of a client.
    pub fn len(&self) -> usize {
        self.dims[0] * self.dims[1]
    }

    /// Whether a client has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its columns.
    pub fn columns(&self) -> std::ops::Range<usize> {
        self.at..self.at + self.len()
    }
}

impl FlatLayout {
    /// One tensor after the other: rows and columns, rates and whether it is folded of each, as in [`Place`]. Between two there may be
    /// columns that belong to none.
    pub fn new(tensors: impl IntoIterator<Item = ([usize; 2], usize, bool)>) -> Self {
        let mut at = 0;
        let place = |(dims, rates, folded): ([usize; 2], usize, bool)| {
            let place = Place { at, dims, rates, folded };
            at += place.len().next_multiple_of(ALIGN);
            place
        };
        FlatLayout(Arc::new(Places {
            places: tensors.into_iter().map(place).collect(),
            #[cfg(feature = "cube")]
            tables: Default::default(),
        }))
    }

    /// Columns of the buffer that a tensor of these dimensions takes.
    pub fn width_of([rows, cols]: [usize; 2]) -> usize {
        (rows * cols).next_multiple_of(ALIGN)
    }

    /// The tensors, in order.
    pub fn places(&self) -> &[Place] {
        &self.0.places
    }

    /// Columns of the buffer.
    pub fn width(&self) -> usize {
        self.places().last().map_or(0, |last| last.columns().end.next_multiple_of(ALIGN))
    }

    /// Whether a model reads the movement of all of them alone.
    pub fn all_folded(&self) -> bool {
        self.places().iter().all(|place| place.folded)
    }

    /// Tensor `i` of every client, `[C, rows, cols]`, where it lies in `flat` `[C, width]`: nothing is copied. Without a graph.
    pub fn tensor(&self, flat: &Tensor<2>, i: usize) -> Tensor<3> {
        let Place { at, dims, .. } = self.places()[i];
        assert_eq!(flat.dims()[1], self.width(), "a buffer of this layout");
        Tensor::from_dispatch(<Dispatch as FlatOps>::part(flat.clone().into_dispatch(), at, dims))
    }

    /// The tensors `[C, rows, cols]`, as many as there are places, side by side in a buffer `[C, width]` of their own; zeros between
    /// them.
    pub fn flat(&self, tensors: &[Tensor<3>]) -> Tensor<2> {
        let mut parts = Vec::new();
        for (place, tensor) in self.places().iter().zip(tensors) {
            let [clients, ..] = tensor.dims();
            parts.push(tensor.clone().reshape([clients, place.len()]));
            let room = Self::width_of(place.dims) - place.len();
            if room > 0 {
                parts.push(Tensor::zeros([clients, room], &tensor.device()));
            }
        }
        Tensor::cat(parts, 1)
    }

    /// `flat` with tensor `i` of every client replaced by `tensor` `[C, rows, cols]`.
    pub fn put(&self, flat: Tensor<2>, i: usize, tensor: Tensor<3>) -> Tensor<2> {
        let ([clients, _], place) = (flat.dims(), self.places()[i]);
        flat.slice_assign([0..clients, place.columns()], tensor.reshape([clients, place.len()]))
    }

    /// What kernels read, made at the first call.
    #[cfg(feature = "cube")]
    pub(crate) fn tables(&self) -> &crate::cube::StepTables {
        &self.0.tables
    }
}

/// Any number of tensors for an operation.
#[derive(Clone, Debug)]
pub struct Tensors<B: Backend>(pub Vec<FloatTensor<B>>);

// What the derive would write, if it knew lists.
impl<B: Backend> ExtensionType<B> for Tensors<B> {
    type Target = Tensors<Dispatch>;

    fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Self::Target
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        let wrapped = |tensor| DispatchTensor { kind: map_kind(BackendTensor::Float(tensor)), autodiff };
        Tensors(self.0.into_iter().map(wrapped).collect())
    }

    fn map_from_dispatch<F>(target: Self::Target, unwrap_kind: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        Tensors(target.0.into_iter().map(|tensor| unwrap_kind(tensor).float()).collect())
    }

    fn routing_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn routing_float_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn autodiff_context(target: &Self::Target) -> DispatchAutodiffContext {
        let contexts = target.0.iter().map(|tensor| tensor.autodiff);
        contexts.fold(DispatchAutodiffContext::Disabled, DispatchAutodiffContext::merge)
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[test]
    fn tensors_lie_where_the_layout_says_and_are_found_there() {
        let device = Device::flex();
        let dims = [[2, 3], [1, 128], [3, 43], [1, 1]];
        let layout = FlatLayout::new(dims.map(|dims| (dims, 0, false)));
        let at: Vec<usize> = layout.places().iter().map(|place| place.at).collect();
        assert_eq!((at, layout.width()), (vec![0, 128, 256, 512], 640));
        let tensor = |(i, [rows, cols]): (usize, [usize; 2])| {
            let numbers: Vec<f32> = (0..2 * rows * cols).map(|n| (1000 * (i + 1) + n) as f32).collect();
            Tensor::<3>::from_data(TensorData::new(numbers, [2, rows, cols]), &device)
        };
        let tensors: Vec<_> = dims.into_iter().enumerate().map(tensor).collect();
        let mut flat = layout.flat(&tensors);
        let numbers: Vec<f32> = flat.clone().into_data().try_to_vec().expect("f32");
        assert_eq!(numbers[640 + 128], 2128.0, "the second client's second tensor");
        assert_eq!(numbers[6..128], [0.0; 122], "nothing between tensors");
        for (i, tensor) in tensors.iter().enumerate() {
            let negative = tensor.clone().neg();
            assert_eq!(layout.tensor(&flat, i).into_data(), tensor.clone().into_data());
            flat = layout.put(flat, i, negative.clone());
            assert_eq!(layout.tensor(&flat, i).into_data(), negative.into_data());
        }
    }
}
