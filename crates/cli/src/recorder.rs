//! Writes what a run reports into its folder, round by round. `train` and `compare` share it.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use bonfire_federation::{ClientMetrics, Event, FederationError, MemoryUse, RoundMetrics, Run, Summary};
use bonfire_models::peft::{self, Layout, PeftMeta};
use bonfire_models::{Adapter, ModelFolder};

use crate::checkpoints::{self, Notes};
use crate::config::{RunConfig, SaveSection};
use crate::console::{bytes, is_json, percent, say, say_row};
use crate::interrupt::Interrupt;
use crate::job;
use crate::memory::{self, Expected};
use crate::progress::Progress;
use crate::run_folder::{CLIENTS, CONFIG, RunFolder, client_folder, own, replace};
use crate::summary::{Identity, Totals};
use crate::track::Trackers;

/// Writes what the run reports.
pub struct Recorder {
    folder: RunFolder,
    identity: Identity,
    meta: PeftMeta,
    /// Where every weight trains.
    whole: Option<ModelFolder>,
    tally: Totals,
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
    interrupt: Arc<Interrupt>,
}

impl Recorder {
    /// Writes `run` of `config` on `device`, of classes called `labels`, into `folder`: at once all that a run leaves which has not begun, an untrained
    /// adapter and a summary of nothing, so that the folder can be used whenever the run ends.
    ///
    /// # Errors
    /// A file cannot be written; where every weight trains, a file of the model cannot be read any more.
    pub fn new(
        folder: RunFolder,
        config: &RunConfig,
        device: &str,
        run: &Run,
        labels: &[String],
        interrupt: Arc<Interrupt>,
    ) -> Result<Recorder> {
        let mut recorder = Recorder::over(folder, config, device, run, (labels, &[]), interrupt)?;
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
        config: &RunConfig,
        device: &str,
        run: &Run,
        labels: &[String],
        notes: Notes,
        interrupt: Arc<Interrupt>,
    ) -> Result<Recorder> {
        folder.cut(notes.lengths)?;
        let past = folder.rounds()?;
        let mut recorder = Recorder::over(folder, config, device, run, (labels, &past), interrupt)?;
        replace(&recorder.folder.path().join(CONFIG), recorder.config.as_bytes())?;
        (recorder.tally, recorder.saved) = (notes.tally, Some(run.server().round));
        recorder.write_state(&run.server().model())?;
        recorder.written = recorder.tally.rounds();
        Ok(recorder)
    }

    fn over(
        folder: RunFolder,
        config: &RunConfig,
        device: &str,
        run: &Run,
        (labels, past): (&[String], &[RoundMetrics]),
        interrupt: Arc<Interrupt>,
    ) -> Result<Recorder> {
        let meta = PeftMeta { base_model: config.model.path.base_model() };
        let (identity, rounds) =
            (Identity::of(config, device, run.model(), run.server(), run.trainable_params()), config.train.rounds);
        let trains_all = !run.server().adapter.weights.is_empty();
        let whole =
            if trains_all { Some(ModelFolder::of(run.model(), &job::source(config)?, Some(labels))?) } else { None };
        let (save, config_text) = (config.save.clone(), config.to_toml());
        let trackers = Trackers::open(folder.path(), &config.track, past)?;
        Ok(Recorder {
            folder,
            identity,
            meta,
            whole,
            tally: Totals::default(),
            trackers,
            rounds,
            config: config_text,
            save,
            saved: None,
            written: 0,
            memory: None,
            expected: Expected::of(run),
            interrupt,
        })
    }

    /// Trains the rounds that are left, or until Ctrl-C was pressed.
    ///
    /// # Errors
    /// The outer: a file cannot be written. The inner: training failed.
    pub fn train(&mut self, run: &mut Run, progress: &mut Progress) -> Result<Result<(), FederationError>> {
        if self.interrupt.pressed() {
            return Ok(Ok(()));
        }
        let mut failure = None;
        let outcome = run.train(&mut |event| {
            self.on(event, progress).unwrap_or_else(|error| {
                failure = Some(error);
                ControlFlow::Break(())
            })
        });
        if let Some(error) = failure {
            // What cannot be written to a folder that is gone is not the disk's fault.
            return Err(match self.folder.check_there() {
                Err(gone) if gone.to_string() != error.to_string() => error.context(gone),
                _ => error,
            });
        }
        // The state after the last complete round is whole, also when the next one failed. Where its evaluation failed it has no
        // row, and the checkpoint before it is the one to go on from.
        let interrupt = Arc::clone(&self.interrupt);
        let _writing = interrupt.writing();
        self.folder.check_there()?;
        let round = run.server().round;
        if self.tally.rounds() == round {
            if self.saved != Some(round) {
                self.save(run)?;
            }
            self.write_personal_models(run)?;
        }
        Ok(outcome)
    }

    /// Writes the clients' own adapters, where they keep a part for themselves.
    fn write_personal_models(&self, run: &Run) -> Result<()> {
        let mut made = false;
        for (client, adapter) in run.personal_models() {
            if !std::mem::replace(&mut made, true) {
                let folder = self.folder.path().join(CLIENTS);
                own::folder(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
            }
            peft::write(&client_folder(self.folder.path(), client), &adapter, &self.meta, Layout::Uniform)
                .with_context(|| format!("cannot write the adapter of client {client}"))?;
        }
        Ok(())
    }

    /// Sums over the rounds so far.
    pub fn tally(&self) -> &Totals {
        &self.tally
    }

    /// The run in one object.
    pub fn summary(&self) -> Summary {
        Summary { memory: self.memory, ..self.tally.summary(&self.identity) }
    }

    /// What the round needed of the devices' memory.
    fn weigh(&mut self, metrics: &RoundMetrics, run: &Run) {
        let estimated = self.expected.total(metrics.in_flight);
        let before = self.memory.unwrap_or(MemoryUse { estimated: 0, peak: None });
        let peak = before.peak.max(memory::taken(run.devices()));
        self.memory = Some(MemoryUse { estimated: before.estimated.max(estimated), peak });
    }

    /// The rounds done so far, as they were written.
    ///
    /// # Errors
    /// They cannot be read any more.
    pub fn past(&self) -> Result<Vec<RoundMetrics>> {
        self.folder.rounds()
    }

    /// Rounds of the whole run.
    pub fn rounds(&self) -> usize {
        self.rounds
    }

    fn on(&mut self, event: Event<'_>, progress: &mut Progress) -> Result<ControlFlow<()>> {
        match event {
            Event::RoundStarted { round, phase, cohort } => {
                self.interrupt.enter_round(round);
                progress.round_started(round, phase, cohort.len());
                Ok(ControlFlow::Continue(()))
            }
            Event::Progress(now) => {
                progress.trained(now.done, now.total, now.tokens);
                Ok(if self.interrupt.gives_up() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            }
            Event::RoundEnded { metrics, clients, run } => {
                self.write_round(metrics, clients, run)?;
                progress.round_ended(metrics, clients, self.tally.upload_bytes());
                Ok(if self.interrupt.pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            }
        }
    }

    fn write_round(&mut self, metrics: &RoundMetrics, clients: &[ClientMetrics], run: &Run) -> Result<()> {
        let interrupt = Arc::clone(&self.interrupt);
        let _writing = interrupt.writing();
        self.folder.check_there()?;
        self.folder.append(metrics, clients)?;
        self.tally.add(metrics, clients.len());
        self.weigh(metrics, run);
        self.trackers.round(metrics, clients)?;
        self.write_state(&run.server().model())?;
        self.written = metrics.round;
        if metrics.round.is_multiple_of(self.save.every) { self.save(run) } else { Ok(()) }
    }

    /// Writes a checkpoint of `run` after its last complete round.
    fn save(&mut self, run: &Run) -> Result<()> {
        let notes = Notes {
            config: self.config.clone(),
            tally: self.tally.clone(),
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

    /// Prints the run's last lines.
    pub fn say_result(&self, quiet: bool) {
        let upload = self.tally.upload_line(&self.identity);
        let path = self.folder.path().display();
        let summary = self.summary();
        if is_json() {
            return say_row(&format!("the run is in {path}"), &summary, "");
        }
        if quiet {
            let accuracy = summary.final_accuracy.map_or("not evaluated".to_string(), percent);
            let upload = upload.map(|line| format!("; {line}")).unwrap_or_default();
            return say(format!("{}: accuracy {accuracy}{upload}; {path}", self.identity.name));
        }
        say("");
        let memory = self.memory.map(|memory| memory_line(memory, &self.identity.device));
        self.tally.accuracy_line().into_iter().chain(upload).chain(memory).for_each(say);
        say(format!("run folder: {path}"));
    }
}

/// What was expected of `device` and what was taken, side by side.
fn memory_line(memory: MemoryUse, device: &str) -> String {
    let whose = if device.starts_with("cpu") { " by the whole process" } else { "" };
    let taken = memory.peak.map(|peak| format!(", at most {} taken{whose}", bytes(peak))).unwrap_or_default();
    format!("memory: about {} estimated{taken}", bytes(memory.estimated))
}
