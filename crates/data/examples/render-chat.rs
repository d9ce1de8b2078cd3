//! Renders conversations for `scripts/checks/check_templates.py`: a JSON object a line comes in, one goes out.
//!
//! In: `template`, `tokens` (special tokens by name), `row` (with `messages` and what else a row has), `prompt`. Out: `text`, or `error`.

use std::error::Error;
use std::fs;
use std::io::{BufRead, Write, stdin, stdout};

use bonfire_data::{Cell, ChatTemplate, Content, Dataset, Reading};

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = stdout().lock();
    for line in stdin().lock().lines() {
        let answer = match render(&serde_json::from_str(&line?)?) {
            Ok(text) => Cell::Record(vec![("text".to_owned(), Cell::Text(text))]),
            Err(error) => Cell::Record(vec![("error".to_owned(), Cell::Text(error.to_string()))]),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}

/// What the row of a data set becomes, read as from a file.
fn render(job: &Cell) -> Result<String, Box<dyn Error>> {
    let text = |name: &str| job.get(name).and_then(Cell::text).unwrap_or_default();
    let Some(Cell::Record(tokens)) = job.get("tokens") else { return Err("no tokens".into()) };
    let tokens: Vec<(&str, &str)> =
        tokens.iter().filter_map(|(name, token)| Some((name.as_str(), token.text()?))).collect();
    let template = ChatTemplate::parse(text("template"), "template", &tokens)?;
    let folder = std::env::temp_dir().join(format!("render-chat-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let row = job.get("row").ok_or("no row")?.to_string();
    ["train.jsonl", "test.jsonl"].iter().try_for_each(|name| fs::write(folder.join(name), &row))?;
    let data = Dataset::read(&folder, &Reading { causal: true, ..Reading::default() });
    fs::remove_dir_all(&folder)?;
    match &data?.train[0].content {
        Content::Chat(talk) => Ok(template.render(talk, job.get("prompt") == Some(&Cell::Bool(true)))?),
        _ => Err("no conversation".into()),
    }
}
