use std::path::{Path, PathBuf};

use super::document::Document;
use super::*;
use crate::user_error::UserError;

/// A small valid configuration.
const SMALL: &str = r#"
[model]
path = "builtin"

[data]
path = "builtin"
partition = { kind = "dirichlet", alpha = 0.1 }

[clients]
count = 4
budget = 2

[adapter]
rank = 8

[train]
rounds = 3
seed = 7

[strategy]
name = "lora-a2"
norm = "choosers"
probe = { batches = 4, reset = false }
"#;

fn read(text: &str, sets: &[&str]) -> Result<CheckedConfig, UserError> {
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    parse("run.toml", text, &sets)
}

fn mistake(text: &str, sets: &[&str]) -> UserError {
    read(text, sets).err().expect("a mistake")
}

/// The small configuration with one line replaced.
fn with(line: &str, new: &str) -> String {
    assert!(SMALL.contains(line), "{line}");
    SMALL.replace(line, new)
}

/// Every configuration file of the project.
pub fn shipped() -> Vec<PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("the folder is there") {
            let path = entry.expect("readable").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

#[test]
fn the_quickstart_without_a_file_is_the_one_with_a_file() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/quickstart.toml");
    assert_eq!(std::fs::read_to_string(file).expect("there"), run_config::QUICKSTART);
}

#[test]
fn the_shipped_configurations_are_valid() {
    assert!(load(None, &[]).is_ok_and(|loaded| loaded.config.name() == "quickstart"));
    assert!(shipped().len() > 20);
    for path in shipped() {
        let sets = ["model.path=m".to_string(), "data.path=d".to_string()];
        let loaded = load(Some(&path), &sets).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
        let text = std::fs::read_to_string(&path).expect("readable");
        assert!(text.starts_with("# "), "{} must say what it shows", path.display());
        // What privacy leaves unprotected is said every time, and what is for the built-in texts is left out with other data.
        let for_builtin = |notice: &String| notice.starts_with("left out, since they are for the built-in texts");
        let silent = loaded.notices.iter().all(for_builtin);
        assert!(silent || loaded.config.privacy.is_some(), "{:?}", loaded.notices);
    }
}

#[test]
fn a_resolved_configuration_reads_back_the_same() {
    for sets in [&[][..], &["strategy.name=fedit"], &["data.labels=5", "clients.budget=[1, 2, 3, 4]"]] {
        let first = read(SMALL, sets).expect("valid").config;
        let text = first.to_toml();
        let second = read(&text, &[]).expect("valid").config;
        assert_eq!(first, second, "{text}");
        assert_eq!(text, second.to_toml());
    }
}

#[test]
fn defaults_are_written_out() {
    let text = read(SMALL, &[]).expect("valid").config.to_toml();
    for key in
        ["max_length = 64", "epochs = 1", "in_flight = \"auto\"", "device = \"auto\"", "every = 1", "head = \"frozen\""]
    {
        assert!(text.contains(key), "{key} in\n{text}");
    }
}

#[test]
fn a_misspelt_key_has_its_line_and_the_right_key() {
    let error = mistake(&with("rounds = 3", "rouns = 3"), &[]);
    assert_eq!(error.what, "unknown key `rouns` in [train]");
    assert_eq!(error.place.as_deref(), Some("run.toml, line 17"));
    assert!(error.help.expect("help").starts_with("did you mean `rounds`? Possible here: rounds, epochs, "));
}

#[test]
fn a_misspelt_section_has_its_line_and_the_right_section() {
    let error = mistake(&with("[strategy]", "[strategie]"), &[]);
    assert_eq!(error.what, "unknown section or key `strategie`");
    assert_eq!(error.place.as_deref(), Some("run.toml, line 20"));
    assert!(error.help.expect("help").starts_with("did you mean `strategy`?"));
}

#[test]
fn a_key_in_the_wrong_section_is_sent_home() {
    let error = mistake(&with("count = 4", "count = 4\nseed = 3"), &[]);
    assert_eq!(error.what, "unknown key `seed` in [clients]");
    assert_eq!(error.help.as_deref(), Some("`seed` belongs to [train]"));
}

#[test]
fn keys_inside_tagged_tables_are_found() {
    let error = mistake(&with("norm = ", "nrom = "), &[]);
    assert_eq!(error.what, "unknown key `nrom` in [strategy]");
    assert_eq!(error.place.as_deref(), Some("run.toml, line 22"));
    assert!(error.help.expect("help").starts_with("did you mean `norm`?"));

    let error = mistake(&with("batches = 4", "bathces = 4"), &[]);
    assert_eq!(error.what, "unknown key `bathces` in [strategy.probe]");
    assert_eq!(error.place.as_deref(), Some("run.toml, line 23"));

    let error = mistake(&with("batches = 4", "batches = \"x\""), &[]);
    assert_eq!(error.what, "`strategy.probe.batches` must be a whole number, not negative, found the text \"x\"");

    let error = mistake(&with("alpha = 0.1", "alpha = \"low\""), &[]);
    assert_eq!(error.what, "`data.partition.alpha` must be a number, found the text \"low\"");
    assert_eq!(error.place.as_deref(), Some("run.toml, line 7"));

    let error = mistake(&with("alpha = 0.1", "beta = 0.1"), &[]);
    assert_eq!(error.what, "unknown key `beta` in [data.partition]");
}

#[test]
fn unknown_words_are_answered_with_the_nearest() {
    let error = mistake(&with("\"lora-a2\"", "\"lora-a3\""), &[]);
    assert_eq!(error.what, "`strategy.name` cannot be \"lora-a3\"");
    assert_eq!(error.place.as_deref(), Some("run.toml, line 21"));
    assert!(error.help.expect("help").starts_with("did you mean `lora-a2`? Possible here: lora-a2, fedit"));

    let error = mistake(&with("\"choosers\"", "\"chosers\""), &[]);
    assert_eq!(error.what, "`strategy.norm` cannot be \"chosers\"");

    let error = mistake(&with("\"dirichlet\"", "\"dirichlett\""), &[]);
    assert_eq!(error.what, "`data.partition.kind` cannot be \"dirichlett\"");

    let error = mistake(&with("rank = 8", "rank = 8\ntargets = [\"query\", \"keys\"]"), &[]);
    assert_eq!(error.what, "`adapter.targets` cannot be \"keys\"");
    assert_eq!(error.place.as_deref(), Some("run.toml, line 15"));
}

#[test]
fn wrong_types_name_key_line_and_what_is_right() {
    let error = mistake(&with("rounds = 3", "rounds = \"three\""), &[]);
    assert_eq!(error.what, "`train.rounds` must be a whole number, not negative, found the text \"three\"");
    assert_eq!(error.place.as_deref(), Some("run.toml, line 17"));
    let error = mistake(&with("rounds = 3", "rounds = -1"), &[]);
    assert_eq!(error.what, "`train.rounds` must be a whole number, not negative, found -1");
    let error = mistake(&with("rounds = 3", "rounds = 3\nbetas = [0.9]"), &[]);
    assert_eq!(error.what, "`train.betas` must be a list of 2, found a list of 1");
    let error = mistake(&with("partition = { kind = \"dirichlet\", alpha = 0.1 }", "partition = \"iid\""), &[]);
    assert!(error.what.starts_with("`data.partition` must be a table"), "{}", error.what);
}

#[test]
fn missing_keys_and_sections_are_named() {
    let error = mistake(&with("rank = 8", ""), &[]);
    assert_eq!(error.what, "missing key `rank` in [adapter]");
    assert_eq!(error.place.as_deref(), Some("run.toml, line 13"));
    let error = mistake(&with("[adapter]\nrank = 8", ""), &[]);
    assert_eq!(error.what, "missing section or key `adapter`");
    assert_eq!(error.help.as_deref(), Some("add a section [adapter]"));
    let error = mistake(&with(", alpha = 0.1", ""), &[]);
    assert_eq!(error.what, "missing key `alpha` in [data.partition]");
}

#[test]
fn values_that_cannot_work_are_found() {
    let error = mistake(&with("rank = 8", "rank = 0"), &[]);
    assert!(error.what.starts_with("`adapter.rank`"), "{}", error.what);
    assert_eq!(error.place.as_deref(), Some("run.toml, line 14"));
    let error = mistake(SMALL, &["clients.budget=9"]);
    assert!(error.what.starts_with("`clients.budget`") && error.what.contains("adapter.rank = 8"), "{}", error.what);
    assert_eq!(error.place.as_deref(), Some("--set clients.budget=9"));
    assert_eq!(mistake(SMALL, &["model.path=?"]).what, "`model.path` is not set");
    assert!(mistake(SMALL, &["name=../elsewhere"]).what.starts_with("`name` must be"));
}

#[test]
fn mistakes_in_overrides_name_the_override() {
    let error = mistake(SMALL, &["train.rouns=3"]);
    assert_eq!(error.place.as_deref(), Some("--set train.rouns=3"));
    assert!(error.help.expect("help").starts_with("did you mean `rounds`?"));
    let error = mistake(SMALL, &["train.rounds=many"]);
    assert_eq!(error.place.as_deref(), Some("--set train.rounds=many"));
    let error = mistake(SMALL, &["train.rounds.x=1"]);
    assert_eq!(error.what, "`train.rounds` holds a value, so nothing can be set inside it");
}

#[test]
fn another_strategy_drops_the_keys_of_the_old_one() {
    let loaded = read(SMALL, &["strategy.name=fedit"]).expect("valid");
    assert_eq!(loaded.config.strategy.name(), "fedit");
    assert_eq!(loaded.notices.len(), 3);
    assert!(loaded.notices[0].contains("(run.toml, line 2") && loaded.notices[0].contains("\"fedit\""));
    assert!(loaded.notices[2].starts_with("clients.budget (run.toml, line 11) is left out"), "{}", loaded.notices[2]);
    assert!(read(SMALL, &["strategy.name=fedit", "clients.budget=2"]).is_err());
    // A key given with --set itself is a mistake, and so is the same in the file alone.
    assert!(read(SMALL, &["strategy.name=fedit", "strategy.norm=all"]).is_err());
    assert!(read(&with("\"lora-a2\"", "\"fedit\""), &[]).is_err());
}

#[test]
fn another_partition_drops_the_keys_of_the_old_one() {
    let loaded = read(SMALL, &["data.partition.kind=iid"]).expect("valid");
    assert_eq!(loaded.config.partition_words(), "iid");
    assert_eq!(loaded.notices.len(), 1);
    let loaded = read(SMALL, &["data.partition={ kind = \"shards\", per_client = 2 }"]).expect("valid");
    assert_eq!(loaded.config.partition_words(), "shards, per_client 2");
}

#[test]
fn sections_written_as_tables_work_too() {
    let text = with("probe = { batches = 4, reset = false }", "[strategy.probe]\nbatchs = 4");
    let error = mistake(&text, &[]);
    assert_eq!(error.place.as_deref(), Some("run.toml, line 24"));
    assert!(Document::parse("run.toml", &text).is_ok());
}

#[test]
fn keys_for_the_builtin_texts_are_not_for_others() {
    let text = with("path = \"builtin\"\npartition", "path = \"builtin\"\nlabels = 20\nmin_shard = 16\npartition");
    let loaded = read(&text, &["data.path=mine"]).expect("valid");
    assert_eq!((loaded.config.data.labels, loaded.config.data.min_shard), (None, 1));
    let [notice] = &loaded.notices[..] else { panic!("{:?}", loaded.notices) };
    assert!(notice.contains("data.labels (run.toml, line 7) and data.min_shard (run.toml, line 8)"), "{notice}");
    // What is asked for beside the data holds, and so does all of it on the built-in texts.
    let loaded = read(&text, &["data.path=mine", "data.labels=3"]).expect("valid");
    assert_eq!((loaded.config.data.labels, loaded.config.data.min_shard), (Some(3), 1));
    for sets in [&[][..], &["data.path=builtin"]] {
        let loaded = read(&text, sets).expect("valid");
        assert_eq!((loaded.config.data.labels, loaded.config.data.min_shard), (Some(20), 16));
        assert!(loaded.notices.is_empty());
    }
    // A configuration of one's own data says itself what it wants.
    let own = text.replacen("[data]\npath = \"builtin\"", "[data]\npath = \"mine\"", 1);
    assert_eq!(read(&own, &["data.path=other"]).expect("valid").config.data.labels, Some(20));
}

#[test]
fn none_takes_an_optional_key_away() {
    let text = with("path = \"builtin\"\npartition", "path = \"builtin\"\nlabels = 20\nmax_length = 9\npartition");
    let loaded = read(&text, &["data.labels=none", "data.max_length=none", "strategy.probe=none"]).expect("valid");
    assert_eq!((loaded.config.data.labels, loaded.config.data.max_length), (None, 64));
    assert_eq!(read(&text, &["data.text=none"]).expect("valid").config.data.text, None);
    // In quotes it is a word like any other.
    let loaded = read(&text, &["data.label=\"none\"", "data.path=mine"]).expect("valid");
    assert_eq!(loaded.config.data.label, Some(LabelColumns::One("none".into())));
    let error = mistake(&text, &["data.lables=none"]);
    assert!(error.help.expect("help").starts_with("did you mean `label"), "{}", error.what);
    let error = mistake(&text, &["adapter.rank=none"]);
    assert_eq!(error.place.as_deref(), Some("--set adapter.rank=none"));
}

#[test]
fn columns_and_shares_are_checked() {
    for (set, what) in [
        ("data.split={ test = 1.5 }", "`data.split` must hold shares"),
        ("data.split={ test = 0.6, validation = 0.4 }", "`data.split` must hold shares"),
        ("data.text=[\"a\", \"b\", \"c\"]", "`data.text` holds a value of the wrong kind"),
        ("data.unseen_labels=keep", "`data.unseen_labels` cannot be \"keep\""),
        ("data.score=first", "`data.score` cannot be \"first\""),
    ] {
        let error = mistake(SMALL, &[set]);
        assert!(error.what.starts_with(what), "{}", error.what);
        assert_eq!(error.place, Some(format!("--set {set}")));
    }
    let error = mistake(SMALL, &["model.task=causal-lm", "data.text=[\"a\", \"b\"]"]);
    assert!(error.what.contains("is for classifiers"), "{}", error.what);
}

#[test]
fn a_whole_section_sets_the_keys_it_names_and_one_of_several_kinds_takes_the_place_of_what_was_there() {
    let by_keys = read(SMALL, &["clients.count=6", "train.rounds=5"]).expect("fine").config;
    let by_sections = read(SMALL, &["clients={count=6}", "train={rounds=5}"]).expect("fine").config;
    assert_eq!(by_sections, by_keys);
    assert_eq!(by_sections.train.seed, 7);
    // Another strategy has keys of its own.
    read(SMALL, &["strategy={name=\"fedit\"}", "clients.budget=full"]).expect("lora-a2's keys are gone");
    let wrong = mistake(SMALL, &["train={rouns=5}"]);
    assert_eq!(wrong.what, "unknown key `rouns` in [train]");
    assert_eq!(wrong.place.as_deref(), Some("--set train={rouns=5}"));
}

#[test]
fn rows_are_no_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("mine.csv");
    std::fs::write(&file, "text,label\na,b\n").expect("written");
    let wrong = load(Some(&file), &[]).err().expect("a mistake");
    assert!(wrong.what.contains("mine.csv holds rows"), "{}", wrong.what);
    assert!(wrong.help.expect("help").contains("--set data.path="));
}
