//! The clock of `[[clients.devices]]`: how long rounds take is worked out here from the rows and the texts, who is late has no part
//! in what is learnt, and a forecast is what a run tells.

use bonfire_engine::InFlight;
use bonfire_federation::{Checkpoint, Choice, ClientMetrics, Event, RoundMetrics, Run, Settings, Texts, forecast_of};
use bonfire_models::{Model, Task};
use bonfire_tests::toy;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// A run that goes on from the checkpoint of another one's first round.
fn gone_on(settings: &Settings) -> Run {
    let (mut first, mut saved) = (toy::run(settings.clone()), None);
    let mut stop = |event: Event<'_>| {
        if let Event::RoundEnded { run, .. } = event {
            saved = Some(run.checkpoint(&BTreeMap::new()));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    first.train(&mut stop).unwrap();
    let mut second = toy::run(settings.clone());
    second.resume(Checkpoint::read(&saved.expect("a round")).unwrap()).unwrap();
    second
}

/// Two laptops for every phone.
const DEVICES: &str = r#"
[[clients.devices]]
name = "laptop"
share = 2
tokens_per_second = 100
up = 4
down = 40
latency = 0.25
watts = 40
[[clients.devices]]
name = "phone"
tokens_per_second = 20
up = 0.5
down = 4
watts = 3
"#;

/// Three rounds of 6 clients; `clients` are further keys.
fn settings(strategy: &str, clients: &str) -> Settings {
    toy::settings(&format!(
        "{strategy}\n[train]\nrounds = 3\nlr_a = 2e-3\nbatch_size = 4\n[adapter]\nrank = 4\n[clients]\ncount = 6\n{clients}\n{DEVICES}"
    ))
}

/// Tokens of every client's texts.
fn tokens() -> Vec<usize> {
    let shards = toy::shards(6);
    let texts = toy::texts(shards.train.iter().map(Vec::len).sum(), 1);
    shards.train.iter().map(|rows| rows.iter().map(|&row| texts.ids[row].len()).sum()).collect()
}

fn finish(run: &mut Run) -> (Vec<RoundMetrics>, Vec<ClientMetrics>) {
    let (rounds, clients, _) = toy::finish(run);
    (rounds, clients)
}

/// One client at a time: the same bits, whoever trains beside it.
fn alone(settings: Settings) -> Settings {
    toy::with_in_flight(settings, InFlight::Count(1))
}

/// Seconds that a client is at it, from what crossed.
fn seconds(kind: &str, down: f64, tokens: f64, up: f64) -> f64 {
    match kind {
        "laptop" => 0.25 + 8.0 * down / 40e6 + tokens / 100.0 + 0.25 + 8.0 * up / 4e6,
        _ => 8.0 * down / 4e6 + tokens / 20.0 + 8.0 * up / 0.5e6,
    }
}

#[test]
fn rounds_take_what_messages_and_texts_come_to() {
    let (rounds, clients) = finish(&mut toy::run(settings("[strategy]\nname = \"fedit\"", "")));
    let tokens = tokens();
    let mut kinds: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for round in &rounds {
        // All clients are sent the same.
        let down = round.download_bytes as f64 / 6.0;
        let (mut longest, mut joules) = (0.0f64, 0.0);
        for row in clients.iter().filter(|row| row.round == round.round) {
            let kind = row.device.as_deref().expect("a device");
            let of = tokens[row.client] as f64;
            let expected = seconds(kind, down, of, row.upload_bytes as f64);
            assert!((row.simulated_seconds.unwrap() - expected).abs() < 1e-9, "{row:?}: {expected}");
            longest = longest.max(expected);
            joules += if kind == "laptop" { 40.0 * of / 100.0 } else { 3.0 * of / 20.0 };
            if round.round == 1 {
                kinds.entry(kind).or_default().push(row.client);
            }
        }
        assert!((round.simulated_seconds.unwrap() - longest).abs() < 1e-9);
        assert!((round.watt_hours.unwrap() - joules / 3600.0).abs() < 1e-12);
        assert!(round.late.is_empty() && round.late_upload_bytes == 0);
    }
    assert_eq!((kinds["laptop"].len(), kinds["phone"].len()), (4, 2));
}

#[test]
fn who_is_late_has_no_part_in_what_is_learnt() {
    for strategy in ["name = \"fedit\"", "name = \"lora-a2\"", "name = \"fedex-lora\""] {
        let strategy = &format!("[strategy]\n{strategy}");
        let (rounds, rows) = finish(&mut toy::run(settings(strategy, "")));
        let mut times: Vec<(f64, usize)> =
            rows.iter().filter(|row| row.round == 2).map(|row| (row.simulated_seconds.unwrap(), row.client)).collect();
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (last, slowest) = times[5];
        let deadline = (times[4].0 + last) / 2.0;
        let with = format!("deadline = {deadline:?}");
        let mut run = toy::run(alone(settings(strategy, &with)));
        let (closed, those) = finish(&mut run);
        for (closed, whole) in closed.iter().zip(&rounds) {
            assert_eq!((&closed.late[..], closed.simulated_seconds), (&[slowest][..], Some(deadline)), "{strategy}");
            // Its download was in vain, its upload is counted beside the others.
            assert_eq!(closed.upload_bytes + closed.late_upload_bytes, whole.upload_bytes);
            assert_eq!(6 * closed.lost_download_bytes, closed.download_bytes);
            // It trained all the same.
            assert_eq!(closed.watt_hours, whole.watt_hours);
        }
        assert!(those.iter().all(|row| row.client != slowest) && those.len() == 15);
        // Other texts at the client that is late, and more of them: nothing else changes.
        let mut shards = toy::shards(6);
        let texts = toy::texts(75, 1);
        let longest = *shards.train[slowest].iter().max_by_key(|&&row| texts.ids[row].len()).expect("rows");
        shards.train[slowest].iter_mut().for_each(|row| *row = longest);
        let mut other = toy::run_with(alone(settings(strategy, &with)), shards);
        let (closed, _) = finish(&mut other);
        assert!(closed.iter().all(|round| round.late == [slowest]));
        assert_eq!(run.server().adapter, other.server().adapter, "{strategy}");
    }
}

#[test]
fn more_are_invited_than_are_waited_for() {
    let clients = "per_round = 3\nover_select = 0.5";
    let (rounds, rows) = finish(&mut toy::run(settings("[strategy]\nname = \"fedit\"", clients)));
    for round in &rounds {
        let of: Vec<&ClientMetrics> = rows.iter().filter(|row| row.round == round.round).collect();
        // 3 · 1.5 is 4.5: five are invited, and the first three count.
        assert_eq!((of.len(), round.late.len()), (3, 2));
        let last = of.iter().map(|row| row.simulated_seconds.unwrap()).fold(0.0, f64::max);
        assert_eq!(round.simulated_seconds, Some(last));
    }
}

#[test]
fn clients_that_cannot_be_had_are_not_invited() {
    let rare = DEVICES.replace("share = 2", "share = 2\navailability = 0.5");
    let text = format!("[train]\nrounds = 40\n[clients]\ncount = 6\n{rare}");
    let run = toy::run(toy::settings(&text));
    let kinds = toy::settings(&text).device_kinds(6);
    let phones: Vec<usize> = (0..6).filter(|&client| kinds[client] == 1).collect();
    let cohorts: Vec<Vec<usize>> = (1..=40).map(|round| run.cohort(round)).collect();
    assert!(cohorts.iter().all(|cohort| phones.iter().all(|phone| cohort.contains(phone))));
    // 160 draws at one half: five deviations.
    let laptops: usize = cohorts.iter().map(|cohort| cohort.len() - 2).sum();
    assert!(laptops.abs_diff(80) < 32, "{laptops}");
    assert_eq!(cohorts, (1..=40).map(|round| run.cohort(round)).collect::<Vec<_>>());
}

/// Laptops until two seconds past midnight, phones from one to two: rounds begin at 0, then at one o'clock, then at once.
#[test]
fn a_round_begins_when_the_first_window_opens() {
    let windows = DEVICES
        .replace("watts = 40", "watts = 40\navailability = { from = 0, to = 0.0005 }")
        .replace("watts = 3", "watts = 3\navailability = { from = 1, to = 2 }");
    let text = format!("[train]\nrounds = 3\nlr_a = 2e-3\nbatch_size = 4\n[clients]\ncount = 6\n{windows}");
    let settings = toy::settings(&text);
    let kinds = settings.device_kinds(6);
    let of = |kind: usize| (0..6).filter(|&client| kinds[client] == kind).collect::<Vec<_>>();
    let (rounds, rows) = finish(&mut toy::run(settings.clone()));
    let cohort = |round: usize| rows.iter().filter(|row| row.round == round).map(|row| row.client).collect::<Vec<_>>();
    assert_eq!((cohort(1), cohort(2), cohort(3)), (of(0), of(1), of(1)));
    let longest = |round: usize| {
        rows.iter().filter(|row| row.round == round).map(|row| row.simulated_seconds.unwrap()).fold(0.0, f64::max)
    };
    let found: Vec<f64> = rounds.iter().map(|round| round.simulated_seconds.unwrap()).collect();
    // Longer than the laptops' window is open: they finish what they have begun.
    assert!(longest(1) > 1.8 && (found[0] - longest(1)).abs() < 1e-9, "{found:?}");
    assert!((found[0] + found[1] - (3600.0 + longest(2))).abs() < 1e-9, "{found:?}");
    assert!((found[2] - longest(3)).abs() < 1e-9, "{found:?}");
    // Foretold, and the same where a run goes on: the time of day is a part of its state.
    let (shards, tokens) = (toy::shards(6), tokens());
    let texts = |client: usize| Texts { rows: shards.train[client].len(), tokens: tokens[client] as f64 };
    let info = toy::model(&settings).info().clone();
    let told = forecast_of(&settings, &info, Task::Classify(toy::CLASSES), Choice::Widest, &texts).unwrap();
    assert!((told.seconds - found.iter().sum::<f64>()).abs() < 1e-6, "{told:?}");
    let mut second = gone_on(&settings);
    let (rest, those) = finish(&mut second);
    assert_eq!(rest.iter().map(|round| round.simulated_seconds.unwrap()).collect::<Vec<_>>(), found[1..]);
    assert!(those.iter().all(|row| of(1).contains(&row.client)));
}

#[test]
fn the_clock_is_the_seeds_whatever_is_in_flight_and_wherever_a_run_goes_on() {
    let of = || settings("[strategy]\nname = \"lora-a2\"", "per_round = 4\nover_select = 0.25\nbudget = 2");
    let told = |rounds: &[RoundMetrics]| {
        rounds.iter().map(|r| (r.simulated_seconds, r.late.clone(), r.watt_hours)).collect::<Vec<_>>()
    };
    let whole = told(&finish(&mut toy::run(of())).0);
    assert_eq!(told(&finish(&mut toy::run(alone(of()))).0), whole);
    let mut second = gone_on(&of());
    assert_eq!(told(&finish(&mut second).0), whole[1..]);
}

#[test]
fn a_forecast_is_what_the_run_tells() {
    let (shards, tokens) = (toy::shards(6), tokens());
    let texts = |client: usize| Texts { rows: shards.train[client].len(), tokens: tokens[client] as f64 };
    for strategy in ["fedit", "lora-a2", "hetlora", "local", "full"] {
        for clients in
            ["", "per_round = 3\nover_select = 0.4", "deadline = 2.0", "dropout = 0.3\nstragglers = { share = 0.5 }"]
        {
            let settings = settings(&format!("[strategy]\nname = \"{strategy}\""), clients);
            let info = toy::model(&settings).info().clone();
            let told = forecast_of(&settings, &info, Task::Classify(toy::CLASSES), Choice::Widest, &texts).unwrap();
            let (rounds, _) = finish(&mut toy::run(settings));
            let found: f64 = rounds.iter().map(|round| round.simulated_seconds.unwrap()).sum();
            // A straggler's last batch may be one of the shorter ones: a forecast knows no single text.
            let allowed = if clients.contains("stragglers") { 0.05 * found } else { 1e-6 };
            assert!(
                (told.seconds - found).abs() <= allowed,
                "{strategy} {clients}: {} forecast, {found}",
                told.seconds
            );
            if clients.contains("stragglers") {
                continue;
            }
            assert_eq!(
                told.late,
                rounds.iter().map(|round| round.late.len() as u64).sum::<u64>(),
                "{strategy} {clients}"
            );
            assert_eq!(
                told.upload_bytes,
                rounds.iter().map(|round| round.upload_bytes).sum::<u64>(),
                "{strategy} {clients}"
            );
        }
    }
}

#[test]
fn what_cannot_be_is_refused_by_its_key() {
    let devices = DEVICES;
    for (clients, key, words) in [
        ("deadline = 3".to_string(), "clients.deadline", "needs a clock"),
        ("per_round = 2\nover_select = 0.5".to_string(), "clients.over_select", "needs a clock"),
        (format!("over_select = 0.5\n{devices}"), "clients.over_select", "clients.per_round, which is not set"),
        (format!("deadline = 0\n{devices}"), "clients.deadline", "above 0"),
        (devices.replace("up = 4", "up = 0"), "clients.devices", "number 1: `up`"),
        (devices.replace("watts = 3", "availability = 0"), "clients.devices", "number 2: `availability`"),
        (
            devices.replace("watts = 3", "availability = { from = 6, to = 6 }"),
            "clients.devices",
            "number 2: `availability` must be \"always\"",
        ),
        (format!("count = 1\n{devices}").replacen("count = 6", "", 1), "clients.devices", "2 kinds for 1 clients"),
    ] {
        let count = if clients.contains("count") { "" } else { "count = 6\n" };
        let problem = toy::settings(&format!("[clients]\n{count}{clients}")).problem().expect(words);
        assert!(problem.key == key && problem.what.contains(words), "{problem:?}");
    }
    // A phone with too little memory.
    let small = DEVICES.replace("watts = 3", "memory_gb = 0.00001");
    let settings = toy::settings(&format!("[clients]\ncount = 6\n{small}"));
    let (models, shards) = (vec![Box::new(toy::model(&settings)) as Box<dyn Model>], toy::shards(6));
    let refused = Run::new(settings, models, toy::data(&shards), shards).err().expect("too little").to_string();
    assert!(refused.contains("memory_gb = 0.00001 of \"phone\""), "{refused}");
}
