//! Prompts alone, for generation, and the way back from token ids to text.

use super::CausalTokenizer;
use crate::{Content, Conversation, DataError, Message};

impl CausalTokenizer {
    /// The tokens of a text that is to be continued: as in training, without the token that ends it.
    ///
    /// # Errors
    /// [`DataError::Encode`] if the tokenizer refuses the text.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let ids = self.ids(text, true)?;
        // Some tokenizers end every text by themselves.
        let end = ids.iter().rposition(|id| *id != self.eos).map_or(0, |last| last + 1);
        Ok(ids[..end].to_vec())
    }

    /// The tokens of what is asked, which a response is to follow: a prompt, a text to be continued, or a conversation in which the
    /// assistant is to speak.
    ///
    /// # Errors
    /// As [`Self::prompt`] and [`Self::chat_prompt`].
    pub fn question(&self, content: &Content) -> Result<Vec<u32>, DataError> {
        match content {
            Content::Pair { prompt: text, .. } | Content::Text(text) => self.prompt(text),
            Content::Two(first, second) => self.prompt(&format!("{first}\n{second}")),
            Content::Words(words) => self.prompt(&words.join(" ")),
            Content::Chat(talk) => self.ids(&self.chat()?.render(talk, true)?, false),
        }
    }

    /// The tokens of a conversation in which a user has said `text` and the assistant is to speak.
    ///
    /// # Errors
    /// [`DataError::ChatTemplate`] if there is no template or it does not work, [`DataError::Encode`].
    pub fn chat_prompt(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let said = Conversation::from(vec![Message::new("user", text)]);
        self.ids(&self.chat()?.render(&said, true)?, false)
    }

    /// The text that the tokens `new` add to that of `prompt`, special tokens left out.
    ///
    /// # Errors
    /// [`DataError::Encode`] if the tokenizer cannot decode them.
    pub fn continuation(&self, prompt: &[u32], new: &[u32]) -> Result<String, DataError> {
        // Decoders write the first token of a text otherwise than the same token elsewhere.
        let (before, all) = (self.tokenizer.decode(prompt)?, self.tokenizer.decode(&[prompt, new].concat())?);
        all.strip_prefix(&before).map_or_else(|| self.tokenizer.decode(new), |rest| Ok(rest.to_owned()))
    }

    fn ids(&self, text: &str, special: bool) -> Result<Vec<u32>, DataError> {
        let encoded = self.tokenizer.encode_whole(&[text], special)?;
        Ok(encoded.first().map(|e| e.get_ids().to_vec()).unwrap_or_default())
    }
}
