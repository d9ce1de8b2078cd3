//! What a run's model says of texts: a class, several labels, a number, or the tags of words.

use std::path::Path;

use anyhow::Result;
use bonfire_data::{Content, Example, Span, Tags};
use bonfire_engine::{Scorer, Split};
use bonfire_models::{Adapter, Matrix, Model, ModelSource, Transformer};
use serde::{Serialize, Serializer};

use crate::config::{CheckedConfig, TaskKind};
use crate::device::DeviceChoice;
use crate::log::note;
use crate::trained::{self, Which};
use crate::user_error::UserError;
use crate::watch::Watch;
use crate::{device, job};

/// Examples of one batch.
const BATCH: usize = 32;

/// Labels with their probabilities, in the order of the labels; an object in JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Likely(pub Vec<(String, f64)>);

impl Serialize for Likely {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(label, probability)| (label, probability)))
    }
}

impl Likely {
    /// The likeliest first; of equals the one that comes first among the labels.
    pub fn ranked(&self) -> Vec<(&str, f64)> {
        let mut ranked: Vec<(&str, f64)> = self.0.iter().map(|(label, p)| (label.as_str(), *p)).collect();
        ranked.sort_by(|x, y| y.1.total_cmp(&x.1));
        ranked
    }
}

/// What is said of a text. `row` is its place among those that were asked, from 0.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// A class.
    Class {
        /// Its place.
        row: usize,
        /// The label of highest probability.
        label: String,
        /// Its probability.
        probability: f64,
        /// The probability of every label; they sum to 1.
        probabilities: Likely,
    },
    /// Any number of labels.
    Labels {
        /// Its place.
        row: usize,
        /// The labels with a probability above 0.5, in the order of the labels.
        labels: Vec<String>,
        /// The probability of every label by itself.
        probabilities: Likely,
    },
    /// A number.
    Number {
        /// Its place.
        row: usize,
        /// The number.
        value: f32,
    },
    /// The words of a sentence.
    Sentence {
        /// Its place.
        row: usize,
        /// The words.
        words: Vec<String>,
        /// Of every word its tag; none: it lies beyond `data.max_length`, or the tokenizer makes nothing of it.
        tags: Vec<Option<String>>,
        /// What is named in the sentence.
        spans: Vec<SpanOfWords>,
    },
}

/// Words that belong together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SpanOfWords {
    /// What they are.
    pub r#type: String,
    /// The first word, from 0.
    pub start: usize,
    /// The word after the last.
    pub end: usize,
    /// The words with spaces between them.
    pub text: String,
}

/// A run's model on a device, to be asked.
pub struct Predictor {
    loaded: CheckedConfig,
    labels: Vec<String>,
    source: ModelSource,
    model: Transformer,
    adapter: Adapter,
}

impl Predictor {
    /// Opens the model of the `run` whose configuration [`trained::load`] gave as `loaded`.
    ///
    /// # Errors
    /// A run of a language model, which [`refuse_language_models`] names; a model, data or adapter that cannot be used any more.
    pub fn open(
        run: &Path,
        which: Which,
        loaded: CheckedConfig,
        device: DeviceChoice,
        watch: &mut dyn Watch,
    ) -> Result<Predictor> {
        refuse_language_models(&loaded)?;
        let labels = match loaded.config.model.task {
            TaskKind::Regression => Vec::new(),
            _ => trained::labels(run, &loaded, watch)?,
        };
        let opened = device::open(device)?;
        opened.notice.iter().for_each(note);
        let source = job::source(&loaded, watch)?;
        let model = job::model(&loaded, &source, job::task(&loaded.config, labels.len()), &opened.device)?;
        let adapter = trained::adapter(run, which, &loaded, &model)?;
        Ok(Predictor { loaded, labels, source, model, adapter })
    }

    /// Says of each text what the model makes of it, in their order, batch by batch.
    ///
    /// # Errors
    /// Texts of which the tokenizer makes nothing it can use; `each`'s own.
    pub fn answer(&self, contents: &[Content], mut each: impl FnMut(Answer) -> Result<()>) -> Result<()> {
        let examples: Vec<Example> = contents
            .iter()
            .map(|content| Example { content: content.clone(), ..Example::labelled("", 0, None) })
            .collect();
        let split = job::split_tokens(&self.loaded, &examples, &self.labels, "test", &self.source, self.model.info())?;
        let scorer = Scorer::new(&self.model, &self.adapter);
        let tags = split.tags.clone().unwrap_or_default();
        let rows: Vec<usize> = (0..split.len()).collect();
        for rows in rows.chunks(BATCH) {
            for (&row, scores) in rows.iter().zip(scorer.scores(&split, rows)?) {
                each(match (self.loaded.config.model.task, &contents[row]) {
                    (TaskKind::Regression, _) => Answer::Number { row, value: scores.data[0] },
                    (_, Content::Words(words)) => sentence(row, words, &scores, &split, &self.labels, &tags),
                    (TaskKind::MultiLabel, _) => several(row, &scores.data, &self.labels),
                    _ => class(row, &scores.data, &self.labels),
                })?;
            }
        }
        Ok(())
    }
}

/// A text as a caller gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// One text; of a run that tags words, with white space between them.
    One(String),
    /// The two texts of a pair, or the words of a sentence.
    Several(Vec<String>),
}

/// The text as the model of the run `loaded` is asked it.
///
/// # Errors
/// What is wrong with it, where it does not fit what the run learnt.
pub fn content(loaded: &CheckedConfig, given: Given) -> Result<Content, String> {
    let tagged = loaded.config.model.task == TaskKind::TokenClassification;
    let pairs = loaded.config.data.text.as_ref().is_some_and(|columns| columns.names().len() == 2);
    let words = match given {
        Given::One(text) if tagged => text.split_whitespace().map(String::from).collect(),
        Given::One(_) if pairs => return Err("is one text, and this run learnt pairs".to_owned()),
        Given::One(text) => return Ok(Content::Text(text)),
        Given::Several(texts) => texts,
    };
    match <[String; 2]>::try_from(words) {
        Ok([first, second]) if pairs => Ok(Content::Two(first, second)),
        Ok(words) if tagged => Ok(Content::Words(words.into())),
        Err(words) if tagged && !words.is_empty() => Ok(Content::Words(words)),
        Err(_) if tagged => Err("has no words".to_owned()),
        Err(texts) if pairs => Err(format!("has {} texts, and a pair has two", texts.len())),
        _ => Err("is several, and this run learnt single texts".to_owned()),
    }
}

/// Refuses a run that trained a language model.
///
/// # Errors
/// It did.
pub fn refuse_language_models(loaded: &CheckedConfig) -> Result<(), UserError> {
    match loaded.config.model.task {
        TaskKind::CausalLm => Err(UserError::new("this run trained a language model, which gives no labels")
            .help("`bonfire generate RUN --prompt TEXT` says what it answers")),
        _ => Ok(()),
    }
}

/// The place of the highest score, of equals the first.
pub fn likeliest(scores: &[f32]) -> usize {
    (0..scores.len()).rev().max_by(|&x, &y| scores[x].total_cmp(&scores[y])).unwrap_or(0)
}

fn class(row: usize, scores: &[f32], labels: &[String]) -> Answer {
    let likely = softmax(scores);
    let best = likeliest(scores);
    Answer::Class { row, label: labels[best].clone(), probability: likely[best], probabilities: named(labels, likely) }
}

fn several(row: usize, scores: &[f32], labels: &[String]) -> Answer {
    let likely = scores.iter().map(|score| 1.0 / (1.0 + (-f64::from(*score)).exp())).collect();
    let above = labels.iter().zip(scores).filter(|(_, score)| **score > 0.0).map(|(label, _)| label.clone());
    Answer::Labels { row, labels: above.collect(), probabilities: named(labels, likely) }
}

fn named(labels: &[String], likely: Vec<f64>) -> Likely {
    Likely(labels.iter().cloned().zip(likely).collect())
}

/// What a sentence's words are said to be, by the `scores` of those that are looked at.
fn sentence(row: usize, words: &[String], scores: &Matrix, split: &Split, labels: &[String], tags: &Tags) -> Answer {
    let said = scores.data.chunks(scores.cols.max(1)).map(likeliest);
    let seen: Vec<(usize, usize)> = split.goals[row].tags().iter().map(|tag| tag.word).zip(said).collect();
    let mut said = vec![None; words.len()];
    seen.iter().for_each(|&(word, class)| said[word] = Some(labels[class].clone()));
    let spans = tags.spans(&seen.iter().map(|(_, class)| *class).collect::<Vec<_>>());
    let span = |span: Span| {
        let (start, end) = (seen[span.start].0, seen[span.end - 1].0 + 1);
        SpanOfWords { r#type: tags.types()[span.kind].clone(), start, end, text: words[start..end].join(" ") }
    };
    Answer::Sentence { row, words: words.to_vec(), tags: said, spans: spans.into_iter().map(span).collect() }
}

/// The softmax of scores.
fn softmax(scores: &[f32]) -> Vec<f64> {
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = scores.iter().map(|score| f64::from(score - top).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_a_softmax() {
        let found = softmax(&[0.0, 3f32.ln(), 1000.0 - 1000.0]);
        for (found, want) in found.iter().zip([0.2, 0.6, 0.2]) {
            assert!((found - want).abs() < 1e-7, "{found} {want}");
        }
        assert_eq!(softmax(&[1000.0, -1000.0]), [1.0, 0.0]);
    }

    #[test]
    fn texts_pairs_and_sentences_are_what_the_run_learnt() {
        let of = |sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
            crate::config::load(None, &sets).expect("a configuration")
        };
        let one = |text: &str| Given::One(text.to_owned());
        let several = |texts: &[&str]| Given::Several(texts.iter().map(|text| (*text).to_owned()).collect());
        let words = |words: &[&str]| Ok(Content::Words(words.iter().map(|word| (*word).to_owned()).collect()));
        let plain = of(&[]);
        assert_eq!(content(&plain, one(" a b ")), Ok(Content::Text(" a b ".to_owned())));
        assert!(content(&plain, several(&["a", "b"])).expect_err("a list").contains("learnt single texts"));
        let pairs = of(&["data.path=rows", "data.text=[\"x\", \"y\"]"]);
        assert_eq!(content(&pairs, several(&["a", "b"])), Ok(Content::Two("a".to_owned(), "b".to_owned())));
        assert!(content(&pairs, one("a")).expect_err("one").contains("learnt pairs"));
        assert!(content(&pairs, several(&["a", "b", "c"])).expect_err("three").contains("has 3 texts"));
        let tagged = of(&["data.path=rows", "model.task=token-classification"]);
        assert_eq!(content(&tagged, one(" Ada  lives ")), words(&["Ada", "lives"]));
        assert_eq!(content(&tagged, one("Ada lives")), words(&["Ada", "lives"]));
        assert_eq!(content(&tagged, several(&["Ada", "lives", "here"])), words(&["Ada", "lives", "here"]));
        for nothing in [one(" "), several(&[])] {
            assert_eq!(content(&tagged, nothing), Err("has no words".to_owned()));
        }
    }

    #[test]
    fn answers_are_objects_in_the_order_of_the_labels() {
        let labels = ["zinc", "air", "bell"].map(str::to_owned);
        let said = class(4, &[0.0, 3f32.ln(), 0.0], &labels);
        let Answer::Class { probabilities, .. } = &said else { panic!("a class") };
        assert_eq!(probabilities.ranked().iter().map(|(label, _)| *label).collect::<Vec<_>>(), ["air", "zinc", "bell"]);
        let json = serde_json::to_string(&said).expect("JSON");
        assert!(json.starts_with("{\"row\":4,\"label\":\"air\",\"probability\":0.6"), "{json}");
        assert!(json.find("zinc").expect("there") < json.find("bell").expect("there"), "{json}");
        let said = several(0, &[1.0, -1.0, 0.5], &labels);
        let Answer::Labels { labels, probabilities, .. } = &said else { panic!("labels") };
        assert_eq!(labels, &["zinc", "bell"]);
        assert!((probabilities.0[0].1 - 0.731_058_578_630_004_9).abs() < 1e-12);
    }
}
