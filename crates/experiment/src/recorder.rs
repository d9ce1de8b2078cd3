//! Writes what a run reports into its folder, round by round: rows of metrics and clients, adapter, summary, checkpoint
//! (docs/file-formats.md).

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use bonfire_federation::{ClientMetrics, Event, MemoryUse, RoundMetrics, Run, Summary};
use bonfire_models::peft::{self, Layout, PeftMeta};
use bonfire_models::{Adapter, ModelFolder, ModelSource};

use crate::checkpoints::{self, Notes};
use crate::classes_file::ClassesFile;
use crate::config::{RunConfig, SaveSection};
use crate::interrupt::Interrupt;
use crate::log;
use crate::memory::{self, Expected};
use crate::run_folder::{BEST_CLIENTS, CLIENTS, CONFIG, RunFolder, client_folder, config_text, own, read, replace};
use crate::summary::{Identity, Totals};
use crate::track::Trackers;
use crate::trouble::Trouble;
use crate::watch::Watch;

/// Writes what the run reports.
pub struct Recorder {
    folder: RunFolder,
    identity: Identity,
    meta: PeftMeta,
    /// The names of its classes.
    prompt_template: Option<String>,
    labels: Vec<String>,
    /// Where every weight trains.
    whole: Option<ModelFolder>,
    totals: Totals,
    trackers: Trackers,
    rounds: usize,
    /// The resolved configuration, as TOML.
    config: String,
    /// When checkpoints are written, and how many stay.
    save: SaveSection,
    /// The round of the last checkpoint.
    saved: Option<usize>,
    /// The last round whose rows, adapter and summary are all there.
    written: usize,
    /// Of the rounds that this process ran.
    memory: Option<MemoryUse>,
    expected: Expected,
    trouble: Trouble,
    /// Why a round could not be written.
    failure: Option<anyhow::Error>,
    interrupt: Arc<Interrupt>,
}

/// What a recorder needs to know of the run that it writes.
pub struct Recorded<'r> {
    /// Its configuration.
    pub config: &'r RunConfig,
    /// Its devices, in words.
    pub devices: &'r str,
    /// The names of its classes.
    pub labels: &'r [String],
    /// [`bonfire_data::Dataset::prompt_template`].
    pub prompt_template: Option<&'r str>,
    /// Where its model comes from.
    pub source: &'r ModelSource,
}

/// The settings of `run` as they are written down: all of them, and what they leave to the strategy as comments, so that another
/// strategy in a copy of the file goes by its own rule.
pub fn settings_of(config: &RunConfig, run: &Run) -> String {
    let mut text = config.to_toml();
    let mut left_out = Vec::new();
    if config.train.lr_a.is_none() {
        left_out.push(format!("train.lr_a = {:e}", run.settings().train.rate_a()));
    }
    if config.train.lr_b.is_none() && !config.strategy.traits().trains_weights {
        left_out.push(format!("train.lr_b = {:e}", run.plan().lr_b));
    }
    if config.clients.per_round.is_none() {
        left_out.push(format!("clients.per_round = {}", config.clients.count));
    }
    if !left_out.is_empty() {
        text.push_str("\n# Left out above, and what it is in this run:\n");
        left_out.iter().for_each(|line| text.push_str(&format!("# {line}\n")));
    }
    text
}

impl Recorder {
    /// Writes `run`, of which `about` tells, into `folder`: at once all that a run leaves which has not begun, an untrained
    /// adapter and a summary of nothing, so that the folder can be used whenever the run ends.
    ///
    /// # Errors
    /// A file cannot be written; where every weight trains, a file of the model cannot be read any more.
    pub fn new(folder: RunFolder, about: &Recorded<'_>, run: &Run, interrupt: Arc<Interrupt>) -> Result<Recorder> {
        let mut recorder = Recorder::over(folder, about, run, &[], interrupt)?;
        recorder.write_state(&run.server().model())?;
        recorder.save(run)?;
        Ok(recorder)
    }

    /// Goes on writing `run`, which has been set to the state of a checkpoint with these `notes`: rows of rounds after it
    /// are taken back.
    ///
    /// # Errors
    /// As [`Recorder::new`], and rows that are missing.
    pub fn resumed(
        folder: RunFolder,
        about: &Recorded<'_>,
        run: &Run,
        notes: Notes,
        interrupt: Arc<Interrupt>,
    ) -> Result<Recorder> {
        folder.cut(notes.lengths)?;
        let past = folder.rounds()?;
        let mut recorder = Recorder::over(folder, about, run, &past, interrupt)?;
        let path = recorder.folder.path().join(CONFIG);
        let before = read::optional(&path)?;
        replace(&path, config_text(&recorder.config, before.as_deref()).as_bytes())?;
        (recorder.totals, recorder.saved) = (notes.totals, Some(run.server().round));
        recorder.write_state(&run.server().model())?;
        recorder.written = recorder.totals.rounds();
        Ok(recorder)
    }

    fn over(
        folder: RunFolder,
        about: &Recorded<'_>,
        run: &Run,
        past: &[RoundMetrics],
        interrupt: Arc<Interrupt>,
    ) -> Result<Recorder> {
        let Recorded { config, devices, labels, prompt_template, source } = *about;
        let meta = PeftMeta {
            base_model: config.model.path.base_model(),
            dropout: config.adapter.dropout,
            task: run.model().task(),
        };
        let (identity, rounds) =
            (Identity::of(config, devices, run.model(), run.server(), run.trainable_params()), config.train.rounds);
        let trains_all = !run.server().adapter.weights.is_empty();
        let whole = if trains_all { Some(ModelFolder::of(run.model(), source, Some(labels))?) } else { None };
        let (save, config_text) = (config.save.clone(), settings_of(config, run));
        let trackers = Trackers::open(folder.path(), config, past)?;
        Ok(Recorder {
            folder,
            identity,
            meta,
            labels: labels.to_vec(),
            prompt_template: prompt_template.map(str::to_owned),
            whole,
            totals: Totals::default(),
            trackers,
            rounds,
            config: config_text,
            save,
            saved: None,
            written: 0,
            memory: None,
            expected: Expected::of(run),
            trouble: Trouble::new(config, run.settings().train.rate_a(), past),
            failure: None,
            interrupt,
        })
    }

    /// Hears what happens in the run and tells `watch`, after it is written. Breaks off where `watch` or the interrupt ask for
    /// it, and where a file cannot be written, which [`Recorder::finish`] then says.
    pub fn hear(&mut self, event: Event<'_>, watch: &mut dyn Watch) -> ControlFlow<()> {
        match event {
            Event::Before { metrics, run } => {
                if let Err(error) = self.write_before(metrics, run) {
                    self.failure = Some(error);
                    return ControlFlow::Break(());
                }
                watch.evaluated_before(metrics)?;
                self.interrupt.between_rounds()
            }
            Event::RoundStarted { round, phase, cohort } => {
                self.interrupt.between_rounds()?;
                if self.totals.is_over(&self.identity) {
                    return ControlFlow::Break(());
                }
                self.interrupt.enter_round(round);
                watch.round_started(round, phase, cohort.len())
            }
            Event::Progress(now) => {
                self.interrupt.inside_round()?;
                watch.step_done(now)
            }
            Event::RoundEnded { metrics, clients, run } => {
                if let Err(error) = self.write_round(metrics, clients, run) {
                    self.failure = Some(error);
                    return ControlFlow::Break(());
                }
                log::round(metrics, self.rounds);
                watch.round_ended(metrics, clients, self.totals.upload_bytes())?;
                self.trouble.after(metrics).into_iter().for_each(log::note);
                self.interrupt.between_rounds()
            }
        }
    }

    /// Writes what is only known when `run` has ended: its last checkpoint and the clients' own adapters. To be called after
    /// failed training too: the state after the last complete round is whole.
    ///
    /// # Errors
    /// A file cannot be written, or could not while the run went on.
    pub fn finish(&mut self, run: &Run) -> Result<()> {
        if let Some(error) = self.failure.take() {
            // What cannot be written to a folder that is gone is not the disk's fault.
            return Err(match self.folder.check_there() {
                Err(gone) if gone.to_string() != error.to_string() => error.context(gone),
                _ => error,
            });
        }
        let interrupt = Arc::clone(&self.interrupt);
        let _writing = interrupt.writing();
        self.folder.check_there()?;
        let round = run.server().round;
        // A round whose evaluation failed has no row, and the checkpoint before it is the one to go on from.
        if self.totals.rounds() == round {
            if self.saved != Some(round) {
                self.save(run)?;
            }
            self.write_personal_models(run, CLIENTS)?;
        }
        self.trackers.finish(self.is_done());
        Ok(())
    }

    /// Writes the clients' own adapters into `name`, where they keep a part for themselves.
    fn write_personal_models(&self, run: &Run, name: &str) -> Result<()> {
        let mut made = false;
        for (client, adapter) in run.personal_models() {
            if !std::mem::replace(&mut made, true) {
                let folder = self.folder.path().join(name);
                own::folder(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
            }
            peft::write(&client_folder(self.folder.path(), name, client), &adapter, &self.meta, Layout::Uniform)
                .with_context(|| format!("cannot write the adapter of client {client}"))?;
        }
        Ok(())
    }

    /// Sums over the rounds so far.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The run in one object.
    pub fn summary(&self) -> Summary {
        let prompt_template = self.prompt_template.clone();
        Summary { memory: self.memory, prompt_template, ..self.totals.summary(&self.identity) }
    }

    /// What the round needed of the devices' memory.
    fn weigh(&mut self, metrics: &RoundMetrics, run: &Run) {
        let estimated = self.expected.total(metrics.in_flight);
        let before = self.memory.unwrap_or(MemoryUse { estimated: 0, peak: None });
        let peak = before.peak.max(memory::taken(run.devices()));
        self.memory = Some(MemoryUse { estimated: before.estimated.max(estimated), peak });
    }

    /// The rounds done so far, as they were written, and round 0 where the untrained model was evaluated.
    ///
    /// # Errors
    /// They cannot be read any more.
    pub fn past(&self) -> Result<Vec<RoundMetrics>> {
        self.folder.rounds()
    }

    /// Whether no round is left, or none is worth while any more.
    pub fn is_done(&self) -> bool {
        self.totals.rounds() >= self.rounds || self.totals.is_over(&self.identity)
    }

    /// Rounds of the whole run.
    pub fn rounds(&self) -> usize {
        self.rounds
    }

    /// Writes the row of round 0; a second one, of a run that was broken off before its first round, changes nothing.
    fn write_before(&mut self, metrics: &RoundMetrics, run: &Run) -> Result<()> {
        let interrupt = Arc::clone(&self.interrupt);
        let _writing = interrupt.writing();
        self.folder.check_there()?;
        if !self.folder.rounds()?.is_empty() {
            return Ok(());
        }
        self.folder.append(metrics, &[])?;
        self.totals.begin(metrics);
        self.trackers.round(metrics, &[])?;
        log::before(metrics);
        self.write_state(&run.server().model())?;
        // So that a run which is gone on with has it too.
        self.save(run)
    }

    fn write_round(&mut self, metrics: &RoundMetrics, clients: &[ClientMetrics], run: &Run) -> Result<()> {
        let interrupt = Arc::clone(&self.interrupt);
        let _writing = interrupt.writing();
        self.folder.check_there()?;
        self.folder.append(metrics, clients)?;
        let best = self.totals.add(&self.identity, metrics, clients.len());
        self.weigh(metrics, run);
        self.trackers.round(metrics, clients)?;
        self.write_state(&run.server().model())?;
        if let Some(found) = run.confusion().filter(|found| found.round == metrics.round) {
            ClassesFile::of(found, &self.labels).write(self.folder.path())?;
        }
        if best {
            self.write_best(&run.server().model())?;
            self.write_personal_models(run, BEST_CLIENTS)?;
        }
        self.written = metrics.round;
        if metrics.round.is_multiple_of(self.save.every) { self.save(run) } else { Ok(()) }
    }

    /// Writes a checkpoint of `run` after its last complete round.
    fn save(&mut self, run: &Run) -> Result<()> {
        let notes = Notes {
            config: self.config.clone(),
            totals: self.totals.clone(),
            lengths: self.folder.lengths()?,
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let round = run.server().round;
        checkpoints::write(self.folder.path(), round, &run.checkpoint(&notes.to_map()), self.save.keep)
            .with_context(|| format!("cannot save the run after round {round}"))?;
        self.saved = Some(round);
        Ok(())
    }

    /// Writes the adapter (or the whole model) and the summary as they are now.
    fn write_state(&self, adapter: &Adapter) -> Result<()> {
        match &self.whole {
            None => peft::write(&self.folder.adapter(), adapter, &self.meta, Layout::Uniform)
                .context("cannot write the adapter")?,
            Some(whole) => whole.write(&self.folder.model(), adapter).context("cannot write the model")?,
        }
        self.folder.write_summary(&self.summary())
    }

    /// Writes the adapter (or the whole model) of the best round so far.
    fn write_best(&self, adapter: &Adapter) -> Result<()> {
        match &self.whole {
            None => peft::write(&self.folder.best_adapter(), adapter, &self.meta, Layout::Uniform)
                .context("cannot write the best adapter"),
            Some(whole) => whole.write(&self.folder.best_model(), adapter).context("cannot write the best model"),
        }
    }

    /// Whether the folder is still the one that this run writes.
    pub fn is_there(&self) -> bool {
        self.folder.check_there().is_ok()
    }

    /// What a failed run leaves behind.
    pub fn what_is_left(&self) -> String {
        let path = self.folder.path().display();
        if !self.is_there() {
            return format!("the run stopped: {path} is not the folder any more that it wrote");
        }
        match self.written {
            0 => {
                let what = if self.whole.is_some() { "model" } else { "adapter" };
                format!("the run stopped in its first round; {path} holds the untrained {what}")
            }
            n => format!("the run stopped; {path} holds the state after round {n}"),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What stays the same over the run.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}
