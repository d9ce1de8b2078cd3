//! `bonfire bench`: how fast a device does this work, and how far that is from what its matrix products allow.

mod args;
mod burn_lora;
mod ceiling;
mod chart;
mod gemm;
mod kernels;
mod lengths;
mod peak;
mod report;
mod round;
mod scale;
mod step;
pub mod stopwatch;
mod ways;
mod work;

use anyhow::{Context, Result, bail};
use bonfire_experiment::UserError;
use bonfire_experiment::device::{Devices, Opened, names};
use bonfire_experiment::log::note;
use bonfire_experiment::memory::keep_freed_awhile;
use bonfire_experiment::run_folder::replace;
use bonfire_models::Transformer;
use burn::tensor::Device;

use crate::common::Common;
use crate::console::say;
pub use args::BenchArgs;
use args::{Method, Part, WayName};
pub use report::{BURN, Machine, machine};
use report::{DeviceReport, ModelFacts, Report};
use work::Work;

/// Runs the command.
///
/// # Errors
/// Options that cannot be, a device, model or data that cannot be used, an operation whose results are wrong.
pub fn run(args: &BenchArgs, common: &Common) -> Result<()> {
    let args = &with_batch(args);
    check(args, common)?;
    keep_freed_awhile();
    let bench = Bench { args, quiet: common.quiet, parts: parts(args) };
    let work = Work::new(args, bench.texts_wanted())?;
    check_ways(args, &work)?;
    let mut report = Report::new(args, facts(args, &work));
    for devices in devices(args, common) {
        let opened = devices.open()?;
        opened.iter().filter_map(|o| o.notice.as_ref()).for_each(note);
        report.devices.push(bench.on(&opened, &work)?);
    }
    write(args, &report)?;
    refuse_wrong(&report)
}

/// The options with the batch that belongs to the tokens asked for.
fn with_batch(args: &BenchArgs) -> BenchArgs {
    let batch = args.tokens.map(|tokens| {
        let texts = tokens as f64 / args.made_up_lengths().mean() / args.clients as f64;
        (texts.round() as usize).max(1)
    });
    BenchArgs { batch: batch.unwrap_or(args.batch), ..args.clone() }
}

/// Fails when an operation's results disagree with its reference: speed means nothing then.
fn refuse_wrong(report: &Report) -> Result<()> {
    for device in &report.devices {
        let wrong = device.kernels.as_ref().map(|kernels| kernels.wrong()).unwrap_or_default();
        if !wrong.is_empty() {
            bail!("wrong results on {}: {}", device.device, wrong.join(", "));
        }
    }
    Ok(())
}

/// Mistakes that no single option shows.
fn check(args: &BenchArgs, common: &Common) -> Result<(), UserError> {
    common.refuse_sets("bench", "use its own options; `bonfire bench --help` lists them")?;
    if !args.devices.is_empty() && common.device.is_some() {
        return Err(UserError::new("--device and --devices are both given").help("give one of them"));
    }
    const TEXTS: usize = 10_000_000;
    let texts = args.clients.saturating_mul(args.batch).saturating_mul(args.steps);
    if texts > TEXTS {
        return Err(UserError::new(format!("--clients x --batch x --steps are {texts} texts"))
            .help(format!("use at most {TEXTS} in all")));
    }
    check_method(args)?;
    check_files(args)
}

fn check_method(args: &BenchArgs) -> Result<(), UserError> {
    if args.budget.is_some() && args.strategy.is_some_and(|strategy| strategy != Method::LoraA2) {
        return Err(UserError::new("--budget is read by lora-a2 alone").help("add --strategy lora-a2, or leave it out"));
    }
    match args.budget.filter(|&budget| budget > args.rank) {
        Some(budget) => {
            let what = format!("--budget {budget} is above --rank {}", args.rank);
            Err(UserError::new(what).help(format!("use 1 to {}", args.rank)))
        }
        None => Ok(()),
    }
}

/// The way by Burn's own modules is an encoder.
fn check_ways(args: &BenchArgs, work: &Work) -> Result<(), UserError> {
    if args.ways.contains(&WayName::BurnApplyLora) && work.info.architecture.is_decoder() {
        let what = format!("--ways burn-apply-lora trains an encoder, and --shape {} is none", args.shape);
        return Err(UserError::new(what).help("leave it out, or use --shape builtin, minilm or roberta-base"));
    }
    Ok(())
}

/// Folders that are missing are said now, not after minutes of measuring.
fn check_files(args: &BenchArgs) -> Result<(), UserError> {
    for (option, path) in [("--json", &args.json), ("--svg", &args.svg)] {
        let folder = path.as_ref().and_then(|path| path.parent()).filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            let what = format!("{option}: there is no folder {}", folder.display());
            return Err(UserError::new(what).help("make it first, or name another file"));
        }
    }
    Ok(())
}

fn parts(args: &BenchArgs) -> Vec<Part> {
    if args.parts.is_empty() { vec![Part::Gemm, Part::Step] } else { args.parts.clone() }
}

/// What is measured one after another: each device of `--devices`, or those of `--device` together.
fn devices(args: &BenchArgs, common: &Common) -> Vec<Devices> {
    if args.devices.is_empty() {
        vec![common.device.clone().unwrap_or_default()]
    } else {
        args.devices.iter().map(|&choice| choice.into()).collect()
    }
}

/// One call of the command.
struct Bench<'b> {
    args: &'b BenchArgs,
    quiet: bool,
    parts: Vec<Part>,
}

impl Bench<'_> {
    fn wants(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    fn texts_wanted(&self) -> usize {
        let args = self.args;
        let scale = if self.wants(Part::Scale) { args.examples } else { 0 };
        scale.max(args.clients * args.batch * args.steps)
    }

    fn progress(&self, text: &str) {
        if !self.quiet {
            note(text);
        }
    }

    /// All parts on one device, or on several that share the clients; then products and operations are the first's.
    fn on(&self, opened: &[Opened], work: &Work) -> Result<DeviceReport> {
        let (args, device) = (self.args, &opened[0].device);
        say(format!("device: {}", names(opened)));
        let mut report = DeviceReport { device: names(opened), count: opened.len(), ..Default::default() };
        if self.wants(Part::Ceiling) {
            self.progress("ceilings");
            let ceiling = ceiling::measure(args, &opened[0])?;
            say(format!("\n{}", ceiling.table()));
            report.ceiling = Some(ceiling);
        }
        // The floor under a step is counted with the products' rate of the same minute.
        if self.wants(Part::Gemm) || self.wants(Part::Step) {
            self.progress("matrix products");
            let gemm = gemm::measure(&work.info, tokens_a_step(args, work), args, device)?;
            say(format!("\n{}", gemm.table()));
            report.gemm = Some(gemm);
        }
        if [Part::Step, Part::Round, Part::Scale].iter().any(|&part| self.wants(part)) {
            let models = opened.iter().map(|o| work::model(args, work, &o.device)).collect::<Result<Vec<_>>>()?;
            self.train(&models, work, device, &mut report)?;
        }
        if self.wants(Part::Kernels) {
            self.progress("operations");
            let kernels = kernels::measure(args, work, device)?;
            say(format!("\n{}", kernels.table()));
            report.kernels = Some(kernels);
        }
        Ok(report)
    }

    /// The parts that train a model.
    fn train(&self, models: &[Transformer], work: &Work, device: &Device, report: &mut DeviceReport) -> Result<()> {
        let (args, quiet) = (self.args, self.quiet);
        let rate = report.gemm.as_ref().map(|gemm| gemm.flops_per_second * models.len() as f64);
        if let Some(rate) = rate.filter(|_| self.wants(Part::Step)) {
            let step = step::measure(args, work, models, device, rate, quiet)?;
            say(format!("\n{}", step.table()));
            report.step = Some(step);
        }
        if self.wants(Part::Round) {
            let round = round::measure(args, work, models, device, quiet)?;
            say(format!("\n{}", round.table()));
            report.round = Some(round);
        }
        if self.wants(Part::Scale) {
            let scale = scale::measure(args, work, models, device, quiet)?;
            say(format!("\n{}", scale.table()));
            report.scale = Some(scale);
        }
        Ok(())
    }
}

fn facts(args: &BenchArgs, work: &Work) -> ModelFacts {
    let info = &work.info;
    ModelFacts {
        layers: info.layers,
        hidden: info.hidden,
        heads: info.heads,
        intermediate: info.intermediate,
        vocab: info.vocab,
        matmul_params: info.matmul_params(),
        classes: work.classes(),
        flops_a_token: work.flops_a_token(),
        tokens_a_step: tokens_a_step(args, work),
    }
}

/// Real tokens of a step with all clients in flight.
fn tokens_a_step(args: &BenchArgs, work: &Work) -> usize {
    (work.tokens() as usize / args.steps).max(1)
}

/// Writes the files asked for.
fn write(args: &BenchArgs, report: &Report) -> Result<()> {
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(report).context("cannot write the figures as JSON")?;
        replace(path, format!("{text}\n").as_bytes())?;
        say(format!("wrote {}", path.display()));
    }
    if let Some(path) = &args.svg {
        replace(path, report.picture()?.as_bytes())?;
        say(format!("wrote {}", path.display()));
    }
    Ok(())
}
