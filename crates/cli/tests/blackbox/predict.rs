//! `bonfire predict`: labels for texts of one's own.

use serde_json::Value;

use crate::support::Room;

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn labels_are_those_of_evaluation_with_their_probabilities() {
    let room = Room::new();
    room.data(&[], &[]);
    let sets = [
        "--set",
        "data.path=data",
        "--set",
        "clients.count=2",
        "--set",
        "train.rounds=3",
        "--set",
        "train.lr_head=5e-2",
    ];
    room.succeed(&[&["train", "--quiet", "--out", "run"][..], &sets].concat());
    room.succeed(&["evaluate", "run", "--predictions", "judged.jsonl"]);
    let judged = room.rows("judged.jsonl");
    let said = lines(&room.succeed(&["predict", "run", "--rows", "data/test.jsonl", "--json"]).out);
    assert_eq!(said.len(), judged.len());
    for (said, judged) in said.iter().zip(&judged) {
        assert_eq!((&said["row"], &said["label"]), (&judged["row"], &judged["prediction"]));
        let logits: Vec<f64> = judged["logits"].as_array().expect("scores").iter().filter_map(Value::as_f64).collect();
        let sum: f64 = logits.iter().map(|score| score.exp()).sum();
        for (label, score) in ["late", "lost"].iter().zip(&logits) {
            let found = said["probabilities"][label].as_f64().expect("a probability");
            assert!((found - score.exp() / sum).abs() < 1e-6, "{label}: {found}");
        }
    }
    // Rows without labels, a text by hand, and the run without its data.
    std::fs::rename(room.path("data"), room.path("gone")).expect("renamed");
    room.write("rows.csv", "text\nthe book is number 3\nmy card was number 4\n");
    let rows = lines(&room.succeed(&["predict", "run", "--rows", "rows.csv", "--json"]).out);
    let texts = ["predict", "run", "--text", "the book is number 3", "--text", "my card was number 4"];
    assert_eq!(rows, lines(&room.succeed(&[&texts[..], &["--json"]].concat()).out));
    // Lines of a text file are texts.
    room.write("rows.txt", "the book is number 3\nmy card was number 4\n\n");
    assert_eq!(rows, lines(&room.succeed(&["predict", "run", "--rows", "rows.txt", "--json"]).out));
    let said = room.succeed(&texts).out;
    let first = rows[0]["label"].as_str().expect("a label");
    assert!(said.starts_with(first) && said.contains("%") && said.lines().count() == 2, "{said}");

    // As on the server of a federation across machines: test rows, a list of labels, and no partition.
    std::fs::create_dir(room.path("data")).expect("made");
    room.write("data/test.jsonl", &room.read("gone/test.jsonl"));
    std::fs::remove_file(room.path("run/partition.json")).expect("removed");
    room.refuse(2, &["no train file"], &texts);
    room.write("data/labels.json", "[\"late\", \"lost\"]");
    assert_eq!(said, room.succeed(&texts).out);
    room.succeed(&["evaluate", "run", "--predictions", "again.jsonl"]);
    assert_eq!(room.read("again.jsonl"), room.read("judged.jsonl"));
    room.succeed(&["export", "run", "--format", "merged", "--out", "merged", "--verify"]);
    assert_eq!(room.json("merged/config.json")["id2label"]["1"], "lost");
    // Its run folder lists them too.
    std::fs::remove_dir_all(room.path("data")).expect("removed");
    room.write("run/labels.json", "[\"late\", \"lost\"]");
    assert_eq!(said, room.succeed(&texts).out);

    room.refuse(2, &["learnt single texts"], &["predict", "run", "--text", "a", "--second", "b"]);
    room.refuse(2, &["--text"], &["predict", "run"]);
    room.refuse(2, &["gone: is a folder"], &["predict", "run", "--rows", "gone"]);
    room.refuse(2, &["classifier", "bonfire predict"], &["generate", "run", "--prompt", "x"]);
}
