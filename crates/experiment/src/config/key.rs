//! Keys of a configuration from its root to a value.

use toml::{Table, Value};

/// `["train", "rounds"]`.
pub type Path = Vec<String>;

/// `train.rounds` as its parts.
pub fn path_of(key: &str) -> Vec<String> {
    key.split('.').map(str::to_string).collect()
}

/// Takes the value at `path` out of `table`; whether there was one.
pub fn remove(table: &mut Table, path: &[String]) -> bool {
    match path {
        [] => false,
        [last] => table.remove(last).is_some(),
        [first, rest @ ..] => match table.get_mut(first) {
            Some(Value::Table(inner)) => remove(inner, rest),
            _ => false,
        },
    }
}
