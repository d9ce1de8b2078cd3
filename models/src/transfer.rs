//! Weights between the host's memory and a device's.

use burn::tensor::{Device, Tensor, TensorData};

use crate::Matrix;

/// A matrix of the host as a tensor `[rows, cols]` in f32.
pub(crate) fn matrix(m: Matrix, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(m.data, [m.rows, m.cols]), device)
}

/// Numbers of the host as a tensor `[n]` in f32.
pub(crate) fn vector(data: Vec<f32>, device: &Device) -> Tensor<1> {
    let n = data.len();
    Tensor::from_data(TensorData::new(data, [n]), device)
}

/// The numbers of a tensor `[rows, cols]` in f32, without its graph: waits for the device.
pub(crate) fn read(t: Tensor<2>) -> Matrix {
    let [rows, cols] = t.dims();
    Matrix::new(rows, cols, t.into_data().try_to_vec().expect("weights are kept in f32"))
}
