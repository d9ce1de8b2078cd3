//! Local training of the same clients in several ways: all in flight, one after another, with Burn's own LoRA.

use anyhow::Result;
use bonfire_engine::InFlight;
use bonfire_experiment::format::percent;
use bonfire_experiment::format::table::{aligned, row, size, three, whole};
use bonfire_models::Transformer;
use burn::tensor::Device;
use serde::Serialize;

use super::args::{BenchArgs, Method, WayName};
use super::burn_lora;
use super::chart::{Bars, Panel};
use super::ways::{EngineWay, Measured, Way, in_turns};
use super::work::Work;

/// The ways and what they took.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// Strategy whose local training this is.
    pub strategy: Method,
    /// Parameters of the backbone's products (N).
    pub matmul_params: u64,
    /// FLOPs that a step cannot do without, a real token: 4·N, and for a language model the output embeddings' too.
    pub flops_a_token: f64,
    /// The rate that the floor is counted with.
    pub gemm_flops_per_second: f64,
    /// What the device is said to do at most, where that was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_flops_per_second: Option<f64>,
    /// One a way.
    pub rows: Vec<StepRow>,
}

/// One way.
#[derive(Clone, Debug, Serialize)]
pub struct StepRow {
    /// A name that does not change.
    pub id: WayName,
    /// A name for people.
    pub name: String,
    /// Clients on the device together.
    pub in_flight: usize,
    /// Time, work and memory of a run.
    #[serde(flatten)]
    pub measured: Measured,
    /// Real tokens a second by the best reading.
    pub tokens_per_second: f64,
    /// Real tokens a second by the median.
    pub tokens_per_second_median: f64,
    /// Local steps of clients a second, by the best reading.
    pub client_steps_per_second: f64,
    /// The floor's share of the time: 1 is as fast as the device's products alone.
    pub floor_fraction: f64,
    /// The floor's FLOPs a second over what the device is said to do at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_fraction: Option<f64>,
    /// Rate over that of the way with one client in flight, where that is measured.
    pub against_one: Option<f64>,
}

/// Measures on the model's device; `rate` is that of the device's products.
///
/// # Errors
/// Training or the device failed.
pub fn measure(
    args: &BenchArgs,
    work: &Work,
    models: &[Transformer],
    device: &Device,
    rate: f64,
    quiet: bool,
) -> Result<StepReport> {
    let method = args.strategy.unwrap_or(Method::FedIt);
    let (ids, mut ways): (Vec<_>, Vec<_>) = ways(args, work, models, device, method).into_iter().unzip();
    let measured = in_turns(&mut ways, device, args.repeats, quiet)?;
    let one = ids.iter().position(|&id| id == WayName::OneInFlight).map(|i| measured[i].tokens_per_second());
    let mut report = StepReport {
        strategy: method,
        matmul_params: work.info.matmul_params(),
        flops_a_token: work.flops_a_token(),
        gemm_flops_per_second: rate,
        peak_flops_per_second: args.peak().map(|peak| peak * models.len() as f64),
        rows: Vec::new(),
    };
    let found = ids.into_iter().zip(ways).zip(measured);
    report.rows = found.map(|((id, way), measured)| step_row(id, way, measured, &report, one)).collect();
    Ok(report)
}

/// The ways asked for; without a list those that differ from each other.
fn ways<'w>(
    args: &'w BenchArgs,
    work: &'w Work,
    models: &'w [Transformer],
    device: &Device,
    method: Method,
) -> Vec<(WayName, Way<'w>)> {
    let (texts, shards, batch, clients) = (&work.texts, &work.shards[..], args.batch, args.clients);
    let engine = |name: &str, in_flight| EngineWay { args, models, texts, shards, batch, method }.way(name, in_flight);
    let auto = engine("", InFlight::Auto);
    let auto = Way { name: format!("auto: {} in flight", auto.in_flight), ..auto };
    let asked = |id| args.ways.contains(&id);
    let wanted = |id, differs| asked(id) || (args.ways.is_empty() && differs);
    let mut ways = Vec::new();
    if wanted(WayName::AllInFlight, clients > 1) {
        ways.push((WayName::AllInFlight, engine(&format!("all {clients} in flight"), InFlight::Count(clients))));
    }
    if wanted(WayName::Auto, auto.in_flight != 1 && auto.in_flight != clients) {
        ways.push((WayName::Auto, auto));
    }
    if wanted(WayName::OneInFlight, true) {
        ways.push((WayName::OneInFlight, engine("one client in flight", InFlight::Count(1))));
    }
    // Burn's LoRA trains both factors; beside a strategy that freezes one it would be another computation.
    let comparable = method == Method::FedIt && !work.info.architecture.is_decoder();
    if wanted(WayName::BurnApplyLora, comparable) {
        ways.push((WayName::BurnApplyLora, burn_lora::way(args, work, device)));
    }
    ways
}

fn step_row(id: WayName, way: Way, measured: Measured, report: &StepReport, one: Option<f64>) -> StepRow {
    let tokens_per_second = measured.tokens_per_second();
    let flops = tokens_per_second * report.flops_a_token;
    StepRow {
        id,
        name: way.name,
        in_flight: way.in_flight,
        tokens_per_second,
        tokens_per_second_median: measured.done.tokens as f64 / measured.seconds.median,
        client_steps_per_second: measured.done.steps as f64 / measured.seconds.best,
        floor_fraction: flops / report.gemm_flops_per_second,
        peak_fraction: report.peak_flops_per_second.map(|peak| flops / peak),
        against_one: one.map(|one| tokens_per_second / one),
        measured,
    }
}

impl StepReport {
    /// The table.
    pub fn table(&self) -> String {
        let head = ["local training", "tokens/s", "median", "client steps/s", "of the floor", "vs one", "peak memory"];
        let mut rows = vec![row(head)];
        rows[0].extend(self.peak_flops_per_second.map(|_| "of the peak".into()));
        for r in &self.rows {
            let mut cells = row([
                &r.name,
                &whole(r.tokens_per_second),
                &whole(r.tokens_per_second_median),
                &three(r.client_steps_per_second),
                &percent(r.floor_fraction),
                &r.against_one.map_or("-".into(), |ratio| format!("{ratio:.2}x")),
                &size(r.measured.peak_memory_bytes),
            ]);
            cells.extend(r.peak_fraction.map(percent));
            rows.push(cells);
        }
        aligned(&rows)
    }

    /// Tokens a second of a run that does the products and nothing else.
    fn floor_rate(&self) -> f64 {
        self.gemm_flops_per_second / self.flops_a_token
    }

    /// The picture of several devices' reports.
    pub fn panel(reports: &[(&str, &StepReport)]) -> Option<Panel> {
        let (_, first) = reports.first()?;
        let labels: Vec<String> = first.rows.iter().map(|r| r.name.clone()).collect();
        let series = reports.iter().map(|(device, report)| {
            // Devices may differ in what `auto` chooses, so rows are found by name.
            let rate = |label: &String| report.rows.iter().find(|r| r.name == *label).map(|r| r.tokens_per_second);
            (device.to_string(), labels.iter().map(rate).collect())
        });
        let series: Vec<_> = series.collect();
        let mark = (reports.len() == 1).then(|| (first.floor_rate(), "floor: products alone".to_string()));
        Some(Panel::bars("Local training", Bars { labels, series, unit: "real tokens/s", mark }))
    }
}
