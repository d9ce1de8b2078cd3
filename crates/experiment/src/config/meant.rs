//! What other tools call things, and what that is here. Found by meaning: by letters `fedavg` is nearest to `fedask`.

/// Names of keys in PEFT, Transformers, Flower and scripts around them; the key here; what else there is to know. A name with a
/// section before it is meant there alone.
const KEYS: &[(&[&str], &str, &str)] = &[
    (
        &["lr", "learning_rate", "local_lr", "client_lr"],
        "train.lr_a",
        "the rate of the A factors; train.lr_b and train.lr_head are those of B and of the head",
    ),
    (&["server_lr"], "server.optimizer", "such as { name = \"fedavg\", lr = 1.0 }"),
    (&["num_rounds", "n_rounds", "num_server_rounds", "comm_rounds", "max_rounds"], "train.rounds", ""),
    (
        &["local_epochs", "num_epochs", "n_epochs", "num_train_epochs", "max_epochs"],
        "train.epochs",
        "local epochs of a round",
    ),
    (
        &["batch", "local_batch_size", "train_batch_size", "per_device_train_batch_size", "bs"],
        "train.batch_size",
        "of one client",
    ),
    (&["max_grad_norm", "grad_clip", "gradient_clip_val", "clip_grad_norm"], "train.clip_norm", ""),
    (&["lr_scheduler", "lr_scheduler_type", "scheduler"], "train.schedule", "within a round"),
    (&["warmup", "num_warmup_steps"], "train.warmup_steps", "of every round"),
    (
        &["optim", "client_optimizer", "local_optimizer", "optimizer_name"],
        "train.optimizer",
        "such as { name = \"sgd\", momentum = 0.9 }; left out: AdamW",
    ),
    (&["momentum", "sgd_momentum"], "train.optimizer", "{ name = \"sgd\", momentum = 0.9 }"),
    (&["nesterov"], "train.optimizer", "{ name = \"sgd\", momentum = 0.9, nesterov = true }"),
    (&["adam_beta1", "adam_beta2", "beta1", "beta2"], "train.betas", "both in one list: [0.9, 0.999]"),
    (&["adam_epsilon"], "train.eps", ""),
    (&["mu", "proximal_mu", "fedprox", "prox_mu"], "train.prox", "FedProx, with any strategy"),
    (&["early_stopping", "early_stopping_patience", "patience"], "train.stop", "such as { patience = 3 }"),
    (&["random_seed", "manual_seed"], "train.seed", ""),
    (&["r", "lora_r", "lora_rank", "lora.r", "lora.rank"], "adapter.rank", ""),
    (&["lora_alpha", "lora.alpha"], "adapter.alpha", "the scale is alpha / rank"),
    (
        &["target_modules", "lora_target_modules"],
        "adapter.targets",
        "by PEFT's names; \"all\": every linear of a layer",
    ),
    (&["modules_to_save"], "adapter.head", "\"trained\": the classifier's head is trained and sent"),
    (&["init_lora_weights"], "adapter.init", ""),
    (
        &["num_clients", "n_clients", "num_supernodes", "num_partitions", "clients.num", "clients.number"],
        "clients.count",
        "",
    ),
    (
        &[
            "fraction_fit",
            "fraction",
            "participation",
            "clients_per_round",
            "num_clients_per_round",
            "sample_clients",
            "min_fit_clients",
        ],
        "clients.per_round",
        "a number of clients, not a share",
    ),
    (
        &["model.name", "model_name", "model_name_or_path", "pretrained_model_name_or_path", "base_model", "backbone"],
        "model.path",
        "a folder, a GGUF file or hf:org/name",
    ),
    (
        &["task", "task_type"],
        "model.task",
        "\"classification\", \"multi-label\", \"regression\", \"token-classification\" or \"causal-lm\"",
    ),
    (
        &["data.name", "dataset", "dataset_name", "dataset_path", "data_dir", "data_path", "train_file"],
        "data.path",
        "a folder, a file of rows or hf:org/name",
    ),
    (&["max_len", "max_seq_len", "max_seq_length", "cutoff_len"], "data.max_length", "in tokens"),
    (&["text_column", "text_field", "dataset_text_field"], "data.text", ""),
    (&["label_column", "label_field"], "data.label", ""),
    (&["num_labels", "n_labels", "num_classes"], "data.labels", "keeps the first so many; left out: all"),
    (&["data.alpha", "dirichlet_alpha"], "data.partition", "{ kind = \"dirichlet\", alpha = 0.5 }"),
    (&["partitioner", "split_type"], "data.partition", "such as { kind = \"iid\" }"),
    (&["bf16", "fp16", "dtype", "torch_dtype", "mixed_precision"], "engine.precision", "\"f32\", \"tf32\" or \"bf16\""),
    (&["gradient_checkpointing"], "engine.recompute", "\"block\""),
    (&["eval_every", "eval_steps", "eval_strategy", "evaluation_strategy"], "evaluate.every", "in rounds"),
    (&["metric_for_best_model", "load_best_model_at_end"], "evaluate.best", "such as \"accuracy\""),
    (&["save_steps", "save_every", "save_strategy", "checkpoint_every"], "save.every", "in rounds"),
    (&["save_total_limit"], "save.keep", ""),
    (&["logging_steps", "log_interval", "log_every_n_steps"], "train.log_every", "in seconds"),
    (&["tensorboard", "report_to"], "track.tensorboard", "true or false; track.csv and track.wandb likewise"),
    (&["aggregator", "aggregation"], "server.aggregate", "such as { name = \"median\" }"),
    (&["noise_multiplier", "target_epsilon"], "privacy", "such as { kind = \"gaussian\", … }"),
];

/// Names of sections elsewhere.
const SECTIONS: &[(&[&str], &str)] = &[
    (&["lora", "peft", "lora_config"], "adapter"),
    (&["dataset", "datasets"], "data"),
    (&["federation", "federated", "fl", "client"], "clients"),
    (&["training", "trainer", "training_arguments", "optimizer", "optim", "local"], "train"),
    (&["method", "algorithm", "algo"], "strategy"),
    (&["dp", "differential_privacy"], "privacy"),
    (&["eval", "evaluation"], "evaluate"),
    (&["checkpoint", "checkpoints"], "save"),
    (&["logging", "wandb", "log"], "track"),
    (&["backbone", "base_model"], "model"),
    (&["hardware", "system"], "engine"),
];

/// Words that a key is given elsewhere, and what is meant.
const WORDS: &[(&str, &[&str], &str)] = &[
    (
        "strategy.name",
        &["fedavg", "fed-avg", "lora", "fedlora", "fed-lora", "fl-lora", "fedavg-lora", "avg", "default"],
        "FedAvg of the LoRA factors is \"fedit\"; FedAvg of all weights is \"full\"",
    ),
    ("strategy.name", &["fedprox", "prox"], "FedProx is a term of any strategy: \"fedit\" with train.prox = 0.01"),
    ("strategy.name", &["scaffold"], "SCAFFOLD goes with any strategy: \"fedit\" with train.scaffold = true"),
    (
        "strategy.name",
        &["fedadam", "fedyogi", "fedavgm", "fedopt", "fed-opt"],
        "the server's optimizer is a key of its own: \"fedit\" with server.optimizer = { name = \"fedadam\", lr = 0.01 }",
    ),
    (
        "strategy.name",
        &["krum", "multi-krum", "bulyan", "median", "fedmedian", "trimmed-mean", "fedtrimmedavg"],
        "robust averages are a key of their own: \"fedit\" with server.aggregate = { name = \"median\" }",
    ),
    (
        "strategy.name",
        &["centralized", "centralised", "central"],
        "training on all clients' texts in one place is \"pooled\"",
    ),
    ("strategy.name", &["standalone", "local-only", "none"], "every client for itself is \"local\""),
    ("strategy.name", &["full-finetuning", "full-fine-tuning", "finetune", "fft"], "FedAvg of all weights is \"full\""),
    ("strategy.name", &["lora-fa", "ffa", "freeze-a"], "LoRA with A frozen is \"ffa-lora\""),
    ("strategy.name", &["loraa2", "lora-a-2", "a2"], "LoRA-A² is \"lora-a2\""),
    (
        "model.task",
        &["clm", "lm", "sft", "llm", "language-modeling", "causal", "generation", "text-generation", "instruction"],
        "a language model's task is \"causal-lm\"",
    ),
    (
        "model.task",
        &["seq-cls", "seqcls", "classifier", "cls", "sequence-classification", "text-classification", "sentiment"],
        "a text's label is \"classification\"",
    ),
    (
        "model.task",
        &["ner", "pos", "token-cls", "tokens", "tagging", "chunking", "sequence-labeling", "sequence-tagging"],
        "a tag for every word is \"token-classification\"",
    ),
    (
        "model.task",
        &["multi-label-classification", "multilabel", "multi-label-cls", "multilabel-classification"],
        "any number of labels of a text is \"multi-label\"",
    ),
    ("engine.precision", &["fp32", "float32", "float"], "32 bits are \"f32\""),
    ("engine.precision", &["bfloat16", "mixed"], "that is \"bf16\""),
    (
        "engine.precision",
        &["fp16", "float16", "half", "f16"],
        "float16 is not trained in; 16 bits are \"bf16\", on devices that compute in it",
    ),
    (
        "data.partition.kind",
        &["non-iid", "noniid", "label-skew", "lda", "label-dirichlet"],
        "a skew of labels is kind = \"dirichlet\" with alpha = 0.5, or \"pathological\" with classes = 2",
    ),
    ("data.partition.kind", &["uniform", "random", "homogeneous", "equal"], "an even split is kind = \"iid\""),
    ("server.optimizer.name", &["adam", "sgd", "yogi"], "\"fedadam\", \"fedyogi\", \"fedavgm\" or \"fedavg\""),
    ("train.optimizer.name", &["adamw-torch", "adamw-hf", "adamw-torch-fused", "adamw-8bit"], "that is \"adamw\""),
    ("train.optimizer.name", &["fedadam", "fedyogi", "fedavgm"], "those are the server's: server.optimizer"),
    ("train.schedule", &["none", "const"], "an even rate is \"constant\""),
];

/// What is said of a key that is called `name` elsewhere and was written in `[table]`: where it is here.
pub fn key_help(table: &str, name: &str) -> Option<String> {
    let (here, note) = key(table, name)?;
    let note = if note.is_empty() { String::new() } else { format!(": {note}") };
    Some(format!("`{name}` is `{here}` here{note}"))
}

/// The key here that is called `name` elsewhere, and what else there is to know.
pub fn key(table: &str, name: &str) -> Option<(&'static str, &'static str)> {
    let name = name.to_lowercase().replace('-', "_");
    let scoped = format!("{table}.{name}");
    let of =
        |wanted: &str| KEYS.iter().find(|(names, ..)| names.contains(&wanted)).map(|(_, here, note)| (*here, *note));
    of(&scoped).or_else(|| of(&name))
}

/// The section here that is called `name` elsewhere.
pub fn section(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase().replace('-', "_");
    SECTIONS.iter().find(|(names, _)| names.contains(&name.as_str())).map(|(_, here)| *here)
}

/// What is meant by `word` as the value of `key`.
pub fn word(key: &str, word: &str) -> Option<&'static str> {
    let word = word.to_lowercase().replace(['_', ' ', '+'], "-");
    WORDS.iter().find(|(of, words, _)| *of == key && words.contains(&word.as_str())).map(|(.., meant)| *meant)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::schema::{choices, properties, schema};
    use super::*;

    fn find<'s>(schema: &'s Value, key: &str) -> Option<&'s Value> {
        key.split('.').try_fold(schema, |at, part| {
            let own = properties(at).into_iter().find(|(name, _)| *name == part).map(|(_, inner)| inner);
            own.or_else(|| choices(at).iter().find(|one| one.tag == part).map(|one| one.schema))
        })
    }

    #[test]
    fn every_key_that_is_named_is_there_and_no_key_is_renamed() {
        let schema = schema();
        for (names, here, _) in KEYS {
            assert!(find(&schema, here).is_some(), "{here}");
            let section = here.split('.').next().expect("a section");
            for name in *names {
                let own = if name.contains('.') { (*name).to_string() } else { format!("{section}.{name}") };
                assert!(own == *here || find(&schema, &own).is_none(), "{own} is a key of its own");
            }
        }
        for (names, here) in SECTIONS {
            assert!(find(&schema, here).is_some(), "{here}");
            assert!(names.iter().all(|name| find(&schema, name).is_none()), "{names:?}");
        }
        assert!(WORDS.iter().all(|(key, ..)| find(&schema, key).is_some()));
    }

    #[test]
    fn words_that_are_right_are_not_corrected() {
        for (of, words, _) in WORDS {
            for one in *words {
                let set = format!("{of}=\"{one}\"");
                let refused = crate::config::load(None, std::slice::from_ref(&set)).is_err();
                assert!(refused, "{set} is a word of its own");
            }
        }
    }

    #[test]
    fn meaning_goes_before_letters() {
        assert_eq!(key("train", "lr").map(|(here, _)| here), Some("train.lr_a"));
        assert_eq!(key("model", "name").map(|(here, _)| here), Some("model.path"));
        assert_eq!(key("train", "name"), None);
        assert_eq!(key("", "target-modules").map(|(here, _)| here), Some("adapter.targets"));
        assert!(word("strategy.name", "FedAvg").is_some_and(|meant| meant.contains("\"fedit\"")));
        assert_eq!(word("model.task", "fedavg"), None);
    }
}
