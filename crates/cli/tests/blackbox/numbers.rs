//! Training that runs into infinity.

use crate::support::{Room, short};

#[test]
fn a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_good_state() {
    let room = Room::new();
    let args = short(
        &["train", "--out", "run"],
        &["--set", "train.rounds=6", "--set", "train.lr_a=1e30", "--set", "train.lr_b=1e30"],
    );
    let said = room.refuse(1, &["round ", "client ", "run holds"], &args);
    assert!(said.out.contains("learning rates: A 1e30, B 1e30"), "{}", said.out);

    let rows = room.rounds("run");
    let summary = room.json("run/summary.json");
    assert_eq!(summary["rounds"].as_u64(), Some(rows.len() as u64));
    for row in rows {
        assert!(row["train_loss"].is_number(), "{row}");
    }
    // What is kept can be measured.
    let said = room.succeed(&["evaluate", "run", "--json"]);
    let result: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    assert!(result["accuracy"].is_number(), "{result}");
}
