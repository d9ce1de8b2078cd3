//! The transaction log of Weights & Biases: protocol buffers in the framing of LevelDB's log.
//! The messages are the part of wandb's `wandb_internal.proto` that is written here.

use flate2::Crc;
use prost::Message;

/// What a file begins with: its name, a magic number and the version.
pub const FILE_HEAD: [u8; 7] = [b':', b'W', b'&', b'B', 0xe1, 0xbe, 0];

/// Bytes of a block, and of what stands before each part of a record: checksum, length, kind.
const BLOCK: usize = 32_768;
const HEAD: usize = 7;

/// An entry: one of what is optional.
#[derive(Clone, PartialEq, Message)]
pub struct Record {
    /// Counted from 1.
    #[prost(int64, tag = "1")]
    pub num: i64,
    #[prost(message, optional, tag = "2")]
    pub history: Option<History>,
    #[prost(message, optional, tag = "3")]
    pub summary: Option<Update>,
    #[prost(message, optional, tag = "17")]
    pub run: Option<Run>,
    #[prost(message, optional, tag = "18")]
    pub exit: Option<Exit>,
    #[prost(message, optional, tag = "21")]
    pub header: Option<Header>,
}

/// Who wrote the file, and the oldest wandb that reads it.
#[derive(Clone, PartialEq, Message)]
pub struct Header {
    #[prost(message, optional, tag = "1")]
    pub version_info: Option<VersionInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub struct VersionInfo {
    #[prost(string, tag = "1")]
    pub producer: String,
    #[prost(string, tag = "2")]
    pub min_consumer: String,
}

/// The run and its settings.
#[derive(Clone, PartialEq, Message)]
pub struct Run {
    #[prost(string, tag = "1")]
    pub run_id: String,
    #[prost(string, tag = "2")]
    pub entity: String,
    #[prost(string, tag = "3")]
    pub project: String,
    #[prost(message, optional, tag = "4")]
    pub config: Option<Update>,
    #[prost(string, tag = "8")]
    pub display_name: String,
    #[prost(message, optional, tag = "17")]
    pub start_time: Option<Timestamp>,
}

/// Settings of a run, or the numbers that its table shows.
#[derive(Clone, PartialEq, Message)]
pub struct Update {
    #[prost(message, repeated, tag = "1")]
    pub update: Vec<Item>,
}

/// A name and its value, in JSON.
#[derive(Clone, PartialEq, Message)]
pub struct Item {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "16")]
    pub value_json: String,
}

/// Numbers of a step.
#[derive(Clone, PartialEq, Message)]
pub struct History {
    #[prost(message, repeated, tag = "1")]
    pub item: Vec<Item>,
    #[prost(message, optional, tag = "2")]
    pub step: Option<Step>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Step {
    #[prost(int64, tag = "1")]
    pub num: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Timestamp {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// How a run ended.
#[derive(Clone, PartialEq, Message)]
pub struct Exit {
    #[prost(int32, tag = "1")]
    pub exit_code: i32,
    /// Seconds.
    #[prost(int32, tag = "2")]
    pub runtime: i32,
}

/// A record as it stands in a file that has `length` bytes before it: cut where a block ends, each part with its checksum.
pub fn framed(length: u64, mut rest: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(rest.len() + HEAD);
    let mut first = true;
    loop {
        let left = BLOCK - (length as usize % BLOCK + framed.len()) % BLOCK;
        if left < HEAD {
            framed.resize(framed.len() + left, 0);
            continue;
        }
        let (part, after) = rest.split_at(rest.len().min(left - HEAD));
        // Whole, or the first, a middle, the last part.
        let kind = match (first, after.is_empty()) {
            (true, true) => 1,
            (true, false) => 2,
            (false, false) => 3,
            (false, true) => 4,
        };
        let mut crc = Crc::new();
        crc.update(&[kind]);
        crc.update(part);
        framed.extend(crc.sum().to_le_bytes());
        framed.extend((part.len() as u16).to_le_bytes());
        framed.push(kind);
        framed.extend(part);
        if after.is_empty() {
            return framed;
        }
        (rest, first) = (after, false);
    }
}
