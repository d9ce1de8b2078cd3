//! Whole rounds of a federation on the same texts: where the seconds go.

use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Result;
use bonfire_data::Shards;
use bonfire_engine::{InFlight, TokenizedData, TrainSettings};
use bonfire_experiment::format::bytes;
use bonfire_experiment::format::table::{aligned, row, size, three, whole};
use bonfire_experiment::log::note;
use bonfire_federation::{
    AdapterSettings, AdapterStart, Budget, ClientSettings, EvaluateSettings, Event, HeadMode, RoundMetrics, Run,
    ServerSettings, Settings, StrategySettings,
};
use bonfire_kernels::device_memory_reserved;
use bonfire_models::Transformer;
use burn::tensor::Device;
use clap::ValueEnum;
use serde::Serialize;

use super::args::{BenchArgs, Head, Method};
use super::chart::{Bars, Panel};
use super::peak::Watch;
use super::ways::boxed;
use super::work::{Work, options, settings};

/// The rounds of one run.
#[derive(Clone, Debug, Serialize)]
pub struct RoundReport {
    /// The strategy.
    pub strategy: Method,
    /// Clients on the device together.
    pub in_flight: usize,
    /// Peak memory of the first round.
    pub peak_memory_bytes: Option<u64>,
    /// One a round.
    pub rounds: Vec<RoundRow>,
}

/// One round.
#[derive(Clone, Debug, Serialize)]
pub struct RoundRow {
    /// Round, from 1.
    pub round: usize,
    /// What trained: `"A"`, `"B"` or `"AB"`.
    pub phase: String,
    /// Whether the round only warms up: the first of its phase.
    pub warm_up: bool,
    /// Real tokens through forward and backward, probes included.
    pub tokens: u64,
    /// Wall time of the round.
    pub seconds: f64,
    /// Of it, until the last of the probes' steps was handed to the device.
    pub probe_seconds: f64,
    /// Of it, choosing slots, the local steps and reading the uploads.
    pub train_seconds: f64,
    /// Of it, the server: counting and averaging.
    pub server_seconds: f64,
    /// Real tokens a second over the whole round.
    pub tokens_per_second: f64,
    /// What the device's pools hold at the round's end; nothing is given back between rounds. `None` on the CPU.
    pub reserved_memory_bytes: Option<u64>,
}

/// Measures on the model's device.
///
/// # Errors
/// Training or the device failed.
pub fn measure(
    args: &BenchArgs,
    work: &Work,
    models: &[Transformer],
    device: &Device,
    quiet: bool,
) -> Result<RoundReport> {
    let method = args.strategy.unwrap_or(Method::LoraA2);
    let settings = run_settings(args, method);
    let data = TokenizedData {
        train: work.texts.clone(),
        validation: Default::default(),
        test: Default::default(),
        task: work.task,
        triggered: None,
    };
    let shards = Shards { train: work.shards.clone(), test: vec![Vec::new(); work.shards.len()] };
    let probe_steps = if selects(args, method) { work.shards.len() * args.steps } else { 0 };
    let mut run = Run::new(settings, boxed(models), data, shards)?;
    let in_flight = run.estimate().in_flight;
    let (mut watch, mut peak) = (Some(Watch::start(device)), None);
    let mut rounds: Vec<RoundRow> = Vec::new();
    let (mut start, mut probed) = (Instant::now(), 0.0);
    run.train(&mut |event| {
        match event {
            Event::Before { .. } => {}
            Event::RoundStarted { .. } => (start, probed) = (Instant::now(), 0.0),
            Event::Progress(now) if now.done == probe_steps => probed = start.elapsed().as_secs_f64(),
            Event::Progress(_) => {}
            Event::RoundEnded { metrics, .. } => {
                let warm_up = rounds.iter().all(|r| r.phase != metrics.phase);
                // The first round is watched and not timed.
                peak = watch.take().map_or(peak, |watch| watch.peak());
                let reserved = device_memory_reserved(device);
                rounds.push(RoundRow { reserved_memory_bytes: reserved, ..round_row(metrics, probed, warm_up) });
                if !quiet {
                    note(format!("round {} ({}): {:.2} s", metrics.round, metrics.phase, metrics.seconds));
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok(RoundReport { strategy: method, in_flight, peak_memory_bytes: peak, rounds })
}

fn round_row(metrics: &RoundMetrics, probe_seconds: f64, warm_up: bool) -> RoundRow {
    RoundRow {
        round: metrics.round,
        phase: metrics.phase.clone(),
        warm_up,
        tokens: metrics.tokens,
        seconds: metrics.seconds,
        probe_seconds,
        train_seconds: (metrics.train_seconds - probe_seconds).max(0.0),
        server_seconds: (metrics.seconds - metrics.train_seconds).max(0.0),
        tokens_per_second: metrics.tokens as f64 / metrics.seconds.max(1e-9),
        reserved_memory_bytes: None,
    }
}

/// Whether clients probe and choose slots.
fn selects(args: &BenchArgs, method: Method) -> bool {
    method == Method::LoraA2 && args.budget.unwrap_or(1) < args.rank
}

/// Enough rounds for a warm-up and `repeats` readings of every phase.
fn run_settings(args: &BenchArgs, method: Method) -> Settings {
    let phases = if [Method::LoraA2, Method::RoLora].contains(&method) { 2 } else { 1 };
    let name = method.to_possible_value().expect("every method has a name");
    let strategy = StrategySettings::with_defaults(name.get_name()).expect("a strategy's name");
    let budget = if selects(args, method) { Budget::Same(args.budget.unwrap_or(1)) } else { Budget::Full };
    Settings {
        clients: ClientSettings { budget, ..ClientSettings::new(args.clients) },
        adapter: AdapterSettings {
            rank: args.rank,
            alpha: args.alpha,
            targets: args.targets.kinds().into(),
            head: if args.head == Head::Trained { HeadMode::Trained } else { HeadMode::Frozen },
            init: AdapterStart::default(),
            dropout: 0.0,
        },
        train: TrainSettings { rounds: phases * (1 + args.repeats), ..settings(args, args.batch) },
        strategy,
        server: ServerSettings::default(),
        privacy: None,
        attack: None,
        wire: Default::default(),
        evaluate: EvaluateSettings { before: Some(false), ..EvaluateSettings::default() },
        engine: options(args, InFlight::Auto),
    }
}

impl RoundReport {
    /// The table.
    pub fn table(&self) -> String {
        let head = ["round", "trains", "tokens/s", "seconds", "probe", "train", "server", "reserved", ""];
        let mut rows = vec![row(head)];
        for r in &self.rounds {
            rows.push(row([
                &r.round.to_string(),
                &r.phase,
                &whole(r.tokens_per_second),
                &three(r.seconds),
                &three(r.probe_seconds),
                &three(r.train_seconds),
                &three(r.server_seconds),
                &r.reserved_memory_bytes.map_or("-".into(), bytes),
                if r.warm_up { "warm-up" } else { "" },
            ]));
        }
        let about = format!("{} in flight, peak memory {}", self.in_flight, size(self.peak_memory_bytes));
        format!("{}\n{about}", aligned(&rows))
    }

    /// The best round of every phase after its warm-up.
    fn best(&self) -> Vec<&RoundRow> {
        let mut best: Vec<&RoundRow> = Vec::new();
        for r in self.rounds.iter().filter(|r| !r.warm_up) {
            match best.iter_mut().find(|b| b.phase == r.phase) {
                Some(b) if r.seconds < b.seconds => *b = r,
                Some(_) => {}
                None => best.push(r),
            }
        }
        best
    }

    /// The picture of several devices' reports.
    pub fn panel(reports: &[(&str, &RoundReport)]) -> Option<Panel> {
        let (_, first) = reports.first()?;
        let parts = ["probe", "train", "server"];
        let label = |r: &RoundRow, part: &str| format!("round of {}: {part}", r.phase);
        let labels = first.best().into_iter().flat_map(|r| parts.map(|part| label(r, part))).collect();
        let series = reports.iter().map(|(device, report)| {
            let seconds = |r: &RoundRow| [r.probe_seconds, r.train_seconds, r.server_seconds].map(Some);
            (device.to_string(), report.best().into_iter().flat_map(seconds).collect())
        });
        Some(Panel::bars(
            "Seconds of the fastest round",
            Bars { labels, series: series.collect(), unit: "seconds", mark: None },
        ))
    }
}
