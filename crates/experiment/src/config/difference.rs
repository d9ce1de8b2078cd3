//! What two configurations say differently, key by key.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use toml::{Table, Value};

use super::run_config::RunConfig;

/// A key whose value is not the same in both.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// As `train.rounds`.
    pub key: String,
    old: Option<Value>,
    new: Option<Value>,
}

/// Keys, and beginnings of keys, that say how and where the work is done or what is written beside it. What a run computes
/// does not depend on them.
const HOW: [&str; 5] = ["name", "engine.", "save.", "track.", "train.log_every"];

/// The one among them that does change what is computed.
const PRECISION: &str = "engine.precision";

impl Difference {
    /// Whether a run computes something else with the new value.
    pub fn matters(&self) -> bool {
        self.key == PRECISION
            || !HOW.iter().any(|how| self.key == *how || (how.ends_with('.') && self.key.starts_with(how)))
    }
}

impl fmt::Display for Difference {
    /// `train.rounds was 2, is 3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<Value>| value.as_ref().map_or("not set".to_string(), Value::to_string);
        write!(f, "{} was {}, is {}", self.key, shown(&self.old), shown(&self.new))
    }
}

/// The keys whose values differ, in the order of their names.
pub fn differences(old: &Table, new: &Table) -> Vec<Difference> {
    let (mut old, mut new) = (flat(old), flat(new));
    let keys: BTreeSet<String> = old.keys().chain(new.keys()).cloned().collect();
    let pair = |key: String| Difference { old: old.remove(&key), new: new.remove(&key), key };
    keys.into_iter().map(pair).filter(|d| d.old != d.new).collect()
}

/// The values that two programs must agree on to take part in one federation: what matters, but for where model and data
/// lie and who holds what, `train.rounds`, and when is evaluated.
pub fn shared(table: &Table) -> BTreeMap<String, Value> {
    let own =
        ["model.path", "data.path", "data.partition.", "data.min_shard", "train.rounds", "train.stop.", "evaluate."];
    let mut all = flat(table);
    all.retain(|key, _| {
        let key = Difference { key: key.clone(), old: None, new: None };
        key.matters() && !own.iter().any(|own| key.key.starts_with(own))
    });
    all
}

/// Every setting of `config` by its full key, as TOML writes it, texts without quotes.
pub fn values_of(config: &RunConfig) -> BTreeMap<String, String> {
    let table: Table = config.to_toml().parse().expect("what was written can be read");
    let shown = |value: Value| value.as_str().map(str::to_owned).unwrap_or_else(|| value.to_string());
    flat(&table).into_iter().map(|(key, value)| (key, shown(value))).collect()
}

/// Values by their full keys.
fn flat(table: &Table) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => all.extend(flat(inner).into_iter().map(|(k, v)| (format!("{key}.{k}"), v))),
            other => drop(all.insert(key.clone(), other.clone())),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_and_told_apart() {
        let old: Table = "a = 1\n[train]\nrounds = 2\n[engine]\ndevice = \"cpu\"\n".parse().expect("TOML");
        let new: Table = "[train]\nrounds = 3\n[engine]\ndevice = \"wgpu\"\n".parse().expect("TOML");
        let found = differences(&old, &new);
        let said: Vec<String> = found.iter().map(Difference::to_string).collect();
        let engine = "engine.device was \"cpu\", is \"wgpu\"";
        assert_eq!(said, ["a was 1, is not set", engine, "train.rounds was 2, is 3"]);
        assert_eq!(found.iter().map(Difference::matters).collect::<Vec<_>>(), [true, false, true]);
        assert!(differences(&old, &old).is_empty());
    }

    #[test]
    fn what_is_shared_is_what_changes_numbers_and_lies_nowhere() {
        let text = "name = \"a\"\n[model]\npath = \"x\"\ntask = \"causal-lm\"\n[data]\npath = \"y\"\nmax_length = 9\n\
                    partition = { kind = \"iid\" }\n[train]\nrounds = 3\nlr_a = 0.1\n[engine]\ndevice = \"cpu\"\nmemory_gb = 2.0\nprecision = \"bf16\"\n";
        let shared = shared(&text.parse().expect("TOML"));
        assert_eq!(
            shared.into_keys().collect::<Vec<_>>(),
            ["data.max_length", "engine.precision", "model.task", "train.lr_a"]
        );
    }
}
