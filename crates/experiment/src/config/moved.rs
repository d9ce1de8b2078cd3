//! Keys that stood elsewhere in earlier versions. A user's own file is refused with the new name in the message; what a run folder
//! holds is read as it was meant, so that old runs can be resumed, evaluated and exported.

use toml::{Table, Value};

use super::key::{path_of, remove};

/// Old key, new key.
const MOVED: [(&str, &str); 4] = [
    ("train.precision", "engine.precision"),
    ("train.checkpoint", "engine.recompute"),
    ("train.memory_gb", "engine.memory_gb"),
    ("train.tokens_per_step", "engine.tokens_per_step"),
];

/// What `key` is called now.
pub fn new_name(key: &str) -> Option<&'static str> {
    MOVED.iter().find(|(old, _)| *old == key).map(|(_, new)| *new)
}

/// Moves what stands under an old name to its new one, unless something stands there already.
pub fn bring_up_to_date(table: &mut Table) {
    for (old, new) in MOVED.map(|(old, new)| (path_of(old), path_of(new))) {
        let [section, key] = &old[..] else { continue };
        let Some(value) = table.get(section).and_then(|section| section.get(key)).cloned() else { continue };
        remove(table, &old);
        let place = table.entry(new[0].clone()).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(section) = place {
            section.entry(new[1].clone()).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_are_found_and_new_ones_win() {
        let mut table: Table =
            "[train]\nrounds = 2\nprecision = \"bf16\"\ncheckpoint = \"block\"\n[engine]\nprecision = \"f32\"\n"
                .parse()
                .expect("TOML");
        bring_up_to_date(&mut table);
        let wanted: Table =
            "[train]\nrounds = 2\n[engine]\nprecision = \"f32\"\nrecompute = \"block\"\n".parse().expect("TOML");
        assert_eq!(table, wanted);
        assert_eq!((new_name("train.checkpoint"), new_name("train.rounds")), (Some("engine.recompute"), None));
    }
}
