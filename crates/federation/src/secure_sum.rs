//! A round of which the server has seen no upload, only their mean: what secure aggregation leaves it with.

use std::collections::BTreeMap;

use bonfire_engine::Upload;

use crate::Traffic;

/// The mean of a round's uploads, and who is in it.
#[derive(Clone, Debug, PartialEq)]
pub struct SecureSum {
    /// The clients' mean, weighted as `server.weights` says, in the shapes of an upload; its loss is the mean of theirs, its tokens
    /// are their sum. Whose upload it says it is counts for nothing.
    pub mean: Upload,
    /// Training examples of every client in it.
    pub examples: BTreeMap<usize, usize>,
    /// Sites that sent something for it.
    pub sites: u64,
    /// Bytes of all that they sent: masked sums, keys and shares.
    pub bytes: u64,
}

impl SecureSum {
    /// An upload for every client, as if each had moved as they all did in the mean. A server that
    /// [needs their sum alone](crate::Settings::against_secure_aggregation) makes of these what it makes of theirs.
    pub fn uploads(&self) -> Vec<Upload> {
        let of = |(i, (&client, &examples)): (usize, (&usize, &usize))| {
            let tokens = if i == 0 { self.mean.tokens } else { 0 };
            Upload { client, examples, tokens, ..self.mean.clone() }
        };
        self.examples.iter().enumerate().map(of).collect()
    }

    /// What crossed, where `counted` counts [`Self::uploads`]: every site has sent its clients' sum once.
    pub fn traffic(&self, counted: Traffic) -> Traffic {
        let clients = (self.examples.len() as u64).max(1);
        let sums = |params: u64| params / clients * self.sites;
        Traffic {
            upload_params: sums(counted.upload_params),
            upload_head_params: sums(counted.upload_head_params),
            upload_aux_params: sums(counted.upload_aux_params),
            upload_bytes: self.bytes,
            ..counted
        }
    }
}
