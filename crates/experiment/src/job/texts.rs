//! From texts to token ids, as the model reads them.

use std::ops::Range;

use anyhow::{Result, bail};
use bonfire_data::{CausalTokenizer, CausalTokens, Content, Dataset, Example, Tokenizer, TokenizerFiles};
use bonfire_engine::{Split, TokenizedData};
use bonfire_federation::EvaluateOn;
use bonfire_models::{Goal, ModelInfo, ModelSource, Task};

use super::said::placed;
use crate::config::{CheckedConfig, TaskKind};
use crate::log::note;
use crate::user_error::UserError;

/// Turns the splits that a run reads into token ids for `model`, by the tokenizer in `source`.
///
/// # Errors
/// No usable tokenizer beside the model, one with more tokens than the model, or a `data.max_length` above the model's.
pub fn tokens(
    loaded: &CheckedConfig,
    data: &Dataset,
    source: &ModelSource,
    model: &ModelInfo,
) -> Result<TokenizedData> {
    let encoder = Encoder::open(loaded, source, model)?;
    let (train, of_train) = encoder.split(&data.train, "train")?;
    let (test, of_test) = encoder.split(&data.test, "test")?;
    let wanted = loaded.config.evaluate.on == EvaluateOn::Validation;
    let (validation, of_validation) =
        if wanted { encoder.split(&data.validation, "validation")? } else { (Split::default(), 0) };
    if wanted && validation.is_empty() {
        return Err(UserError::new("`evaluate.on` = \"validation\", and there is no validation split")
            .at(Some(loaded.place_of("evaluate.on")))
            .help("name one with data.validation, or draw one: data.split = { validation = 0.1 }")
            .into());
    }
    encoder.tell(of_train + of_validation + of_test, train.len() + validation.len() + test.len());
    let task = match &encoder.kind {
        Kind::Labelled { numbers: true, .. } => Task::Regress,
        Kind::Labelled { .. } => Task::Classify(data.labels.len()),
        Kind::Causal(_) => Task::Causal,
    };
    Ok(TokenizedData { train, validation, test, task })
}

/// Turns the rows of one split, which errors call `name`, into token ids.
///
/// # Errors
/// As [`tokens`].
pub fn split_tokens(
    loaded: &CheckedConfig,
    examples: &[Example],
    name: &'static str,
    source: &ModelSource,
    model: &ModelInfo,
) -> Result<Split> {
    let encoder = Encoder::open(loaded, source, model)?;
    let (split, cut) = encoder.split(examples, name)?;
    encoder.tell(cut, split.len());
    Ok(split)
}

/// What turns texts into tokens.
enum Kind {
    /// Texts with a class, or with a number.
    Labelled {
        tokenizer: Box<Tokenizer>,
        numbers: bool,
    },
    Causal(Box<CausalTokenizer>),
}

/// The tokenizer of a run's model.
struct Encoder<'l> {
    loaded: &'l CheckedConfig,
    kind: Kind,
    /// Where it comes from, and the model that reads its tokens.
    source: &'l ModelSource,
    model: &'l ModelInfo,
    /// Whether the model has embeddings for the second text of a pair.
    knows_types: bool,
}

impl<'l> Encoder<'l> {
    fn open(loaded: &'l CheckedConfig, source: &'l ModelSource, model: &'l ModelInfo) -> Result<Encoder<'l>> {
        let longest = loaded.config.data.max_length;
        if longest > model.max_tokens() {
            return Err(UserError::new(format!("data.max_length = {longest} is more than the model can read"))
                .at(Some(loaded.place_of("data.max_length")))
                .help(format!("use at most {}", model.max_tokens()))
                .into());
        }
        let tokenizer = tokenizer(source)?;
        let kind = match loaded.config.model.task {
            task @ (TaskKind::Classification | TaskKind::Regression) => {
                Kind::Labelled { tokenizer: Box::new(tokenizer), numbers: task == TaskKind::Regression }
            }
            TaskKind::CausalLm => Kind::Causal(Box::new(causal_tokenizer(source, tokenizer, model)?)),
        };
        Ok(Encoder { loaded, kind, source, model, knows_types: model.token_types > 1 })
    }

    /// The split, and how many of its texts were cut.
    fn split(&self, examples: &[Example], name: &'static str) -> Result<(Split, usize)> {
        let (tokenizer, (split, cut)) = match &self.kind {
            Kind::Labelled { tokenizer, numbers } => {
                (tokenizer.as_ref(), self.labelled(examples, tokenizer, *numbers)?)
            }
            Kind::Causal(causal) => (causal.tokenizer(), self.causal(examples, name, causal)?),
        };
        refuse_tokens_beyond(&split, tokenizer, self.source, self.model)?;
        Ok((split, cut))
    }

    fn labelled(&self, examples: &[Example], tokenizer: &Tokenizer, numbers: bool) -> Result<(Split, usize)> {
        let mut texts: Vec<(&str, Option<&str>)> = Vec::with_capacity(examples.len());
        texts.extend(examples.iter().map(|example| match &example.content {
            Content::Two(first, second) => (first.as_str(), Some(second.as_str())),
            _ => (example.text(), None),
        }));
        let longest = self.loaded.config.data.max_length;
        let encoded = tokenizer.classified(&texts, longest).map_err(|error| placed(self.loaded, error))?;
        let (mut split, mut cut) = (Split::default(), 0);
        for (text, example) in encoded.into_iter().zip(examples) {
            cut += usize::from(text.cut);
            let second = (self.knows_types && text.second < text.ids.len()).then_some(text.second);
            split.goals.push(match second {
                second if numbers => Goal::Value { value: example.value as f32, second },
                Some(second) => Goal::PairClass { class: example.label, second },
                None => Goal::Class(example.label),
            });
            split.ids.push(text.ids);
        }
        Ok((split, cut))
    }

    fn causal(&self, examples: &[Example], name: &'static str, tokenizer: &CausalTokenizer) -> Result<(Split, usize)> {
        let section = &self.loaded.config.data;
        let tokens = tokenizer.encode(examples, name, section.max_length, section.score);
        let CausalTokens { ids, scored, cut } = tokens.map_err(|error| placed(self.loaded, error))?;
        let goals = ids.iter().zip(scored).map(|(ids, scored)| goal(ids.len(), scored)).collect();
        Ok((Split { ids, goals }, cut))
    }

    /// Says how much was cut off, and which day templates see.
    fn tell(&self, cut: usize, all: usize) {
        let longest = self.loaded.config.data.max_length;
        if cut > 0 {
            note(format!("{cut} of {all} texts are longer than data.max_length = {longest} tokens and are cut"));
        }
        if let Kind::Causal(tokenizer) = &self.kind
            && tokenizer.chat().is_ok_and(|chat| chat.asks_for_date())
        {
            note("the chat template can write the date, which is 26 July 2024 whatever the day, so that runs repeat");
        }
    }
}

/// What is asked of a text of which these tokens are scored.
fn goal(tokens: usize, scored: Vec<Range<usize>>) -> Goal {
    match scored.as_slice() {
        [one] if one.end == tokens => Goal::Next(one.start),
        _ => Goal::Spans(scored.into()),
    }
}

/// The tokenizer of a model, as the files beside it want it.
///
/// # Errors
/// A file that is missing or cannot be read.
pub fn tokenizer(source: &ModelSource) -> Result<Tokenizer> {
    let (bytes, name) = source.file("tokenizer.json")?;
    let tokenizer = Tokenizer::from_bytes(&bytes, &name)?;
    Ok(match source.optional("tokenizer_config.json")? {
        Some((bytes, name)) => tokenizer.obeying(&bytes, &name)?,
        None => tokenizer,
    })
}

/// Refuses token ids for which the model has no embedding. A tokenizer may know more tokens than the model, a padding token
/// that was added and never trained, as long as no text gives them.
///
/// # Errors
/// As said, with the token and both files.
pub fn refuse_tokens_beyond(
    split: &Split,
    tokenizer: &Tokenizer,
    source: &ModelSource,
    model: &ModelInfo,
) -> Result<()> {
    let Some(id) = split.ids.iter().flatten().copied().find(|id| *id as usize >= model.vocab) else { return Ok(()) };
    let files = ["tokenizer.json", "config.json"].map(|name| source.shown(name));
    let token = tokenizer.token(id).map_or(String::new(), |token| format!(" (\"{token}\")"));
    bail!(
        "{}: the data's texts give token {id}{token}, but the model has embeddings for {} tokens ({}: vocab_size): is it \
         another model's tokenizer?",
        files[0],
        model.vocab,
        files[1]
    )
}

/// The tokenizer with what the files beside it say of special tokens and conversations.
///
/// # Errors
/// A file that cannot be read, no token that ends a text.
pub fn causal_tokenizer(source: &ModelSource, tokenizer: Tokenizer, model: &ModelInfo) -> Result<CausalTokenizer> {
    let files = TokenizerFiles {
        tokenizer_config: source.optional("tokenizer_config.json")?,
        chat_template: source.optional("chat_template.jinja")?,
        generation_config: source.optional("generation_config.json")?,
        model_eos: model.decoder.as_ref().and_then(|decoder| decoder.eos.first().copied()),
    };
    Ok(CausalTokenizer::new(tokenizer, &files)?)
}
