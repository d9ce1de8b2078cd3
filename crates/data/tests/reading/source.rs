//! Reading data folders: what is accepted, and what a wrong folder is told.

use std::fs;
use std::path::Path;

use bonfire_data::{DataError, Dataset, Example, Reading};
use tempfile::TempDir;

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(folder.path().join(name), bytes).unwrap());
    folder
}

const TRAIN: &[u8] = br#"{"text": "ring the bell", "label": "bell", "who": 3}
{"text": "", "label": "air", "who": true}
"#;
const TEST: &[u8] = br#"{"text": "open a window", "label": "air"}"#;

/// As a classifier's rows, with the column that a natural partition goes by.
fn read(folder: &Path, group: Option<&str>) -> Result<Dataset, DataError> {
    Dataset::read(folder, &Reading { group: group.map(str::to_owned), ..Reading::default() })
}

fn complaint(files: &[(&str, &[u8])], group: Option<&str>) -> String {
    let folder = folder(files);
    let error = read(folder.path(), group).unwrap_err().to_string();
    error.replace(folder.path().to_str().unwrap(), "DIR")
}

#[test]
fn names_are_collected_and_sorted() {
    let folder = folder(&[("train.jsonl", TRAIN), ("test.jsonl", TEST)]);
    let data = read(folder.path(), Some("who")).unwrap();
    assert_eq!(data.name, folder.path().file_name().unwrap().to_str().unwrap());
    assert_eq!(data.labels, ["air", "bell"]);
    let example = |text: &str, label, group: Option<&str>| Example::labelled(text, label, group.map(str::to_owned));
    assert_eq!(data.train, [example("ring the bell", 1, Some("3")), example("", 0, Some("true"))]);
    assert_eq!(data.test, [example("open a window", 0, None)]);
}

#[test]
fn indices_without_names_are_their_own_names() {
    let train = b"{\"text\": \"a\", \"label\": 2}\n\n{\"text\": \"b\", \"label\": 0}";
    let folder = folder(&[("train.jsonl", train), ("test.jsonl", b"")]);
    let data = read(folder.path(), None).unwrap();
    // Gaps are no classes.
    assert_eq!(data.labels, ["0", "2"]);
    assert_eq!((data.train[0].label, data.train[1].label, data.test.len()), (1, 0, 0));
}

#[test]
fn csv_and_jsonl_read_the_same() {
    let csv = "text,label,who\n\"ring, the\nbell\",1,ann\nair please,0,bob\n".as_bytes();
    let test = b"\xef\xbb\xbflabel,text\nair,\"say \"\"air\"\"\"\n";
    let folder = folder(&[("train.csv", csv), ("test.csv", test), ("labels.txt", b"air\nbell\n")]);
    let data = read(folder.path(), Some("who")).unwrap();
    assert_eq!(data.labels, ["air", "bell"]);
    assert_eq!((data.train[0].text(), data.train[0].label), ("ring, the\nbell", 1));
    assert_eq!(data.train[1].group.as_deref(), Some("bob"));
    assert_eq!((data.test[0].text(), data.test[0].label), ("say \"air\"", 0));
    assert_eq!(data.test[0].group, None);
}

#[test]
fn a_csv_cell_that_is_a_listed_name_is_that_name() {
    let train = b"text,label\nbad,1\ngood,5\n";
    let folder = folder(&[("train.csv", train), ("test.csv", b"text,label\n"), ("labels.txt", b"1\n5\n")]);
    let data = read(folder.path(), None).unwrap();
    assert_eq!((data.train[0].label, data.train[1].label), (0, 1));
}

#[test]
fn wrong_folders_are_told_what_is_missing() {
    let nowhere = read(Path::new("no/such/place"), None).unwrap_err();
    assert!(matches!(nowhere, DataError::FolderMissing { .. }), "{nowhere}");
    assert!(nowhere.to_string().starts_with("no/such/place: no such data folder"));
    let alone = complaint(&[("train.jsonl", TRAIN), ("notes.md", b"")], None);
    assert!(
        alone.starts_with("DIR: no test file; there is: notes.md, train.jsonl. Add test.* as .jsonl, .json"),
        "{alone}"
    );
    assert!(alone.contains("data.test = \"FILE\"") && alone.contains("data.split = { test = 0.2 }"), "{alone}");
    let both: &[(&str, &[u8])] = &[("train.jsonl", TRAIN), ("train.csv", b""), ("test.jsonl", TEST)];
    assert_eq!(
        complaint(both, None),
        "DIR: both train.csv and train.jsonl are there; keep one of them, or name it with data.train"
    );
    let empty: &[(&str, &[u8])] = &[("train.jsonl", b"\n"), ("test.jsonl", b"")];
    assert_eq!(complaint(empty, None), "DIR/train.jsonl: no rows; the file needs at least one row");
}

/// The complaint about a training file whose second line is this.
fn second_line(line: &[u8]) -> String {
    let train = [b"{\"text\": \"a\", \"label\": 0}\n", line].concat();
    complaint(&[("train.jsonl", &train), ("test.jsonl", b"")], None)
}

#[test]
fn wrong_lines_are_named() {
    for (line, expected) in [
        (&b"{\"text\": \"b\""[..], "DIR/train.jsonl:2: not a JSON object (EOF"),
        (b"[1]", "DIR/train.jsonl:2: not a JSON object"),
        (b"{\"txt\": \"b\", \"label\": 0}", "DIR/train.jsonl:2: no field \"text\"; the fields here are: txt, label"),
        (b"{\"text\": \"b\"}", "DIR/train.jsonl:2: no field \"label\"; the fields here are: text"),
        (b"{\"text\": 7, \"label\": 0}", "DIR/train.jsonl:2: field \"text\" is not a string; expected a string"),
        (
            b"{\"text\": \"b\", \"label\": -1}",
            "DIR/train.jsonl:2: label -1, which stands for none; expected a label in every training row",
        ),
        (b"{\"text\": \"b\", \"label\": 1.5}", "DIR/train.jsonl:2: field \"label\" is 1.5; expected a whole number"),
        (
            b"{\"text\": \"b\", \"label\": \"x\"}",
            "DIR/train.jsonl:2: label \"x\" is a name, but a row before has a number",
        ),
        (b"{\"text\": \"b\", \"label\": null}", "DIR/train.jsonl:2: no label; expected a label in every training row"),
        (
            b"{\"text\": \"b\", \"label\": null}\n{\"text\": \"c\", \"label\": null}",
            "DIR/train.jsonl:2: no label, as in 2 of the 3 training rows; expected a label in every training row",
        ),
        (b"{\"text\": null, \"label\": 1}", "DIR/train.jsonl:2: field \"text\" is null; expected a string"),
        (b"{\"text\": NaN, \"label\": 1}", "DIR/train.jsonl:2: NaN, which is no JSON"),
        (b"{\"text\": \"\\ud83d\", \"label\": 1}", "DIR/train.jsonl:2: half of a character"),
        (b"{\"text\": \"\xff\", \"label\": 0}", "DIR/train.jsonl:2: not UTF-8; save the file as UTF-8"),
    ] {
        let complaint = second_line(line);
        assert!(complaint.starts_with(expected), "{complaint}");
    }
}

#[test]
fn wrong_csv_is_named() {
    for (train, expected) in [
        (
            &b"txt,label\na,0\n"[..],
            "DIR/train.csv:2: no column is known to hold the text; the columns here are: txt, label; name it with data.text",
        ),
        (b"text,label\na,0\nb\n", "DIR/train.csv:3: the row has 1 cell, the header row 2"),
        (b"text,label\na,0\n\xff,1\n", "DIR/train.csv:3: not UTF-8"),
        (b"text,label\na,\n", "DIR/train.csv:2: no label; expected a label in every"),
    ] {
        let complaint = complaint(&[("train.csv", train), ("test.jsonl", b"")], None);
        assert!(complaint.starts_with(expected), "{complaint}");
    }
}

#[test]
fn wrong_labels_are_named() {
    let zero = br#"{"text": "a", "label": 0}"#;
    let named = |label: &str| format!("{{\"text\": \"a\", \"label\": {label}}}").into_bytes();
    let with = |train: &[u8], test: &[u8], labels: &[u8]| {
        complaint(&[("train.jsonl", train), ("test.jsonl", test), ("labels.json", labels)], None)
    };
    let names: &[u8] = br#"["air", "bell"]"#;
    let range = with(&named("2"), b"", names);
    assert_eq!(range, "DIR/train.jsonl:1: label 2 is out of range; there are 2 labels, so 0 to 1");
    let unknown = with(&named("\"dog\""), b"", names);
    assert!(unknown.starts_with("DIR/train.jsonl:1: label \"dog\" is not listed in DIR/labels.json"), "{unknown}");
    let untrained = with(zero, &named("1"), names);
    assert!(
        untrained
            .starts_with("DIR/test.jsonl:1: no test row has a label that a training row has; the first is \"bell\""),
        "{untrained}"
    );
    for (labels, expected) in [
        (&b"[]"[..], "DIR/labels.json: no labels"),
        (b"[\"a\", \"a\"]", "DIR/labels.json: label \"a\" is listed twice"),
        (b"{\"a\": 1}", "DIR/labels.json: a map in which index 0 is missing"),
        (b"[\"a\", \"\"]", "DIR/labels.json: an empty label name"),
    ] {
        let complaint = with(zero, b"", labels);
        assert!(complaint.starts_with(expected), "{complaint}");
    }
}

#[test]
fn what_leaves_nothing_to_learn_is_refused() {
    let spam = b"text,label\nring the bell,spam\nopen a window,spam\n";
    assert_eq!(
        complaint(&[("train.csv", spam), ("test.csv", spam)], None),
        "DIR/train.csv: \"spam\" is the only label, in column \"label\"; expected at least two labels to tell apart; \
         another column is named with data.label"
    );
    // A list may name more than occur.
    let listed = folder(&[("train.csv", spam), ("test.csv", spam), ("labels.txt", b"ham\nspam\n")]);
    assert_eq!(read(listed.path(), None).unwrap().labels, ["ham", "spam"]);
    // With any number of labels a text has the one or not.
    let several = Reading { several: true, ..Reading::default() };
    assert_eq!(Dataset::read(listed.path(), &several).unwrap().labels.len(), 2);
    let one = folder(&[("train.csv", spam), ("test.csv", spam)]);
    assert_eq!(Dataset::read(one.path(), &several).unwrap().labels, ["spam"]);

    let silent = b"text,label\n,ham\n  ,spam\n";
    assert_eq!(
        complaint(&[("train.csv", silent), ("test.csv", spam)], None),
        "DIR/train.csv: every text in \"text\" is empty; expected texts to learn from; another column is named with data.text"
    );
}

#[test]
fn rows_of_nobody_are_refused_or_told_of() {
    let nobody = b"text,label,who\nring,bell,ann\nopen,air, \n";
    assert_eq!(
        complaint(&[("train.csv", nobody), ("test.csv", TEST)], Some("who")),
        "DIR/train.csv:3: field \"who\" is empty, by which rows are dealt out to clients; expected whose row it is, in every \
         training row"
    );
    let train = b"text,label,who\nring,bell,ann\nopen,air,bob\n";
    let test = b"text,label,who\nshut,air,carl\nknock,bell,dora\nsing,bell,carl\nhum,air,\nbuzz,bell,ann\n";
    let folder = folder(&[("train.csv", train), ("test.csv", test)]);
    let data = read(folder.path(), Some("who")).unwrap();
    assert_eq!(
        data.notes,
        [
            "3 test rows have a \"who\" that no training row has (carl, dora): they count for the federation's accuracy and \
          for no client's"
        ]
    );
    assert_eq!(data.test[3].group, None);
}

#[test]
fn what_makes_accuracy_flatter_is_told_of() {
    let rows = |texts: &[&str]| {
        let row = |(at, text): (usize, &&str)| format!("{text} {at},{}\n", ["bell", "Air", "air"][at % 3]);
        format!("text,label\n{}", texts.iter().enumerate().map(row).collect::<String>())
    };
    let (train, mut test) = (rows(&["ring"; 30]), vec!["knock"; 20]);
    let notes = |test: &[&str]| {
        let folder = folder(&[("train.csv", train.as_bytes()), ("test.csv", rows(test).as_bytes())]);
        read(folder.path(), None).unwrap().notes
    };
    let alike = "labels that differ in case alone are labels apart: \"Air\" and \"air\"";
    assert_eq!(notes(&test), [alike]);
    test[3] = "ring";
    let known = "1 of 20 test texts stand in the training rows too; accuracy on texts that were trained on flatters";
    assert_eq!(notes(&test), [known, alike]);

    let wordy: String = (0..20).map(|at| format!("ring {at},l{}\n", at.min(10))).collect();
    let wordy = folder(&[("train.csv", format!("text,label\n{wordy}").as_bytes()), ("test.csv", b"text,label\n")]);
    assert_eq!(read(wordy.path(), None).unwrap().notes, ["11 labels of 20 training rows: hardly two rows of each"]);
    let both = Reading { label: Some("text".to_owned()), ..Reading::default() };
    let error = Dataset::read(wordy.path(), &both).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "train.csv:2: column \"text\" would be both text and label; expected two columns, named with data.text and \
             data.label"
        ),
        "{error}"
    );
}

#[test]
fn rows_of_a_table_are_named_by_the_line_they_begin_on() {
    let header = "text,label\n";
    for (rows, line) in
        [("a,air\n\n\nb,\n", 5), ("a,air\r\n\r\nb,\r\n", 4), ("\"a\nb\",air\n\nc,\n", 5), ("a,air\r\nb,air\nc,\n", 4)]
    {
        for header in [header, "text,label\r\n", "\u{feff}text,label\n"] {
            let train = format!("{header}{rows}");
            let error = complaint(&[("train.csv", train.as_bytes()), ("test.csv", b"text,label\n")], None);
            assert!(error.starts_with(&format!("DIR/train.csv:{line}: no label")), "{train:?}: {error}");
        }
    }
    let uneven = "text,label\r\na,air\r\n\r\nb\r\n";
    assert_eq!(
        complaint(&[("train.csv", uneven.as_bytes()), ("test.csv", b"text,label\n")], None),
        "DIR/train.csv:4: the row has 1 cell, the header row 2; expected as many cells as the header row has; a cell with the \
         delimiter in it stands in quotes"
    );
}

#[test]
fn the_group_column_is_needed_in_training_only() {
    let files: &[(&str, &[u8])] = &[("train.jsonl", TRAIN), ("test.jsonl", TEST)];
    let missing = complaint(files, Some("speaker"));
    assert_eq!(missing, "DIR/train.jsonl:1: no field \"speaker\"; the fields here are: text, label, who");
    let list: &[u8] = br#"{"text": "a", "label": 0, "who": [1]}"#;
    let listed = complaint(&[("train.jsonl", list), ("test.jsonl", b"")], Some("who"));
    assert!(listed.starts_with("DIR/train.jsonl:1: group field \"who\" is a list"), "{listed}");
}

#[test]
fn the_first_labels_can_be_kept() {
    let data = bonfire_data::corpus::dataset().keep_labels(4).unwrap();
    assert_eq!((data.labels.len(), data.train.len(), data.test.len()), (4, 320, 80));
    assert!(data.train.iter().chain(&data.test).all(|example| example.label < 4));
    for wrong in [0, 5] {
        let error = data.clone().keep_labels(wrong).unwrap_err().to_string();
        assert!(error.contains("expected a number from 1 to 4"), "{error}");
    }
}

#[test]
fn a_part_may_lack_a_split_and_needs_listed_labels() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let read = || Dataset::read(folder.path(), &Reading { part: true, ..Reading::default() });
    write("test.jsonl", "{\"text\": \"late\", \"label\": \"transfer\"}\n");
    let error = read().unwrap_err().to_string();
    assert!(error.contains("no labels.json"), "{error}");
    write("labels.json", "[\"card\", \"transfer\"]");
    let server = read().unwrap();
    assert_eq!((server.train.len(), server.test.len(), server.test[0].label), (0, 1, 1));
    assert_eq!(server.keep_labels(1).unwrap().test.len(), 0, "its rows are of the second label");
    // A label that no training row here has may be another site's.
    write("train.jsonl", "{\"text\": \"lost\", \"label\": 0}\n");
    assert_eq!((read().unwrap().train.len(), read().unwrap().test.len()), (1, 1));
    write("train.jsonl", "{\"text\": \"lost\", \"label\": 2}\n");
    assert!(read().unwrap_err().to_string().contains("train.jsonl"));
}

#[test]
fn a_part_for_language_models_needs_no_labels() {
    let folder = folder(&[("train.txt", b"one text\n\nanother\n")]);
    let part = Dataset::read(folder.path(), &Reading { part: true, causal: true, ..Reading::default() }).unwrap();
    assert_eq!((part.train.len(), part.test.len(), part.is_labelled()), (2, 0, false));
}
