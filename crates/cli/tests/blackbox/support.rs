//! Running the binary in a folder of its own, and small inputs to give it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// A folder in which the binary runs.
pub struct Room {
    folder: TempDir,
}

/// What a run of the binary said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Room {
    pub fn new() -> Room {
        Room { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, contents: &str) {
        fs::write(self.path(name), contents).expect("written");
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// A command that runs the binary here, on the CPU.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bonfire"));
        command.current_dir(self.folder.path()).args(args);
        if !args.contains(&"--device") {
            command.args(["--device", "cpu"]);
        }
        command
    }

    /// Runs the binary.
    pub fn run(&self, args: &[&str]) -> Said {
        self.command(args).output().expect("the binary starts").into()
    }

    /// Runs the binary, which must succeed.
    pub fn succeed(&self, args: &[&str]) -> Said {
        let said = self.run(args);
        assert_eq!(said.code, Some(0), "{said:?}");
        said
    }

    /// Runs the binary, which must refuse with `code` in one block that holds all of `words`.
    pub fn refuse(&self, code: i32, words: &[&str], args: &[&str]) -> Said {
        let said = self.run(args);
        assert_eq!(said.code, Some(code), "{said:?}");
        assert!(said.err.lines().any(|line| line.starts_with("error: ")), "{}", said.err);
        for word in words {
            assert!(said.err.contains(word), "no {word:?} in: {}", said.err);
        }
        for word in ["panicked", "internal error", "Error {", "Some("] {
            assert!(!said.err.contains(word), "{word:?} in: {}", said.err);
        }
        said
    }

    /// A JSON file.
    pub fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).expect("valid JSON")
    }

    /// The rows of a JSONL file.
    pub fn rows(&self, name: &str) -> Vec<Value> {
        self.read(name).lines().map(|line| serde_json::from_str(line).expect("a JSON row")).collect()
    }

    /// The rounds of a run that trained, without the untrained model's row.
    pub fn rounds(&self, run: &str) -> Vec<Value> {
        let rows = self.rows(&format!("{run}/metrics.jsonl"));
        rows.into_iter().filter(|row| row["round"] != 0).collect()
    }

    /// A copy of the built-in model's folder, to be spoilt.
    pub fn model(&self) -> PathBuf {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/assets/tiny-roberta");
        let to = self.path("model");
        fs::create_dir(&to).expect("made");
        for name in ["config.json", "model.safetensors", "tokenizer.json"] {
            fs::copy(from.join(name), to.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        to
    }

    /// A small data folder of two labels, with more rows for each split.
    pub fn data(&self, more_train: &[&str], more_test: &[&str]) {
        fs::create_dir_all(self.path("data")).expect("made");
        let row = |i: usize| {
            let (text, label) = if i.is_multiple_of(2) { ("the book is", "late") } else { ("my card was", "lost") };
            format!("{{\"text\": \"{text} number {i}\", \"label\": \"{label}\"}}")
        };
        let split = |count: usize, more: &[&str]| {
            let rows = (0..count).map(row).chain(more.iter().map(|line| line.to_string()));
            rows.collect::<Vec<_>>().join("\n") + "\n"
        };
        self.write("data/train.jsonl", &split(40, more_train));
        self.write("data/test.jsonl", &split(10, more_test));
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Said {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// `--set` for a run of a second or two: few clients, few texts, a small adapter.
pub const SHORT: [&str; 16] = [
    "--set",
    "train.rounds=2",
    "--set",
    "train.epochs=1",
    "--set",
    "train.batch_size=32",
    "--set",
    "clients.count=4",
    "--set",
    "data.labels=4",
    "--set",
    "data.min_shard=4",
    "--set",
    "adapter.rank=4",
    "--set",
    "clients.budget=1",
];

/// `first`, then the options of a short run, then `last`.
pub fn short<'a>(first: &[&'a str], last: &[&'a str]) -> Vec<&'a str> {
    [first, &SHORT, last].concat()
}

/// The texts in a list of a JSON object.
pub fn texts(row: &serde_json::Value, key: &str) -> Vec<String> {
    row[key].as_array().expect("a list").iter().map(|text| text.as_str().expect("text").to_owned()).collect()
}
