//! What can be wrong with a data set, a tokenizer file or a partition, said so that the user can mend it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::source::At;

/// A mistake in the user's data or settings. Every message names the place and what would be right.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataError {
    /// The folder of a data set is not there, or is not a folder.
    #[error(
        "{path}: no such data folder or file; a folder should hold train.jsonl or train.csv or the like, and the same for test"
    )]
    FolderMissing {
        /// The folder asked for.
        path: PathBuf,
    },
    /// No file of a split is there.
    #[error(
        "{folder}: no {split} file; there is: {there}. Add {split}.* as {kinds}; or name a file with data.{split} = \"FILE\"{}",
        if *.split == "test" { ", or take a share of the training rows with data.split = { test = 0.2 }" } else { "" }
    )]
    FileMissing {
        /// The folder of the data set.
        folder: PathBuf,
        /// `train` or `test`.
        split: &'static str,
        /// What files may be called.
        kinds: &'static str,
        /// What lies there.
        there: String,
    },
    /// A file by itself is the training rows, and there is nothing to test on.
    #[error(
        "{path}: a file by itself holds the training rows, and no {split} split; take a share of them with data.split = {{ test = 0.2 }}, name a file with data.{split} = \"FILE\", or give as data.path the folder in which train and test lie side by side"
    )]
    FileAlone {
        /// The file.
        path: PathBuf,
        /// `train` or `test`.
        split: &'static str,
    },
    /// The file or folder that a user named for a split is not there.
    #[error("data.{split} = {named:?}: no such file, folder or split in {folder}; there is: {there}")]
    SplitNamed {
        /// The split.
        split: &'static str,
        /// What was named.
        named: String,
        /// The folder that was looked into.
        folder: PathBuf,
        /// What lies there.
        there: String,
    },
    /// A folder holds several sets.
    #[error("{folder}: holds several configurations: {names}; name one, such as data.path = \"{folder}/{first}\"")]
    Configurations {
        /// The folder.
        folder: PathBuf,
        /// Its folders with rows.
        names: String,
        /// One of them.
        first: String,
    },
    /// A numbered part of a split is not there.
    #[error("{folder}: {name} is missing; fetch all parts of the split")]
    PartMissing {
        /// The folder.
        folder: PathBuf,
        /// The file.
        name: String,
    },
    /// A file of a kind that is not read.
    #[error("{path}: not a file of rows by its name; expected {kinds}")]
    NotRows {
        /// The file.
        path: PathBuf,
        /// What files may be called.
        kinds: &'static str,
    },
    /// A file cannot be understood at all.
    #[error("{path}: {problem}; expected {expected}")]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What would be right.
        expected: &'static str,
    },
    /// No column is known to hold the text or the label.
    #[error("{path}{at}: no column is known to hold the {role}; the columns here are: {present}; {hint}")]
    ColumnUnknown {
        /// The file.
        path: PathBuf,
        /// The line or row.
        at: At,
        /// `text` or `label`.
        role: &'static str,
        /// The columns that are there.
        present: String,
        /// What to do.
        hint: String,
    },
    /// Several columns may hold the text or the label.
    #[error("{path}{at}: more than one column may hold the {role}: {candidates}; {hint}")]
    ColumnAmbiguous {
        /// The file.
        path: PathBuf,
        /// The line or row.
        at: At,
        /// `text` or `label`.
        role: &'static str,
        /// The columns.
        candidates: String,
        /// What to do.
        hint: String,
    },
    /// No row of the test split has a label, and there is no other split to measure by.
    #[error(
        "{path}: no test row has a label ({why}), as in published test splits whose labels are kept secret; name another split with data.test = \"FILE\", or take a share of the training rows with data.split = {{ test = 0.2 }}"
    )]
    TestUnlabelled {
        /// The folder or file of the data set.
        path: PathBuf,
        /// How that is told.
        why: String,
    },
    /// Two files claim to be the same thing, and reading either would be a guess.
    #[error("{folder}: both {first} and {second} are there; keep one of them{}", if .split.is_empty() { String::new() } else { format!(", or name it with data.{split}") })]
    FileAmbiguous {
        /// The folder of the data set.
        folder: PathBuf,
        /// One of the files.
        first: String,
        /// The other.
        second: String,
        /// The split that both claim; empty where it is none.
        split: &'static str,
    },
    /// The operating system would not give the file.
    #[error("{path}: cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is not UTF-8.
    #[error("{path}:{line}: not UTF-8; save the file as UTF-8")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
    },
    /// A line cannot be understood.
    #[error("{path}{at}: {problem}; expected {expected}")]
    BadLine {
        /// The file.
        path: PathBuf,
        /// The line or row.
        at: At,
        /// What is wrong.
        problem: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A row lacks a field, or a CSV header lacks a column.
    #[error("{path}{at}: no field {field:?}; the fields here are: {present}")]
    FieldMissing {
        /// The file.
        path: PathBuf,
        /// The line or row.
        at: At,
        /// The field looked for.
        field: String,
        /// The fields that are there.
        present: String,
    },
    /// A label index lies outside the label list.
    #[error("{path}{at}: label {label} is out of range; there are {labels} labels, so 0 to {}", .labels - 1)]
    LabelRange {
        /// The file.
        path: PathBuf,
        /// The line or row.
        at: At,
        /// The label read.
        label: i64,
        /// The number of labels.
        labels: usize,
    },
    /// A label name is not in the label list.
    #[error("{path}{at}: label {label:?} is not listed in {listed}{nearest}; add it there or correct the row")]
    LabelUnknown {
        /// The file.
        path: PathBuf,
        /// The line or row.
        at: At,
        /// The label read.
        label: String,
        /// The labels file.
        listed: PathBuf,
        /// The label that may be meant, as a question in brackets; or nothing.
        nearest: String,
    },
    /// A test row carries a label that no training row has.
    #[error(
        "{path}{at}: label {label:?} never occurs in the training rows, so it cannot be learnt{nearest}; correct it, or set data.unseen_labels = \"drop\" to leave such rows out"
    )]
    LabelUntrained {
        /// The test file.
        path: PathBuf,
        /// The line or row.
        at: At,
        /// The label's name.
        label: String,
        /// The label that may be meant, as a question in brackets; or nothing.
        nearest: String,
    },
    /// A part of a data set whose labels nobody can know from its rows.
    #[error(
        "{folder}: no labels.json; a site or server of a federation sees a part of the rows alone, so it must list all labels, in the same order everywhere"
    )]
    LabelsUnlisted {
        /// The folder.
        folder: PathBuf,
    },
    /// The labels file cannot be used.
    #[error("{path}: {problem}; expected {expected}")]
    LabelsFile {
        /// The labels file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A file holds no rows.
    #[error("{path}: no rows; the file needs at least one row")]
    NoRows {
        /// The file.
        path: PathBuf,
    },
    /// A partition that goes by labels, of rows that have none.
    #[error(
        "a {kind} partition goes by labels, and the rows of data set {name} have none; use iid, natural or file, or give every row a `label`"
    )]
    Unlabelled {
        /// The data set.
        name: String,
        /// The partition.
        kind: &'static str,
    },
    /// A template of `data.prompt` or `data.response` cannot be used.
    #[error("{key}: {problem}; expected text with columns in braces, such as \"Question: {{question}}\"")]
    Wording {
        /// `prompt` or `response`.
        key: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A special token that a causal language model needs is missing.
    #[error("{file}: {problem}; {expected}")]
    SpecialToken {
        /// The file that should name it.
        file: String,
        /// What is wrong.
        problem: String,
        /// What would be right.
        expected: String,
    },
    /// The chat template cannot be used, or not on this conversation.
    #[error("{name}: {problem}")]
    ChatTemplate {
        /// The file that holds it.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A row cannot be made into tokens.
    #[error("{split} row {row} (counted from 0): {problem}")]
    Row {
        /// `train`, `validation` or `test`.
        split: &'static str,
        /// The row, counted from 0.
        row: usize,
        /// What is wrong.
        problem: String,
    },
    /// The tokenizer file cannot be used.
    #[error("{name}: not a usable tokenizer ({problem}); expected a Hugging Face tokenizer.json")]
    Tokenizer {
        /// The file, or the name given with the bytes.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A text cannot be encoded.
    #[error("{name}: the tokenizer failed on a text: {problem}")]
    Encode {
        /// The file, or the name given with the bytes.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A setting has a value that cannot work.
    #[error("{key} = {value} cannot work: {problem}; expected {expected}")]
    Setting {
        /// The name of the setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        problem: String,
        /// What would be right.
        expected: String,
    },
    /// A client would hold too few training rows.
    #[error(
        "client {client} would hold {size} training rows, fewer than min_shard = {min_shard}; lower min_shard, use fewer clients, or split more evenly"
    )]
    ShardTooSmall {
        /// The client, counted from 0.
        client: usize,
        /// Its training rows.
        size: usize,
        /// The smallest shard allowed.
        min_shard: usize,
    },
    /// No Dirichlet draw gave every client enough rows.
    #[error(
        "a Dirichlet split with alpha = {alpha} over {clients} clients of {rows} training rows gave some client fewer than min_shard = {min_shard} rows in each of {tries} draws; raise alpha, use fewer clients or lower min_shard"
    )]
    DirichletUnlikely {
        /// The concentration.
        alpha: f64,
        /// The number of clients.
        clients: usize,
        /// The training rows.
        rows: usize,
        /// The smallest shard allowed.
        min_shard: usize,
        /// The draws made.
        tries: u64,
    },
    /// The number of clients differs from the number of groups of a natural partition.
    #[error(
        "clients = {clients}, but column {column:?} makes {groups} clients of its values ({values}): use clients = {groups}"
    )]
    Groups {
        /// The column.
        column: String,
        /// The first of its values in the training rows.
        values: String,
        /// The clients that its values make.
        groups: usize,
        /// The number of clients asked for.
        clients: usize,
    },
    /// A training row has no value in the column of a natural partition.
    #[error(
        "training row {row} (counted from 0) has no value of column {column:?}; a natural partition needs one in every training row"
    )]
    GroupMissing {
        /// The row, counted from 0.
        row: usize,
        /// The column.
        column: String,
    },
    /// The file of a partition cannot be used.
    #[error("{path}: {problem}; expected {expected}")]
    PartitionFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What would be right.
        expected: String,
    },
}

impl DataError {
    /// Whether what the user named is at fault (a path, a column, a split) rather than what a file holds.
    pub fn is_of_settings(&self) -> bool {
        matches!(
            self,
            DataError::FolderMissing { .. }
                | DataError::FileMissing { .. }
                | DataError::FileAlone { .. }
                | DataError::SplitNamed { .. }
                | DataError::Configurations { .. }
                | DataError::NotRows { .. }
                | DataError::ColumnUnknown { .. }
                | DataError::ColumnAmbiguous { .. }
                | DataError::TestUnlabelled { .. }
                | DataError::FileAmbiguous { .. }
                | DataError::ShardTooSmall { .. }
                | DataError::DirichletUnlikely { .. }
                | DataError::PartitionFile { .. }
        )
    }
}
