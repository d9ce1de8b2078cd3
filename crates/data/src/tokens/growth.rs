//! A tokenizer's normalizers and decoders rewrite a text one after the other. A file whose steps each double it would
//! make terabytes of a word; this is seen before a text is read.

use serde_json::Value;

/// How much longer a text may become. Files in use stay below 100.
const MOST: f64 = 4096.0;

/// Steps of a sequence have one of these names.
const LISTS: [&str; 2] = ["normalizers", "decoders"];

/// Refuses a `tokenizer.json` that could make a text more than [`MOST`] times as long; the error says by how much. What is
/// not JSON is left to the reader of the whole file.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let Ok(file) = serde_json::from_slice::<Value>(bytes) else { return Ok(()) };
    for part in ["normalizer", "decoder"] {
        let times = growth(&file[part]);
        if times > MOST {
            return Err(format!("its {part} could make a text {times:.0e} times as long; at most {MOST} is allowed"));
        }
    }
    Ok(())
}

/// How much longer a step can make a text, in bytes.
fn growth(step: &Value) -> f64 {
    let text = |value: &Value| value.as_str().map(|text| text.len() as f64);
    let steps = LISTS.iter().filter_map(|list| step[list].as_array()).flatten();
    let inner: f64 = steps.map(growth).product();
    let own = match (step["type"].as_str(), text(&step["content"])) {
        // A regular expression may match nothing, before every character.
        (Some("Replace"), Some(new)) => match text(&step["pattern"]["String"]).filter(|old| *old > 0.0) {
            Some(old) => (new / old).max(1.0),
            None => new + 1.0,
        },
        (Some("Prepend"), _) => 1.0 + text(&step["prepend"]).unwrap_or(0.0),
        // A byte becomes a character of up to two.
        (Some("ByteLevel"), _) => 2.0,
        _ => 1.0,
    };
    inner * own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubling_over_and_over_is_refused_and_what_models_do_is_not() {
        let double = r#"{"type":"Replace","pattern":{"String":"a"},"content":"aa"}"#;
        let of = |steps: usize| {
            let list = vec![double; steps].join(",");
            format!(r#"{{"normalizer":{{"type":"Sequence","normalizers":[{list}]}}}}"#)
        };
        assert_eq!(check(of(12).as_bytes()), Ok(()));
        assert!(check(of(40).as_bytes()).is_err_and(|problem| problem.contains("1e12")));
        let llama = r#"{"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},
            {"type":"Replace","pattern":{"String":" "},"content":"▁"}]},"decoder":null}"#;
        assert_eq!(check(llama.as_bytes()), Ok(()));
    }
}
