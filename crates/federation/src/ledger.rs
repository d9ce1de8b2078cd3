//! Counts of what crossed between server and clients: scalars and bytes of the messages themselves, never a formula.

use std::collections::HashMap;

use bonfire_engine::Upload;
use bonfire_models::{Adapter, Factor, Matrix};

/// Counts of one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Uploaded scalars: adapter and head.
    pub upload_params: u64,
    /// Of these, scalars of the head.
    pub upload_head_params: u64,
    /// Bytes that say which slots were uploaded.
    pub upload_index_bytes: u64,
    /// Bytes of all uploads as serialised.
    pub upload_bytes: u64,
    /// Downloaded scalars.
    pub download_params: u64,
    /// Bytes of all downloads as serialised.
    pub download_bytes: u64,
}

/// Remembers which version of each part every client holds, so that a download holds only what is newer.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// Round before which A, B and the head last changed; 0: the start that every client makes for itself.
    versions: [usize; 3],
    /// Round in which each client last downloaded; 0: never.
    seen: Vec<usize>,
}

const A: usize = 0;
const B: usize = 1;
const HEAD: usize = 2;

impl Ledger {
    /// A ledger for `clients` clients before the first round. The first contact sends A; B starts at zero and the
    /// head comes with the backbone, so neither needs to be sent until it changes.
    pub fn new(clients: usize) -> Self {
        Ledger { versions: [1, 0, 0], seen: vec![0; clients] }
    }

    /// Counts what `cohort` downloads at the start of `round` (from 1): every part newer than the client's copy,
    /// dense, in f32.
    pub fn download(&mut self, round: usize, cohort: &[usize], adapter: &Adapter) -> Traffic {
        let mut traffic = Traffic::default();
        // Clients that lack the same parts get the same message.
        let mut messages = HashMap::new();
        for &client in cohort {
            let newer = self.versions.map(|version| version > self.seen[client]);
            if newer.contains(&true) {
                let message: &Broadcast = messages.entry(newer).or_insert_with(|| broadcast(round, newer, adapter));
                traffic.download_bytes += message.bytes;
                traffic.download_params += message.params;
            }
            self.seen[client] = round;
        }
        traffic
    }

    /// Counts the `uploads` of `round`, in sum and the bytes of each, and notes what they change.
    pub fn upload(&mut self, round: usize, uploads: &[Upload]) -> (Traffic, Vec<u64>) {
        let mut traffic = Traffic::default();
        // A message can be large, so each is serialised once.
        let sizes: Vec<u64> = uploads.iter().map(|upload| upload.encode().len() as u64).collect();
        for upload in uploads {
            traffic.upload_params += upload.adapter_params() + upload.head_params();
            traffic.upload_head_params += upload.head_params();
            traffic.upload_index_bytes += upload.slots.index_bytes() as u64;
            for &factor in upload.active.factors() {
                self.versions[if factor == Factor::A { A } else { B }] = round + 1;
            }
            if !upload.head.is_empty() {
                self.versions[HEAD] = round + 1;
            }
        }
        traffic.upload_bytes = sizes.iter().sum();
        (traffic, sizes)
    }
}

struct Broadcast {
    params: u64,
    bytes: u64,
}

/// The message from server to client: `"BFD1"`, round and flags (1 A, 2 B, 4 head) as u32, then the numbers as f32.
fn broadcast(round: usize, parts: [bool; 3], adapter: &Adapter) -> Broadcast {
    let head = adapter.head.iter().map(|t| &t.value);
    let matrices: Vec<&Matrix> = std::iter::empty()
        .chain(adapter.a.iter().filter(|_| parts[A]))
        .chain(adapter.b.iter().filter(|_| parts[B]))
        .chain(head.filter(|_| parts[HEAD]))
        .collect();
    let flags = parts.iter().enumerate().map(|(i, &p)| u32::from(p) << i).sum::<u32>();
    let mut bytes = b"BFD1".to_vec();
    bytes.extend((round as u32).to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(matrices.iter().flat_map(|m| &m.data).flat_map(|v| v.to_le_bytes()));
    Broadcast { params: matrices.iter().map(|m| m.data.len() as u64).sum(), bytes: bytes.len() as u64 }
}
