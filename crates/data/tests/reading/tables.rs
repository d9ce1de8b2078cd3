//! What goes wrong with tables: quotes that take in rows, columns of two names or of one.

use std::fs;

use bonfire_data::{Dataset, Reading};

const TEST: &str = "text,label\nknock,pos\nsing,neg\n";

fn read_as(files: &[(&str, &str)], reading: &Reading) -> Result<Dataset, String> {
    let folder = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, text)| fs::write(folder.path().join(name), text).unwrap());
    let place = folder.path().to_str().unwrap().to_owned();
    let data = Dataset::read(folder.path(), reading).map_err(|error| error.to_string().replace(&place, "DIR"))?;
    let notes = data.notes.iter().map(|note| note.replace(&place, "DIR")).collect();
    Ok(Dataset { notes, ..data })
}

fn read(name: &str, text: &str) -> Result<Dataset, String> {
    read_as(&[(name, text), ("test.csv", TEST)], &Reading::default())
}

/// A table of rows of these cells with what `row` makes of some of them.
fn table(header: &str, cells: impl Fn(usize) -> String) -> String {
    (0..40).fold(format!("{header}\n"), |all, at| all + &cells(at) + "\n")
}

fn label(at: usize) -> &'static str {
    ["pos", "neg"][at % 2]
}

#[test]
fn a_quote_that_never_closes_is_refused_at_its_line() {
    let label_first =
        table("label,text", |at| format!("{},{}quoted {at}", label(at), if at == 10 { "\"" } else { "" }));
    let text_first = table("text,label", |at| format!("{}seen {at},{}", if at == 10 { "\"" } else { "" }, label(at)));
    let semicolons = label_first.replace(',', ";");
    let unended = label_first.trim_end().to_owned();
    let marked = format!("\u{feff}{}", label_first.replace('\n', "\r\n"));
    for text in [label_first, text_first, semicolons, unended, marked] {
        let error = read("train.csv", &text).unwrap_err();
        assert!(error.starts_with("DIR/train.csv:12: a quote opens a cell here and never closes"), "{error}");
        assert!(error.contains("expected a quote at the end of the cell too"), "{error}");
    }
    // The cell begins on a later line than its row.
    let later = "id,text,label\n1,\"a\nb\",pos\n2,\"c\nd\",\"neg\n3,e,pos\n";
    assert!(read("train.csv", later).unwrap_err().starts_with("DIR/train.csv:5: a quote opens"));
    // Between tabs such a quote is part of the text, as it was.
    let tabs = table("text\tlabel", |at| format!("{}seen {at}\t{}", if at == 10 { "\"" } else { "" }, label(at)));
    let data = read("train.tsv", &tabs).unwrap();
    assert_eq!((data.train.len(), data.train[10].text()), (40, "\"seen 10"));
    assert_eq!(data.notes, ["DIR/train.tsv: quotes are part of the texts"]);
}

#[test]
fn rows_within_quotes_are_told_of() {
    let quoted = |at: usize| if [10, 11, 20, 24].contains(&at) { "\"" } else { "" };
    let text_first = table("text,label", |at| format!("{}seen {at},{}", quoted(at), label(at)));
    let data = read("train.csv", &text_first).unwrap();
    assert_eq!(data.train.len(), 35, "of 40");
    assert_eq!(
        data.notes[0],
        "DIR/train.csv: 2 quotes, the first of which begins on line 12, take in 5 lines that look like rows of their own; \
         close it if they are"
    );
    let tabs = text_first.replace(',', "\t");
    assert!(read("train.tsv", &tabs).unwrap().notes[0].starts_with("DIR/train.tsv: 2 quotes, the first of which"));
    let label_first =
        table("label,text", |at| format!("{},{}seen {at}", label(at), if at == 10 || at == 13 { "\"" } else { "" }));
    let data = read("train.csv", &label_first).unwrap();
    assert_eq!(data.train.len(), 37);
    assert!(data.notes[0].contains(": a quote that begins on line 12 takes in 3 lines"), "{:?}", data.notes);
    // The labels that rows in a quote have may come later.
    let sorted = table("text,label", |at| format!("{}seen {at},{}", if at < 2 { "\"" } else { "" }, label(at)));
    let data = read("train.csv", &sorted).unwrap();
    assert!(
        data.notes[0].contains("begins on line 2 takes in 1 line that looks like a row of its own"),
        "{:?}",
        data.notes
    );
}

#[test]
fn texts_of_several_lines_are_no_rows() {
    let letter = |at: usize, apart: char| {
        format!(
            "\"Dear Sir{apart} number {at}\nI say \"\"yes{apart}pos\"\"{apart} and no\n\nGoodbye{apart}\nAda{apart} late\""
        )
    };
    for (name, apart) in [("train.csv", ','), ("train.csv", ';'), ("train.tsv", '\t')] {
        let text_first = table(&format!("text{apart}label"), |at| format!("{}{apart}{}", letter(at, apart), label(at)));
        let label_first =
            table(&format!("label{apart}text"), |at| format!("{}{apart}{}", label(at), letter(at, apart)));
        for text in [text_first, label_first] {
            let data = read(name, &text).unwrap();
            assert_eq!(data.train.len(), 40);
            assert!(!data.notes.iter().any(|note| note.contains("quote")), "{:?}", data.notes);
            assert!(data.train[3].text().ends_with("late"));
        }
    }
    // The last cell of a file too.
    let last = "label\ttext\npos\ta\nneg\t\"one\ntwo\nthree\nfour\"\n";
    let data = read("train.tsv", last).unwrap();
    assert_eq!((data.train.len(), data.train[1].text()), (2, "one\ntwo\nthree\nfour"));
    assert!(data.notes.is_empty(), "{:?}", data.notes);
}

#[test]
fn two_columns_of_one_name_are_refused_where_it_is_read() {
    let twice = "text,label,text,note,note\na,pos,b,,\nc,neg,d,,\n";
    assert_eq!(
        read("train.csv", twice).unwrap_err(),
        "DIR/train.csv: two columns are called \"text\"; expected one column of every name that is read; give the other a \
         name of its own"
    );
    let unread = "text,label,note,note\na,pos,,\nc,neg,,\n";
    assert_eq!(read("train.csv", unread).unwrap().train.len(), 2);
    let group = Reading { group: Some("note".to_owned()), ..Reading::default() };
    let error = read_as(&[("train.csv", unread), ("test.csv", TEST)], &group).unwrap_err();
    assert!(error.contains("two columns are called \"note\""), "{error}");
    // Which of two is no test row's label either.
    let error = read_as(&[("train.csv", TEST), ("test.csv", "text,label,label\na,pos,neg\n")], &Reading::default());
    assert!(error.unwrap_err().starts_with("DIR/test.csv: two columns are called \"label\""));
}

#[test]
fn a_label_column_of_almost_the_same_name_is_refused() {
    let with = |test: &str| read_as(&[("train.csv", TEST), ("test.csv", test), ("dev.csv", TEST)], &Reading::default());
    assert_eq!(
        with("text,Label\na,pos\n").unwrap_err(),
        "DIR/test.csv:2: no column \"label\", but one called \"Label\"; expected one name for the labels' column in all files"
    );
    let json = "{\"text\": \"a\", \"label \": \"pos\"}\n";
    let files = [("train.csv", TEST), ("test.jsonl", json), ("dev.csv", TEST)];
    assert!(read_as(&files, &Reading::default()).unwrap_err().contains("but one called \"label \""));
    let data = with("text\na\nb\n").unwrap();
    assert_eq!(data.notes[0], "2 test rows have no label (no column \"label\") and are left out");
    assert_eq!(data.test.len(), 2, "those of the validation split");
    let error = read_as(&[("train.csv", TEST), ("test.csv", "text\na\n")], &Reading::default()).unwrap_err();
    assert!(error.starts_with("DIR: no test row has a label (there is no column \"label\")"), "{error}");
}

#[test]
fn labels_are_one_however_a_file_writes_them() {
    let json = |labels: &[&str]| {
        let row = |(at, label): (usize, &&str)| format!("{{\"text\": \"t{at}\", \"label\": {label}}}\n");
        labels.iter().enumerate().map(row).collect::<String>()
    };
    let train = json(&["\"pos\"", "\"pos \"", "\" neg\""]);
    let labels = |train: &str, name: &str, test: &str| {
        let data = read_as(&[("train.jsonl", train), (name, test)], &Reading::default()).unwrap();
        assert!(data.notes.is_empty(), "{:?}", data.notes);
        (data.labels, data.test.iter().map(|row| row.label).collect::<Vec<_>>())
    };
    let named = |names: [&str; 2]| names.map(str::to_owned).to_vec();
    assert_eq!(labels(&train, "test.jsonl", &json(&["\"neg\""])), (named(["neg", "pos"]), vec![0]));
    // Digits that are strings in one file alone.
    let (strings, numbers) = (json(&["\"1\"", "\"0\""]), json(&["1", "0"]));
    assert_eq!(labels(&strings, "test.jsonl", &numbers), (named(["0", "1"]), vec![1, 0]));
    assert_eq!(labels(&numbers, "test.jsonl", &strings), (named(["0", "1"]), vec![1, 0]));
    let truths = json(&["true", "false"]);
    let table = "text,label\na,False\nb,TRUE\nc,true\n";
    assert_eq!(labels(&truths, "test.csv", table), (named(["false", "true"]), vec![0, 1, 1]));
    // A list's names stand for themselves, with their blanks.
    let files = [("train.jsonl", train.as_str()), ("test.jsonl", &train), ("labels.json", "[\"pos \", \"neg\"]")];
    let data = read_as(&files, &Reading::default()).unwrap();
    assert_eq!(data.train.iter().map(|row| row.label).collect::<Vec<_>>(), [0, 0, 1]);
}

#[test]
fn people_with_long_numbers_stay_apart() {
    let row = |at: usize| format!("{{\"text\": \"t{at}\", \"label\": {}, \"who\": 1844674407370955100{at}}}\n", at % 2);
    let rows: String = (0..4).map(row).collect();
    let reading = Reading { group: Some("who".to_owned()), ..Reading::default() };
    let data = read_as(&[("train.jsonl", &rows), ("test.jsonl", &rows)], &reading).unwrap();
    let groups: Vec<_> = data.train.iter().map(|row| row.group.clone().unwrap()).collect();
    assert_eq!(groups, (0..4).map(|at| format!("1844674407370955100{at}")).collect::<Vec<_>>());
}

#[test]
fn parts_are_read_by_their_numbers() {
    let name = |at: usize| format!("train-{at}-of-12.csv");
    let row = |at: usize| format!("text,label\nt{at},{}\n", label(at));
    let parts: Vec<(String, String)> = (0..12).map(|at| (name(at), row(at))).collect();
    let with = |parts: &[(String, String)]| {
        let mut files: Vec<(&str, &str)> = parts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        files.push(("test.csv", TEST));
        read_as(&files, &Reading::default())
    };
    let data = with(&parts).unwrap();
    let texts: Vec<&str> = data.train.iter().map(|row| row.text()).collect();
    assert_eq!(texts, (0..12).map(|at| format!("t{at}")).collect::<Vec<_>>());
    let error = with(&[&parts[..2], &parts[3..]].concat()).unwrap_err();
    assert!(error.starts_with("DIR: train-2-of-12 is missing"), "{error}");
    assert!(with(&parts[..11]).unwrap_err().starts_with("DIR: train-11-of-12 is missing"));
}
