//! `config.json` of encoders: what we compute, and which features we refuse by name.

use serde::Deserialize;
use serde_json::Value;

use super::attention::{LayerAttention, local_layers, two_ropes};
use super::{Activation, Architecture, Biases, ModelInfo, Pooling, sizes};

#[derive(Deserialize)]
struct Raw {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "one")]
    type_vocab_size: usize,
    pad_token_id: Option<usize>,
    #[serde(default = "default_eps")]
    layer_norm_eps: f64,
    #[serde(default = "default_range")]
    initializer_range: f64,
    #[serde(default = "gelu")]
    hidden_act: String,
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
    #[serde(default)]
    add_cross_attention: bool,
    relative_attention_num_buckets: Option<usize>,
}

fn one() -> usize {
    1
}
fn default_eps() -> f64 {
    1e-12
}
fn default_range() -> f64 {
    0.02
}
fn gelu() -> String {
    "gelu".into()
}

/// Rows of MPNet's table of distances: its code reads no other number.
const BUCKETS: usize = 32;

/// Reads what is laid out as BERT's is.
pub(super) fn parse(json: &[u8], architecture: Architecture) -> Result<ModelInfo, String> {
    let raw: Raw = serde_json::from_slice(json).map_err(|e| format!("not a model configuration: {e}"))?;
    for (key, value) in [("is_decoder", raw.is_decoder), ("add_cross_attention", raw.add_cross_attention)] {
        if value {
            return Err(format!("{key} is true; {} can be used as an encoder alone", architecture.name()));
        }
    }
    if raw.relative_attention_num_buckets.is_some_and(|n| n != BUCKETS) {
        return Err(format!(
            "relative_attention_num_buckets is not {BUCKETS}, the only number that MPNet computes with"
        ));
    }
    encoder(raw, architecture)
}

/// DistilBERT's own names for the same.
#[derive(Deserialize)]
struct Distil {
    #[serde(alias = "hidden_size")]
    dim: Option<usize>,
    #[serde(alias = "num_hidden_layers")]
    n_layers: Option<usize>,
    #[serde(alias = "num_attention_heads")]
    n_heads: Option<usize>,
    #[serde(alias = "intermediate_size")]
    hidden_dim: Option<usize>,
    vocab_size: usize,
    #[serde(default = "positions")]
    max_position_embeddings: usize,
    #[serde(default = "default_range")]
    initializer_range: f64,
    #[serde(default = "gelu")]
    activation: String,
}

fn positions() -> usize {
    512
}

pub(super) fn parse_distilbert(json: &[u8]) -> Result<ModelInfo, String> {
    let wrong = |e: serde_json::Error| format!("not a model configuration: {e}");
    // Both names of a size may stand there, of which DistilBERT's own counts.
    let mut all: serde_json::Map<String, Value> = serde_json::from_slice(json).map_err(wrong)?;
    for (own, other) in [
        ("dim", "hidden_size"),
        ("n_layers", "num_hidden_layers"),
        ("n_heads", "num_attention_heads"),
        ("hidden_dim", "intermediate_size"),
    ] {
        if all.contains_key(own) {
            all.remove(other);
        }
    }
    let raw: Distil = serde_json::from_value(Value::Object(all)).map_err(wrong)?;
    let hidden_size = raw.dim.unwrap_or(768);
    let same = Raw {
        hidden_size,
        num_hidden_layers: raw.n_layers.unwrap_or(6),
        num_attention_heads: raw.n_heads.unwrap_or(12),
        intermediate_size: raw.hidden_dim.unwrap_or(3072),
        vocab_size: raw.vocab_size,
        max_position_embeddings: raw.max_position_embeddings,
        type_vocab_size: 1,
        pad_token_id: None,
        layer_norm_eps: 1e-12,
        initializer_range: raw.initializer_range,
        hidden_act: raw.activation,
        position_embedding_type: None,
        is_decoder: false,
        add_cross_attention: false,
        relative_attention_num_buckets: None,
    };
    encoder(same, Architecture::DistilBert)
}

fn encoder(raw: Raw, architecture: Architecture) -> Result<ModelInfo, String> {
    let embeddings = architecture.describe().embeddings;
    sizes(
        ("num_hidden_layers", raw.num_hidden_layers),
        &[
            ("vocab_size", raw.vocab_size),
            ("max_position_embeddings", raw.max_position_embeddings),
            ("type_vocab_size", raw.type_vocab_size),
        ],
        &[
            ("hidden_size", raw.hidden_size),
            ("num_attention_heads", raw.num_attention_heads),
            ("intermediate_size", raw.intermediate_size),
        ],
    )?;
    let head_width = head_width(raw.hidden_size, raw.num_attention_heads)?;
    if raw.hidden_act != "gelu" {
        return Err(format!("hidden_act is \"{}\"; only \"gelu\" is known for encoders", raw.hidden_act));
    }
    if let Some(kind) = raw.position_embedding_type.filter(|k| k != "absolute") {
        return Err(format!("position_embedding_type is \"{kind}\"; only \"absolute\" is known"));
    }
    let first_position = match architecture {
        Architecture::Bert | Architecture::DistilBert => 0,
        // Positions count from after the padding's id.
        _ => raw.pad_token_id.unwrap_or(1).saturating_add(1),
    };
    if raw.max_position_embeddings <= first_position {
        let positions = raw.max_position_embeddings;
        return Err(format!("max_position_embeddings {positions} leaves no position for a token"));
    }
    Ok(ModelInfo {
        architecture,
        hidden: raw.hidden_size,
        layers: raw.num_hidden_layers,
        heads: raw.num_attention_heads,
        kv_heads: raw.num_attention_heads,
        head_width,
        intermediate: raw.intermediate_size,
        vocab: raw.vocab_size,
        positions: raw.max_position_embeddings,
        token_types: if embeddings.token_types.is_some() { raw.type_vocab_size } else { 0 },
        first_position,
        eps: raw.layer_norm_eps,
        initializer_range: raw.initializer_range,
        activation: Activation::Gelu,
        biases: Biases::all(true),
        ropes: Vec::new(),
        layer_attentions: Vec::new(),
        query_width: head_width as f64,
        embedding_scale: 1.0,
        pooling: Pooling::Token,
        draws_pooler: false,
        distances: if embeddings.distances.is_some() { BUCKETS } else { 0 },
        decoder: None,
    })
}

fn head_width(hidden: usize, heads: usize) -> Result<usize, String> {
    if hidden.is_multiple_of(heads) {
        Ok(hidden / heads)
    } else {
        Err(format!("hidden_size {hidden} is not a multiple of num_attention_heads {heads}"))
    }
}

#[derive(Deserialize)]
struct Modern {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    #[serde(default = "many_positions")]
    max_position_embeddings: usize,
    #[serde(default = "modern_eps")]
    norm_eps: f64,
    #[serde(default)]
    norm_bias: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    classifier_bias: bool,
    #[serde(default = "gelu")]
    classifier_activation: String,
    #[serde(default = "cls")]
    classifier_pooling: String,
    #[serde(default = "gelu")]
    hidden_activation: String,
    #[serde(default = "default_range")]
    initializer_range: f64,
    #[serde(default = "window")]
    local_attention: usize,
    #[serde(default = "three")]
    global_attn_every_n_layers: usize,
    layer_types: Option<Vec<String>>,
    rope_parameters: Option<Value>,
    rope_scaling: Option<Value>,
    #[serde(default = "global_theta")]
    global_rope_theta: f64,
    #[serde(default = "local_theta")]
    local_rope_theta: f64,
}

fn many_positions() -> usize {
    8192
}
fn modern_eps() -> f64 {
    1e-5
}
fn cls() -> String {
    "cls".into()
}
fn window() -> usize {
    128
}
fn three() -> usize {
    3
}
fn global_theta() -> f64 {
    160_000.0
}
fn local_theta() -> f64 {
    10_000.0
}

pub(super) fn parse_modernbert(json: &[u8]) -> Result<ModelInfo, String> {
    let raw: Modern = serde_json::from_slice(json).map_err(|e| format!("not a model configuration: {e}"))?;
    sizes(
        ("num_hidden_layers", raw.num_hidden_layers),
        &[("vocab_size", raw.vocab_size), ("max_position_embeddings", raw.max_position_embeddings)],
        &[
            ("hidden_size", raw.hidden_size),
            ("num_attention_heads", raw.num_attention_heads),
            ("intermediate_size", raw.intermediate_size),
        ],
    )?;
    let head_width = head_width(raw.hidden_size, raw.num_attention_heads)?;
    super::decoder::check_heads(head_width, raw.max_position_embeddings)?;
    for (key, value) in
        [("hidden_activation", &raw.hidden_activation), ("classifier_activation", &raw.classifier_activation)]
    {
        if value != "gelu" {
            return Err(format!("{key} is \"{value}\"; only \"gelu\" is known for encoders"));
        }
    }
    for (key, value) in [("norm_bias", raw.norm_bias), ("classifier_bias", raw.classifier_bias)] {
        if value {
            return Err(format!("{key} is true; only ModernBERT without it is known"));
        }
    }
    let pooling = match raw.classifier_pooling.as_str() {
        "cls" => Pooling::Token,
        "mean" => Pooling::Mean,
        other => return Err(format!("classifier_pooling is \"{other}\"; \"cls\" and \"mean\" are known")),
    };
    let every = raw.global_attn_every_n_layers.max(1);
    let local = local_layers(raw.layer_types.as_deref(), raw.num_hidden_layers, |i| !i.is_multiple_of(every))?;
    // So far on either side, the token itself besides.
    let window = raw.local_attention / 2 + 1;
    let of_layer = |local: bool| LayerAttention { window: local.then_some(window), rope: Some(usize::from(local)) };
    let bases = [raw.global_rope_theta, raw.local_rope_theta];
    Ok(ModelInfo {
        architecture: Architecture::ModernBert,
        hidden: raw.hidden_size,
        layers: raw.num_hidden_layers,
        heads: raw.num_attention_heads,
        kv_heads: raw.num_attention_heads,
        head_width,
        intermediate: raw.intermediate_size,
        vocab: raw.vocab_size,
        positions: raw.max_position_embeddings,
        token_types: 0,
        first_position: 0,
        eps: raw.norm_eps,
        initializer_range: raw.initializer_range,
        activation: Activation::Gelu,
        biases: Biases { qkv: raw.attention_bias, output: raw.attention_bias, feed_forward: raw.mlp_bias },
        ropes: two_ropes(raw.rope_parameters.as_ref(), raw.rope_scaling.as_ref(), bases, true)?,
        layer_attentions: local.into_iter().map(of_layer).collect(),
        query_width: head_width as f64,
        embedding_scale: 1.0,
        pooling,
        draws_pooler: false,
        distances: 0,
        decoder: None,
    })
}
