use bonfire_engine::{Choice, Plan, TrainSettings, Upload, sketch};
use serde_json::{Value, json};

use super::*;
use crate::strategies::testing::{self, read, server};
use crate::timeline::mean_staleness;
use crate::{Availability, DeviceKind, Norm, StrategySettings, Window, average};

fn settings(clients: Value) -> Settings {
    let fedit = StrategySettings::with_defaults("fedit").expect("a strategy");
    testing::settings(clients, json!({ "rank": 4 }), json!({ "rounds": 10, "lr_a": 1e-2 }), fedit)
}

/// A device of so many tokens a second whose links take no time for messages of no bytes.
fn device(tokens_per_second: f64) -> DeviceKind {
    DeviceKind::new(tokens_per_second, 4.0, 8.0)
}

/// Twenty tokens, and no bytes.
fn twenty(client: usize) -> Work {
    Work { client, download_bytes: 0, tokens: 20, upload_bytes: 0 }
}

/// `(client, staleness, when)` of what came.
fn came(turn: &Turn) -> Vec<(usize, usize, f64)> {
    turn.arrived.iter().map(|visit| (visit.client, turn.round - visit.round, visit.arrives)).collect()
}

/// Two, four and ten seconds for twenty tokens, all three at work, two uploads a version.
#[test]
fn three_devices_by_hand() {
    let clock = Clock::of(vec![device(10.0), device(5.0), device(2.0)], vec![0, 1, 2], 3);
    let settings = settings(json!({ "count": 3 }));
    let how = Asynchronous { buffer: 2, staleness: 0.5 };
    let mut now = Timeline::default();
    // Who began, what came, when the version ended.
    let expected = [
        (vec![0, 1, 2], vec![(0, 0, 2.0), (1, 0, 4.0)], 4.0),
        (vec![0, 1], vec![(0, 0, 6.0), (1, 0, 8.0)], 8.0),
        // The slow one's first upload, from the first version, at the moment of the quick one's third.
        (vec![0, 1], vec![(0, 0, 10.0), (2, 2, 10.0)], 10.0),
        // The second one's third upload is a version old.
        (vec![0, 2], vec![(0, 0, 12.0), (1, 1, 12.0)], 12.0),
        (vec![0, 1], vec![(0, 0, 14.0), (1, 0, 16.0)], 16.0),
        (vec![0, 1], vec![(0, 0, 18.0), (1, 0, 20.0)], 20.0),
        // It was due at 20 as well, and the buffer was full: it comes first in the next.
        (vec![0, 1], vec![(2, 3, 20.0), (0, 0, 22.0)], 22.0),
    ];
    for (round, (began, arrived, ends)) in (1..).zip(expected) {
        let turn = clock.turn(&settings, how, round, &now, &mut twenty);
        assert_eq!((&turn.began, came(&turn), turn.ends), (&began, arrived, ends), "round {round}");
        let closed = turn.clone().closed(&clock, now.now);
        assert_eq!(closed.seconds, ends - now.now);
        let stale = turn.arrived.iter().map(|visit| (round - visit.round) as f64).sum::<f64>() / 2.0;
        assert_eq!(mean_staleness(&closed), Some(stale));
        now = closed.after;
    }
}

#[test]
fn a_place_that_becomes_free_goes_to_the_next_client() {
    let clock = Clock::of(vec![device(10.0), device(1.0)], vec![0, 0, 0, 1, 1], 2);
    let settings = settings(json!({ "count": 5, "per_round": 2 }));
    let how = Asynchronous { buffer: 4, staleness: 0.5 };
    let turn = clock.turn(&settings, how, 1, &Timeline::default(), &mut twenty);
    // Whatever the order: two at work from the start on, another whenever one has sent, and each client once.
    let mut visits: Vec<Visit> = turn.arrived.iter().chain(&turn.at_work).copied().collect();
    visits.sort_by(|a, b| a.began.total_cmp(&b.began));
    let mut clients: Vec<usize> = visits.iter().map(|visit| visit.client).collect();
    clients.sort_unstable();
    clients.dedup();
    assert_eq!((turn.arrived.len(), &turn.began, clients.len()), (4, &clients, visits.len()));
    assert_eq!(visits.iter().filter(|visit| visit.began == 0.0).count(), 2);
    for visit in &visits {
        let others = |at: f64| visits.iter().filter(|v| v.began <= at && at < v.arrives).count();
        assert!(others(visit.began) <= 2, "{visits:?}");
        assert_eq!(visit.arrives, visit.began + if visit.client < 3 { 2.0 } else { 20.0 });
        assert!(visit.began == 0.0 || visits.iter().any(|other| other.arrives == visit.began), "{visit:?}");
    }
    // With messages: 0.5 + 8 Mbit at 8, 2 s, 0.5 + 4 Mbit at 4.
    let kind = DeviceKind { latency: 0.5, ..device(10.0) };
    let clock = Clock::of(vec![kind], vec![0], 1);
    let mut work = |client| Work { download_bytes: 1_000_000, upload_bytes: 500_000, ..twenty(client) };
    let turn = clock.turn(&settings, Asynchronous { buffer: 1, ..how }, 1, &Timeline::default(), &mut work);
    assert_eq!(turn.ends, 0.5 + 1.0 + 2.0 + 0.5 + 1.0);
}

#[test]
fn who_is_outside_its_window_begins_when_it_opens() {
    let night = DeviceKind { availability: Availability::Daily(Window { from: 1.0, to: 2.0 }), ..device(5.0) };
    let clock = Clock::of(vec![device(10.0), night], vec![0, 1], 2);
    let settings = settings(json!({ "count": 2 }));
    let how = Asynchronous { buffer: 2, staleness: 0.5 };
    let turn = clock.turn(&settings, how, 1, &Timeline::default(), &mut twenty);
    assert_eq!(came(&turn), [(0, 0, 2.0), (1, 0, 3604.0)]);
    // One upload a version: nobody waits for the window.
    let turn = clock.turn(&settings, Asynchronous { buffer: 1, ..how }, 1, &Timeline::default(), &mut twenty);
    assert_eq!((came(&turn), turn.began.clone()), (vec![(0, 0, 2.0)], vec![0]));
}

#[test]
fn who_goes_away_holds_its_place_and_fills_no_buffer() {
    let clock = Clock::of(vec![device(10.0), device(5.0), device(2.0)], vec![0, 1, 2], 3);
    let settings = settings(json!({ "count": 3, "dropout": 0.5 }));
    let round =
        (1..).find(|round| (0..3).map(|c| settings.drops_out(*round, c)).eq([false, true, false])).expect("one");
    let how = Asynchronous { buffer: 3, staleness: 0.5 };
    let turn = clock.turn(&settings, how, round, &Timeline::default(), &mut twenty);
    // Nobody is left to fill the buffer, so it ends with two.
    assert_eq!((came(&turn), turn.ends, turn.at_work.len()), (vec![(0, 0, 2.0), (2, 0, 10.0)], 10.0, 0));
    assert_eq!(turn.began, [0, 1, 2]);
}

#[test]
fn movements_weigh_by_examples_and_staleness() {
    let train: TrainSettings = read(json!({ "rounds": 10, "lr_a": 1e-2 }));
    let mut start = server(4, 1);
    let plan = Plan::new(4, bonfire_engine::Active::Both, 1e-2, 1e-2);
    let one = |client: usize| Upload {
        examples: [3, 1, 6][client],
        ..sketch(&plan, &start.adapter, &train, client, Choice::Widest)
    };
    let uploads: Vec<Upload> = (0..3).map(one).collect();
    // The second is one version old, the third three: 1/√1, 1/√2, 1/√4.
    let closed = crate::clock::Closed { staleness: [(0, 0), (1, 1), (2, 3)].into(), ..Default::default() };
    let mut weighed = uploads.clone();
    Asynchronous { buffer: 3, staleness: 0.5 }.weigh(&closed, &mut weighed);
    assert_eq!(weighed[0], uploads[0], "what is not stale is not touched");
    let before = start.adapter.clone();
    average(&mut start.adapter, &weighed, Norm::All);
    let weights = [3.0 / 10.0, 1.0 / 10.0 / 2f64.sqrt(), 6.0 / 10.0 / 2.0];
    for (t, matrix) in start.adapter.b.iter().enumerate() {
        for (i, found) in matrix.data.iter().enumerate() {
            let moved = |u: &Upload| f64::from(u.factors[1].1[t].data[i]);
            let sum: f64 = uploads.iter().zip(weights).map(|(upload, weight)| weight * moved(upload)).sum();
            let expected = f64::from(before.b[t].data[i]) + sum;
            assert!((f64::from(*found) - expected).abs() < 1e-6 * expected.abs().max(1e-3), "{found} {expected}");
        }
    }
}
