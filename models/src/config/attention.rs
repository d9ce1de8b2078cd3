//! What differs in attention from layer to layer: sliding windows, and which rotary embedding gives the positions.

use serde_json::Value;

/// What one layer's attention sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerAttention {
    /// A token sees those less than so many tokens away; `None`: all.
    pub window: Option<usize>,
    /// Which of the model's rotary embeddings queries and keys get; `None`: none.
    pub rope: Option<usize>,
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
    /// Without scaling.
    pub fn plain(theta: f64) -> Rope {
        Rope { theta, scaling: RopeScaling::Default }
    }

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

/// The embedding that `scaling` describes (a `rope_scaling` of old, or `rope_parameters` as Transformers 5 writes them), where
/// it names no base with base `theta`.
pub(super) fn rope(scaling: &Value, theta: f64) -> Result<Rope, String> {
    let number = |key: &str| {
        let value = scaling[key].as_f64().filter(|v| v.is_finite() && *v > 0.0);
        value.ok_or_else(|| format!("the rope scaling's `{key}` must be a positive number"))
    };
    let theta = scaling["rope_theta"].as_f64().unwrap_or(theta);
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

/// A model's two embeddings, of layers that see all and of local ones, as Transformers 5 writes them (`rope_parameters` by
/// kind of layer) or as checkpoints before it did: bases `global` and `local`, and a scaling of the former alone or of both.
pub(super) fn two_ropes(
    parameters: Option<&Value>,
    scaling: Option<&Value>,
    [global, local]: [f64; 2],
    scales_both: bool,
) -> Result<Vec<Rope>, String> {
    let none = Value::Null;
    let parameters_of = |kind: &str| parameters.map_or(&none, |parameters| &parameters[kind]);
    let old = scaling.filter(|v| !v.is_null());
    let far = old.unwrap_or(parameters_of("full_attention"));
    let near = old.filter(|_| scales_both).unwrap_or(parameters_of("sliding_attention"));
    Ok(vec![rope(far, global)?, rope(near, local)?])
}

/// The kinds of layers that `layer_types` lists, true for local ones; else what `usual` says of each.
pub(super) fn local_layers(
    layer_types: Option<&[String]>,
    layers: usize,
    usual: impl Fn(usize) -> bool,
) -> Result<Vec<bool>, String> {
    let Some(types) = layer_types else { return Ok((0..layers).map(usual).collect()) };
    if types.len() != layers {
        return Err(format!("layer_types names {} layers, num_hidden_layers {layers}", types.len()));
    }
    let one = |kind: &String| match kind.as_str() {
        "full_attention" => Ok(false),
        "sliding_attention" => Ok(true),
        other => Err(format!("layer_types names \"{other}\"; \"full_attention\" and \"sliding_attention\" are known")),
    };
    types.iter().map(one).collect()
}
