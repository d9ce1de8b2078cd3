//! Generation: a text continued token by token, with a cache of keys and values.

use bonfire_kernels::Arithmetic;
use burn::tensor::FloatDType;

use crate::body::{Body, Cache};
use crate::{Model, ModelInfo, Task, Transformer};

impl Transformer {
    /// Begins a text with the prompt `tokens`, which are not empty; gives what continues it.
    ///
    /// # Panics
    /// For a classifier.
    pub fn begin(&self, tokens: &[u32]) -> Continuation<'_> {
        assert!(self.task() == Task::Causal, "a classifier does not generate");
        let net = self.body();
        let (info, arithmetic) = (self.info(), self.precision().arithmetic());
        let mut continuation = Continuation { info, net, arithmetic, cache: net.cache(), scores: Vec::new() };
        continuation.push(tokens);
        continuation
    }
}

/// A text in the making, with the keys and values of its tokens so far.
pub struct Continuation<'m> {
    info: &'m ModelInfo,
    net: &'m Body,
    arithmetic: Arithmetic,
    cache: Cache,
    scores: Vec<f32>,
}

impl Continuation<'_> {
    /// Score of every token of the vocabulary `[V]` as the next one.
    pub fn scores(&self) -> &[f32] {
        &self.scores
    }

    /// Appends tokens.
    pub fn push(&mut self, tokens: &[u32]) {
        let scores = self.net.feed(self.info, tokens, &mut self.cache, self.arithmetic).cast(FloatDType::F32);
        self.scores = scores.into_data().try_to_vec().expect("f32 scores");
    }
}
