use std::path::Path;

use bonfire_federation::Times;
use prost::Message;

use super::events::{Event, VERSION, masked_crc};
use super::*;

pub fn metrics(round: usize) -> RoundMetrics {
    let row = format!(
        r#"{{"round": {round}, "phase": "B", "train_loss": 2.5, "upload_params": 1, "upload_head_params": 0,
        "upload_index_bytes": 0, "upload_bytes": 100, "download_params": 1, "download_bytes": 40, "seconds": 2.0,
        "train_seconds": 1.5, "tokens": 300}}"#
    );
    let times = Times { forward: 0.5, ..Times::default() };
    RoundMetrics { test_accuracy: Some(0.25), times: Some(times), ..serde_json::from_str(&row).expect("a row") }
}

fn client(accuracy: f64) -> ClientMetrics {
    let row = r#"{"round": 1, "client": 0, "examples": 1, "steps": 1, "train_loss": 1, "upload_params": 1, "upload_bytes": 1}"#;
    ClientMetrics { test_accuracy: Some(accuracy), ..serde_json::from_str(row).expect("a row") }
}

/// The events of the only file, checksums checked.
fn events(run: &Path) -> Vec<Event> {
    let files: Vec<_> = std::fs::read_dir(run.join("tensorboard")).expect("a folder").map(Result::unwrap).collect();
    assert_eq!(files.len(), 1);
    let bytes = std::fs::read(files[0].path()).expect("read");
    let (mut rest, mut events) = (bytes.as_slice(), Vec::new());
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    while !rest.is_empty() {
        let (length, after) = rest.split_at(8);
        assert_eq!(number(&after[..4]), masked_crc(length));
        let length = u64::from_le_bytes(length.try_into().expect("eight bytes")) as usize;
        let (event, after) = after[4..].split_at(length);
        assert_eq!(number(&after[..4]), masked_crc(event));
        events.push(Event::decode(event).expect("an event"));
        rest = &after[4..];
    }
    events
}

fn scalar(event: &Event, tag: &str) -> Option<f32> {
    let values = &event.summary.as_ref().expect("a summary").value;
    values.iter().find(|value| value.tag == tag).and_then(|value| value.simple_value)
}

fn all() -> RunConfig {
    let sets = ["track.tensorboard=true", "track.csv=true"].map(String::from);
    crate::config::load(None, &sets).expect("the quickstart").config
}

#[test]
fn the_checksum_is_that_of_tfrecord() {
    // CRC-32C of "123456789" is e3069283; turned by 15 bits and shifted by a282ead8.
    assert_eq!(masked_crc(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
}

#[test]
fn events_are_framed_and_hold_the_numbers_of_every_round() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut trackers = Trackers::open(folder.path(), &all(), &[]).expect("opened");
    trackers.round(&metrics(1), &[client(0.1), client(1.0)]).expect("written");
    trackers.round(&metrics(2), &[]).expect("written");
    let events = events(folder.path());
    assert_eq!(events[0].file_version.as_deref(), Some(VERSION));
    assert_eq!(events.iter().map(|event| event.step).collect::<Vec<_>>(), [0, 1, 2]);
    let last = &events[2];
    assert_eq!(scalar(last, "test/accuracy"), Some(0.25));
    assert_eq!(scalar(last, "bytes/upload_total"), Some(200.0));
    assert_eq!(scalar(last, "tokens/per_second"), Some(200.0));
    assert_eq!(scalar(last, "time/forward_seconds"), Some(0.5));
    assert_eq!(scalar(last, "test/perplexity"), None);
    let histogram =
        |event: &Event| event.summary.as_ref().expect("a summary").value.iter().find_map(|v| v.histo.clone());
    let found = histogram(&events[1]).expect("clients were judged");
    assert_eq!((found.num, found.min, found.max, found.bucket[2], found.bucket[19]), (2.0, 0.1, 1.0, 1.0, 1.0));
    assert!(histogram(last).is_none());
}

#[test]
fn a_run_that_goes_on_has_exactly_the_rounds_it_has() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = Trackers::open(folder.path(), &all(), &[]).expect("opened");
    (1..=3).for_each(|round| first.round(&metrics(round), &[]).expect("written"));
    drop(first);
    let past = [metrics(1), metrics(2)];
    let mut again = Trackers::open(folder.path(), &all(), &past).expect("opened");
    again.round(&metrics(3), &[]).expect("written");
    let events = events(folder.path());
    assert_eq!(events.iter().map(|event| event.step).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(scalar(&events[3], "bytes/upload_total"), Some(300.0));
    let apart = events[2].wall_time - events[1].wall_time;
    assert!((apart - 2.0).abs() < 1e-3, "rounds of 2 seconds end {apart} apart");
    let csv = std::fs::read_to_string(folder.path().join(CSV)).expect("read");
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[0].starts_with("round,phase,test_accuracy,test_loss"), "{}", lines[0]);
    assert!(lines[3].starts_with("3,B,0.25,,,,,2.5,100,40,300,120,2,1.5,6,"), "{}", lines[3]);
}

#[test]
fn nothing_is_written_unasked() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut trackers =
        Trackers::open(folder.path(), &crate::config::load(None, &[]).expect("the quickstart").config, &[])
            .expect("opened");
    trackers.round(&metrics(1), &[]).expect("nothing to do");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
}
