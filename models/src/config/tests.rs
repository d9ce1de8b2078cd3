//! Readings of configurations.

use super::*;

#[test]
fn roberta_base_has_the_papers_counts() {
    let json = br#"{"model_type":"roberta","hidden_size":768,"num_hidden_layers":12,"num_attention_heads":12,
        "intermediate_size":3072,"vocab_size":50265,"max_position_embeddings":514,"type_vocab_size":1,"pad_token_id":1}"#;
    let info = ModelInfo::parse(json, "config.json").expect("valid");
    assert_eq!(info.backbone_params(), 124_055_040);
    assert_eq!(info.max_tokens(), 512);
    let targets = info.targets(&TargetKind::all());
    assert_eq!(targets.len(), 72);
    assert_eq!(targets.iter().map(|t| t.d_out).sum::<usize>(), 82_944);
    assert_eq!(targets.iter().map(|t| t.d_in).sum::<usize>(), 82_944);
}

#[test]
fn wrong_configurations_say_why() {
    let refusal = |json: &str| ModelInfo::parse(json.as_bytes(), "config.json").expect_err("wrong").to_string();
    assert!(refusal("{").contains("config.json"));
    assert!(refusal(r#"{"model_type":"bert"}"#).contains("hidden_size"));
    let full = r#"{"model_type":"gpt2","hidden_size":8,"num_hidden_layers":1,"num_attention_heads":2,"intermediate_size":8,"vocab_size":9,"max_position_embeddings":9}"#;
    assert!(refusal(full).contains("gpt2"));
    assert!(
        refusal(&full.replace("gpt2", "bert").replace("\"num_attention_heads\":2", "\"num_attention_heads\":3"))
            .contains("multiple")
    );
}

/// The shape of TinyLlama-1.1B.
const TINYLLAMA: &str = r#"{"model_type":"llama","hidden_size":2048,"num_hidden_layers":22,"num_attention_heads":32,
    "num_key_value_heads":4,"intermediate_size":5632,"vocab_size":32000,"max_position_embeddings":2048,
    "rms_norm_eps":1e-5,"tie_word_embeddings":false,"eos_token_id":2}"#;

#[test]
fn tinyllama_has_its_published_size() {
    let info = ModelInfo::parse(TINYLLAMA.as_bytes(), "config.json").expect("valid");
    assert_eq!(info.backbone_params(), 1_100_048_384);
    let targets = info.targets(&TargetKind::all());
    assert_eq!(targets.len(), 22 * 7);
    assert_eq!((targets[1].name.as_str(), targets[1].d_out), ("model.layers.0.self_attn.k_proj", 256));
}

#[test]
fn features_of_decoders_that_we_lack_are_named() {
    let refusal = |extra: &str| {
        let json = TINYLLAMA.replacen('{', &format!("{{{extra},"), 1);
        ModelInfo::parse(json.as_bytes(), "config.json").expect_err("wrong").to_string()
    };
    assert!(refusal(r#""rope_scaling":{"rope_type":"yarn","factor":4.0}"#).contains("yarn"));
    assert!(refusal(r#""rope_scaling":{"rope_type":"llama3","factor":8.0}"#).contains("low_freq_factor"));
    assert!(refusal(r#""hidden_act":"gelu_pytorch_tanh""#).contains("gelu_pytorch_tanh"));
    assert!(refusal(r#""quantization_config":{"bits":4}"#).contains("quantization_config"));
    assert!(refusal(r#""head_dim":63"#).contains("pairs"));
}
