//! Texts continued token by token, to look at what a language model has learnt.

use std::ops::ControlFlow;

use bonfire_data::random::{Use, stream};
use bonfire_models::Transformer;
use rand::RngExt;

/// How the next token is taken from the scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0: the likeliest token, the lower id of two. Else scores are divided by it before one is drawn.
    pub temperature: f64,
    /// The likeliest tokens are drawn from that have this share of the probability together (nucleus sampling, arXiv
    /// 1904.09751); 1: all.
    pub top_p: f64,
    /// Tokens to add at most.
    pub max_tokens: usize,
    /// Of the draws.
    pub seed: u64,
}

/// Continues each of the `prompts` (token ids, none empty), all of them in one pass, by `model`, into whose weights
/// everything is folded, until one of the tokens `ends` comes, which is not given back, or the model can read no more. `on`
/// hears of every token, with those before it and the number of their prompt, and may break that text off. Draws are a
/// function of the seed and the token's place alone, so that a text does not depend on those beside it.
///
/// # Panics
/// For a classifier.
pub fn generate(
    model: &Transformer,
    prompts: &[&[u32]],
    ends: &[u32],
    sampling: Sampling,
    on: &mut dyn FnMut(usize, &[u32]) -> ControlFlow<()>,
) -> Vec<Vec<u32>> {
    let longest = bonfire_models::Model::info(model).max_tokens();
    let mut new = vec![Vec::new(); prompts.len()];
    let room = |prompt: usize, new: usize| new < sampling.max_tokens && prompts[prompt].len() + new < longest;
    // The prompts whose texts are still growing, as the pass has them.
    let mut going: Vec<usize> = (0..prompts.len()).filter(|&prompt| room(prompt, 0)).collect();
    if going.is_empty() {
        return new;
    }
    let begun: Vec<&[u32]> = going.iter().map(|&prompt| prompts[prompt]).collect();
    let mut texts = model.begin(&begun);
    loop {
        let mut kept = Vec::new();
        for (at, (&prompt, scores)) in going.iter().zip(texts.scores()).enumerate() {
            let text: &mut Vec<u32> = &mut new[prompt];
            let next = pick(scores, sampling, text.len());
            if ends.contains(&next) {
                continue;
            }
            text.push(next);
            if on(prompt, text).is_continue() && room(prompt, text.len()) {
                kept.push(at);
            }
        }
        if kept.is_empty() {
            return new;
        }
        if kept.len() < going.len() {
            texts.keep(&kept);
            going = kept.iter().map(|&at| going[at]).collect();
        }
        let last = |&prompt: &usize| new[prompt].last().map(std::slice::from_ref).expect("a token has just come");
        let last: Vec<&[u32]> = going.iter().map(last).collect();
        texts.push(&last);
    }
}

/// The token after `others` new ones, by scores `[V]`.
fn pick(scores: &[f32], sampling: Sampling, others: usize) -> u32 {
    let likeliest = || scores.iter().enumerate().max_by(|x, y| x.1.total_cmp(y.1).then(y.0.cmp(&x.0)));
    let (best, top) = likeliest().map_or((0, 0.0), |(i, &score)| (i, f64::from(score)));
    if sampling.temperature <= 0.0 {
        return best as u32;
    }
    let weight = |&score: &f32| ((f64::from(score) - top) / sampling.temperature).exp();
    let mut weights: Vec<f64> = scores.iter().map(weight).collect();
    if sampling.top_p < 1.0 {
        nucleus(&mut weights, sampling.top_p);
    }
    let total: f64 = weights.iter().sum();
    let mut left = stream(sampling.seed, Use::Generate, 0, 0, others as u64).random::<f64>() * total;
    let crossed = weights.iter().position(|weight| {
        left -= weight;
        left < 0.0
    });
    crossed.unwrap_or(best) as u32
}

/// Takes their weight from all tokens but the likeliest that have `share` of it together, at least one; of equals the lower id
/// stays.
fn nucleus(weights: &mut [f64], share: f64) {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&x, &y| weights[y].total_cmp(&weights[x]).then(x.cmp(&y)));
    let enough = share * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    let kept = order.iter().position(|&token| {
        sum += weights[token];
        sum >= enough
    });
    for &token in order.iter().skip(kept.map_or(order.len(), |last| last + 1)) {
        weights[token] = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cold_is_greedy_and_warm_follows_the_weights() {
        let scores = [0.0, 3f32.ln(), 3f32.ln(), -40.0];
        let picked = |temperature, seed| pick(&scores, Sampling { temperature, top_p: 1.0, max_tokens: 1, seed }, 0);
        assert_eq!(picked(0.0, 1), 1);
        let mut counts = [0; 4];
        (0..7000).for_each(|seed| counts[picked(1.0, seed) as usize] += 1);
        assert!((counts[0] as f64 - 1000.0).abs() < 120.0 && (counts[2] as f64 - 3000.0).abs() < 200.0, "{counts:?}");
        assert_eq!(counts[3], 0);
        assert_eq!(picked(1.0, 5), picked(1.0, 5));
    }

    #[test]
    fn a_nucleus_is_the_fewest_tokens_that_have_the_share() {
        // Shares 0.5, 0.25, 0.125, 0.125.
        let of = |share| {
            let mut weights = vec![1.0, 8.0 / 2.0, 1.0, 2.0];
            nucleus(&mut weights, share);
            weights
        };
        assert_eq!(of(0.0), [0.0, 4.0, 0.0, 0.0]);
        assert_eq!(of(0.5), [0.0, 4.0, 0.0, 0.0]);
        assert_eq!(of(0.51), [0.0, 4.0, 0.0, 2.0]);
        assert_eq!(of(0.8), [1.0, 4.0, 0.0, 2.0]);
        assert_eq!(of(0.9), [1.0, 4.0, 1.0, 2.0]);
        let scores = [0.0, 4f32.ln(), 0.0, 2f32.ln()];
        let picked = |seed| pick(&scores, Sampling { temperature: 1.0, top_p: 0.75, max_tokens: 1, seed }, 0);
        let mut counts = [0; 4];
        (0..6000).for_each(|seed| counts[picked(seed) as usize] += 1);
        assert!(counts[0] == 0 && counts[2] == 0 && (f64::from(counts[1]) - 4000.0).abs() < 200.0, "{counts:?}");
    }
}
