//! A run that was stopped and taken up again from its checkpoint is a run that never stopped, whatever the strategy keeps.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bonfire_federation::{Checkpoint, CheckpointError, ClientMetrics, Event, RoundMetrics, Run, Settings};
use bonfire_tests::toy::{self, STRATEGIES};
use proptest::prelude::*;

/// Besides every strategy: runs that keep other kinds of things between rounds.
const RUNS: &[&str] = &[
    "[strategy]\nname = \"lora-a2\"\n[clients]\ncount = 4\nbudget = 1\n[wire]\nupload = \"int4\"\ntop_k = 0.2\ndownload = \"bf16\"",
    "[strategy]\nname = \"full\"",
    "[strategy]\nname = \"fedit\"\n[attack]\nkind = \"backdoor\"\nshare = 0.5\ntarget = 1\nfactor = 2.0",
    "[strategy]\nname = \"fedit\"\n[server]\noptimizer = { name = \"fedadam\", lr = 0.01 }",
    "[strategy]\nname = \"fedit\"\n[server]\naggregate = { name = \"q-fedavg\", q = 2.0 }",
    "[strategy]\nname = \"fedsa-lora\"\n[server]\naggregate = { name = \"q-fedavg\" }",
    "[strategy]\nname = \"fedit\"\n[train]\nrounds = 4\nlr_a = 1e-3\nbatch_size = 4\nscaffold = true",
    "[strategy]\nname = \"lora-a2\"\n[clients]\ncount = 6\nper_round = 3\ndropout = 0.3\nbudget = 1",
    // What is kept of a factor that is frozen in the round where the run stops.
    "[strategy]\nname = \"rolora\"\n[train]\nrounds = 4\nlr_a = 1e-3\nbatch_size = 4\nscaffold = true",
    "[strategy]\nname = \"lora-a2\"\n[clients]\ncount = 4\nbudget = 1\n[server]\noptimizer = { name = \"fedadam\", lr = 0.01 }",
    "[strategy]\nname = \"clustered\"\ngroups = 2\n[clients]\ncount = 6\nper_round = 3\n[wire]\nupload = \"int4\"",
    "[strategy]\nname = \"fedsa-lora\"\n[train]\nrounds = 4\nlr_a = 1e-3\nbatch_size = 4\nprox = 2.0",
];

fn settings(sections: &str) -> Settings {
    let train = if sections.contains("[train]") { "" } else { "[train]\nrounds = 4\nlr_a = 1e-3\nbatch_size = 4\n" };
    toy::settings(&format!("{train}[adapter]\nrank = 4\nhead = \"trained\"\n{sections}"))
}

type Rows = (Vec<RoundMetrics>, Vec<ClientMetrics>);

/// Trains up to and with round `last`; the rows, without what the clock says.
fn train(run: &mut Run, last: usize) -> Rows {
    let (mut rounds, mut rows) = (Vec::new(), Vec::new());
    run.train(&mut |event| {
        let Event::RoundEnded { metrics, clients, .. } = event else { return ControlFlow::Continue(()) };
        rounds.push(RoundMetrics { seconds: 0.0, train_seconds: 0.0, times: None, ..metrics.clone() });
        rows.extend(clients.to_vec());
        if metrics.round == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    (rounds, rows)
}

#[test]
fn every_strategy_goes_on_as_if_it_had_never_stopped() {
    let strategies = STRATEGIES.iter().map(|strategy| format!("[strategy]\n{strategy}"));
    for sections in strategies.chain(RUNS.iter().map(|text| text.to_string())) {
        let sections = sections.as_str();
        let mut whole = toy::run(settings(sections));
        let expected = train(&mut whole, 4);
        for stop in [0, 1, 3] {
            let mut before = toy::run(settings(sections));
            let mut rows = if stop == 0 { Rows::default() } else { train(&mut before, stop) };
            let bytes = before.checkpoint(&BTreeMap::new());
            drop(before);
            let mut after = toy::run(settings(sections));
            after.resume(Checkpoint::read(&bytes).unwrap()).unwrap_or_else(|e| panic!("{sections}: {e}"));
            assert_eq!(after.server().round, stop);
            let rest = train(&mut after, 4);
            rows.0.extend(rest.0);
            rows.1.extend(rest.1);
            assert_eq!(rows, expected, "{sections}, stopped after {stop}");
            assert_eq!(after.server(), whole.server(), "{sections}, stopped after {stop}");
            let personal_models = |run: &Run| run.personal_models().collect::<Vec<_>>();
            assert_eq!(personal_models(&after), personal_models(&whole), "{sections}, stopped after {stop}");
        }
    }
}

/// What lets `--resume` take more rounds without a question.
#[test]
fn where_rounds_are_not_counted_more_of_them_change_nothing_before() {
    let more =
        ["[strategy]\nname = \"fedit\"\n[train]\nrounds = 4\nlr_a = 1e-3\nbatch_size = 4\nschedule = \"cosine\""];
    let strategies = STRATEGIES.iter().map(|strategy| format!("[strategy]\n{strategy}"));
    let mut counting = 0;
    for sections in strategies.chain(RUNS.iter().chain(&more).map(|text| text.to_string())) {
        let of = |rounds| {
            let mut settings = settings(&sections);
            settings.train.rounds = rounds;
            settings
        };
        if of(2).counts_rounds() {
            counting += 1;
            continue;
        }
        let (mut few, mut many) = (toy::run(of(2)), toy::run(of(40)));
        let both = (train(&mut few, 2), train(&mut many, 2));
        assert_eq!(few.server(), many.server(), "{sections}");
        // The last round is always evaluated.
        assert_eq!(both.0.1, both.1.1, "{sections}");
    }
    assert_eq!(counting, 1, "SA-FedLoRA alone goes by its rounds");
    for sections in [
        "[train]\nlr_rounds = { schedule = \"cosine\" }",
        "[train]\nflat = { rho = 0.05 }",
        "[server]\nschedule = { schedule = \"cosine\" }",
        "[privacy]\nkind = \"gaussian\"\nclip = 1.0\nnoise = 1.0",
    ] {
        assert!(toy::settings(sections).counts_rounds(), "{sections}");
    }
}

/// For GPUs, whose sums may depend on the order of threads; `.ci/run` runs it on wgpu.
#[test]
fn on_any_device_a_run_that_goes_on_ends_where_it_would_have() {
    let sections = "[strategy]\nname = \"lora-a2\"\n[train]\nrounds = 3\nlr_a = 1e-3\nbatch_size = 4";
    let mut whole = toy::run(settings(sections));
    train(&mut whole, 3);
    let mut before = toy::run(settings(sections));
    train(&mut before, 1);
    let bytes = before.checkpoint(&BTreeMap::new());
    let mut after = toy::run(settings(sections));
    after.resume(Checkpoint::read(&bytes).unwrap()).unwrap();
    train(&mut after, 3);
    let (whole, after) = (&whole.server().adapter, &after.server().adapter);
    for (x, y) in whole.a.iter().chain(&whole.b).zip(after.a.iter().chain(&after.b)) {
        let largest = x.data.iter().fold(0f32, |m, v| m.max(v.abs()));
        let apart = x.data.iter().zip(&y.data).fold(0f32, |m, (x, y)| m.max((x - y).abs()));
        assert!(apart <= 1e-4 * largest, "apart by {apart:e} of {largest:e}");
    }
}

fn saved() -> Vec<u8> {
    let mut run = toy::run(settings("[strategy]\nname = \"fedsa-lora\""));
    train(&mut run, 2);
    run.checkpoint(&BTreeMap::from([("note".to_string(), "mine".to_string())]))
}

#[test]
fn notes_come_back_and_other_runs_are_refused() {
    let checkpoint = Checkpoint::read(&saved()).unwrap();
    assert_eq!((checkpoint.round(), checkpoint.notes["note"].as_str()), (2, "mine"));
    let refused = |sections: &str, words: &str| {
        let mut run = toy::run(settings(sections));
        let before = run.server().clone();
        let error = run.resume(checkpoint.clone()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(run.server(), &before, "a refused checkpoint changes nothing");
    };
    let own = "[strategy]\nname = \"fedsa-lora\"";
    refused(&format!("{own}\n[clients]\ncount = 5"), "it has 4 clients, this run 5");
    refused("", "it is of strategy fedsa-lora, this run of fedit");
    let mut wider = settings(own);
    wider.adapter.rank = 5;
    let error = toy::run(wider).resume(checkpoint.clone()).unwrap_err().to_string();
    assert!(error.contains("its adapter has rank 4, this run's 5"), "{error}");
    let mut fewer = settings(own);
    fewer.adapter.targets = bonfire_models::Targets::Some(vec![bonfire_models::TargetKind::Query]);
    let error = toy::run(fewer).resume(checkpoint.clone()).unwrap_err().to_string();
    assert!(error.contains("other linears"), "{error}");
    let mut shards = toy::shards(4);
    shards.train[0].swap(0, 1);
    let error = toy::run_with(settings(own), shards).resume(checkpoint.clone()).unwrap_err().to_string();
    assert!(error.contains("not what they were"), "{error}");
}

#[test]
fn every_cut_and_every_flipped_bit_is_noticed() {
    let bytes = saved();
    for length in (0..bytes.len()).step_by(997).chain([7, 8, 11, 12, 19, 20, 51, 52, 53, bytes.len() - 1]) {
        Checkpoint::read(&bytes[..length]).unwrap_err();
    }
    for at in (0..bytes.len()).step_by(991).chain(0..60) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        Checkpoint::read(&flipped).unwrap_err();
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(Checkpoint::read(&longer), Err(CheckpointError::Length { .. })));
    assert!(matches!(Checkpoint::read(b"not at all"), Err(CheckpointError::Foreign)));
    let mut newer = bytes;
    newer[8] = 9;
    assert_eq!(Checkpoint::read(&newer).unwrap_err(), CheckpointError::Version(9));
}

/// A head that fits whatever follows it, so that what reads the contents is met too.
fn seal(payload: &[u8]) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let mut bytes = b"BONFIRE\0\x01\0\0\0".to_vec();
    bytes.extend((payload.len() as u64).to_le_bytes());
    bytes.extend(Sha256::digest(payload));
    bytes.extend(payload);
    bytes
}

proptest! {
    #![proptest_config(crate::cases::cases(256))]

    #[test]
    fn any_bytes_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        Checkpoint::read(&bytes).unwrap_err();
        Checkpoint::read(&seal(&bytes)).unwrap_err();
    }
}

#[test]
fn contents_that_were_tampered_with_are_refused_or_fit() {
    // The checksum is no signature: somebody may have made it fit.
    let payload = saved()[52..].to_vec();
    let text = String::from_utf8_lossy(&payload[..payload.len().min(6000)]).into_owned();
    let end = text.find("\"a/0\"").map_or(2000, |at| at + 2000);
    let mut run = toy::run(settings("[strategy]\nname = \"fedsa-lora\""));
    let before = run.server().clone();
    let mut read = 0;
    for at in (8..end).step_by(3) {
        for with in [b'9', b'0', b'\"', b'-', 0xff] {
            let mut other = payload.clone();
            other[at] = with;
            let Ok(checkpoint) = Checkpoint::read(&seal(&other)) else { continue };
            read += 1;
            if run.resume(checkpoint).is_err() {
                continue;
            }
            // What fits may say another round or scale; it still has the model's shapes.
            assert_eq!(run.server().adapter.a.len(), before.adapter.a.len());
            run.resume(Checkpoint::read(&seal(&payload)).unwrap()).unwrap();
        }
    }
    assert!(read > 0, "some changes can be read");
}
