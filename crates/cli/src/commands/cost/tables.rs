//! The tables of `bonfire cost`.

use bonfire_experiment::config::RunConfig;
use bonfire_experiment::format::table::{aligned, row};
use bonfire_experiment::format::{bytes, energy, percent, seconds};
use bonfire_experiment::log::note;
use bonfire_federation::{Availability, DeviceKind, Forecast};

use super::time::Time;
use super::{Cost, PrivacyCost, scalars};
use crate::console::say;

/// Says what the federation is, what is sent, and what of it one client sends and how long it takes.
pub fn print(config: &RunConfig, time: &Time, costs: &[Cost]) {
    say(federation(config));
    time.devices().iter().enumerate().for_each(|(number, kind)| say(device(number, kind, time.devices().len())));
    say("");
    sent(costs);
    say("");
    of_a_client(costs, config.server.asynchronous.is_some());
    if config.wire.top_k.is_some() || config.wire.deflate {
        say("Uploads are at most so long: which numbers are sent, and how well they pack, shows when it runs.");
    }
    if let Some(privacy) = costs.iter().find_map(|cost| cost.privacy) {
        say(protected(privacy, config));
        costs.iter().filter_map(|cost| Some((cost, cost.drowned.as_ref()?))).for_each(|(cost, warning)| {
            note(format!("{}: {warning}", cost.strategy));
        });
    }
}

fn federation(config: &RunConfig) -> String {
    let clients = &config.clients;
    let cohort = clients.per_round.unwrap_or(clients.count);
    let (rounds, count) = (config.train.rounds, clients.count);
    let mut said = match config.server.asynchronous {
        None => format!("{rounds} rounds of {cohort} of {count} clients"),
        Some(how) => format!(
            "{rounds} asynchronous rounds, each of {} uploads; {cohort} of {count} clients at work at any time",
            how.buffer
        ),
    };
    if clients.over_select > 0.0 {
        said += &format!(", {} more invited", percent(clients.over_select));
    }
    if clients.dropout > 0.0 {
        said += &format!(", {} of which drop out before they send", percent(clients.dropout));
    }
    if let Some(stragglers) = clients.stragglers {
        let least = percent(stragglers.least);
        said += &format!(", {} manage only from {least} of their steps to all", percent(stragglers.share));
    }
    if let Some(deadline) = clients.deadline {
        said += &format!(", closed after {}", seconds(deadline));
    }
    said
}

/// A kind of device in a line.
fn device(number: usize, kind: &DeviceKind, all: usize) -> String {
    let DeviceKind { up, down, latency, tokens_per_second: speed, availability, .. } = kind;
    let whose = match (all, &kind.name) {
        (1, None) => "a client's link".to_string(),
        _ => kind.called(number),
    };
    let mut said = format!("{whose}: {up} Mbit/s up, {down} Mbit/s down");
    if *latency > 0.0 {
        said += &format!(", {latency} s a message");
    }
    if speed.is_finite() {
        said += &format!(", {speed:.0} tokens/s");
    }
    match *availability {
        Availability::Always | Availability::Chance(1.0) => {}
        Availability::Chance(chance) => said += &format!(", there in {} of the rounds", percent(chance)),
        Availability::Daily(window) => said += &format!(", there from {} to {}", hour(window.from), hour(window.to)),
    }
    if all > 1 {
        said += &format!("; share {}", kind.share);
    }
    said
}

/// An hour of the day as clocks show it: `22:30`.
fn hour(hour: f64) -> String {
    let minutes = (60.0 * hour).round() as u64;
    format!("{}:{:02}", minutes / 60, minutes % 60)
}

impl Cost {
    fn span(&self, low: String, high: String) -> String {
        if low != high {
            format!("{low} to {high}")
        } else if self.about {
            format!("about {low}")
        } else {
            low
        }
    }

    fn range(&self, of: impl Fn(&Forecast) -> String) -> String {
        self.span(of(&self.low), of(&self.high))
    }
}

fn sent(costs: &[Cost]) {
    let mut rows = vec![row(["strategy", "rank", "sent", "bytes up", "bytes down", "largest upload", "secure sum"])];
    for cost in costs {
        rows.push(row([
            &cost.strategy,
            &cost.rank.to_string(),
            &cost.range(|f| scalars(f.upload_params)),
            &cost.range(|f| bytes(f.upload_bytes)),
            &cost.range(|f| bytes(f.download_bytes)),
            &cost.range(|f| bytes(f.largest_upload)),
            if cost.secure_aggregation { "yes" } else { "no" },
        ]));
    }
    say(aligned(&rows));
    say(
        "sent: uploaded scalars of the whole run, indices not counted; bytes: of the messages themselves, all clients. A range: between the\n\
         shortest and the longest vectors that clients could choose.",
    );
}

fn of_a_client(costs: &[Cost], asynchronous: bool) {
    let (late, drawn) = (costs.iter().any(|c| c.high.late > 0), costs.iter().any(|c| c.low.watt_hours.is_some()));
    let priced = costs.iter().any(|cost| cost.price.is_some());
    let mut head = vec!["strategy", "rank", "a client up", "a client down", "a round", "the run"];
    head.extend(late.then_some("too late"));
    head.extend(drawn.then_some("energy"));
    head.extend(priced.then_some("price"));
    let mut rows = vec![head.into_iter().map(String::from).collect::<Vec<_>>()];
    for cost in costs {
        let mut row = vec![
            cost.strategy.clone(),
            cost.rank.to_string(),
            cost.range(|f| bytes(f.client_upload_bytes)),
            cost.range(|f| bytes(f.client_download_bytes)),
            cost.range(|f| seconds(f.longest_round)),
            cost.range(|f| seconds(f.seconds)),
        ];
        row.extend(late.then(|| cost.range(|f| f.late.to_string())));
        row.extend(drawn.then(|| cost.range(|f| f.watt_hours.map_or("–".into(), energy))));
        row.extend(priced.then(|| priced_at(cost)));
        rows.push(row);
    }
    say(aligned(&rows));
    let with = if costs.iter().all(|cost| cost.with_training) {
        "receiving, training and sending"
    } else {
        "sending and receiving; training is left out: --tokens-per-second, or clients.devices"
    };
    let round = if asynchronous {
        "from one version of the model to the next"
    } else {
        "the longest, until its last client is done"
    };
    say(format!("a client: the one that sends or gets most in the whole run. A round: {round}:\n{with}."));
}

/// What all that crosses costs.
pub fn priced_at(cost: &Cost) -> String {
    let shown = |price: f64| if price < 1.0 { format!("{price:.4}") } else { format!("{price:.2}") };
    cost.price.map_or("–".into(), |[low, high]| cost.span(shown(low), shown(high)))
}

/// What `[privacy]` comes to, in a line.
pub fn protected(privacy: PrivacyCost, config: &RunConfig) -> String {
    let PrivacyCost { epsilon, delta, noise } = privacy;
    let rounds = config.train.rounds;
    let noise =
        noise.map_or(String::new(), |noise| format!("; noise of {noise:.3} times the clip on the sum of uploads"));
    match epsilon.zip(delta) {
        Some((epsilon, 0.0)) => format!("[privacy]: ε = {epsilon:.2} in every round{noise}"),
        Some((epsilon, delta)) => {
            format!("[privacy]: ε = {epsilon:.2} at δ = {delta:.0e} after {rounds} rounds{noise}")
        }
        None => format!("[privacy]: no ε can be given{noise}"),
    }
}
