//! The trained tensors of the clients that end at a step, side by side in one table, so that the host reads them all at once.

use burn::backend::Dispatch;
use burn::tensor::{Device, Tensor, TensorData};

use crate::optimizer::OptimizerOps;

/// `table` with the matrices that `stack` holds of some clients written from column `at` on, row by row of each.
///
/// # Shapes
/// `table` `[E, W]`; `stack` `[C|1, rows, cols]`; `lanes` `[E]`: whose matrix stands in each row of the table, as
/// [`lanes_on`] gives it. All in f32 and without a graph. In place where nothing else holds the table.
///
/// # Panics
/// A table that is too narrow.
pub fn gather_lanes(table: Tensor<2>, stack: Tensor<3>, lanes: &Tensor<1>, at: usize) -> Tensor<2> {
    let ([ends, width], [_, rows, cols]) = (table.dims(), stack.dims());
    assert!(at + rows * cols <= width && lanes.dims() == [ends], "columns {at} to {} of {width}", at + rows * cols);
    let lanes = lanes.clone().into_dispatch();
    Tensor::from_dispatch(<Dispatch as OptimizerOps>::gather(table.into_dispatch(), stack.into_dispatch(), lanes, at))
}

/// Numbers of clients on a device, for [`gather_lanes`]; f32 holds whole numbers up to 2²⁴.
pub fn lanes_on(lanes: &[usize], device: &Device) -> Tensor<1> {
    let numbers: Vec<f32> = lanes.iter().map(|&lane| lane as f32).collect();
    Tensor::from_data(TensorData::new(numbers, [lanes.len()]), device)
}
