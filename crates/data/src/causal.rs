//! Examples to token ids for a causal language model: what is read, and from where on it is scored.
//!
//! What the files beside a tokenizer say (special tokens, the chat template) is read in `causal/special.rs`.

mod prompt;
mod special;

use std::fmt;
use std::ops::Range;

use tokenizers::Encoding;

use crate::chat::ChatTemplate;
use crate::tokens::bounds::{beginning, bytes_for, end, parts};
use crate::{Content, DataError, Example, Score, Tokenizer};
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
    /// The tokens of every example that are scored, in order: at least one, never the first.
    pub scored: Vec<Vec<Range<usize>>>,
    /// How many examples were too long and lost something.
    pub cut: usize,
}

/// One example's tokens.
struct Encoded {
    ids: Vec<u32>,
    scored: Vec<Range<usize>>,
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

    /// The tokenizer itself.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
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
    /// is scored, of a conversation what `score` says. What the tokenizer puts before a text (BOS) is put there
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
        score: Score,
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
            for mut encoded in self.encode_some(examples, split, tokens.ids.len(), longest, score)? {
                tokens.cut += usize::from(encoded.cut_to(max_length) || encoded.shortened);
                tokens.ids.push(encoded.ids);
                tokens.scored.push(encoded.scored);
            }
        }
        Ok(tokens)
    }

    /// Encodes examples of which the first is `row`, none longer than `longest` bytes before what is scored first and as many
    /// from there on.
    fn encode_some(
        &self,
        examples: &[Example],
        split: &'static str,
        row: usize,
        longest: usize,
        score: Score,
    ) -> Result<Vec<Encoded>, DataError> {
        let text = |(at, example): (usize, &Example)| {
            let (text, spans) = self.text(example, split, row + at, score)?;
            Ok::<_, DataError>(within_bytes(text, spans, longest))
        };
        let texts: Vec<(String, Vec<Range<usize>>, bool)> =
            examples.iter().enumerate().map(text).collect::<Result<_, _>>()?;
        let is_chat = |example: &Example| matches!(example.content, Content::Chat(_));
        let whole: Vec<&str> = texts.iter().map(|(text, ..)| text.as_str()).collect();
        // A chat template writes the special tokens itself.
        let chat = examples.first().is_some_and(is_chat);
        let encodings = self.tokenizer.encode_whole(&whole, !chat)?;
        let together = encodings.iter().zip(&texts).enumerate();
        together
            .map(|(at, (encoding, (_, spans, shortened)))| {
                let encoded = self.encoded(encoding, spans, !chat).map(|it| Encoded { shortened: *shortened, ..it });
                let problem = "its tokens leave nothing that could be scored".to_owned();
                encoded.ok_or(DataError::Row { split, row: row + at, problem })
            })
            .collect()
    }

    /// An example's text and the bytes that are scored.
    fn text(
        &self,
        example: &Example,
        split: &'static str,
        row: usize,
        score: Score,
    ) -> Result<(String, Vec<Range<usize>>), DataError> {
        let to_the_end = |text: String, from: usize| {
            let all = from..text.len();
            (text, vec![all])
        };
        match &example.content {
            Content::Text(text) => Ok(to_the_end(text.clone(), 0)),
            Content::Two(first, second) => Ok(to_the_end(format!("{first}\n{second}"), 0)),
            Content::Words(words) => Ok(to_the_end(words.join(" "), 0)),
            Content::Pair { prompt, response } => Ok(to_the_end(format!("{prompt}{response}"), prompt.len())),
            Content::Chat(talk) => {
                let rendered = self.chat()?.scored(talk, score);
                let rendered = rendered.map_err(|error| DataError::Row { split, row, problem: error.to_string() })?;
                Ok((rendered.text, rendered.scored))
            }
        }
    }

    /// The ids with BOS and the end once each, and the tokens that are scored: those that begin in `spans`. `None` if there is no
    /// token to score.
    fn encoded(&self, encoding: &Encoding, spans: &[Range<usize>], ends: bool) -> Option<Encoded> {
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
        let mut scored = if ends { to_the_end(&starts, spans) } else { within(&starts, spans) };
        let first = scored.first().map_or(ids.len(), |range| range.start);
        if ends && (ids.last() != Some(&self.eos) || ids.len() <= first.max(1)) {
            ids.push(self.eos);
            match scored.last_mut() {
                Some(range) => range.end = ids.len(),
                None => scored.push(ids.len() - 1..ids.len()),
            }
        }
        scored.iter_mut().for_each(|range| range.start = range.start.max(1));
        scored.retain(|range| !range.is_empty());
        let begins = ids.first().is_some_and(|id| Some(*id) == self.bos || self.first.first() == Some(id));
        (!scored.is_empty()).then_some(Encoded { ids, scored, begins, shortened: false })
    }
}

/// All tokens from the first one on that begins in the first span or later.
fn to_the_end(starts: &[Option<usize>], spans: &[Range<usize>]) -> Vec<Range<usize>> {
    let from = spans.first().map_or(0, |span| span.start);
    let first = starts.iter().position(|start| start.is_some_and(|start| start >= from));
    first.map(|first| first..starts.len()).into_iter().collect()
}

/// Runs of tokens that begin in one of the spans.
fn within(starts: &[Option<usize>], spans: &[Range<usize>]) -> Vec<Range<usize>> {
    let (mut runs, mut span): (Vec<Range<usize>>, usize) = (Vec::new(), 0);
    for (token, start) in starts.iter().enumerate() {
        let Some(start) = *start else { continue };
        while spans.get(span).is_some_and(|span| span.end <= start) {
            span += 1;
        }
        if !spans.get(span).is_some_and(|span| span.contains(&start)) {
            continue;
        }
        match runs.last_mut().filter(|run| run.end == token) {
            Some(run) => run.end += 1,
            None => runs.push(token..token + 1),
        }
    }
    runs
}

/// A text of which at most `longest` bytes are left before what is scored first, and as many from there on; what is scored of
/// it, and whether it lost something.
fn within_bytes(text: String, mut spans: Vec<Range<usize>>, longest: usize) -> (String, Vec<Range<usize>>, bool) {
    let first = spans.first().map_or(text.len(), |span| span.start);
    let (before, after) = (end(&text[..first], longest), beginning(&text[first..], longest));
    if before.len() + after.len() == text.len() {
        return (text, spans, false);
    }
    let (lost, length) = (first - before.len(), before.len() + after.len());
    spans.iter_mut().for_each(|span| *span = (span.start - lost).min(length)..(span.end - lost).min(length));
    spans.retain(|span| !span.is_empty());
    (format!("{before}{after}"), spans, true)
}

/// How long an example's text is, a chat template's own words not counted.
fn bytes(example: &Example) -> usize {
    match &example.content {
        Content::Text(text) => text.len(),
        Content::Two(first, second) => first.len() + second.len(),
        Content::Words(words) => words.iter().map(|word| word.len() + 1).sum(),
        Content::Pair { prompt, response } => prompt.len() + response.len(),
        Content::Chat(talk) => talk.turns.iter().map(|turn| turn.content().len()).sum(),
    }
}

impl Encoded {
    /// Cuts the example to `longest` tokens; whether it had to. What is scored first keeps a token at least.
    fn cut_to(&mut self, longest: usize) -> bool {
        if self.ids.len() <= longest {
            return false;
        }
        let from = self.scored[0].start;
        let rest = self.ids.len() - from;
        let kept = rest.min((longest / 2).max(longest.saturating_sub(from)));
        self.ids.truncate(from + kept);
        let surplus = self.ids.len().saturating_sub(longest);
        let first = usize::from(self.begins);
        self.ids.drain(first..first + surplus);
        let end = self.ids.len();
        for range in &mut self.scored {
            *range = range.start.saturating_sub(surplus).min(end)..range.end.saturating_sub(surplus).min(end);
        }
        self.scored.retain(|range| !range.is_empty());
        true
    }
}

impl fmt::Debug for CausalTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CausalTokenizer({:?}, ends with {})", self.tokenizer, self.eos)
    }
}
