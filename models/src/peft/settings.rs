//! What `adapter_config.json` says that bears on the numbers: rank and scale of every module, by PEFT's own rules.

use std::marker::PhantomData;
use std::path::Path;

use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::{CONFIG, methods, problem};
use crate::ModelError;

/// `adapter_config.json`, as far as its numbers go; what else changes them is refused in `methods.rs`.
#[derive(Deserialize)]
struct Raw {
    peft_type: Option<String>,
    r: Option<u64>,
    lora_alpha: Option<f64>,
    #[serde(default)]
    use_rslora: Option<bool>,
    modules_to_save: Option<Vec<String>>,
    rank_pattern: Option<Pairs<u64>>,
    alpha_pattern: Option<Pairs<f64>>,
}

/// An object's entries in the order of the file: the first pattern that matches wins.
struct Pairs<T>(Vec<(String, T)>);

impl<'d, T: Deserialize<'d>> Deserialize<'d> for Pairs<T> {
    fn deserialize<D: Deserializer<'d>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(PairsVisitor(PhantomData))
    }
}

struct PairsVisitor<T>(PhantomData<T>);

impl<'d, T: Deserialize<'d>> Visitor<'d> for PairsVisitor<T> {
    type Value = Pairs<T>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of patterns and numbers")
    }

    fn visit_map<A: MapAccess<'d>>(self, mut map: A) -> Result<Pairs<T>, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Pairs(pairs))
    }
}

/// Numbers by module: a default, and exceptions by pattern.
struct ByModule<T> {
    usual: T,
    patterns: Vec<(Regex, T)>,
}

impl<T: Copy> ByModule<T> {
    fn of(&self, module: &str) -> T {
        self.patterns.iter().find(|(key, _)| key.is_match(module)).map_or(self.usual, |(_, value)| *value)
    }
}

/// Ranks and scales of an adapter's modules.
pub(super) struct Settings {
    ranks: ByModule<u64>,
    alphas: ByModule<f64>,
    rslora: bool,
}

impl Settings {
    /// Reads the text of `adapter_config.json` in `dir`; `head` are the modules that a model's head is made of.
    ///
    /// # Errors
    /// Another kind of adapter than plain LoRA, numbers that cannot be, a pattern that is no regular expression.
    pub fn parse(dir: &Path, json: &[u8], head: &[String]) -> Result<Settings, ModelError> {
        let bad = |text: String| problem(dir, format!("{CONFIG}: {text}"));
        let raw: Raw = serde_json::from_slice(json).map_err(|e| bad(format!("not an adapter's configuration: {e}")))?;
        if raw.peft_type.as_deref() != Some("LORA") {
            let kind = raw.peft_type.map_or("missing".into(), |kind| format!("\"{kind}\""));
            return Err(bad(format!("peft_type is {kind}; only adapters of type \"LORA\" can be read")));
        }
        methods::refuse(json).map_err(bad)?;
        // A whole module that is part of the head, by its path or the end of one, as PEFT looks for it.
        let of_head = |module: &String| head.iter().any(|h| h == module || h.ends_with(&format!(".{module}")));
        let saved = raw.modules_to_save.unwrap_or_default();
        if let Some(module) = saved.iter().find(|m| !of_head(m) && !["classifier", "score"].contains(&m.as_str())) {
            return Err(bad(format!(
                "modules_to_save names {module}; besides the adapter only a head ({}) can be read: {}",
                if head.is_empty() { "which a language model has not".into() } else { head.join(", ") },
                methods::MERGE
            )));
        }
        let patterns = |ranks: Option<Pairs<u64>>| ranks.map_or(Vec::new(), |pairs| pairs.0);
        let ranks = patterns(raw.rank_pattern);
        let usual = raw.r.ok_or_else(|| bad("r must be a whole number from 1".into()))?;
        if std::iter::once(&usual).chain(ranks.iter().map(|(_, r)| r)).any(|r| !(1..=65_536).contains(r)) {
            return Err(bad("r must be a whole number from 1 to 65536, in rank_pattern too".into()));
        }
        let alphas = raw.alpha_pattern.map_or(Vec::new(), |pairs| pairs.0);
        let alpha = raw.lora_alpha.ok_or_else(|| bad("lora_alpha must be a number".into()))?;
        if !std::iter::once(&alpha).chain(alphas.iter().map(|(_, a)| a)).all(|a| a.is_finite() && *a > 0.0) {
            return Err(bad("lora_alpha must be a positive number, in alpha_pattern too".into()));
        }
        Ok(Settings {
            ranks: ByModule { usual, patterns: compile(ranks).map_err(bad)? },
            alphas: ByModule { usual: alpha, patterns: compile(alphas).map_err(bad)? },
            rslora: raw.use_rslora == Some(true),
        })
    }

    /// The rank of `module`, a path without `base_model.model.`.
    pub fn rank(&self, module: &str) -> usize {
        self.ranks.of(module) as usize
    }

    /// The factor before a module's product: `alpha / r`, or `alpha / √r` (rank-stabilised LoRA, arXiv 2312.03732).
    pub fn scale(&self, module: &str) -> f64 {
        let (rank, alpha) = (self.ranks.of(module) as f64, self.alphas.of(module));
        if self.rslora { alpha / rank.sqrt() } else { alpha / rank }
    }

    /// The alpha of an adapter of one rank and one scale, as it stands in the file where it can.
    pub fn alpha(&self, scale: f64, rank: usize) -> f64 {
        let plain = self.ranks.usual == rank as u64 && !self.rslora;
        if plain && same(scale, self.alphas.usual / rank as f64) { self.alphas.usual } else { scale * rank as f64 }
    }
}

/// Whether two scales are the same number but for the last digits of a division.
pub(super) fn same(x: f64, y: f64) -> bool {
    (x - y).abs() <= 1e-12 * x.abs().max(y.abs())
}

/// Bytes that one compiled pattern may take, and how many patterns there may be: no file is worth gigabytes of automata.
const PATTERN_BYTES: usize = 1 << 18;
const MOST_PATTERNS: usize = 4096;

/// PEFT's rule: a key matches a whole path, or the end of one after a dot.
fn compile<T>(pairs: Vec<(String, T)>) -> Result<Vec<(Regex, T)>, String> {
    if pairs.len() > MOST_PATTERNS {
        return Err(format!("{} patterns; at most {MOST_PATTERNS} can be read", pairs.len()));
    }
    let limited = |key: &str| RegexBuilder::new(&format!(r"^(.*\.)?({key})$")).size_limit(PATTERN_BYTES).build();
    let one = |(key, value): (String, T)| match limited(&key) {
        Ok(regex) => Ok((regex, value)),
        Err(_) => Err(format!("the pattern {key:?} is no regular expression that can be read")),
    };
    pairs.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: &str) -> Result<Settings, String> {
        Settings::parse(Path::new("dir"), json.as_bytes(), &["classifier".into(), "bert.pooler.dense".into()])
            .map_err(|e| e.to_string())
    }

    #[test]
    fn the_first_pattern_that_matches_wins() {
        let it = settings(
            r#"{"peft_type":"LORA","r":8,"lora_alpha":16,
            "rank_pattern":{"layers.1.mlp.up_proj":2,"up_proj":4,"^model.layers.\\d+.mlp.gate_proj":3,"q":5},
            "alpha_pattern":{"up_proj":2}}"#,
        )
        .expect("valid");
        assert_eq!(it.rank("model.layers.1.mlp.up_proj"), 2);
        assert_eq!(it.rank("model.layers.0.mlp.up_proj"), 4);
        assert_eq!(it.rank("model.layers.12.mlp.gate_proj"), 3);
        assert_eq!(it.rank("base.model.layers.1.mlp.gate_proj"), 8, "anchored");
        assert_eq!(it.rank("model.layers.1.self_attn.q_proj"), 8, "whole names alone");
        assert_eq!(it.scale("model.layers.1.mlp.up_proj"), 1.0);
        assert_eq!(it.scale("model.layers.12.mlp.gate_proj"), 16.0 / 3.0);
        let rs = settings(r#"{"peft_type":"LORA","r":4,"lora_alpha":6,"use_rslora":true}"#).expect("valid");
        assert_eq!((rs.scale("x"), rs.alpha(3.0, 4)), (3.0, 12.0));
    }

    #[test]
    fn what_is_not_plain_lora_is_named() {
        let with = |more: &str| {
            let json = format!(r#"{{"peft_type":"LORA","r":4,"lora_alpha":8,{more}}}"#);
            settings(&json).err().expect("refused")
        };
        for (more, word) in [
            (r#""use_dora":true"#, "use_dora"),
            (r#""lora_bias":true"#, "lora_bias"),
            (r#""bias":"all""#, "\"all\""),
            (r#""modules_to_save":["score","lm_head"]"#, "lm_head"),
            (r#""init_lora_weights":"pissa_niter_4""#, "path_initial_model_for_weight_conversion"),
            (r#""alora_invocation_tokens":[1,2]"#, "alora_invocation_tokens"),
            (r#""rank_pattern":{"(":3}"#, "\"(\""),
            (r#""rank_pattern":{"q":0}"#, "rank_pattern"),
            (r#""alpha_pattern":{"q":-1}"#, "alpha_pattern"),
        ] {
            assert!(with(more).contains(word), "{}", with(more));
        }
        let plain = r#"{"peft_type":"LORA","r":4,"lora_alpha":8,"modules_to_save":["pooler.dense","classifier"],"bias":"none"}"#;
        settings(plain).expect("a pooler that belongs to the head");
        assert!(settings(r#"{"peft_type":"IA3"}"#).err().expect("refused").contains("peft_type"));
    }
}
