//! What a server and its sites must agree on, as a number to compare.

use anyhow::Result;
use bonfire_data::Dataset;
use bonfire_models::ModelSource;
use sha2::{Digest, Sha256};

use crate::config::{self, RunConfig};

/// SHA-256, in hex, of a sample of the backbone's weights.
///
/// # Errors
/// A file of the model cannot be read any more.
pub fn weights_of(source: &ModelSource) -> Result<String> {
    let mut hash = Sha256::new();
    source.sample(&mut |bytes| hash.update(bytes))?;
    Ok(hex(hash))
}

/// SHA-256, in hex, of what server and sites must agree on: settings that change numbers, labels, tokenizer, and the
/// backbone's [weights](weights_of).
///
/// # Errors
/// A file of the model cannot be read any more.
pub fn fingerprint(config: &RunConfig, data: &Dataset, source: &ModelSource, weights: &str) -> Result<String> {
    let mut hash = Sha256::new();
    let mut put = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    let table = toml::Table::try_from(config)?;
    for (key, value) in config::shared(&table) {
        put(key.as_bytes());
        put(value.to_string().as_bytes());
    }
    data.labels.iter().for_each(|label| put(label.as_bytes()));
    put(&source.file("config.json")?.0);
    put(&source.file("tokenizer.json")?.0);
    put(weights.as_bytes());
    Ok(hex(hash))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
