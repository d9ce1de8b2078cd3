//! Ways to do the same training, timed in turns: through the engine with so many clients in flight, or otherwise.

use std::ops::ControlFlow;

use anyhow::Result;
use bonfire_data::random::{Use, stream};
use bonfire_engine::{Engine, InFlight, Probe, Score};
use bonfire_experiment::log::note;
use bonfire_federation::{Common, FedIt, FfaLora, LoraA2, Norm, Per, RoLora, Server, Strategy};
use bonfire_kernels::runs_on_cpu;
use bonfire_models::{Adapter, AdapterInit, Model, Transformer};
use burn::tensor::Device;
use serde::Serialize;

use super::args::{BenchArgs, Method};
use super::peak::Watch;
use super::stopwatch::{Seconds, reading};
use super::work::{members, options, settings, trains_head};

/// What one run of a way has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Done {
    /// Real tokens through forward and backward.
    pub tokens: u64,
    /// Local steps, over all clients.
    pub steps: u64,
}

/// A way to train all clients once.
pub struct Way<'w> {
    /// The name in tables.
    pub name: String,
    /// Clients on the device together.
    pub in_flight: usize,
    /// Trains.
    pub run: Box<dyn FnMut() -> Result<Done> + 'w>,
}

/// What was read off a way.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Work of one run.
    pub done: Done,
    /// Time of one run.
    pub seconds: Seconds,
    /// Peak of a run. On the CPU of one that gives freed memory back at once, elsewhere the smallest of the runs' peaks.
    pub peak_memory_bytes: Option<u64>,
    /// What the device's pools hold after each of the runs; empty on the CPU. What is not in use is given back before
    /// each, so that growth is memory that cannot be given back.
    pub reserved_memory_bytes: Vec<u64>,
}

impl Measured {
    /// Real tokens a second, by the best reading.
    pub fn tokens_per_second(&self) -> f64 {
        self.done.tokens as f64 / self.seconds.best
    }
}

/// Times all `ways`: one run of each that is not counted, then `repeats` of each, taking turns.
///
/// # Errors
/// A way or the device failed.
pub fn in_turns(ways: &mut [Way], device: &Device, repeats: usize, quiet: bool) -> Result<Vec<Measured>> {
    let mut readings = vec![Readings::default(); ways.len()];
    // From few clients in flight to many: what a device keeps of a run adds to the next one's peak.
    let mut order: Vec<usize> = (0..ways.len()).collect();
    order.sort_by_key(|&i| ways[i].in_flight);
    for i in order {
        readings[i].warm_up(&mut ways[i], device, quiet)?;
    }
    for turn in 1..=repeats {
        for (way, readings) in ways.iter_mut().zip(&mut readings) {
            let time = readings.take(way, device)?;
            readings.seconds.push(time);
            if !quiet {
                let rate = readings.done.tokens as f64 / time;
                note(format!("{}: reading {turn} of {repeats}, {rate:.0} tokens/s", way.name));
            }
        }
    }
    Ok(readings.into_iter().map(Readings::sum).collect())
}

/// What has been read off a way so far.
#[derive(Clone, Default)]
struct Readings {
    seconds: Vec<f64>,
    peak: Option<u64>,
    reserved: Vec<u64>,
    done: Done,
}

impl Readings {
    /// Runs the way once; gives the seconds.
    fn take(&mut self, way: &mut Way, device: &Device) -> Result<f64> {
        // Watching makes a run slow on the CPU; elsewhere the warm-up tunes kernels, which takes memory of its own.
        let watch = (!runs_on_cpu(device)).then(|| Watch::start(device));
        let (time, done) = reading(device, &mut way.run)?;
        let used = watch.and_then(|watch| watch.peak());
        self.peak = [self.peak, used].into_iter().flatten().min();
        self.reserved.extend(used);
        self.done = done;
        Ok(time)
    }

    /// Runs the way once for nothing but, on the CPU, its memory.
    fn warm_up(&mut self, way: &mut Way, device: &Device, quiet: bool) -> Result<()> {
        if !quiet {
            note(format!("{}: warm-up", way.name));
        }
        let watch = runs_on_cpu(device).then(|| Watch::start(device));
        reading(device, &mut way.run)?;
        self.peak = watch.and_then(|watch| watch.peak());
        Ok(())
    }

    fn sum(self) -> Measured {
        Measured {
            done: self.done,
            seconds: Seconds::of(self.seconds),
            peak_memory_bytes: self.peak,
            reserved_memory_bytes: self.reserved,
        }
    }
}

/// The strategy of that name for `clients` clients.
pub fn strategy(args: &BenchArgs, method: Method, clients: usize) -> Box<dyn Strategy> {
    let common = Common::plain(1e-3, 1e-3, trains_head(args));
    match method {
        Method::FedIt => Box::new(FedIt { common }),
        Method::FfaLora => Box::new(FfaLora { common }),
        Method::RoLora => Box::new(RoLora { common }),
        Method::LoraA2 => Box::new(LoraA2 {
            common,
            probe: Probe::default(),
            score: Score::default(),
            per: Per::default(),
            norm: Norm::All,
            budgets: vec![args.budget.unwrap_or(1); clients],
            rank: args.rank,
        }),
    }
}

/// The models as engines take them.
pub fn boxed(models: &[Transformer]) -> Vec<Box<dyn Model>> {
    models.iter().map(|model| Box::new(model.clone()) as Box<dyn Model>).collect()
}

/// Local training of a first round as the engine does it.
pub struct EngineWay<'w> {
    /// The options.
    pub args: &'w BenchArgs,
    /// The model, once for every device that shares the clients.
    pub models: &'w [Transformer],
    /// The texts.
    pub texts: &'w bonfire_engine::Split,
    /// The clients' rows.
    pub shards: &'w [Vec<usize>],
    /// Texts of one client in a step.
    pub batch: usize,
    /// The strategy whose first round this is.
    pub method: Method,
}

impl<'w> EngineWay<'w> {
    /// The way with `in_flight` clients in flight.
    pub fn way(self, name: &str, in_flight: InFlight) -> Way<'w> {
        let EngineWay { args, models, texts, shards, batch, method } = self;
        let model = &models[0];
        let mut rng = stream(args.seed, Use::AdapterInit, 0, 0, 0);
        let head = model.head().to_vec();
        let init = AdapterInit::default();
        let server = Server::new(Adapter::fresh(model.targets(), args.rank, args.alpha, init, head, &mut rng));
        let plan = strategy(args, method, shards.len()).plan(&server);
        // Its clocks would wait for the device inside the steps that are timed here as a whole.
        let engine =
            Engine::new(boxed(models), texts.clone(), settings(args, batch), options(args, in_flight)).without_clock();
        let in_flight =
            engine.clients_in_flight(shards.len().div_ceil(models.len()), plan.scalars(&server.adapter)) * models.len();
        let run = move || {
            let mut steps = 0;
            let mut count = |progress: bonfire_engine::Progress| {
                steps = progress.done as u64;
                ControlFlow::Continue(())
            };
            let trained = engine.train(&plan, server.start(), &members(shards), &mut count)?;
            let uploads = trained.continue_value().map(|trained| trained.uploads).unwrap_or_default();
            Ok(Done { tokens: uploads.iter().map(|upload| upload.tokens).sum(), steps })
        };
        Way { name: name.into(), in_flight, run: Box::new(run) }
    }
}
