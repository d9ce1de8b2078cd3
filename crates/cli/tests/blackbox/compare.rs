//! `bonfire compare`: the grid runs once, its files say what was measured, and nothing is mixed up or lost.

use std::path::Path;
use std::time::SystemTime;

use crate::support::{Room, short};

/// A grid of eight cells, a second or two each.
const GRID: [&str; 8] =
    ["--strategies", "lora-a2,fedit:train.lr_b=1e-2", "--ranks", "1,2", "--alphas", "0.5", "--seeds", "0,1"];

fn compare<'a>(first: &[&'a str], last: &[&'a str]) -> Vec<&'a str> {
    short(&[&["compare", "--out", "cmp"], first].concat(), last)
}

fn changed(path: &Path) -> SystemTime {
    path.metadata().and_then(|data| data.modified()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_grid_leaves_runs_a_table_and_pictures_and_is_not_run_again() {
    let room = Room::new();
    let said = room.succeed(&compare(&GRID, &[]));
    assert!(said.out.contains("2 variants × 2 ranks × 1 partition × 2 seeds = 8 cells, 8 to run"), "{}", said.out);
    assert!(said.out.contains("[1/8] lora-a2") && said.out.contains("[8/8] fedit"), "{}", said.out);

    let all = room.json("cmp/compare.json");
    let cells = all["cells"].as_array().expect("cells");
    assert_eq!((cells.len(), all["groups"].as_array().map(Vec::len)), (8, Some(4)));
    for cell in cells {
        let run = format!("cmp/{}", cell["run"].as_str().expect("a folder"));
        assert_eq!(room.rounds(&run).len(), 2);
        let summary = room.json(&format!("{run}/summary.json"));
        for field in ["final_accuracy", "upload_bytes", "download_bytes", "train_seconds", "seed", "strategy"] {
            assert_eq!(cell[field], summary[field], "{field} in {cell}");
        }
        assert_eq!(cell["curve"][2]["upload_bytes"], summary["upload_bytes"]);
        assert!(room.path(&run).join("adapter/adapter_model.safetensors").is_file());
    }
    let (table, labels) = (room.read("cmp/table.md"), ["lora-a2 ", "fedit:train.lr_b=1e-2 "]);
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| -")).collect();
    assert!(rows.len() == 6 && rows[1].contains("untrained"), "{table}");
    for (row, start) in rows[2..].iter().zip(["| 2", "| 2", "| 1", "| 1"].iter().zip(labels.iter().cycle())) {
        assert!(row.starts_with(start.0) && row.contains(start.1) && row.contains('±'), "{row}");
    }
    assert!(table.contains("bonfire compare --out cmp") && said.out.contains(rows[1]), "{table}");
    for name in ["accuracy-rounds.svg", "accuracy-bytes.svg", "accuracy-rank.svg"] {
        assert!(room.read(&format!("cmp/{name}")).contains("lora-a2"), "{name}");
    }

    let metrics = room.path("cmp/runs/lora-a2-r1-a0.5-s0/metrics.jsonl");
    let before = changed(&metrics);
    let again = room.succeed(&compare(&GRID, &["--quiet"]));
    assert_eq!(changed(&metrics), before, "a complete cell was run again");
    // Nothing but the table.
    assert!(again.out.lines().all(|line| line.starts_with('|')) && again.out.lines().count() == 7, "{}", again.out);
    assert_eq!(room.json("cmp/compare.json")["groups"], all["groups"]);

    // Another comparison in the same folder: what was there is kept, and its runs are taken up.
    let (table, all) = (room.read("cmp/table.md"), room.read("cmp/compare.json"));
    let one = ["--strategies", "lora-a2", "--ranks", "1", "--alphas", "0.5", "--seeds", "0"];
    let said = room.succeed(&compare(&one, &[]));
    assert!(said.err.contains("7 cells that are not of this one: it is kept as compare-1.json"), "{}", said.err);
    assert_eq!((room.read("cmp/table-1.md"), room.read("cmp/compare-1.json")), (table, all));
    assert_eq!(changed(&metrics), before, "a complete cell was run again");
    let said = room.succeed(&compare(&GRID, &[]));
    assert!(!said.err.contains("is kept as") && !room.path("cmp/table-2.md").exists(), "{}", said.err);
}

#[test]
fn a_cell_is_the_run_that_train_makes() {
    let room = Room::new();
    room.succeed(&compare(&["--strategies", "fedit,ffa-lora", "--seeds", "3"], &["--quiet"]));
    let folder = "cmp/runs/ffa-lora-r1-a0.1-s3";
    room.succeed(&["train", &format!("{folder}/config.toml"), "--quiet", "--out", "alone"]);
    let losses = |run: &str| -> Vec<_> { room.rounds(run).iter().map(|row| row["train_loss"].clone()).collect() };
    assert_eq!(losses(folder), losses("alone"));
    let adapter = |run: &str| std::fs::read(room.path(run).join("adapter/adapter_model.safetensors")).expect("there");
    assert!(adapter(folder) == adapter("alone"), "the adapters differ");
}

#[test]
fn seeds_that_draw_the_splits_have_the_rows_that_train_has() {
    let room = Room::new();
    room.data(&[], &[]);
    std::fs::remove_file(room.path("data/test.jsonl")).expect("removed");
    let mut args = vec!["compare", "--out", "cmp", "--seeds", "0,1", "--quiet", "--strategies"];
    args.push("fedit,fedit:evaluate.on=validation:evaluate.best=accuracy");
    for set in [
        "data.path=data",
        "data.split={test=0.25,validation=0.25}",
        "data.partition={kind=\"iid\"}",
        "clients.count=2",
        "adapter.rank=2",
        "train.rounds=1",
    ] {
        args.extend(["--set", set]);
    }
    room.succeed(&args);
    for cell in room.json("cmp/compare.json")["cells"].as_array().expect("cells") {
        let run = format!("cmp/{}", cell["run"].as_str().expect("a folder"));
        room.succeed(&["train", &format!("{run}/config.toml"), "--quiet", "--out", "alone"]);
        let of = |run: &str| {
            let row = &room.rounds(run)[0];
            ["train_loss", "test_loss", "validation_accuracy"].map(|key| row[key].clone())
        };
        assert_eq!(of(&run), of("alone"), "{run}");
        let validated = cell["variant"].as_str().is_some_and(|text| text.contains("validation"));
        assert_eq!(of(&run)[2].is_number(), validated, "{run}");
        std::fs::remove_dir_all(room.path("alone")).expect("removed");
    }
    // A table holds results on the same texts.
    let rows = room.read("data/train.jsonl");
    room.write("data/train.jsonl", &rows[..rows.trim_end().rfind('\n').expect("rows") + 1]);
    let more = args.iter().position(|arg| arg.starts_with("fedit")).expect("the strategies");
    args[more] = "fedit,ffa-lora";
    room.refuse(2, &["was trained on other texts", "--out"], &args);
}

#[test]
fn a_cut_cell_runs_again_and_another_configuration_is_refused() {
    let room = Room::new();
    let one = ["--strategies", "fedit", "--ranks", "1", "--seeds", "0"];
    room.succeed(&compare(&one, &["--quiet"]));
    let run = "cmp/runs/fedit-r1-a0.1-s0";
    let whole = room.rounds(run);
    let cut = || {
        let summary = room.read(&format!("{run}/summary.json")).replace("\"rounds\": 2", "\"rounds\": 1");
        room.write(&format!("{run}/summary.json"), &summary);
    };
    // As after a kill in the second round.
    cut();
    std::fs::remove_file(room.path(&format!("{run}/checkpoints/round-000002.bonfire"))).expect("removed");
    let said = room.succeed(&compare(&one, &["--only-missing"]));
    assert!(said.out.contains("1 cell, 1 to run"), "{}", said.out);
    let losses = |rows: &[serde_json::Value]| rows.iter().map(|row| row["train_loss"].clone()).collect::<Vec<_>>();
    assert_eq!(losses(&room.rounds(run)), losses(&whole));

    // What cannot be gone on with is not thrown away.
    cut();
    let rows = room.read(&format!("{run}/metrics.jsonl"));
    room.write(&format!("{run}/metrics.jsonl"), "");
    room.refuse(1, &["1 of 1 cell", "cannot go on with", run], &compare(&one, &[]));
    assert!(room.path(&format!("{run}/checkpoints/round-000002.bonfire")).is_file());
    room.write(&format!("{run}/metrics.jsonl"), &rows);
    room.succeed(&compare(&one, &[]));

    let words = [run, "train.lr_a was 0.002, is 0.001", "--out"];
    room.refuse(2, &words, &compare(&one, &["--set", "train.lr_a=1e-3"]));
    assert_eq!(room.rounds(run).len(), 2, "a refused comparison must leave everything");
}

#[test]
fn a_failed_cell_is_recorded_and_the_others_go_on() {
    let room = Room::new();
    let two = ["--strategies", "fedit:train.lr_a=1e30:train.lr_b=1e30,ffa-lora"];
    let failed = "1 of 2 cells failed";
    room.refuse(1, &[failed, "fedit:train.lr_a=1e30", "not finite"], &compare(&two, &[]));
    let cells = room.json("cmp/compare.json")["cells"].clone();
    assert_eq!((cells[0]["status"].as_str(), cells[1]["status"].as_str()), (Some("failed"), Some("done")));
    assert!(cells[0]["error"].as_str().is_some_and(|error| error.contains("not finite")), "{cells}");
    assert!(room.read("cmp/table.md").contains("failed"));

    let again = room.refuse(1, &[failed], &compare(&two, &[]));
    assert!(again.out.contains("2 cells, 1 to run"), "{}", again.out);
    let left = room.refuse(1, &[failed, "not finite"], &compare(&two, &["--only-missing"]));
    assert!(left.out.contains("2 cells, 0 to run"), "{}", left.out);
}

#[test]
fn what_cannot_be_is_refused_before_anything_runs() {
    let refused = |words: &[&str], options: &[&str]| {
        let room = Room::new();
        room.refuse(2, words, &compare(options, &[]));
        assert!(!room.path("cmp").exists(), "a refused comparison must leave nothing");
    };
    refused(&["`fedlt`", "did you mean `fedit`"], &["--strategies", "lora-a2,fedlt"]);
    refused(&["fedit:norm=all", "unknown key `norm`"], &["--strategies", "lora-a2,fedit:norm=all"]);
    refused(&["lora-a2", "clients.budget", "--ranks 9"], &["--strategies", "lora-a2", "--ranks", "1,9"]);
    refused(&["alpha", "-1"], &["--strategies", "lora-a2", "--alphas=-1"]);
    refused(&["write NAME or NAME:key=value"], &["--strategies", "lora-a2:norm"]);
}
