//! The JSON Schema of a configuration, from the structs that read it and their doc comments. Editors complete and check by
//! it: with Taplo, a first line `#:schema bonfire.schema.json`.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::run_config::RunConfig;

/// The schema, in the draft that editors know best and without references.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<RunConfig>().to_value();
    tidy(&mut schema);
    schema["title"] = "A bonfire configuration".into();
    schema
}

/// Fits the schema to TOML: there is no null, and links between Rust's doc comments lead nowhere.
fn tidy(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Object(object) => {
            // `uint` and the like are Rust's, not JSON Schema's.
            object.remove("format");
            if object.get("default").is_some_and(Value::is_null) {
                object.remove("default");
            }
            object.values_mut().for_each(tidy);
            if let Some(Value::String(text)) = object.get_mut("description") {
                *text = text.replace("[`", "`").replace("`]", "`");
            }
            without_null(object);
        }
        _ => (),
    }
}

/// `["integer", "null"]` as `"integer"`, and `anyOf` of a type and null as the type.
fn without_null(object: &mut serde_json::Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = &types[..] {
            object["type"] = only.clone();
        }
    }
    if let Some(Value::Array(choices)) = object.get_mut("enum") {
        choices.retain(|choice| !choice.is_null());
    }
    let Some(Value::Array(choices)) = object.get_mut("anyOf") else { return };
    choices.retain(|choice| choice["type"] != "null");
    if choices.len() == 1
        && let Some(Value::Object(only)) = choices.pop()
    {
        object.remove("anyOf");
        // What is said of the key goes before what is said of its type.
        for (key, value) in only {
            object.entry(key).or_insert(value);
        }
    }
}

/// Whether a key may be left out and `none` is not one of the words that it takes.
pub fn can_be_unset(path: &[String]) -> bool {
    fn inside(schema: &Value, path: &[String]) -> bool {
        let Some((key, rest)) = path.split_first() else { return false };
        let inner = properties(schema).into_iter().find(|(name, _)| name == key).map(|(_, inner)| inner);
        let Some(inner) = inner else { return choices(schema).iter().any(|one| inside(one.schema, path)) };
        if !rest.is_empty() {
            return inside(inner, rest);
        }
        let required = schema.get("required").and_then(Value::as_array);
        required.is_none_or(|keys| !keys.iter().any(|of| of == key)) && !takes_none(inner)
    }
    fn takes_none(schema: &Value) -> bool {
        let lists = ["oneOf", "anyOf", "enum"].iter().filter_map(|list| schema.get(list)?.as_array());
        schema.get("const").is_some_and(|word| word == "none")
            || lists.flatten().any(|one| one == "none" || takes_none(one))
    }
    inside(&schema(), path)
}

/// The schema of the value at `key`, such as `data.partition`.
pub fn at(key: &str) -> Option<Value> {
    let schema = schema();
    let found = key.split('.').try_fold(&schema, |at, part| {
        properties(at).into_iter().find(|(name, _)| *name == part).map(|(_, inner)| inner)
    });
    found.cloned()
}

/// Every key that `--set` takes, as `train.rounds`, in the order of the schema; of tables told apart by a word those of all words,
/// each once.
pub fn keys() -> Vec<String> {
    fn below(at: &str, schema: &Value, found: &mut Vec<String>) {
        for (name, inner) in properties(schema) {
            let key = if at.is_empty() { name.to_string() } else { format!("{at}.{name}") };
            let table = !properties(inner).is_empty() || !choices(inner).is_empty();
            if !table && !found.contains(&key) {
                found.push(key.clone());
            }
            below(&key, inner, found);
        }
        choices(schema).iter().for_each(|one| below(at, one.schema, found));
    }
    let mut found = Vec::new();
    below("", &schema(), &mut found);
    found
}

/// The words that tell the tables apart that may stand at `key`, such as the names of strategies.
pub fn words(key: &str) -> Vec<String> {
    at(key).map(|schema| choices(&schema).iter().map(|one| one.word.to_string()).collect()).unwrap_or_default()
}

/// The section that has a key of this name.
pub fn home_of(key: &str) -> Option<String> {
    let schema = schema();
    let has = |inner: &Value| properties(inner).iter().any(|(name, _)| *name == key);
    properties(&schema).into_iter().find(|(_, inner)| has(inner)).map(|(section, _)| section.to_string())
}

/// Where a key of this name stands, as `train.rounds`.
pub fn path_to(key: &str) -> Option<String> {
    home_of(key).map(|section| format!("{section}.{key}"))
}

/// The table that `word` stands for at `key`, as TOML writes it, with an example for each key that must be there:
/// `{ kind = "dirichlet", alpha = 0.5 }`.
pub fn example(key: &str, word: &str) -> Option<String> {
    let schema = at(key)?;
    let all = choices(&schema);
    let chosen = all.iter().find(|one| one.word == word)?;
    let required = chosen.schema.get("required").and_then(Value::as_array);
    let needed = |name: &str| name != chosen.tag && required.is_some_and(|keys| keys.iter().any(|of| of == name));
    let rest = properties(chosen.schema).into_iter().filter(|(name, _)| needed(name)).map(|(name, inner)| {
        let value = match inner.get("type").and_then(Value::as_str) {
            Some("number") => "0.5",
            Some("integer") => "2",
            _ => match choices_of_word(inner) {
                Some(word) => return format!(", {name} = \"{word}\""),
                None => "\"…\"",
            },
        };
        format!(", {name} = {value}")
    });
    Some(format!("{{ {} = \"{word}\"{} }}", chosen.tag, rest.collect::<String>()))
}

/// The first of the words that a key may hold.
fn choices_of_word(schema: &Value) -> Option<&str> {
    let words = ["enum", "oneOf"].iter().find_map(|list| schema.get(list)?.as_array())?;
    words.iter().find_map(|one| one.as_str().or_else(|| one.get("const")?.as_str()))
}

/// One of the tables that a key may hold, told apart by a word: `name = "fedit"`.
pub struct Choice<'s> {
    /// The key of the word.
    pub tag: &'s str,
    /// The word.
    pub word: &'s str,
    /// The table's schema.
    pub schema: &'s Value,
}

/// The tables that a key may hold; none where it holds something else.
pub fn choices(schema: &Value) -> Vec<Choice<'_>> {
    let Some(Value::Array(variants)) = schema.get("oneOf") else { return Vec::new() };
    let one = |schema| {
        let (tag, rest) = properties(schema).into_iter().find(|(_, inner)| inner.get("const").is_some())?;
        Some(Choice { tag, word: rest["const"].as_str()?, schema })
    };
    variants.iter().filter_map(one).collect()
}

/// The keys of a table and their schemas.
pub fn properties(schema: &Value) -> Vec<(&str, &Value)> {
    let table = schema.get("properties").and_then(Value::as_object);
    table.into_iter().flatten().map(|(key, inner)| (key.as_str(), inner)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::shipped;

    /// Whether `value` is what `schema` allows, as far as the words of JSON Schema go that schemars writes here.
    fn fits(schema: &Value, value: &Value) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{value}: {what}"));
        for (list, most) in [("anyOf", usize::MAX), ("oneOf", 1)] {
            if let Some(Value::Array(choices)) = schema.get(list) {
                let found: Vec<_> = choices.iter().map(|choice| fits(choice, value)).collect();
                let fitting = found.iter().filter(|fit| fit.is_ok()).count();
                if fitting == 0 || fitting > most {
                    return Err(format!("{value}: {list}: {found:?}"));
                }
            }
        }
        let is = |kind: &str| match kind {
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("no such type {other}"),
        };
        if schema.get("type").is_some_and(|kind| !is(kind.as_str().expect("one type"))) {
            return wrong("type");
        }
        if schema.get("const").is_some_and(|only| only != value) {
            return wrong("const");
        }
        if schema.get("enum").and_then(Value::as_array).is_some_and(|words| !words.contains(value)) {
            return wrong("enum");
        }
        let least = schema.get("minimum").and_then(Value::as_f64);
        if least.zip(value.as_f64()).is_some_and(|(least, value)| value < least) {
            return wrong("minimum");
        }
        if let (Some(items), Some(list)) = (schema.get("items"), value.as_array()) {
            list.iter().try_for_each(|item| fits(items, item))?;
        }
        let Some(table) = value.as_object() else { return Ok(()) };
        for key in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
            if !table.contains_key(key.as_str().expect("a name")) {
                return wrong(&format!("{key} is missing"));
            }
        }
        let known = properties(schema);
        for (key, inner) in table {
            match known.iter().find(|(name, _)| name == key) {
                Some((_, schema)) => fits(schema, inner).map_err(|error| format!("{key}: {error}"))?,
                None if schema.get("additionalProperties") == Some(&Value::Bool(false)) => return wrong(key),
                None => (),
            }
        }
        Ok(())
    }

    fn json(text: &str) -> Value {
        serde_json::to_value(toml::from_str::<toml::Table>(text).expect("TOML")).expect("JSON")
    }

    #[test]
    fn the_shipped_configurations_fit() {
        let schema = schema();
        for path in shipped() {
            let text = std::fs::read_to_string(&path).expect("readable");
            fits(&schema, &json(&text)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }

    #[test]
    fn what_the_program_refuses_does_not_fit() {
        let schema = schema();
        let text = crate::config::run_config::QUICKSTART;
        for (good, bad) in [
            ("name = \"lora-a2\"", "name = \"lora-a3\""),
            ("rank = 8", "rnk = 8"),
            ("rounds = 10", "rounds = \"ten\""),
            ("rounds = 10", "rounds = -1"),
            ("[adapter]", "[adaptor]"),
            ("kind = \"dirichlet\", alpha = 0.1", "kind = \"iid\", alpha = 0.1"),
            ("kind = \"dirichlet\", alpha = 0.1", "kind = \"dirichlet\""),
            ("head = \"trained\"", "head = \"warm\""),
            ("budget = 2", "budget = \"some\""),
            ("probe = { batches = 4 }", "probe = { batch = 4 }"),
            ("probe = { batches = 4 }", "tau = 0.5"),
        ] {
            assert!(text.contains(good), "{good}");
            assert!(fits(&schema, &json(&text.replacen(good, bad, 1))).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_example_of_every_table_is_accepted() {
        for key in ["data.partition", "train.optimizer", "server.optimizer", "server.aggregate"] {
            let schema = at(key).expect("a key");
            for one in choices(&schema) {
                let set = format!("{key}={}", example(key, one.word).expect("an example"));
                // (A file and a column that are not there are found out later.)
                crate::config::load(
                    None,
                    &[
                        set.clone(),
                        "clients.count=20".into(),
                        "strategy.name=fedit".into(),
                        "clients.budget=\"full\"".into(),
                    ],
                )
                .unwrap_or_else(|error| panic!("{set}: {error}"));
            }
        }
        assert_eq!(example("data.partition", "iid").as_deref(), Some("{ kind = \"iid\" }"));
        assert_eq!(example("data.partition", "even"), None);
    }

    #[test]
    fn keys_are_listed_once_and_each_is_known() {
        let all = keys();
        for key in [
            "name",
            "train.rounds",
            "strategy.name",
            "strategy.probe.batches",
            "data.partition.alpha",
            "server.optimizer.lr",
            "train.optimizer.momentum",
        ] {
            assert_eq!(all.iter().filter(|of| *of == key).count(), 1, "{key}");
        }
        // No key is refused as unknown (most are refused for the value).
        for key in all.iter().filter(|key| {
            !key.starts_with("strategy.")
                && !key.starts_with("privacy.")
                && !key.starts_with("attack.")
                && !key.starts_with("server.")
                && !key.starts_with("train.optimizer.")
                && !key.starts_with("data.partition.")
        }) {
            let error = crate::config::load(None, &[format!("{key}=[[]]")]).err();
            assert!(error.is_none_or(|error| !error.what.contains("unknown")), "{key}");
        }
    }

    #[test]
    fn keys_are_found_by_their_names() {
        assert_eq!(path_to("rounds").as_deref(), Some("train.rounds"));
        assert_eq!(path_to("per_client").as_deref(), Some("evaluate.per_client"));
        assert_eq!(path_to("nothing"), None);
    }

    #[test]
    fn every_key_says_what_it_is_and_strangers_are_refused() {
        fn visit(at: &str, schema: &Value, seen: &mut usize) {
            for (key, inner) in properties(schema) {
                *seen += 1;
                let said = inner.get("description").is_some() || inner.get("const").is_some();
                assert!(said, "{at}.{key} has no description");
                assert!(inner.get("$ref").is_none() && inner.get("allOf").is_none(), "{at}.{key}: {inner}");
                visit(&format!("{at}.{key}"), inner, seen);
            }
            if schema.get("properties").is_some() {
                assert_eq!(schema["additionalProperties"], Value::Bool(false), "{at}");
            }
            choices(schema).iter().for_each(|choice| visit(&format!("{at}.{}", choice.word), choice.schema, seen));
        }
        let mut seen = 0;
        visit("", &schema(), &mut seen);
        assert!(seen > 80, "{seen}");
    }
}
