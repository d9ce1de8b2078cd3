//! A text continued token by token, to look at what a language model has learnt.

use bonfire_data::random::{Use, stream};
use bonfire_models::Transformer;
use rand::RngExt;

/// How the next token is taken from the scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0: the likeliest token, the lower id of two. Else scores are divided by it before one is drawn.
    pub temperature: f64,
    /// Tokens to add at most.
    pub max_tokens: usize,
    /// Of the draws.
    pub seed: u64,
}

/// Continues `prompt` (token ids, not empty) by `model`, into whose weights everything is folded, until one of the
/// tokens `ends` comes, which is not given back, or the model can read no more. `on` hears of every token.
///
/// # Panics
/// For a classifier.
pub fn generate(
    model: &Transformer,
    prompt: &[u32],
    ends: &[u32],
    sampling: Sampling,
    on: &mut dyn FnMut(&[u32]),
) -> Vec<u32> {
    let longest = bonfire_models::Model::info(model).max_tokens();
    let mut text = model.begin(prompt);
    let mut new = Vec::new();
    while new.len() < sampling.max_tokens && prompt.len() + new.len() < longest {
        let next = pick(text.scores(), sampling, new.len());
        if ends.contains(&next) {
            break;
        }
        new.push(next);
        on(&new);
        text.push(&[next]);
    }
    new
}

/// The token after `others` new ones, by scores `[V]`.
fn pick(scores: &[f32], sampling: Sampling, others: usize) -> u32 {
    let likeliest = || scores.iter().enumerate().max_by(|x, y| x.1.total_cmp(y.1).then(y.0.cmp(&x.0)));
    let (best, top) = likeliest().map_or((0, 0.0), |(i, &score)| (i, f64::from(score)));
    if sampling.temperature <= 0.0 {
        return best as u32;
    }
    let weight = |&score: &f32| ((f64::from(score) - top) / sampling.temperature).exp();
    let total: f64 = scores.iter().map(weight).sum();
    let mut left = stream(sampling.seed, Use::Generate, 0, 0, others as u64).random::<f64>() * total;
    let crossed = scores.iter().position(|score| {
        left -= weight(score);
        left < 0.0
    });
    crossed.unwrap_or(best) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cold_is_greedy_and_warm_follows_the_weights() {
        let scores = [0.0, 3f32.ln(), 3f32.ln(), -40.0];
        let picked = |temperature, seed| pick(&scores, Sampling { temperature, max_tokens: 1, seed }, 0);
        assert_eq!(picked(0.0, 1), 1);
        let mut counts = [0; 4];
        (0..7000).for_each(|seed| counts[picked(1.0, seed) as usize] += 1);
        assert!((counts[0] as f64 - 1000.0).abs() < 120.0 && (counts[2] as f64 - 3000.0).abs() < 200.0, "{counts:?}");
        assert_eq!(counts[3], 0);
        assert_eq!(picked(1.0, 5), picked(1.0, 5));
    }
}
