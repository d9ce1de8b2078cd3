//! Any number of labels of a text: training, its scores, predictions, exports, and what is refused.

use serde_json::Value;

use crate::support::{Room, short, texts};

const LABELS: [&str; 3] = ["book", "card", "fine"];

/// A text that names some of the labels, which are its own.
fn row(i: usize) -> (String, Vec<&'static str>) {
    let own: Vec<&str> =
        LABELS.iter().enumerate().filter(|(at, _)| (i * 5 % 8) >> at & 1 == 1).map(|(_, l)| *l).collect();
    (format!("where is the {} number {}", own.join(" and the "), i % 7), own)
}

fn write_data(room: &Room) {
    std::fs::create_dir(room.path("data")).expect("made");
    let line = |i: usize| {
        let (text, labels) = row(i);
        format!("{}\n", serde_json::json!({"text": text, "labels": labels}))
    };
    room.write("data/train.jsonl", &(0..240).map(line).collect::<String>());
    room.write("data/test.jsonl", &(240..280).map(line).collect::<String>());
}

const SEVERAL: [&str; 12] = [
    "--set",
    "model.task=multi-label",
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

fn near(found: &Value, expected: f64) {
    let found = found.as_f64().expect("a number");
    assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
}

#[test]
fn labels_of_any_number_are_learnt_measured_predicted_and_exported() {
    let room = Room::new();
    write_data(&room);
    let more = [
        "--set",
        "train.rounds=5",
        "--set",
        "train.lr_a=5e-3",
        "--set",
        "train.lr_b=5e-3",
        "--set",
        "train.batch_size=8",
        "--set",
        "evaluate.best=micro-f1",
        "--set",
        "clients.budget=full",
    ];
    let said = room.succeed(&short(&["train", "--out", "run"], &[&SEVERAL[..], &more].concat()));
    assert!(said.out.contains("3 labels, of which a text has any number"), "{}", said.out);
    let rows = room.rounds("run");
    let last = rows.last().expect("rounds");
    assert!(last["test_micro_f1"].as_f64() > Some(0.6), "{last}");
    assert!(last.get("test_matthews").is_none() && last.get("test_f1").is_none(), "{last}");
    let partition = room.json("run/partition.json");
    assert_eq!(texts(&partition, "strata"), ["no label", "book", "card", "fine"]);

    let out = room.succeed(&["evaluate", "run", "--json", "--classes", "--predictions", "said.jsonl"]).out;
    let measured: Value = serde_json::from_str(&out).expect("JSON");
    let said = room.rows("said.jsonl");
    assert_eq!(said.len(), 40);
    // Counts of each label, by another way than the program's.
    let mut counts = [[0usize; 3]; 3];
    let (mut whole, mut loss) = (0, 0.0);
    for (i, one) in said.iter().enumerate() {
        let (there, found) = (texts(one, "labels"), texts(one, "predictions"));
        assert_eq!(there, row(240 + i).1);
        whole += usize::from(there == found);
        for (label, name) in LABELS.iter().enumerate() {
            let score = one["logits"][label].as_f64().expect("a score");
            let (is, said) = (there.contains(&(*name).to_owned()), found.contains(&(*name).to_owned()));
            assert_eq!(said, 1.0 / (1.0 + (-score).exp()) > 0.5);
            let probability = 1.0 / (1.0 + (-score).exp());
            loss -= if is { probability.ln() } else { (1.0 - probability).ln() } / 120.0;
            counts[label][0] += usize::from(is);
            counts[label][1] += usize::from(said);
            counts[label][2] += usize::from(is && said);
        }
    }
    let f1 = |[there, said, both]: [usize; 3]| 2.0 * both as f64 / (there + said).max(1) as f64;
    let all = [0, 1, 2].map(|at| counts.iter().map(|label| label[at]).sum());
    near(&measured["micro_f1"], f1(all));
    near(&measured["macro_f1"], counts.map(f1).iter().sum::<f64>() / 3.0);
    near(&measured["accuracy"], whole as f64 / 40.0);
    assert!((measured["loss"].as_f64().expect("a loss") - loss).abs() < 1e-5);
    near(&last["test_micro_f1"], f1(all));
    let book = &measured["classes"][0];
    assert_eq!((&book["label"], book["examples"].as_u64()), (&"book".into(), Some(counts[0][0] as u64)));
    near(&book["f1"], f1(counts[0]));

    let out = room.succeed(&["predict", "run", "--rows", "data/test.jsonl", "--json"]).out;
    for (line, one) in out.lines().zip(&said) {
        let answer: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(texts(&answer, "labels"), texts(one, "predictions"));
        let score = one["logits"][1].as_f64().expect("a score");
        assert!(
            (answer["probabilities"]["card"].as_f64().expect("a share") - 1.0 / (1.0 + (-score).exp())).abs() < 1e-4
        );
    }
    room.succeed(&["predict", "run", "--text", "where is the book and the card number 3"]);

    room.succeed(&["export", "run", "--format", "merged", "--out", "merged", "--verify"]);
    let config = room.json("merged/config.json");
    assert_eq!(config["problem_type"], "multi_label_classification");
    assert_eq!(
        (&config["id2label"]["2"], &config["architectures"][0]),
        (&"fine".into(), &"RobertaForSequenceClassification".into())
    );
    room.succeed(&["export", "run", "--out", "peft", "--verify"]);
    assert_eq!(room.json("peft/adapter_config.json")["task_type"], "SEQ_CLS");
    room.succeed(&["report", "run", "--out", "page.html"]);
    let said = room.succeed(&["train", "--quiet", "--resume", "run", "--accept-changes", "--set", "train.rounds=6"]);
    assert!(said.out.contains("accuracy"), "{}", said.out);
}

#[test]
fn columns_of_zeros_and_ones_are_labels_and_what_cannot_be_is_refused() {
    let room = Room::new();
    std::fs::create_dir(room.path("data")).expect("made");
    let table = |rows: std::ops::Range<usize>| {
        let line = |i: usize| {
            let (text, own) = row(i);
            let cells = LABELS.map(|label| u8::from(own.contains(&label)).to_string());
            format!("{text},{}\n", cells.join(","))
        };
        "text,book,card,fine\n".to_owned() + &rows.map(line).collect::<String>()
    };
    room.write("data/train.csv", &table(0..80));
    room.write("data/test.csv", &table(80..100));
    let columns = ["--set", "data.label=[\"book\", \"card\", \"fine\"]"];
    let args = short(&["train", "--quiet", "--out", "run"], &[&SEVERAL[..], &columns].concat());
    room.succeed(&args);
    assert_eq!(texts(&room.json("run/partition.json"), "labels"), LABELS);
    let refused = |code: i32, words: &[&str], more: &[&str]| {
        room.refuse(code, words, &short(&["train", "--out", "off"], &[&SEVERAL[..], &columns, more].concat()));
    };
    refused(2, &["evaluate.best", "micro-f1"], &["--set", "evaluate.best=matthews"]);
    refused(2, &["train.label_smoothing"], &["--set", "train.label_smoothing=0.1"]);
    refused(2, &["train.class_weights", "any number"], &["--set", "train.class_weights=[1.0, 1.0, 1.0]"]);
    refused(2, &["attack.kind"], &["--set", "attack={kind=\"label-flip\", share=0.5}"]);
    refused(2, &["dfl"], &["--set", "strategy.name=dfl", "--set", "clients.budget=full"]);
    refused(2, &["data.label"], &["--set", "data.label=[\"book\"]"]);
    refused(2, &["multi-label"], &["--set", "model.task=classification"]);
    room.write("data/train.csv", "text,book,card,fine\na,1,0,2\n");
    refused(1, &["train.csv:2", "\"fine\"", "0 or 1"], &[]);
}
