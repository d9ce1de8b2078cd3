//! A model and data that are measured without a run.

use bonfire_experiment::UserError;
use bonfire_experiment::config::{self, CheckedConfig};
use toml::Table;

/// What is said of clients and training is read by nobody here.
const REST: &str = r#"
[data]
partition = { kind = "iid" }
[clients]
count = 1
[adapter]
rank = 1
[train]
rounds = 0
[strategy]
name = "fedit"
"#;

/// The configuration that names `model` and `data`, with `sets` as `--set` gives them; nothing in it is left of the quickstart.
///
/// # Errors
/// A value of `sets` that cannot be used.
pub fn load(model: &str, data: &str, sets: &[String]) -> Result<CheckedConfig, UserError> {
    let mut table: Table = REST.parse().expect("TOML");
    for (section, path) in [("model", model), ("data", data)] {
        let section = table.entry(section).or_insert_with(|| Table::new().into());
        section.as_table_mut().expect("a table").insert("path".into(), path.into());
    }
    config::of_table("--model and --data", table, sets)
}
