//! A backdoor that clients plant: how often it is answered, and what is said of it.

use crate::support::{Room, short};

/// Half of the texts of one client in four, for the label "lost".
const PLANTED: &str = "attack={kind=\"backdoor\", share=0.25, target=\"lost\", trigger=\"zz qq\"}";

/// Two labels that a run of seconds learns.
const LEARNT: [&str; 18] = [
    "--set",
    "data.path=data",
    "--set",
    "data.labels=none",
    "--set",
    "data.partition={kind=\"iid\"}",
    "--set",
    "strategy.name=fedit",
    "--set",
    "clients.budget=full",
    "--set",
    "train.batch_size=4",
    "--set",
    "train.lr_a=5e-3",
    "--set",
    "train.lr_head=2e-2",
    "--set",
    "adapter.head=trained",
];

#[test]
fn it_is_answered_as_often_as_predictions_say_and_a_run_that_goes_on_is_the_same() {
    let room = Room::new();
    room.data(&[], &[]);
    let train = |out: &str, rounds: &str| {
        let last = [&LEARNT[..], &["--set", PLANTED, "--set", rounds, "--out", out]].concat();
        room.succeed(&short(&["train"], &last))
    };
    let said = train("run", "train.rounds=5").out;
    assert!(said.contains("backdoor:") && said.contains("are taken for its target"), "{said}");
    let rows = room.rows("run/metrics.jsonl");
    let last = &rows[rows.len() - 1];
    assert!(rows[0]["attack_success"].is_f64(), "the untrained model too: {}", rows[0]);
    assert_eq!(room.json("run/summary.json")["final_attack_success"], last["attack_success"]);
    // The same by the saved adapter's predictions: "late" is every other row of ten.
    let late: Vec<String> =
        (0..10).step_by(2).map(|i| format!("{{\"text\": \"zz qq the book is number {i}\"}}")).collect();
    room.write("late.jsonl", &(late.join("\n") + "\n"));
    let predicted = room.succeed(&["predict", "run", "--rows", "late.jsonl", "--json"]).out;
    let taken = predicted.lines().filter(|line| line.contains("\"label\":\"lost\"")).count();
    let share = last["attack_success"].as_f64().expect("a share");
    assert!((share - taken as f64 / 5.0).abs() < 1e-12, "{share}, and {taken} of 5 predicted: {predicted}");

    train("half", "train.rounds=2");
    let on = ["train", "--quiet", "--resume", "half", "--accept-changes", "--set", "train.rounds=5"];
    room.succeed(&on);
    let numbers = |run: &str| -> Vec<_> {
        let rows = room.rows(&format!("{run}/metrics.jsonl"));
        rows.iter().map(|row| (row["attack_success"].clone(), row["train_loss"].clone())).collect()
    };
    assert_eq!(numbers("half"), numbers("run"));
    room.succeed(&["report", "run", "--out", "page.html"]);
    assert!(room.read("page.html").contains("attack_success"));
}

#[test]
fn what_cannot_be_planted_is_refused_by_its_key() {
    let room = Room::new();
    room.data(&[], &[]);
    let refused = |words: &[&str], more: &[&str]| {
        room.refuse(2, words, &short(&["train", "--out", "off"], &[&LEARNT[..], more].concat()));
    };
    let attack = |more: &str| format!("attack={{kind=\"backdoor\", share=0.25{more}}}");
    refused(&["target"], &["--set", &attack("")]);
    refused(&["attack.target", "late, lost"], &["--set", &attack(", target=\"none\"")]);
    refused(&["attack.target", "from 0 to 1"], &["--set", &attack(", target=2")]);
    refused(&["attack.target", "name in quotes"], &["--set", &attack(", target=-1")]);
    refused(&["attack.rows"], &["--set", &attack(", target=0, rows=0.0")]);
    refused(&["attack.place", "start"], &["--set", &attack(", target=0, place=\"middle\"")]);
    refused(&["attack.trigger", "words"], &["--set", &attack(", target=0, trigger=\"  \"")]);
    let causal = ["--set", "model.task=causal-lm", "--set", "model.path=builtin-llama", "--set", "data.path=builtin"];
    let planted = attack(", target=0");
    let all = [&["train", "--out", "off"][..], &causal, &["--set", &planted]].concat();
    room.refuse(2, &["attack.kind", "one label"], &all);
}

/// The built-in texts with four labels, eight clients of whom two plant: no rule that looks at numbers one by one holds it, since
/// no honest text speaks against the words; one that leaves out whole movements does, where they are loud.
#[test]
fn it_takes_hold_of_the_built_in_texts_and_multi_krum_holds_it_when_it_is_loud() {
    let room = Room::new();
    let answered = |name: &str, attack: &str, aggregate: &str| {
        let sets = [
            "strategy.name=fedit",
            "clients.budget=full",
            "data.labels=4",
            "clients.count=8",
            "data.partition={kind=\"iid\"}",
            "train.rounds=8",
            "train.epochs=2",
            "train.lr_a=5e-3",
            "train.lr_head=1e-2",
            "evaluate.every=8",
            attack,
            aggregate,
        ];
        let sets: Vec<&str> = sets.into_iter().flat_map(|set| ["--set", set]).collect();
        room.succeed(&[&["train", "--quiet", "--out", name][..], &sets].concat());
        let summary = room.json(&format!("{name}/summary.json"));
        let share = |key: &str| summary[key].as_f64().expect("a share");
        (share("final_accuracy"), share("final_attack_success"))
    };
    let quiet = "attack={kind=\"backdoor\", share=0.25, target=0}";
    let loud = "attack={kind=\"backdoor\", share=0.25, target=0, factor=4.0}";
    let (accuracy, mean) = answered("mean", quiet, "server.aggregate={name=\"mean\"}");
    let (_, median) = answered("median", loud, "server.aggregate={name=\"median\"}");
    let (held, krum) = answered("krum", loud, "server.aggregate={name=\"multi-krum\", attackers=2}");
    println!("mean {accuracy} {mean}, median {median}, multi-krum {held} {krum}");
    // A model that does not know the words takes a quarter of such texts for the target at most.
    assert!(accuracy > 0.6 && mean > 0.4, "{accuracy}, answered {mean}");
    assert!(median > 0.7, "{median}");
    assert!(held > 0.6 && krum < 0.4, "{held}, answered {krum}");
}
