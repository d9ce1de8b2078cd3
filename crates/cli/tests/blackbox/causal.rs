//! Causal language models from outside: data of every kind, and what wrong data is told.

use std::fs;

use crate::support::Room;

const CONFIG: &str = r#"
[model]
path = "builtin-llama"
task = "causal-lm"
[data]
path = "data"
partition = { kind = "iid" }
[clients]
count = 2
[adapter]
rank = 2
[train]
rounds = 1
[strategy]
name = "fedit"
"#;

const TRAIN: [&str; 5] = ["train", "run.toml", "--quiet", "--out", "run"];

/// A room with a split of twelve rows each.
fn room(row: &str) -> Room {
    let room = Room::new();
    room.write("run.toml", CONFIG);
    fs::create_dir(room.path("data")).expect("made");
    let rows: String = (0..12).map(|at| format!("{}\n", row.replace('#', &at.to_string()))).collect();
    ["data/train.jsonl", "data/test.jsonl"].iter().for_each(|name| room.write(name, &rows));
    room
}

#[test]
fn prompts_and_responses_train_and_are_counted() {
    let room = room(r#"{"prompt": "book number #\nintent:", "response": " renew loan", "who": "w#"}"#);
    let said = room.succeed(&["train", "run.toml", "--out", "run", "--set", "data.max_length=12"]);
    assert!(
        said.out.contains("12 training and 12 test texts, ") && said.out.contains("of them scored"),
        "{}",
        said.out
    );
    assert_eq!(room.rounds("run").len(), 1);
    let cut = room.succeed(&["train", "run.toml", "--out", "cut", "--set", "data.max_length=5"]);
    let notice = "note: 24 of 24 texts are longer than data.max_length = 5 tokens and are cut";
    assert_eq!(cut.err.matches(notice).count(), 1, "{}", cut.err);
    let said = room.succeed(&["partition", "run.toml", "--no-svg"]);
    assert!(said.out.contains("2 clients, 12 training texts: 6 a client\n"), "{}", said.out);
    room.succeed(&["partition", "run.toml"]);
}

#[test]
fn a_prompt_that_ends_in_a_blank_is_told_of() {
    let said = |row| room(row).succeed(&["train", "run.toml", "--out", "run"]).err;
    let words = "prompts are other tokens alone than in front of their responses";
    let joined = said(r#"{"prompt": "book number #\nintent: ", "response": "renew loan"}"#);
    assert!(joined.contains(words) && joined.contains("12 of the first 12"), "{joined}");
    let apart = said(r#"{"prompt": "book number #\nintent:", "response": " renew loan"}"#);
    assert!(!apart.contains(words), "{apart}");
}

#[test]
fn columns_can_be_named() {
    let room = room(r#"{"question": "book #", "answer": "renew"}"#);
    let wording = ["--set", "data.prompt=\"Q: {question}\\nA:\"", "--set", "data.response=\" {answer}\""];
    room.succeed(&[&TRAIN[..], &wording].concat());
    assert!(room.read("run/config.toml").contains("{question}"));
    let template = room.json("run/summary.json")["prompt_template"].clone();
    assert_eq!(template.as_str(), Some("Q: {question}\nA: {answer}"));
    room.refuse(1, &["train.jsonl:1", "question"], &[&TRAIN[..2], &["--out", "other"]].concat());
    room.refuse(2, &["`data.response` is not set, but data.prompt is"], &[&TRAIN[..], &wording[..2]].concat());
    let wrong =
        [&TRAIN[..2], &["--out", "other", "--set", "data.prompt=\"{x\"", "--set", "data.response=\"{answer}\""]]
            .concat();
    room.refuse(2, &["no partner", "--set data.prompt"], &wrong);
    let classes = [&TRAIN[..2], &["--out", "other", "--set", "model.task=classification"], &wording].concat();
    room.refuse(2, &["is for causal language models"], &classes);
}

#[test]
fn partitions_by_label_need_labels() {
    let room = room(r#"{"text": "book number #"}"#);
    let dirichlet = ["--set", "data.partition={ kind = \"dirichlet\", alpha = 1.0 }"];
    room.refuse(2, &["goes by labels", "use iid, natural or file"], &[&TRAIN[..], &dirichlet].concat());
    room.refuse(2, &["have no labels"], &[&TRAIN[..], &["--set", "data.labels=2"]].concat());
    room.refuse(
        2,
        &["\"who\"", "data.partition.column names a column"],
        &[&TRAIN[..], &["--set", "data.partition={ kind = \"natural\", column = \"who\" }"]].concat(),
    );
}

#[test]
fn special_tokens_that_are_missing_are_named() {
    let room = room(r#"{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}"#);
    room.refuse(1, &["no chat_template", "`prompt` and `response`"], &TRAIN);
    let from = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/assets/tiny-llama");
    fs::create_dir(room.path("model")).expect("made");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(from.join(name), room.path("model").join(name)).expect("copied");
    }
    let model = ["--set", "model.path=model"];
    room.write("model/tokenizer_config.json", r#"{"eos_token": "<|im_end|>"}"#);
    room.refuse(1, &["tokenizer_config.json", "`eos_token` is \"<|im_end|>\""], &[&TRAIN[..], &model].concat());
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\\n{% endfor %}";
    room.write("model/tokenizer_config.json", &format!(r#"{{"eos_token": "</s>", "chat_template": "{template}"}}"#));
    room.succeed(&[&TRAIN[..], &model].concat());
}

#[test]
fn a_language_model_says_what_it_learnt() {
    let room = Room::new();
    room.write("run.toml", &CONFIG.replace("\"data\"", "\"builtin\"\nlabels = 2").replace("rounds = 1", "rounds = 4"));
    let said = room.succeed(&["train", "run.toml", "--out", "run", "--set", "train.lr_a=1e-2"]);
    assert!(said.out.contains("test perplexity") && said.out.contains("memory      about"), "{}", said.out);
    assert!(said.out.contains("prompts     {text}\\nintent: {intent}\n"), "{}", said.out);
    let summary = room.json("run/summary.json");
    assert_eq!(summary["prompt_template"].as_str(), Some("{text}\nintent: {intent}"));
    assert!(summary["final_perplexity"].as_f64().is_some_and(|p| p < 50.0), "{summary}");
    let said = room.succeed(&["evaluate", "run"]);
    assert!(said.out.contains("perplexity") && said.out.contains("exact match"), "{}", said.out);

    let generate = |more: &[&str]| room.succeed(&[&["generate", "run", "--prompt", "The library"], more].concat()).out;
    let first = generate(&["--max-tokens", "12"]);
    assert!(!first.trim().is_empty());
    assert_eq!(first, generate(&["--max-tokens", "12"]));
    let drawn = |seed| generate(&["--max-tokens", "30", "--temperature", "1.5", "--seed", seed]);
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));

    // A stop text ends before itself; rows are the prompts that were trained on, answered one by one as alone.
    let (start, _) = first.trim_end().split_at(first.trim_end().len() / 2);
    let stop = &first.trim_end()[start.len()..];
    let cut = generate(&["--max-tokens", "12", "--stop", stop]);
    assert_eq!(cut.trim_end_matches('\n'), &first[..first.find(stop).expect("there")]);
    room.write("rows.jsonl", "{\"prompt\": \"The library\"}\n{\"prompt\": \"My card\", \"response\": \"not read\"}\n");
    let said = room.succeed(&["generate", "run", "--rows", "rows.jsonl", "--base", "--json", "--max-tokens", "12"]).out;
    let rows: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["text"].as_str().map(str::trim_end), Some(first.trim_end()));
    assert!(rows[1]["prompt"].as_str().is_some_and(|prompt| prompt.contains("My card")), "{said}");
    assert_ne!(rows[0]["text"], rows[0]["untrained"], "four rounds have changed it");
    let alone = room.succeed(&["generate", "run", "--prompt", "My card", "--max-tokens", "12"]).out;
    assert_eq!(rows[1]["text"].as_str().map(str::trim_end), Some(alone.trim_end()), "side by side as alone");
    let both =
        room.succeed(&["generate", "run", "--prompt", "The library", "--prompt", "My card", "--max-tokens", "12"]);
    for words in ["--- prompt 0\nThe library", "--- prompt 1\nMy card", first.trim_end(), alone.trim_end()] {
        assert!(both.out.contains(words), "no {words:?} in {}", both.out);
    }
    let said = room.succeed(&["generate", "run", "--prompt", "My card", "--base", "--max-tokens", "4"]).out;
    for words in ["--- prompt 0\nMy card", "--- untrained", "--- trained"] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    // No row of this run had an instruction.
    let instruction = ["generate", "run", "--instruction", "Renew", "--input", "it"];
    room.refuse(2, &["no prompts with an instruction", "{text}\\nintent: {intent}"], &instruction);
    assert_eq!(drawn("1"), generate(&["--max-tokens", "30", "--temperature", "1.5", "--seed", "1", "--top-p", "1"]));
    let narrow = generate(&["--max-tokens", "12", "--temperature", "1.5", "--top-p", "0.000001"]);
    assert_eq!(narrow, first, "a nucleus of one token is the likeliest");
    room.write("odd.jsonl", "{\"colour\": \"red\"}\n");
    room.refuse(1, &["odd.jsonl:1", "colour", "`prompt`"], &["generate", "run", "--rows", "odd.jsonl"]);
    room.refuse(2, &["none.jsonl: there is no such file"], &["generate", "run", "--rows", "none.jsonl"]);
    room.refuse(2, &["above 0"], &["generate", "run", "--prompt", "x", "--top-p", "0"]);
    room.refuse(2, &["gives no labels", "bonfire generate"], &["predict", "run", "--text", "x"]);

    let long = "book ".repeat(400);
    room.refuse(2, &["this model reads 1 to 255"], &["generate", "run", "--prompt", &long]);
    room.refuse(1, &["chat_template"], &["generate", "run", "--prompt", "Hello", "--chat"]);
    room.refuse(2, &["not negative"], &["generate", "run", "--prompt", "Hello", "--temperature=-1"]);
}

#[test]
fn one_client_that_does_not_fit_is_refused_with_the_numbers() {
    let room = room(r#"{"text": "a book about # gardens"}"#);
    let words = ["too little memory for one client", "the backbone takes about", "engine.recompute"];
    room.refuse(1, &words, &["train", "run.toml", "--out", "run", "--set", "engine.memory_gb=0.001"]);
    assert!(!room.path("run").exists(), "nothing is left behind");
    room.succeed(&[&TRAIN[..], &["--set", "engine.memory_gb=0.001", "--set", "engine.in_flight=1"]].concat());
}

#[test]
fn encoders_do_not_foretell_and_classifiers_do_not_generate() {
    let room = room(r#"{"text": "a book about # gardens"}"#);
    let encoder = ["train", "run.toml", "--out", "run", "--set", "model.path=builtin"];
    room.refuse(1, &["a roberta encoder cannot foretell tokens"], &encoder);
    room.refuse(
        2,
        &["must be \"none\"", "full", "--set engine.recompute"],
        &["train", "run.toml", "--set", "strategy.name=full", "--set", "engine.recompute=block"],
    );
}

#[test]
fn an_instruction_is_put_as_it_was_learnt() {
    let room = room(r##"{"instruction": "name book #", "output": " renew"}"##);
    room.succeed(&TRAIN);
    let said = room
        .succeed(&["generate", "run", "--instruction", "Renew", "--input", "it", "--base", "--max-tokens", "4"])
        .out;
    for words in ["### Instruction:\nRenew\n\n### Input:\nit\n\n### Response:", "--- untrained", "--- trained"] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
}
