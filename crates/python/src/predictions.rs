//! `bonfire.predict`: what a run's model says of texts.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use bonfire_data::Content;
use bonfire_experiment::config::{CheckedConfig, TaskKind};
use bonfire_experiment::predict::{self, Answer, Predictor};
use bonfire_experiment::trained::{self, Which};
use bonfire_experiment::embed;
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
    predict::refuse_language_models(&loaded).map_err(|error| of_user(error.into()))?;
    let device = match device {
        Some(device) => loaded.clone().on(device).map_err(|error| of_user(error.into()))?.config.engine.device.first(),
        None => loaded.config.engine.device.first(),
    };
    let contents = contents(&loaded, texts)?;
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

/// The texts as the run's model is asked them.
fn contents(loaded: &CheckedConfig, texts: &Bound<'_, PyAny>) -> PyResult<Vec<Content>> {
    let wrong = |what: String| user_error(texts.py(), what);
    if texts.is_instance_of::<PyString>() {
        return Err(wrong("texts is one text; give a list of texts".to_owned()));
    }
    let tagged = loaded.config.model.task == TaskKind::TokenClassification;
    let pairs = loaded.config.data.text.as_ref().is_some_and(|columns| columns.names().len() == 2);
    let one = |(at, item): (usize, PyResult<Bound<'_, PyAny>>)| {
        let item = item?;
        if let Ok(text) = item.extract::<String>() {
            return match (tagged, pairs) {
                (true, _) if text.trim().is_empty() => Err(wrong(format!("texts[{at}] has no words"))),
                (true, _) => Ok(Content::Words(text.split_whitespace().map(String::from).collect())),
                (false, true) => {
                    Err(wrong(format!("texts[{at}] is one text, and this run learnt pairs; give (first, second)")))
                }
                (false, false) => Ok(Content::Text(text)),
            };
        }
        match item.extract::<Vec<String>>() {
            Ok(words) if tagged && !words.is_empty() => Ok(Content::Words(words)),
            Ok(words) if tagged => Err(wrong(format!("texts[{at}] has {} words", words.len()))),
            Ok(pair) if pairs && pair.len() == 2 => {
                let [first, second] = <[String; 2]>::try_from(pair).expect("two");
                Ok(Content::Two(first, second))
            }
            Ok(list) if pairs => Err(wrong(format!("texts[{at}] has {} texts; a pair has two", list.len()))),
            _ => Err(wrong(format!("texts[{at}] is no text"))),
        }
    };
    texts.try_iter()?.enumerate().map(one).collect()
}
