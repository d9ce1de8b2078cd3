//! What a run says of itself: `run.log`, and JSON lines for programs.

use serde_json::Value;

use crate::support::{Room, short};

/// Every line as a JSON object with a time, a level and a message.
fn objects(text: &str) -> Vec<Value> {
    let object = |line: &str| -> Value {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let time = value["time"].as_str().unwrap_or_default();
        assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{line}");
        assert!(["info", "warn", "error"].contains(&value["level"].as_str().unwrap_or_default()), "{line}");
        assert!(value["message"].is_string(), "{line}");
        value
    };
    text.lines().map(object).collect()
}

#[test]
fn json_lines_are_json_and_rounds_have_their_metrics() {
    let room = Room::new();
    let said = room.succeed(&short(&["train", "--out", "run", "--log-format", "json"], &[]));
    let lines = objects(&said.out);
    assert!(objects(&said.err).iter().all(|line| line["level"] != "error"), "{}", said.err);
    let rounds: Vec<&Value> = lines.iter().filter(|line| line["train_loss"].is_number()).collect();
    assert_eq!(rounds.len(), 2, "{}", said.out);
    for (line, row) in rounds.iter().zip(room.rounds("run")) {
        for (name, value) in row.as_object().expect("an object") {
            assert_eq!(&line[name], value, "{name}");
        }
    }
    let configuration = lines.iter().find(|line| line["message"] == "configuration").expect("it is said");
    assert_eq!(configuration["train"]["rounds"], 2);
    let last = lines.last().expect("a line");
    assert_eq!(last["upload_bytes"], room.json("run/summary.json")["upload_bytes"]);
}

#[test]
fn a_start_says_what_matters_and_all_of_it_on_demand() {
    let room = Room::new();
    let said = room.succeed(&short(&["train", "--out", "run"], &["--set", "train.rounds=1"])).out;
    for words in [
        "strategy    lora-a2: rank 4",
        "budget 1",
        "learning rates: A 2e-3, B 1e-2, head 5e-3",
        "1 round of 4 of 4 clients",
    ] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    assert!(!said.contains("[train]") && said.contains("config.toml"), "{said}");
    let whole = room.succeed(&short(&["train", "-v", "--out", "all"], &["--set", "train.rounds=1"])).out;
    assert!(whole.contains("[train]") && whole.contains("weight_decay = 0.0"), "{whole}");
}

#[test]
fn a_comparison_says_which_cell_runs_and_how_far_it_is() {
    let room = Room::new();
    let args = ["compare", "--out", "cmp", "--strategies", "fedit,ffa-lora"];
    let said = room.succeed(&short(&args, &["--set", "train.log_every=0.001"])).out;
    for cell in [1, 2] {
        let line = said.lines().find(|line| line.starts_with(&format!("cell {cell} of 2, ")));
        assert!(line.is_some_and(|line| line.contains("round 1 of 2") || line.contains("round 2 of 2")), "{said}");
    }
    let silent = room.succeed(&short(
        &["compare", "--quiet", "--out", "q", "--strategies", "fedit"],
        &["--set", "train.log_every=0.001"],
    ));
    assert!(!silent.out.contains("cell 1"), "{}", silent.out);
}

#[test]
fn a_mistake_is_a_json_line_too() {
    let room = Room::new();
    let said = room.run(&["train", "--log-format", "json", "--set", "train.rouns=3"]);
    assert_eq!(said.code, Some(2));
    let lines = objects(&said.err);
    let error = lines.last().expect("a line");
    assert_eq!((lines.len(), error["level"].as_str()), (1, Some("error")));
    assert!(error["message"].as_str().is_some_and(|text| text.contains("rouns")), "{error}");
    assert_eq!(error["at"], "--set train.rouns=3");
    assert!(error["help"].as_str().is_some_and(|text| text.contains("rounds")), "{error}");
}

#[test]
fn quiet_json_is_the_result_alone() {
    let room = Room::new();
    let said = room.succeed(&short(&["train", "--quiet", "--out", "run", "--log-format", "json"], &[]));
    let lines = objects(&said.out);
    assert_eq!(lines.len(), 1, "{}", said.out);
    assert_eq!(lines[0]["rounds"], 2);
    assert!(said.err.is_empty(), "{}", said.err);
}

#[test]
fn what_was_asked_for_as_json_stays_as_it_is() {
    let room = Room::new();
    room.succeed(&short(&["train", "--quiet", "--out", "run"], &["--set", "train.rounds=1"]));
    let plain = room.succeed(&["evaluate", "run", "--json"]);
    let wrapped = room.succeed(&["evaluate", "run", "--json", "--log-format", "json"]);
    assert_eq!(plain.out, wrapped.out);
}

#[test]
fn the_log_holds_notes_rounds_and_the_error_that_ended_the_run() {
    let room = Room::new();
    // A key of the old strategy gives a note before the run folder is known.
    let kind = ["--set", "strategy.name=fedit", "--set", "clients.budget=full"];
    room.succeed(&short(&["train", "--quiet", "--out", "run"], &kind));
    let log = room.read("run/run.log");
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines.iter().all(|line| line.as_bytes()[10] == b'T' && line[24..].starts_with(' ')), "{log}");
    let rounds: Vec<&&str> = lines.iter().filter(|line| line.contains(" INFO  round ")).collect();
    assert_eq!(rounds.len(), 2, "{log}");
    assert!(rounds[1].contains("round 2 of 2") && rounds[1].contains("train_loss=") && rounds[1].contains("phase=AB"));

    // A learning rate that leads to numbers that are not finite ends a run.
    let wild = ["--set", "train.lr_a=1e30", "--set", "train.lr_b=1e30", "--set", "train.rounds=3"];
    let said = room.run(&short(&["train", "--quiet", "--out", "wild"], &wild));
    assert_eq!(said.code, Some(1), "{said:?}");
    let log = room.read("wild/run.log");
    let last = log.lines().last().expect("a line");
    assert!(last.contains(" ERROR ") && last.contains("because="), "{log}");
}

#[test]
fn notes_from_before_the_folder_was_known_come_first() {
    let room = Room::new();
    room.data(&[], &[]);
    let first = ["train", "--out", "run", "--set", "data.path=data", "--set", "strategy.name=fedit"];
    let last = ["--set", "data.labels=2", "--set", "clients.count=2", "--set", "clients.budget=full"];
    let said = room.succeed(&short(&first, &last));
    let notes: Vec<&str> = said.err.lines().filter_map(|line| line.strip_prefix("note: ")).collect();
    assert!(!notes.is_empty(), "keys of another strategy are left out: {}", said.err);
    let log = room.read("run/run.log");
    assert!(log.lines().next().is_some_and(|line| line.ends_with(notes[0])), "{log}");
}

#[test]
fn cells_of_a_comparison_have_logs_of_their_own() {
    let room = Room::new();
    room.succeed(&short(&["compare", "--out", "cmp", "--strategies", "ffa-lora,fedit"], &[]));
    for run in ["ffa-lora-r4-a0.1-s1", "fedit-r4-a0.1-s1"] {
        let found = std::fs::read_dir(room.path("cmp/runs")).expect("runs");
        let names: Vec<String> = found.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect();
        let strategy = run.split("-r4").next().expect("a name");
        let name = names.iter().find(|name| name.starts_with(strategy)).unwrap_or_else(|| panic!("{names:?}"));
        let log = room.read(&format!("cmp/runs/{name}/run.log"));
        assert_eq!(log.lines().filter(|line| line.contains(" INFO  round ")).count(), 2, "{log}");
    }
}

#[test]
fn a_dashboard_needs_a_terminal_and_somebody_to_watch() {
    let room = Room::new();
    room.refuse(2, &["--tui needs a terminal", "standard output"], &["train", "--tui"]);
    for (args, word) in [
        (vec!["train", "--tui", "--quiet"], "--quiet"),
        (vec!["--quiet", "train", "--tui"], "--quiet"),
        (vec!["train", "--tui", "--log-format", "json"], "--log-format json"),
    ] {
        room.refuse(2, &["'--tui' cannot be used with", word], &args);
    }
    assert!(!room.path("runs").exists());
}

#[test]
fn why_a_client_is_left_out_is_noted() {
    let room = Room::new();
    let said = room.succeed(&short(&["train", "--quiet", "--out", "run"], &["--set", "server.max_examples=80"]));
    assert!(
        said.err.contains("is left out: it says that it has") && said.err.contains("server.max_examples = 80"),
        "{}",
        said.err
    );
    assert!(room.read("run/run.log").contains("is left out: it says that it has"));
    assert!(!room.rounds("run")[0]["skipped"].as_array().expect("clients").is_empty());
}
