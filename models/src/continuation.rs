//! Generation: texts continued token by token, with a cache of keys and values.

use bonfire_kernels::Arithmetic;
use burn::tensor::FloatDType;

use crate::body::{Body, Cache};
use crate::{Model, ModelInfo, Task, Transformer};

impl Transformer {
    /// Begins a text with each of the `prompts`, none of which is empty; gives what continues them side by side.
    ///
    /// # Panics
    /// For a classifier.
    pub fn begin(&self, prompts: &[&[u32]]) -> Continuation<'_> {
        assert!(self.task() == Task::Causal, "a classifier does not generate");
        let net = self.body();
        let (info, arithmetic) = (self.info(), self.precision().arithmetic());
        let cache = net.cache(prompts.len());
        let mut continuation = Continuation { info, net, arithmetic, cache, scores: Vec::new() };
        continuation.push(prompts);
        continuation
    }
}

/// Texts in the making, with the keys and values of their tokens so far.
pub struct Continuation<'m> {
    info: &'m ModelInfo,
    net: &'m Body,
    arithmetic: Arithmetic,
    cache: Cache,
    scores: Vec<f32>,
}

impl Continuation<'_> {
    /// Score of every token of the vocabulary `[V]` as the next one of each text, as they were when tokens last came.
    pub fn scores(&self) -> impl Iterator<Item = &[f32]> {
        self.scores.chunks_exact(self.info.vocab)
    }

    /// Appends tokens to each text, at least one.
    pub fn push(&mut self, tokens: &[&[u32]]) {
        let scores = self.net.feed(self.info, tokens, &mut self.cache, self.arithmetic).cast(FloatDType::F32);
        self.scores = scores.into_data().try_to_vec().expect("f32 scores");
    }

    /// Goes on with some of the texts only, by their numbers, in this order; their scores come with the next tokens.
    pub fn keep(&mut self, texts: &[usize]) {
        self.cache.keep(texts);
        self.scores.clear();
    }
}
