//! Files as a stranger may write them: small changes to a valid one, hostile values in the place of its own, and noise.
//! Test programs of several crates include this file.
#![allow(dead_code)]

#[path = "cases.rs"]
mod cases;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::RngSeed;
use serde_json::{Map, Value, json};

/// As many cases as `PROPTEST_CASES` says, then new ones every time; without it a few hundred, always the same.
pub fn config() -> ProptestConfig {
    let common = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => cases::cases(0),
        None => ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() },
    };
    ProptestConfig { max_shrink_iters: 200, ..common }
}

/// One change to bytes.
#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Cut(Index),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Again(Index, usize),
    /// A number, written out or in eight bytes, over what is there.
    Number(Index, u64, bool),
}

/// Numbers that lengths, counts and sizes are rarely checked for.
fn numbers() -> impl Strategy<Value = u64> {
    select(vec![0, 1, 255, 65_536, 1 << 31, u64::from(u32::MAX), 1 << 40, 1 << 60, i64::MAX as u64, u64::MAX])
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        3 => (at(), any::<u8>()).prop_map(|(at, mask)| Change::Flip(at, mask)),
        1 => at().prop_map(Change::Cut),
        2 => (at(), vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        2 => (at(), 1usize..40).prop_map(|(at, n)| Change::Remove(at, n)),
        1 => (at(), 1usize..40).prop_map(|(at, n)| Change::Again(at, n)),
        3 => (at(), numbers(), any::<bool>()).prop_map(|(at, number, written)| Change::Number(at, number, written)),
    ]
}

fn apply(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        if bytes.is_empty() {
            return bytes;
        }
        let all = bytes.len();
        match change {
            Change::Flip(at, mask) => bytes[at.index(all)] ^= mask,
            Change::Cut(at) => bytes.truncate(at.index(all)),
            Change::Insert(at, new) => drop(bytes.splice(at.index(all)..at.index(all), new.iter().copied())),
            Change::Remove(at, n) => drop(bytes.drain(at.index(all)..(at.index(all) + n).min(all))),
            Change::Again(at, n) => {
                let part = bytes[at.index(all)..(at.index(all) + n).min(all)].to_vec();
                bytes.splice(at.index(all)..at.index(all), part);
            }
            Change::Number(at, number, true) => {
                // Over the digits that come next, if any do.
                let from = at.index(all);
                let from = bytes[from..].iter().position(u8::is_ascii_digit).map_or(from, |skip| from + skip);
                let digits = bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                bytes.splice(from..from + digits, number.to_string().into_bytes());
            }
            Change::Number(at, number, false) => {
                let from = at.index(all).min(all.saturating_sub(8));
                bytes.splice(from..(from + 8).min(all), number.to_le_bytes());
            }
        }
    }
    bytes
}

/// `sample` with a few changes, among its first `within` bytes; at times nothing of it.
pub fn mutated_within(sample: Vec<u8>, within: usize) -> impl Strategy<Value = Vec<u8>> {
    let whole = sample.clone();
    let changed = vec(change(), 1..5).prop_map(move |changes| {
        let (head, tail) = whole.split_at(within.min(whole.len()));
        [apply(head.to_vec(), &changes), tail.to_vec()].concat()
    });
    let cut = any::<Index>().prop_map(move |at| sample[..at.index(sample.len() + 1)].to_vec());
    prop_oneof![8 => changed, 1 => cut, 1 => vec(any::<u8>(), 0..200)]
}

/// `sample` with a few changes anywhere; at times nothing of it.
pub fn mutated(sample: impl Into<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let sample = sample.into();
    let all = sample.len();
    mutated_within(sample, all)
}

/// What no file should hold where something else is expected.
fn hostile() -> impl Strategy<Value = Value> {
    let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
    let fixed = vec![
        json!(null),
        json!(true),
        json!(""),
        json!("\u{0}é\u{301}\u{feff}"),
        json!("../../../etc/passwd"),
        json!("/etc/passwd"),
        json!("(((((a{1000}){1000}"),
        json!("x".repeat(5000)),
        json!(-1),
        json!(0.5),
        json!(1e308),
        json!([]),
        json!({}),
        json!([[0, 1e18 as u64]]),
        deep,
    ];
    prop_oneof![2 => select(fixed), 1 => numbers().prop_map(Value::from)]
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

/// Puts `new` in the place of the value number `at`, or takes that out.
fn replace(value: &mut Value, at: &mut usize, new: &Option<Value>) {
    if *at == 0 {
        *at = usize::MAX;
        *value = new.clone().unwrap_or(Value::Null);
        return;
    }
    *at -= 1;
    match value {
        Value::Array(list) => list.iter_mut().for_each(|inner| visit(inner, at, new)),
        Value::Object(map) => {
            let gone: Vec<String> = map.keys().filter(|_| new.is_none() && *at == 0).take(1).cloned().collect();
            gone.iter().for_each(|key| drop(remove(map, key, at)));
            map.values_mut().for_each(|inner| visit(inner, at, new));
        }
        _ => {}
    }
}

fn remove(map: &mut Map<String, Value>, key: &str, at: &mut usize) -> Option<Value> {
    *at = usize::MAX;
    map.remove(key)
}

fn visit(value: &mut Value, at: &mut usize, new: &Option<Value>) {
    if *at != usize::MAX {
        replace(value, at, new);
    }
}

/// A JSON document with hostile values in the place of some of its own, or keys missing; at times its bytes mutated.
pub fn mutated_json(sample: &str) -> impl Strategy<Value = Vec<u8>> {
    let value: Value = serde_json::from_str(sample).expect("the sample is JSON");
    let all = count(&value);
    let places = vec((any::<Index>(), prop::option::weighted(0.8, hostile())), 1..4);
    let changed = places.prop_map(move |changes| {
        let mut value = value.clone();
        for (place, new) in changes {
            visit(&mut value, &mut place.index(all), &new);
        }
        value.to_string().into_bytes()
    });
    prop_oneof![3 => changed, 1 => mutated(sample.as_bytes())]
}
