//! What callers say: a configuration as a file, a mapping or nothing, and values that go before it.

use std::path::PathBuf;

use bonfire_experiment::config::{self, CheckedConfig};
use bonfire_experiment::embed;
use pyo3::prelude::*;
use pyo3::types::{PyAnyMethods, PyMapping};
use serde::Serialize;
use serde_json::Value;

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
    let set = |(key, value): (&String, &toml::Value)| format!("{key}={value}");
    let values = json(overrides.as_any())?;
    let Value::Object(values) = values else {
        return Err(user_error(py, "overrides are a mapping from keys to values"));
    };
    let mut all = toml::Table::new();
    for (key, value) in values {
        let what = || user_error(py, format!("the override of {key} has a value that no configuration has"));
        all.insert(key.clone(), toml_value(value).ok_or_else(what)?);
    }
    Ok(all.iter().map(set).collect())
}

fn table(mapping: &Bound<'_, PyMapping>) -> PyResult<toml::Table> {
    match toml_value(json(mapping.as_any())?) {
        Some(toml::Value::Table(table)) => Ok(table),
        _ => Err(user_error(mapping.py(), "a configuration is a mapping of sections")),
    }
}

/// Python's values as JSON's: whatever `json.dumps` takes, and paths as text.
fn json(it: &Bound<'_, PyAny>) -> PyResult<Value> {
    let py = it.py();
    let kwargs = pyo3::types::PyDict::new(py);
    kwargs.set_item("default", py.import("os")?.getattr("fspath")?)?;
    let plain = if it.is_instance_of::<pyo3::types::PyDict>() {
        it.clone()
    } else {
        py.get_type::<pyo3::types::PyDict>().call1((it,))?.into_any()
    };
    let text = py.import("json")?.call_method("dumps", (plain,), Some(&kwargs));
    let text: String =
        text.map_err(|e| user_error(py, format!("a value that no configuration has: {e}")))?.extract()?;
    serde_json::from_str(&text).map_err(|e| user_error(py, format!("a value that no configuration has: {e}")))
}

/// A key that is `None` is one that is left out.
fn toml_value(value: Value) -> Option<toml::Value> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(b) => b.into(),
        Value::Number(n) => match n.as_i64() {
            Some(whole) => whole.into(),
            None => n.as_f64()?.into(),
        },
        Value::String(text) => text.into(),
        Value::Array(list) => toml::Value::Array(list.into_iter().map(toml_value).collect::<Option<_>>()?),
        Value::Object(map) => {
            let values = map.into_iter().filter_map(|(key, value)| Some((key, toml_value(value)?)));
            toml::Value::Table(values.collect())
        }
    })
}

/// A record as Python's plain values.
pub fn plain<'py>(py: Python<'py>, record: &impl Serialize) -> PyResult<Bound<'py, PyAny>> {
    let text = serde_json::to_string(record).map_err(|e| other(py, e))?;
    py.import("json")?.call_method1("loads", (text,))
}
