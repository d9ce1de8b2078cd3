//! Where cells train: the devices, the backbone and the tokenized texts, made ready once for all of them.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use bonfire_data::Shards;
use bonfire_engine::{Gang, Seat, TokenizedData, Triggered};
use bonfire_federation::{Event, Publish, Run};
use bonfire_models::{Model, ModelSource, Transformer};

use super::grid::Grid;
use super::results::{Measured, Outcome};
use crate::checkpoints;
use crate::checkup::Purpose;
use crate::checkup::admit::admit;
use crate::config::RunConfig;
use crate::device;
use crate::interrupt::Interrupt;
use crate::job;
use crate::log::{RunLog, note};
use crate::partition_file::PartitionFile;
use crate::recorder::{Recorded, Recorder, settings_of};
use crate::run_folder::{Lock, RunFolder, holds_something};
use crate::watch::Watch;

/// What all cells share.
pub struct Session<'g> {
    grid: &'g Grid,
    devices: String,
    source: ModelSource,
    prompt_template: Option<String>,
    models: Vec<Transformer>,
    tokens: TokenizedData,
    triggered: Backdoors,
    shards: Partitions,
    interrupt: Arc<Interrupt>,
}

/// The texts with each backdoor's words, by what plants it.
type Backdoors = HashMap<String, Option<Triggered>>;

/// The shards of each partition, by what makes it.
type Partitions = HashMap<String, (Shards, PartitionFile)>;

impl<'g> Session<'g> {
    /// Opens the devices, reads data and model, and makes the partitions of the cells that are to run.
    ///
    /// # Errors
    /// A device, data or model that cannot be used, a partition that cannot be made.
    pub fn prepare(
        grid: &'g Grid,
        cells: &[usize],
        interrupt: impl FnOnce() -> Result<Arc<Interrupt>>,
        watch: &mut dyn Watch,
    ) -> Result<Session<'g>> {
        let base = &grid.base;
        let opened = base.config.engine.device.open()?;
        opened.iter().filter_map(|o| o.notice.as_ref()).for_each(note);
        for &cell in cells {
            let loaded = &grid.cells[cell].loaded;
            job::refuse_precision(loaded, &opened).map_err(|mistake| grid.explain(cell, mistake.into()))?;
            admit(&opened, |watch| Purpose::of(loaded, watch), watch)?;
        }
        let interrupt = interrupt()?;
        let Shared { source, prompt_template, models, tokens, triggered, shards } =
            interrupt.while_preparing(|| read(grid, cells, &opened, watch))?;
        let devices = device::names(&opened);
        Ok(Session { grid, devices, source, prompt_template, models, tokens, triggered, shards, interrupt })
    }

    /// Whether Ctrl-C was pressed.
    pub fn interrupted(&self) -> bool {
        self.interrupt.pressed()
    }

    /// Ends the runs that go on as they were before their present round.
    pub fn give_up(&self) {
        self.interrupt.give_up();
    }

    /// The grid whose cells train here.
    pub fn grid(&self) -> &'g Grid {
        self.grid
    }

    /// The models of a cell, one a device.
    fn models(&self, cell: usize) -> Result<Vec<Transformer>> {
        self.models.iter().map(|model| job::model_again(model, &self.grid.cells[cell].loaded)).collect()
    }

    /// A cell's run before its first round.
    ///
    /// # Errors
    /// Settings that cannot be together, a device that does not hold a client.
    pub fn run(&self, cell: usize) -> Result<Run> {
        let config = &self.grid.cells[cell].loaded.config;
        let (shards, _) = &self.shards[&partition_of(config)];
        let models = self.models(cell)?.into_iter().map(|model| Box::new(model) as Box<dyn Model>).collect();
        let tokens = TokenizedData { triggered: self.triggered[&attack_of(config)].clone(), ..self.tokens.clone() };
        Ok(Run::new(config.settings(), models, tokens, shards.clone())?)
    }

    /// For cells that share their passes with `cell`, a gang on every device.
    ///
    /// # Errors
    /// A linear among the targets that the model does not have.
    pub fn gangs(&self, cell: usize) -> Result<Vec<Arc<Gang>>> {
        let settings = self.grid.cells[cell].loaded.config.settings();
        let gang = |model| Gang::new(Box::new(model), &settings.train, &settings.engine);
        Ok(self.models(cell)?.into_iter().map(gang).collect())
    }

    /// Trains a cell into `folder`, going on with what is there of it; `log` becomes the run's meanwhile. With seats its clients step
    /// with those of other cells. It pauses after the round `until`: then, as where it is interrupted, its outcome is missing.
    ///
    /// # Errors
    /// A file cannot be written. Failed training is an outcome.
    pub fn train(
        &self,
        cell: usize,
        folder: &Path,
        log: &RunLog,
        watch: &mut dyn Watch,
        (seats, until): (Vec<Seat>, Option<usize>),
    ) -> Result<Outcome> {
        let config = &self.grid.cells[cell].loaded.config;
        let (_, partition) = &self.shards[&partition_of(config)];
        let mut run = match self.run(cell) {
            Ok(run) => run,
            Err(error) => return Ok(Outcome::Failed(error.to_string())),
        };
        if !seats.is_empty() {
            run.join(seats);
        }
        let mut recorder = match self.go_on(folder, config, &mut run, &partition.labels) {
            Ok(recorder) => recorder,
            Err(error) => {
                if holds_something(folder) {
                    note(format!("{} begins anew: {error:#}", folder.display()));
                }
                let recorder = self.begin(folder, config, &run, &partition.labels)?;
                if config.settings().publish() == Publish::All {
                    partition.write(folder)?;
                }
                recorder
            }
        };
        log.open(folder)?;
        let trained = run.train(&mut |event| match event {
            Event::RoundStarted { round, .. } if until.is_some_and(|until| round > until) => ControlFlow::Break(()),
            event => recorder.hear(event, watch),
        });
        let written = recorder.finish(&run);
        log.close();
        written?;
        match trained {
            Err(error) => Ok(Outcome::Failed(error.to_string())),
            Ok(()) if !recorder.is_done() => Ok(Outcome::Missing),
            Ok(()) => Ok(Outcome::Done(Box::new(Measured::read(folder)?))),
        }
    }

    /// Sets `run` to the last checkpoint in `folder`. After an error it is as it was.
    fn go_on(&self, folder: &Path, config: &RunConfig, run: &mut Run, labels: &[String]) -> Result<Recorder> {
        let save = checkpoints::newest(folder)?.0.context("it holds no checkpoint")?;
        let files = RunFolder::with(folder, Lock::take(folder)?)?;
        files.cut(save.notes.lengths)?;
        run.resume(save.checkpoint).with_context(|| format!("cannot go on from {}", save.path.display()))?;
        let interrupt = Arc::clone(&self.interrupt);
        Recorder::resumed(files, &self.recorded(config, labels), run, save.notes, interrupt)
    }

    /// Makes the folder anew, whatever an earlier run of the same configuration left there.
    fn begin(&self, folder: &Path, config: &RunConfig, run: &Run, labels: &[String]) -> Result<Recorder> {
        if folder.exists() {
            std::fs::remove_dir_all(folder)
                .with_context(|| format!("cannot remove the unfinished run {}", folder.display()))?;
        }
        let files = RunFolder::create(folder, &settings_of(config, run))?;
        Recorder::new(files, &self.recorded(config, labels), run, Arc::clone(&self.interrupt))
    }

    fn recorded<'r>(&'r self, config: &'r RunConfig, labels: &'r [String]) -> Recorded<'r> {
        let prompt_template = self.prompt_template.as_deref();
        Recorded { config, devices: &self.devices, labels, prompt_template, source: &self.source }
    }
}

/// What was read for all cells.
struct Shared {
    source: ModelSource,
    prompt_template: Option<String>,
    models: Vec<Transformer>,
    tokens: TokenizedData,
    triggered: Backdoors,
    shards: Partitions,
}

/// Reads data and models, and deals the data out as the cells ask for it.
fn read(grid: &Grid, cells: &[usize], opened: &[device::Opened], watch: &mut dyn Watch) -> Result<Shared> {
    let base = &grid.base;
    let (data, source) = job::dataset_and_source(base, watch)?;
    let mut shards = HashMap::new();
    for &cell in cells {
        let loaded = &grid.cells[cell].loaded;
        if let std::collections::hash_map::Entry::Vacant(place) = shards.entry(partition_of(&loaded.config)) {
            let cut = job::shards(loaded, &data).and_then(|cut| job::refuse_empty(&cut).map(|()| cut));
            let cut = cut.map_err(|error| grid.explain(cell, error))?;
            let partition = PartitionFile::of(&loaded.config.data.partition, &data, &cut);
            place.insert((cut, partition));
        }
    }
    let task = job::task(&base.config, data.labels.len());
    // All cells compute in one precision, and so share one copy of the weights in it.
    let precision = base.config.engine.precision;
    let load = |o: &device::Opened| Ok(job::model_as_read(base, &source, task, &o.device)?.computing_in(precision));
    let models = opened.iter().map(load).collect::<Result<Vec<_>>>()?;
    job::note_on_adapter(&base.config)?;
    let mut tokens = job::tokens(base, &data, &source, models[0].info())?;
    let mut triggered = Backdoors::from([(attack_of(&base.config), tokens.triggered.take())]);
    for &cell in cells {
        let loaded = &grid.cells[cell].loaded;
        if let std::collections::hash_map::Entry::Vacant(place) = triggered.entry(attack_of(&loaded.config)) {
            let found = job::triggered(loaded, &data, &source, models[0].info());
            place.insert(found.map_err(|error| grid.explain(cell, error))?);
        }
    }
    Ok(Shared { source, prompt_template: data.prompt_template, models, tokens, triggered, shards })
}

/// What the words of a backdoor depend on, besides the data.
fn attack_of(config: &RunConfig) -> String {
    format!("{:?}", config.attack)
}

/// What a partition depends on, besides the data.
fn partition_of(config: &RunConfig) -> String {
    format!("{:?} {} {} {}", config.data.partition, config.data.min_shard, config.clients.count, config.train.seed)
}
