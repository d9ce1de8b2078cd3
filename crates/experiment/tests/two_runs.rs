//! Whole experiments through the public calls: two at a time, watched, and ended on the way.
#![cfg(feature = "flex")]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bonfire_experiment::{Experiment, Interrupt, RunConfig, Watch};
use bonfire_federation::{ClientMetrics, RoundMetrics};

/// A run of seconds of so many rounds.
fn config(rounds: usize, strategy: &str) -> String {
    format!(
        r#"
name = "{strategy}"
[model]
path = "builtin"
[data]
path = "builtin"
labels = 4
min_shard = 4
partition = {{ kind = "iid" }}
[clients]
count = 4
[adapter]
rank = 2
[train]
rounds = {rounds}
epochs = 1
seed = 7
[strategy]
name = "{strategy}"
[engine]
device = "cpu"
"#
    )
}

fn load(folder: &Path, rounds: usize, strategy: &str, interrupt: &Arc<Interrupt>) -> Experiment {
    let mut checked = RunConfig::from_toml(&config(rounds, strategy)).expect("it can work");
    checked.notices.push(format!("a note on {strategy}"));
    Experiment::load(checked, Some(folder), Arc::clone(interrupt), &mut ()).expect("it can be read")
}

/// The messages of a log, times and levels left out.
fn messages(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("run.log")).expect("a log");
    text.lines().map(|line| line[31..].to_string()).collect()
}

#[test]
fn two_runs_in_two_threads_keep_their_own_logs() {
    let room = tempfile::tempdir().expect("a folder");
    std::thread::scope(|scope| {
        for (rounds, strategy) in [(2, "fedit"), (3, "ffa-lora")] {
            let folder = room.path().join(strategy);
            scope.spawn(move || {
                let mut experiment = load(&folder, rounds, strategy, &Arc::default());
                let summary = experiment.train(&mut ()).expect("it trains");
                assert_eq!((summary.rounds, summary.strategy.as_str()), (rounds, strategy));
            });
        }
    });
    for (rounds, strategy) in [(2, "fedit"), (3, "ffa-lora")] {
        let said = messages(&room.path().join(strategy));
        assert_eq!(said[0], format!("a note on {strategy}"), "{said:?}");
        assert_eq!(said.len(), 2 + rounds, "{said:?}");
        assert!(said[1].starts_with("the untrained model "), "{said:?}");
        for (number, line) in (1..).zip(&said[2..]) {
            assert!(line.starts_with(&format!("round {number} of {rounds} ")), "{line}");
        }
    }
}

/// Counts what it hears, and breaks off after a round or inside one.
#[derive(Default)]
struct Counting {
    started: usize,
    steps: usize,
    ended: Vec<usize>,
    stop_after: Option<usize>,
    give_up_in: Option<usize>,
}

impl Watch for Counting {
    fn round_started(&mut self, round: usize, phase: &str, clients: usize) -> ControlFlow<()> {
        assert_eq!((phase, clients), ("AB", 4));
        self.started = round;
        ControlFlow::Continue(())
    }

    fn step_done(&mut self, progress: bonfire_federation::Progress) -> ControlFlow<()> {
        assert!(progress.done <= progress.total);
        self.steps += 1;
        if self.give_up_in == Some(self.started) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn round_ended(&mut self, metrics: &RoundMetrics, clients: &[ClientMetrics], sent: u64) -> ControlFlow<()> {
        assert!(clients.len() == 4 && sent >= metrics.upload_bytes);
        self.ended.push(metrics.round);
        if self.stop_after == Some(metrics.round) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn whoever_watches_ends_a_run_and_goes_on_with_it() {
    let room = tempfile::tempdir().expect("a folder");
    let (whole, cut) = (room.path().join("whole"), room.path().join("cut"));
    load(&whole, 4, "fedit", &Arc::default()).train(&mut ()).expect("it trains");

    let interrupt = Arc::new(Interrupt::default());
    let mut experiment = load(&cut, 4, "fedit", &interrupt);
    let mut watch = Counting { stop_after: Some(1), ..Counting::default() };
    assert_eq!(experiment.train(&mut watch).expect("it stops").rounds, 1);
    let mut watch = Counting { give_up_in: Some(2), ..Counting::default() };
    assert_eq!(experiment.train(&mut watch).expect("it stops").rounds, 1);
    assert!(watch.steps > 0 && watch.ended.is_empty());
    let mut watch = Counting::default();
    assert_eq!(experiment.train(&mut watch).expect("it goes on").rounds, 4);
    assert_eq!(watch.ended, [2, 3, 4]);
    // Nothing was lost by stopping: the rows that do not tell time are those of a run in one go.
    for file in ["clients.jsonl", "adapter/adapter_model.safetensors"] {
        let [a, b] = [&whole, &cut].map(|run| std::fs::read(run.join(file)).expect("written"));
        assert!(a == b, "{file} differs");
    }
    let folder = experiment.folder().to_path_buf();
    assert_eq!(folder, cut);

    interrupt.give_up();
    let mut never = load(&room.path().join("never"), 4, "fedit", &interrupt);
    assert_eq!(never.train(&mut ()).expect("it stops").rounds, 0);
}

#[test]
fn what_is_in_the_way_is_said_before_anything_is_read() {
    let room = tempfile::tempdir().expect("a folder");
    std::fs::write(room.path().join("mine"), "x").expect("written");
    let checked = RunConfig::from_toml(&config(1, "fedit")).expect("it can work");
    let refused = Experiment::load(checked, Some(room.path()), Arc::default(), &mut ()).err().expect("refused");
    assert!(refused.to_string().contains("is not an empty folder"), "{refused}");
    let mistake = RunConfig::from_toml("[train]\nrouns = 3\n").err().expect("no configuration");
    assert!(mistake.place.is_some_and(|place| place.contains("line 2")), "{}", mistake.what);
}
