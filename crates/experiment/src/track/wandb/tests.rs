use super::super::tests::metrics;
use super::*;

/// The records of a file, read as LevelDB's log is: block by block, checksums checked.
fn records(bytes: &[u8]) -> Vec<Record> {
    assert_eq!(bytes[..7], *b":W&B\xe1\xbe\x00");
    let (mut at, mut begun, mut found) = (7, None, Vec::new());
    while at < bytes.len() {
        let left = 32_768 - at % 32_768;
        if left < 7 {
            assert!(bytes[at..at + left].iter().all(|&byte| byte == 0));
            at += left;
            continue;
        }
        let length = usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
        assert!(length + 7 <= left, "a part ends with its block");
        // Over the kind and the bytes.
        let checked = &bytes[at + 6..at + 7 + length];
        assert_eq!(u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")), crc32(checked));
        let (kind, part) = (checked[0], &checked[1..]);
        assert_eq!(begun.is_none(), matches!(kind, 1 | 2));
        let mut whole: Vec<u8> = begun.take().unwrap_or_default();
        whole.extend(part);
        if matches!(kind, 1 | 4) {
            found.push(Record::decode(&*whole).expect("a record"));
        } else {
            begun = Some(whole);
        }
        at += 7 + length;
    }
    found
}

/// CRC-32 of IEEE 802.3, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    })
}

fn config() -> RunConfig {
    crate::config::load(None, &["track.wandb=true".to_owned()]).expect("the quickstart").config
}

/// The only log of a run.
fn log(run: &Path) -> PathBuf {
    let all: Vec<_> = fs::read_dir(run.join("wandb")).expect("a folder").map(|entry| entry.expect("one")).collect();
    assert_eq!(all.len(), 1);
    let folder = all[0].path();
    let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
    let id = name.rsplit('-').next().expect("an id");
    assert!(name.starts_with("offline-run-2") && name.len() == "offline-run-20261127_101546-9pwrsq4e".len(), "{name}");
    folder.join(format!("run-{id}.wandb"))
}

fn value(items: &[Item], key: &str) -> Option<f64> {
    items.iter().find(|item| item.key == key).map(|item| item.value_json.parse().expect("a number"))
}

#[test]
fn the_framing_is_what_wandb_reads() {
    // struct.pack("<IHB", zlib.crc32(b"\x01" + b"abc"), 3, 1) + b"abc", by Python.
    assert_eq!(framed(7, b"abc"), *b"\xa9\x20\x9d\x53\x03\x00\x01abc");
}

#[test]
fn long_records_go_on_in_the_next_block() {
    let named = |length: usize| Record {
        num: 0,
        run: Some(Run { display_name: "x".repeat(length), ..Run::default() }),
        ..Record::default()
    };
    // The first ends so many bytes before its block does; where they are no room for a head they are filled up.
    for left in 0..10 {
        let wanted = 32_768 - left - 2 * FILE_HEAD.len();
        let first = (20_000..).map(named).find(|record| record.encoded_len() == wanted).expect("one of that length");
        let all = [first, named(3), named(70_000), named(0)];
        let mut file = FILE_HEAD.to_vec();
        for record in &all {
            file.extend(framed(file.len() as u64, &record.encode_to_vec()));
        }
        assert_eq!(records(&file), all, "{left} bytes left");
    }
}

#[test]
fn a_run_has_its_settings_its_rounds_and_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut trackers = super::super::Trackers::open(folder.path(), &config(), &[]).expect("opened");
    trackers.round(&metrics(1), &[]).expect("written");
    trackers.round(&metrics(2), &[]).expect("written");
    trackers.finish(true);
    let path = log(folder.path());
    let found = records(&fs::read(&path).expect("read"));
    assert_eq!(found.iter().map(|record| record.num).collect::<Vec<_>>(), (1..=7).collect::<Vec<_>>());
    assert!(found[0].header.is_some());
    let run = found[1].run.as_ref().expect("the run");
    assert!(path.to_string_lossy().ends_with(&format!("run-{}.wandb", run.run_id)));
    assert_eq!(run.display_name, folder.path().file_name().expect("a name").to_string_lossy());
    let settings = &run.config.as_ref().expect("settings").update;
    let train = settings.iter().find(|item| item.key == "train").expect("a section");
    let train: serde_json::Value = serde_json::from_str(&train.value_json).expect("JSON");
    assert_eq!(train["rounds"], config().train.rounds);
    let (summary, history) = (found[4].summary.as_ref().expect("numbers"), found[5].history.as_ref().expect("a round"));
    assert_eq!(summary.update, history.item);
    assert_eq!(history.step, Some(Step { num: 2 }));
    for (key, expected) in [("test/accuracy", 0.25), ("bytes/upload_total", 200.0), ("_step", 2.0), ("train/loss", 2.5)]
    {
        assert_eq!(value(&history.item, key), Some(expected), "{key}");
    }
    assert_eq!(value(&history.item, "test/perplexity"), None);
    assert_eq!(found[6].exit.as_ref().map(|exit| exit.exit_code), Some(0));
}

#[test]
fn a_run_that_goes_on_is_the_same_run_with_exactly_its_rounds() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = super::super::Trackers::open(folder.path(), &config(), &[]).expect("opened");
    (1..=3).for_each(|round| first.round(&metrics(round), &[]).expect("written"));
    first.finish(false);
    let path = log(folder.path());
    assert_eq!(
        records(&fs::read(&path).expect("read")).last().and_then(|r| r.exit.as_ref().map(|e| e.exit_code)),
        Some(255)
    );
    let mark = path.with_extension("wandb.synced");
    fs::write(&mark, "").expect("as wandb does");
    let mut again = super::super::Trackers::open(folder.path(), &config(), &[metrics(1), metrics(2)]).expect("opened");
    again.round(&metrics(3), &[]).expect("written");
    again.finish(true);
    assert_eq!(log(folder.path()), path, "it is the same run there");
    assert!(!mark.exists(), "and is uploaded again");
    let found = records(&fs::read(&path).expect("read"));
    let rounds: Vec<&History> = found.iter().filter_map(|record| record.history.as_ref()).collect();
    let steps: Vec<i64> = rounds.iter().filter_map(|history| history.step.as_ref().map(|step| step.num)).collect();
    assert_eq!(steps, [1, 2, 3]);
    // Rounds of two seconds each: the second ended four seconds after the run would have begun.
    assert!((value(&rounds[1].item, "_runtime").expect("a time") - 4.0).abs() < 1e-6);
    assert_eq!(value(&rounds[2].item, "bytes/upload_total"), Some(300.0));
}
