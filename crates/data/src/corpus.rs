//! The built-in data set: what readers ask a city library's assistant, made by a grammar.
//!
//! It lets a first run, the examples and the tests work without a download, so it is fixed: the same texts on
//! every machine. It is meant to be learnable but not by counting words: related intents share their nouns,
//! two in five texts name a second intent that is refused, postponed or over, and a few are unclear on purpose.
//! The phrases are in
//! `corpus/intents.rs` and `corpus/grammar.rs`.

mod grammar;
mod intents;

use std::collections::HashSet;

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::random::{Use, stream};
use crate::{Content, Dataset, Example};
use grammar::{AFTER, BRANCHES, CONTRAST, GENERAL, OPENERS, PLAIN, SLOTS, TAILS, UNCLEAR};
use intents::{INTENTS, Intent};

/// The column of the corpus that a natural partition splits by: the reader's branch.
pub const GROUP_COLUMN: &str = "branch";

/// Part of the corpus: another number gives other texts.
const SEED: u64 = 1;
const TRAIN_PER_INTENT: usize = 80;
const TEST_PER_INTENT: usize = 20;

/// What the group of an example is called where a partition goes by it.
pub const COLUMN: &str = "branch";

/// The corpus: 30 intents, 2,400 training and 600 test texts of 5 to 20 words, ASCII, the same on every
/// machine. No test text occurs in training, whatever its case and punctuation. The group of an example is the
/// reader's branch, one of 20.
pub fn dataset() -> Dataset {
    let mut seen = HashSet::new();
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for (label, intent) in INTENTS.iter().enumerate() {
        let mut texts: Vec<Example> = Vec::new();
        for attempt in 0.. {
            let (text, branch) = request(intent, &mut stream(SEED, Use::Corpus, 0, label as u64, attempt));
            if seen.insert(key(&text)) {
                texts.push(Example::labelled(text, label, Some(branch.to_owned())));
            }
            if texts.len() == TRAIN_PER_INTENT + TEST_PER_INTENT {
                break;
            }
        }
        test.extend(texts.split_off(TRAIN_PER_INTENT));
        train.extend(texts);
    }
    let mut order = stream(SEED, Use::Corpus, 1, 0, 0);
    train.shuffle(&mut order);
    test.shuffle(&mut order);
    let labels = INTENTS.iter().map(|intent| intent.name.to_owned()).collect();
    Dataset { name: "library".to_owned(), labels, train, test, ..Dataset::default() }
}

/// The corpus for a causal language model: a request and the line `intent:` are given, and its intent's name follows in
/// words. Labels and groups are those of [`dataset`].
pub fn causal() -> Dataset {
    let prompt_template = Some("{text}\nintent: {intent}".to_owned());
    let mut data = Dataset { prompt_template, ..dataset() };
    for example in data.train.iter_mut().chain(&mut data.test) {
        let response = format!(" {}", data.labels[example.label].replace('_', " "));
        example.content = Content::Pair { prompt: format!("{}\nintent:", example.text()), response };
    }
    data
}

/// Unlabelled lines in the language of the corpus, for pretraining a backbone: requests and general sentences
/// about the library, one or two sentences a line. No line is a test text; fewer lines are a prefix of more.
pub fn pretraining_text(lines: usize) -> Vec<String> {
    let test: HashSet<String> = dataset().test.iter().map(|example| key(example.text())).collect();
    let line = |number: usize| {
        let attempts = (0..).map(|attempt| pretraining_line(&mut stream(SEED, Use::Corpus, 2, number as u64, attempt)));
        attempts.into_iter().find(|text| !test.contains(&key(text)))
    };
    (0..lines).filter_map(line).collect()
}

fn pretraining_line(stream: &mut ChaCha8Rng) -> String {
    let intent = &pick(INTENTS, stream);
    if stream.random_bool(0.6) {
        return request(intent, stream).0;
    }
    let mut voice = Voice::of_some_branch(stream);
    let mut text = voice.sentence(pick(GENERAL, stream), intent, stream);
    if stream.random_bool(0.4) {
        let more = voice.sentence(pick(GENERAL, stream), intent, stream);
        text = format!("{text} {more}");
    }
    voice.style(text)
}

/// One reader's text for an intent, and the reader's branch.
fn request(intent: &Intent, stream: &mut ChaCha8Rng) -> (String, &'static str) {
    loop {
        let mut voice = Voice::of_some_branch(stream);
        let text = voice.request(intent, stream);
        if (5..=20).contains(&text.split(' ').count()) {
            return (voice.style(text), voice.branch);
        }
    }
}

/// How one reader talks.
struct Voice {
    branch: &'static str,
    /// Writes "don't" for "do not".
    short: bool,
    /// Writes without capitals and final full stops, as on a phone.
    careless: bool,
}

impl Voice {
    /// Branches differ in how their readers write, which makes the natural partition a little uneven.
    fn of_some_branch(stream: &mut ChaCha8Rng) -> Voice {
        let at = stream.random_range(0..BRANCHES.len() as u32) as usize;
        let careless = [0.1, 0.2, 0.5][at % 3];
        let short = [0.3, 0.7][at % 2];
        Voice { branch: BRANCHES[at], short: stream.random_bool(short), careless: stream.random_bool(careless) }
    }

    fn request(&mut self, intent: &Intent, stream: &mut ChaCha8Rng) -> String {
        let frame = match stream.random_range(0..100u32) {
            0..3 => unclear(intent, stream),
            3..32 => pick(intent.ask, stream),
            32..60 => pick(PLAIN, stream),
            60..90 => pick(CONTRAST, stream),
            _ => pick(AFTER, stream),
        };
        let mut text = self.sentence(frame, intent, stream);
        if stream.random_bool(0.25) {
            text = format!("{} {text}", self.sentence(pick(OPENERS, stream), intent, stream));
        }
        if stream.random_bool(0.3) {
            text = format!("{text} {}", self.sentence(pick(TAILS, stream), intent, stream));
        }
        text
    }

    fn sentence(&mut self, template: &str, intent: &Intent, stream: &mut ChaCha8Rng) -> String {
        let near = pick(intent.near, stream);
        let other = INTENTS.iter().find(|other| other.name == near);
        let slots = Slots { branch: self.branch, intent, other: other.unwrap_or(intent) };
        let mut text = String::new();
        slots.expand(template, stream, &mut text);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        capitalized(&text.replace(" .", ".").replace(" ?", "?").replace(" ,", ","))
    }

    fn style(&self, mut text: String) -> String {
        if self.short {
            for (long, short) in SHORT_FORMS {
                text = text.replace(long, short);
            }
        }
        if self.careless {
            text = text.to_lowercase().trim_end_matches('.').to_owned();
        }
        text
    }
}

const SHORT_FORMS: &[(&str, &str)] = &[
    ("I am ", "I'm "),
    ("I would ", "I'd "),
    ("I have borrowed", "I've borrowed"),
    ("I will ", "I'll "),
    ("do not ", "don't "),
    ("does not ", "doesn't "),
    ("cannot ", "can't "),
    ("will not ", "won't "),
    ("did not ", "didn't "),
    ("It is ", "It's "),
    ("What is ", "What's "),
    ("We are ", "We're "),
];

/// What the slots of a template stand for.
struct Slots<'a> {
    branch: &'static str,
    intent: &'a Intent,
    other: &'a Intent,
}

impl Slots<'_> {
    fn expand(&self, template: &str, stream: &mut ChaCha8Rng, text: &mut String) {
        let Some(at) = template.find(['{', '<']) else { return text.push_str(template) };
        text.push_str(&template[..at]);
        let rest = &template[at..];
        let end = closing(rest);
        let inner = &rest[1..end];
        if rest.starts_with('{') {
            self.expand(pick(&alternatives(inner), stream), stream, text);
        } else {
            self.slot(inner, stream, text);
        }
        self.expand(&rest[end + 1..], stream, text);
    }

    fn slot(&self, name: &str, stream: &mut ChaCha8Rng, text: &mut String) {
        let choices = match name {
            "branch" => return text.push_str(self.branch),
            "act" => self.intent.act,
            "other" => self.other.act,
            "past" => self.other.done,
            _ => SLOTS.iter().find(|(slot, _)| *slot == name).map_or(&[][..], |(_, of)| of),
        };
        if let Some(choice) = choices.choose(stream) {
            self.expand(choice, stream, text);
        }
    }
}

/// The place of the bracket that closes the first one.
fn closing(text: &str) -> usize {
    let mut depth = 0;
    for (at, letter) in text.char_indices() {
        match letter {
            '{' | '<' => depth += 1,
            '}' | '>' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    panic!("the grammar has an open bracket in {text:?}")
}

/// Splits at the bars that are not inside another bracket.
fn alternatives(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, letter) in text.char_indices() {
        match letter {
            '{' | '<' => depth += 1,
            '}' | '>' => depth -= 1,
            '|' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unclear(intent: &Intent, stream: &mut ChaCha8Rng) -> &'static str {
    let claimed: Vec<&str> =
        UNCLEAR.iter().filter(|(_, intents)| intents.contains(&intent.name)).map(|(template, _)| *template).collect();
    claimed.choose(stream).copied().unwrap_or_else(|| pick(intent.ask, stream))
}

fn pick<T: Copy>(choices: &[T], stream: &mut ChaCha8Rng) -> T {
    *choices.choose(stream).expect("no list of the grammar is empty")
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}

/// What makes two texts the same: letters and digits alone.
fn key(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every slot named in a template, nested ones included.
    fn slots(template: &str) -> Vec<&str> {
        template.split('<').skip(1).filter_map(|rest| rest.split_once('>')).map(|(slot, _)| slot).collect()
    }

    #[test]
    fn every_name_in_the_grammar_is_known() {
        let names: HashSet<_> = INTENTS.iter().map(|intent| intent.name).collect();
        assert_eq!(names.len(), INTENTS.len());
        let near = INTENTS.iter().flat_map(|intent| intent.near);
        let unclear = UNCLEAR.iter().flat_map(|(_, intents)| *intents);
        assert!(near.chain(unclear).all(|name| names.contains(name)));
    }

    #[test]
    fn every_slot_in_the_grammar_is_known_and_every_bracket_closed() {
        let frames = [PLAIN, CONTRAST, AFTER, OPENERS, TAILS, GENERAL].into_iter().flatten();
        let intents = INTENTS.iter().flat_map(|intent| [intent.act, intent.done, intent.ask]).flatten();
        let unclear = UNCLEAR.iter().map(|(template, _)| template);
        let choices = SLOTS.iter().flat_map(|(_, choices)| *choices);
        let mut known: HashSet<_> = SLOTS.iter().map(|(slot, _)| *slot).collect();
        known.extend(["branch", "act", "other", "past"]);
        for template in frames.chain(intents).chain(unclear).chain(choices) {
            assert!(slots(template).iter().all(|slot| known.contains(slot)), "{template}");
            for (open, close) in [('{', '}'), ('<', '>')] {
                assert_eq!(template.matches(open).count(), template.matches(close).count(), "{template}");
            }
        }
    }

    #[test]
    fn brackets_may_be_nested() {
        assert_eq!(alternatives("a|{b|c}|<d>"), ["a", "{b|c}", "<d>"]);
        assert_eq!(closing("{a|{b}}c"), 6);
    }
}
