//! Where cells train: the devices, the backbone and the tokenized texts, made ready once for all of them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use bonfire_data::Shards;
use bonfire_engine::{Gang, Seat, TokenizedData, Triggered};
use bonfire_federation::{Event, Publish, Run};
use bonfire_models::{Model, ModelSource, Transformer};

use super::grid::Grid;
use super::outputs::Outputs;
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
use crate::user_error::UserError;
use crate::watch::Watch;

/// What all cells share.
pub struct Session<'g> {
    grid: &'g Grid,
    devices: String,
    source: ModelSource,
    prompt_template: Option<String>,
    models: Vec<Transformer>,
    texts: HashMap<String, Texts>,
    shards: Partitions,
    interrupt: Arc<Interrupt>,
}

/// What cells that split the data alike and measure on the same split train and are tested on.
struct Texts {
    tokens: TokenizedData,
    triggered: Backdoors,
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
        let Shared { source, prompt_template, models, texts, shards } =
            interrupt.while_preparing(|| read(grid, cells, &opened, watch))?;
        let devices = device::names(&opened);
        Ok(Session { grid, devices, source, prompt_template, models, texts, shards, interrupt })
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
        let Texts { tokens, triggered } = &self.texts[&texts_of(config)];
        let tokens = TokenizedData { triggered: triggered[&attack_of(config)].clone(), ..tokens.clone() };
        Ok(Run::new(config.settings(), models, tokens, shards.clone())?)
    }

    /// Refuses a grid whose complete cells trained on other texts than are read now: one table would hold both.
    ///
    /// # Errors
    /// There is such a cell.
    pub fn refuse_other_texts(&self, outputs: &Outputs<'_>) -> Result<()> {
        // Of cells that share texts and partition one is enough, since whoever added the others looked too.
        let mut looked_at = HashSet::new();
        let complete = (0..outputs.cells()).filter(|&cell| matches!(outputs.outcome(cell), Outcome::Done(_)));
        for cell in complete {
            let config = &self.grid.cells[cell].loaded.config;
            let key = (texts_of(config), partition_of(config), attack_of(config));
            let planted = self.texts.get(&key.0).is_some_and(|texts| texts.triggered.contains_key(&key.2));
            if !planted || !self.shards.contains_key(&key.1) || !looked_at.insert(key) {
                continue;
            }
            let folder = outputs.folder_of(cell);
            // One without checkpoints says nothing of its texts.
            let Ok((Some(save), _)) = checkpoints::newest(&folder) else { continue };
            if self.run(cell).is_ok_and(|run| !run.has_texts_of(&save.checkpoint)) {
                let what = format!("{} was trained on other texts, or other clients held them", folder.display());
                return Err(UserError::new(what)
                    .help("name another folder with --out for the new texts, or remove this one to train all anew")
                    .into());
            }
        }
        Ok(())
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
            Ok(Some(recorder)) => recorder,
            // What was trained is not thrown away.
            Err(error) => {
                let folder = folder.display();
                return Ok(Outcome::Failed(format!("cannot go on with {folder}, which you may remove: {error:#}")));
            }
            Ok(None) => {
                if holds_something(folder) {
                    note(format!("{} begins anew: it holds no checkpoint", folder.display()));
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

    /// Sets `run` to the last checkpoint in `folder`; `None` where there is none.
    fn go_on(&self, folder: &Path, config: &RunConfig, run: &mut Run, labels: &[String]) -> Result<Option<Recorder>> {
        let Some(save) = checkpoints::newest(folder)?.0 else { return Ok(None) };
        let files = RunFolder::with(folder, Lock::take(folder)?)?;
        files.cut(save.notes.lengths)?;
        run.resume(save.checkpoint).with_context(|| format!("cannot go on from {}", save.path.display()))?;
        let interrupt = Arc::clone(&self.interrupt);
        Recorder::resumed(files, &self.recorded(config, labels), run, save.notes, interrupt).map(Some)
    }

    /// Makes the folder anew, whatever an earlier run of the same configuration left there.
    fn begin(&self, folder: &Path, config: &RunConfig, run: &Run, labels: &[String]) -> Result<Recorder> {
        if folder.exists() {
            // Not under another process that is in its first round.
            drop(Lock::take(folder)?);
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
    texts: HashMap<String, Texts>,
    shards: Partitions,
}

/// Reads data and models, and deals the data out as the cells ask for it.
fn read(grid: &Grid, cells: &[usize], opened: &[device::Opened], watch: &mut dyn Watch) -> Result<Shared> {
    let base = &grid.base;
    let (data, source) = job::dataset_and_source(base, watch)?;
    let (labels, prompt_template) = (data.labels.clone(), data.prompt_template.clone());
    let task = job::task(&base.config, labels.len());
    // All cells compute in one precision, and so share one copy of the weights in it.
    let precision = base.config.engine.precision;
    let load = |o: &device::Opened| Ok(job::model_as_read(base, &source, task, &o.device)?.computing_in(precision));
    let models = opened.iter().map(load).collect::<Result<Vec<_>>>()?;
    job::note_on_adapter(&base.config)?;
    let model = models[0].info();
    // Seeds that draw the splits have rows of their own.
    let mut drawn = HashMap::from([(draw_of(&base.config), data)]);
    let (mut texts, mut shards) = (HashMap::new(), HashMap::new());
    for &cell in cells {
        let loaded = &grid.cells[cell].loaded;
        let config = &loaded.config;
        let explained = |error| grid.explain(cell, error);
        let data = match drawn.entry(draw_of(config)) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => {
                let data = job::dataset_and_source(loaded, watch).map_err(explained)?.0;
                refuse_other_labels(&labels, &data.labels, config.train.seed).map_err(explained)?;
                place.insert(data)
            }
        };
        if let Entry::Vacant(place) = shards.entry(partition_of(config)) {
            let cut = job::shards(loaded, data).and_then(|cut| job::refuse_empty(&cut).map(|()| cut));
            let cut = cut.map_err(explained)?;
            let partition = PartitionFile::of(&config.data.partition, data, &cut);
            place.insert((cut, partition));
        }
        let Texts { triggered, .. } = match texts.entry(texts_of(config)) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => {
                let mut tokens = job::tokens(loaded, data, &source, model).map_err(explained)?;
                let triggered = Backdoors::from([(attack_of(config), tokens.triggered.take())]);
                place.insert(Texts { tokens, triggered })
            }
        };
        if let Entry::Vacant(place) = triggered.entry(attack_of(config)) {
            place.insert(job::triggered(loaded, data, &source, model).map_err(explained)?);
        }
    }
    Ok(Shared { source, prompt_template, models, texts, shards })
}

/// All cells share a model, and so its classes.
fn refuse_other_labels(base: &[String], found: &[String], seed: u64) -> Result<()> {
    if base == found {
        return Ok(());
    }
    let what = format!("data.split with seed {seed} leaves training rows of other labels than with the base's seed");
    Err(UserError::new(what).help("list the labels in a labels.json beside the rows, or lower the shares").into())
}

/// What the splits depend on, besides the files.
fn draw_of(config: &RunConfig) -> Option<u64> {
    config.data.split.as_ref().map(|_| config.train.seed)
}

/// What the tokens depend on, besides the files: the splits, and whether validation is among them.
fn texts_of(config: &RunConfig) -> String {
    format!("{:?} {:?}", draw_of(config), config.evaluate.on)
}

/// What the words of a backdoor depend on, besides the data.
fn attack_of(config: &RunConfig) -> String {
    format!("{:?}", config.attack)
}

/// What a partition depends on, besides the data.
fn partition_of(config: &RunConfig) -> String {
    format!("{:?} {} {} {}", config.data.partition, config.data.min_shard, config.clients.count, config.train.seed)
}
