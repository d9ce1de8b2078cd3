//! Numbers to and from NumPy, by the buffer protocol: the stable ABI has it, and nothing of NumPy's own is linked.

use bonfire_engine::Named;
use bonfire_models::Matrix;
use pyo3::buffer::{Element, PyBuffer};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyDict};

use crate::errors::user_error;

/// `numpy.frombuffer`.
fn from_buffer(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static FROM_BUFFER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    Ok(FROM_BUFFER
        .get_or_try_init(py, || Ok::<_, PyErr>(py.import("numpy")?.getattr("frombuffer")?.unbind()))?
        .bind(py))
}

/// A new array `[n]` of float32.
pub fn floats<'py>(py: Python<'py>, numbers: &[f32]) -> PyResult<Bound<'py, PyAny>> {
    let bytes = PyByteArray::new_with(py, 4 * numbers.len(), |bytes| {
        bytes.chunks_exact_mut(4).zip(numbers).for_each(|(place, v)| place.copy_from_slice(&v.to_ne_bytes()));
        Ok(())
    })?;
    from_buffer(py)?.call1((bytes, "f4"))
}

/// A new array of float32 of this shape.
pub fn shaped<'py>(py: Python<'py>, shape: &[usize], numbers: &[f32]) -> PyResult<Bound<'py, PyAny>> {
    floats(py, numbers)?.call_method1("reshape", (shape.to_vec(),))
}

/// A new array `[n]` of uint8.
pub fn bytes<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    from_buffer(py)?.call1((PyByteArray::new(py, bytes), "u1"))
}

/// Matrices by name, each `[rows, cols]`.
pub fn matrices<'py>(py: Python<'py>, named: &Named) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, m) in named {
        dict.set_item(name, shaped(py, &[m.rows, m.cols], &m.data)?)?;
    }
    Ok(dict)
}

/// The numbers of an array and its shape. `name` is what messages call it.
pub fn read<T: Element>(name: &str, kind: &str, array: &Bound<'_, PyAny>) -> PyResult<(Vec<usize>, Vec<T>)> {
    let py = array.py();
    let wrong = |_| user_error(py, format!("{name} must be a NumPy array of {kind}, contiguous in C order"));
    let buffer = PyBuffer::<T>::get(array).map_err(wrong)?;
    if !buffer.is_c_contiguous() {
        return Err(user_error(py, format!("{name} must be contiguous in C order")));
    }
    Ok((buffer.shape().to_vec(), buffer.to_vec(py)?))
}

/// An array `[n]` of float32.
pub fn vector(name: &str, array: &Bound<'_, PyAny>) -> PyResult<Vec<f32>> {
    let (shape, numbers) = read(name, "float32", array)?;
    match shape.len() {
        1 => Ok(numbers),
        n => Err(user_error(array.py(), format!("{name} must have one axis, not {n}"))),
    }
}

/// An array `[rows, cols]` of float32.
pub fn matrix(name: &str, array: &Bound<'_, PyAny>) -> PyResult<Matrix> {
    let (shape, numbers) = read(name, "float32", array)?;
    match shape[..] {
        [rows, cols] => Ok(Matrix::new(rows, cols, numbers)),
        _ => Err(user_error(array.py(), format!("{name} must have two axes, not {}", shape.len()))),
    }
}
