//! Examples to token ids for a causal language model: what is read, and from where on it is scored.
//!
//! What the files beside a tokenizer say (special tokens, the chat template) is read in `causal/special.rs`.

mod prompt;
mod special;

use std::fmt;

use tokenizers::Encoding;

use crate::chat::ChatTemplate;
use crate::tokens::bounds::{beginning, bytes_for, end, parts};
use crate::{Content, DataError, Example, Tokenizer};
pub use special::TokenizerFiles;

/// A tokenizer with what a causal language model needs besides: a token that ends a text, and a chat template where
/// conversations are to be read.
pub struct CausalTokenizer {
    tokenizer: Tokenizer,
    /// What the tokenizer writes before every text by itself: BOS, or nothing.
    first: Vec<u32>,
    bos: Option<u32>,
    eos: u32,
    chat: Result<ChatTemplate, String>,
}

/// Examples as a causal language model reads them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CausalTokens {
    /// Token ids of every example, at least two.
    pub ids: Vec<Vec<u32>>,
    /// The first token of every example that is scored: at least 1, and below the number of its tokens.
    pub from: Vec<usize>,
    /// How many examples were too long and lost something.
    pub cut: usize,
}

/// One example's tokens.
struct Encoded {
    ids: Vec<u32>,
    from: usize,
    /// Whether the first token is the one that begins every text.
    begins: bool,
    /// Whether its text was not read whole.
    shortened: bool,
}

impl CausalTokenizer {
    /// Puts a tokenizer together with the files beside it.
    ///
    /// # Errors
    /// [`DataError::SpecialToken`] if no file names a token that ends a text, or the tokenizer does not know it;
    /// [`DataError::Tokenizer`] and [`DataError::ChatTemplate`] for files that cannot be used.
    pub fn new(tokenizer: Tokenizer, files: &TokenizerFiles) -> Result<CausalTokenizer, DataError> {
        let special = files.read(&tokenizer)?;
        let empty = tokenizer.encode_whole(&[""], true)?;
        let first = empty.first().map_or(&[][..], Encoding::get_ids);
        let first = first.iter().copied().filter(|id| *id != special.eos || Some(*id) == special.bos).take(1).collect();
        Ok(CausalTokenizer { first, bos: special.bos, eos: special.eos, chat: special.chat, tokenizer })
    }

    /// The token that ends a text.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// The chat template.
    ///
    /// # Errors
    /// [`DataError::ChatTemplate`] if there is none.
    pub fn chat(&self) -> Result<&ChatTemplate, DataError> {
        self.chat.as_ref().map_err(|name| DataError::ChatTemplate {
            name: name.clone(),
            problem: "no chat_template, which data with `messages` needs; use data with `prompt` and `response`, or a \
                      model that was made for conversations"
                .to_owned(),
        })
    }

    /// Encodes the rows of a split, each cut to `max_length` tokens; `split` is what errors call it.
    ///
    /// A prompt and its response are one text to the tokenizer; the first token that begins in the response is the first
    /// one scored (one that reaches over from the prompt is not). Of a plain text everything after the first token
    /// is scored, of a conversation the assistant's last turn. What the tokenizer puts before a text (BOS) is put there
    /// once; after it comes the token that ends it, once. A chat template writes these itself.
    ///
    /// What is too long loses the end of its response, as long as half of `max_length` is left to that, then the beginning
    /// of its prompt (not BOS). At least one token is scored always.
    ///
    /// # Errors
    /// [`DataError::Setting`] for a `max_length` below 3, [`DataError::Encode`] if the tokenizer refuses a text,
    /// [`DataError::ChatTemplate`] if conversations cannot be rendered, [`DataError::Row`] for one that cannot.
    pub fn encode(
        &self,
        examples: &[Example],
        split: &'static str,
        max_length: usize,
    ) -> Result<CausalTokens, DataError> {
        if max_length < 3 {
            return Err(DataError::Setting {
                key: "max_length",
                value: max_length.to_string(),
                problem: "a text needs room for a token before the ones that are scored".to_owned(),
                expected: "at least 3".to_owned(),
            });
        }
        let mut tokens = CausalTokens::default();
        let longest = bytes_for(max_length);
        // In parts: encodings hold much more than ids.
        for examples in parts(examples, |example| bytes(example).min(2 * longest)) {
            for mut encoded in self.encode_some(examples, split, tokens.ids.len(), longest)? {
                tokens.cut += usize::from(encoded.cut_to(max_length) || encoded.shortened);
                tokens.ids.push(encoded.ids);
                tokens.from.push(encoded.from);
            }
        }
        Ok(tokens)
    }

    /// Encodes examples of which the first is `row`, none longer than `longest` bytes of prompt and as many of response.
    fn encode_some(
        &self,
        examples: &[Example],
        split: &'static str,
        row: usize,
        longest: usize,
    ) -> Result<Vec<Encoded>, DataError> {
        let text = |(at, example): (usize, &Example)| {
            let (text, from) = self.text(example, split, row + at)?;
            let (prompt, response) = text.split_at(from);
            let (prompt, response) = (end(prompt, longest), beginning(response, longest));
            match prompt.len() + response.len() < text.len() {
                false => Ok((text, from, false)),
                true => Ok((format!("{prompt}{response}"), prompt.len(), true)),
            }
        };
        let texts: Vec<(String, usize, bool)> =
            examples.iter().enumerate().map(text).collect::<Result<_, DataError>>()?;
        let chat = matches!(examples.first(), Some(Example { content: Content::Chat(_), .. }));
        let whole: Vec<&str> = texts.iter().map(|(text, ..)| text.as_str()).collect();
        // A chat template writes the special tokens itself.
        let encodings = self.tokenizer.encode_whole(&whole, !chat)?;
        let together = encodings.iter().zip(&texts).enumerate();
        together
            .map(|(at, (encoding, (_, from, shortened)))| {
                let encoded = self.encoded(encoding, *from, !chat).map(|it| Encoded { shortened: *shortened, ..it });
                let problem = "its tokens leave nothing that could be scored".to_owned();
                encoded.ok_or(DataError::Row { split, row: row + at, problem })
            })
            .collect()
    }

    /// An example's text and the byte from which it is scored.
    fn text(&self, example: &Example, split: &'static str, row: usize) -> Result<(String, usize), DataError> {
        match &example.content {
            Content::Text(text) => Ok((text.clone(), 0)),
            Content::Pair { prompt, response } => Ok((format!("{prompt}{response}"), prompt.len())),
            Content::Chat(turns) => {
                let rendered = self.chat()?.last_turn(turns);
                let rendered = rendered.map_err(|error| DataError::Row { split, row, problem: error.to_string() })?;
                Ok((rendered.text, rendered.from))
            }
        }
    }

    /// The ids with BOS and the end once each, and the first that is scored. `None` if there is no token to score.
    fn encoded(&self, encoding: &Encoding, from: usize, ends: bool) -> Option<Encoded> {
        let mut ids = encoding.get_ids().to_vec();
        let added = encoding.get_special_tokens_mask();
        let begins_at = encoding.get_offsets().iter().zip(added);
        let starts = begins_at.map(|((start, _), added)| if *added == 1 { None } else { Some(*start) });
        let mut starts: Vec<Option<usize>> = starts.collect();
        // A text that brings its own BOS must not have two.
        if let ([first, ..], [a, b, ..]) = (self.first.as_slice(), ids.as_slice())
            && a == first
            && b == first
            && starts[0].is_none()
        {
            ids.remove(0);
            starts.remove(0);
        }
        while ends && ids.len() > 1 && ids.last() == Some(&self.eos) && starts.last() == Some(&None) {
            ids.pop();
            starts.pop();
        }
        let scored = starts.iter().position(|start| start.is_some_and(|start| start >= from)).unwrap_or(ids.len());
        if ends && (ids.last() != Some(&self.eos) || ids.len() <= scored.max(1)) {
            ids.push(self.eos);
        }
        let begins = ids.first().is_some_and(|id| Some(*id) == self.bos || self.first.first() == Some(id));
        let from = scored.max(1);
        (from < ids.len()).then_some(Encoded { ids, from, begins, shortened: false })
    }
}

/// How long an example's text is, a chat template's own words not counted.
fn bytes(example: &Example) -> usize {
    match &example.content {
        Content::Text(text) => text.len(),
        Content::Pair { prompt, response } => prompt.len() + response.len(),
        Content::Chat(turns) => turns.iter().map(|turn| turn.content.len()).sum(),
    }
}

impl Encoded {
    /// Cuts the example to `longest` tokens; whether it had to.
    fn cut_to(&mut self, longest: usize) -> bool {
        if self.ids.len() <= longest {
            return false;
        }
        let response = self.ids.len() - self.from;
        let kept = response.min((longest / 2).max(longest.saturating_sub(self.from)));
        self.ids.truncate(self.from + kept);
        let surplus = self.ids.len().saturating_sub(longest);
        let first = usize::from(self.begins);
        self.ids.drain(first..first + surplus);
        self.from -= surplus;
        true
    }
}

impl fmt::Debug for CausalTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CausalTokenizer({:?}, ends with {})", self.tokenizer, self.eos)
    }
}
