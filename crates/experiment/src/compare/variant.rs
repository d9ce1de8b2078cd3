//! A strategy as `--strategies` names it: `NAME`, or `NAME:key=value:key=value`.

use std::str::FromStr;

use bonfire_federation::StrategySettings;

/// The strategies that are compared when none are named: each client alone and all rows in one place, between which a
/// federation is to lie; the paper's, RoLoRA, and FedIT with the learning rate that the paper gave to its own method alone.
/// Most of LoRA-A²'s gain on very skewed clients comes from that rate.
pub const DEFAULT_STRATEGIES: &str = "local,pooled,lora-a2,fedit,fedit:train.lr_b=5x,ffa-lora,rolora,flexlora";

/// A strategy and the settings that go with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// As given.
    pub text: String,
    /// The strategy's name.
    pub strategy: String,
    /// Keys with their section, and their values as text.
    pub keys: Vec<(String, String)>,
    /// How many of these, the last ones, a sweep varies with `--set`.
    pub(super) varied: usize,
}

/// Variants with commas between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variants(pub Vec<Variant>);

impl FromStr for Variants {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        split(text, ',').into_iter().map(|part| part.trim().parse()).collect::<Result<_, _>>().map(Variants)
    }
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("{what}; write NAME or NAME:key=value, such as fedit:train.lr_b=2.5e-3"));
        let mut parts = split(text, ':').into_iter();
        let strategy = parts.next().unwrap_or_default().trim();
        if strategy.is_empty() || strategy.contains('=') {
            return wrong(&format!("`{text}` names no strategy"));
        }
        let mut keys = Vec::new();
        for part in parts {
            match part.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
                Some((key, value)) if !key.is_empty() && !value.is_empty() => {
                    let key = if key.contains('.') { key.to_string() } else { format!("strategy.{key}") };
                    keys.push((key, value.to_string()));
                }
                _ => return wrong(&format!("`{part}` in `{text}` is not key=value")),
            }
        }
        Ok(Variant { text: text.to_string(), strategy: strategy.to_string(), keys, varied: 0 })
    }
}

/// Which of `variants` are federated forms of our own, in a sentence; `None`: none is.
pub fn our_forms(variants: &[Variant]) -> Option<String> {
    let ours = |v: &&Variant| StrategySettings::with_defaults(&v.strategy).is_some_and(|s| s.traits().our_form);
    let names: Vec<String> = variants.iter().filter(ours).map(Variant::label).collect();
    (!names.is_empty()).then(|| {
        format!(
            "Not published for federated LoRA; a federated form of our own (docs/methods.md): {}.",
            names.join(", ")
        )
    })
}

/// Keys that belong to the whole comparison, with what is said of them.
const SHARED: [(&str, &str); 6] = [
    ("strategy.name", "the name stands before the first colon"),
    ("train.seed", "the seeds are given by --seeds"),
    ("model.", "all cells share the model"),
    ("data.", "all cells share the data; partitions are given by --alphas"),
    ("engine.", "all cells share the device"),
    ("name.", "all cells share the name"),
];

/// Why a variant may not set a key; `None`: it may.
pub(super) fn shared_key(key: &str) -> Option<&'static str> {
    SHARED.iter().find(|(shared, _)| format!("{key}.").starts_with(shared)).map(|(_, reason)| *reason)
}

impl Variant {
    /// A strategy without keys.
    pub(super) fn plain(strategy: &str) -> Variant {
        Variant { text: strategy.to_string(), strategy: strategy.to_string(), keys: Vec::new(), varied: 0 }
    }

    /// The same with a key that a sweep varies.
    pub(super) fn varied(&self, key: &str, value: &str) -> Variant {
        let keys = self.keys.iter().cloned().chain([(key.to_string(), value.to_string())]).collect();
        let text = format!("{}:{key}={value}", self.text);
        Variant { text, strategy: self.strategy.clone(), keys, varied: self.varied + 1 }
    }

    /// Where each key was given.
    pub(super) fn origins(&self) -> impl Iterator<Item = String> + '_ {
        let given = self.keys.len() - self.varied;
        let of_strategy = self.text.clone();
        self.keys.iter().enumerate().map(move |(i, (key, value))| match i < given {
            true => format!("--strategies {of_strategy}"),
            false => format!("--set {key}={value}"),
        })
    }

    /// The name in tables and pictures: as given, with the learning-rate control spelled out.
    pub fn label(&self) -> String {
        let is_factor = |v: &str| v.strip_suffix('x').is_some_and(|n| n.parse::<f64>().is_ok());
        match self.keys.as_slice() {
            [(key, value)] if key == "train.lr_b" && is_factor(value) => format!("{} + {value} η_B", self.strategy),
            _ => self.text.clone(),
        }
    }

    /// The variant as part of a folder's name.
    pub fn slug(&self) -> String {
        let fit = |c: char| if c.is_ascii_alphanumeric() || "-_.+".contains(c) { c } else { '-' };
        let dashed: String = self.text.chars().map(fit).collect();
        dashed.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
    }

    /// The first key that a variant may not set, and why.
    pub fn shared_key(&self) -> Option<(&str, &'static str)> {
        self.keys.iter().find_map(|(key, _)| shared_key(key).map(|reason| (key.as_str(), reason)))
    }
}

/// Splits at `separator` outside of quotes and brackets.
pub(super) fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut quote) = (Vec::new(), 0, 0i32, None);
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth -= 1,
            (None, _) if c == separator && depth == 0 => {
                parts.push(&text[start..i]);
                start = i + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_names_with_keys() {
        let list: Variants = "lora-a2:norm=choosers:probe={ epochs = 1, reset = true }, fedit:train.lr_b=5x,ffa-lora"
            .parse()
            .expect("valid");
        let [first, second, third] = list.0.as_slice() else { panic!("{list:?}") };
        assert_eq!(first.strategy, "lora-a2");
        assert_eq!(first.keys[0], ("strategy.norm".to_string(), "choosers".to_string()));
        assert_eq!(first.keys[1].1, "{ epochs = 1, reset = true }");
        assert_eq!((second.label().as_str(), second.slug().as_str()), ("fedit + 5x η_B", "fedit-train.lr_b-5x"));
        assert_eq!((third.label().as_str(), third.keys.len()), ("ffa-lora", 0));
    }

    #[test]
    fn other_keys_keep_the_text_as_label() {
        let variant: Variant = "fedit:train.lr_b=2.5e-3".parse().expect("valid");
        assert_eq!(variant.label(), "fedit:train.lr_b=2.5e-3");
    }

    #[test]
    fn what_is_not_a_variant_is_refused() {
        for text in ["", "fedit,", "norm=x", "fedit:norm", "fedit:=3", "fedit:norm="] {
            assert!(text.parse::<Variants>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_all_cells_share_is_no_variants_business() {
        let shared = |text: &str| text.parse::<Variant>().expect("valid").shared_key().map(|(key, _)| key.to_string());
        assert_eq!(shared("fedit:train.seed=3").as_deref(), Some("train.seed"));
        assert_eq!(shared("fedit:data.labels=3").as_deref(), Some("data.labels"));
        assert_eq!(shared("fedit:name=x").as_deref(), Some("strategy.name"));
        assert_eq!(shared("fedit:adapter.head=frozen:train.lr_b=1e-3"), None);
    }

    #[test]
    fn the_default_holds_the_learning_rate_control() {
        let labels: Vec<String> =
            DEFAULT_STRATEGIES.parse::<Variants>().expect("valid").0.iter().map(Variant::label).collect();
        assert_eq!(labels, ["local", "pooled", "lora-a2", "fedit", "fedit + 5x η_B", "ffa-lora", "rolora", "flexlora"]);
    }
}
