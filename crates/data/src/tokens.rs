//! Texts to token ids. The file says how a text is split; this wrapper says how long it may be, and that a file made to
//! do harm ends in an error.

pub(crate) mod bounds;
mod expansion_limit;
mod said;

use std::fmt;
use std::fs;
use std::path::Path;

use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{EncodeInput, Encoding, PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy};

use crate::DataError;
use crate::catch_panic::catch_panic;
use bounds::{beginning, bytes_for, end, parts};

/// The most bytes that a normalizer may make of one text. The library holds some thirty bytes for each.
const LONGEST: f64 = 64.0 * 1024.0 * 1024.0;

/// A text or a pair of texts to be classified, as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classified {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// The first token of type 1, from which on all are; the number of tokens where there is none.
    pub second: usize,
    /// Whether something was cut off.
    pub cut: bool,
}

/// A sentence's words as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worded {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// Of every word its first token; `None`: it was cut off, or the tokenizer makes nothing of it.
    pub first: Vec<Option<usize>>,
    /// Whether something was cut off.
    pub cut: bool,
}

/// A Hugging Face tokenizer whose own padding and truncation are switched off.
///
/// Nothing in the engine is padded, and the length is a setting of the run, not of the file.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    name: String,
    vocab_size: usize,
    direction: TruncationDirection,
    /// How much longer its normalizer can make a text.
    growth: f64,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`DataError::Read`] if the file cannot be read, [`DataError::Tokenizer`] if it is not a tokenizer.
    pub fn from_file(path: &Path) -> Result<Tokenizer, DataError> {
        let bytes = fs::read(path).map_err(|source| DataError::Read { path: path.to_path_buf(), source })?;
        Tokenizer::from_bytes(&bytes, &path.display().to_string())
    }

    /// Reads the bytes of a `tokenizer.json`; `name` is what errors call it.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] if the bytes are not a tokenizer or it has no tokens.
    pub fn from_bytes(bytes: &[u8], name: &str) -> Result<Tokenizer, DataError> {
        let bad = |problem: String| DataError::Tokenizer { name: name.to_owned(), problem };
        let growth = expansion_limit::check(bytes).map_err(bad)?;
        // The library panics on some files that contradict themselves.
        let opened = catch_panic(|| open(bytes)).unwrap_or_else(|panic| Err(format!("it contradicts itself: {panic}")));
        let (inner, direction) = opened.map_err(bad)?;
        let highest = inner.get_vocab(true).into_values().max();
        let highest = highest.ok_or_else(|| bad("its vocabulary is empty".to_owned()))?;
        Ok(Tokenizer { inner, name: name.to_owned(), vocab_size: highest as usize + 1, direction, growth })
    }

    /// The rows an embedding needs for every id this tokenizer can give: the highest id, added tokens
    /// included, plus one.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of a token such as `[MASK]`, if the vocabulary has it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// What errors call it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The token with this id, if the vocabulary has it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Encodes texts at their whole length, with places in bytes; `special` asks for the special tokens of the file.
    pub(crate) fn encode_whole(&self, texts: &[&str], special: bool) -> Result<Vec<Encoding>, DataError> {
        self.refuse_growth(texts.iter().map(|text| text.len()).max().unwrap_or(0))?;
        self.contained(|| self.inner.encode_batch(texts.to_vec(), special))
    }

    /// The text of token ids, special tokens left out.
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        self.contained(|| self.inner.decode(ids, true))
    }

    /// Encodes texts with the special tokens of the file, each cut to `max_length` tokens with those
    /// included. An empty text gives the special tokens alone.
    ///
    /// # Errors
    /// As for [`Tokenizer::classified`].
    pub fn encode(&self, texts: &[&str], max_length: usize) -> Result<Vec<Vec<u32>>, DataError> {
        let texts: Vec<(&str, Option<&str>)> = texts.iter().map(|text| (*text, None)).collect();
        Ok(self.classified(&texts, max_length)?.into_iter().map(|text| text.ids).collect())
    }

    /// Encodes texts and pairs of texts as the file's template puts them together, each cut to `max_length` tokens; of a pair the
    /// longer text loses tokens first, as by Transformers' `truncation=True`.
    ///
    /// # Errors
    /// [`DataError::Setting`] if `max_length` leaves no room beside the special tokens,
    /// [`DataError::Encode`] if the tokenizer refuses a text (a word without an unknown token).
    pub fn classified(&self, texts: &[(&str, Option<&str>)], max_length: usize) -> Result<Vec<Classified>, DataError> {
        let pairs = texts.iter().any(|(_, second)| second.is_some());
        let tokenizer = self.cut_to(max_length, pairs)?;
        let longest = bytes_for(max_length);
        let read = |text: &str| match self.direction {
            TruncationDirection::Right => beginning(text, longest).to_owned(),
            TruncationDirection::Left => end(text, longest).to_owned(),
        };
        let size = |(first, second): &(&str, Option<&str>)| first.len().max(second.map_or(0, str::len)).min(longest);
        let mut all = Vec::with_capacity(texts.len());
        // In parts: the library's encodings hold a hundred bytes a byte of text, of which little is kept.
        for part in parts(texts, |pair| 2 * size(pair)) {
            self.refuse_growth(part.iter().map(size).max().unwrap_or(0))?;
            let input = |(first, second): &(&'_ str, Option<&'_ str>)| match second {
                Some(second) => EncodeInput::Dual(read(first).into(), read(second).into()),
                None => EncodeInput::Single(read(first).into()),
            };
            let inputs: Vec<EncodeInput> = part.iter().map(input).collect();
            let encodings = self.contained(|| tokenizer.encode_batch_fast(inputs, true))?;
            for (encoding, pair) in encodings.iter().zip(part) {
                let shortened = pair.0.len() > longest || pair.1.is_some_and(|second| second.len() > longest);
                let text = self.classified_one(encoding)?;
                all.push(Classified { cut: text.cut || shortened, ..text });
            }
        }
        Ok(all)
    }

    /// Encodes sentences that are split into words, each cut to `max_length` tokens, as Transformers does with `is_split_into_words`.
    ///
    /// A byte-level tokenizer sees a space before every word, as it does in running text: for RoBERTa that is what Transformers asks for
    /// with `add_prefix_space`.
    ///
    /// # Errors
    /// As for [`Tokenizer::classified`].
    pub fn words(&self, sentences: &[&[String]], max_length: usize) -> Result<Vec<Worded>, DataError> {
        let tokenizer = self.cut_to(max_length, false)?;
        let longest = bytes_for(max_length);
        let spaced = self.inner.get_pre_tokenizer().is_some_and(lacks_space);
        let size = |sentence: &&[String]| sentence.iter().map(|word| word.len() + 1).sum::<usize>().min(longest);
        let mut all = Vec::with_capacity(sentences.len());
        for part in parts(sentences, |sentence| 2 * size(sentence)) {
            self.refuse_growth(part.iter().map(size).max().unwrap_or(0))?;
            let read: Vec<std::ops::Range<usize>> = part.iter().map(|words| self.words_read(words, longest)).collect();
            let word = |word: &String| {
                let word = beginning(word, longest);
                if spaced && !word.starts_with(char::is_whitespace) { format!(" {word}") } else { word.to_owned() }
            };
            let input = |(words, read): (&&[String], &std::ops::Range<usize>)| {
                EncodeInput::Single(words[read.clone()].iter().map(word).collect::<Vec<String>>().into())
            };
            let inputs: Vec<EncodeInput> = part.iter().zip(&read).map(input).collect();
            let encodings = self.contained(|| tokenizer.encode_batch(inputs, true))?;
            for ((encoding, words), read) in encodings.iter().zip(part).zip(read) {
                let mut first = vec![None; words.len()];
                for (token, word) in encoding.get_word_ids().iter().enumerate() {
                    if let Some(word) = word {
                        first[read.start + *word as usize].get_or_insert(token);
                    }
                }
                let cut = read.len() < words.len() || !encoding.get_overflowing().is_empty();
                all.push(Worded { ids: encoding.get_ids().to_vec(), first, cut });
            }
        }
        Ok(all)
    }

    /// The words of a sentence that are looked at: as many as `longest` bytes hold, from the end that is kept.
    fn words_read(&self, words: &[String], longest: usize) -> std::ops::Range<usize> {
        let mut bytes = 0;
        let mut fits = |word: &&String| {
            bytes += word.len() + 1;
            bytes <= longest
        };
        match self.direction {
            TruncationDirection::Right => 0..words.iter().take_while(&mut fits).count().max(1).min(words.len()),
            TruncationDirection::Left => {
                let kept = words.iter().rev().take_while(&mut fits).count().max(1).min(words.len());
                words.len() - kept..words.len()
            }
        }
    }

    /// Refuses texts that the file could make longer than memory is likely to hold.
    fn refuse_growth(&self, longest: usize) -> Result<(), DataError> {
        let grown = longest as f64 * self.growth;
        if grown > LONGEST {
            Err(self.failed(&format!(
                "its normalizer could make a text of {longest} bytes {:.0} times as long, {grown:.1e} bytes; at most \
                 {LONGEST:.1e} are allowed: use a shorter data.max_length",
                self.growth
            )))
        } else {
            Ok(())
        }
    }

    fn classified_one(&self, encoding: &Encoding) -> Result<Classified, DataError> {
        let (ids, types) = (encoding.get_ids().to_vec(), encoding.get_type_ids());
        let second = types.iter().position(|of| *of != 0).unwrap_or(ids.len());
        if types[second..].iter().any(|of| *of != 1) {
            return Err(self.failed("its template gives token types other than 0 and then 1"));
        }
        Ok(Classified { ids, second, cut: !encoding.get_overflowing().is_empty() })
    }

    /// A copy that truncates. Truncation is part of the tokenizer's state, and a copy (milliseconds, once a
    /// run) keeps `encode` free of `&mut`.
    fn cut_to(&self, max_length: usize, pairs: bool) -> Result<tokenizers::Tokenizer, DataError> {
        let special = self.inner.get_post_processor().map_or(0, |post| post.added_tokens(pairs));
        // The library subtracts without a check.
        if max_length <= special {
            return Err(DataError::Setting {
                key: "max_length",
                value: max_length.to_string(),
                problem: format!(
                    "{} adds {special} special tokens to every {}",
                    self.name,
                    if pairs { "pair" } else { "text" }
                ),
                expected: format!("at least {}", special + 1),
            });
        }
        let mut tokenizer = self.inner.clone();
        tokenizer
            .with_truncation(Some(TruncationParams {
                max_length,
                strategy: TruncationStrategy::LongestFirst,
                stride: 0,
                direction: self.direction,
            }))
            .map_err(|error| self.failed(&error.to_string()))?;
        Ok(tokenizer)
    }

    /// What the library makes of a text; it panics where a file that contradicts itself could still be opened.
    fn contained<T>(&self, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, DataError> {
        let done = catch_panic(work).map_err(|panic| self.failed(&panic))?;
        done.map_err(|error| self.failed(&error.to_string()))
    }

    fn failed(&self, problem: &str) -> DataError {
        DataError::Encode { name: self.name.clone(), problem: problem.to_owned() }
    }
}

/// Whether words are split into bytes, and nothing puts a space before them.
fn lacks_space(splits: &PreTokenizerWrapper) -> bool {
    match splits {
        PreTokenizerWrapper::ByteLevel(bytes) => !bytes.add_prefix_space,
        PreTokenizerWrapper::Sequence(steps) => steps.as_ref().iter().any(lacks_space),
        _ => false,
    }
}

/// A tokenizer without its own padding and truncation, and the end at which it would cut.
fn open(bytes: &[u8]) -> Result<(tokenizers::Tokenizer, TruncationDirection), String> {
    let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| error.to_string())?;
    let direction = inner.get_truncation().map_or(TruncationDirection::Right, |own| own.direction);
    inner.with_padding(None);
    inner.with_truncation(None).map_err(|error| error.to_string())?;
    Ok((inner, direction))
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokenizer({}, {} tokens)", self.name, self.vocab_size)
    }
}
