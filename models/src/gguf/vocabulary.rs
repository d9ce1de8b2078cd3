//! The tokenizer inside a GGUF file, as the `tokenizer.json` and `tokenizer_config.json` that Hugging Face would have.
//!
//! A file holds the vocabulary, not the rules by which texts are cut: of byte pair encodings it names them
//! (`tokenizer.ggml.pre`), of SentencePiece models it has scores, whose order is that of the merges. Rules that are not known
//! are refused by name, since another rule gives other tokens without a word.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::backbone::Header;
use crate::ModelError;

/// Splits of GPT-2.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Splits of Llama 3: at most three digits together.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Splits of Qwen 2: every digit alone.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What `tokenizer.ggml.token_type` calls tokens.
mod kind {
    pub const NORMAL: u64 = 1;
    pub const UNKNOWN: u64 = 2;
    pub const CONTROL: u64 = 3;
    pub const USER_DEFINED: u64 = 4;
    pub const UNUSED: u64 = 5;
}

/// A vocabulary as the file has it.
struct Vocabulary<'a> {
    header: &'a Header,
    tokens: Vec<&'a str>,
    kinds: Vec<u64>,
}

/// A tokenizer's parts under their names in `tokenizer.json`.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
    /// Whether texts begin with BOS where the file does not say.
    begins: bool,
}

/// `tokenizer.json`.
///
/// # Errors
/// No vocabulary, or one of a kind whose rules are not known.
pub(crate) fn tokenizer(header: &Header) -> Result<Value, ModelError> {
    let vocabulary = Vocabulary::read(header)?;
    let parts = match header.text("tokenizer.ggml.model") {
        Some("gpt2") => vocabulary.byte_pairs()?,
        Some("llama") => vocabulary.sentence_piece()?,
        other => {
            let what = other.map_or("is missing".into(), |name| format!("is \"{name}\""));
            return Err(refused(header, &format!("tokenizer.ggml.model {what}; \"gpt2\" and \"llama\" are read")));
        }
    };
    let special = |kind: u64| matches!(kind, kind::UNKNOWN | kind::CONTROL);
    let added = vocabulary.each().filter(|(_, _, kind)| special(*kind) || *kind == kind::USER_DEFINED);
    let added: Vec<Value> = added
        .map(|(id, content, kind)| {
            json!({"id": id, "content": content, "special": special(kind), "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false})
        })
        .collect();
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": parts.normalizer, "pre_tokenizer": parts.pre_tokenizer, "decoder": parts.decoder, "model": parts.model,
        "post_processor": vocabulary.around(parts.begins)?,
    }))
}

/// `tokenizer_config.json`: the tokens that begin, end and pad texts, and the chat template.
///
/// # Errors
/// No vocabulary, or a token beyond it.
pub(crate) fn config(header: &Header) -> Result<Value, ModelError> {
    let vocabulary = Vocabulary::read(header)?;
    let mut config = serde_json::Map::new();
    for (key, name) in [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token"), ("padding", "pad_token")]
    {
        if let Some((_, text)) = vocabulary.named(key)? {
            config.insert(name.into(), json!(text));
        }
    }
    if let Some(template) = header.text("tokenizer.chat_template") {
        config.insert("chat_template".into(), json!(template));
    }
    Ok(config.into())
}

fn refused(header: &Header, problem: &str) -> ModelError {
    let instead = "set model.tokenizer = \"DIR\" to the folder of the model that the file was made of";
    header.bad(format!("{problem}; {instead}"))
}

impl<'a> Vocabulary<'a> {
    fn read(header: &'a Header) -> Result<Vocabulary<'a>, ModelError> {
        let tokens: Option<Vec<&str>> = header.list("tokens").and_then(|list| list.iter().map(Value::as_str).collect());
        let tokens = tokens.ok_or_else(|| refused(header, "tokenizer.ggml.tokens is missing"))?;
        let kinds = match header.list("token_type") {
            None => vec![kind::NORMAL; tokens.len()],
            Some(list) => list.iter().map(|kind| kind.as_u64().unwrap_or(kind::NORMAL)).collect(),
        };
        if kinds.len() != tokens.len() {
            return Err(refused(header, "tokenizer.ggml.token_type and tokenizer.ggml.tokens differ in length"));
        }
        Ok(Vocabulary { header, tokens, kinds })
    }

    /// Number, text and kind of every token that texts can have.
    fn each(&self) -> impl Iterator<Item = (usize, &'a str, u64)> {
        let all = self.tokens.iter().zip(&self.kinds).enumerate();
        all.map(|(id, (text, kind))| (id, *text, *kind)).filter(|(_, _, kind)| *kind != kind::UNUSED)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.header.value(&format!("tokenizer.ggml.{key}")).and_then(Value::as_bool)
    }

    /// The token that the file names for a purpose.
    fn named(&self, key: &str) -> Result<Option<(u64, &'a str)>, ModelError> {
        let key = format!("tokenizer.ggml.{key}_token_id");
        let Some(id) = self.header.value(&key).and_then(Value::as_u64) else { return Ok(None) };
        let text = usize::try_from(id).ok().and_then(|id| self.tokens.get(id));
        let text = text.ok_or_else(|| refused(self.header, &format!("{key} is {id}, beyond its vocabulary")))?;
        Ok(Some((id, text)))
    }

    /// What stands around every text.
    fn around(&self, begins: bool) -> Result<Value, ModelError> {
        let wanted = |key: &str, default: bool| -> Result<_, ModelError> {
            if !self.flag(&format!("add_{key}_token")).unwrap_or(default) {
                return Ok(None);
            }
            let named = self.named(key)?;
            let lacks = || refused(self.header, &format!("texts are to have a {key} token, which it does not name"));
            named.map(Some).ok_or_else(lacks)
        };
        let (bos, eos) = (wanted("bos", begins)?, wanted("eos", false)?);
        let of = |part: char, place: u8| {
            let token = |t: Option<(u64, &str)>| t.map(|(_, t)| json!({"SpecialToken": {"id": t, "type_id": place}}));
            let text = json!({"Sequence": {"id": part.to_string(), "type_id": place}});
            [token(bos), Some(text), token(eos)].into_iter().flatten()
        };
        let special = [bos, eos].into_iter().flatten();
        let special = special.map(|(id, t)| (t.to_string(), json!({"id": t, "ids": [id], "tokens": [t]})));
        let pair: Vec<Value> = of('A', 0).chain(of('B', 1)).collect();
        Ok(json!({"type": "TemplateProcessing", "single": of('A', 0).collect::<Vec<_>>(), "pair": pair,
            "special_tokens": special.collect::<serde_json::Map<_, _>>()}))
    }

    /// Every token's number by its text.
    fn numbers(&self) -> serde_json::Map<String, Value> {
        self.each().map(|(id, text, _)| (text.to_string(), json!(id))).collect()
    }

    /// Byte pair encoding of words' bytes, as GPT-2's.
    fn byte_pairs(&self) -> Result<Parts, ModelError> {
        let lacks = || refused(self.header, "tokenizer.ggml.merges is missing");
        let merges = self.header.list("merges").ok_or_else(lacks)?;
        let pair = |merge: &Value| merge.as_str()?.split_once(' ').map(|(left, right)| json!([left, right]));
        let merges: Option<Vec<Value>> = merges.iter().map(pair).collect();
        let merges = merges.ok_or_else(|| refused(self.header, "an entry of tokenizer.ggml.merges is no pair"))?;
        let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        let pre = self.header.text("tokenizer.ggml.pre").unwrap_or("missing");
        // Words that are tokens are not cut, and texts begin with BOS, where llama.cpp says so of the name.
        let (splits, whole, begins, normalizer) = match pre {
            "gpt-2" => (vec![split(GPT2)], false, false, Value::Null),
            "smollm" => {
                (vec![json!({"type": "Digits", "individual_digits": true}), split(GPT2)], false, false, Value::Null)
            }
            "llama-bpe" | "llama3" | "llama-v3" => (vec![split(LLAMA3)], true, true, Value::Null),
            "smaug-bpe" => (vec![split(LLAMA3)], false, false, Value::Null),
            "qwen2" => (vec![split(QWEN2)], false, false, json!({"type": "NFC"})),
            other => {
                let known = "\"gpt-2\", \"smollm\", \"llama-bpe\", \"smaug-bpe\" and \"qwen2\" are known";
                return Err(refused(self.header, &format!("tokenizer.ggml.pre is {other}; {known}")));
            }
        };
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let steps: Vec<Value> = splits.into_iter().chain([bytes.clone()]).collect();
        Ok(Parts {
            normalizer,
            pre_tokenizer: json!({"type": "Sequence", "pretokenizers": steps}),
            decoder: bytes,
            model: json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": whole,
                "vocab": self.numbers(), "merges": merges}),
            begins,
        })
    }

    /// SentencePiece's byte pair encoding of whole texts: of all neighbours those are joined first whose piece has the highest
    /// score, and what has no piece is written byte by byte.
    fn sentence_piece(&self) -> Result<Parts, ModelError> {
        let unusable = || refused(self.header, "tokenizer.ggml.scores is missing or not as long as its tokens");
        let scores = self.header.list("scores").filter(|list| list.len() == self.tokens.len()).ok_or_else(unusable)?;
        let scores: Option<Vec<f64>> = scores.iter().map(Value::as_f64).collect();
        let scores = scores.ok_or_else(unusable)?;
        let unknown = self.named("unknown")?.map(|(_, text)| text);
        let unknown =
            unknown.or_else(|| self.each().find(|(.., kind)| *kind == kind::UNKNOWN).map(|(_, text, _)| text));
        let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let prefix = self.flag("add_space_prefix").unwrap_or(true);
        let mut normalizers = vec![replace(" ", "▁")];
        let mut decoders = vec![replace("▁", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
        if prefix {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        Ok(Parts {
            normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
            pre_tokenizer: Value::Null,
            decoder: json!({"type": "Sequence", "decoders": decoders}),
            model: json!({"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": self.numbers(), "merges": self.merges(&scores)}),
            begins: true,
        })
    }

    /// The merges that scores stand for: every way of joining two pieces to a third, the third's score descending.
    fn merges(&self, scores: &[f64]) -> Vec<[&'a str; 2]> {
        let pieces = self.each().filter(|(.., kind)| *kind == kind::NORMAL);
        let numbers: HashMap<&str, usize> = pieces.map(|(id, text, _)| (text, id)).collect();
        let mut found: Vec<(f64, [usize; 2], [&str; 2])> = Vec::new();
        for (&piece, &id) in &numbers {
            for (at, _) in piece.char_indices().skip(1) {
                let (left, right) = piece.split_at(at);
                if let (Some(&l), Some(&r)) = (numbers.get(left), numbers.get(right)) {
                    found.push((scores[id], [l, r], [left, right]));
                }
            }
        }
        found.sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(&y.1)));
        found.into_iter().map(|(.., pair)| pair).collect()
    }
}
