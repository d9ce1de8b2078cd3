//! Buffered asynchronous rounds (FedBuff): with nobody late they are synchronous ones, a late upload is a movement from the version that its
//! client downloaded and weighs 1/√(1 + τ), what is under way goes on from a checkpoint, and bytes and hours are as forecast.

use bonfire_engine::InFlight;
use bonfire_federation::{
    Checkpoint, Choice, ClientMetrics, Event, RoundMetrics, Run, Server, Settings, Texts, forecast_of,
};
use bonfire_models::{Adapter, Model, Task};
use bonfire_tests::toy;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// All alike, so that a round's clients differ by their texts alone.
const ALIKE: &str = "[[clients.devices]]\ntokens_per_second = 100\nup = 4\ndown = 40";

/// Two quick ones for a slow one.
const DIFFERENT: &str = "[[clients.devices]]\nshare = 2\ntokens_per_second = 200\nup = 8\ndown = 40\nlatency = 0.05\nwatts = 40\n\
                         [[clients.devices]]\ntokens_per_second = 10\nup = 1\ndown = 4\nwatts = 3";

/// `rounds` of 6 clients, one in a batch at a time, so that who trains beside whom changes no bit; `more` are sections before devices.
fn settings(strategy: &str, rounds: usize, server: &str, clients: &str, more: &str) -> Settings {
    let text = format!(
        "[strategy]\n{strategy}\n[train]\nrounds = {rounds}\nlr_a = 2e-3\nbatch_size = 4\n{more}\n[server]\n{server}\n[clients]\ncount = 6\n{clients}"
    );
    toy::with_in_flight(toy::settings(&text), InFlight::Count(1))
}

fn asynchronous(buffer: usize) -> String {
    format!("asynchronous = {{ buffer = {buffer} }}")
}

type Found = (Vec<RoundMetrics>, Vec<ClientMetrics>, Vec<Server>);

fn finish(settings: Settings) -> Found {
    toy::finish(&mut toy::run(settings))
}

/// What every number of `adapter` has moved by since `from`.
fn moved(adapter: &Adapter, from: &Adapter) -> Vec<f64> {
    let numbers = |adapter: &Adapter| {
        adapter.a.iter().chain(&adapter.b).flat_map(|m| m.data.iter().map(|v| f64::from(*v))).collect::<Vec<f64>>()
    };
    numbers(adapter).iter().zip(numbers(from)).map(|(now, then)| now - then).collect()
}

/// Holds two movements to each other; both come from differences of numbers of about `size`, in f32.
fn near(found: &[f64], expected: &[f64], what: &str) {
    let largest = expected.iter().fold(0f64, |most, v| most.max(v.abs()));
    let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(largest > 1e-4 && off < 3e-7, "{what}: {off:.1e} of {largest:.1e}");
}

#[test]
fn with_everybody_in_the_buffer_rounds_are_synchronous() {
    for strategy in ["fedit", "ffa-lora", "fedsa-lora", "full", "dfl", "la-lora"] {
        for (devices, clients, buffer) in
            [(ALIKE, "", 6), (DIFFERENT, "", 6), (DIFFERENT, "dropout = 0.3\nstragglers = { share = 0.5 }", 6)]
        {
            let strategy = format!("name = \"{strategy}\"");
            let of = |server: &str| finish(settings(&strategy, 3, server, &format!("{clients}\n{devices}"), ""));
            let ((rounds, rows, states), (expected, those, servers)) = (of(&asynchronous(buffer)), of(""));
            assert_eq!(states, servers, "{strategy}");
            for (found, expected) in rounds.iter().zip(&expected) {
                let of = |row: &RoundMetrics| {
                    (row.upload_bytes, row.download_bytes, row.lost_download_bytes, row.dropped.clone(), row.tokens)
                };
                assert_eq!(of(found), of(expected), "{strategy}");
                assert_eq!((found.staleness, expected.staleness), (Some(0.0), None));
                // One that goes away is missed when its upload does not come, so the turn may end later.
                let (found, expected) = (found.simulated_seconds.unwrap(), expected.simulated_seconds.unwrap());
                let fine = if clients.is_empty() { (found - expected).abs() < 1e-9 } else { found >= expected - 1e-9 };
                assert!(fine, "{strategy}: {found}, {expected}");
            }
            assert_eq!(
                rows.iter().map(|r| r.client).collect::<Vec<_>>(),
                those.iter().map(|r| r.client).collect::<Vec<_>>()
            );
        }
    }
}

/// Where all are done at the same moment, a drawn cohort is a synchronous round's.
#[test]
fn equal_clients_make_synchronous_rounds_of_drawn_cohorts() {
    let shards = || {
        let mut shards = toy::shards(6);
        let texts = toy::texts(shards.train.iter().map(Vec::len).sum(), 1);
        // As many texts of one length for each.
        let mut of_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        texts.ids.iter().enumerate().for_each(|(row, ids)| of_length.entry(ids.len()).or_default().push(row));
        let rows = of_length.into_values().max_by_key(Vec::len).expect("texts");
        shards.train.iter_mut().zip(rows.chunks(rows.len() / 6)).for_each(|(own, rows)| *own = rows.to_vec());
        shards
    };
    let of = |server: &str| {
        let settings = settings("name = \"fedit\"", 4, server, &format!("per_round = 3\n{ALIKE}"), "");
        toy::finish(&mut toy::run_with(settings, shards()))
    };
    let ((rounds, _, states), (expected, _, servers)) = (of(&asynchronous(3)), of(""));
    assert_eq!(states, servers);
    for (found, expected) in rounds.iter().zip(&expected) {
        assert!((found.simulated_seconds.unwrap() - expected.simulated_seconds.unwrap()).abs() < 1e-9);
    }
}

/// Two clients and one upload a version: what the slow one sends is what it learns from the first version, by 1/√(1 + τ).
#[test]
fn a_late_upload_is_a_movement_from_its_own_version_and_weighs_less() {
    let devices = "[[clients.devices]]\ntokens_per_second = 200\nup = 8\ndown = 40\n\
                   [[clients.devices]]\ntokens_per_second = 40\nup = 8\ndown = 40";
    let of = |server: &str| {
        let mut settings = settings("name = \"fedit\"", 12, server, devices, "");
        settings.clients.count = 2;
        settings
    };
    let kinds = of("").device_kinds(2);
    let slow = kinds.iter().position(|kind| *kind == 1).expect("a slow one");
    let alike = of("asynchronous = { buffer = 1, staleness = 0 }");
    let (_, rows, plain) = toy::finish(&mut toy::run(alike));
    let first = rows.iter().find(|row| row.client == slow).expect("it comes some day");
    let (round, staleness) = (first.round, first.staleness.expect("asynchronous"));
    assert!(staleness == round - 1 && staleness >= 1, "{rows:?}");
    // The same rounds until then, and then less of the same movement.
    let (_, _, weighed) = toy::finish(&mut toy::run(of("asynchronous = { buffer = 1 }")));
    assert_eq!(weighed[..round], plain[..round]);
    let step = |states: &[Server]| moved(&states[round].adapter, &states[round - 1].adapter);
    let expected: Vec<f64> = step(&plain).iter().map(|v| v / (1.0 + staleness as f64).sqrt()).collect();
    near(&step(&weighed), &expected, "the weight");
    // Together with the quick one's first upload it makes the synchronous round.
    let (_, rows, both) = toy::finish(&mut toy::run(of("")));
    let examples = |client: usize| rows.iter().find(|row| row.client == client).expect("a row").examples as f64;
    let (slows, quicks) = (examples(slow), examples(1 - slow));
    let quick = moved(&plain[1].adapter, &plain[0].adapter);
    let mean = moved(&both[1].adapter, &both[0].adapter);
    let expected: Vec<f64> = mean.iter().zip(quick).map(|(m, q)| ((slows + quicks) * m - quicks * q) / slows).collect();
    near(&step(&plain), &expected, "the movement");
}

/// A run that goes on after each of its rounds, whoever is under way, with what they keep and owe.
#[test]
fn what_is_under_way_goes_on_from_a_checkpoint() {
    for (strategy, more) in [
        ("fedit", ""),
        ("fedsa-lora", ""),
        ("fedit", "[wire]\nupload = \"int8\""),
        ("fedit", "[adapter]\nrank = 4\nhead = \"trained\""),
    ] {
        let of = || {
            let strategy = format!("name = \"{strategy}\"");
            settings(&strategy, 6, &asynchronous(2), &format!("per_round = 5\ndropout = 0.1\n{DIFFERENT}"), more)
        };
        let mut saved = Vec::new();
        let mut whole: (Vec<RoundMetrics>, Vec<ClientMetrics>) = Default::default();
        let mut run = toy::run(of());
        let mut keep = |event: Event<'_>| {
            if let Event::RoundEnded { metrics, clients, run } = event {
                saved.push(run.checkpoint(&BTreeMap::new()));
                whole.0.push(metrics.clone());
                whole.1.extend(clients.to_vec());
            }
            ControlFlow::Continue(())
        };
        run.train(&mut keep).unwrap();
        assert!(whole.0.iter().any(|row| row.staleness > Some(0.0)), "{strategy}: nobody was late");
        for (done, bytes) in (1..6).zip(&saved) {
            let mut again = toy::run(of());
            again.resume(Checkpoint::read(bytes).unwrap()).unwrap();
            assert_eq!(&again.checkpoint(&BTreeMap::new()), bytes, "{strategy}, after {done}");
            let (rounds, rows, _) = toy::finish(&mut again);
            assert_eq!(again.checkpoint(&BTreeMap::new()), saved[5], "{strategy}, after {done}");
            let bare =
                |row: &RoundMetrics| RoundMetrics { seconds: 0.0, train_seconds: 0.0, times: None, ..row.clone() };
            let bare = |rows: &[RoundMetrics]| rows.iter().map(bare).collect::<Vec<_>>();
            assert_eq!(bare(&rounds), bare(&whole.0[done..]), "{strategy}, after {done}");
            let rest: Vec<_> = whole.1.iter().filter(|row| row.round > done).cloned().collect();
            assert_eq!(rows, rest, "{strategy}, after {done}");
        }
    }
}

#[test]
fn the_schedule_is_the_seeds_whatever_is_in_flight() {
    let of = |in_flight| {
        let settings = settings("name = \"fedit\"", 5, &asynchronous(2), &format!("per_round = 4\n{DIFFERENT}"), "");
        let (rounds, rows, _) = toy::finish(&mut toy::run(toy::with_in_flight(settings, in_flight)));
        let told =
            |r: &RoundMetrics| (r.simulated_seconds, r.watt_hours, r.staleness, r.upload_bytes, r.download_bytes);
        let of = |r: &ClientMetrics| (r.round, r.client, r.staleness, r.simulated_seconds);
        (rounds.iter().map(told).collect::<Vec<_>>(), rows.iter().map(of).collect::<Vec<_>>())
    };
    assert_eq!(of(InFlight::Count(1)), of(InFlight::Count(4)));
}

#[test]
fn a_forecast_is_what_the_run_tells() {
    let (shards, all) = (toy::shards(6), toy::texts(75, 1));
    let texts = |client: usize| {
        let rows = &shards.train[client];
        Texts { rows: rows.len(), tokens: rows.iter().map(|&row| all.ids[row].len()).sum::<usize>() as f64 }
    };
    let night = DIFFERENT.replace("watts = 3", "watts = 3\navailability = { from = 0.01, to = 2 }");
    for strategy in ["fedit", "ffa-lora", "full"] {
        for (clients, devices) in
            [("", DIFFERENT), ("per_round = 3", DIFFERENT), ("dropout = 0.3", DIFFERENT), ("", night.as_str())]
        {
            for wire in ["", "[wire]\nupload = \"int8\"\ndownload = \"bf16\""] {
                let clients = format!("{clients}\n{devices}");
                let settings = settings(&format!("name = \"{strategy}\""), 8, &asynchronous(2), &clients, wire);
                let info = toy::model(&settings).info().clone();
                let told = forecast_of(&settings, &info, Task::Classify(toy::CLASSES), Choice::Widest, &texts).unwrap();
                let (rounds, rows, _) = finish(settings);
                let sum = |of: fn(&RoundMetrics) -> u64| rounds.iter().map(of).sum::<u64>();
                let seconds: Vec<f64> = rounds.iter().map(|round| round.simulated_seconds.unwrap()).collect();
                let what = format!("{strategy} {clients} {wire}");
                // The blocks of `full`'s numbers that share a scale are counted as if all lay in one matrix.
                let exact = strategy != "full" || wire.is_empty();
                if exact {
                    assert_eq!(told.upload_bytes, sum(|row| row.upload_bytes), "{what}");
                    assert_eq!(told.download_bytes, sum(|row| row.download_bytes), "{what}");
                    assert!((told.seconds - seconds.iter().sum::<f64>()).abs() < 1e-6, "{what}");
                    assert!((told.longest_round - seconds.iter().copied().fold(0.0, f64::max)).abs() < 1e-6, "{what}");
                    let watt_hours: f64 = rounds.iter().map(|row| row.watt_hours.unwrap()).sum();
                    assert!((told.watt_hours.unwrap() - watt_hours).abs() < 1e-9, "{what}");
                }
                assert!(rows.len() <= 16, "two uploads a version");
            }
        }
    }
}

#[test]
fn what_cannot_be_is_refused_by_its_key() {
    let with = |strategy: &str, more: &str, server: &str, clients: &str| {
        settings(&format!("name = \"{strategy}\""), 3, server, &format!("{clients}\n{ALIKE}"), more).problem()
    };
    for (strategy, why) in [
        ("lora-a2", "trains one factor a round"),
        ("rolora", "trains one factor a round"),
        ("fedrot-lora", "turns factors towards the model of one round"),
        ("replication", "the clients of a round"),
        ("fedlada", "the moments of one round"),
        ("fslora", "draws every client's slots"),
        ("sora", "takes slots away"),
        ("flora", "began with the same version"),
        ("fedex-lora", "began with the same version"),
        ("local", "sends nothing"),
    ] {
        let problem = with(strategy, "", &asynchronous(2), "").expect(strategy);
        let named = problem.what.contains(strategy) && problem.what.contains(why);
        assert!(problem.key == "server.asynchronous" && named, "{problem:?}");
    }
    let buffered = asynchronous(2);
    let median = format!("{buffered}\naggregate = {{ name = \"median\" }}");
    let buffered = buffered.as_str();
    for (more, server, clients, key, words) in [
        ("", "asynchronous = { buffer = 0 }", "", "server.asynchronous.buffer", "between 1 and clients.count = 6"),
        ("", "asynchronous = { buffer = 7 }", "", "server.asynchronous.buffer", "is 7"),
        ("", "asynchronous = { buffer = 2, staleness = -1 }", "", "server.asynchronous.staleness", "0 or more"),
        ("", buffered, "deadline = 5", "clients.deadline", "buffer full"),
        ("", buffered, "per_round = 2\nover_select = 0.5", "clients.over_select", "wait for nobody"),
        ("", median.as_str(), "", "server.aggregate", "must be the mean"),
        ("scaffold = true", buffered, "", "train.scaffold", "one version"),
        ("[wire]\ntop_k = 0.1", buffered, "", "wire.top_k", "length"),
        ("[wire]\ndeflate = true", buffered, "", "wire.deflate", "length"),
        ("[privacy]\nkind = \"gaussian\"\nclip = 1.0\nnoise = 0.1", buffered, "", "privacy", "whoever comes first"),
    ] {
        let problem = with("fedit", more, server, clients).unwrap_or_else(|| panic!("{key}: {words}"));
        assert!(problem.key == key && problem.what.contains(words), "{problem:?}");
    }
    let clockless = settings("name = \"fedit\"", 3, buffered, "", "").problem().expect("no clock");
    assert!(clockless.key == "server.asynchronous" && clockless.what.contains("[[clients.devices]]"), "{clockless:?}");
    let pruned = with("fedit\"\nprune = { threshold = 0.1 }\n#\"", "", buffered, "").expect("pruning");
    assert_eq!(pruned.key, "strategy.prune");
    // A run that could not begin says so too.
    let wrong = settings("name = \"lora-a2\"", 3, buffered, ALIKE, "");
    let (models, shards) = (vec![Box::new(toy::model(&wrong)) as Box<dyn Model>], toy::shards(6));
    let refused = Run::new(wrong, models, toy::data(&shards), shards).err().expect("refused").to_string();
    assert!(refused.contains("server.asynchronous"), "{refused}");
}
