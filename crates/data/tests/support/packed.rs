//! Packed files for tests: small ones, and bombs.
#![allow(dead_code)]

use std::io::Write;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

/// The same rows in Parquet, packed in every way.
pub const PARQUET: [&[u8]; 6] = [
    include_bytes!("../fixtures/kinds/none.parquet"),
    include_bytes!("../fixtures/kinds/snappy.parquet"),
    include_bytes!("../fixtures/kinds/gzip.parquet"),
    include_bytes!("../fixtures/kinds/zstd.parquet"),
    include_bytes!("../fixtures/kinds/zstd-2.parquet"),
    include_bytes!("../fixtures/kinds/lz4.parquet"),
];

/// JSON lines in two frames of Zstandard.
pub const ZSTD: &[u8] = include_bytes!("../fixtures/rows.jsonl.zst");

pub fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(plain).unwrap();
    out.finish().unwrap()
}

/// So many blanks, packed.
pub fn gzip_bomb(bytes: usize) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let blanks = vec![b' '; 1 << 20];
    (0..bytes >> 20).for_each(|_| out.write_all(&blanks).unwrap());
    out.finish().unwrap()
}

/// So many blanks: a frame of blocks that each repeat one byte (RFC 8878, 3.1.1.2.2).
pub fn zstd_bomb(bytes: usize) -> Vec<u8> {
    const BLOCK: usize = 1 << 17;
    // The magic number, no flags, a window of 128 KiB.
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 7 << 3];
    let blocks = bytes / BLOCK;
    for block in 0..blocks {
        let last = u32::from(block + 1 == blocks);
        out.extend_from_slice(&(last | 1 << 1 | (BLOCK as u32) << 3).to_le_bytes()[..3]);
        out.push(b' ');
    }
    out
}

/// So many rows of one text and label.
pub fn parquet_bomb(rows: usize) -> Vec<u8> {
    const PART: usize = 1 << 20;
    let schema = parse_message_type("message m { required binary text (UTF8); required int32 label; }").unwrap();
    let mut out = Vec::new();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(&mut out, Arc::new(schema), properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let text = vec![ByteArray::from("the same text"); PART];
    for _ in 0..rows / PART {
        column.typed::<ByteArrayType>().write_batch(&text, None, None).unwrap();
    }
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    for _ in 0..rows / PART {
        column.typed::<Int32Type>().write_batch(&vec![1; PART], None, None).unwrap();
    }
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    out
}
