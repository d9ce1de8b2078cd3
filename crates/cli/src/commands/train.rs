//! `bonfire train`: runs a federation and leaves a run folder.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use bonfire_data::{Dataset, Shards};
use bonfire_federation::{ClientMetrics, Control, Event, RoundMetrics, Run};
use bonfire_models::peft::{self, PeftMeta};
use bonfire_models::{Adapter, Model, ModelInfo};

use crate::args::{Common, TrainArgs};
use crate::config::{self, RunConfig};
use crate::console::{note, percent, say};
use crate::device;
use crate::interrupt::Interrupt;
use crate::job;
use crate::progress::Progress;
use crate::run_folder::{self, RunFolder};
use crate::tally::{Identity, Tally};

/// Runs the command.
///
/// # Errors
/// A configuration, data or model that cannot be used, a run that fails, a disk that cannot be written.
pub fn run(args: &TrainArgs, common: &Common) -> Result<()> {
    let mut loaded = config::load(args.config.as_deref(), &common.sets)?;
    loaded.notices.iter().for_each(note);
    if let Some(devices) = &common.device {
        loaded.config.engine.device = devices.clone();
    }
    let config = &loaded.config;
    let place = run_folder::choose(args.out.as_deref(), config.name())?;
    let opened = config.engine.device.open()?;
    opened.iter().filter_map(|o| o.notice.as_ref()).for_each(note);
    let devices = device::names(&opened);
    let interrupt = Interrupt::install()?;
    let data = job::dataset(&loaded)?;
    let shards = job::shards(&loaded, &data)?;
    job::refuse_empty(&shards)?;
    let load = |o: &device::Opened| job::model(&loaded, data.labels.len(), &o.device);
    let models = opened.iter().map(load).collect::<Result<Vec<_>>>()?;
    let info = models[0].info().clone();
    let tokens = job::tokens(&loaded, &data, &info)?;
    if !common.quiet {
        say(config.to_toml());
        describe(&data, &shards, &info, &devices, &place);
    }
    let models = models.into_iter().map(|m| Box::new(m) as Box<dyn Model>).collect();
    let run = Run::new(config.settings(), models, tokens, shards)?;
    let identity = identity(config, &devices, &info, &run);
    let folder = RunFolder::create(&place, &config.to_toml())?;
    let meta = PeftMeta { base_model: String::from(config.model.path.clone()) };
    let recorder = Recorder { folder, identity, meta, tally: Tally::default(), interrupt };
    follow(run, recorder, config.train.rounds, common.quiet)
}

/// Trains, writing and reporting each round; then the last lines.
fn follow(mut run: Run, mut recorder: Recorder, rounds: usize, quiet: bool) -> Result<()> {
    // The folder is whole before the first round ends: an untrained adapter and a summary of nothing.
    recorder.write_state(&run.server().model())?;
    let mut progress = Progress::new(rounds, quiet);
    let mut failure = None;
    let outcome = match recorder.interrupt.pressed() {
        true => Ok(()),
        false => run.train(&mut |event| {
            recorder.on(event, &mut progress).unwrap_or_else(|error| {
                failure = Some(error);
                Control::Stop
            })
        }),
    };
    progress.finish();
    outcome.with_context(|| recorder.what_is_left())?;
    if let Some(error) = failure {
        return Err(error.context(recorder.what_is_left()));
    }
    if recorder.tally.rounds() < rounds {
        note(format!("stopped after {} of {rounds} rounds", recorder.tally.rounds()));
    }
    recorder.say_result(quiet);
    Ok(())
}

/// Writes what the run reports.
struct Recorder {
    folder: RunFolder,
    identity: Identity,
    meta: PeftMeta,
    tally: Tally,
    interrupt: Arc<Interrupt>,
}

impl Recorder {
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
                progress.round_ended(metrics, self.tally.upload_bytes());
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

    /// Writes the adapter and the summary as they are now.
    fn write_state(&self, adapter: &Adapter) -> Result<()> {
        peft::write(&self.folder.adapter(), adapter, &self.meta).context("cannot write the adapter")?;
        self.folder.write_summary(&self.tally.summary(&self.identity))
    }

    /// What a failed run leaves behind.
    fn what_is_left(&self) -> String {
        let path = self.folder.path().display();
        match self.tally.rounds() {
            0 => format!("the run stopped in its first round; {path} holds the untrained adapter"),
            n => format!("the run stopped; {path} holds the state after round {n}"),
        }
    }

    fn say_result(&self, quiet: bool) {
        let upload = self.tally.upload_line(&self.identity);
        let path = self.folder.path().display();
        if quiet {
            let summary = self.tally.summary(&self.identity);
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
        full_params: info.encoder_params() + head,
        rank: config.adapter.rank,
    }
}

/// What will run on what, in four lines.
fn describe(data: &Dataset, shards: &Shards, model: &ModelInfo, device: &str, place: &Path) {
    let sizes = || shards.train.iter().map(Vec::len);
    say(format!(
        "data        {}: {} training and {} test texts, {} labels",
        data.name,
        data.train.len(),
        data.test.len(),
        data.labels.len()
    ));
    say(format!(
        "clients     {} with {} to {} training texts",
        shards.train.len(),
        sizes().min().unwrap_or(0),
        sizes().max().unwrap_or(0)
    ));
    say(format!("model       {}, {} layers of {} features", model.architecture.name(), model.layers, model.hidden));
    say(format!("device      {device}"));
    say(format!("run folder  {}\n", place.display()));
}
