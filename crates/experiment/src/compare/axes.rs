//! What a sweep varies: `--set KEY=VALUE,VALUE` becomes a variant of every strategy for each value.

use super::variant::{Variant, shared_key, split};
use crate::config;
use crate::user_error::UserError;
use std::path::Path;

/// A key with the values it is given in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Axis {
    key: String,
    values: Vec<String>,
    /// The `--set` as given.
    text: String,
}

/// The variants of a sweep, and the `--set` texts that hold for all of them.
pub struct Swept {
    /// Every strategy with every combination of values, in the order given: the last key's values are next to each other.
    pub variants: Vec<Variant>,
    /// The `--set` texts that name one value.
    pub sets: Vec<String>,
}

impl Swept {
    /// Of `strategies`, or of the configuration's own, over the configuration in `file` with these `--set` texts. Commas part
    /// values unless they are in quotes or brackets, so `adapter.targets=["query"],["query", "value"]` is two lists.
    ///
    /// # Errors
    /// A list with nothing between two commas, or the same value twice; a key that is given twice, or that all cells share; a
    /// configuration that cannot be.
    pub fn new(file: Option<&Path>, sets: &[String], strategies: Option<Vec<Variant>>) -> Result<Swept, UserError> {
        let (mut plain, mut axes) = (Vec::new(), Vec::<Axis>::new());
        for set in sets {
            match axis(set)? {
                None => plain.push(set.clone()),
                Some(axis) => {
                    if let Some(twin) = axes.iter().find(|other| other.key == axis.key) {
                        return Err(twice(&axis.key, &twin.text, &axis.text));
                    }
                    axes.push(axis);
                }
            }
        }
        for axis in &axes {
            let same = |set: &&String| set.split_once('=').is_some_and(|(key, _)| key.trim() == axis.key);
            if let Some(plain) = plain.iter().find(same) {
                return Err(twice(&axis.key, plain, &axis.text));
            }
        }
        let mut variants = match strategies {
            Some(strategies) => strategies,
            None => vec![Variant::plain(config::load(file, &plain)?.config.strategy.name())],
        };
        for axis in &axes {
            let own = |variant: &&Variant| variant.keys.iter().any(|(key, _)| *key == axis.key);
            if let Some(variant) = variants.iter().find(own) {
                let what = format!("the variant `{}` sets {}, which --set varies too", variant.text, axis.key);
                return Err(UserError::new(what)
                    .at(Some(format!("--set {}", axis.text)))
                    .help("leave one of them out"));
            }
            let all = |variant: Variant| axis.values.iter().map(move |value| variant.varied(&axis.key, value));
            variants = variants.into_iter().flat_map(all).collect();
        }
        Ok(Swept { variants, sets: plain })
    }
}

fn twice(key: &str, one: &str, other: &str) -> UserError {
    UserError::new(format!("{key} is given twice, by --set {one} and --set {other}"))
        .at(Some(format!("--set {other}")))
        .help(format!("give all its values at once: --set {key}=VALUE,VALUE"))
}

/// The values of a `--set` that has several; `None`: it has one, or is none at all, which reading the configuration will say.
fn axis(set: &str) -> Result<Option<Axis>, UserError> {
    let Some((key, value)) = set.split_once('=') else { return Ok(None) };
    let values: Vec<String> = split(value, ',').into_iter().map(|value| value.trim().to_string()).collect();
    if values.len() < 2 {
        return Ok(None);
    }
    let (key, wrong) = (key.trim().to_string(), |what: String| UserError::new(what).at(Some(format!("--set {set}"))));
    if values.iter().any(String::is_empty) {
        return Err(wrong(format!("{key} is given an empty value between commas"))
            .help(format!("write --set {key}=VALUE,VALUE; a text that holds a comma goes in quotes")));
    }
    if let Some((_, value)) = values.iter().enumerate().find(|(i, value)| values[..*i].contains(value)) {
        return Err(wrong(format!("{key} is given {value} twice")).help("give each value once"));
    }
    if let Some(why) = shared_key(&key) {
        let why = if key == "strategy.name" { "strategies are named by --strategies" } else { why };
        return Err(wrong(format!("a sweep cannot vary {key}: {why}"))
            .help("a value that is a list goes in brackets, one that holds a comma in quotes"));
    }
    Ok(Some(Axis { key, values, text: set.to_string() }))
}

#[cfg(test)]
mod tests {
    use super::super::variant::Variants;
    use super::*;

    fn swept(strategies: Option<&str>, sets: &[&str]) -> Result<Swept, UserError> {
        let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
        Swept::new(None, &sets, strategies.map(|text| text.parse::<Variants>().expect("valid").0))
    }

    fn texts(strategies: Option<&str>, sets: &[&str]) -> Vec<String> {
        swept(strategies, sets).expect("valid").variants.into_iter().map(|variant| variant.text).collect()
    }

    #[test]
    fn every_strategy_with_every_combination() {
        assert_eq!(
            texts(
                Some("fedit,ffa-lora:train.lr_b=5x"),
                &["train.lr_a=1e-4, 3e-4", "train.rounds=3", "adapter.rank=2,4"]
            ),
            [
                "fedit:train.lr_a=1e-4:adapter.rank=2",
                "fedit:train.lr_a=1e-4:adapter.rank=4",
                "fedit:train.lr_a=3e-4:adapter.rank=2",
                "fedit:train.lr_a=3e-4:adapter.rank=4",
                "ffa-lora:train.lr_b=5x:train.lr_a=1e-4:adapter.rank=2",
                "ffa-lora:train.lr_b=5x:train.lr_a=1e-4:adapter.rank=4",
                "ffa-lora:train.lr_b=5x:train.lr_a=3e-4:adapter.rank=2",
                "ffa-lora:train.lr_b=5x:train.lr_a=3e-4:adapter.rank=4",
            ]
        );
        let found = swept(Some("fedit"), &["train.lr_a=1e-4,3e-4", "train.rounds=3"]).expect("valid");
        assert_eq!(found.sets, ["train.rounds=3"]);
        assert_eq!(found.variants[1].keys, [("train.lr_a".to_string(), "3e-4".to_string())]);
    }

    #[test]
    fn without_strategies_it_is_the_configurations_own() {
        assert_eq!(texts(None, &["train.lr_a=1e-4,3e-4"])[0], "lora-a2:train.lr_a=1e-4");
        assert_eq!(texts(None, &["strategy.name=rolora"]), ["rolora"]);
    }

    #[test]
    fn lists_and_quoted_texts_are_one_value() {
        for one in ["train.betas=[0.8, 0.9]", "name=\"a,b\"", "data.partition={ kind = \"dirichlet\", alpha = 0.1 }"] {
            assert_eq!(swept(Some("fedit"), &[one]).expect("valid").sets, [one]);
        }
        let lists = texts(Some("fedit"), &["adapter.targets=[\"query\"],[\"query\", \"value\"]"]);
        assert_eq!(lists, ["fedit:adapter.targets=[\"query\"]", "fedit:adapter.targets=[\"query\", \"value\"]"]);
    }

    #[test]
    fn mistakes_name_their_option_and_what_would_be_right() {
        let refused = |strategies: &str, sets: &[&str], words: &[&str]| {
            let mistake = swept(Some(strategies), sets).err().expect("refused");
            let all =
                format!("{} {} {}", mistake.what, mistake.place.unwrap_or_default(), mistake.help.unwrap_or_default());
            words.iter().for_each(|word| assert!(all.contains(word), "no {word:?} in {all}"));
        };
        refused("fedit", &["train.lr_a=1e-4,,3e-4"], &["empty value", "--set train.lr_a=1e-4,,3e-4"]);
        refused("fedit", &["train.lr_a=1e-4,1e-4"], &["given 1e-4 twice"]);
        refused("fedit", &["train.lr_a=1,2", "train.lr_a=3,4"], &["given twice", "--set train.lr_a=VALUE,VALUE"]);
        refused("fedit", &["train.lr_a=1,2", "train.lr_a=3"], &["given twice"]);
        refused("fedit:train.lr_a=5", &["train.lr_a=1,2"], &["fedit:train.lr_a=5", "which --set varies too"]);
        refused("fedit", &["train.seed=0,1"], &["--seeds"]);
        refused("fedit", &["strategy.name=fedit,rolora"], &["--strategies"]);
        refused("fedit", &["data.labels=3,4"], &["all cells share the data"]);
        refused("fedit", &["engine.in_flight=1,4"], &["all cells share the device"]);
    }
}
