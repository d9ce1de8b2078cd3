//! What a model is asked after training, from files.

use std::fs;

use bonfire_data::{Content, Reading, questions};

fn asked(name: &str, bytes: &[u8], reading: &Reading) -> Result<Vec<Content>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    questions(&path, reading).map_err(|error| error.to_string().replace(folder.path().to_str().unwrap(), "DIR"))
}

fn words(sentences: &[&str]) -> Vec<Content> {
    let of = |sentence: &&str| Content::Words(sentence.split(' ').map(str::to_owned).collect());
    sentences.iter().map(of).collect()
}

fn tagged() -> Reading {
    Reading { words: true, ..Reading::default() }
}

#[test]
fn a_line_of_a_text_file_is_the_row_of_its_number() {
    let expected = ["one", " two ", "three"].map(|text| Content::Text(text.to_owned())).to_vec();
    let marked = "\u{feff}one\r\n two \r\nthree\r\n\r\n  \r\n".as_bytes();
    for bytes in [&b"one\n two \nthree"[..], marked, &crate::packed::gzip(marked)] {
        assert_eq!(asked("rows.txt", bytes, &Reading::default()).as_ref(), Ok(&expected));
    }
    for (bytes, line) in [(&b"one\n\n\ntwo\n"[..], 2), (b"\none\n", 1), (b"one\ntwo\n \nthree\n", 3)] {
        let error = asked("rows.txt", bytes, &Reading::default()).unwrap_err();
        assert!(error.starts_with(&format!("DIR/rows.txt:{line}: a line without a text; expected a text on every")));
    }
    let error = asked("rows.txt", b"one\nt\xffo\n", &Reading::default()).unwrap_err();
    assert!(error.starts_with("DIR/rows.txt:2: not UTF-8"), "{error}");
    // Texts to go on with still have blank lines between them.
    let causal = Reading { causal: true, ..Reading::default() };
    assert_eq!(asked("rows.txt", b"a\nb\n\nc\n", &causal).unwrap().len(), 2);
}

#[test]
fn sentences_to_tag_stand_on_lines_or_in_columns() {
    let expected = words(&["Ada lives in Rome", "It rains"]);
    for text in [
        "Ada lives in Rome\nIt rains\n",
        "Ada  lives in\tRome \r\nIt rains\r\n\r\n",
        "Ada B-PER\nlives O\nin O\nRome B-LOC\n\nIt O\nrains O\n",
        "-DOCSTART- -X- O\n\nAda NNP U-PER\nlives VBZ O\nin IN O\nRome NNP S-LOC\n\n\nIt\tO\nrains\tO\n",
        "Ada\nlives\nin\nRome\n\nIt\nrains\n",
    ] {
        assert_eq!(asked("rows.txt", text.as_bytes(), &tagged()).as_ref(), Ok(&expected), "{text:?}");
    }
    // As many words on each line, but no tags at their ends.
    let even = asked("rows.txt", b"It rains\nAda sleeps\n", &tagged());
    assert_eq!(even, Ok(words(&["It rains", "Ada sleeps"])));
    let error = asked("rows.txt", b"It rains\n\nAda sleeps\n", &tagged()).unwrap_err();
    assert!(error.starts_with("DIR/rows.txt:2: a line without a text"), "{error}");
    for name in ["rows.conll", "rows.bio", "rows.tsv"] {
        assert_eq!(asked(name, b"Ada\nlives\nin\nRome\n\nIt\nrains", &tagged()).as_ref(), Ok(&expected), "{name}");
        let both = asked(name, b"Ada\tB-PER\nlives\n", &tagged()).unwrap_err();
        assert!(both.contains(":2: 1 columns, and 2 in the line before"), "{both}");
    }
}

#[test]
fn files_of_nothing_and_columns_of_one_name_are_refused() {
    for (name, reading) in [("rows.txt", Reading::default()), ("rows.txt", tagged()), ("rows.csv", Reading::default())]
    {
        let error = asked(name, b"", &reading).unwrap_err();
        assert_eq!(error, format!("DIR/{name}: no rows; the file needs at least one row"));
    }
    let error = asked("rows.csv", b"text,text\na,b\n", &Reading::default()).unwrap_err();
    assert!(error.contains("two columns are called \"text\""), "{error}");
}
