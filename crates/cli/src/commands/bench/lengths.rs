//! How long made-up texts are, and what stands in them.

use bonfire_data::random::{Use, stream};
use bonfire_engine::Split;
use bonfire_models::{Goal, Tag, Task};
use rand::{Rng, RngExt};

use super::args::Lengths;

/// Texts of BANKING77's training split by their length in tokens, from length 4: counted over its 10,003 texts with the
/// WordPiece tokenizer of all-MiniLM-L6-v2, both special tokens included, longer ones cut to 64. The mean is 16.2 and
/// the deviation 9.0.
const BANKING77: [u32; 61] = [
    3, 15, 48, 124, 349, 680, 865, 966, 1036, 991, 818, 693, 561, 405, 314, 259, 184, 148, 127, 99, 93, 72, 83, 65, 63,
    95, 42, 47, 57, 50, 57, 46, 46, 37, 38, 41, 41, 22, 22, 29, 28, 25, 26, 28, 18, 14, 11, 13, 6, 10, 8, 15, 4, 6, 8,
    5, 3, 4, 7, 0, 33,
];

/// Length of the table's first entry.
const SHORTEST: usize = 4;

/// Length of the longest text that the table knows.
const LONGEST: usize = SHORTEST + BANKING77.len() - 1;

impl Lengths {
    /// The longest there can be.
    pub fn longest(self) -> usize {
        match self {
            Lengths::Banking77 => LONGEST,
            Lengths::Constant(n) | Lengths::Between(_, n) => n,
        }
    }

    /// What they are on average.
    pub fn mean(self) -> f64 {
        match self {
            Lengths::Banking77 => {
                let texts: u32 = BANKING77.iter().sum();
                let tokens: usize = (SHORTEST..).zip(&BANKING77).map(|(n, &texts)| n * texts as usize).sum();
                tokens as f64 / f64::from(texts)
            }
            Lengths::Constant(n) => n as f64,
            Lengths::Between(from, to) => (from + to) as f64 / 2.0,
        }
    }
}

/// `count` texts of random tokens below `vocab`, each between the ids that start and end a text, with random labels or,
/// for a language model, every token asked for that has one before it.
pub fn made_up(count: usize, lengths: Lengths, vocab: usize, task: Task, seed: u64) -> Split {
    let mut rng = stream(seed, Use::Benchmark, 0, 0, 0);
    let mut split = Split::default();
    for _ in 0..count {
        let length = match lengths {
            Lengths::Constant(n) => n,
            Lengths::Between(from, to) => rng.random_range(from..=to),
            Lengths::Banking77 => draw(&mut rng),
        };
        let inside = (2..length).map(|_| rng.random_range(0..vocab as u32));
        split.ids.push(std::iter::once(0).chain(inside).chain([2]).collect());
        split.goals.push(match task {
            Task::Classify(classes) => Goal::Class(rng.random_range(0..classes)),
            Task::MultiLabel(labels) => {
                Goal::Labels { labels: (0..labels).map(|_| rng.random_bool(0.2)).collect(), second: None }
            }
            // A word in two tokens.
            Task::Tag(classes) => Goal::Tags(
                (0..split.ids[split.ids.len() - 1].len())
                    .step_by(2)
                    .map(|token| Tag { word: token / 2, token, class: rng.random_range(0..classes) })
                    .collect(),
            ),
            Task::Regress => Goal::Value { value: rng.random_range(0.0..5.0), second: None },
            Task::Causal => Goal::Next(1),
        });
    }
    split
}

/// A length, drawn by the table.
fn draw(rng: &mut impl Rng) -> usize {
    let mut left = rng.random_range(0..BANKING77.iter().sum());
    let entry = BANKING77.iter().position(|&texts| {
        let found = left < texts;
        left = left.saturating_sub(texts);
        found
    });
    SHORTEST + entry.expect("the draw lies below the sum")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_data_sets() {
        assert_eq!(BANKING77.iter().sum::<u32>(), 10_003);
        let texts = made_up(20_000, Lengths::Banking77, 1000, Task::Classify(77), 1);
        let mean = texts.ids.iter().map(Vec::len).sum::<usize>() as f64 / 20_000.0;
        assert!((15.9..16.5).contains(&mean), "{mean}");
        assert!((Lengths::Banking77.mean() - mean).abs() < 0.2, "{}", Lengths::Banking77.mean());
        assert!(texts.ids.iter().all(|ids| (4..=64).contains(&ids.len()) && ids[0] == 0 && ids.ends_with(&[2])));
        assert!(texts.goals.iter().all(|goal| matches!(goal, Goal::Class(label) if *label < 77)));
    }

    #[test]
    fn the_same_seed_gives_the_same_texts() {
        let of = |seed| made_up(10, Lengths::Constant(16), 100, Task::Classify(3), seed);
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert!(of(1).ids.iter().all(|ids| ids.len() == 16));
    }

    #[test]
    fn a_language_model_is_asked_for_every_token() {
        let texts = made_up(200, Lengths::Between(3, 5), 100, Task::Causal, 1);
        assert!(texts.goals.iter().all(|goal| *goal == Goal::Next(1)));
        let mut lengths: Vec<usize> = texts.ids.iter().map(Vec::len).collect();
        lengths.sort_unstable();
        lengths.dedup();
        assert_eq!((lengths, Lengths::Between(3, 5).mean()), (vec![3, 4, 5], 4.0));
    }
}
