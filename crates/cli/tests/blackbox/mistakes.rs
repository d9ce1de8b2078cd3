//! The mistakes of a first hour, most of them habits from other tools: each is one message with the right key, and exit code 2.

use crate::support::Room;

/// A room with a configuration, data for a classifier, prompts with responses, and a folder that is neither.
fn room() -> Room {
    let room = Room::new();
    room.write("run.toml", include_str!("../../../../configs/quickstart.toml"));
    room.data(&[], &[]);
    std::fs::create_dir(room.path("prompts")).expect("made");
    for split in ["train", "test"] {
        let rows: Vec<String> =
            (0..20).map(|i| format!("{{\"prompt\": \"Say {i}\", \"response\": \"It is {i}\"}}")).collect();
        room.write(&format!("prompts/{split}.jsonl"), &rows.join("\n"));
    }
    room
}

#[test]
fn options_of_other_tools_are_keys() {
    let room = room();
    for (args, words) in [
        (&["train", "--rounds", "3"][..], &["no option --rounds", "--set train.rounds=3"][..]),
        (&["train", "--lr", "1e-4"], &["no option --lr", "--set train.lr_a=1e-4", "train.lr_b"]),
        (&["train", "--batch-size=8"], &["--set train.batch_size=8"]),
        (&["train", "--local-epochs", "2"], &["--set train.epochs=2"]),
        (&["train", "--seed", "2"], &["--set train.seed=2"]),
        (&["train", "--strategy", "fedit"], &["--set strategy.name=fedit"]),
        (&["train", "--num_clients", "8"], &["--set clients.count=8"]),
        (&["train", "--model", "DIR", "--data", "DIR"], &["--set model.path=DIR"]),
        (&["train", "--config", "run.toml"], &["bonfire train FILE"]),
        (&["train", "--output-dir", "x"], &["--out DIR"]),
        (&["train", "--gpus", "1"], &["--device"]),
        (&["compare", "--rounds", "3"], &["--set train.rounds=3"]),
        (&["fit", "run.toml"], &["bonfire train"]),
    ] {
        let said = room.refuse(2, words, args);
        assert!(said.err.lines().count() == 2 && said.out.is_empty(), "{said:?}");
    }
}

#[test]
fn keys_and_words_of_other_tools_are_told_what_they_are_here() {
    let room = room();
    let text = room.read("run.toml");
    for (old, new, words) in [
        ("lr_a = 2e-3", "lr = 2e-3", &["unknown key `lr` in [train]", "line 33", "`train.lr_a`"][..]),
        ("lr_a = 2e-3", "learning_rate = 2e-3", &["`learning_rate` is `train.lr_a` here"]),
        ("epochs = 2", "local_epochs = 2", &["`local_epochs` is `train.epochs` here"]),
        ("batch_size = 8", "per_device_train_batch_size = 8", &["`train.batch_size`"]),
        ("rank = 8", "r = 8", &["`r` is `adapter.rank` here"]),
        ("alpha = 16", "lora_alpha = 16", &["`adapter.alpha`"]),
        ("alpha = 16", "target_modules = [\"query\"]", &["`adapter.targets`"]),
        ("count = 10", "num_clients = 10", &["`clients.count`"]),
        ("count = 10", "count = 10\nfraction_fit = 0.3", &["`clients.per_round`", "a number of clients"]),
        ("[model]", "[model]\nname = \"roberta\"", &["`model.path`", "hf:org/name"]),
        ("[train]", "[training]", &["[train]"]),
        ("[adapter]", "[lora]", &["[adapter]"]),
        ("\"lora-a2\"", "\"fedavg\"", &["`strategy.name` cannot be \"fedavg\"", "\"fedit\"", "\"full\""]),
        ("\"lora-a2\"", "\"lora\"", &["\"fedit\""]),
        ("\"lora-a2\"", "\"fedprox\"", &["train.prox"]),
        ("\"lora-a2\"", "\"FedAdam\"", &["server.optimizer"]),
        ("[model]", "[model]\ntask = \"CLM\"", &["\"causal-lm\""]),
        ("[model]", "[model]\ntask = \"seq_cls\"", &["\"classification\""]),
        ("[model]", "[engine]\nprecision = \"fp16\"\n[model]", &["\"bf16\""]),
        (
            "partition = { kind = \"dirichlet\", alpha = 0.1 }",
            "partition = \"dirichlet\"",
            &["line 18", "write data.partition = { kind = \"dirichlet\", alpha = 0.5 }"],
        ),
        (
            "partition = { kind = \"dirichlet\", alpha = 0.1 }",
            "partition = { alpha = 0.1 }",
            &["missing key `kind`", "{ kind = \"iid\" }, { kind = \"dirichlet\", alpha = 0.5 }"],
        ),
        (
            "partition = { kind = \"dirichlet\", alpha = 0.1 }",
            "partition = \"non-iid\"",
            &["{ kind = \"dirichlet\", alpha = 0.5 }"],
        ),
        ("path = \"builtin\"", "path = \"C:\\Users\\me\"", &["not valid TOML", "line 11", "'C:\\folder'", "C:/folder"]),
        ("path = \"builtin\"", "path = \"C:\\temp\"", &["`model.path` holds a control character", "line 11"]),
    ] {
        assert!(text.contains(old), "{old}");
        room.write("wrong.toml", &text.replacen(old, new, 1));
        let said = room.refuse(2, words, &["train", "wrong.toml", "--out", "run"]);
        assert!(said.err.lines().count() <= 3 && !room.path("run").exists(), "{said:?}");
    }
}

#[test]
fn a_value_of_set_is_told_like_one_of_the_file() {
    let room = room();
    for (set, words) in [
        ("lr=1e-4", &["unknown section or key `lr`", "`train.lr_a`"][..]),
        ("rounds=3", &["`rounds` belongs to [train]"]),
        ("per_client=true", &["`per_client` belongs to [evaluate]"]),
        ("model.new_head=True", &["must be true or false", "write true"]),
        ("server.optimizer=adam", &["{ name = \"fedadam\" }"]),
        ("train.lr_a=1e-3,2e-3", &["must be a number", "bonfire sweep --set train.lr_a=1e-3,2e-3"]),
        ("strategy.name=fedit,lora-a2", &["bonfire compare --strategies fedit,lora-a2"]),
    ] {
        room.refuse(2, words, &["train", "--set", set]);
    }
    let said =
        room.succeed(&["config", "--set", "train.rounds=3", "--set", "train.epochs=1", "--set", "train.rounds=4"]);
    let words =
        ["note: train.rounds is given more than once", "`--set train.rounds=4` holds, `--set train.rounds=3` does not"];
    assert!(words.iter().all(|word| said.err.contains(word)) && said.err.lines().count() == 1, "{}", said.err);
    for command in ["compare", "sweep", "cost"] {
        room.refuse(2, &["\"fedit\"", "\"full\""], &[command, "--strategies", "fedavg,lora"]);
    }
    // What is no option is taken for the value that it is.
    let said = room.run(&["cost", "--epsilon", "-8"]);
    assert!(said.code == Some(2) && said.err.contains("invalid value '-8' for '--epsilon"), "{said:?}");
    let said = room.run(&["plan", "--svg", "plan.png"]);
    assert!(said.code == Some(2) && said.err.contains("expected a name that ends in .svg"), "{said:?}");
}

#[test]
fn config_tells_of_paths_that_are_not_there() {
    let room = room();
    let said = room.succeed(&["config", "--set", "model.path=nowhere", "--set", "data.path=gone"]);
    for words in ["`model.path`: no such file or folder: nowhere", "`data.path`: no such file or folder: gone"] {
        assert!(said.err.contains(words), "no {words:?} in: {}", said.err);
    }
    assert!(said.out.contains("path = \"nowhere\""), "it is shown all the same: {}", said.out);
    assert_eq!(room.succeed(&["config"]).err, "");
}

#[test]
fn rows_of_prompts_ask_for_the_task() {
    let words = ["prompts/train.jsonl:1", "prompt, response", "set model.task = \"causal-lm\"", "a decoder"];
    room().refuse(2, &words, &["train", "--set", "model.path=builtin-llama", "--set", "data.path=prompts"]);
}

#[test]
fn a_tilde_stands_for_the_users_folder() {
    let room = room();
    let at_home = |set: &str| {
        let mut command = room.command(&["partition", "--set", "clients.count=2", "--set", set]);
        let home = room.path("");
        crate::support::Said::from(command.env("HOME", &home).env("USERPROFILE", &home).output().expect("it starts"))
    };
    let found = at_home("data.path=~/data");
    assert_eq!(found.code, Some(0), "{found:?}");
    let missing = at_home("data.path=~/gone");
    let (told, named) = (missing.err.contains("no such file or folder"), missing.err.contains("~/gone"));
    assert!(missing.code == Some(2) && told && named, "{missing:?}");
    assert!(missing.err.contains(&room.path("gone").display().to_string()), "{missing:?}");
}

#[test]
fn paths_that_are_not_there_or_are_of_another_kind_say_what_was_meant() {
    let room = room();
    room.model();
    let toml = room.read("run.toml").replace("path = \"builtin\"", "path = \"nowhere\"");
    room.write("nowhere.toml", &toml);
    room.write("sheet.xlsx", "PK");
    for (args, words) in [
        (
            &["--set", "model.path=google-bert/bert-base-uncased"][..],
            &["did you mean \"hf:google-bert/bert-base-uncased\""][..],
        ),
        (&["--set", "data.path=fancyzhx/ag_news"], &["did you mean \"hf:fancyzhx/ag_news\""]),
        (&["--set", "data.path=ag_news"], &["`data.path`: no such file or folder: ag_news", "hf:org/name"]),
        (
            &["--set", "model.path=nowhere"],
            &["`model.path`: no such file or folder: nowhere", "--set model.path=nowhere"],
        ),
        (&["nowhere.toml"], &["no such file or folder: nowhere", "nowhere.toml, line "]),
        (
            &["--set", "model.path=model/config.json"],
            &["is a file; a model is a folder", "did you mean its folder, \"model\""],
        ),
        (&["--set", "data.path=data/train.jsonl"], &["and no test split", "--set data.path=data/train.jsonl"]),
        (&["--set", "data.path=sheet.xlsx"], &["sheet.xlsx: not a file of rows", "saved as .csv first"]),
        (&["data"], &["data is a folder; a configuration is a file", "data.path"]),
        (&["none.toml"], &["cannot read the configuration none.toml"]),
        (&["--resume", "run.toml"], &["run.toml is a file; --resume takes the folder of a run"]),
        (&["--resume", "data"], &["data holds no run"]),
    ] {
        room.refuse(
            2,
            words,
            &[&["train", "--out", "run"][..], args]
                .concat()
                .into_iter()
                .filter(|word| !(args.contains(&"--resume") && ["--out", "run"].contains(word)))
                .collect::<Vec<_>>(),
        );
        assert!(!room.path("run").exists(), "{args:?}");
    }
    for args in [&["evaluate"][..], &["report"], &["export", "--out", "x"], &["generate", "--prompt", "x"]] {
        let [first, rest @ ..] = args else { continue };
        let of = |run: &str, words: &[&str]| room.refuse(2, words, &[&[*first, run], rest].concat());
        of("run.toml", &["run.toml is a file; what is wanted is the folder of a run"]);
        of("data", &["data is not a run folder: it has no config.toml", "bonfire train"]);
        of("nowhere", &["nowhere is not a run folder", "there is nothing of that name"]);
    }
}

/// A run whose paths were relative is evaluated from elsewhere as from where it began; what is gone is said.
#[test]
fn a_run_remembers_from_where_its_paths_hold() {
    let room = room();
    let args =
        ["train", "--out", "run", "--set", "data.path=data", "--set", "train.rounds=1", "--set", "clients.count=2"];
    room.succeed(&args);
    let first = room.read("run/config.toml").lines().next().expect("a line").to_string();
    assert!(first.starts_with("# Relative paths hold from /"), "{first}");
    let here = room.succeed(&["evaluate", "run", "--json"]);
    std::fs::create_dir(room.path("elsewhere")).expect("made");
    let from = |args: &[&str]| {
        let mut command = room.command(args);
        crate::support::Said::from(command.current_dir(room.path("elsewhere")).output().expect("it starts"))
    };
    let there = from(&["evaluate", "../run", "--json"]);
    assert_eq!((there.code, &there.out), (Some(0), &here.out), "{there:?}");
    assert!(there.err.contains("data.path = \"data\" is read from where the run began"), "{}", there.err);
    let adapter = from(&["evaluate", "../run/adapter"]);
    assert!(
        adapter.code == Some(2) && adapter.err.contains("did you mean the run that it belongs to, ../run?"),
        "{adapter:?}"
    );
    // Going on from elsewhere does not move it.
    let on = from(&["train", "--resume", "../run", "--set", "train.rounds=2", "--accept-changes"]);
    assert_eq!(on.code, Some(0), "{on:?}");
    assert_eq!(room.read("run/config.toml").lines().next(), Some(first.as_str()));
    std::fs::rename(room.path("data"), room.path("gone")).expect("renamed");
    room.refuse(
        2,
        &["no such file or folder: data", "the run began in ", "--set data.path=PATH"],
        &["evaluate", "run"],
    );
}
