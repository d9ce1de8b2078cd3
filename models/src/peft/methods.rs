//! Keys of `adapter_config.json` by which an adapter is more than `W + s·B·A`, and what to do with it then.

use serde_json::{Map, Value};

use crate::Task;

/// What makes any adapter readable.
pub(super) const MERGE: &str = "merge it into its model (PEFT's merge_and_unload) and use the result as model.path";

/// Refuses an adapter of texts for a model of tokens, and the other way round: their heads may look alike.
///
/// # Errors
/// What the text of `adapter_config.json` says, in words.
pub(super) fn refuse_task(json: &[u8], task: Task) -> Result<(), String> {
    let config: Value = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let tags = matches!(task, Task::Tag(_));
    match config["task_type"].as_str() {
        Some("TOKEN_CLS") if !tags => {
            Err("task_type is \"TOKEN_CLS\": its head classifies tokens, and model.task says otherwise".into())
        }
        Some(of @ ("SEQ_CLS" | "CAUSAL_LM")) if tags => {
            Err(format!("task_type is \"{of}\": it is no classifier of tokens (\"TOKEN_CLS\"), as model.task says"))
        }
        _ => Ok(()),
    }
}

/// Keys that no number depends on once an adapter is trained, or that are read elsewhere.
const KNOWN: [&str; 28] = [
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "target_parameters",
    "task_type",
    "use_rslora",
    "velora_config",
];

/// Keys that change what an adapter computes when they are set, and how.
const REFUSED: [(&str, &str); 11] = [
    ("use_dora", "DoRA scales every row of the weight besides"),
    ("lora_bias", "lora_B has biases"),
    ("alora_invocation_tokens", "aLoRA acts from these tokens on alone"),
    ("arrow_config", "Arrow mixes several adapters"),
    ("kasa_config", "KaSA changes the weights below the adapter"),
    ("layer_replication", "the adapter belongs to a model with layers of its own making"),
    ("megatron_config", "the adapter belongs to Megatron's linears"),
    ("monteclora_config", "MonteCLoRA draws its factors"),
    ("trainable_token_indices", "rows of the embeddings were trained too"),
    ("use_bdlora", "BD-LoRA's factors are made of blocks"),
    ("use_qalora", "QA-LoRA pools its inputs"),
];

/// Ways to begin after which the weights below the adapter are no longer the model's.
const RESIDUAL: [(&str, &str); 5] =
    [("pissa", "PiSSA"), ("olora", "OLoRA"), ("corda", "CorDA"), ("loftq", "LoftQ"), ("lora_ga", "LoRA-GA")];

/// What PEFT's init_lora_weights may say where the weights below stay as they are.
const PLAIN: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

/// Refuses a configuration that is not plain LoRA's, in words that name the key.
pub(super) fn refuse(json: &[u8]) -> Result<(), String> {
    let map = object(json)?;
    for (key, why) in REFUSED {
        if map.get(key).is_some_and(|value| !is_off(value)) {
            return Err(format!("{key} is set: {why}, and only plain LoRA can be read; {MERGE}"));
        }
    }
    if let Some(bias) = map.get("bias").and_then(Value::as_str).filter(|bias| *bias != "none") {
        return Err(format!(
            "bias is \"{bias}\": the model's biases were trained too, and only \"none\" can be read; {MERGE}"
        ));
    }
    match map.get("init_lora_weights") {
        Some(Value::String(way)) => beginning(way),
        _ => Ok(()),
    }
}

fn beginning(way: &str) -> Result<(), String> {
    let small = way.to_lowercase();
    if let Some((_, name)) = RESIDUAL.iter().find(|(start, _)| small.starts_with(start)) {
        return Err(format!(
            "init_lora_weights is \"{way}\": {name} takes what the adapter began as out of the model's weights, so that it does \
             not belong to them as they are; save it as plain LoRA by \
             save_pretrained(…, path_initial_model_for_weight_conversion=…), or {MERGE}"
        ));
    }
    if PLAIN.contains(&small.as_str()) {
        Ok(())
    } else {
        Err(format!(
            "init_lora_weights is \"{way}\", which is not known, and may change the model's weights; if it does not, write true"
        ))
    }
}

/// Keys that are set and that nobody knows.
pub(super) fn unknown(json: &[u8]) -> Result<Vec<String>, String> {
    /// Settings of beginnings that are told by `init_lora_weights`.
    const BEGINNINGS: [&str; 3] = ["corda_config", "loftq_config", "lora_ga_config"];
    let known = |key: &str| {
        KNOWN.contains(&key) || BEGINNINGS.contains(&key) || REFUSED.iter().any(|(refused, _)| *refused == key)
    };
    let map = object(json)?;
    Ok(map.into_iter().filter(|(key, value)| !known(key) && !is_off(value)).map(|(key, _)| key).collect())
}

fn object(json: &[u8]) -> Result<Map<String, Value>, String> {
    serde_json::from_slice(json).map_err(|e| format!("not an adapter's configuration: {e}"))
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_that_change_the_model_are_refused_by_name() {
        let refusal = |way: &str| refuse(format!(r#"{{"init_lora_weights":{way}}}"#).as_bytes());
        for way in ["true", "false", "null", "\"gaussian\"", "\"eva\"", "\"orthogonal\""] {
            assert_eq!(refusal(way), Ok(()), "{way}");
        }
        for (way, name) in [("pissa", "PiSSA"), ("pissa_niter_16", "PiSSA"), ("OLoRA", "OLoRA"), ("corda", "CorDA")] {
            assert!(refusal(&format!("\"{way}\"")).expect_err("refused").contains(name), "{way}");
        }
        assert!(refusal("\"new\"").expect_err("refused").contains("not known"));
    }

    #[test]
    fn keys_that_nobody_knows_are_named_where_they_are_set() {
        let json = br#"{"r":4,"use_dora":false,"shiny":true,"dull":null,"empty":{},"loftq_config":{},"number":0}"#;
        assert_eq!(unknown(json).expect("an object"), ["number", "shiny"]);
    }
}
