//! A timeline in checkpoints: its times to the bit, and the messages of those at work.

use std::collections::{BTreeMap, BTreeSet};

use bonfire_engine::{ClientMemory, MessageError, Upload};
use serde::{Deserialize, Serialize};

use super::{Timeline, Visit};

/// Numbers that JSON would round, by their bits.
pub(super) mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(number.to_bits())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}

/// What is not a message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredTimeline {
    #[serde(with = "bits")]
    now: f64,
    at_work: Vec<Visit>,
    reported: Vec<Reported>,
}

/// What is reported with an upload and not sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reported {
    client: usize,
    #[serde(with = "bits")]
    loss: f64,
    steps: usize,
    tokens: u64,
}

impl StoredTimeline {
    pub fn of(timeline: &Timeline) -> StoredTimeline {
        let reported = |upload: &Upload| Reported {
            client: upload.client,
            loss: upload.loss,
            steps: upload.steps,
            tokens: upload.tokens,
        };
        StoredTimeline {
            now: timeline.now,
            at_work: timeline.at_work.clone(),
            reported: timeline.uploads.values().map(reported).collect(),
        }
    }

    /// Whether nothing has happened by the clock.
    pub fn is_start(&self) -> bool {
        *self == StoredTimeline::default()
    }

    /// The timeline of so many `clients` again, of what `decode` reads from the message of a client that began in a round, and what each client `kept`.
    ///
    /// # Errors
    /// A message that does not fit, or of nobody who is at work.
    pub fn restored(
        self,
        clients: usize,
        messages: &BTreeMap<usize, Vec<u8>>,
        kept: &mut BTreeMap<usize, ClientMemory>,
        decode: impl Fn(usize, &[u8]) -> Result<Upload, MessageError>,
    ) -> Result<Timeline, String> {
        let at_work: BTreeSet<usize> = self.at_work.iter().map(|visit| visit.client).collect();
        if at_work.len() < self.at_work.len() || at_work.last().is_some_and(|client| *client >= clients) {
            return Err(format!("{at_work:?} are at work, some of them twice or beyond the {clients} clients"));
        }
        let mut uploads = BTreeMap::new();
        for Reported { client, loss, steps, tokens } in self.reported {
            let message = messages.get(&client).ok_or_else(|| format!("the upload of client {client} is missing"))?;
            let visit = self.at_work.iter().find(|visit| visit.client == client);
            let visit = visit.ok_or_else(|| format!("client {client} has sent something and is not at work"))?;
            let upload = decode(visit.round, message).map_err(|error| error.to_string())?;
            if upload.client != client {
                return Err(format!("the upload of client {client} is of client {}", upload.client));
            }
            let kept = kept.remove(&client).unwrap_or_default();
            uploads.insert(client, Upload { loss, steps, tokens, kept, ..upload });
        }
        Ok(Timeline { now: self.now, at_work: self.at_work, uploads })
    }
}
