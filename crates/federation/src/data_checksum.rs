//! A checksum of the texts and of who holds which: a run goes on from a checkpoint only over the same data.

use bonfire_data::Shards;
use bonfire_engine::TokenizedData;
use bonfire_models::Goal;
use sha2::{Digest, Sha256};

/// SHA-256, in hex, of what clients train on and of who holds what.
pub(crate) fn data_checksum(data: &TokenizedData, shards: &Shards) -> String {
    let mut hash = Sha256::new();
    let mut put = |n: usize| hash.update((n as u64).to_le_bytes());
    for split in [&data.train, &data.test] {
        put(split.len());
        for (ids, goal) in split.ids.iter().zip(&split.goals) {
            let (kind, value) = match goal {
                Goal::Class(class) => (0, *class),
                Goal::Next(from) => (1, *from),
                Goal::PairClass { class, .. } => (2, *class),
                Goal::Spans(spans) => (3, spans.len()),
                Goal::Value { value, .. } => (4, value.to_bits() as usize),
                Goal::Labels { labels, .. } => (5, labels.len()),
                Goal::Tags(tags) => (6, tags.len()),
            };
            [kind, value, ids.len()].into_iter().for_each(&mut put);
            goal.tags().iter().flat_map(|tag| [tag.token, tag.class]).for_each(&mut put);
            goal.labels().into_iter().flatten().for_each(|&there| put(usize::from(there)));
            match goal {
                Goal::Tags(_) | Goal::Labels { second: None, .. } => {}
                Goal::Labels { second: Some(second), .. } => put(*second),
                Goal::Class(_) | Goal::Next(_) | Goal::Value { second: None, .. } => {}
                Goal::PairClass { second, .. } | Goal::Value { second: Some(second), .. } => put(*second),
                Goal::Spans(spans) => spans.iter().flat_map(|span| [span.start, span.end]).for_each(&mut put),
            }
            ids.iter().for_each(|&id| put(id as usize));
        }
    }
    for rows in shards.train.iter().chain(&shards.test) {
        put(rows.len());
        rows.iter().for_each(|&row| put(row));
    }
    hex(&hash.finalize())
}

/// Lowercase hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
