//! The kinds of files, the names of splits and columns, and what becomes of labels.

use std::fs;
use std::path::Path;

use bonfire_data::{Content, Dataset, Reading, SplitShares, UnseenLabels};
use tempfile::TempDir;

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

fn read(files: &[(&str, &[u8])], reading: &Reading) -> Result<Dataset, String> {
    let folder = folder(files);
    let place = folder.path().to_str().unwrap().to_owned();
    let data = Dataset::read(folder.path(), reading).map_err(|error| error.to_string().replace(&place, "DIR"))?;
    let notes = data.notes.iter().map(|note| note.replace(&place, "DIR")).collect();
    Ok(Dataset { name: String::new(), notes, ..data })
}

const LINES: &str = "{\"text\": \"a, b\", \"label\": \"x\"}\n{\"text\": \"c\", \"label\": \"y\"}\n";

#[test]
fn every_kind_of_file_says_the_same() {
    let plain =
        read(&[("train.jsonl", LINES.as_bytes()), ("test.jsonl", LINES.as_bytes())], &Reading::default()).unwrap();
    assert_eq!((plain.train.len(), plain.labels.as_slice()), (2, &["x".to_owned(), "y".to_owned()][..]));
    let gz = crate::packed::gzip(LINES.as_bytes());
    let array = r#" [{"text": "a, b", "label": "x"},
        {"text": "c", "label": "y"}]"#;
    let object = r#"{"version": 1, "data": [{"text": "a, b", "label": "x"}, {"text": "c", "label": "y"}]}"#;
    let long = object.replace(", \"data\"", ",\n \"data\"");
    for (name, bytes, note) in [
        ("train.json", LINES.as_bytes(), None),
        ("train.ndjson", LINES.as_bytes(), None),
        ("train.json", array.as_bytes(), None),
        ("train.jsonl", array.as_bytes(), None),
        ("train.json", object.as_bytes(), None),
        ("train.json", long.as_bytes(), None),
        ("train.csv", b"text,label\n\"a, b\",x\nc,y\n", None),
        ("train.csv", b"text;label\r\na, b;x\r\nc;y\r\n", Some("DIR/train.csv: cells stand between semicolons")),
        ("train.csv", b"text\tlabel\na, b\tx\nc\ty\n", Some("DIR/train.csv: cells stand between tabs")),
        ("train.tsv", b"text\tlabel\n\"a, b\"\tx\nc\ty\n", None),
        ("train.jsonl.gz", &gz, None),
        // Packed whatever it is called.
        ("train.jsonl", &gz, None),
        ("training.jsonl", LINES.as_bytes(), None),
        ("train/part.jsonl", LINES.as_bytes(), None),
        ("data/train.jsonl", LINES.as_bytes(), Some("named")),
    ] {
        let mut files = vec![(name, bytes)];
        let mut reading = Reading::default();
        match note {
            Some("named") => {
                files.push(("data/test.jsonl", LINES.as_bytes()));
                reading.test = Some("test".to_owned());
            }
            _ => files.push(("test.jsonl", LINES.as_bytes())),
        }
        let data = read(&files, &reading).unwrap_or_else(|error| panic!("{name}: {error}"));
        let notes: Vec<String> = note.filter(|note| *note != "named").into_iter().map(str::to_owned).collect();
        assert_eq!(data, Dataset { notes, ..plain.clone() }, "{name}");
    }
    let alone = folder(&[("mine.csv", b"text,label\na,x\nb,y\nc,x\nd,y\n")]);
    let shares = Some(SplitShares { test: 0.25, validation: 0.0 });
    for path in [alone.path().to_path_buf(), alone.path().join("mine.csv")] {
        let data = Dataset::read(&path, &Reading { shares, ..Reading::default() }).unwrap();
        assert_eq!((data.train.len(), data.test.len()), (3, 1), "{}", path.display());
    }
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let test: (&str, &[u8]) = ("test.jsonl", LINES.as_bytes());
    for (files, expected) in [
        (
            vec![("train.json", &b"{\"rows\": [], \"n\":\n 1}"[..]), test],
            "DIR/train.json:1: one object without a list `data`; its fields are: rows, n",
        ),
        (
            vec![("train.json", b"[{\"text\": \"a\", \"label\": 1},\n 3]"), test],
            "DIR/train.json, row 2: not a JSON object but a number",
        ),
        (
            vec![("train.json", b"[{\"text\": \"a\", \"label\": 1},\n {\"text\": "), test],
            "DIR/train.json:2: not a JSON object (EOF",
        ),
        (
            vec![("train.json", b"[{\"text\": \"a\"}]"), test],
            "DIR/train.json, row 1: no column is known to hold the label; the columns here are: text; name it with data.label",
        ),
        (vec![("train.parquet", b"PAR1 nothing PAR1"), test], "DIR/train.parquet: not Parquet that can be read ("),
        (
            vec![
                ("train-00000-of-00003.jsonl", LINES.as_bytes()),
                ("train-00002-of-00003.jsonl", LINES.as_bytes()),
                test,
            ],
            "DIR: train-00001-of-00003 is missing; fetch all parts",
        ),
        (vec![("train-00000-of-00002.jsonl", LINES.as_bytes()), test], "DIR: train-00001-of-00002 is missing"),
        (
            vec![
                ("dev.jsonl", LINES.as_bytes()),
                ("validation.jsonl", LINES.as_bytes()),
                ("train.jsonl", LINES.as_bytes()),
            ],
            "DIR: both dev.jsonl and validation.jsonl are there; keep one of them, or name it with data.validation",
        ),
        (
            vec![("README.md", b"x"), ("a.bin", b"")],
            "DIR: no train file; there is: README.md, a.bin. Add train.* as .jsonl",
        ),
    ] {
        let error = read(&files, &Reading::default()).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
    let named = Reading { test: Some("holdout".to_owned()), ..Reading::default() };
    let error = read(&[("train.jsonl", LINES.as_bytes()), test], &named).unwrap_err();
    assert_eq!(
        error,
        "data.test = \"holdout\": no such file, folder or split in DIR; there is: test.jsonl, train.jsonl"
    );
    let error = Dataset::read(Path::new("no/such/place"), &Reading::default()).unwrap_err().to_string();
    assert!(error.starts_with("no/such/place: no such data folder or file"), "{error}");
}

/// Rows of these labels, as JSON has them.
fn rows(labels: &[&str]) -> Vec<u8> {
    labels
        .iter()
        .enumerate()
        .map(|(at, label)| format!("{{\"text\": \"t{at}\", \"label\": {label}}}\n"))
        .collect::<String>()
        .into()
}

/// Names, the classes of training and test rows, notes.
type Labelled = (Vec<String>, Vec<usize>, Vec<usize>, Vec<String>);

fn labels(train: &[&str], test: &[&str]) -> Result<Labelled, String> {
    let (train, test) = (rows(train), rows(test));
    let data = read(&[("train.jsonl", &train), ("test.jsonl", &test)], &Reading::default())?;
    let of = |rows: &[bonfire_data::Example]| rows.iter().map(|row| row.label).collect();
    Ok((data.labels, of(&data.train), of(&data.test), data.notes))
}

#[test]
fn classes_are_the_values_that_occur() {
    for (train, test, names, in_train, in_test) in [
        (&["0", "4", "4"][..], &["4"][..], &["0", "4"][..], &[0, 1, 1][..], &[1][..]),
        (&["100", "5000", "99999"], &["100"], &["100", "5000", "99999"], &[0, 1, 2], &[0]),
        (&["1", "2", "10"], &["10"], &["1", "2", "10"], &[0, 1, 2], &[2]),
        (&["0.0", "1.0", "2"], &["1"], &["0", "1", "2"], &[0, 1, 2], &[1]),
        (&["true", "false"], &["false"], &["false", "true"], &[1, 0], &[0]),
        (&["\"007\"", "\"7\""], &["\"7\""], &["007", "7"], &[0, 1], &[1]),
    ] {
        let (found, of_train, of_test, notes) = labels(train, test).unwrap();
        assert_eq!(
            (found, of_train, of_test),
            (names.iter().map(|n| n.to_string()).collect(), in_train.to_vec(), in_test.to_vec())
        );
        assert!(notes.is_empty(), "{notes:?}");
    }
    // In tables a code with a leading zero makes all of them names, and 1.0 is 1.
    let table = |train: &str, test: &str| {
        let files = [("train.csv", train.as_bytes()), ("test.csv", test.as_bytes())];
        read(&files, &Reading::default())
            .map(|data| (data.labels, data.test.iter().map(|row| row.label).collect::<Vec<_>>()))
    };
    assert_eq!(
        table("text,label\na,07\nb,7\nc,10\n", "text,label\na,7\n"),
        Ok((["07", "10", "7"].map(str::to_owned).to_vec(), vec![2]))
    );
    assert_eq!(
        table("text,label\na,1.0\nb,0.0\n", "text,label\na,1\n"),
        Ok((["0", "1"].map(str::to_owned).to_vec(), vec![1]))
    );
}

#[test]
fn rows_without_a_known_label_are_left_out_and_counted() {
    let (_, _, test, notes) = labels(&["0", "1"], &["1", "-1", "null", "2", "2", "5"]).unwrap();
    assert_eq!(test, [1]);
    assert_eq!(
        notes,
        [
            "2 test rows have no label (-1 or null) and are left out",
            "3 test rows have labels that no training row has and are left out: \"2\" (2), \"5\" (1)"
        ]
    );
    let (_, _, _, notes) = labels(&["\"billing\"", "\"a b\""], &["\"a b\"", "\"Billing\"", "\"A_B\""]).unwrap();
    assert_eq!(
        notes[0],
        "2 test rows have labels that no training row has and are left out: \"A_B\" (1) (did you mean \"a b\"?), \
         \"Billing\" (1) (did you mean \"billing\"?)"
    );
    let error = labels(&["\"billing\""], &["\"Billing\""]).unwrap_err();
    assert!(error.starts_with("DIR/test.jsonl:1: no test row has a label that a training row has; the first is \"Billing\" (did you mean \"billing\"?)"), "{error}");
    let error = labels(&["0", "1"], &["-1", "-1"]).unwrap_err();
    assert!(error.starts_with("DIR: no test row has a label") && error.contains("data.split"), "{error}");
    let (train, test) = (rows(&["0", "1"]), rows(&["1", "2"]));
    let files: &[(&str, &[u8])] = &[("train.jsonl", &train), ("test.jsonl", &test)];
    let error = read(files, &Reading { unseen: UnseenLabels::Refuse, ..Reading::default() }).unwrap_err();
    assert!(error.starts_with("DIR/test.jsonl:2: label \"2\" never occurs in the training rows"), "{error}");
}

#[test]
fn columns_are_named_or_guessed_where_one_is_meant() {
    let row = |json: &str| json.as_bytes().to_vec();
    let with =
        |json: &str, reading: Reading| read(&[("train.jsonl", &row(json)), ("test.jsonl", &row(json))], &reading);
    let two =
        "{\"id\": 3, \"Content\": \"hi\", \"Intent\": \"x\"}\n{\"id\": 4, \"Content\": \"ho\", \"Intent\": \"y\"}";
    let data = with(two, Reading::default()).unwrap();
    assert_eq!(data.train[0].text(), "hi");
    assert_eq!(data.notes, ["the texts are column \"Content\", the labels column \"Intent\""]);
    let error = with(r#"{"sentence": "a", "content": "b", "label": 1}"#, Reading::default()).unwrap_err();
    assert!(
        error.starts_with(
            "DIR/train.jsonl:1: more than one column may hold the text: sentence, content; name it with data.text"
        ),
        "{error}"
    );
    let error = with(r#"{"text": "a", "fine": 1, "coarse": 2}"#, Reading::default()).unwrap_err();
    assert!(
        error.contains(
            "no column is known to hold the label; the columns here are: text, fine, coarse; name it with data.label"
        ),
        "{error}"
    );
    let nested = Reading { text: vec!["m.parts.1.t".to_owned()], label: Some("m.c".to_owned()), ..Reading::default() };
    let both = "{\"m\": {\"c\": \"x\", \"parts\": [1, {\"t\": \"hi\"}]}}\n{\"m\": {\"c\": \"y\", \"parts\": [1, {\"t\": \"ho\"}]}}";
    let data = with(both, nested).unwrap();
    assert_eq!((data.train[0].text(), data.labels[0].as_str()), ("hi", "x"));
    let causal = Reading { causal: true, text: vec!["content".to_owned()], ..Reading::default() };
    let data = with(r#"{"content": "once"}"#, causal).unwrap();
    assert_eq!(data.train[0].content, Content::Text("once".to_owned()));
}

#[test]
fn rows_with_nothing_to_learn_are_counted() {
    let train = b"{\"text\": \"a\"}\n{\"text\": \" \"}\n{\"text\": \"\"}\n";
    let causal = Reading { causal: true, ..Reading::default() };
    let data = read(&[("train.jsonl", train), ("test.jsonl", b"{\"text\": \"b\"}")], &causal).unwrap();
    assert_eq!(data.train.len(), 1);
    assert_eq!(
        data.notes,
        ["2 of 3 train rows have nothing to learn and are left out; the first: DIR/train.jsonl:2: empty text"]
    );
}

#[test]
fn conversations_come_in_several_forms() {
    let causal = Reading { causal: true, ..Reading::default() };
    let talk = |json: &str| {
        let data = read(&[("train.jsonl", json.as_bytes()), ("test.jsonl", json.as_bytes())], &causal)?;
        match &data.train[0].content {
            Content::Chat(talk) => {
                let turns: Vec<String> =
                    talk.turns.iter().map(|turn| format!("{}:{}", turn.role(), turn.content())).collect();
                Ok((turns.join("|"), talk.from))
            }
            other => Err(format!("{other:?}")),
        }
    };
    for (json, expected, from) in [
        (
            r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"}"#,
            "system:s|user:a|assistant:b",
            0,
        ),
        (
            r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "observation", "value": "b"}, {"from": "GPT", "value": "c"}]}"#,
            "user:a|tool:b|assistant:c",
            0,
        ),
        (
            r#"{"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}"#,
            "user:a|assistant:b",
            1,
        ),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, {"role": "assistant", "content": "c"}]}"#,
            "user:ab|assistant:c",
            0,
        ),
        (
            r#"{"messages": [{"role": "assistant", "content": null, "tool_calls": [1]}, {"role": "assistant", "content": "c"}]}"#,
            "assistant:|assistant:c",
            0,
        ),
    ] {
        assert_eq!(talk(json), Ok((expected.to_owned(), from)), "{json}");
    }
    for (json, expected) in [
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "image"}]}]}"#,
            "message 0 (counted from 0) has a part of kind image, and only text is read",
        ),
        (
            r#"{"messages": [{"role": "user", "content": null}]}"#,
            "message 0 (counted from 0) has null for `content` and calls no tools",
        ),
    ] {
        let error = talk(json).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let alpaca =
        r#"{"instruction": "now?", "input": "", "output": "yes", "system": "Be brief.", "history": [["hello", "hi"]]}"#;
    let data = read(&[("train.jsonl", alpaca.as_bytes()), ("test.jsonl", alpaca.as_bytes())], &causal).unwrap();
    let prompt = "Be brief.\n\n### Instruction:\nhello\n\n### Response:hi\n\n### Instruction:\nnow?\n\n### Response:";
    assert_eq!(data.train[0].content, Content::Pair { prompt: prompt.into(), response: "yes".into() });
}
