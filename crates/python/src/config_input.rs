//! What callers say: a configuration as a file, a mapping or nothing, and values that go before it.

use std::path::PathBuf;

use bonfire_experiment::config::{self, CheckedConfig};
use bonfire_experiment::embed;
use pyo3::prelude::*;
use pyo3::types::{PyAnyMethods, PyBool, PyFloat, PyInt, PyMapping, PySequence, PyString};
use serde::Serialize;

use crate::errors::{of, other, user_error};

/// Reads a configuration.
pub fn load(
    config: Option<&Bound<'_, PyAny>>,
    overrides: Option<&Bound<'_, PyMapping>>,
    device: Option<&str>,
    py: Python<'_>,
) -> PyResult<CheckedConfig> {
    embed::begin();
    let sets = sets(overrides)?;
    let checked = match config {
        None => config::load(None, &sets),
        Some(it) => match it.cast::<PyMapping>() {
            Ok(mapping) => config::of_table("the configuration", table(mapping)?, &sets),
            Err(_) => config::load(Some(&path(it)?), &sets),
        },
    };
    let checked = checked.and_then(|checked| match device {
        Some(device) => checked.on(device),
        None => Ok(checked),
    });
    checked.map_err(|error| of(py, &error.into()))
}

/// A `str` or `os.PathLike`.
pub fn path(it: &Bound<'_, PyAny>) -> PyResult<PathBuf> {
    let wrong = |_| user_error(it.py(), "a configuration is a path, a mapping or None");
    it.extract().map_err(wrong)
}

/// `--set` texts.
pub fn sets(overrides: Option<&Bound<'_, PyMapping>>) -> PyResult<Vec<String>> {
    let Some(overrides) = overrides else { return Ok(Vec::new()) };
    let py = overrides.py();
    let mut all = Vec::new();
    for item in overrides.items()? {
        let (key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
        let key: String = key.extract().map_err(|_| user_error(py, "overrides are a mapping from keys to values"))?;
        let why =
            |why: String| user_error(py, format!("the override of {key} has a value that no configuration has{why}"));
        let value = toml_value(&value).map_err(|error| why(format!(": {}", error.value(py))))?;
        all.push(format!("{key}={}", value.ok_or_else(|| why(String::new()))?));
    }
    Ok(all)
}

fn table(mapping: &Bound<'_, PyMapping>) -> PyResult<toml::Table> {
    let py = mapping.py();
    let value = toml_value(mapping.as_any())
        .map_err(|error| user_error(py, format!("a value that no configuration has: {}", error.value(py))))?;
    match value {
        Some(toml::Value::Table(table)) => Ok(table),
        _ => Err(user_error(py, "a configuration is a mapping of sections")),
    }
}

/// Python's values as TOML's, number by number to the last bit: also NumPy's numbers and arrays, and paths as text. A key that is
/// `None` is one that is left out.
fn toml_value(it: &Bound<'_, PyAny>) -> PyResult<Option<toml::Value>> {
    if it.is_none() {
        return Ok(None);
    }
    if it.is_instance_of::<PyBool>() {
        return Ok(Some(it.extract::<bool>()?.into()));
    }
    if it.is_instance_of::<PyInt>() {
        return Ok(Some(it.extract::<i64>()?.into()));
    }
    if it.is_instance_of::<PyFloat>() {
        return Ok(Some(it.extract::<f64>()?.into()));
    }
    if it.is_instance_of::<PyString>() {
        return Ok(Some(it.extract::<String>()?.into()));
    }
    if let Ok(mapping) = it.cast::<PyMapping>() {
        let mut table = toml::Table::new();
        for item in mapping.items()? {
            let (key, value): (String, Bound<'_, PyAny>) = item.extract()?;
            table.extend(toml_value(&value)?.map(|value| (key, value)));
        }
        return Ok(Some(table.into()));
    }
    if it.hasattr("dtype")? && it.hasattr("tolist")? {
        return toml_value(&it.call_method0("tolist")?);
    }
    if let Ok(list) = it.cast::<PySequence>() {
        let values = list.try_iter()?.map(|value| toml_value(&value?)).collect::<PyResult<Option<Vec<_>>>>()?;
        return Ok(values.map(toml::Value::Array));
    }
    let text: String = it.py().import("os")?.getattr("fspath")?.call1((it,))?.extract()?;
    Ok(Some(text.into()))
}

/// A record as Python's plain values.
pub fn plain<'py>(py: Python<'py>, record: &impl Serialize) -> PyResult<Bound<'py, PyAny>> {
    let text = serde_json::to_string(record).map_err(|e| other(py, e))?;
    py.import("json")?.call_method1("loads", (text,))
}
