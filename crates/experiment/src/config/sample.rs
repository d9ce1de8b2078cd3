//! A configuration with every key, its default and what it does, written from the schema and the quickstart: what is
//! commented out is what holds anyway.

use serde_json::Value;
use toml::Table;

use super::document::Document;
use super::run_config::{QUICKSTART, RunConfig};
use super::schema::{choices, properties, schema};

/// Longest line of a comment.
const WIDTH: usize = 110;

const HEAD: &str = "\
# Every key of a bonfire configuration. What is not commented out is the quickstart's; a line that is shows the default,
# or the kind of value of a key that is not set. `bonfire config FILE` checks a file and shows what it comes to; for
# completion in editors: `bonfire config --schema > bonfire.schema.json`, and with Taplo a first line
# `#:schema bonfire.schema.json`.
";

/// The text.
pub fn sample() -> String {
    let schema = schema();
    let given: Table = toml::from_str(QUICKSTART).expect("the quickstart is TOML");
    let order = Order::of_quickstart();
    let mut text = Text { lines: HEAD.lines().map(String::from).collect(), order };
    for (name, inner) in text.order.sorted(&[], properties(&schema)) {
        text.lines.push(String::new());
        match given.get(name) {
            Some(toml::Value::Table(table)) => text.section(name, inner, Some(table)),
            // A plain key of the root, such as `name`.
            value if properties(inner).is_empty() && choices(inner).is_empty() => text.key("", name, inner, value),
            _ => text.section(name, inner, None),
        }
    }
    text.lines.join("\n") + "\n"
}

struct Text {
    lines: Vec<String>,
    order: Order,
}

impl Text {
    /// A section: `given` are the keys that are set. One of which nothing is set is commented out if it must not be empty.
    fn section(&mut self, name: &str, schema: &Value, given: Option<&Table>) {
        self.comment("# ", said(schema));
        let variants = choices(schema);
        let mark = if given.is_none() && !variants.is_empty() { "# " } else { "" };
        self.lines.push(format!("{mark}[{name}]"));
        let none = Table::new();
        let table = given.unwrap_or(&none);
        if variants.is_empty() {
            self.keys(name, schema, table);
            return;
        }
        let chosen = |tag: &str| table.get(tag).and_then(toml::Value::as_str);
        let (mine, others): (Vec<_>, Vec<_>) = variants.iter().partition(|one| chosen(one.tag) == Some(one.word));
        for one in mine {
            self.comment("# ", said(one.schema));
            self.lines.push(format!("{} = \"{}\"", one.tag, one.word));
            let rest = properties(one.schema).into_iter().filter(|(key, _)| *key != one.tag);
            for (key, inner) in rest.collect::<Vec<_>>() {
                self.key("", key, inner, table.get(key));
            }
        }
        for one in others {
            self.lines.push("#".into());
            self.comment("# ", said(one.schema));
            self.lines.push(format!("# {} = \"{}\"", one.tag, one.word));
            for (key, inner) in properties(one.schema).into_iter().filter(|(key, _)| *key != one.tag) {
                self.key("# ", key, inner, None);
            }
        }
    }

    fn keys(&mut self, section: &str, schema: &Value, table: &Table) {
        for (key, inner) in self.order.sorted(&[section], properties(schema)) {
            self.key("", key, inner, table.get(key));
        }
    }

    /// A key with what it does: as it is set, else commented out with its default.
    fn key(&mut self, mark: &str, name: &str, schema: &Value, value: Option<&toml::Value>) {
        self.comment(&format!("{mark}# "), said(schema));
        self.words(&format!("{mark}#     "), schema);
        self.tables(&format!("{mark}#     "), schema);
        self.lines.push(match (value, schema.get("default").and_then(toml_text)) {
            (Some(value), _) => format!("{mark}{name} = {}", written(value)),
            (None, Some(default)) => format!("# {name} = {default}"),
            (None, None) => format!("# {name} = {}   # not set", kind(schema)),
        });
    }

    /// The words that a key may hold, where each has a meaning of its own.
    fn words(&mut self, mark: &str, schema: &Value) {
        for word in schema.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
            if let Some(text) = word.get("const").and_then(Value::as_str) {
                self.comment(mark, &format!("\"{text}\": {}", said(word)));
            }
        }
    }

    /// The tables that a key may hold, with their keys.
    fn tables(&mut self, mark: &str, schema: &Value) {
        for one in choices(schema) {
            let rest = || properties(one.schema).into_iter().filter(|(key, _)| *key != one.tag);
            let keys: String = rest().map(|(key, inner)| format!(", {key} = {}", shown(inner))).collect();
            self.comment(mark, &format!("{{ {} = \"{}\"{keys} }}: {}", one.tag, one.word, said(one.schema)));
            rest().for_each(|(key, inner)| self.comment(&format!("{mark}    "), &format!("{key}: {}", said(inner))));
        }
        for (key, inner) in
            properties(schema).into_iter().chain(schema.get("items").map(properties).unwrap_or_default())
        {
            self.comment(mark, &format!("{key} = {}: {}", shown(inner), said(inner)));
        }
    }

    /// Text as comment lines, each with `mark` before it.
    fn comment(&mut self, mark: &str, text: &str) {
        let mut line = mark.trim_end().to_string();
        let empty = line.len();
        for word in text.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > WIDTH && line.len() > empty {
                self.lines.push(std::mem::replace(&mut line, mark.trim_end().to_string()));
            }
            let gap = if line.len() == empty { &mark[empty..] } else { " " };
            line.push_str(gap);
            line.push_str(word);
        }
        self.lines.push(line);
    }
}

/// The order in which a reader expects the keys: that of the settings themselves.
struct Order(Document);

impl Order {
    fn of_quickstart() -> Order {
        let config: RunConfig = toml::from_str(QUICKSTART).expect("the quickstart is valid");
        Order(Document::parse("", &config.to_toml()).expect("a resolved configuration is TOML"))
    }

    /// Keys in the order of the resolved quickstart, then those that are not in it.
    fn sorted<'s>(&self, section: &[&str], mut keys: Vec<(&'s str, &'s Value)>) -> Vec<(&'s str, &'s Value)> {
        let line = |key: &str| {
            let path: Vec<String> = section.iter().copied().chain([key]).map(String::from).collect();
            self.0.line_of(&path).unwrap_or(usize::MAX)
        };
        keys.sort_by_key(|(key, _)| line(key));
        keys
    }
}

fn said(schema: &Value) -> &str {
    schema.get("description").and_then(Value::as_str).unwrap_or_default()
}

/// The default, else the kind of value.
fn shown(schema: &Value) -> String {
    schema.get("default").and_then(toml_text).unwrap_or_else(|| kind(schema))
}

/// What kind of value a key without a default takes.
fn kind(schema: &Value) -> String {
    match schema.get("type").and_then(Value::as_str) {
        Some("integer") => "<a whole number>".into(),
        Some("number") => "<a number>".into(),
        Some("string") => "<text>".into(),
        Some("boolean") => "<true or false>".into(),
        Some("array") => "<a list>".into(),
        Some("object") => {
            let keys: Vec<String> = properties(schema).iter().map(|(key, s)| format!("{key} = {}", shown(s))).collect();
            format!("{{ {} }}", keys.join(", "))
        }
        _ => "<see above>".into(),
    }
}

/// A default as TOML writes it.
fn toml_text(value: &Value) -> Option<String> {
    Some(written(&toml::Value::try_from(value).ok()?))
}

/// A value as TOML writes it; a table with the word first that says what it is.
fn written(value: &toml::Value) -> String {
    let Some(table) = value.as_table().filter(|table| !table.is_empty()) else { return value.to_string() };
    let mut rows: Vec<_> = table.iter().collect();
    rows.sort_by_key(|(key, _)| !["name", "kind"].contains(&key.as_str()));
    let rows: Vec<String> = rows.into_iter().map(|(key, value)| format!("{key} = {}", written(value))).collect();
    format!("{{ {} }}", rows.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn it_is_the_quickstart_with_every_key() {
        let text = sample();
        let loaded = parse("sample.toml", &text, &[]).unwrap_or_else(|mistake| panic!("{mistake:?}\n{text}"));
        let quickstart: RunConfig = toml::from_str(QUICKSTART).expect("valid");
        assert_eq!(loaded.config, quickstart, "{text}");

        fn visit(schema: &Value, text: &str) {
            for (key, inner) in properties(schema) {
                let there = [format!("{key} = "), format!("[{key}]")].iter().any(|form| text.contains(form));
                assert!(there, "no {key} in\n{text}");
                visit(inner, text);
            }
            for one in choices(schema) {
                assert!(text.contains(&format!("{} = \"{}\"", one.tag, one.word)), "no {} in\n{text}", one.word);
                visit(one.schema, text);
            }
        }
        visit(&schema(), &text);
        assert!(text.lines().all(|line| line.chars().count() <= 200), "{text}");
    }

    #[test]
    fn defaults_with_the_mark_taken_away_change_nothing() {
        // Of the sections without alternatives, every line `# key = value` can be taken in.
        let mut text = String::new();
        for line in sample().split("[strategy]").next().expect("a start").lines() {
            let bare = line.strip_prefix("# ").filter(|rest| {
                let key = rest.split(" = ").next().unwrap_or_default();
                let word = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '_');
                word && rest.contains(" = ") && !rest.ends_with("# not set")
            });
            text.push_str(bare.unwrap_or(line));
            text.push('\n');
        }
        text.push_str(&QUICKSTART[QUICKSTART.find("[strategy]").expect("a section")..]);
        let loaded = parse("sample.toml", &text, &[]).unwrap_or_else(|mistake| panic!("{mistake:?}\n{text}"));
        let quickstart: RunConfig = toml::from_str(QUICKSTART).expect("valid");
        assert_eq!(loaded.config, quickstart, "{text}");
    }
}
