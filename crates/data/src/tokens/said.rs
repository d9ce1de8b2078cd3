//! The settings of `tokenizer_config.json`, which stands beside `tokenizer.json`, obeyed as Transformers' AutoTokenizer obeys it: the side at
//! which texts are cut, and for BERT's tokenizers casing, accents and the tokens around a text. A key that is
//! missing leaves things as `tokenizer.json` has them.

use serde::Deserialize;
use serde_json::Value;
use tokenizers::normalizers::{BertNormalizer, NormalizerWrapper};
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{PostProcessorWrapper, TruncationDirection};

use super::Tokenizer;
use crate::DataError;

#[derive(Default, Deserialize)]
struct Said {
    tokenizer_class: Option<String>,
    truncation_side: Option<String>,
    do_lower_case: Option<bool>,
    strip_accents: Option<bool>,
    tokenize_chinese_chars: Option<bool>,
    cls_token: Option<Value>,
    sep_token: Option<Value>,
}

impl Said {
    /// Whether Transformers makes a tokenizer of BERT's kind of it: other classes take `tokenizer.json` as it is.
    fn is_berts(&self) -> bool {
        let class = self.tokenizer_class.as_deref().map(|class| class.strip_suffix("Fast").unwrap_or(class));
        class.is_none_or(|class| {
            ["BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MPNetTokenizer"].contains(&class)
        })
    }
}

impl Tokenizer {
    /// The same tokenizer as the bytes of a `tokenizer_config.json` want it; `name` is what errors call those.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] if the bytes are no such file, or name a side or a token that there is not.
    pub fn obeying(mut self, json: &[u8], name: &str) -> Result<Tokenizer, DataError> {
        let bad = |problem: String| DataError::Tokenizer { name: name.to_owned(), problem };
        let said: Said =
            serde_json::from_slice(json).map_err(|e| bad(format!("not a tokenizer's configuration: {e}")))?;
        match said.truncation_side.as_deref() {
            None => {}
            Some("left") => self.direction = TruncationDirection::Left,
            Some("right") => self.direction = TruncationDirection::Right,
            Some(other) => return Err(bad(format!("truncation_side is \"{other}\"; expected \"left\" or \"right\""))),
        }
        let normalizer = match self.inner.get_normalizer() {
            Some(NormalizerWrapper::BertNormalizer(normalizer)) if said.is_berts() => *normalizer,
            _ => return Ok(self),
        };
        let wanted = BertNormalizer::new(
            normalizer.clean_text,
            said.tokenize_chinese_chars.unwrap_or(normalizer.handle_chinese_chars),
            said.strip_accents.or(normalizer.strip_accents),
            said.do_lower_case.unwrap_or(normalizer.lowercase),
        );
        self.inner.with_normalizer(Some(wanted));
        let (cls, sep) = (content(said.cls_token.as_ref()), content(said.sep_token.as_ref()));
        if cls.or(sep).is_some() {
            let (cls, sep) = (cls.unwrap_or("[CLS]"), sep.unwrap_or("[SEP]"));
            let pair = |key: &str, token: &str| match self.inner.token_to_id(token) {
                Some(id) => Ok((token.to_owned(), id)),
                None => Err(bad(format!("{key} is \"{token}\", which {} does not have", self.name))),
            };
            let around = BertProcessing::new(pair("sep_token", sep)?, pair("cls_token", cls)?);
            self.inner.with_post_processor(Some(PostProcessorWrapper::Bert(around)));
        }
        Ok(self)
    }
}

/// A token, which is a text or an object with one.
fn content(token: Option<&Value>) -> Option<&str> {
    token.and_then(|token| token.as_str().or(token["content"].as_str()))
}
