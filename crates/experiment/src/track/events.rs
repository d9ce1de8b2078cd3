//! TensorBoard's event files: protocol buffers in the framing of TFRecord.
//! The messages are the part of TensorFlow's `event.proto` and `summary.proto` that is written here.

use prost::Message;

/// What an event file begins with.
pub const VERSION: &str = "brain.Event:2";

/// An entry of the file.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    #[prost(int64, tag = "2")]
    pub step: i64,
    /// In the first entry alone.
    #[prost(string, optional, tag = "3")]
    pub file_version: Option<String>,
    /// In all others.
    #[prost(message, optional, tag = "5")]
    pub summary: Option<Summary>,
}

/// The values of a step.
#[derive(Clone, PartialEq, Message)]
pub struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<Value>,
}

/// A named value: one of the two.
#[derive(Clone, PartialEq, Message)]
pub struct Value {
    #[prost(string, tag = "1")]
    pub tag: String,
    #[prost(float, optional, tag = "2")]
    pub simple_value: Option<f32>,
    #[prost(message, optional, tag = "5")]
    pub histo: Option<Histogram>,
}

/// How values are spread.
#[derive(Clone, PartialEq, Message)]
pub struct Histogram {
    #[prost(double, tag = "1")]
    pub min: f64,
    #[prost(double, tag = "2")]
    pub max: f64,
    #[prost(double, tag = "3")]
    pub num: f64,
    #[prost(double, tag = "4")]
    pub sum: f64,
    #[prost(double, tag = "5")]
    pub sum_squares: f64,
    /// Upper ends of the buckets.
    #[prost(double, repeated, tag = "6")]
    pub bucket_limit: Vec<f64>,
    /// Values in each.
    #[prost(double, repeated, tag = "7")]
    pub bucket: Vec<f64>,
}

/// An event as it stands in the file: length and its checksum, bytes and theirs.
pub fn record(event: &Event) -> Vec<u8> {
    let bytes = event.encode_to_vec();
    let length = (bytes.len() as u64).to_le_bytes();
    let crcs = [&length[..], &bytes].map(|part| masked_crc(part).to_le_bytes());
    [&length[..], &crcs[0], &bytes, &crcs[1]].concat()
}

/// TFRecord's checksum: CRC-32C, turned and shifted, so that checksums of checksums do no harm.
pub fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}
