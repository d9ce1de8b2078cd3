//! What every launch needs of a tensor: its element type, room for a result, a copy where it is not ours to change.

use burn::backend::{DType, Shape};
use burn_cubecl::cubecl::ir::{ElemType, FloatKind};
use burn_cubecl::cubecl::prelude::CubeCount;
use burn_cubecl::cubecl::zspace::metadata::Metadata;
use burn_cubecl::tensor::CubeTensor;

/// The element type a kernel is compiled for.
///
/// # Panics
/// For anything but the float types models are held in.
pub(crate) fn elem(tensor: &CubeTensor) -> ElemType {
    match tensor.dtype {
        DType::F32 => ElemType::Float(FloatKind::F32),
        DType::F16 => ElemType::Float(FloatKind::F16),
        DType::BF16 => ElemType::Float(FloatKind::BF16),
        other => panic!("kernels take f32, f16 and bf16, not {other:?}"),
    }
}

/// A contiguous tensor beside `like`, its memory not initialised.
pub(crate) fn empty(like: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    let shape = shape.into();
    let handle = like.client.empty(shape.num_elements() * dtype.size());
    CubeTensor::new_contiguous(like.client.clone(), like.device.clone(), shape, handle, dtype)
}

/// Some of a contiguous tensor's numbers from `at` on, by shape and strides; nothing is copied.
pub(crate) fn view(tensor: CubeTensor, at: usize, shape: &[usize], strides: &[usize]) -> CubeTensor {
    let (all, size) = (tensor.meta.shape().num_elements(), tensor.dtype.size());
    let last: usize = shape.iter().zip(strides).map(|(count, stride)| count.saturating_sub(1) * stride).sum();
    let end = at + if shape.contains(&0) { 0 } else { last + 1 };
    assert!(tensor.is_contiguous() && end <= all, "numbers {at} to {end} of {all}");
    let handle = tensor.handle.offset_start((at * size) as u64).offset_end(((all - end) * size) as u64);
    let meta = Metadata::new(Shape::from(shape.to_vec()), strides.to_vec());
    CubeTensor::new(tensor.client, handle, meta, tensor.device, tensor.dtype)
}

/// The tensor itself where nothing else holds its memory, else a copy: what comes out may be written.
pub(crate) fn owned(tensor: CubeTensor) -> CubeTensor {
    if tensor.can_mut() && tensor.is_nonoverlapping() { tensor } else { tensor.copy() }
}

/// A `[C|1, rows, cols]` stack of matrices as the kernels see it: transposed on request, and with a first axis of 1
/// repeated for every client, both by strides alone.
pub(crate) fn stack(mut tensor: CubeTensor, transposed: bool) -> CubeTensor {
    if transposed {
        tensor.meta.swap(1, 2);
    }
    if tensor.meta.shape()[0] == 1 {
        tensor.meta.strides_mut()[0] = 0;
    }
    tensor
}

/// Whether neighbours on `axis` lie closer in memory than neighbours on `other`: which way to walk when loading.
pub(crate) fn runs_along(tensor: &CubeTensor, axis: usize, other: usize) -> bool {
    tensor.meta.strides()[axis] < tensor.meta.strides()[other]
}

/// Workgroups that every device allows in a row, and rows that it allows.
pub(crate) const LONGEST: usize = 65_535;

#[cfg(test)]
thread_local! {
    /// Shorter rows, so that small launches of a test fold too.
    pub(super) static ROW: std::cell::Cell<usize> = const { std::cell::Cell::new(LONGEST) };
}

/// The grid of every launch of ours: `count` workgroups, in as many rows as they need. A kernel tells them apart by
/// `CUBE_POS`, which comes out at `count` or a little above where rows do not come out even: those have nothing to do.
///
/// # Panics
/// For more workgroups than fit a grid.
pub(crate) fn groups(count: usize) -> CubeCount {
    #[cfg(not(test))]
    let longest = LONGEST;
    #[cfg(test)]
    let longest = ROW.get();
    let rows = count.div_ceil(longest).max(1);
    assert!(rows <= LONGEST, "a launch of {count} workgroups is more than any device takes; fewer tokens a step");
    CubeCount::Static(count.div_ceil(rows) as u32, rows as u32, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sides of a grid.
    fn sides(count: usize) -> [usize; 3] {
        let CubeCount::Static(x, y, z) = groups(count) else { panic!("a grid known to the host") };
        [x, y, z].map(|side| side as usize)
    }

    #[test]
    fn grids_have_room_and_no_side_too_long() {
        for count in [1, 2, 65_534, LONGEST, LONGEST + 1, 70_000, 1 << 20, LONGEST * LONGEST - 1, LONGEST * LONGEST] {
            let [x, y, z] = sides(count);
            assert!(x <= LONGEST && y <= LONGEST && z == 1, "{count} in {x} x {y} x {z}");
            assert!((count..count + y).contains(&(x * y)), "{count} in {x} x {y}");
        }
        assert_eq!(sides(LONGEST), [LONGEST, 1, 1], "what fits a row is one");
    }

    #[test]
    #[should_panic = "more than any device takes"]
    fn more_than_a_grid_holds_is_refused() {
        groups(LONGEST * LONGEST + 1);
    }
}
