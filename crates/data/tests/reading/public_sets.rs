//! Public sets in the form in which they are published, small: each loads with one or two keys at most. Columns, kinds of files and
//! names are those of their cards (`scripts/fixtures/make_data_fixtures.py` for the Parquet ones); the rows are our own.

use std::fs;
use std::path::{Path, PathBuf};

use bonfire_data::{Content, Dataset, Reading, SplitShares, Wording};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, text)| fs::write(folder.path().join(name), text).unwrap());
    folder
}

fn columns(text: &[&str], label: Option<&str>) -> Reading {
    Reading {
        text: text.iter().map(|name| (*name).to_owned()).collect(),
        label: label.map(str::to_owned),
        ..Reading::default()
    }
}

fn sizes(data: &Dataset) -> (usize, usize, usize) {
    (data.train.len(), data.validation.len(), data.test.len())
}

#[test]
fn sst2() {
    // No key: `sentence` is the one column of texts, and the test split has no labels.
    let data = Dataset::read(&fixture("sst2"), &Reading::default()).unwrap();
    assert_eq!(data.labels, ["negative", "positive"]);
    assert_eq!(sizes(&data), (4, 0, 2));
    assert_eq!((data.train[0].text(), data.train[0].label), ("a gem of a film ", 1));
    assert_eq!(data.test[0].text(), "warm and wise ");
    assert_eq!(
        data.notes,
        [
            "the texts are column \"sentence\", the labels column \"label\"",
            "2 test rows have no label (-1 or null) and are left out",
            "no test row has a label: the validation split takes the place of the test split",
        ]
    );
}

#[test]
fn mnli() {
    let reading = columns(&["premise", "hypothesis"], None);
    let data = Dataset::read(&fixture("glue/mnli"), &reading).unwrap();
    assert_eq!(data.labels, ["entailment", "neutral", "contradiction"]);
    // Two parts of training rows; the matched splits.
    assert_eq!(sizes(&data), (6, 0, 2));
    assert_eq!(data.train[4].content, Content::Two("She reads.".into(), "She sings.".into()));
    let mismatched = Reading { test: Some("validation_mismatched".to_owned()), ..reading };
    assert_eq!(sizes(&Dataset::read(&fixture("glue/mnli"), &mismatched).unwrap()), (6, 2, 2));
    // Which text is meant is not guessed.
    let error = Dataset::read(&fixture("glue/mnli"), &Reading::default()).unwrap_err().to_string();
    assert!(error.contains("name a pair with data.text = [\"premise\", \"hypothesis\"]"), "{error}");
}

#[test]
fn qnli() {
    let data = Dataset::read(&fixture("glue/qnli"), &columns(&["question", "sentence"], None)).unwrap();
    assert_eq!((sizes(&data), data.labels.len()), ((2, 0, 2), 2));
    // `sentence` alone would be half of it.
    let error = Dataset::read(&fixture("glue/qnli"), &Reading::default()).unwrap_err().to_string();
    assert!(error.contains("more than one column may hold the text: sentence, question"), "{error}");
    let error = Dataset::read(&fixture("glue"), &Reading::default()).unwrap_err().to_string();
    assert!(error.contains("several configurations: mnli, qnli") && error.contains("glue/mnli\""), "{error}");
}

#[test]
fn mrpc() {
    // Quotes are part of the texts, and one is open.
    let header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n";
    let rows = "1\t702876\t702977\tHe said \"so .\t\"So , he said .\n0\t2108705\t2108831\tIt rose .\tIt fell .\n";
    let folder = folder(&[("train.tsv", &format!("{header}{rows}")), ("test.tsv", &format!("{header}{rows}"))]);
    let data = Dataset::read(folder.path(), &columns(&["#1 String", "#2 String"], Some("Quality"))).unwrap();
    assert_eq!((sizes(&data), data.labels.as_slice()), ((2, 0, 2), &["0".to_owned(), "1".to_owned()][..]));
    assert_eq!(data.train[0].content, Content::Two("He said \"so .".into(), "\"So , he said .".into()));
    assert!(data.notes.iter().any(|note| note.contains("quotes are part of the texts")), "{:?}", data.notes);
}

#[test]
fn cola() {
    // Published without a header row: it is told so, and works with one.
    let rows = "gj04\t1\t\tOur friends won't buy this analysis.\ngj04\t0\t*\tThey drank the pub.\n";
    let bare = folder(&[("train.tsv", rows), ("dev.tsv", rows)]);
    let error = Dataset::read(bare.path(), &Reading::default()).unwrap_err().to_string();
    assert!(error.contains("put one before its rows"), "{error}");
    let named = format!("source\tlabel\tmark\tsentence\n{rows}");
    let folder = folder(&[("train.tsv", &named), ("dev.tsv", &named)]);
    let data = Dataset::read(folder.path(), &Reading::default()).unwrap();
    assert_eq!((sizes(&data), data.labels.len(), data.train[1].text()), ((2, 0, 2), 2, "They drank the pub."));
}

#[test]
fn ag_news() {
    // Kaggle's form: classes from 1, three columns.
    let csv = "Class Index,Title,Description\n3,\"Wall St., up\",\"Shares \"\"rose\"\".\"\n1,Talks,They met.\n4,Chips,Small.\n";
    let folder = folder(&[("train.csv", csv), ("test.csv", csv)]);
    let data = Dataset::read(folder.path(), &columns(&["Title", "Description"], Some("Class Index"))).unwrap();
    // 2 has no row: gaps are no classes.
    assert_eq!(data.labels, ["1", "3", "4"]);
    assert_eq!(data.train[0].content, Content::Two("Wall St., up".into(), "Shares \"rose\".".into()));
}

#[test]
fn imdb() {
    let data = Dataset::read(&fixture("imdb"), &Reading::default()).unwrap();
    assert_eq!((sizes(&data), data.labels.as_slice()), ((3, 0, 3), &["neg".to_owned(), "pos".to_owned()][..]));
    assert!(data.notes[0].ends_with("reading its folder plain_text"), "{:?}", data.notes);
}

#[test]
fn banking77() {
    let data = Dataset::read(&fixture("banking77"), &Reading::default()).unwrap();
    assert_eq!(data.labels, ["activate_my_card", "age_limit", "card_arrival"]);
    assert_eq!((sizes(&data), data.train[0].label, data.notes.len()), ((4, 0, 2), 2, 0));
}

#[test]
fn alpaca_gpt4() {
    // One split: a share of it is the test split. `text` holds all of it, and goes last.
    let shares = Some(SplitShares { test: 0.5, validation: 0.0 });
    let data = Dataset::read(&fixture("alpaca-gpt4"), &Reading { causal: true, shares, ..Reading::default() }).unwrap();
    assert_eq!(sizes(&data), (1, 0, 1));
    let Content::Pair { prompt, .. } = &data.train[0].content else { panic!("a pair") };
    assert!(prompt.starts_with("Below is an instruction that describes a task") && prompt.ends_with("### Response:"));
    let error = Dataset::read(&fixture("alpaca-gpt4"), &Reading { causal: true, ..Reading::default() }).unwrap_err();
    assert!(error.to_string().contains("data.split = { test = 0.2 }"), "{error}");
}

#[test]
fn dolly() {
    let row = r#"{"instruction": "Who?", "context": "Ann came.", "response": "Ann.", "category": "closed_qa"}"#;
    let other = r#"{"instruction": "Why?", "context": "", "response": "So.", "category": "open_qa"}"#;
    let folder = folder(&[("databricks-dolly-15k.jsonl", &[row, other].repeat(5).join("\n"))]);
    let wording = Wording::parse("{instruction}\n{context}\n", "{response}").unwrap();
    let reading = Reading {
        causal: true,
        wording: Some(wording),
        label: Some("category".to_owned()),
        shares: Some(SplitShares { test: 0.2, validation: 0.1 }),
        ..Reading::default()
    };
    let data = Dataset::read(folder.path(), &reading).unwrap();
    assert_eq!(
        (sizes(&data), data.labels.as_slice()),
        ((7, 1, 2), &["closed_qa".to_owned(), "open_qa".to_owned()][..])
    );
    assert_eq!(Dataset::read(folder.path(), &reading).unwrap(), data, "the same seed draws the same rows");
    let other = Dataset::read(folder.path(), &Reading { seed: 9, ..reading }).unwrap();
    assert_ne!(other.test, data.test);
}

#[test]
fn tool_calls_in_parquet() {
    let data = Dataset::read(&fixture("tools"), &Reading { causal: true, ..Reading::default() }).unwrap();
    let Content::Chat(talk) = &data.train[0].content else { panic!("a conversation") };
    assert_eq!(
        talk.turns.iter().map(|turn| turn.role()).collect::<Vec<_>>(),
        ["user", "assistant", "tool", "assistant"]
    );
    let calls = bonfire_data::Cell::Record(talk.turns[1].fields().to_vec());
    assert_eq!(
        calls.to_string(),
        r#"{"role":"assistant","tool_calls":[{"function":{"name":"look","arguments":"{\"q\": 1}"},"type":"function"}]}"#
    );
    // Tools that are JSON in a string are read as such.
    assert_eq!(talk.fields[0].1.to_string(), r#"[{"name":"look"}]"#);
}

#[test]
fn parquet_reads_the_same_however_it_is_packed() {
    let read = |name: &str| {
        let dir = tempfile::tempdir().unwrap();
        for split in ["train", "test"] {
            fs::copy(fixture(&format!("kinds/{name}.parquet")), dir.path().join(format!("{split}.parquet"))).unwrap();
        }
        let data = Dataset::read(dir.path(), &Reading::default()).unwrap();
        Dataset { name: String::new(), ..data }
    };
    let plain = read("none");
    assert_eq!((sizes(&plain), plain.labels.as_slice()), ((40, 0, 40), &["0".to_owned(), "12".to_owned()][..]));
    assert_eq!((plain.train[0].text(), plain.train[1].text(), plain.train[2].label), ("hello é", "", 1));
    // Both splits are the same file.
    assert_eq!(
        plain.notes,
        [
            "20 texts are empty, and kept: their labels count",
            "30 of 40 test texts stand in the training rows too; accuracy on texts that were trained on flatters",
        ]
    );
    for name in ["snappy", "gzip", "zstd", "zstd-2", "lz4"] {
        assert_eq!(read(name), plain, "{name}");
    }
}
