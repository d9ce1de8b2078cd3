//! What a run with privacy says and leaves behind.

use crate::support::{Room, short};

const GAUSSIAN: &str = "privacy={kind=\"gaussian\",clip=1.0,epsilon=4.0,publish=\"minimal\"}";

#[test]
fn a_private_run_says_its_epsilon_and_leaves_nothing_of_its_clients() {
    let room = Room::new();
    let said = room.succeed(&short(&["train", "--out", "run"], &["--set", GAUSSIAN]));
    assert!(said.out.contains("ε ") && said.out.contains(" at δ 1e-5"), "{}", said.out);
    assert!(!said.out.contains("train loss") && !said.out.contains("NaN"), "{}", said.out);
    assert!(!room.path("run/partition.json").exists());
    assert_eq!(room.read("run/clients.jsonl"), "");
    for row in room.rounds("run") {
        assert!(row["train_loss"].is_null() && row["delta"] == 1e-5 && row["epsilon"].as_f64() > Some(0.0), "{row}");
    }
    // A checkpoint holds the secret that noise is drawn from.
    #[cfg(unix)]
    for file in std::fs::read_dir(room.path("run/checkpoints")).expect("there") {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.expect("an entry").metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o077, 0, "nobody else reads it: {mode:o}");
    }
    room.succeed(&["report", "run", "--out", "page.html"]);
    room.succeed(&short(&["train", "--resume", "run", "--accept-changes", "--quiet"], &["--set", "train.rounds=3"]));
}

#[test]
fn what_privacy_does_not_cover_is_said_before_the_run() {
    let room = Room::new();
    let simulated = "privacy={kind=\"gaussian\",clip=1.0,noise=1.0,reproducible=true}";
    let said = room.succeed(&short(&["train", "--out", "run"], &["--set", simulated]));
    assert!(said.err.contains("privacy is simulated"), "{}", said.err);
    assert!(said.out.contains("privacy simulated") && !said.out.contains("ε "), "{}", said.out);
    let careless = "privacy={kind=\"gaussian\",clip=1.0,noise=1.0,delta=0.5}";
    room.refuse(2, &["privacy.delta", "1 / clients.count"], &["train", "--set", careless]);
}
