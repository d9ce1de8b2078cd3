//! `partition.json` of a run folder: how many examples of each label, or kind, every client holds.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use bonfire_data::{Dataset, Partition, Shards, label_table};
use serde::{Deserialize, Serialize};

use crate::run_folder::{PARTITION, read, replace};

/// Who holds how much of what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionFile {
    /// The labels' names; none where the data has no labels.
    pub labels: Vec<String>,
    /// Where a row has no one label, the kinds of rows that the partition goes by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strata: Vec<String>,
    /// Of a partition by a column's values, whose rows each client holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<String>,
    /// Training examples, `[client][label]`, or of the kinds; one number a client where there are no labels.
    pub train: Vec<Vec<usize>>,
    /// Test examples by client.
    pub test: Vec<usize>,
}

impl PartitionFile {
    /// Of `data` that `partition` dealt out as `shards`.
    pub fn of(partition: &Partition, data: &Dataset, shards: &Shards) -> PartitionFile {
        let test = shards.test.iter().map(Vec::len).collect();
        let (labels, strata) = (data.labels.clone(), data.strata.clone());
        let clients = partition.client_names(data, &shards.train);
        PartitionFile { labels, strata, clients, train: label_table(data, &shards.train), test }
    }

    /// The names of what `train` counts.
    pub fn kinds(&self) -> &[String] {
        if self.strata.is_empty() { &self.labels } else { &self.strata }
    }

    /// Writes them into the folder of a run.
    ///
    /// # Errors
    /// The system refuses the write.
    pub fn write(&self, run: &Path) -> Result<()> {
        let text = serde_json::to_string(self).context("cannot write partition.json")?;
        replace(&run.join(PARTITION), format!("{text}\n").as_bytes())
    }

    /// Reads those of a run; `None` for a run of a version that did not write them.
    ///
    /// # Errors
    /// A file that cannot be read or is not as a run leaves it.
    pub fn read(run: &Path) -> Result<Option<PartitionFile>> {
        let path = run.join(PARTITION);
        let Some(text) = read::optional(&path)? else { return Ok(None) };
        let broken = || format!("{} is not as a run leaves it", path.display());
        let partition: PartitionFile = serde_json::from_str(&text).with_context(broken)?;
        let width = partition.kinds().len().max(1);
        ensure!(
            partition.train.iter().all(|row| row.len() == width),
            "{}: expected {width} numbers for every client",
            broken()
        );
        let (named, all) = (partition.clients.len(), partition.train.len());
        ensure!(named == 0 || named == all, "{}: {named} names of {all} clients", broken());
        Ok(Some(partition))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_rows_must_fit_the_labels() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(PartitionFile::read(folder.path()).expect("fine"), None);
        let labels = vec!["a".to_string(), "b".to_string()];
        let mut partition = PartitionFile {
            labels,
            strata: Vec::new(),
            clients: vec!["Ann".to_string(), "Bob".to_string()],
            train: vec![vec![1, 2], vec![0, 3]],
            test: vec![1, 0],
        };
        partition.write(folder.path()).expect("written");
        assert_eq!(PartitionFile::read(folder.path()).expect("fine"), Some(partition.clone()));
        partition.train[1].pop();
        partition.write(folder.path()).expect("written");
        let error = PartitionFile::read(folder.path()).expect_err("a short row").to_string();
        assert!(error.contains("partition.json") && error.contains("2 numbers"), "{error}");
        partition.train[1].push(3);
        partition.clients.pop();
        partition.write(folder.path()).expect("written");
        let error = PartitionFile::read(folder.path()).expect_err("a nameless client").to_string();
        assert!(error.contains("1 names of 2 clients"), "{error}");
    }
}
