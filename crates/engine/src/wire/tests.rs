use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::code::Coding;
use super::*;
use crate::{Active, Slots, TargetSlots};

const CODINGS: [Coding; 5] = [Coding::F32, Coding::Bf16, Coding::F16, Coding::Int8, Coding::Int4];

/// Two targets of rank 5 with some of their slots, a head, and something besides.
fn upload(seed: u64) -> Upload {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut matrix = |rows: usize, cols: usize| {
        let numbers = (0..rows * cols).map(|_| 1e-2 * (rng.random::<f32>() - 0.5) * rng.random::<f32>());
        Matrix::new(rows, cols, numbers.collect())
    };
    let slots: TargetSlots = [vec![0, 3, 4], vec![2]].into_iter().collect();
    Upload {
        client: 3,
        examples: 11,
        active: Active::Both,
        slots: Slots::Given { rank: 5, slots },
        factors: vec![(Factor::A, vec![matrix(3, 37), matrix(1, 70)]), (Factor::B, vec![matrix(3, 9), matrix(1, 64)])],
        weights: vec![],
        head: vec![matrix(8, 6), matrix(1, 6)],
        aux: vec![(crate::Aux::LayerScores, vec![matrix(1, 2)])],
        coded: None,
        kept: ClientMemory::default(),
        loss: 0.0,
        steps: 1,
        tokens: 1,
    }
}

fn plan(wire: WireSettings) -> Plan {
    Plan { wire, ..Plan::new(2, Active::Both, 1e-3, 1e-3) }
}

fn numbers(upload: &Upload) -> Vec<f32> {
    upload.matrices().chain(upload.aux.iter().flat_map(|(_, list)| list)).flat_map(|m| m.data.clone()).collect()
}

fn settings() -> Vec<WireSettings> {
    let mut all = Vec::new();
    for upload in CODINGS {
        for head in [None, Some(Coding::F32), Some(Coding::Int4)] {
            for top_k in [None, Some(0.02), Some(0.3), Some(1.0)] {
                for deflate in [false, true] {
                    all.push(WireSettings { upload, head, top_k, deflate, ..WireSettings::default() });
                }
            }
        }
    }
    all
}

#[test]
fn the_server_reads_what_the_client_has_left_in_its_upload() {
    for wire in settings() {
        let (meant, mut sent) = (upload(4), upload(4));
        write(&wire, &plan(wire), 7, None, false, &mut sent);
        if !wire.codes_uploads() {
            assert_eq!(sent, meant);
            continue;
        }
        let coded = sent.coded.clone().expect("coded");
        let mut read_back = upload(9);
        read(&wire, &coded.bytes, &mut read_back).expect("readable");
        assert_eq!(numbers(&read_back), numbers(&sent), "{wire:?}");
        assert_eq!(read_back.coded, sent.coded, "{wire:?}");
        let most = wire.upload_len(&sent);
        let exact = wire.top_k.is_none() && !wire.deflate;
        assert!(if exact { coded.bytes.len() == most } else { coded.bytes.len() <= most + 64 }, "{wire:?}");
        assert_eq!(sent.encode().len(), sent.encoded_len());
        assert_eq!(coded.adapter + coded.head, wire.sent_params(&sent, 0));
        // What a method sends besides is as it was.
        assert_eq!(sent.aux, meant.aux);
        for cut in [0, coded.bytes.len() / 2, coded.bytes.len() - 1] {
            read(&wire, &coded.bytes[..cut], &mut upload(9)).expect_err("cut short");
        }
        if !wire.deflate {
            read(&wire, &[coded.bytes.as_slice(), &[0]].concat(), &mut upload(9)).expect_err("too long");
        }
    }
}

#[test]
fn no_number_is_farther_off_than_its_coding_says() {
    for (coding, relative, of_scale) in [
        (Coding::Bf16, 1.0 / 256.0, 0.0),
        (Coding::F16, 1.0 / 2048.0, 3e-8),
        (Coding::Int8, 0.0, 1.0),
        (Coding::Int4, 0.0, 1.0),
    ] {
        let wire = WireSettings { upload: coding, ..WireSettings::default() };
        let (meant, mut sent) = (upload(5), upload(5));
        write(&wire, &plan(wire), 7, None, false, &mut sent);
        let adapter = |u: &Upload| numbers(u)[..u.adapter_params() as usize].to_vec();
        for (block, found) in adapter(&meant).chunks(64).zip(adapter(&sent).chunks(64)) {
            let largest = block.iter().fold(0.0f32, |most, v| most.max(v.abs()));
            let scale = largest / coding_most(coding) * (1.0 + 1.0 / 128.0);
            for (v, found) in block.iter().zip(found) {
                let allowed = if of_scale == 1.0 { scale } else { v.abs() * relative + of_scale };
                assert!((v - found).abs() <= allowed, "{coding:?}: {v} as {found}");
            }
        }
    }
}

fn coding_most(coding: Coding) -> f32 {
    match coding {
        Coding::Int4 => 7.0,
        _ => 127.0,
    }
}

#[test]
fn rounding_loses_nothing_on_average_and_differs_by_client_and_round() {
    let wire = WireSettings { upload: Coding::Int4, ..WireSettings::default() };
    let meant = upload(6);
    let sent = |round: usize, client: usize| {
        let mut sent = Upload { client, ..upload(6) };
        write(&wire, &Plan { round, ..plan(wire) }, 7, None, false, &mut sent);
        numbers(&sent)
    };
    assert_eq!(sent(1, 1), sent(1, 1));
    assert!(sent(1, 1) != sent(1, 2) && sent(1, 1) != sent(2, 1));
    let draws = 400;
    let mut mean = vec![0.0f64; numbers(&meant).len()];
    for round in 0..draws {
        mean.iter_mut().zip(sent(round, 1)).for_each(|(m, v)| *m += f64::from(v) / draws as f64);
    }
    // A number lies between two whole ones: the deviation of one draw is at most half a scale.
    let all = numbers(&meant);
    let largest = all.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    let bound = 5.0 * 0.5 * f64::from(largest / 7.0 * 1.01) / f64::from(draws as u32).sqrt();
    assert!(mean.iter().zip(&all).all(|(m, v)| (m - f64::from(*v)).abs() < bound));
}

#[test]
fn bytes_are_as_documented() {
    let mut numbers = vec![0.5f32, -1.0, 1.75, 0.0, -1.75];
    let mut bytes = Vec::new();
    Coding::Int4.write(&mut numbers, None::<&mut ChaCha8Rng>, &mut bytes);
    // Scale 0.25: 2, −4, 7, 0, −7, each plus 8, the first in the lower half.
    assert_eq!(bytes, [0x80, 0x3e, 0x4a, 0x8f, 0x01]);
    assert_eq!(numbers, [0.5, -1.0, 1.75, 0.0, -1.75]);
    let mut numbers = vec![127.0f32, -3.4];
    bytes.clear();
    Coding::Int8.write(&mut numbers, None::<&mut ChaCha8Rng>, &mut bytes);
    assert_eq!((bytes.as_slice(), numbers), (&[0x80, 0x3f, 127, 253][..], vec![127.0, -3.0]));
    bytes.clear();
    positions::write(&[3, 200, 201, 999], 10_000, &mut bytes);
    assert_eq!(bytes, [1, 3, 0xC4, 1, 0, 0x9D, 6], "3, then 196, 0 and 797 more between");
    assert_eq!(positions::read(&mut bytes.as_slice(), 10_000, 4).expect("readable"), [3, 200, 201, 999]);
    bytes.clear();
    positions::write(&[0, 1, 2, 9], 10, &mut bytes);
    assert_eq!(bytes, [0, 0b111, 0b10]);
    for (bytes, count) in [
        (&[0u8, 0b111, 0b10][..], 3),
        (&[0, 1], 1),
        (&[1, 3, 9], 2),
        (&[2], 1),
        (&[1, 255, 255, 255, 255, 255, 255, 1], 1),
    ] {
        positions::read(&mut &bytes[..], 10, count).expect_err("refused");
    }
}

#[test]
fn the_largest_are_sent_and_of_equals_the_first() {
    assert_eq!(positions::largest(&[1.0, -5.0, 2.0, -2.0, 0.0], 3), [1, 2, 3]);
    assert_eq!(positions::largest(&[1.0, 1.0, -1.0], 2), [0, 1]);
    assert_eq!(positions::largest(&[0.0; 3], 3), [0, 1, 2]);
}

/// Over rounds what was sent and what is still owed are what was learnt, slot by slot, also of slots that a round leaves out.
#[test]
fn what_was_not_sent_is_owed() {
    let wire = WireSettings { upload: Coding::Int8, top_k: Some(0.2), ..WireSettings::default() };
    let mut memory = ClientMemory::default();
    let (mut learnt, mut sent) = (std::collections::BTreeMap::new(), std::collections::BTreeMap::new());
    let note = |sum: &mut std::collections::BTreeMap<(Role, usize, usize), f64>, upload: &mut Upload| {
        for (role, slots, matrix) in movements(upload) {
            for (row, slot) in matrix.data.chunks_exact(matrix.cols).zip(slots) {
                row.iter().enumerate().for_each(|(i, v)| *sum.entry((role, slot, i)).or_default() += f64::from(*v));
            }
        }
    };
    for round in 1..=6 {
        let mut own = upload(100 + round);
        if round % 2 == 0 {
            // This round leaves slot 3 of the first target out.
            own.slots = Slots::Given { rank: 5, slots: [vec![0, 4], vec![2]].into_iter().collect() };
            own.factors.iter_mut().for_each(|(_, list)| list[0] = list[0].rows(&[0, 2]));
        }
        note(&mut learnt, &mut own);
        write(&wire, &Plan { round: round as usize, ..plan(wire) }, 7, Some(&memory), true, &mut own);
        note(&mut sent, &mut own);
        memory.update(std::mem::take(&mut own.kept));
    }
    let mut owed = 0.0f64;
    for (key @ (role, slot, i), learnt) in &learnt {
        let lost = &memory.lost[role];
        let lost = f64::from(lost.data[slot * lost.cols + i]);
        owed = owed.max(lost.abs());
        assert!((sent[key] + lost - learnt).abs() < 1e-7, "{role} {slot} {i}");
    }
    assert!(owed > 1e-3, "something is owed: {owed}");
    // It goes into files and back.
    let mut again = ClientMemory::default();
    memory.named().for_each(|(name, matrix)| assert!(again.insert_named(&name, matrix.clone()), "{name}"));
    assert_eq!(again, memory);
}

/// Vectors that `scripts/checks/check_wire.py` wrote by NumPy, and what is written here for it to read.
#[test]
fn numpy_writes_and_reads_the_same() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/wire.json");
    let cases: serde_json::Value = serde_json::from_slice(&std::fs::read(path).expect("a fixture")).expect("JSON");
    let list = |value: &serde_json::Value| -> Vec<f64> {
        value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number")).collect()
    };
    for case in cases.as_array().expect("cases") {
        let wire: WireSettings = serde_json::from_value(case["wire"].clone()).expect("settings");
        let expected: Vec<f32> = list(&case["numbers"]).into_iter().map(|v| v as f32).collect();
        let bytes: Vec<u8> = list(&case["bytes"]).into_iter().map(|v| v as u8).collect();
        let mut found = Upload {
            factors: vec![(Factor::B, vec![Matrix::zeros(1, expected.len())])],
            slots: Slots::All { rank: 1 },
            head: vec![],
            aux: vec![],
            ..upload(1)
        };
        read(&wire, &bytes, &mut found).expect("readable");
        assert_eq!(numbers(&found), expected, "{}", case["wire"]);
    }
    let Some(out) = std::env::var_os("BONFIRE_WIRE_OUT") else { return };
    let mut cases = Vec::new();
    for wire in settings().into_iter().filter(|wire| wire.head.is_none() && wire.codes_uploads()) {
        let mut sent = Upload { head: vec![], aux: vec![], ..upload(2) };
        write(&wire, &plan(wire), 7, None, false, &mut sent);
        let bytes = &sent.coded.as_ref().expect("coded").bytes;
        cases.push(serde_json::json!({"wire": wire, "numbers": numbers(&sent), "bytes": bytes}));
    }
    std::fs::write(out, serde_json::to_vec(&cases).expect("JSON")).expect("written");
}

#[test]
fn what_a_site_reads_of_a_download_is_what_clients_of_one_process_start_from() {
    // Rows longer than what shares a scale, rows of an odd number, and no row at all.
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let shapes = [(3, 70), (2, 5), (0, 9), (4, 64)];
    let mut matrix =
        |(rows, cols)| Matrix::new(rows, cols, (0..rows * cols).map(|_| rng.random::<f32>() - 0.5).collect());
    let matrices: Vec<Matrix> = shapes.into_iter().map(&mut matrix).collect();
    // By hand: a row of 70 has two scales.
    let bytes = [4 * 476, 2 * 476, 2 * 476, 3 * 74 + 2 * 7 + 4 * 66, 3 * (4 + 35) + 2 * (2 + 3) + 4 * (2 + 32)];
    for (coding, bytes) in CODINGS.into_iter().zip(bytes) {
        let wire = WireSettings { download: coding, ..WireSettings::default() };
        let sent = wire.write_download(matrices.clone());
        assert_eq!((sent.len(), wire.downloads_len(&shapes)), (bytes, bytes), "{coding:?}");
        let start: Vec<f32> = matrices.iter().flat_map(|m| wire.rounded(m).data).collect();
        assert_eq!(wire.read_download(&sent, &shapes), Ok(start), "{coding:?}");
        assert!(wire.read_download(&sent[1..], &shapes).is_err());
        let longer = wire.read_download(&[sent, vec![0]].concat(), &shapes);
        assert_eq!(longer, Err("it holds 1 bytes too many".to_owned()));
    }
}
