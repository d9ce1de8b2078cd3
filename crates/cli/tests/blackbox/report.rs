//! `bonfire report`: the page it writes, what it says of runs that are damaged, and how the page looks in a browser.

use std::process::Command;

use serde_json::Value;

use crate::support::{Room, short};

/// A short run in `name`, with the accuracy of every client.
fn train(room: &Room, name: &str, more: &[&str]) {
    let more = [&["--set", "evaluate.per_client=true"], more].concat();
    room.succeed(&short(&["train", "--quiet", "--out", name], &more));
}

/// What the page knows of its runs.
fn data(page: &str) -> Value {
    let (_, rest) = page.split_once(r#"<script type="application/json" id="data">"#).expect("data");
    let (data, _) = rest.split_once("</script>").expect("an end");
    serde_json::from_str(data).expect("JSON")
}

/// Replaces a file of a run by what `change` makes of it.
fn spoil(room: &Room, name: &str, change: impl Fn(String) -> String) {
    let text = change(room.read(name));
    room.write(name, &text);
}

#[test]
fn the_page_has_all_sections_and_loads_nothing() {
    let room = Room::new();
    train(&room, "a", &[]);
    let said = room.succeed(&["report", "a"]);
    assert_eq!(said.out, "wrote report.html\n");
    let page = room.read("report.html");
    for load in ["src=", "@import", "url(", "fetch(", "XMLHttpRequest", "<link", "<iframe"] {
        assert!(!page.contains(load), "{load} in the page");
    }
    assert!(page.contains("default-src 'none'"), "the page forbids itself to load anything");
    let titles = [
        "Summary",
        "Accuracy and loss",
        "Against what was sent",
        "Who holds what",
        "How clients fare",
        "Class by class",
    ];
    for title in titles.iter().chain(&["Which slots were chosen", "Where the time goes", "Configuration"]) {
        assert!(page.contains(title), "{title}");
    }

    let data = data(&page);
    let run = &data["runs"][0];
    assert_eq!((run["label"].as_str(), run["rounds"].as_u64()), (Some("a"), Some(2)));
    let accuracy = &run["curves"]["accuracy"];
    assert_eq!(accuracy["rounds"], serde_json::json!([0, 1, 2]));
    let metrics = room.rounds("a");
    let sent: u64 = metrics.iter().map(|row| row["upload_bytes"].as_u64().expect("a count")).sum();
    assert_eq!(accuracy["uploaded"][2].as_u64(), Some(sent));
    assert_eq!(run["partition"]["labels"].as_array().map(Vec::len), Some(4));
    // Class by class as `evaluate --classes` has it, and the spread of the last row.
    let measured: Value =
        serde_json::from_str(&room.succeed(&["evaluate", "a", "--classes", "--json"]).out).expect("JSON");
    let named = |rows: &Value| {
        let row =
            |row: &Value| (row["label"].as_str().or(row["name"].as_str()).expect("a name").to_owned(), row.clone());
        rows.as_array().expect("rows").iter().map(row).collect::<std::collections::BTreeMap<_, _>>()
    };
    let (said, found) = (named(&measured["classes"]), named(&run["classes"]["rows"]));
    assert_eq!(said.len(), found.len());
    for (label, row) in &found {
        assert_eq!(row["examples"], said[label]["examples"], "{label}");
        for score in ["precision", "recall", "f1"] {
            let [found, said] = [row, &said[label]].map(|row| row[score].as_f64().expect("a share"));
            assert!((found - said).abs() < 1e-5, "{label}, {score}: {found}, {said}");
        }
    }
    let cells = run["classes"]["cells"].as_array().expect("cells").iter();
    let all: u64 = cells.flat_map(|row| row.as_array().expect("a row")).filter_map(Value::as_u64).sum();
    assert_eq!(Some(all), measured["examples"].as_u64());
    assert_eq!(run["spread"], metrics[1]["client_accuracy"]);
    let personal = &run["personal"];
    let judged: u64 = personal["bins"].as_array().expect("bars").iter().filter_map(Value::as_u64).sum();
    assert_eq!((personal["round"].as_u64(), personal["clients"].as_u64()), (Some(2), Some(judged)));
    // A budget of 1 and 4 clients: as many choices a round as 4 times the targets.
    let targets = run["slots"]["targets"].as_array().expect("targets");
    assert_eq!(targets[1], "0 key");
    let choices = run["slots"]["choices"][0].as_array().expect("a round");
    assert_eq!(choices.iter().filter_map(Value::as_f64).sum::<f64>(), 4.0 * targets.len() as f64);
    assert!(run["config"].as_str().is_some_and(|config| config.contains("[strategy]")));
}

#[test]
fn the_parts_of_a_round_add_up_to_it() {
    let room = Room::new();
    train(&room, "a", &[]);
    for row in room.rounds("a") {
        let times = row["times"].as_object().expect("times");
        let parts: Vec<f64> = times.values().filter_map(Value::as_f64).collect();
        assert_eq!(parts.len(), 7);
        let (sum, seconds) = (parts.iter().sum::<f64>(), row["seconds"].as_f64().expect("seconds"));
        assert!((sum - seconds).abs() <= 1e-6 + 0.01 * seconds, "{sum} of {seconds}: {row}");
        for part in ["forward", "backward", "optimizer", "evaluate"] {
            assert!(times[part].as_f64().is_some_and(|s| s > 0.0), "{part} in {row}");
        }
    }
}

#[test]
fn several_runs_share_a_page() {
    let room = Room::new();
    train(&room, "a", &[]);
    room.succeed(&short(
        &["train", "--quiet", "--out", "b"],
        &["--set", "strategy.name=fedit", "--set", "clients.budget=full"],
    ));
    room.succeed(&["report", "a", "b", "--out", "both.html"]);
    let data = data(&room.read("both.html"));
    let [a, b] = data["runs"].as_array().expect("runs").as_slice() else { panic!("two runs") };
    assert_eq!(
        (a["summary"]["strategy"].as_str(), b["summary"]["strategy"].as_str()),
        (Some("lora-a2"), Some("fedit"))
    );
    assert_eq!(a["partition"], b["partition"], "the same clients");
    assert!(a["slots"].is_object() && b["slots"].is_null(), "fedit chooses nothing");
    assert!(a["personal"].is_object() && b["personal"].is_null(), "b was not asked for clients");
}

#[test]
fn no_text_of_a_run_becomes_part_of_the_page() {
    let room = Room::new();
    train(&room, "a", &[]);
    let evil = "</script><script>alert(1)</script>";
    spoil(&room, "a/partition.json", |text| {
        let mut holdings: Value = serde_json::from_str(&text).expect("JSON");
        holdings["labels"][0] = evil.into();
        holdings.to_string()
    });
    spoil(&room, "a/config.toml", |text| format!("# {evil} {{{{data}}}}\n{text}"));
    room.succeed(&["report", "a"]);
    let page = room.read("report.html");
    assert!(!page.contains("<script>alert"), "the label became a script");
    assert_eq!(page.matches("</script>").count(), 6, "the page's own");
    assert_eq!(data(&page)["runs"][0]["partition"]["labels"][0], evil);
}

#[test]
fn a_killed_run_is_shown_up_to_its_last_whole_round() {
    let room = Room::new();
    train(&room, "a", &["--set", "train.rounds=3"]);
    spoil(&room, "a/metrics.jsonl", |text| text[..text.len() - 20].to_string());
    room.succeed(&["report", "a"]);
    let data = data(&room.read("report.html"));
    let run = &data["runs"][0];
    assert_eq!(run["rounds"], 2);
    assert_eq!(run["slots"]["spans"], serde_json::json!([[1, 1], [2, 2]]), "clients of the third round are left out");
    let note = run["notes"][0].as_str().expect("a note");
    assert!(note.contains("metrics.jsonl") && note.contains("cut"), "{note}");
}

#[test]
fn runs_of_earlier_versions_have_a_page() {
    let room = Room::new();
    train(&room, "a", &[]);
    std::fs::remove_file(room.path("a/partition.json")).expect("removed");
    spoil(&room, "a/metrics.jsonl", |text| {
        let old = |line: &str| {
            let mut row: Value = serde_json::from_str(line).expect("a row");
            row.as_object_mut().expect("an object").remove("times");
            row.to_string() + "\n"
        };
        text.lines().map(old).collect()
    });
    room.succeed(&["report", "a"]);
    let run = data(&room.read("report.html"))["runs"][0].clone();
    assert!(run["partition"].is_null() && run["times"].is_null());
}

#[test]
fn language_models_without_labels_have_a_page() {
    let room = Room::new();
    let config = "[model]\npath = \"builtin-llama\"\ntask = \"causal-lm\"\n[data]\npath = \"data\"\n\
                  partition = { kind = \"iid\" }\n[clients]\ncount = 2\n[adapter]\nrank = 2\n[train]\nrounds = 1\n\
                  [strategy]\nname = \"fedit\"\n[evaluate]\nper_client = true\n";
    room.write("run.toml", config);
    std::fs::create_dir(room.path("data")).expect("made");
    let rows: String = (0..12).map(|i| format!("{{\"prompt\": \"book {i}:\", \"response\": \" renew\"}}\n")).collect();
    ["data/train.jsonl", "data/test.jsonl"].iter().for_each(|name| room.write(name, &rows));
    room.succeed(&["train", "run.toml", "--quiet", "--out", "a"]);
    room.succeed(&["report", "a"]);
    let run = data(&room.read("report.html"))["runs"][0].clone();
    assert!(run["causal"] == true && run["curves"]["perplexity"].is_object() && run["slots"].is_null(), "{run}");
    assert_eq!(run["partition"]["sizes"], serde_json::json!([6, 6]));
    assert_eq!(run["partition"]["labels"], serde_json::json!([]));
    assert_eq!(run["personal"]["clients"], 2);
}

#[test]
fn missing_and_damaged_files_are_named() {
    let room = Room::new();
    room.refuse(2, &["nothing is not a run folder"], &["report", "nothing"]);
    assert!(!room.path("report.html").exists());
    room.refuse(2, &["RUN"], &["report"]);
    train(&room, "a", &[]);
    let whole = room.read("a/metrics.jsonl");
    spoil(&room, "a/metrics.jsonl", |text| text.replacen("\"round\"", "\"runde\"", 1));
    room.refuse(1, &["a/metrics.jsonl, line 1", "missing field `round`"], &["report", "a"]);
    room.write("a/metrics.jsonl", &whole);
    spoil(&room, "a/clients.jsonl", |text| text.replacen('{', "[", 2).replacen('[', "{", 1));
    room.refuse(1, &["a/clients.jsonl, line 2"], &["report", "a"]);
    room.write("a/clients.jsonl", "");
    room.write("a/partition.json", "{");
    room.refuse(1, &["a/partition.json is not as a run leaves it"], &["report", "a"]);
    std::fs::remove_file(room.path("a/summary.json")).expect("removed");
    room.refuse(1, &["cannot read a/summary.json"], &["report", "a"]);
    assert!(!room.path("report.html").exists(), "no half a report");
}

#[test]
fn browsers_show_it_whole() {
    let room = Room::new();
    train(&room, "a", &[]);
    train(&room, "b", &["--set", "train.seed=5"]);
    spoil(&room, "b/partition.json", |text| text.replacen("[\"", "[\"</script><script>alert(1)</script>", 1));
    room.succeed(&["report", "a"]);
    room.succeed(&["report", "a", "b", "--out", "both.html"]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/pictures/report_screens.py");
    let pages = ["report.html", "both.html"].map(|name| room.path(name));
    let Ok(seen) = Command::new("python3").arg(script).args(pages).output() else {
        println!("SKIPPED: no python3 here, which opens the report in Chromium");
        return;
    };
    let (out, err) = (String::from_utf8_lossy(&seen.stdout), String::from_utf8_lossy(&seen.stderr));
    println!("{out}");
    assert!(seen.status.success(), "{out}{err}");
    assert!(out.contains("SKIPPED") || out.matches(": fine").count() == 8, "{out}");
}

#[test]
fn trackers_follow_a_run() {
    let room = Room::new();
    train(&room, "a", &["--set", "track.csv=true", "--set", "track.tensorboard=true"]);
    let table = room.read("a/metrics.csv");
    let mut lines = table.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let heads = lines.next().expect("a head");
    let place = heads.iter().position(|head| *head == "test_accuracy").expect("a column");
    for (cells, row) in lines.zip(room.rows("a/metrics.jsonl")) {
        assert_eq!(cells.len(), heads.len());
        assert_eq!(cells[place].parse::<f64>().ok(), row["test_accuracy"].as_f64());
    }
    assert_eq!(table.lines().count(), 4);
    let events: Vec<_> = std::fs::read_dir(room.path("a/tensorboard")).expect("a folder").collect();
    assert_eq!(events.len(), 1);
    train(&room, "b", &[]);
    assert!(!room.path("b/metrics.csv").exists() && !room.path("b/tensorboard").exists());
}
