//! Mistakes in the configuration and the arguments: exit code 2, the key, its line and what would be right.

use crate::support::Room;

const CONFIG: &str = r#"[model]
path = "builtin"

[data]
path = "builtin"
partition = { kind = "dirichlet", alpha = 0.5 }

[clients]
count = 4
budget = 2

[adapter]
rank = 8

[train]
rounds = 2

[strategy]
name = "lora-a2"
"#;

/// The configuration with `line` replaced must be refused with all of `words`.
fn refused(line: &str, new: &str, words: &[&str]) {
    let room = Room::new();
    assert!(CONFIG.contains(line));
    room.write("run.toml", &CONFIG.replace(line, new));
    let said = room.refuse(2, words, &["train", "run.toml", "--out", "run"]);
    // What a device lacks is known once the run has said that it begins.
    assert!(said.out.lines().count() <= 1, "{}", said.out);
    assert!(!room.path("run").exists(), "a refused configuration must leave nothing");
}

#[test]
fn an_unknown_key_has_its_line_and_the_nearest_right_key() {
    refused(
        "rounds = 2",
        "rouns = 2",
        &["unknown key `rouns` in [train]", "run.toml, line 16", "did you mean `rounds`?"],
    );
}

#[test]
fn an_unknown_section_has_its_line_and_the_nearest_right_section() {
    refused("[adapter]", "[adaptor]", &["`adaptor`", "run.toml, line 12", "did you mean `adapter`?"]);
}

#[test]
fn an_unknown_word_has_its_line_and_the_nearest_right_word() {
    refused(
        "\"lora-a2\"",
        "\"lora-2a\"",
        &["`strategy.name`", "\"lora-2a\"", "run.toml, line 19", "did you mean `lora-a2`?"],
    );
    refused(
        "\"dirichlet\"",
        "\"dirichet\"",
        &["`data.partition.kind`", "run.toml, line 6", "did you mean `dirichlet`?"],
    );
}

#[test]
fn a_wrong_type_names_key_and_line() {
    refused(
        "rounds = 2",
        "rounds = \"two\"",
        &["`train.rounds` must be a whole number", "\"two\"", "run.toml, line 16"],
    );
}

#[test]
fn a_key_of_another_strategy_is_unknown() {
    refused(
        "name = \"lora-a2\"",
        "name = \"fedit\"\nnorm = \"all\"",
        &["unknown key `norm` in [strategy]", "run.toml, line 20"],
    );
}

#[test]
fn rank_0_and_a_budget_above_the_rank_are_refused() {
    refused("rank = 8", "rank = 0", &["`adapter.rank`", "run.toml, line 13"]);
    refused("budget = 2", "budget = 9", &["`clients.budget`", "rank = 8", "run.toml, line 10"]);
    refused("budget = 2", "budget = 0", &["`clients.budget`", "run.toml, line 10"]);
    refused("budget = 2", "budget = [1, 2]", &["`clients.budget`", "4 clients", "run.toml, line 10"]);
}

#[test]
fn more_clients_a_round_than_there_are_is_refused() {
    refused("count = 4", "count = 4\nper_round = 5", &["`clients.per_round`", "run.toml, line 10"]);
}

#[test]
fn a_configuration_that_is_not_there_or_not_toml_is_refused() {
    let room = Room::new();
    room.refuse(2, &["nowhere.toml"], &["train", "nowhere.toml"]);
    room.write("broken.toml", "[train\nrounds = 2\n");
    room.refuse(2, &["not valid TOML", "broken.toml, line 1"], &["train", "broken.toml"]);
}

#[test]
fn overrides_are_checked_like_the_file() {
    let room = Room::new();
    room.refuse(2, &["--set train.rouns=3", "did you mean `rounds`?"], &["train", "--set", "train.rouns=3"]);
    room.refuse(2, &["--set rounds", "section.key=value"], &["train", "--set", "rounds"]);
    room.refuse(2, &["--set adapter.rank=0"], &["train", "--set", "adapter.rank=0"]);
}

#[test]
fn a_partition_that_cannot_be_made_names_its_key() {
    let room = Room::new();
    room.refuse(2, &["clients.count", "--set clients.count=4000"], &["train", "--set", "clients.count=4000"]);
    room.refuse(2, &["data.labels = 99", "--set data.labels=99"], &["train", "--set", "data.labels=99"]);
    room.refuse(2, &["data.partition.alpha", "--set"], &["train", "--set", "data.partition.alpha=0"]);
    room.refuse(2, &["data.max_length", "at most"], &["train", "--set", "data.max_length=4000"]);
}

#[test]
fn a_shipped_configuration_asks_for_model_and_data() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/banking77.toml");
    Room::new().refuse(2, &["`model.path` is not set", "--set model.path=DIR --set data.path=DIR"], &["train", config]);
}

#[test]
fn an_occupied_run_folder_is_refused() {
    let room = Room::new();
    room.write("x", "something");
    room.refuse(2, &["x exists"], &["train", "--out", "x"]);
    std::fs::create_dir(room.path("full")).expect("made");
    room.write("full/x", "something");
    room.refuse(2, &["full exists and is not an empty folder"], &["train", "--out", "full"]);
    assert_eq!(room.read("full/x"), "something");
}

#[test]
fn unknown_devices_and_missing_backends_are_refused() {
    let room = Room::new();
    room.refuse(2, &["gpu", "auto, cpu, wgpu"], &["train", "--device", "gpu"]);
    if cfg!(not(feature = "cuda")) {
        room.refuse(2, &["no `cuda` device", "--features cuda"], &["train", "--device", "cuda"]);
    }
    room.refuse(2, &["engine.device", "auto, cpu, wgpu"], &["train", "--set", "engine.device=gpu"]);
}

#[test]
fn keys_that_moved_are_refused_with_their_new_name() {
    for (old, new) in [
        ("precision = \"bf16\"", "engine.precision"),
        ("checkpoint = \"block\"", "engine.recompute"),
        ("memory_gb = 4.0", "engine.memory_gb"),
        ("tokens_per_step = 50", "engine.tokens_per_step"),
    ] {
        let said = format!("it is `{new}` now");
        refused("rounds = 2", &format!("{old}\nrounds = 2"), &["in [train]", "run.toml, line 16", &said]);
    }
}

#[test]
fn a_precision_that_the_device_lacks_is_refused() {
    const ENGINE: &str = "[strategy]";
    refused(ENGINE, "[engine]\nprecision = \"f8\"\n[strategy]", &["`engine.precision`", "run.toml, line ", "bf16"]);
    refused(
        ENGINE,
        "[engine]\nprecision = \"bf16\"\n[strategy]",
        &["engine.precision = \"bf16\", which this device does not compute in", "run.toml, line ", "use \"f32\""],
    );
    let tf32 = ["train", "--device", "cpu", "--set", "engine.precision=\"tf32\""];
    let said =
        ["engine.precision = \"tf32\", which this device does not compute in", "--set engine.precision", "use \"f32\""];
    let room = Room::new();
    room.refuse(2, &said, &tf32);
    assert!(!room.path("runs").exists(), "nothing was begun");
    room.refuse(2, &said, &["compare", "--device", "cpu", "--set", "engine.precision=\"tf32\""]);
}

#[test]
fn a_list_of_devices_is_read_whole() {
    let room = Room::new();
    room.refuse(2, &["cpu;cpu", "expected auto, cpu"], &["train", "--device", "cpu;cpu"]);
    room.refuse(2, &["expected auto, cpu"], &["train", "--device", "cpu,"]);
}

#[test]
fn a_column_that_the_built_in_data_lacks_is_named() {
    let room = Room::new();
    let wrong = ["train", "--set", "data.partition={ kind = \"natural\", column = \"speeker\" }"];
    room.refuse(2, &["no column `speeker`", "--set data.partition", "column = \"branch\""], &wrong);
}

#[cfg(unix)]
#[test]
fn what_is_endless_is_no_configuration() {
    let room = Room::new();
    room.refuse(2, &["/dev/zero", "more than 16777216 bytes"], &["config", "/dev/zero"]);
    room.refuse(2, &["/dev/zero"], &["train", "/dev/zero", "--out", "run"]);
}

#[test]
fn a_whole_number_beyond_toml_is_told_so() {
    let room = Room::new();
    let words =
        ["18446744073709551615 is beyond the whole numbers of TOML", "9223372036854775807", "--set train.seed="];
    room.refuse(2, &words, &["config", "--set", "train.seed=18446744073709551615"]);
    room.succeed(&["config", "--set", "train.seed=9223372036854775807"]);
}
