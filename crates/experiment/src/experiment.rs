//! A whole experiment in three steps: a configuration, what it names read, a run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use bonfire_federation::Summary;

use crate::config::CheckedConfig;
use crate::interrupt::Interrupt;
use crate::log::{RunLog, note};
use crate::prepare::{Prepared, prepare};
use crate::recorder::Recorder;
use crate::run_folder;
use crate::watch::Watch;

/// A federation that can train, and the folder that it is written into.
pub struct Experiment {
    config: CheckedConfig,
    prepared: Prepared,
    folder: PathBuf,
    log: RunLog,
    /// Once the folder is there.
    recorder: Option<Recorder>,
}

impl CheckedConfig {
    /// [`Experiment::load`] into `runs/<name>-<time>`, without anybody watching.
    ///
    /// # Errors
    /// As said there.
    pub fn load(self) -> Result<Experiment> {
        Experiment::load(self, None, Arc::default(), &mut ())
    }
}

impl Experiment {
    /// Opens the devices and reads data and model. The run will be written into `out`, or into a new folder below `runs`;
    /// `interrupt` ends it from another thread.
    ///
    /// # Errors
    /// `out` holds something already; a device, data or a model cannot be used.
    pub fn load(
        config: CheckedConfig,
        out: Option<&Path>,
        interrupt: Arc<Interrupt>,
        watch: &mut dyn Watch,
    ) -> Result<Experiment> {
        let folder = run_folder::choose(out, config.config.name())?;
        let log = RunLog::default();
        let prepared = log.during(|| {
            config.notices.iter().for_each(note);
            prepare(&config, || Ok(interrupt), watch)
        })?;
        Ok(Experiment { config, prepared, folder, log, recorder: None })
    }

    /// Trains the rounds that are left, writing each into the run folder, and gives the run in one object. Where `watch` or the
    /// interrupt breaks off, another call goes on.
    ///
    /// # Errors
    /// Training failed, or a file cannot be written; the run folder holds the rounds that ended.
    pub fn train(&mut self, watch: &mut dyn Watch) -> Result<Summary> {
        let log = self.log.clone();
        log.during(|| {
            let mut recorder = match self.recorder.take() {
                Some(recorder) => recorder,
                None => self.prepared.record(&self.config.config, &self.folder, &self.log)?,
            };
            let run = &mut self.prepared.run;
            let trained = run.train(&mut |event| recorder.hear(event, watch));
            let written = recorder.finish(run);
            let summary = recorder.summary();
            let ended = written.and_then(|()| Ok(trained?)).with_context(|| recorder.what_is_left());
            self.recorder = Some(recorder);
            ended.map(|()| summary)
        })
    }

    /// The run's folder; it is made when training begins.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The configuration.
    pub fn config(&self) -> &CheckedConfig {
        &self.config
    }
}
