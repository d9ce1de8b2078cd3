//! How the time of a token moves with the number of clients, on the same texts, and with the clients in flight.

use anyhow::Result;
use bonfire_engine::InFlight;
use bonfire_experiment::format::table::{aligned, row, size, whole};
use bonfire_models::Transformer;
use burn::tensor::Device;
use serde::Serialize;

use super::args::{BenchArgs, Method};
use super::chart::{Lines, Panel};
use super::ways::{EngineWay, Measured, Way, in_turns};
use super::work::{Work, deal};

/// The most clients that the curve goes to.
const MOST: usize = 1024;

/// The number of clients that the others' times are given relative to, where it is measured.
const COMPARED_WITH: usize = 8;

/// Both curves.
#[derive(Clone, Debug, Serialize)]
pub struct ScaleReport {
    /// Strategy whose local training this is.
    pub strategy: Method,
    /// Texts in all, the same for every number of clients.
    pub examples: usize,
    /// Over the number of clients.
    pub clients: Vec<Point>,
    /// Over the clients in flight, on the work of the `step` part.
    pub in_flight: Vec<Point>,
}

/// A point of a curve.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// Clients.
    pub clients: usize,
    /// Clients on the device together.
    pub in_flight: usize,
    /// Texts of one client in a step.
    pub batch: usize,
    /// Real tokens of a step, on average.
    pub tokens_a_step: f64,
    /// Time, work and memory of a run.
    #[serde(flatten)]
    pub measured: Measured,
    /// Real tokens a second by the best reading.
    pub tokens_per_second: f64,
    /// Time of a token over that with eight clients (or the first point's), by the best readings.
    pub relative_time: f64,
}

/// How the same texts are dealt out to so many clients, in batches of the same size as far as their shards go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Deal {
    clients: usize,
    shard: usize,
    batch: usize,
}

/// The deals of `examples` texts for 1, 2, 8, 32, 128, 512 and 1024 clients.
fn deals(examples: usize, batch: usize) -> Vec<Deal> {
    let most = MOST.min(examples);
    // A power of two, so that shards are equally large.
    let examples = previous_power(examples);
    let one = |clients: usize| Deal { clients, shard: examples / clients, batch: batch.min(examples / clients) };
    let counts = [1, 2].into_iter().chain(std::iter::successors(Some(COMPARED_WITH), |n| Some(n * 4)));
    let counts = counts.take_while(|&n| n < most);
    counts.chain([most]).filter(|n| n.is_power_of_two()).map(one).collect()
}

fn previous_power(n: usize) -> usize {
    1 << n.max(1).ilog2()
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
) -> Result<ScaleReport> {
    let method = args.strategy.unwrap_or(Method::FedIt);
    // The small curve first: what a device keeps of the large one would add to its memory.
    let counts = std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|&n| n < args.clients);
    let ways = counts.chain([args.clients]).map(|n| {
        let way = EngineWay { args, models, texts: &work.texts, shards: &work.shards, batch: args.batch, method };
        (args.clients, args.batch, way.way(&format!("{n} in flight"), InFlight::Count(n)))
    });
    let in_flight = curve(ways.collect(), device, args.repeats, quiet)?;
    let deals = deals(args.examples, args.batch);
    let shards: Vec<Vec<Vec<usize>>> = deals.iter().map(|d| deal(&work.rows, d.clients, d.shard)).collect();
    let ways = deals.iter().zip(&shards).map(|(d, shards)| {
        let way = EngineWay { args, models, texts: &work.texts, shards, batch: d.batch, method };
        (d.clients, d.batch, way.way(&format!("{} clients", d.clients), InFlight::Auto))
    });
    let clients = curve(ways.collect(), device, args.repeats, quiet)?;
    let examples = deals.first().map_or(0, |d| d.shard);
    Ok(ScaleReport { strategy: method, examples, clients, in_flight })
}

/// Measures `(clients, batch, way)`, all in turns.
fn curve(ways: Vec<(usize, usize, Way)>, device: &Device, repeats: usize, quiet: bool) -> Result<Vec<Point>> {
    let (facts, mut ways): (Vec<_>, Vec<_>) =
        ways.into_iter().map(|(clients, batch, way)| ((clients, batch), way)).unzip();
    let measured = in_turns(&mut ways, device, repeats, quiet)?;
    let mut points = Vec::new();
    for (((clients, batch), way), measured) in facts.into_iter().zip(ways).zip(measured) {
        let tokens_per_second = measured.tokens_per_second();
        // Local steps are counted over clients: so many share a step.
        let steps = measured.done.steps as f64 / way.in_flight as f64;
        let tokens_a_step = measured.done.tokens as f64 / steps.max(1.0);
        points.push(Point {
            clients,
            in_flight: way.in_flight,
            batch,
            tokens_a_step,
            measured,
            tokens_per_second,
            relative_time: 1.0,
        });
    }
    let eight = points.iter().find(|p| p.clients == COMPARED_WITH);
    let base = eight.or(points.first()).map_or(1.0, |p| p.tokens_per_second);
    points.iter_mut().for_each(|p| p.relative_time = base / p.tokens_per_second);
    Ok(points)
}

impl ScaleReport {
    /// The tables.
    pub fn table(&self) -> String {
        let about = format!("the same {} texts dealt out to more and more clients", self.examples);
        let second = "more and more clients in flight, the same batch for each";
        format!("{about}\n{}\n\n{second}\n{}", points(&self.clients), points(&self.in_flight))
    }

    /// The pictures of several devices' reports.
    pub fn panels(reports: &[(&str, &ScaleReport)]) -> Vec<Panel> {
        let Some((_, first)) = reports.first() else { return Vec::new() };
        let series = |of: &dyn Fn(&ScaleReport) -> Vec<(f64, f64)>| {
            reports.iter().map(|(device, report)| (device.to_string(), of(report))).collect()
        };
        let over_clients = series(&|r| r.clients.iter().map(|p| (p.clients as f64, p.relative_time)).collect());
        let over_flight = series(&|r| r.in_flight.iter().map(|p| (p.in_flight as f64, p.tokens_per_second)).collect());
        let title = format!("Time of a token, {} texts dealt out to all clients", first.examples);
        let y = "time of a token, 8 clients = 1";
        vec![
            Panel::lines(title, Lines { series: over_clients, x: "clients", y }),
            Panel::lines(
                "Local training by clients in flight",
                Lines { series: over_flight, x: "clients in flight", y: "real tokens/s" },
            ),
        ]
    }
}

fn points(points: &[Point]) -> String {
    let head = ["clients", "in flight", "batch", "tokens a step", "tokens/s", "time of a token", "peak memory"];
    let mut rows = vec![row(head)];
    for p in points {
        rows.push(row([
            &p.clients.to_string(),
            &p.in_flight.to_string(),
            &p.batch.to_string(),
            &whole(p.tokens_a_step),
            &whole(p.tokens_per_second),
            &format!("{:.2}x", p.relative_time),
            &size(p.measured.peak_memory_bytes),
        ]));
    }
    aligned(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_deal_is_the_same_work() {
        for (examples, batch) in [(2048, 32), (2048, 4), (100, 7), (1, 320)] {
            let deals = deals(examples, batch);
            assert_eq!((deals[0].clients, deals[0].shard), (1, previous_power(examples)));
            for d in &deals {
                assert_eq!(d.clients * d.shard, deals[0].shard, "{d:?}: all texts are dealt");
                assert!(d.batch <= d.shard.min(batch), "{d:?}");
            }
        }
        assert_eq!(deals(8192, 8).last(), Some(&Deal { clients: 1024, shard: 8, batch: 8 }));
        assert_eq!(deals(2048, 8).iter().map(|d| d.clients).collect::<Vec<_>>(), [1, 2, 8, 32, 128, 512, 1024]);
    }
}
