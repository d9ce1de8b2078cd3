//! A tag for every word: training, scores of spans, predictions, exports, other sources of rows, and what is refused.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Room, short, texts};

const PEOPLE: [&str; 4] = ["Ada", "Bob", "Eve", "Kim"];
const PLACES: [[&str; 2]; 3] = [["Rome", ""], ["New", "York"], ["Old", "Library"]];
const OTHERS: [&str; 5] = ["returns", "the", "book", "in", "late"];

/// Sentence `i`: a person or none, a place or none, other words around them.
fn sentence(i: usize) -> Vec<(String, &'static str)> {
    let mut words = vec![(OTHERS[i % 5].to_owned(), "O")];
    if !i.is_multiple_of(3) {
        words.push((PEOPLE[i / 3 % 4].to_owned(), "B-PER"));
    }
    words.push((OTHERS[(i / 2) % 5].to_owned(), "O"));
    if !i.is_multiple_of(4) {
        let [first, second] = PLACES[i % 3];
        words.push((first.to_owned(), "B-LOC"));
        words.extend((!second.is_empty()).then(|| (second.to_owned(), "I-LOC")));
    }
    words
}

fn conll(rows: std::ops::Range<usize>) -> String {
    let one = |i: usize| {
        let lines = sentence(i).into_iter().map(|(word, tag)| format!("{word} X {tag}\n"));
        lines.collect::<String>() + "\n"
    };
    "-DOCSTART- -X- O\n\n".to_owned() + &rows.map(one).collect::<String>()
}

fn write_data(room: &Room) {
    std::fs::create_dir(room.path("data")).expect("made");
    room.write("data/train.txt", &conll(0..240));
    room.write("data/test.txt", &conll(300..340));
}

const TAGS: [&str; 12] = [
    "--set",
    "model.task=token-classification",
    "--set",
    "data.path=data",
    "--set",
    "data.partition={kind=\"dirichlet\", alpha=1.0}",
    "--set",
    "data.labels=none",
    "--set",
    "adapter.head=trained",
    "--set",
    "train.lr_head=1e-2",
];

/// Spans of IOB2 tags, by another way than the program's: a span is a B and the I's of its type after it.
fn spans(tags: &[String]) -> BTreeSet<(usize, usize, String)> {
    let mut found = BTreeSet::new();
    for (start, tag) in tags.iter().enumerate() {
        // An I without its B begins a span too.
        let Some((letter, kind)) = tag.split_once('-') else { continue };
        let before = start.checked_sub(1).and_then(|at| tags[at].split_once('-'));
        if letter == "I" && before.is_some_and(|(_, of)| of == kind) {
            continue;
        }
        let more = tags[start + 1..].iter().take_while(|next| **next == format!("I-{kind}")).count();
        found.insert((start, start + 1 + more, kind.to_owned()));
    }
    found
}

fn near(found: &Value, expected: f64) {
    let found = found.as_f64().expect("a number");
    assert!((found - expected).abs() < 1e-9, "{found}, expected {expected}");
}

#[test]
fn words_are_tagged_measured_predicted_and_exported() {
    let room = Room::new();
    write_data(&room);
    let more = [
        "--set",
        "train.rounds=6",
        "--set",
        "train.lr_a=5e-3",
        "--set",
        "train.lr_b=5e-3",
        "--set",
        "train.batch_size=8",
        "--set",
        "evaluate.best=f1",
        "--set",
        "evaluate.per_client=true",
        "--set",
        "clients.budget=full",
    ];
    let said = room.succeed(&short(&["train", "--out", "run"], &[&TAGS[..], &more].concat()));
    assert!(said.out.contains("4 tags of words") && said.out.contains("test F1"), "{}", said.out);
    let rows = room.rows("run/metrics.jsonl");
    assert_eq!((rows[0]["round"].as_u64(), rows[0]["test_f1"].is_f64()), (Some(0), true), "{}", rows[0]);
    let last = rows.last().expect("rounds");
    assert!(last["test_f1"].as_f64() > Some(0.5), "{last}");
    assert!(last["test_accuracy"].as_f64() > rows[0]["test_accuracy"].as_f64(), "{last}");
    assert!(last.get("test_macro_f1").is_none() && last["client_accuracy"]["clients"].is_u64(), "{last}");
    let summary = room.json("run/summary.json");
    assert_eq!(summary["final_f1"], last["test_f1"]);
    let best = rows.iter().filter_map(|row| row["test_f1"].as_f64()).fold(0.0, f64::max);
    assert_eq!(summary["best"]["score"].as_f64(), Some(best));
    // Clients hold kinds of sentences.
    let partition = room.json("run/partition.json");
    assert_eq!(texts(&partition, "strata"), ["no span", "LOC", "PER"]);
    assert_eq!(texts(&partition, "labels"), ["B-LOC", "B-PER", "I-LOC", "O"]);
    let held = partition["train"].as_array().expect("a list").iter();
    let held = held.flat_map(|row| row.as_array().expect("a list")).filter_map(Value::as_u64).sum::<u64>();
    assert_eq!(held, 240);

    // F1 once more, from what was said of every word.
    let out = room.succeed(&["evaluate", "run", "--json", "--classes", "--predictions", "said.jsonl"]).out;
    let measured: Value = serde_json::from_str(&out).expect("JSON");
    let said = room.rows("said.jsonl");
    assert_eq!(said.len(), 40);
    let (mut there, mut found, mut both, mut words, mut right) = (0, 0, 0, 0, 0);
    let mut of_loc = (0, 0, 0);
    for (i, row) in said.iter().enumerate() {
        let (tags, predicted) = (texts(row, "tags"), texts(row, "predicted_tags"));
        assert_eq!(tags, sentence(300 + i).into_iter().map(|(_, tag)| tag).collect::<Vec<_>>());
        words += tags.len();
        right += tags.iter().zip(&predicted).filter(|(tag, said)| tag == said).count();
        let (tags, predicted) = (spans(&tags), spans(&predicted));
        (there, found) = (there + tags.len(), found + predicted.len());
        both += tags.intersection(&predicted).count();
        let loc = |spans: &BTreeSet<(usize, usize, String)>| spans.iter().filter(|span| span.2 == "LOC").count();
        of_loc.0 += loc(&tags);
        of_loc.1 += loc(&predicted);
        of_loc.2 += tags.intersection(&predicted).filter(|span| span.2 == "LOC").count();
    }
    let (precision, recall) = (both as f64 / found.max(1) as f64, both as f64 / there as f64);
    near(&measured["precision"], precision);
    near(&measured["recall"], recall);
    near(&measured["f1"], 2.0 * precision * recall / (precision + recall));
    near(&measured["accuracy"], right as f64 / words as f64);
    near(&last["test_f1"], measured["f1"].as_f64().expect("a number"));
    assert_eq!(measured["answers"].as_u64(), Some(words as u64));
    let loc = measured["classes"].as_array().expect("types").iter().find(|row| row["label"] == "LOC").expect("LOC");
    near(&loc["f1"], 2.0 * of_loc.2 as f64 / (of_loc.0 + of_loc.1) as f64);
    assert_eq!((loc["examples"].as_u64(), loc.get("taken_for")), (Some(of_loc.0 as u64), None));
    let classes = room.json("run/classes.json");
    assert_eq!(
        (texts(&classes, "labels"), &classes["found"]["counted"]),
        (vec!["LOC".into(), "PER".into()], &"spans".into())
    );
    let shown = room.succeed(&["evaluate", "run", "--best", "--classes"]).out;
    assert!(shown.contains("F1") && shown.contains("words right") && shown.contains("PER"), "{shown}");

    // The same of words of one's own, and of the file's.
    let out = room.succeed(&["predict", "run", "--text", "the Ada in New York", "--text", "late"]).out;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 2, "{out}");
    assert!(lines[0].starts_with("the/") && lines[0].contains(" York/"), "{out}");
    let out = room.succeed(&["predict", "run", "--rows", "data/test.txt", "--json"]).out;
    for (line, row) in out.lines().zip(&said) {
        let answer: Value = serde_json::from_str(line).expect("JSON");
        let tags = texts(row, "predicted_tags");
        assert_eq!(texts(&answer, "tags"), tags);
        let found = answer["spans"].as_array().expect("spans").iter().map(|span| {
            let at = |key: &str| span[key].as_u64().expect("a number") as usize;
            let words = texts(&answer, "words")[at("start")..at("end")].join(" ");
            assert_eq!(span["text"], words.as_str());
            (at("start"), at("end"), span["type"].as_str().expect("a type").to_owned())
        });
        assert_eq!(found.collect::<BTreeSet<_>>(), spans(&tags));
    }

    room.succeed(&["export", "run", "--format", "peft", "--out", "peft", "--verify"]);
    let config = room.json("peft/adapter_config.json");
    assert_eq!(
        (&config["task_type"], &config["modules_to_save"]),
        (&"TOKEN_CLS".into(), &serde_json::json!(["classifier", "score"]))
    );
    room.succeed(&["export", "run", "--format", "merged", "--out", "merged", "--verify"]);
    let config = room.json("merged/config.json");
    assert_eq!(config["architectures"], serde_json::json!(["RobertaForTokenClassification"]));
    assert_eq!((&config["id2label"]["3"], config.get("problem_type")), (&"O".into(), None));
    // The merged model is as good as the run, its head's rows in its own order.
    let again = room.succeed(&[
        "evaluate",
        "--model",
        "merged",
        "--data",
        "data",
        "--set",
        "model.task=token-classification",
        "--json",
    ]);
    let again: Value = serde_json::from_str(&again.out).expect("JSON");
    assert!((again["f1"].as_f64().expect("F1") - measured["f1"].as_f64().expect("F1")).abs() < 0.02, "{again}");
    room.succeed(&["report", "run", "--out", "page.html"]);
    let page = std::fs::read_to_string(room.path("page.html")).expect("a page");
    assert!(page.contains("\"LOC\"") && page.contains("\"f1\""));

    // An adapter to go on from; not one of texts.
    let go_on = ["--set", "adapter.init=run/adapter", "--set", "clients.budget=full", "--set", "train.rounds=1"];
    room.succeed(&short(&["train", "--quiet", "--out", "on"], &[&TAGS[..], &go_on].concat()));
    let config = std::fs::read_to_string(room.path("run/adapter/adapter_config.json")).expect("text");
    std::fs::write(room.path("run/adapter/adapter_config.json"), config.replace("TOKEN_CLS", "SEQ_CLS"))
        .expect("written");
    let args = short(&["train", "--out", "off"], &[&TAGS[..], &go_on].concat());
    room.refuse(2, &["adapter_config.json", "SEQ_CLS", "TOKEN_CLS"], &args);
}

#[test]
fn a_run_that_was_stopped_goes_on_and_a_decoder_tags_too() {
    let room = Room::new();
    write_data(&room);
    let rounds = |n: &'static str| short(&["train", "--quiet", "--out", "whole"], &[&TAGS[..], &["--set", n]].concat());
    room.succeed(&rounds("train.rounds=3"));
    room.succeed(&short(&["train", "--quiet", "--out", "cut"], &[&TAGS[..], &["--set", "train.rounds=2"]].concat()));
    room.succeed(&["train", "--quiet", "--resume", "cut", "--accept-changes", "--set", "train.rounds=3"]);
    let f1 = |run: &str| {
        room.rounds(run).iter().map(|row| (row["test_f1"].clone(), row["train_loss"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(f1("whole"), f1("cut"));
    // The shipped configuration.
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/conll.toml");
    let own = ["model.path=builtin", "data.path=data", "data.max_length=32", "train.rounds=1", "clients.count=3"];
    let sets = own.into_iter().flat_map(|set| ["--set", set]);
    room.succeed(&["train", shipped, "--quiet", "--out", "shipped"].into_iter().chain(sets).collect::<Vec<_>>());
    assert!(room.json("shipped/summary.json")["best"]["score"].is_f64());
    let llama =
        ["--set", "model.path=builtin-llama", "--set", "strategy.name=fedsa-lora", "--set", "clients.budget=full"];
    let own = [
        "--set",
        "evaluate.best=f1",
        "--set",
        "train.class_weights=[1.0, 1.0, 1.0, 0.5]",
        "--set",
        "train.label_smoothing=0.1",
    ];
    room.succeed(&short(&["train", "--quiet", "--out", "llama"], &[&TAGS[..], &llama, &own].concat()));
    let rows = room.rounds("llama");
    assert!(rows.iter().all(|row| row["personal_f1"].is_f64()), "{rows:?}");
    assert_eq!(room.json("llama/summary.json")["final_f1"], rows[rows.len() - 1]["personal_f1"]);
    // Its own head has a bias, which texts' has not.
    room.succeed(&["export", "llama", "--client", "0", "--out", "own", "--verify"]);
    assert_eq!(room.json("own/adapter_config.json")["task_type"], "TOKEN_CLS");
    // Side by side, F1 is what is compared.
    let args = ["compare", "--out", "sweep", "--strategies", "fedit,ffa-lora", "--seeds", "1"];
    room.succeed(&short(&args, &[&TAGS[..], &["--set", "clients.budget=full"]].concat()));
    let table = std::fs::read_to_string(room.path("sweep/table.md")).expect("a table");
    assert!(table.contains("F1 of the spans"), "{table}");
    assert!(room.json("sweep/compare.json").to_string().contains("final_f1"));
}

#[test]
fn lists_of_numbers_get_their_names_from_a_file_and_cut_words_are_told() {
    let room = Room::new();
    std::fs::create_dir(room.path("data")).expect("made");
    let names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"];
    let row = |i: usize| {
        let (words, tags): (Vec<String>, Vec<usize>) = sentence(i)
            .into_iter()
            .map(|(word, tag)| (word, names.iter().position(|name| *name == tag).expect("listed")))
            .unzip();
        format!("{}\n", serde_json::json!({"tokens": words, "ner_tags": tags}))
    };
    room.write("data/train.jsonl", &(0..60).map(row).collect::<String>());
    room.write("data/test.jsonl", &(60..80).map(row).collect::<String>());
    room.write("data/labels.json", &serde_json::json!(names).to_string());
    let said = room.succeed(&short(
        &["train", "--out", "run"],
        &[&TAGS[..], &["--set", "data.partition={kind=\"iid\"}", "--set", "data.max_length=6"]].concat(),
    ));
    assert!(said.out.contains("5 tags of words"), "{}", said.out);
    assert!(said.err.contains("words are cut off with them and are not scored"), "{}", said.err);
    let out = room.succeed(&["predict", "run", "--text", "Ada returns the book late in Rome", "--json"]).out;
    let answer: Value = serde_json::from_str(out.trim()).expect("JSON");
    assert_eq!((answer["tags"][0].is_string(), answer["tags"][6].is_null()), (true, true), "{answer}");
    let said = room.succeed(&[
        "partition",
        "--set",
        "clients.count=3",
        TAGS[0],
        TAGS[1],
        TAGS[2],
        TAGS[3],
        "--set",
        "data.labels=none",
        "--set",
        "data.partition={kind=\"iid\"}",
    ]);
    assert!(said.out.contains("no span") && said.out.contains("PER"), "{}", said.out);
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    let room = Room::new();
    write_data(&room);
    let refused = |code: i32, words: &[&str], more: &[&str]| {
        room.refuse(code, words, &short(&["train", "--out", "run"], &[&TAGS[..], more].concat()));
    };
    refused(2, &["evaluate.best", "\"f1\""], &["--set", "evaluate.best=macro-f1"]);
    refused(2, &["train.class_weights", "4 labels"], &["--set", "train.class_weights=[1.0, 2.0]"]);
    refused(2, &["data.labels"], &["--set", "data.labels=2"]);
    refused(2, &["data.text"], &["--set", "data.text=[\"a\", \"b\"]"]);
    refused(2, &["data.label", "multi-label"], &["--set", "data.label=[\"a\", \"b\"]"]);
    refused(2, &["built-in texts", "words and tags"], &["--set", "data.path=builtin"]);
    refused(2, &["model.task", "token-classification"], &["--set", "model.task=ner"]);
    room.write("data/train.txt", "Ada X B-PER\nlives O\n");
    refused(1, &["train.txt:2", "2 columns, and 3", "a word and its tag"], &[]);
}
