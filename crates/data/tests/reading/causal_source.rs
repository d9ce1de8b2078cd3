//! Data folders for causal language models: every kind of row, and what a wrong one is told.

use std::fs;

use bonfire_data::{
    Cell, Content, Conversation, DataError, Dataset, Message, Partition, Reading, Wording, corpus, label_table,
};
use tempfile::TempDir;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, text)| fs::write(folder.path().join(name), text).unwrap());
    folder
}

fn read(files: &[(&str, &str)], group: Option<&str>, wording: Option<&Wording>) -> Result<Dataset, String> {
    let folder = folder(files);
    let place = folder.path().to_str().unwrap().to_owned();
    let reading =
        Reading { causal: true, group: group.map(str::to_owned), wording: wording.cloned(), ..Reading::default() };
    Dataset::read(folder.path(), &reading).map_err(|error| error.to_string().replace(&place, "DIR"))
}

fn pair(prompt: &str, response: &str) -> Content {
    Content::Pair { prompt: prompt.into(), response: response.into() }
}

#[test]
fn fields_say_what_rows_are() {
    let named = |role: &str, content: &str, name: &str| {
        let fields = [("role", role), ("content", content), ("name", name)];
        Message::of(fields.map(|(key, text)| (key.to_owned(), Cell::from(text))).to_vec()).unwrap()
    };
    for (row, expected) in [
        (r#"{"text": "once upon"}"#, Content::Text("once upon".into())),
        (r#"{"prompt": "2+2=", "response": "4", "text": "both"}"#, pair("2+2=", "4")),
        (
            r#"{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho", "name": "x"}]}"#,
            Content::Chat(Conversation::from(vec![Message::new("user", "hi"), named("assistant", "ho", "x")])),
        ),
        (
            r#"{"instruction": "Add {input}.", "input": "", "output": "4"}"#,
            pair(
                "Below is an instruction that describes a task. Write a response that appropriately completes the \
                 request.\n\n### Instruction:\nAdd {input}.\n\n### Response:",
                "4",
            ),
        ),
        (
            r#"{"instruction": "Add.", "input": "2 and 2", "output": "4"}"#,
            pair(
                "Below is an instruction that describes a task, paired with an input that provides further context. \
                 Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n\
                 ### Input:\n2 and 2\n\n### Response:",
                "4",
            ),
        ),
    ] {
        let data = read(&[("train.jsonl", row), ("test.jsonl", row)], None, None).unwrap();
        assert_eq!((&data.train[0].content, &data.test[0].content), (&expected, &expected));
        assert!(!data.is_labelled() && data.train[0].group.is_none());
    }
}

#[test]
fn csv_and_plain_text_are_read_too() {
    let csv = "prompt,response,who,label\n\"a, b\",c,ann,x\nd,e,bob,y\n";
    let data = read(&[("train.csv", csv), ("test.csv", csv)], Some("who"), None).unwrap();
    assert_eq!(data.train[0].content, pair("a, b", "c"));
    assert_eq!((data.labels.as_slice(), data.train[1].label), (&["x".to_owned(), "y".to_owned()][..], 1));
    assert_eq!(data.train[1].group.as_deref(), Some("bob"));
    let text = "\u{feff}first line\r\nsecond line\r\n\r\n \n\nanother\n";
    let data = read(&[("train.txt", text), ("test.txt", "x\n")], None, None).unwrap();
    let texts: Vec<&str> = data.train.iter().map(|example| example.text()).collect();
    assert_eq!(texts, ["first line\nsecond line", "another"]);
}

#[test]
fn other_columns_are_named_by_templates() {
    let wording = Wording::parse("Question: {question}\nAnswer:", " {answer}").unwrap();
    let row = r#"{"question": "How many?", "answer": 4}"#;
    let data = read(&[("train.jsonl", row), ("test.jsonl", "")], None, Some(&wording)).unwrap();
    assert_eq!(data.train[0].content, pair("Question: How many?\nAnswer:", " 4"));
    let wrong = read(&[("train.jsonl", row), ("test.jsonl", r#"{"question": "?"}"#)], None, Some(&wording));
    assert_eq!(wrong.unwrap_err(), "DIR/test.jsonl:1: no field \"answer\"; the fields here are: question");
    let list = r#"{"question": ["?"], "answer": 4}"#;
    let wrong = read(&[("train.jsonl", list), ("test.jsonl", "")], None, Some(&wording)).unwrap_err();
    assert!(wrong.starts_with("DIR/train.jsonl:1: field \"question\" cannot stand in a prompt"), "{wrong}");
}

#[test]
fn wrong_rows_are_named() {
    let first = r#"{"prompt": "a", "response": "b"}"#;
    for (second, expected) in [
        ("{", "DIR/train.jsonl:2: not a JSON object"),
        (r#"{"prompt": "a"}"#, "DIR/train.jsonl:2: no field \"response\"; the fields here are: prompt"),
        (r#"{"prompt": 1, "response": "b"}"#, "DIR/train.jsonl:2: field \"prompt\" is not a string"),
        (r#"{"text": "a"}"#, "DIR/train.jsonl:2: a row with `text`, but the first row has `prompt` and `response`"),
        (r#"{"prompt": "a", "response": "b", "label": 1}"#, "DIR/train.jsonl:2: a label, but the first row has none"),
    ] {
        let train = format!("{first}\n{second}\n");
        let error = read(&[("train.jsonl", &train), ("test.jsonl", "")], None, None).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
    for (row, expected) in [
        (
            r#"{"question": "a", "answer": "b"}"#,
            "nothing here that can be learnt; the fields here are: question, answer",
        ),
        (r#"{"text": ""}"#, "empty text"),
        (r#"{"messages": "hi"}"#, "field \"messages\" is not a list"),
        (r#"{"messages": [{"role": "user"}]}"#, "message 0 (counted from 0) lacks"),
        (r#"{"messages": [{"role": "user", "content": "a"}]}"#, "a conversation without a turn of the assistant's"),
        (r#"{"messages": [{"role": "assistant", "content": ""}]}"#, "empty last turn of the assistant's"),
    ] {
        let error = read(&[("train.jsonl", row), ("test.jsonl", "")], None, None).unwrap_err();
        assert!(error.starts_with(&format!("DIR/train.jsonl:1: {expected}")), "{error}");
    }
}

#[test]
fn wrong_folders_are_told_what_is_missing() {
    let error = read(&[("train.txt", "a")], None, None).unwrap_err();
    assert!(error.starts_with("DIR: no test file; there is: train.txt. Add test.*"), "{error}");
    let error = read(&[("train.txt", "a"), ("train.csv", ""), ("test.txt", "")], None, None).unwrap_err();
    assert_eq!(error, "DIR: both train.csv and train.txt are there; keep one of them, or name it with data.train");
    let error = read(&[("train.txt", "\n"), ("test.txt", "a")], None, None).unwrap_err();
    assert!(error.starts_with("DIR/train.txt: no rows"), "{error}");
    let error = read(&[("train.txt", "a"), ("test.txt", "a")], Some("who"), None).unwrap_err();
    assert!(error.starts_with("DIR/train.txt: a text file has no column \"who\""), "{error}");
    let error = read(&[("train.jsonl", r#"{"text": "a"}"#), ("test.txt", "")], Some("who"), None).unwrap_err();
    assert_eq!(error, "DIR/train.jsonl:1: no field \"who\"; the fields here are: text");
}

#[test]
fn partitions_that_go_by_labels_need_labels() {
    let rows: String = (0..40).map(|at| format!("{{\"text\": \"text {at}\", \"who\": {}}}\n", at % 4)).collect();
    let data = read(&[("train.jsonl", &rows), ("test.jsonl", &rows)], Some("who"), None).unwrap();
    for partition in [
        Partition::Dirichlet { alpha: 1.0 },
        Partition::Pathological { classes: 1 },
        Partition::Shards { per_client: 1 },
    ] {
        let error = partition.split(&data, 4, 1, 1).unwrap_err();
        assert!(matches!(error, DataError::Unlabelled { .. }), "{error}");
        assert!(error.to_string().contains("use iid, natural or file"), "{error}");
    }
    for partition in [Partition::Iid {}, Partition::Natural { column: "who".to_owned() }] {
        let shards = partition.split(&data, 4, 1, 1).unwrap();
        assert_eq!(label_table(&data, &shards.train), vec![vec![10]; 4]);
        assert!(shards.test.iter().all(|rows| rows.len() == 10));
    }
    let error = data.keep_labels(2).unwrap_err().to_string();
    assert!(error.contains("have no labels"), "{error}");
}

#[test]
fn labelled_rows_can_be_dealt_out_by_label() {
    let rows: String = (0..40).map(|at| format!("{{\"text\": \"text {at}\", \"label\": \"l{}\"}}\n", at % 4)).collect();
    let data = read(&[("train.jsonl", &rows), ("test.jsonl", &rows)], None, None).unwrap();
    assert_eq!(data.labels, ["l0", "l1", "l2", "l3"]);
    let shards = Partition::Pathological { classes: 1 }.split(&data, 4, 1, 1).unwrap();
    assert_eq!(label_table(&data, &shards.train)[1], [0, 10, 0, 0]);
}

#[test]
fn the_built_in_corpus_asks_for_the_intent() {
    let (data, plain) = (corpus::causal(), corpus::dataset());
    let expected = pair(
        &format!("{}\nintent:", plain.train[0].text()),
        &format!(" {}", plain.labels[plain.train[0].label].replace('_', " ")),
    );
    assert_eq!((&data.train[0].content, data.train[0].label), (&expected, plain.train[0].label));
    assert_eq!((data.train.len(), data.test.len()), (2400, 600));
}
