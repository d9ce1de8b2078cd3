//! Writes the built-in corpus to a folder: train.jsonl, test.jsonl, labels.json and pretrain.txt.
//!
//! `cargo run --release -p bonfire-data --example write-corpus -- DIR`

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use bonfire_data::{Dataset, Example, corpus};

const PRETRAINING_LINES: usize = 40_000;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: write-corpus DIR")?;
    let folder = PathBuf::from(folder);
    fs::create_dir_all(&folder)?;
    let Dataset { labels, train, test, .. } = corpus::dataset();
    write_rows(&folder.join("train.jsonl"), &train)?;
    write_rows(&folder.join("test.jsonl"), &test)?;
    fs::write(folder.join("labels.json"), serde_json::to_string_pretty(&labels)? + "\n")?;
    let lines = corpus::pretraining_text(PRETRAINING_LINES);
    fs::write(folder.join("pretrain.txt"), lines.join("\n") + "\n")?;
    println!(
        "{}: {} training, {} test and {} pretraining texts",
        folder.display(),
        train.len(),
        test.len(),
        lines.len()
    );
    Ok(())
}

fn write_rows(path: &Path, rows: &[Example]) -> Result<(), Box<dyn Error>> {
    let mut file = BufWriter::new(File::create(path)?);
    for example in rows {
        let Example { label, group, .. } = example;
        let text = example.text();
        let row = serde_json::json!({ "text": text, "label": label, corpus::GROUP_COLUMN: group });
        writeln!(file, "{row}")?;
    }
    Ok(file.flush()?)
}
