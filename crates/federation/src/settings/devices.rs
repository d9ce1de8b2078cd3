//! `[[clients.devices]]`: what the clients' devices and links are like, so that a run tells how long it would have taken there.

use bonfire_data::random::{Use, stream};
use bonfire_engine::Problem;
use rand::RngExt;
use rand::seq::SliceRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Availability, ClientSettings, Settings};
use crate::FederationError;

/// A kind of device, and of the link that it is behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceKind {
    /// What it is called in tables; left out: `device 1` and so on, in the order of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its part of the clients, beside the shares of the other kinds; which clients it is comes from the seed.
    #[serde(default = "one")]
    pub share: f64,
    /// Tokens that a client trains on in a second, forward and backward; `"bench:FILE"` takes it from what
    /// `bonfire bench round --json FILE` measured on such a device.
    pub tokens_per_second: f64,
    /// Mbit/s up.
    #[serde(default = "twenty")]
    pub up: f64,
    /// Mbit/s down.
    #[serde(default = "hundred")]
    pub down: f64,
    /// Seconds that a message takes beside its bytes.
    #[serde(default)]
    pub latency: f64,
    /// When such a client can be had: `"always"`; a probability in every round; or a window of every day, in hours, `{ from = 22, to = 6 }`,
    /// by a clock that stands at midnight when the run begins. Outside it a client is not asked, and what it has begun it finishes; a
    /// round that would find nobody begins when the first window opens.
    #[serde(default, skip_serializing_if = "is_always")]
    pub availability: Availability,
    /// GB of memory for training; a run of which one client needs more is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_gb: Option<f64>,
    /// Watts that it draws while it trains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watts: Option<f64>,
}

fn one() -> f64 {
    1.0
}

fn is_always(availability: &Availability) -> bool {
    *availability == Availability::Always
}

fn twenty() -> f64 {
    20.0
}

fn hundred() -> f64 {
    100.0
}

impl DeviceKind {
    /// All clients alike: so many tokens and megabits a second, always there.
    pub fn new(tokens_per_second: f64, up: f64, down: f64) -> Self {
        let (name, memory_gb, watts) = (None, None, None);
        let availability = Availability::Always;
        DeviceKind { name, share: 1.0, tokens_per_second, up, down, latency: 0.0, availability, memory_gb, watts }
    }

    /// What tables call it, the kind `number` of the configuration, from 0.
    pub fn called(&self, number: usize) -> String {
        self.name.clone().unwrap_or_else(|| format!("device {}", number + 1))
    }

    /// The first number that cannot be: its key and what it must be.
    fn mistake(&self) -> Option<(&'static str, &'static str)> {
        let positive = |v: f64| v > 0.0 && v.is_finite();
        let given = |v: Option<f64>| v.is_none_or(positive);
        let checks = [
            ("share", positive(self.share), "above 0"),
            // Infinite: of a forecast that leaves computing out.
            ("tokens_per_second", self.tokens_per_second > 0.0, "above 0"),
            ("up", positive(self.up), "a positive number of Mbit/s"),
            ("down", positive(self.down), "a positive number of Mbit/s"),
            ("latency", self.latency >= 0.0 && self.latency.is_finite(), "0 or more seconds"),
            (
                "availability",
                self.availability.is_valid(),
                "\"always\", a probability above 0, or two different hours from 0 to 24, as { from = 22, to = 6 }",
            ),
            ("memory_gb", given(self.memory_gb), "above 0"),
            ("watts", given(self.watts), "above 0"),
        ];
        checks.into_iter().find(|(_, fine, _)| !fine).map(|(key, _, want)| (key, want))
    }
}

impl ClientSettings {
    /// Which kind of `clients.devices` each of `count` clients is: as many of each as shares say, the largest remainders rounded
    /// up, dealt out by the seed. Empty where there are no kinds.
    fn device_kinds(&self, count: usize, seed: u64) -> Vec<usize> {
        let kinds = &self.devices;
        if kinds.is_empty() {
            return Vec::new();
        }
        let sum: f64 = kinds.iter().map(|kind| kind.share).sum();
        let exact = |kind: &DeviceKind| count as f64 * kind.share / sum;
        let mut counts: Vec<usize> = kinds.iter().map(|kind| exact(kind) as usize).collect();
        let mut order: Vec<usize> = (0..kinds.len()).collect();
        let rest = |i: &usize| exact(&kinds[*i]).fract();
        order.sort_by(|a, b| rest(b).total_cmp(&rest(a)));
        let missing = count.saturating_sub(counts.iter().sum());
        order.iter().cycle().take(missing).for_each(|&i| counts[i] += 1);
        let mut dealt: Vec<usize> = (0..).zip(&counts).flat_map(|(kind, &n)| std::iter::repeat_n(kind, n)).collect();
        dealt.truncate(count);
        dealt.shuffle(&mut stream(seed, Use::Devices, 0, 0, 0));
        dealt
    }

    /// The first thing wrong with devices, deadline and over-selection.
    pub(super) fn clock_problem(&self) -> Option<Problem> {
        for (i, kind) in self.devices.iter().enumerate() {
            if let Some((key, want)) = kind.mistake() {
                return Some(Problem::new("clients.devices", format!("number {}: `{key}` must be {want}", i + 1)));
            }
        }
        if self.devices.len() > self.count {
            let what = format!("has {} kinds for {} clients; give fewer", self.devices.len(), self.count);
            return Some(Problem::new("clients.devices", what));
        }
        let clockless = "needs a clock; say what devices the clients are with [[clients.devices]]";
        let is = |wrong: bool, key, what: &str| wrong.then(|| Problem::new(key, what));
        let limit = self.deadline;
        is(limit.is_some_and(|s| s.is_nan() || s <= 0.0), "clients.deadline", "must be a number of seconds above 0")
            .or(is(
                !(0.0..=100.0).contains(&self.over_select),
                "clients.over_select",
                "must be a share of clients.per_round, 0 or more: 0.3 invites 13 for every 10",
            ))
            .or(is(limit.is_some() && self.devices.is_empty(), "clients.deadline", clockless))
            .or(is(self.over_select > 0.0 && self.devices.is_empty(), "clients.over_select", clockless))
            .or(is(
                self.over_select > 0.0 && self.per_round.is_none(),
                "clients.over_select",
                "invites more than clients.per_round, which is not set: all clients are invited as it is",
            ))
    }
}

impl Settings {
    /// Which kind of `clients.devices` each of `count` clients is; empty where there are no kinds.
    pub fn device_kinds(&self, count: usize) -> Vec<usize> {
        self.clients.device_kinds(count, self.train.seed)
    }

    /// Refuses devices that cannot hold the `bytes` that one client needs.
    ///
    /// # Errors
    /// The first kind with less memory.
    pub(crate) fn check_devices(&self, bytes: u64) -> Result<(), FederationError> {
        let needed = bytes as f64 / 1e9;
        let lacks = |kind: &&DeviceKind| kind.memory_gb.is_some_and(|has| has < needed);
        let Some(kind) = self.clients.devices.iter().find(lacks) else { return Ok(()) };
        let has = kind.memory_gb.unwrap_or_default();
        let name = kind.name.as_ref().map_or(String::new(), |name| format!(" of \"{name}\""));
        let what = format!(
            "memory_gb = {has}{name}, and a client of this run needs {needed:.2} GB by the engine's own estimate; lower \
             train.batch_size or data.max_length, set engine.recompute = \"block\", or leave such clients out"
        );
        Err(Problem::new("clients.devices", what).into())
    }

    /// Across machines the devices and links are what they are.
    ///
    /// # Errors
    /// Others are to be simulated.
    pub(crate) fn refuse_clock(&self) -> Result<(), FederationError> {
        if self.clients.devices.is_empty() {
            return Ok(());
        }
        let what = "is for runs of one process: across machines every round takes as long as it takes; leave it out";
        Err(Problem::new("clients.devices", what).into())
    }

    /// A window of every day needs clients to be outside it.
    pub(super) fn window_problem(&self) -> Option<Problem> {
        let windows = self.clients.devices.iter().any(|kind| kind.availability.window().is_some());
        (windows && self.strategy.traits().pools).then(|| {
            let what = "has a window of every day, and of pooled all rows are in one place, which is always there; leave it out";
            Problem::new("clients.devices", what)
        })
    }

    /// Of `clients` those that can be had in `round` if it begins `now`.
    pub(crate) fn available(&self, round: usize, count: usize, clients: Vec<usize>, now: f64) -> Vec<usize> {
        if self.clients.devices.iter().all(|kind| kind.availability.is_always()) {
            return clients;
        }
        let kinds = self.device_kinds(count);
        let there = |&client: &usize| {
            let availability = self.clients.devices[kinds[client]].availability;
            self.is_there(availability, round, client) && availability.from(now) == now
        };
        clients.into_iter().filter(there).collect()
    }

    /// Whether a client of such `availability` can be had in `round`, inside its window.
    pub(crate) fn is_there(&self, availability: Availability, round: usize, client: usize) -> bool {
        let Availability::Chance(chance) = availability else { return true };
        stream(self.train.seed, Use::Availability, round as u64, client as u64, 0).random_bool(chance)
    }

    /// The first moment from `now` on at which a client is inside its window; `now` where some have none.
    pub(crate) fn first_open(&self, count: usize, now: f64) -> f64 {
        if self.clients.devices.iter().all(|kind| kind.availability.window().is_none()) {
            return now;
        }
        // Of a kind with a small share there may be nobody.
        let opens = self.device_kinds(count).into_iter().map(|kind| self.clients.devices[kind].availability.from(now));
        opens.min_by(f64::total_cmp).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_dealt_out_by_shares_and_the_seed() {
        let dealt = |shares: &[f64], seed: u64, count: usize| {
            let kinds = shares.iter().map(|&share| DeviceKind { share, ..DeviceKind::new(1.0, 1.0, 1.0) });
            ClientSettings { devices: kinds.collect(), ..ClientSettings::new(count) }.device_kinds(count, seed)
        };
        let counts = |kinds: &[usize]| [0, 1, 2].map(|kind| kinds.iter().filter(|&&k| k == kind).count());
        // 12 · 5/6 and 12 / 6.
        assert_eq!(counts(&dealt(&[5.0, 1.0], 0, 12)), [10, 2, 0]);
        // 10/3 each: the rest goes to the first.
        assert_eq!(counts(&dealt(&[1.0, 1.0, 1.0], 0, 10)), [4, 3, 3]);
        // 5.6, 1.4 and 0: the larger rest first.
        assert_eq!(counts(&dealt(&[0.8, 0.2], 0, 7)), [6, 1, 0]);
        assert_eq!(dealt(&[0.5, 0.5], 1, 40), dealt(&[0.5, 0.5], 1, 40));
        assert_ne!(dealt(&[0.5, 0.5], 1, 40), dealt(&[0.5, 0.5], 2, 40));
    }
}
