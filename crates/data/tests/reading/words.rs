//! Rows of words with tags, and of texts with several labels: files of columns, lists, tables; the tokens that stand for words.

use std::fs;
use std::path::Path;

use bonfire_data::{Content, DataError, Dataset, Partition, Reading, Tokenizer, UnseenLabels, label_table};
use tempfile::TempDir;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, text)| fs::write(folder.path().join(name), text).unwrap());
    folder
}

fn tagged() -> Reading {
    Reading { words: true, ..Reading::default() }
}

fn several() -> Reading {
    Reading { several: true, ..Reading::default() }
}

fn complaint(files: &[(&str, &str)], reading: &Reading) -> String {
    let folder = folder(files);
    let error: DataError = Dataset::read(folder.path(), reading).unwrap_err();
    error.to_string().replace(folder.path().to_str().unwrap(), "DIR")
}

/// A sentence a row: its words, and its tags by name.
fn rows(data: &Dataset) -> Vec<(Vec<String>, Vec<&str>)> {
    let words = |content: &Content| match content {
        Content::Words(words) => words.clone(),
        other => panic!("{other:?}"),
    };
    let names = |labels: &[usize]| labels.iter().map(|&label| data.labels[label].as_str()).collect();
    data.train.iter().map(|row| (words(&row.content), names(&row.labels))).collect()
}

const CONLL: &str = "-DOCSTART- -X- -X- O\n\nAda NNP I-NP B-PER\nlives VBZ I-VP O\nin IN I-PP O\nNew NNP I-NP B-LOC\nYork NNP I-NP I-LOC\n\n\
                     -DOCSTART- -X- -X- O\n\n# CD I-NP O\nrains VBZ I-VP O\n\n\nRome NNP I-NP B-LOC\n";

#[test]
fn columns_lists_and_tables_say_the_same() {
    let tsv = "Ada\tB-PER\nlives\tO\nin\tO\nNew\tB-LOC\nYork\tI-LOC\n\n#\tO\nrains\tO\n\nRome\tB-LOC\n";
    let jsonl = r##"{"id": 0, "tokens": ["Ada", "lives", "in", "New", "York"], "pos_tags": [1, 2, 3, 1, 1], "ner_tags": ["B-PER", "O", "O", "B-LOC", "I-LOC"]}
{"id": 1, "tokens": ["#", "rains"], "pos_tags": [1, 2], "ner_tags": ["O", "O"]}
{"id": 2, "tokens": ["Rome"], "pos_tags": [1], "ner_tags": ["B-LOC"]}
"##;
    let csv = "words,tags\n\"['Ada', 'lives', 'in', 'New', 'York']\",\"['B-PER', 'O', 'O', 'B-LOC', 'I-LOC']\"\n# rains,O O\n\"[\"\"Rome\"\"]\",\"[\"\"B-LOC\"\"]\"\n";
    let crlf = CONLL.replace('\n', "\r\n");
    let crlf = format!("\u{feff}{crlf}");
    let kinds: [(&str, &str); 6] = [
        ("txt", CONLL),
        ("conll", &crlf),
        (
            "bio",
            "# id 17 domain=x\nAda B-PER\nlives O\nin O\nNew B-LOC\nYork I-LOC\n\n# sent = two\n# O\nrains O\n\nRome B-LOC",
        ),
        ("tsv", tsv),
        ("jsonl", jsonl),
        ("csv", csv),
    ];
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let expected = vec![
        (owned(&["Ada", "lives", "in", "New", "York"]), vec!["B-PER", "O", "O", "B-LOC", "I-LOC"]),
        (owned(&["#", "rains"]), vec!["O", "O"]),
        (owned(&["Rome"]), vec!["B-LOC"]),
    ];
    for (ending, text) in kinds {
        let (train, test) = (format!("train.{ending}"), format!("valid.{ending}"));
        let folder = folder(&[(&train, text), (&test, text)]);
        let data = Dataset::read(folder.path(), &tagged()).unwrap();
        assert_eq!(data.labels, ["B-LOC", "B-PER", "I-LOC", "O"], "{ending}");
        assert_eq!(rows(&data), expected, "{ending}");
        assert_eq!(data.test, data.train, "{ending}");
        // One of each in the first sentence: the first by name. None in the second.
        assert_eq!(data.strata, ["no span", "LOC", "PER"]);
        assert_eq!(data.train.iter().map(|row| row.label).collect::<Vec<_>>(), [1, 0, 1], "{ending}");
    }
    // Another column of the same file.
    let folder = folder(&[("train.txt", CONLL), ("test.txt", CONLL)]);
    let chunks = Reading { text: vec!["2".into()], label: Some("3".into()), ..tagged() };
    let data = Dataset::read(folder.path(), &chunks).unwrap();
    assert_eq!(rows(&data)[2], (owned(&["NNP"]), vec!["I-NP"]));
}

#[test]
fn numbers_are_named_by_a_list() {
    let jsonl = "{\"tokens\": [\"Rome\", \"rains\"], \"ner_tags\": [2, 0]}\n";
    let listed = "[\"O\", \"B-PER\", \"B-LOC\"]";
    let data = folder(&[("train.jsonl", jsonl), ("test.jsonl", jsonl), ("labels.json", listed)]);
    let data = Dataset::read(data.path(), &tagged()).unwrap();
    assert_eq!((rows(&data)[0].1.as_slice(), data.labels.len()), (&["B-LOC", "O"][..], 3));
    let beyond = jsonl.replace("[2, 0]", "[3, 0]");
    let files = [("train.jsonl", beyond.as_str()), ("test.jsonl", jsonl), ("labels.json", listed)];
    let said = complaint(&files, &tagged());
    assert!(said.contains("train.jsonl:1") && said.contains('3'), "{said}");
    // Without a list they are their own names, which a model's config.json may know better.
    let data = folder(&[("train.jsonl", jsonl), ("test.jsonl", jsonl)]);
    let data = Dataset::read(data.path(), &tagged()).unwrap();
    assert_eq!(data.labels, ["0", "2"]);
    let names = ["O", "B-PER", "B-LOC"].map(String::from).to_vec();
    let data = data.renamed(names, &[0, 2]);
    assert_eq!((rows(&data)[0].1.as_slice(), data.train[0].label), (&["B-LOC", "O"][..], 1));
    assert_eq!(data.strata, ["no span", "LOC", "PER"]);
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let fine = "Ada B-PER\nlives O\n";
    for (train, words) in [
        ("Ada B-PER\nlives\n", &["train.txt:2", "one column alone", "a word and its tag"][..]),
        ("Ada NNP B-PER\nlives O\n", &["train.txt:2", "2 columns, and 3 in the line before"]),
        ("\n-DOCSTART- O\n\n", &["train.txt", "no rows"]),
    ] {
        let said = complaint(&[("train.txt", train), ("test.txt", fine)], &tagged());
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    let endless = "word O\n".repeat(2001);
    let said = complaint(&[("train.txt", &endless), ("test.txt", fine)], &tagged());
    assert!(said.contains("train.txt:1") && said.contains("2000 words without a blank line"), "{said}");
    let json = |words: &str, tags: &str| format!("{{\"tokens\": {words}, \"tags\": {tags}}}\n");
    let good = json("[\"a\"]", "[\"O\"]");
    for (row, words) in [
        (json("[\"a\", \"b\"]", "[\"O\"]"), &["train.jsonl:2", "2 words and 1 tags"][..]),
        (json("\"a b\"", "[\"O\"]"), &["train.jsonl:2", "a string", "a list"]),
        (json("[\"a\", 3]", "[\"O\", \"O\"]"), &["train.jsonl:2", "holds 3"]),
        (json("[\"a\"]", "[null]"), &["train.jsonl:2", "null", "a tag for every word"]),
        ("{\"tokens\": [\"a\"]}\n".to_owned(), &["train.jsonl:2", "tags"]),
        (json("[\"a\"]", "[0]"), &["label \"0\" is a number", "a row before has a name"]),
    ] {
        let said = complaint(&[("train.jsonl", &format!("{good}{row}")), ("test.jsonl", &good)], &tagged());
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    // A sentence without words teaches nothing.
    let named = json("[\"b\"]", "[\"B-X\"]");
    let data = folder(&[("train.jsonl", &format!("{good}{named}{}", json("[]", "[]"))), ("test.jsonl", &good)]);
    let data = Dataset::read(data.path(), &tagged()).unwrap();
    assert_eq!(data.train.len(), 2);
    assert!(data.notes.iter().any(|note| note.contains("1 of 3 train rows")), "{:?}", data.notes);
    // A tag that no training row has: left out, or refused.
    let other = format!("{good}{}", json("[\"a\"]", "[\"B-X\"]"));
    let known = format!("{good}{}", json("[\"b\"]", "[\"B-Y\"]"));
    let data = folder(&[("train.jsonl", &known), ("test.jsonl", &other)]);
    let found = Dataset::read(data.path(), &tagged()).unwrap();
    assert_eq!(found.test.len(), 1);
    assert!(found.notes.iter().any(|note| note.contains("\"B-X\" (1)")), "{:?}", found.notes);
    let refuse = Reading { unseen: UnseenLabels::Refuse, ..tagged() };
    let said = Dataset::read(data.path(), &refuse).unwrap_err().to_string();
    assert!(said.contains("test.jsonl:2") && said.contains("B-X"), "{said}");
    // Such files are for such models.
    let said = complaint(&[("train.conll", fine), ("test.conll", fine)], &Reading::default());
    assert!(said.contains("token-classification"), "{said}");
}

#[test]
fn labels_of_any_number_are_lists_names_and_columns() {
    let jsonl = "{\"text\": \"a\", \"labels\": [\"rude\", \"loud\"]}\n{\"text\": \"b\", \"labels\": []}\n{\"text\": \"c\", \"labels\": \"loud\"}\n";
    let csv = "text,labels\na,rude;loud\nb,\nc,\"['loud']\"\n";
    let hot = "text,loud,rude\na,1,1\nb,0,0.0\nc,True,False\n";
    let columns = Reading { label_columns: vec!["loud".into(), "rude".into()], ..several() };
    for (name, text, reading) in [("jsonl", jsonl, several()), ("csv", csv, several()), ("csv", hot, columns.clone())] {
        let folder = folder(&[(&format!("train.{name}"), text), (&format!("test.{name}"), text)]);
        let data = Dataset::read(folder.path(), &reading).unwrap();
        assert_eq!(data.labels, ["loud", "rude"], "{text}");
        let labels: Vec<Vec<usize>> = data.train.iter().map(|row| row.labels.clone()).collect();
        assert_eq!(labels.iter().map(|row| row.iter().sum::<usize>()).collect::<Vec<_>>(), [1, 0, 0], "{text}");
        assert_eq!(labels.iter().map(Vec::len).collect::<Vec<_>>(), [2, 0, 1], "{text}");
        // The rarest label of a row is what partitions go by.
        assert_eq!(data.strata, ["no label", "loud", "rude"]);
        assert_eq!(data.train.iter().map(|row| row.label).collect::<Vec<_>>(), [2, 0, 1]);
        let shards = Partition::Dirichlet { alpha: 1e6 }.split(&data, 1, 1, 1).unwrap();
        assert_eq!(label_table(&data, &shards.train), [[1, 1, 1]]);
    }
    // Test rows whose labels are kept secret.
    let hidden = "text,loud,rude\na,-1,-1\n";
    let data = folder(&[("train.csv", hot), ("test.csv", hidden), ("dev.csv", hot)]);
    assert_eq!(Dataset::read(data.path(), &columns).unwrap().test.len(), 3);
    for (row, words) in [("a,2,0", "field \"loud\""), ("a,-1,0", "-1 in some"), ("a,,0", "field \"loud\"")] {
        let said = complaint(&[("train.csv", &format!("text,loud,rude\n{row}\n")), ("test.csv", hot)], &columns);
        assert!(said.contains("train.csv:2") && said.contains(words), "{said}");
    }
}

fn roberta(json: &str) -> Tokenizer {
    Tokenizer::from_bytes(json.as_bytes(), "tiny").unwrap()
}

/// The tokens and words that `RobertaTokenizerFast(tokenizer_file=…, add_prefix_space=True)` of Transformers 5 gives with
/// `is_split_into_words=True`, whether or not the file asks for the space itself.
#[test]
fn words_are_split_as_by_transformers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/assets/tiny-roberta/tokenizer.json");
    let json = fs::read_to_string(path).unwrap();
    let bare = json.replace("\"add_prefix_space\":true", "\"add_prefix_space\":false");
    let bare = bare.replace("\"add_prefix_space\": true", "\"add_prefix_space\": false");
    assert_ne!(json, bare);
    let words: Vec<String> = "Ada returned the library-books , 3 days late !".split(' ').map(String::from).collect();
    let ids = [0, 956, 560, 264, 370, 17, 492, 225, 16, 225, 23, 942, 456, 225, 5, 2];
    let first = [1, 2, 3, 4, 7, 9, 11, 12, 13].map(Some).to_vec();
    for json in [&json, &bare] {
        let found = roberta(json).words(&[&words], 64).unwrap().remove(0);
        assert_eq!((found.ids.as_slice(), &found.first, found.cut), (&ids[..], &first, false));
    }
    // Cut within a word: what is left of it stands for it, what comes after is gone.
    let found = roberta(&json).words(&[&words], 7).unwrap().remove(0);
    assert_eq!((found.ids.as_slice(), found.cut), (&[0, 956, 560, 264, 370, 17, 2][..], true));
    assert_eq!(found.first, [Some(1), Some(2), Some(3), Some(4), None, None, None, None, None]);
    let empty = ["".to_owned(), "Ada".to_owned()];
    let found = roberta(&bare).words(&[&empty[1..], &empty[..0]], 64).unwrap();
    assert_eq!((found[0].ids.as_slice(), found[1].ids.as_slice()), (&[0, 956, 2][..], &[0, 2][..]));
}

#[test]
fn a_sentence_as_long_as_a_book_is_cut_at_the_end_that_the_file_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/assets/tiny-roberta/tokenizer.json");
    let json = fs::read_to_string(path).unwrap();
    let words: Vec<String> =
        (0..40_000).map(|i| if i < 20_000 { "the".to_owned() } else { "late".to_owned() }).collect();
    let right = roberta(&json).words(&[&words], 6).unwrap().remove(0);
    assert_eq!((right.ids.as_slice(), right.cut), (&[0, 264, 264, 264, 264, 2][..], true));
    assert_eq!(right.first.iter().filter(|token| token.is_some()).count(), 4);
    let left = json.replacen(
        "\"truncation\":null",
        "\"truncation\":{\"direction\":\"Left\",\"max_length\":3,\"strategy\":\"LongestFirst\",\"stride\":0}",
        1,
    );
    let left = left.replacen(
        "\"truncation\": null",
        "\"truncation\": {\"direction\": \"Left\", \"max_length\": 3, \"strategy\": \"LongestFirst\", \"stride\": 0}",
        1,
    );
    assert_ne!(json, left);
    let left = roberta(&left).words(&[&words], 6).unwrap().remove(0);
    assert_eq!(left.ids, [0, 456, 456, 456, 456, 2]);
    assert_eq!((left.first[39_999], left.first[39_995], left.first.len()), (Some(4), None, 40_000));
}
