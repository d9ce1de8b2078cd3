//! Where cells train: the devices, the backbone and the tokenized texts, made ready once for all of them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use bonfire_data::Shards;
use bonfire_engine::TokenizedData;
use bonfire_federation::Run;
use bonfire_models::{Model, ModelInfo, Transformer};

use super::grid::Grid;
use super::results::{Measured, Outcome};
use crate::config::RunConfig;
use crate::console::note;
use crate::device;
use crate::interrupt::Interrupt;
use crate::job;
use crate::log;
use crate::progress::Progress;
use crate::recorder::{Keep, Recorder};
use crate::run_folder::RunFolder;

/// What all cells share.
pub struct Workplace<'g> {
    grid: &'g Grid,
    devices: String,
    models: Vec<Transformer>,
    tokens: TokenizedData,
    /// By what makes a partition.
    shards: HashMap<String, Shards>,
    interrupt: Arc<Interrupt>,
}

impl<'g> Workplace<'g> {
    /// Opens the devices, reads data and model, and makes the partitions of the cells that are to run.
    ///
    /// # Errors
    /// A device, data or model that cannot be used, a partition that cannot be made.
    pub fn prepare(grid: &'g Grid, cells: &[usize]) -> Result<Workplace<'g>> {
        let base = &grid.base;
        let opened = base.config.engine.device.open()?;
        opened.iter().filter_map(|o| o.notice.as_ref()).for_each(note);
        let interrupt = Interrupt::install()?;
        let data = job::dataset(base)?;
        let mut shards = HashMap::new();
        for &cell in cells {
            let loaded = &grid.cells[cell].loaded;
            if let std::collections::hash_map::Entry::Vacant(place) = shards.entry(partition_of(&loaded.config)) {
                let cut = job::shards(loaded, &data).and_then(|cut| job::refuse_empty(&cut).map(|()| cut));
                place.insert(cut.map_err(|error| grid.explain(cell, error))?);
            }
            for device in &opened {
                let precision = job::check_precision(loaded.config.train.precision, &device.device);
                precision.map_err(|mistake| grid.explain(cell, mistake.into()))?;
            }
        }
        let load = |o: &device::Opened| job::model_as_read(base, job::task(&base.config, data.labels.len()), &o.device);
        let models = opened.iter().map(load).collect::<Result<Vec<_>>>()?;
        let tokens = job::tokens(base, &data, models[0].info())?;
        Ok(Workplace { grid, devices: device::names(&opened), models, tokens, shards, interrupt })
    }

    /// Whether Ctrl-C was pressed.
    pub fn interrupted(&self) -> bool {
        self.interrupt.pressed()
    }

    /// Trains a cell into `folder`, which holds nothing yet.
    ///
    /// # Errors
    /// A file cannot be written. Failed training is an outcome.
    pub fn train(&self, cell: usize, folder: &Path) -> Result<Outcome> {
        let loaded = &self.grid.cells[cell].loaded;
        let config = &loaded.config;
        let shards = self.shards[&partition_of(config)].clone();
        let again = |model: &Transformer| Ok(Box::new(job::model_again(model, loaded)?) as Box<dyn Model>);
        let models: Result<Vec<_>> = self.models.iter().map(again).collect();
        let run = |models| Ok(Run::new(config.settings(), models, self.tokens.clone(), shards)?);
        let mut run = match models.and_then(run) {
            Ok(run) => run,
            Err(error) => return Ok(Outcome::Failed(error.to_string())),
        };
        let files = RunFolder::create(folder, &config.to_toml())?;
        log::to_file(folder)?;
        let (info, interrupt) = (self.info(), Arc::clone(&self.interrupt));
        let mut recorder = Recorder::new(files, config, &self.devices, info, &run, Keep::LastRound, interrupt)?;
        let trained = recorder.train(&mut run, &mut Progress::new(config.train.rounds, true))?;
        log::leave_file();
        match trained {
            Err(error) => Ok(Outcome::Failed(error.to_string())),
            Ok(()) if recorder.tally().rounds() < recorder.rounds() => Ok(Outcome::Missing),
            Ok(()) => Ok(Outcome::Done(Box::new(Measured::read(folder)?))),
        }
    }

    fn info(&self) -> &ModelInfo {
        self.models[0].info()
    }
}

/// What a partition depends on, besides the data.
fn partition_of(config: &RunConfig) -> String {
    format!("{:?} {} {} {}", config.data.partition, config.data.min_shard, config.clients.count, config.train.seed)
}
