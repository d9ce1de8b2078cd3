//! `--help`, completions, man pages, and the configuration explaining itself.

use serde_json::Value;

use crate::support::Room;

#[test]
fn help_shows_examples() {
    let room = Room::new();
    for command in [&["--help"][..], &["train", "--help"], &["doctor", "-h"], &["config", "--help"]] {
        let said = room.succeed(command);
        assert!(said.out.contains("Examples:\n  bonfire "), "{}", said.out);
    }
}

#[test]
fn shells_get_a_script_and_man_its_pages() {
    let room = Room::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = room.succeed(&["completions", shell]);
        for word in ["doctor", "--strategies", "--prompt"] {
            assert!(said.out.contains(word.trim_start_matches('-')), "{shell}: no {word}");
        }
    }
    room.refuse(2, &["fsh", "fish"], &["completions", "fsh"]);
    let said = room.succeed(&["man"]);
    assert!(said.out.contains(".TH bonfire 1") && said.out.contains("Examples"), "{}", said.out);
    room.succeed(&["man", "--out", "pages"]);
    for page in ["bonfire.1", "bonfire-train.1", "bonfire-doctor.1", "bonfire-config.1"] {
        assert!(room.read(&format!("pages/{page}")).contains(".TH"), "{page}");
    }
}

#[test]
fn shells_know_keys_strategies_and_devices() {
    let room = Room::new();
    for shell in ["bash", "zsh", "fish"] {
        let said = room.succeed(&["completions", shell]).out;
        for word in ["train.rounds=", "strategy.name=", "fedex-lora", "cuda", "cross-silo"] {
            assert!(said.contains(word), "{shell}: no {word}");
        }
    }
    for command in ["report", "completions", "man"] {
        let help = room.succeed(&[command, "--help"]).out;
        assert!(!help.contains("--set "), "{help}");
    }
    room.refuse(2, &["changes nothing"], &["completions", "bash", "--set", "train.rounds=3"]);
    room.refuse(2, &["changes nothing"], &["report", "x", "--set", "train.rounds=3"]);
}

#[test]
fn starters_are_written_and_work_as_they_are() {
    let room = Room::new();
    let quick = ["--set", "train.rounds=1", "--set", "clients.count=4", "--set", "train.batch_size=32", "--quiet"];
    for kind in ["classifier", "llm", "cross-silo", "planning"] {
        let file = format!("{kind}.toml");
        room.succeed(&["config", "--init", kind, &file]);
        assert_eq!(room.succeed(&["config", "--init", kind]).out, room.read(&file));
        let said = room.succeed(&["cost", &file, "--labels", "20", "--strategies", "fedit,lora-a2"]);
        assert!(said.out.contains("fedit"), "{kind}: {}", said.out);
        let per_round = if room.read(&file).contains("per_round") { "clients.per_round=2" } else { "clients.count=4" };
        room.succeed(&[&["train", &file, "--out", kind, "--set", per_round][..], &quick].concat());
        assert_eq!(room.rounds(kind).len(), 1, "{kind}");
    }
    assert_eq!(room.succeed(&["config", "--init", "full"]).out, room.succeed(&["config", "--init"]).out);
    room.refuse(
        2,
        &["no configuration `vision`", "classifier, llm, cross-silo, planning, full"],
        &["config", "--init", "vision", "x.toml"],
    );
    room.refuse(2, &["llm.toml is there already"], &["config", "--init", "llm", "llm.toml"]);
}

#[test]
fn the_schema_knows_the_strategies() {
    let said = Room::new().succeed(&["config", "--schema"]);
    let schema: Value = serde_json::from_str(&said.out).expect("JSON");
    let strategies = schema["properties"]["strategy"]["oneOf"].as_array().expect("one a strategy");
    let names: Vec<&str> = strategies.iter().filter_map(|s| s["properties"]["name"]["const"].as_str()).collect();
    assert!(names.contains(&"lora-a2") && names.contains(&"dfl") && names.len() == strategies.len(), "{names:?}");
}

#[test]
fn an_annotated_configuration_is_written_once_and_runs() {
    let room = Room::new();
    room.succeed(&["config", "--init", "run.toml"]);
    let written = room.read("run.toml");
    assert_eq!(room.succeed(&["config", "--init"]).out, written);
    room.refuse(2, &["run.toml is there already"], &["config", "--init", "run.toml"]);
    room.refuse(1, &["cannot write no/such"], &["config", "--init", "no/such/run.toml"]);
    assert_eq!(room.read("run.toml"), written);

    // It is the quickstart under another name.
    let of = |args: &[&str]| room.succeed(args).out;
    assert_eq!(of(&["config", "run.toml"]), of(&["config"]));
    let resolved = of(&["config", "run.toml", "--set", "train.rounds=3"]);
    assert!(resolved.contains("rounds = 3") && resolved.contains("device = \"cpu\""), "{resolved}");
    room.write("again.toml", &resolved);
    assert_eq!(of(&["config", "again.toml"]), resolved);

    room.refuse(2, &["rouns", "rounds"], &["config", "run.toml", "--set", "train.rouns=3"]);
    room.refuse(2, &["changes nothing"], &["config", "--schema", "--set", "train.rounds=3"]);
    room.refuse(2, &["--schema"], &["config", "run.toml", "--schema"]);
}
