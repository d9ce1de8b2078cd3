//! `bonfire self-test`: what it checks and how it says so.

use serde_json::Value;

use crate::support::Room;

#[test]
fn the_cpu_passes_and_every_check_is_a_line() {
    let room = Room::new();
    let said = room.succeed(&["self-test", "--quick", "--json"]);
    let report: Value = serde_json::from_str(&said.out).expect("one JSON object");
    let device = &report["devices"][0];
    let lines = device["lines"].as_array().expect("lines");
    assert_eq!((device["checks"].as_u64(), &device["wrong"]), (Some(lines.len() as u64), &0.into()));
    for line in lines {
        assert_eq!((&line["verdict"], &line["format"]), (&"ok".into(), &"f32".into()), "{line}");
        // A check that compares nothing would be off by nothing; but the device with itself may be.
        let what = line["what"].as_str().unwrap_or_default();
        let itself = what.ends_with("packed and alone") || what.ends_with("continued");
        // The norm of a single number is exact.
        let single = line["shape"].as_str().is_some_and(|shape| shape.contains("1 tensors of 1 numbers"));
        assert!(itself || single || line["off"].as_f64() > Some(0.0), "{line}");
        assert!(line["off"].as_f64() <= line["allowed"].as_f64(), "{line}");
    }
    for what in ["linear, A trains", "attention, causal", "GELU", "AdamW", "PyTorch's qwen2-tiny: losses of ten steps"]
    {
        assert!(lines.iter().any(|line| line["what"] == what), "no {what}");
    }
}

#[test]
fn real_shapes_are_drawn_anew_by_another_seed() {
    let room = Room::new();
    let of = |seed: &str| {
        let said = room.succeed(&["self-test", "--real", "--tokens", "90", "--seed", seed]);
        let last = said.out.lines().last().unwrap_or_default().to_string();
        assert!(last.starts_with("self-test of cpu (") && last.ends_with(", all ok"), "{last}");
        assert!(said.out.contains("[92, 768] x [768, 2304], 30 clients, 3 x rank 16"), "{}", said.out);
        said.out.lines().find(|line| line.contains("norm of a sum")).map(String::from)
    };
    assert_ne!(of("1"), of("2"));
}

#[test]
fn mistakes_are_named() {
    let room = Room::new();
    room.refuse(2, &["reads no configuration"], &["self-test", "--set", "train.rounds=2"]);
    room.refuse(2, &["--tokens", "from 64"], &["self-test", "--tokens", "3"]);
    room.refuse(2, &["--quick", "--real"], &["self-test", "--quick", "--real"]);
    room.refuse(2, &["no `cuda` device", "--features cuda"], &["self-test", "--device", "cuda"]);
}
