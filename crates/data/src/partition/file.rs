//! A partition that somebody else made: a JSON list of row-index lists.

use std::fs;
use std::path::Path;

use crate::DataError;

/// Reads and checks the file: `clients` lists of different training rows, no row twice.
pub(super) fn read(path: &Path, rows: usize, clients: usize) -> Result<Vec<Vec<usize>>, DataError> {
    let bad =
        |problem: String, expected: String| DataError::PartitionFile { path: path.to_path_buf(), problem, expected };
    let text = fs::read(path).map_err(|source| DataError::Read { path: path.to_path_buf(), source })?;
    let shards: Vec<Vec<usize>> = serde_json::from_slice(&text).map_err(|error| {
        let expected = "a JSON list of one list of row indices per client, such as [[0, 2], [1]]";
        bad(format!("not a partition ({error})"), expected.to_owned())
    })?;
    if shards.len() != clients {
        let problem = format!("{} clients are listed, but clients = {clients}", shards.len());
        return Err(bad(problem, format!("{clients} lists, or clients = {}", shards.len())));
    }
    let mut holder = vec![None; rows];
    for (client, shard) in shards.iter().enumerate() {
        for row in shard {
            let Some(held) = holder.get_mut(*row) else {
                let problem = format!("client {client} lists row {row} of {rows} training rows");
                return Err(bad(problem, format!("rows from 0 to {}", rows.saturating_sub(1))));
            };
            if let Some(other) = held.replace(client) {
                let problem = format!("row {row} is listed by client {other} and again by client {client}");
                return Err(bad(problem, "every row at most once".to_owned()));
            }
        }
    }
    Ok(shards)
}
