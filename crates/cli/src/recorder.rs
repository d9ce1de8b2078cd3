//! Writes what a run reports into its folder, round by round. `train` and `compare` share it.

use std::sync::Arc;

use anyhow::{Context, Result};
use bonfire_federation::{ClientMetrics, Control, Event, FederationError, RoundMetrics, Run};
use bonfire_models::peft::{self, Layout, PeftMeta};
use bonfire_models::{Adapter, ModelFolder, ModelInfo};

use crate::config::RunConfig;
use crate::console::{is_json, percent, say, say_row};
use crate::interrupt::Interrupt;
use crate::job;
use crate::progress::Progress;
use crate::run_folder::{RunFolder, client_folder};
use crate::tally::{Identity, Tally};

/// When the adapter is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// After every round: the folder can be used whenever the run ends.
    EveryRound,
    /// After the last round alone, for runs that start again when they were cut.
    LastRound,
}

/// Writes what the run reports.
pub struct Recorder {
    folder: RunFolder,
    identity: Identity,
    meta: PeftMeta,
    /// Where every weight trains.
    whole: Option<ModelFolder>,
    tally: Tally,
    rounds: usize,
    keep: Keep,
    interrupt: Arc<Interrupt>,
}

impl Recorder {
    /// Writes `run` of `config` on `device` into `folder`.
    ///
    /// # Errors
    /// Where every weight trains, a file of the model that cannot be read any more.
    pub fn new(
        folder: RunFolder,
        config: &RunConfig,
        device: &str,
        model: &ModelInfo,
        run: &Run,
        keep: Keep,
        interrupt: Arc<Interrupt>,
    ) -> Result<Recorder> {
        let meta = PeftMeta { base_model: config.model.path.base_model() };
        let (identity, rounds) = (identity(config, device, model, run), config.train.rounds);
        let trains_all = !run.server().adapter.weights.is_empty();
        let whole = match trains_all {
            true => Some(ModelFolder::of(run.model(), &job::source(config)?)?),
            false => None,
        };
        Ok(Recorder { folder, identity, meta, whole, tally: Tally::default(), rounds, keep, interrupt })
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
                Control::Stop
            })
        });
        if let Some(error) = failure {
            return Err(error);
        }
        if self.keep == Keep::EveryRound {
            self.write_persons(run)?;
        }
        Ok(outcome)
    }

    /// Writes the clients' own adapters, where they keep a part for themselves.
    fn write_persons(&self, run: &Run) -> Result<()> {
        let interrupt = Arc::clone(&self.interrupt);
        let _writing = interrupt.writing();
        for (client, adapter) in run.persons() {
            peft::write(&client_folder(self.folder.path(), client), &adapter, &self.meta, Layout::Uniform)
                .with_context(|| format!("cannot write the adapter of client {client}"))?;
        }
        Ok(())
    }

    /// Sums over the rounds so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Rounds of the whole run.
    pub fn rounds(&self) -> usize {
        self.rounds
    }

    fn on(&mut self, event: Event<'_>, progress: &mut Progress) -> Result<Control> {
        match event {
            Event::RoundStarted { round, phase, cohort } => {
                self.interrupt.enter_round(round);
                progress.round_started(round, phase, cohort.len());
                Ok(Control::Continue)
            }
            Event::Progress(now) => {
                progress.trained(now.done, now.total, now.tokens);
                Ok(Control::Continue)
            }
            Event::RoundEnded { metrics, clients, server } => {
                self.write_round(metrics, clients, &server.model())?;
                progress.round_ended(metrics, clients, self.tally.upload_bytes());
                Ok(if self.interrupt.pressed() { Control::Stop } else { Control::Continue })
            }
        }
    }

    fn write_round(&mut self, metrics: &RoundMetrics, clients: &[ClientMetrics], adapter: &Adapter) -> Result<()> {
        let interrupt = Arc::clone(&self.interrupt);
        let _writing = interrupt.writing();
        self.tally.add(metrics, clients.len());
        self.folder.append(metrics, clients)?;
        self.write_state(adapter)
    }

    /// Writes the adapter (or the whole model) and the summary as they are now.
    ///
    /// # Errors
    /// The system refuses a write.
    pub fn write_state(&self, adapter: &Adapter) -> Result<()> {
        if self.keep == Keep::EveryRound || self.tally.rounds() == self.rounds {
            match &self.whole {
                None => peft::write(&self.folder.adapter(), adapter, &self.meta, Layout::Uniform)
                    .context("cannot write the adapter")?,
                Some(whole) => whole.write(&self.folder.model(), adapter).context("cannot write the model")?,
            }
        }
        self.folder.write_summary(&self.tally.summary(&self.identity))
    }

    /// What a failed run leaves behind.
    pub fn what_is_left(&self) -> String {
        let path = self.folder.path().display();
        match self.tally.rounds() {
            0 => {
                let what = if self.whole.is_some() { "model" } else { "adapter" };
                format!("the run stopped in its first round; {path} holds the untrained {what}")
            }
            n => format!("the run stopped; {path} holds the state after round {n}"),
        }
    }

    /// Prints the run's last lines.
    pub fn say_result(&self, quiet: bool) {
        let upload = self.tally.upload_line(&self.identity);
        let path = self.folder.path().display();
        let summary = self.tally.summary(&self.identity);
        if is_json() {
            return say_row(&format!("the run is in {path}"), &summary, "");
        }
        if quiet {
            let accuracy = summary.final_accuracy.map_or("not evaluated".to_string(), percent);
            let upload = upload.map(|line| format!("; {line}")).unwrap_or_default();
            return say(format!("{}: accuracy {accuracy}{upload}; {path}", self.identity.name));
        }
        say("");
        self.tally.accuracy_line().into_iter().chain(upload).for_each(say);
        say(format!("run folder: {path}"));
    }
}

fn identity(config: &RunConfig, device: &str, info: &ModelInfo, run: &Run) -> Identity {
    let trains_head = config.settings().trains_head();
    let head = if trains_head { run.server().adapter.head_params() } else { 0 };
    Identity {
        name: config.name().to_string(),
        strategy: config.strategy.name().to_string(),
        seed: config.train.seed,
        device: device.to_string(),
        clients: config.clients.count,
        trainable_params: run.trainable_params(),
        full_params: info.backbone_params() + head,
        rank: config.adapter.rank,
    }
}
