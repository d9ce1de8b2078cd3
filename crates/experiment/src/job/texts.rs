//! From texts to token ids, as the model reads them.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Result, bail};
use bonfire_data::{CausalTokenizer, CausalTokens, Content, Dataset, Example, Tags, Tokenizer, TokenizerFiles, Worded};
use bonfire_engine::{Split, TokenizedData};
use bonfire_federation::EvaluateOn;
use bonfire_models::{Goal, ModelInfo, ModelSource, Tag};

use super::said::placed;
use crate::config::{CheckedConfig, TaskKind};
use crate::log::{note, note_once};
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
    let encoder = Encoder::open(loaded, &data.labels, source, model)?;
    let (train, of_train) = encoder.split(&data.train, "train")?;
    let (test, of_test) = encoder.split(&data.test, "test")?;
    let wanted = loaded.config.evaluate.on == EvaluateOn::Validation;
    let (validation, of_validation) =
        if wanted { encoder.split(&data.validation, "validation")? } else { Default::default() };
    if wanted && validation.is_empty() {
        return Err(UserError::new("`evaluate.on` = \"validation\", and there is no validation split")
            .at(Some(loaded.place_of("evaluate.on")))
            .help("name one with data.validation, or draw one: data.split = { validation = 0.1 }")
            .into());
    }
    encoder.tell(&[of_train, of_validation, of_test], train.len() + validation.len() + test.len());
    let (task, triggered) =
        (super::task(&loaded.config, data.labels.len()), super::triggered(loaded, data, source, model)?);
    Ok(TokenizedData { train, validation, test, task, triggered })
}

/// Turns the rows of one split, which errors call `name`, into token ids; `labels` are the names of the set's. Where rows say nothing of
/// tags or labels, those that are asked for are the first, or none.
///
/// # Errors
/// As [`tokens`].
pub fn split_tokens(
    loaded: &CheckedConfig,
    examples: &[Example],
    labels: &[String],
    name: &'static str,
    source: &ModelSource,
    model: &ModelInfo,
) -> Result<Split> {
    let encoder = Encoder::open(loaded, labels, source, model)?;
    let (split, cut) = encoder.split(examples, name)?;
    encoder.tell(&[cut], split.len());
    Ok(split)
}

/// What turns texts into tokens.
enum Kind {
    /// Texts with a class, with labels or with a number.
    Labelled(Box<Tokenizer>),
    /// Sentences whose words have tags.
    Tagged(Box<Tokenizer>),
    Causal(Box<CausalTokenizer>),
}

/// What a model does not see of a split.
#[derive(Clone, Copy, Default)]
pub(super) struct Unseen {
    /// Texts that were cut.
    texts: usize,
    /// Of tagged words those that there are, those that were cut off and those of which the tokenizer makes nothing.
    words: [usize; 3],
}

/// The tokenizer of a run's model.
pub(super) struct Encoder<'l> {
    loaded: &'l CheckedConfig,
    /// The names of the labels.
    labels: &'l [String],
    kind: Kind,
    /// Where it comes from, and the model that reads its tokens.
    source: &'l ModelSource,
    model: &'l ModelInfo,
    /// Whether the model has embeddings for the second text of a pair.
    knows_types: bool,
}

impl<'l> Encoder<'l> {
    pub(super) fn open(
        loaded: &'l CheckedConfig,
        labels: &'l [String],
        source: &'l ModelSource,
        model: &'l ModelInfo,
    ) -> Result<Encoder<'l>> {
        let longest = loaded.config.data.max_length;
        if longest > model.max_tokens() {
            return Err(UserError::new(format!("data.max_length = {longest} is more than the model can read"))
                .at(Some(loaded.place_of("data.max_length")))
                .help(format!("use at most {}", model.max_tokens()))
                .into());
        }
        let tokenizer = tokenizer(source)?;
        let kind = match loaded.config.model.task {
            TaskKind::Classification | TaskKind::MultiLabel | TaskKind::Regression => {
                Kind::Labelled(Box::new(tokenizer))
            }
            TaskKind::TokenClassification => Kind::Tagged(Box::new(tokenizer)),
            TaskKind::CausalLm => Kind::Causal(Box::new(causal_tokenizer(source, tokenizer, model)?)),
        };
        Ok(Encoder { loaded, labels, kind, source, model, knows_types: model.token_types > 1 })
    }

    /// The split, and what is not seen of it.
    pub(super) fn split(&self, examples: &[Example], name: &'static str) -> Result<(Split, Unseen)> {
        let (tokenizer, (split, cut)) = match &self.kind {
            Kind::Labelled(tokenizer) => (tokenizer.as_ref(), self.labelled(examples, tokenizer)?),
            Kind::Tagged(tokenizer) => (tokenizer.as_ref(), self.tagged(examples, name, tokenizer)?),
            Kind::Causal(causal) => (causal.tokenizer(), self.causal(examples, name, causal)?),
        };
        refuse_tokens_beyond(&split, tokenizer, self.source, self.model)?;
        Ok((split, cut))
    }

    fn labelled(&self, examples: &[Example], tokenizer: &Tokenizer) -> Result<(Split, Unseen)> {
        let mut texts: Vec<(&str, Option<&str>)> = Vec::with_capacity(examples.len());
        texts.extend(examples.iter().map(|example| match &example.content {
            Content::Two(first, second) => (first.as_str(), Some(second.as_str())),
            _ => (example.text(), None),
        }));
        let longest = self.loaded.config.data.max_length;
        let encoded = tokenizer.classified(&texts, longest).map_err(|error| placed(self.loaded, error))?;
        let (mut split, mut unseen) = (Split::default(), Unseen::default());
        for (text, example) in encoded.into_iter().zip(examples) {
            unseen.texts += usize::from(text.cut);
            let second = (self.knows_types && text.second < text.ids.len()).then_some(text.second);
            split.goals.push(match (self.loaded.config.model.task, second) {
                (TaskKind::Regression, second) => Goal::Value { value: example.value as f32, second },
                (TaskKind::MultiLabel, second) => {
                    let mut labels = vec![false; self.labels.len()];
                    example.labels.iter().for_each(|&label| labels[label] = true);
                    Goal::Labels { labels: labels.into(), second }
                }
                (_, Some(second)) => Goal::PairClass { class: example.label, second },
                (_, None) => Goal::Class(example.label),
            });
            split.ids.push(text.ids);
        }
        Ok((split, unseen))
    }

    /// The first token of every word carries its tag, the others none, as by default in Transformers' `run_ner.py`.
    fn tagged(&self, examples: &[Example], name: &'static str, tokenizer: &Tokenizer) -> Result<(Split, Unseen)> {
        let mut sentences: Vec<&[String]> = Vec::with_capacity(examples.len());
        sentences.extend(examples.iter().map(|example| match &example.content {
            Content::Words(words) => words.as_slice(),
            _ => &[],
        }));
        let longest = self.loaded.config.data.max_length;
        let encoded = tokenizer.words(&sentences, longest).map_err(|error| placed(self.loaded, error))?;
        let mut split = Split { tags: Some(Arc::new(Tags::of(self.labels))), ..Split::default() };
        let mut unseen = Unseen::default();
        for (row, (sentence, example)) in encoded.into_iter().zip(examples).enumerate() {
            let Worded { ids, first, cut } = sentence;
            let tag = |(word, token): (usize, &Option<usize>)| {
                Some(Tag { word, token: (*token)?, class: example.labels.get(word).copied().unwrap_or(0) })
            };
            let tags: Vec<Tag> = first.iter().enumerate().filter_map(tag).collect();
            if tags.is_empty() {
                bail!(
                    "row {} of the {name} split: the tokenizer makes no token of any of its words; leave the sentence out",
                    row + 1
                );
            }
            unseen.texts += usize::from(cut);
            unseen.words[0] += first.len();
            // What was cut off stands together at one end.
            let gone = if cut { first.iter().rev().take_while(|token| token.is_none()).count() } else { 0 };
            let gone = if cut && gone == 0 { first.iter().take_while(|token| token.is_none()).count() } else { gone };
            unseen.words[1] += gone;
            unseen.words[2] += first.len() - tags.len() - gone;
            split.goals.push(Goal::Tags(tags.into()));
            split.ids.push(ids);
        }
        Ok((split, unseen))
    }

    fn causal(&self, examples: &[Example], name: &'static str, tokenizer: &CausalTokenizer) -> Result<(Split, Unseen)> {
        let section = &self.loaded.config.data;
        let tokens = tokenizer.encode(examples, name, section.max_length, section.score);
        let CausalTokens { ids, scored, cut } = tokens.map_err(|error| placed(self.loaded, error))?;
        if name == "train" {
            tell_of_joined(examples, &ids, tokenizer);
        }
        let goals = ids.iter().zip(scored).map(|(ids, scored)| goal(ids.len(), scored)).collect();
        Ok((Split::new(ids, goals), Unseen { texts: cut, ..Unseen::default() }))
    }

    /// Says how much was cut off, how tags are read, and which day templates see.
    fn tell(&self, unseen: &[Unseen], all: usize) {
        let longest = self.loaded.config.data.max_length;
        let cut: usize = unseen.iter().map(|split| split.texts).sum();
        if cut > 0 {
            note(format!("{cut} of {all} texts are longer than data.max_length = {longest} tokens and are cut"));
        }
        let [words, gone, nothing] = [0, 1, 2].map(|i| unseen.iter().map(|split| split.words[i]).sum::<usize>());
        if gone > 0 {
            note(format!(
                "{gone} of {words} words are cut off with them and are not scored; a longer data.max_length keeps them"
            ));
        }
        if nothing > 0 {
            note(format!("of {nothing} of {words} words the tokenizer makes no token; they are not scored"));
        }
        if let (Kind::Tagged(_), Some(other)) = (&self.kind, Tags::first_other(self.labels)) {
            note_once(format!(
                "tag {other:?} is none of spans (O, or B-, I-, E- or S- and a type): F1 is of what seqeval reads in such tags; look at \
                 the accuracy"
            ));
        }
        if let Kind::Causal(tokenizer) = &self.kind
            && tokenizer.chat().is_ok_and(|chat| chat.asks_for_date())
        {
            note("the chat template can write the date, which is 26 July 2024 whatever the day, so that runs repeat");
        }
    }
}

/// Says where prompts alone are other tokens than in front of their responses, as `generate` will meet them: a token reaches from
/// one into the other, and was never asked for in training.
fn tell_of_joined(examples: &[Example], ids: &[Vec<u32>], tokenizer: &CausalTokenizer) {
    /// Enough to tell; each is tokenized once more.
    const LOOKED_AT: usize = 200;
    let pairs =
        || examples.iter().zip(ids).filter(|(row, _)| matches!(row.content, Content::Pair { .. })).take(LOOKED_AT);
    let joined = |(row, ids): &(&Example, &Vec<u32>)| {
        tokenizer.question(&row.content).is_ok_and(|alone| alone.len() < ids.len() && !ids.starts_with(&alone))
    };
    let (all, joined) = (pairs().count(), pairs().filter(joined).count());
    if joined > 0 {
        note_once(format!(
            "{joined} of the first {all} prompts are other tokens alone than in front of their responses, so that `bonfire generate` asks \
             what training never saw and scores say too much; a blank at a prompt's end is better at the response's beginning"
        ));
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
