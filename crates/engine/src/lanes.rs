//! From matrices on the host to tensors with a client axis, and what is done to some lanes of them: a lane is one position on
//! that axis, held by a client until its local steps are done.

use bonfire_kernels::Moving;
use bonfire_models::Matrix;
use burn::tensor::{Device, Tensor, TensorData};

use crate::NotFinite;

/// A matrix that is the same for all clients: `[1, rows, cols]`.
pub(crate) fn to_device(m: &Matrix, device: &Device) -> Tensor<3> {
    Tensor::from_data(TensorData::new(m.data.clone(), [1, m.rows, m.cols]), device)
}

/// Matrices of some lanes at their lanes, zeros elsewhere: `[lanes, rows, cols]`, in one transfer.
pub(crate) fn put(matrices: &[(usize, &Matrix)], [lanes, rows, cols]: [usize; 3], device: &Device) -> Tensor<3> {
    let mut all = vec![0f32; lanes * rows * cols];
    for (lane, matrix) in matrices {
        all[lane * rows * cols..][..matrix.data.len()].copy_from_slice(&matrix.data);
    }
    Tensor::from_data(TensorData::new(all, [lanes, rows, cols]), device)
}

/// The chosen rows, then rows of zeros up to `slots`.
pub(crate) fn pick(m: &Matrix, chosen: &[usize], slots: usize) -> Matrix {
    let mut out = Matrix::zeros(slots, m.cols);
    for (row, &slot) in out.data.chunks_mut(m.cols.max(1)).zip(chosen) {
        row.copy_from_slice(&m.data[slot * m.cols..(slot + 1) * m.cols]);
    }
    out
}

/// Takes a state out of its place: where nothing else holds a tensor, it may be changed where it lies.
pub(crate) fn take(state: &mut Moving, device: &Device) -> Moving {
    let nothing = || Tensor::empty([0, 0], device);
    std::mem::replace(state, Moving { movement: nothing(), first: nothing(), second: nothing(), weights: nothing() })
}

/// `state` with zeros wherever `keep` is zero, whatever stood there: zero times infinity is not zero, and where a run goes on
/// without a client that diverged, the next one takes its lane.
pub(crate) fn cleared<const D: usize>(state: Tensor<D>, keep: &Tensor<D>, policy: NotFinite) -> Tensor<D> {
    match policy {
        NotFinite::Stop => state * keep.clone(),
        NotFinite::SkipClient => {
            let dims = state.dims();
            state.mask_fill(keep.clone().equal_elem(0.0).expand(dims), 0.0)
        }
    }
}
