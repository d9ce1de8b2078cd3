//! What a `tokenizer.json` would cost, seen before the library opens it. Normalizers and decoders rewrite a text one after
//! the other, and steps that each double it make terabytes of a word; a table of characters says itself how long it is.

use serde::Deserialize;
use serde_json::Value;

/// How much longer a text may become. Files in use stay below 100.
const MOST: f64 = 4096.0;

/// Steps of a sequence have one of these names.
const LISTS: [&str; 2] = ["normalizers", "decoders"];

/// The parts of a `tokenizer.json` that are looked at. That one comes twice is an error here, as it is not for the library.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Parts {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    decoder: Value,
}

/// Refuses a `tokenizer.json` that could make a text more than [`MOST`] times as long, or claims a table longer than itself;
/// the error says which. Gives how much longer its normalizer can make a text.
pub(super) fn check(bytes: &[u8]) -> Result<f64, String> {
    let parts: Parts = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if claims_too_much(&parts.normalizer) {
        return Err("its precompiled_charsmap claims to be longer than it is".to_owned());
    }
    for (part, steps) in [("normalizer", &parts.normalizer), ("decoder", &parts.decoder)] {
        let times = growth(steps);
        if times > MOST {
            return Err(format!("its {part} could make a text {times:.0e} times as long; at most {MOST} is allowed"));
        }
    }
    Ok(growth(&parts.normalizer))
}

/// The steps inside a sequence.
fn steps(step: &Value) -> impl Iterator<Item = &Value> {
    LISTS.iter().filter_map(|list| step[list].as_array()).flatten()
}

/// How much longer a step can make a text, in bytes.
fn growth(step: &Value) -> f64 {
    let text = |value: &Value| value.as_str().map(|text| text.len() as f64);
    let inner: f64 = steps(step).map(growth).product();
    let replaced = text(&step["content"]).filter(|_| !step["pattern"].is_null()).map_or(1.0, |new| {
        // A regular expression may match nothing, before every character.
        let old = text(&step["pattern"]["String"]).filter(|old| *old > 0.0);
        old.map_or(new + 1.0, |old| (new / old).max(1.0))
    });
    let prepended = 1.0 + text(&step["prepend"]).unwrap_or(0.0);
    // A byte becomes a character of up to two.
    let respelt = if step["type"] == "ByteLevel" { 2.0 } else { 1.0 };
    inner * replaced * prepended * respelt
}

/// Whether a SentencePiece table of characters begins with a length above its own. The library sets memory aside by it.
fn claims_too_much(step: &Value) -> bool {
    let own = step["precompiled_charsmap"].as_str().is_some_and(|table| {
        let bytes = first_bytes(table);
        bytes.is_some_and(|first| u32::from_le_bytes(first) as usize > table.len() / 4 * 3)
    });
    own || steps(step).any(claims_too_much)
}

/// The first four bytes of base64.
fn first_bytes(text: &str) -> Option<[u8; 4]> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |byte: u8| DIGITS.iter().position(|of| *of == byte).map(|value| value as u64);
    // Six digits are 36 bits.
    let bits = text.as_bytes().get(..6)?.iter().try_fold(0, |bits, byte| Some(bits << 6 | digit(*byte)?))?;
    Some(((bits >> 4) as u32).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubling_over_and_over_is_refused_and_what_models_do_is_not() {
        let double = r#"{"type":"Replace","pattern":{"String":"a"},"content":"aa"}"#;
        let table_of = |steps: usize| {
            let list = vec![double; steps].join(",");
            format!(r#"{{"normalizer":{{"type":"Sequence","normalizers":[{list}]}}}}"#)
        };
        assert_eq!(check(table_of(12).as_bytes()), Ok(4096.0));
        assert!(check(table_of(40).as_bytes()).is_err_and(|problem| problem.contains("1e12")));
        let llama = r#"{"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},
            {"type":"Replace","pattern":{"String":" "},"content":"▁"}]},"decoder":null}"#;
        assert!(check(llama.as_bytes()).is_ok_and(|times| times < 100.0));
    }

    #[test]
    fn a_table_is_no_longer_than_it_is() {
        let limit_of = |table: &str| {
            check(format!(r#"{{"normalizer":{{"type":"Precompiled","precompiled_charsmap":"{table}"}}}}"#).as_bytes())
        };
        assert_eq!(first_bytes("ALQCAACE"), Some([0, 180, 2, 0]));
        assert!(limit_of("ALQCAACE").is_err_and(|problem| problem.contains("longer than it is")));
        assert_eq!(limit_of("BAAAAAAAAAA="), Ok(1.0));
        assert_eq!(limit_of("é"), Ok(1.0));
    }
}
