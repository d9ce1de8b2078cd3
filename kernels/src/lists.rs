//! Lists of whole numbers that a step needs on the device, in one transfer: on a GPU each transfer costs the host as much as a
//! launch.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::IntTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::flat::ALIGN;

/// A part of a list where it lies.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"), Autodiff)]
pub trait ListOps: Backend {
    /// `count` numbers from `at` on; nothing is copied. Every device takes a view that begins at a multiple of [`ALIGN`].
    fn run(all: IntTensor<Self>, at: usize, count: usize) -> IntTensor<Self>;
}

// Whole numbers have no gradient.
impl<B: ListOps, C: CheckpointStrategy> ListOps for Autodiff<B, C> {
    fn run(all: IntTensor<Self>, at: usize, count: usize) -> IntTensor<Self> {
        B::run(all, at, count)
    }
}

/// The lists on `device`, each a tensor of its own, brought there at once.
pub fn lists_on(lists: &[Vec<i32>], device: &Device) -> Vec<Tensor<1, Int>> {
    if lists.is_empty() {
        return Vec::new();
    }
    let mut all: Vec<i32> = Vec::new();
    let mut runs = Vec::new();
    for list in lists {
        runs.push((all.len(), list.len()));
        all.extend(list);
        all.resize(all.len().next_multiple_of(ALIGN), 0);
    }
    let count = all.len();
    let all = Tensor::<1, Int>::from_data(TensorData::new(all, [count]), device).into_dispatch();
    let list = |(at, count)| Tensor::from_dispatch(<Dispatch as ListOps>::run(all.clone(), at, count));
    runs.into_iter().map(list).collect()
}

#[cfg(feature = "flex")]
impl ListOps for burn_flex::Flex {
    fn run(all: IntTensor<Self>, at: usize, count: usize) -> IntTensor<Self> {
        all.narrow(0, at, count)
    }
}

#[cfg(feature = "cube")]
impl ListOps for burn_cubecl::CubeBackend {
    fn run(all: IntTensor<Self>, at: usize, count: usize) -> IntTensor<Self> {
        crate::cube::view(all, at, &[count], &[1])
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn lists_come_as_they_were() {
        let lists = [vec![3, 1, 2], Vec::new(), (0..130).collect(), vec![7]];
        for device in [Device::flex(), Device::flex().autodiff()] {
            let found = lists_on(&lists, &device);
            assert_eq!(found.len(), lists.len());
            for (found, list) in found.into_iter().zip(&lists) {
                assert_eq!(found.into_data().iter::<i32>().collect::<Vec<_>>(), *list);
            }
        }
    }
}
