//! `bonfire.predict`: what a run's model says of texts.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use bonfire_experiment::embed;
use bonfire_experiment::predict::{Answer, Given, Predictor, content, refuse_language_models};
use bonfire_experiment::trained::{self, Which};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::config_input::plain;
use crate::errors::{of, user_error};
use crate::interruptible::patiently;
use crate::runs::Run;

/// What the model of a run says of `texts`, as `bonfire predict --json`: a dict each, in their order.
///
/// `run` is a run folder or what `train` returned; `best` asks the best round's model, which a run keeps with `evaluate.best`. A text is a
/// `str`, a pair `(first, second)`, a sentence whose words are tagged a `str` with white space between the words or a list of them. Classes
/// come as `label`, `probability` and `probabilities`, several labels as `labels` and `probabilities`, numbers as `value`, sentences as
/// `words`, `tags` and `spans`.
#[pyfunction]
#[pyo3(signature = (run, texts, *, best = false, device = None))]
pub fn predict<'py>(
    py: Python<'py>,
    run: &Bound<'py, PyAny>,
    texts: &Bound<'py, PyAny>,
    best: bool,
    device: Option<&str>,
) -> PyResult<Bound<'py, PyAny>> {
    let folder: PathBuf = match run.cast::<Run>() {
        Ok(run) => run.get().folder().into(),
        Err(_) => run.extract().map_err(|_| user_error(py, "run is a run folder, or what train returned"))?,
    };
    ask(py, folder, texts, best, device)
}

/// The same of a folder.
pub fn ask<'py>(
    py: Python<'py>,
    folder: PathBuf,
    texts: &Bound<'py, PyAny>,
    best: bool,
    device: Option<&str>,
) -> PyResult<Bound<'py, PyAny>> {
    embed::begin();
    let which = if best { Which::Best } else { Which::Last };
    let of_user = |error: anyhow::Error| of(py, &error);
    let loaded = trained::load(&folder, which, &[]).map_err(of_user)?;
    refuse_language_models(&loaded).map_err(|error| of_user(error.into()))?;
    let loaded = match device {
        Some(device) => loaded.on(device).map_err(|error| of_user(error.into()))?,
        None => loaded,
    };
    let device = loaded.config.engine.device.first();
    if texts.is_instance_of::<PyString>() {
        return Err(user_error(py, "texts is one text; give a list of texts"));
    }
    let one = |(at, item): (usize, PyResult<Bound<'_, PyAny>>)| {
        let item = item?;
        let given = item.extract().map(Given::One).or_else(|_| item.extract().map(Given::Several));
        let given = given.map_err(|_| "is no text".to_owned()).and_then(|given| content(&loaded, given));
        given.map_err(|what| user_error(py, format!("texts[{at}] {what}")))
    };
    let contents = texts.try_iter()?.enumerate().map(one).collect::<PyResult<Vec<_>>>()?;
    let given_up = AtomicBool::new(false);
    let asked = || -> Result<Vec<Answer>> {
        let predictor = Predictor::open(&folder, which, loaded, device, &mut ())?;
        let mut answers = Vec::with_capacity(contents.len());
        predictor.answer(&contents, |answer| {
            if given_up.load(Ordering::Relaxed) {
                bail!("given up");
            }
            answers.push(answer);
            Ok(())
        })?;
        Ok(answers)
    };
    let answers = patiently(py, || given_up.store(true, Ordering::Relaxed), |()| Ok(()), |_tell| asked())?;
    plain(py, &answers.map_err(of_user)?)
}
