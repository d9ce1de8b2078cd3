//! `config.json` of LLaMA-style decoders: what we compute, and which features we refuse by name.

use serde::Deserialize;
use serde_json::Value;

use super::{Architecture, ModelInfo, sizes};

/// What a decoder has and an encoder lacks.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderInfo {
    /// Rotary position embedding.
    pub rope: Rope,
    /// Whether the output embeddings are the input embeddings.
    pub tied: bool,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the linear after attention has a bias.
    pub output_bias: bool,
    /// Whether the linears of the feed-forward block have biases.
    pub mlp_bias: bool,
    /// Tokens that end a text, the first of them the one that training appends; empty: `config.json` names none.
    pub eos: Vec<u32>,
}

/// Rotary position embedding (arXiv 2104.09864).
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the wavelengths.
    pub theta: f64,
    /// How wavelengths are stretched for long texts.
    pub scaling: RopeScaling,
}

/// How a model stretches its wavelengths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Long ones by a factor, short ones not, those between smoothly (Llama 3.1).
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above `original / low` are long.
        low: f64,
        /// Wavelengths below `original / high` are short.
        high: f64,
        /// Tokens the model was pretrained on.
        original: f64,
    },
}

impl Rope {
    /// Angle a position of each pair of features, `width / 2` of them.
    pub fn frequencies(&self, width: usize) -> Vec<f64> {
        (0..width / 2).map(|i| self.scaled(self.theta.powf(-(2.0 * i as f64) / width as f64))).collect()
    }

    fn scaled(&self, frequency: f64) -> f64 {
        match self.scaling {
            RopeScaling::Default => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 { factor, low, high, original } => {
                let turns = original * frequency / std::f64::consts::TAU;
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                frequency * (kept + (1.0 - kept) / factor)
            }
        }
    }
}

#[derive(Deserialize)]
struct Raw {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    intermediate_size: usize,
    vocab_size: usize,
    #[serde(default = "default_positions")]
    max_position_embeddings: usize,
    #[serde(default = "default_eps")]
    rms_norm_eps: f64,
    #[serde(default = "default_range")]
    initializer_range: f64,
    #[serde(default = "silu")]
    hidden_act: String,
    #[serde(default)]
    tie_word_embeddings: bool,
    attention_bias: Option<bool>,
    #[serde(default)]
    mlp_bias: bool,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    eos_token_id: Option<Value>,
    quantization_config: Option<Value>,
}

fn default_positions() -> usize {
    2048
}
fn default_eps() -> f64 {
    1e-6
}
fn default_range() -> f64 {
    0.02
}
fn silu() -> String {
    "silu".into()
}

/// Features of a head times positions: a table of cosines and one of sines of half as many, 4 bytes each. A million
/// positions of 128 features are half of it.
const MOST_ANGLES: usize = 1 << 28;

/// Reads a decoder's configuration; the inner error says what cannot be used.
pub(super) fn parse(json: &[u8], architecture: Architecture) -> Result<ModelInfo, String> {
    let raw: Raw = serde_json::from_slice(json).map_err(|e| format!("not a model configuration: {e}"))?;
    sizes(
        raw.num_hidden_layers,
        &[("vocab_size", raw.vocab_size), ("max_position_embeddings", raw.max_position_embeddings)],
        &[
            ("hidden_size", raw.hidden_size),
            ("num_attention_heads", raw.num_attention_heads),
            ("num_key_value_heads", raw.num_key_value_heads.unwrap_or(1)),
            ("head_dim", raw.head_dim.unwrap_or(1)),
            ("intermediate_size", raw.intermediate_size),
        ],
    )?;
    let heads = raw.num_attention_heads;
    let kv_heads = raw.num_key_value_heads.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        return Err(format!("num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"));
    }
    if raw.head_dim.is_none() && !raw.hidden_size.is_multiple_of(heads) {
        return Err(format!("hidden_size {} is not a multiple of num_attention_heads {heads}", raw.hidden_size));
    }
    let head_width = raw.head_dim.unwrap_or(raw.hidden_size / heads);
    if !head_width.is_multiple_of(2) {
        return Err(format!("heads of {head_width} features cannot be rotated in pairs"));
    }
    if head_width.saturating_mul(raw.max_position_embeddings) > MOST_ANGLES {
        let positions = raw.max_position_embeddings;
        return Err(format!(
            "heads of {head_width} features at {positions} positions need more angles than can be held"
        ));
    }
    if raw.hidden_act != "silu" {
        return Err(format!("hidden_act is \"{}\"; only \"silu\" is known for decoders", raw.hidden_act));
    }
    if raw.quantization_config.as_ref().is_some_and(|q| !q.is_null()) {
        return Err("quantization_config: the weights are quantized; use the model's f32, f16 or bf16 weights".into());
    }
    let qwen = architecture == Architecture::Qwen2;
    let window = match raw.use_sliding_window.unwrap_or(!qwen) {
        true => raw.sliding_window.unwrap_or(usize::MAX),
        false => usize::MAX,
    };
    let attention_bias = raw.attention_bias.unwrap_or(false);
    Ok(ModelInfo {
        architecture,
        hidden: raw.hidden_size,
        layers: raw.num_hidden_layers,
        heads,
        kv_heads,
        head_width,
        intermediate: raw.intermediate_size,
        vocab: raw.vocab_size,
        // Texts inside the window see all of themselves, and longer ones are not read.
        positions: raw.max_position_embeddings.min(window),
        token_types: 0,
        first_position: 0,
        eps: raw.rms_norm_eps,
        initializer_range: raw.initializer_range,
        decoder: Some(DecoderInfo {
            rope: rope(&raw)?,
            tied: raw.tie_word_embeddings,
            qkv_bias: qwen || attention_bias,
            output_bias: attention_bias && !qwen,
            mlp_bias: raw.mlp_bias,
            eos: eos(raw.eos_token_id.as_ref()),
        }),
    })
}

/// One id or a list of them.
fn eos(value: Option<&Value>) -> Vec<u32> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
        Some(one) => id(one).into_iter().collect(),
        None => Vec::new(),
    }
}

/// `rope_theta` and `rope_scaling`, or `rope_parameters` as Transformers 5 writes both.
fn rope(raw: &Raw) -> Result<Rope, String> {
    let written = [&raw.rope_parameters, &raw.rope_scaling].into_iter().flatten().find(|v| !v.is_null());
    let scaling = written.cloned().unwrap_or_default();
    let number = |key: &str| {
        let value = scaling[key].as_f64().filter(|v| v.is_finite() && *v > 0.0);
        value.ok_or_else(|| format!("the rope scaling's `{key}` must be a positive number"))
    };
    let theta = scaling["rope_theta"].as_f64().or(raw.rope_theta).unwrap_or(10_000.0);
    if !(theta.is_finite() && theta > 0.0) {
        return Err("rope_theta must be a positive number".into());
    }
    if scaling["partial_rotary_factor"].as_f64().is_some_and(|f| f != 1.0) {
        return Err("partial_rotary_factor is not 1; only heads that are rotated as a whole are known".into());
    }
    let kind = scaling["rope_type"].as_str().or(scaling["type"].as_str()).unwrap_or("default");
    let scaling = match kind {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: number("factor")? },
        "llama3" => {
            let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
            if low >= high {
                return Err("the rope scaling's low_freq_factor must be below its high_freq_factor".into());
            }
            let original = number("original_max_position_embeddings")?;
            RopeScaling::Llama3 { factor: number("factor")?, low, high, original }
        }
        other => {
            return Err(format!("rope scaling \"{other}\" is not known; \"default\", \"linear\" and \"llama3\" are"));
        }
    };
    Ok(Rope { theta, scaling })
}
