//! What the files beside a `tokenizer.json` say: the tokens that begin and end a text, and the chat template.

use serde_json::{Map, Value};

use crate::chat::ChatTemplate;
use crate::{DataError, Tokenizer};

/// The files beside a `tokenizer.json`, each with the name that errors call it.
#[derive(Debug, Clone, Default)]
pub struct TokenizerFiles {
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<(Vec<u8>, String)>,
    /// `chat_template.jinja`, which goes before a template in `tokenizer_config.json`.
    pub chat_template: Option<(Vec<u8>, String)>,
    /// `generation_config.json`.
    pub generation_config: Option<(Vec<u8>, String)>,
    /// `eos_token_id` of `config.json`, the first of a list.
    pub model_eos: Option<u32>,
}

/// What they say.
pub(super) struct Special {
    pub bos: Option<u32>,
    pub eos: u32,
    /// The template, or the file that has none.
    pub chat: Result<ChatTemplate, String>,
}

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

impl TokenizerFiles {
    pub(super) fn read(&self, tokenizer: &Tokenizer) -> Result<Special, DataError> {
        let config = object(self.tokenizer_config.as_ref())?;
        let name = self.tokenizer_config.as_ref().map_or(TOKENIZER_CONFIG, |(_, name)| name);
        let [bos, eos] = ["bos_token", "eos_token"].map(|key| token(&config, key));
        let known = |key: &str, text: &str| {
            tokenizer.token_id(text).ok_or_else(|| DataError::SpecialToken {
                file: name.to_owned(),
                problem: format!("`{key}` is {text:?}, which the vocabulary of {} does not have", tokenizer.name()),
                expected: "use a tokenizer_config.json that belongs to the tokenizer.json".to_owned(),
            })
        };
        let (eos, eos_text) = match eos {
            Some(text) => (known("eos_token", &text)?, text),
            None => self.eos_by_id(tokenizer, name)?,
        };
        // Many tokenizers name a BOS that they never write, so one out of the vocabulary harms nobody.
        let bos_id = bos.as_deref().and_then(|text| tokenizer.token_id(text));
        let chat = match self.template(&config)? {
            Some((source, file)) => {
                let mut all = tokens(&config);
                if !all.iter().any(|(key, _)| key == "eos_token") {
                    all.push(("eos_token".to_owned(), eos_text));
                }
                let all: Vec<(&str, &str)> = all.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect();
                Ok(ChatTemplate::parse(&source, file, &all)?)
            }
            None => Err(name.to_owned()),
        };
        Ok(Special { bos: bos_id, eos, chat })
    }

    /// The end of a text where only its number is given.
    fn eos_by_id(&self, tokenizer: &Tokenizer, name: &str) -> Result<(u32, String), DataError> {
        let generation = object(self.generation_config.as_ref())?;
        let id = match generation.get("eos_token_id") {
            Some(Value::Array(list)) => list.first().and_then(Value::as_u64),
            Some(one) => one.as_u64(),
            None => None,
        };
        let id =
            id.and_then(|id| u32::try_from(id).ok()).or(self.model_eos).ok_or_else(|| DataError::SpecialToken {
                file: name.to_owned(),
                problem: format!(
                    "{} `eos_token`, and neither generation_config.json nor config.json names an `eos_token_id`",
                    if self.tokenizer_config.is_some() { "has no" } else { "is not there to name an" }
                ),
                expected: "a causal language model needs a token that ends a text; add \"eos_token\": \"…\" to \
                       tokenizer_config.json"
                    .to_owned(),
            })?;
        let text = tokenizer.token(id).ok_or_else(|| DataError::SpecialToken {
            file: "eos_token_id".to_owned(),
            problem: format!("{id} is not in the vocabulary of {}", tokenizer.name()),
            expected: "use files that belong together".to_owned(),
        })?;
        Ok((id, text))
    }

    /// The chat template and the file it is in.
    fn template(&self, config: &Map<String, Value>) -> Result<Option<(String, &str)>, DataError> {
        if let Some((bytes, name)) = &self.chat_template {
            let text = String::from_utf8(bytes.clone());
            let text = text.map_err(|_| DataError::NotUtf8 { path: name.into(), line: 1 })?;
            return Ok(Some((text, name)));
        }
        let name = self.tokenizer_config.as_ref().map_or(TOKENIZER_CONFIG, |(_, name)| name);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let found = match config.get("chat_template") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(named)) => {
                let is_default = |of: &&Value| of.get("name").and_then(Value::as_str) == Some("default");
                let only = if named.len() == 1 { named.first() } else { None };
                named.iter().find(is_default).or(only).and_then(|of| of.get("template")).and_then(text)
            }
            Some(one) => text(one),
        };
        let problem = "`chat_template` is neither a template nor a list of named ones with a \"default\"".to_owned();
        found.map(|text| Some((text, name))).ok_or(DataError::ChatTemplate { name: name.to_owned(), problem })
    }
}

/// A file that holds one JSON object; empty where there is none.
fn object(file: Option<&(Vec<u8>, String)>) -> Result<Map<String, Value>, DataError> {
    let Some((bytes, name)) = file else { return Ok(Map::new()) };
    serde_json::from_slice(bytes).map_err(|error| DataError::SpecialToken {
        file: name.clone(),
        problem: format!("not a JSON object ({error})"),
        expected: "fetch the file again".to_owned(),
    })
}

/// The special tokens by name, as Transformers hands them to a template: every `…_token` that is one.
fn tokens(config: &Map<String, Value>) -> Vec<(String, String)> {
    let named = config.keys().filter(|key| key.ends_with("_token") && !key.starts_with("add_"));
    named.filter_map(|key| Some((key.clone(), token(config, key)?))).collect()
}

/// A token by its text, or as an object that holds it as `content`.
fn token(config: &Map<String, Value>, key: &str) -> Option<String> {
    let value = config.get(key)?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}
