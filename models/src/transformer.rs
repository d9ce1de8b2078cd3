//! A transformer on packed tokens whose backbone is frozen: an encoder or a decoder, with a classifier's head or as a
//! causal language model. Every linear sees one dense matrix `[T, D]` for the whole cohort; only attention looks at
//! sequence boundaries. What an architecture does in a layer is in `body.rs`.

mod load;

use bonfire_kernels::{Arithmetic, AttentionLayout, Segments, product};
use burn::tensor::activation::log_sigmoid;
use burn::tensor::{Device, FloatDType, Gradients, Int, Tensor, TensorData};
use rand::Rng;

use crate::body::Body;
use crate::dropout::{Place, dropped};
use crate::layer::{Added, LayerContext, Rows};
use crate::model::{ClientAdapter, Model, at_once};
use crate::rotary::Angles;
use crate::transfer::{matrix, read};
use crate::vocabulary::Vocabulary;
use crate::{
    Adapter, Clock, DeviceBatch, Dropout, HeadTensor, ModelInfo, NamedWeight, NoiseSigns, Part, Pooling, Precision,
    Target, TargetKind, Task,
};
use crate::{head, noise};
pub use load::Wanted;

/// A classifier or language model whose backbone is frozen.
#[derive(Clone, Debug)]
pub struct Transformer {
    info: ModelInfo,
    device: Device,
    task: Task,
    targets: Vec<Target>,
    head: Vec<HeadTensor>,
    /// Places in `head` of the weights that the checkpoint lacks.
    lacking: Vec<usize>,
    /// In the type that computes. Folding starts from these weights as they were read, rounded once at most.
    backbone: Body,
    precision: Precision,
    /// Numbers in a block of scores over a language model's vocabulary.
    vocabulary_block: usize,
    /// Whether gradients reach the backbone.
    trained: bool,
    /// What training drops.
    dropout: Dropout,
    /// What noise is made of: for every target `[d_in, d_out]`; empty where there is none.
    banks: Vec<Tensor<2>>,
    notes: Vec<String>,
}

impl Transformer {
    /// What [`Transformer::load`] gives with these targets and this generator, from the backbone already loaded, whose
    /// tensors both models share.
    pub fn again(&self, kinds: &[TargetKind], rng: &mut impl Rng) -> Self {
        let mut model = Transformer { targets: self.info.targets(kinds), ..self.clone() };
        head::draw(&mut model.head, &model.lacking, &model.info, rng);
        model
    }

    /// The same model with other shares dropped in training.
    ///
    /// # Errors
    /// The key that asks for what this architecture does not drop, and why ([`Dropout::problem`]).
    pub fn dropping(self, dropout: Dropout) -> Result<Self, (&'static str, String)> {
        match dropout.problem(self.info.architecture, self.task) {
            Some(problem) => Err(problem),
            None => Ok(Transformer { dropout, ..self }),
        }
    }

    /// The same model holding its weights and computing in `precision`; the device must be able to
    /// ([`Precision::runs_on`]).
    ///
    /// # Panics
    /// From weights in 16 bits to others: what was rounded off is lost.
    pub fn computing_in(mut self, precision: Precision) -> Self {
        // Weights already rounded to it stay as they are, shared by all clones.
        if self.precision != precision {
            assert!(self.precision.dtype().is_none(), "weights are rounded from f32");
            self.precision = precision;
            if let Some(dtype) = precision.dtype() {
                self.backbone = self.backbone.map(&self.info, &mut |_, _, t: Tensor<2>| t.cast(dtype));
            }
        }
        self
    }
}

/// For each of `rows` rows its client; the first one for rows of nobody.
fn owners(clients: &Segments, rows: usize, device: &Device) -> Tensor<1, Int> {
    let mut owners: Vec<i32> = clients.owners().into_iter().map(|c| c as i32).collect();
    owners.resize(rows, 0);
    Tensor::from_data(TensorData::new(owners, [rows]), device)
}

/// What all layers of one forward pass share.
struct ForwardContext<'s> {
    batch: &'s DeviceBatch,
    attention: AttentionLayout,
    /// Of every rotary embedding.
    angles: Vec<Angles>,
    /// What attention adds to its scores for each sequence, where the architecture has such.
    added_scores: Option<Vec<Tensor<3>>>,
    signs: Vec<NoiseSigns>,
    tokens: Rows<'s>,
    read: Rows<'s>,
}

impl Transformer {
    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    pub(crate) fn body(&self) -> &Body {
        &self.backbone
    }

    /// In the type that computes.
    fn rounded(&self, t: Tensor<2>) -> Tensor<2> {
        match self.precision.dtype() {
            Some(dtype) => t.cast(dtype),
            None => t,
        }
    }

    fn forward_context<'s>(&'s self, adapter: &'s ClientAdapter, batch: &'s DeviceBatch) -> ForwardContext<'s> {
        let signs = self.signs(adapter);
        let rows = |clients, index: &Tensor<1, Int>, keys| {
            let owners = (!signs.is_empty()).then(|| owners(clients, index.dims()[0], &self.device));
            Rows { clients, owners, keys }
        };
        let masks = adapter.masks.as_ref();
        let tokens = rows(&batch.client_tokens, &batch.tokens, masks.map(|masks| &masks.tokens));
        let read = rows(&batch.client_read, &batch.read, masks.map(|masks| &masks.read));
        let attention = AttentionLayout {
            sequences: batch.sequences.clone(),
            heads: self.info.heads,
            kv_heads: self.info.kv_heads,
            causal: self.info.architecture.is_decoder(),
            window: None,
        };
        let longest = batch.sequences.ranges().map(|range| range.len()).max().unwrap_or(0);
        let angles = self.backbone.angles(&batch.positions, self.info.first_position + longest);
        let added_scores = self.backbone.added_scores(&batch.sequences);
        ForwardContext { batch, attention, angles, added_scores, signs, tokens, read }
    }

    /// One layer with what the clients add: `[T, D] -> [T, D]`; the last one gives the tokens that are read `[N, D]`.
    fn layer(&self, i: usize, x: Tensor<2>, adapter: &ClientAdapter, forward: &ForwardContext) -> Tensor<2> {
        let mut added = [Added::default(); TargetKind::COUNT];
        for (t, target) in self.targets.iter().enumerate().filter(|(_, t)| t.layer == i) {
            added[target.kind as usize] = Added {
                update: adapter.updates.get(t).and_then(Option::as_ref),
                noise: self.banks.get(t).zip(forward.signs.get(t)),
            };
        }
        // A mean is taken of all tokens.
        let marked = i + 1 == self.info.layers && !self.reads_means();
        let of_layer = self.info.layer_attention(i);
        let attention = AttentionLayout { window: of_layer.window, ..forward.attention.clone() };
        let context = LayerContext {
            info: &self.info,
            number: i,
            dropout: self.dropout,
            trained: self.trained,
            arithmetic: self.precision.arithmetic(),
            attention: &attention,
            tokens: &forward.tokens,
            added,
            read: marked.then_some((&forward.batch.read, &forward.read)),
            added_scores: forward.added_scores.as_deref(),
            angles: of_layer.rope.map(|rope| &forward.angles[rope]),
        };
        self.backbone.layer(i, x, &context)
    }

    /// Whether a head reads the mean of a text's tokens.
    fn reads_means(&self) -> bool {
        self.info.pooling == Pooling::Mean && self.task.is_of_texts()
    }

    fn embed(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> Tensor<2> {
        let x = self.backbone.embed(batch, &self.info, self.trained); // [T, D]
        let keys = adapter.masks.as_ref().map(|masks| &masks.tokens);
        let keys = keys.filter(|_| self.info.architecture.describe().dropped.embeddings);
        dropped(x, keys, Place::Embeddings.number(None), self.dropout.model.hidden)
    }

    /// Hidden states of the tokens that are read after the last layer `[N, D]`; `each` sees those of all tokens after
    /// every layer before `[T, D]`.
    fn hidden(&self, adapter: &ClientAdapter, batch: &DeviceBatch, each: &mut dyn FnMut(&Tensor<2>)) -> Tensor<2> {
        let forward = self.forward_context(adapter, batch);
        let mut x = self.embed(adapter, batch); // [T, D]
        for i in 0..self.info.layers {
            x = self.layer(i, x, adapter, &forward); // [T, D]; of the last layer [N, D]
            if i + 1 < self.info.layers {
                each(&x);
            }
        }
        self.finish(x, batch)
    }

    /// What follows the last layer, in f32: of the tokens that are read, or the means of texts.
    fn finish(&self, x: Tensor<2>, batch: &DeviceBatch) -> Tensor<2> {
        let x = self.in_f32(self.backbone.finish(x, self.info.eps, self.trained));
        if self.reads_means() { head::means(x, batch) } else { x } // [N, D]
    }

    /// The clients' signs in the type that computes.
    fn signs(&self, adapter: &ClientAdapter) -> Vec<NoiseSigns> {
        assert!(adapter.noise.is_empty() || !self.banks.is_empty(), "noise needs a model with banks");
        let cast = |t: &Tensor<2>| self.rounded(t.clone());
        adapter.noise.iter().map(|n| NoiseSigns { input: cast(&n.input), output: cast(&n.output) }).collect()
    }

    /// Puts other tensors in the place of all weights.
    fn replace(&mut self, mut weights: impl Iterator<Item = Tensor<2>>) {
        self.backbone = self.backbone.map(&self.info, &mut |name, _, old: Tensor<2>| {
            let new = weights.next().expect("a tensor for every weight");
            assert_eq!(new.dims(), old.dims(), "shape of {name}");
            new.cast(old.dtype())
        });
        assert!(weights.next().is_none(), "no more tensors than weights");
    }

    fn in_f32(&self, x: Tensor<2>) -> Tensor<2> {
        if self.precision.dtype().is_none() { x } else { x.cast(FloatDType::F32) }
    }

    /// Every target's `W + s·A·B` in f32, in target order.
    fn starts<'s>(&'s self, adapter: &'s Adapter) -> impl Iterator<Item = (&'s Target, Tensor<2>)> {
        let factors = adapter.a.iter().zip(&adapter.b);
        adapter.targets.iter().zip(factors).map(|(target, (a, b))| {
            let [a, b] = [a, b].map(|factor| matrix(factor.clone(), &self.device));
            let product = product(a, b, Arithmetic::F32); // [d_in, d_out]
            let weight = self.backbone.layers[target.layer].weight(target.kind);
            (target, self.in_f32(weight) + product * adapter.scale())
        })
    }

    /// The output embeddings of a language model.
    fn vocabulary(&self) -> Vocabulary<'_> {
        assert!(self.task == Task::Causal, "a classifier has no output embeddings");
        let (words, arithmetic) = (self.backbone.vocabulary(), self.precision.arithmetic());
        Vocabulary { words, arithmetic, block: self.vocabulary_block }
    }

    /// Scores of the rows that are read, from their hidden states.
    fn scores(&self, hidden: Tensor<2>, adapter: &ClientAdapter, batch: &DeviceBatch) -> Tensor<2> {
        if self.task == Task::Causal {
            let hidden = hidden.narrow(0, 0, batch.client_read.rows()); // [N, D] without surplus rows
            return self.vocabulary().logits(hidden); // [N, V]
        }
        let pooled = match &self.backbone.pooler {
            Some(pooler) => pooler.forward(hidden, self.info.eps), // [N, D]
            None => hidden,
        };
        let keys = adapter.masks.as_ref().map(|masks| &masks.read);
        let (linears, share) = (head::linears(&self.info, self.task), self.dropout.model.classifier());
        head::logits(pooled, &linears, &adapter.head, batch, keys, share) // [N, K]
    }

    /// The training loss of the rows that are read, from their hidden states.
    fn losses(&self, hidden: Tensor<2>, adapter: &ClientAdapter, batch: &DeviceBatch) -> Tensor<1> {
        let n = batch.client_read.rows();
        let labels = batch.labels.clone().narrow(0, 0, n); // [N]
        if let Task::Regress | Task::MultiLabel(_) = self.task {
            self.losses_of_values(self.scores(hidden, adapter, batch), batch)
        } else if self.task == Task::Causal && !self.trained {
            self.vocabulary().losses(hidden.narrow(0, 0, n), labels, batch.objective.smoothing)
        } else {
            batch.objective.losses(self.scores(hidden, adapter, batch), labels)
        }
    }

    /// The loss of every text `[N]` from its outputs `[N, K]` and the numbers that are asked for: their mean squared difference, of
    /// labels the mean binary cross-entropy, as PyTorch's `BCEWithLogitsLoss` has it.
    fn losses_of_values(&self, found: Tensor<2>, batch: &DeviceBatch) -> Tensor<1> {
        let n = batch.client_read.rows();
        let (found, asked) = (found.narrow(0, 0, n), batch.asked_values(n));
        let losses = match self.task {
            Task::MultiLabel(_) => log_sigmoid(found.clone()).neg() + found * (asked.neg() + 1.0),
            _ => (found - asked).square(),
        };
        losses.mean_dim(1).reshape([n])
    }

    /// [`Model::gradients`] layer by layer: forward without a graph, keeping each layer's input; then every layer once
    /// more, the last first, each with a graph of its own that lives until its gradients are there (arXiv 1604.06174).
    fn gradients_by_layer(
        &self,
        adapter: &ClientAdapter,
        batch: &DeviceBatch,
        clock: &mut Clock,
    ) -> (Tensor<1>, Vec<Gradients>) {
        assert!(!self.trained, "weights train with the whole graph at once");
        let (blind, forward) = (adapter.detached(), self.forward_context(adapter, batch));
        let last = self.info.layers - 1;
        let mut inputs = vec![self.embed(adapter, batch)]; // [T, D] a layer
        for i in 0..last {
            inputs.push(self.layer(i, inputs[i].clone(), &blind, &forward));
        }
        let leaf = |x: Option<Tensor<2>>| x.expect("an input a layer").detach().require_grad();
        let x = leaf(inputs.pop());
        let hidden = self.finish(self.layer(last, x.clone(), adapter, &forward), batch); // [N, D]
        let losses = batch.by_client.mean(self.losses(hidden, adapter, batch)); // [C]
        clock.lap(Part::Forward);
        let mut parts = vec![losses.clone().sum().backward()];
        let mut upstream = x.grad(&parts[0]); // [T, D]
        for i in (0..last).rev() {
            let Some(gradient) = upstream else { break };
            let x = leaf(inputs.pop());
            let y = self.layer(i, x.clone(), adapter, &forward); // [T, D]
            let gradients = (y * Tensor::from_inner(gradient)).sum().backward();
            upstream = x.grad(&gradients);
            parts.push(gradients);
        }
        clock.lap(Part::Backward);
        (losses.inner(), parts)
    }
}

impl Model for Transformer {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn targets(&self) -> &[Target] {
        &self.targets
    }

    fn head(&self) -> &[HeadTensor] {
        &self.head
    }

    fn task(&self) -> Task {
        self.task
    }

    fn dropout(&self) -> Dropout {
        self.dropout
    }

    fn folded(&self, adapter: &Adapter) -> Box<dyn Model> {
        Box::new(self.with_folded(adapter))
    }

    fn logits(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> Tensor<2> {
        self.scores(self.hidden(adapter, batch, &mut |_| ()), adapter, batch)
    }

    fn row_losses(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> Tensor<1> {
        self.losses(self.hidden(adapter, batch, &mut |_| ()), adapter, batch)
    }

    fn gradients(
        &self,
        adapter: &ClientAdapter,
        batch: &DeviceBatch,
        recompute: bool,
        clock: &mut Clock,
    ) -> (Tensor<1>, Vec<Gradients>) {
        if recompute {
            self.gradients_by_layer(adapter, batch, clock)
        } else {
            at_once(self.loss(adapter, batch), clock)
        }
    }

    fn evaluate(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> (Tensor<1>, Tensor<1, Int>) {
        let hidden = self.hidden(adapter, batch, &mut |_| ());
        let labels = batch.labels.clone().narrow(0, 0, batch.client_read.rows());
        if self.task == Task::Causal {
            let hidden = hidden.narrow(0, 0, labels.dims()[0]);
            return self.vocabulary().evaluate(hidden, labels);
        }
        let logits = self.scores(hidden, adapter, batch);
        if let Task::Regress | Task::MultiLabel(_) = self.task {
            return (self.losses_of_values(logits, batch), labels);
        }
        (bonfire_kernels::cross_entropy(logits.clone(), labels), logits.argmax(1).squeeze_dim(1))
    }

    fn layer_states(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> Vec<Tensor<2>> {
        let mut states = Vec::new();
        let marked = |x: &Tensor<2>| self.in_f32(x.clone().select(0, batch.marks.clone()));
        // One row a sequence is read after the last layer too.
        let batch_of_marks =
            &DeviceBatch { read: batch.marks.clone(), client_read: batch.client_sequences.clone(), ..batch.clone() };
        let last = self.hidden(adapter, batch_of_marks, &mut |x| states.push(marked(x)));
        states.push(last);
        // Surplus sequences are nobody's.
        states.into_iter().map(|x| x.narrow(0, 0, batch.sequences.len())).collect()
    }

    fn noisy(&self, start: &Adapter, normals: &mut dyn FnMut(usize) -> Vec<f32>) -> Box<dyn Model> {
        let bank = |(t, (_, weight)): (usize, (&Target, Tensor<2>))| self.rounded(noise::bank(weight, normals(t)));
        let banks = self.starts(start).enumerate().map(bank).collect();
        Box::new(Transformer { banks, ..self.clone() })
    }

    fn weights(&self) -> Vec<NamedWeight> {
        let mut all = Vec::new();
        self.backbone.map(&self.info, &mut |name, stored, t: Tensor<2>| {
            all.push(NamedWeight { name, stored, value: read(t.clone()) });
            t
        });
        all
    }

    fn with_weights(&self, weights: Vec<Tensor<2>>, trained: bool) -> Box<dyn Model> {
        assert!(self.precision == Precision::F32 || !trained, "weights train in f32");
        let mut model = Transformer { trained, ..self.clone() };
        model.replace(weights.into_iter());
        Box::new(model)
    }

    fn pooler(&self) -> Vec<NamedWeight> {
        let mut all = Vec::new();
        self.backbone.visit_pooler(&self.info, &mut |name, stored, t: Tensor<2>| {
            all.push(NamedWeight { name, stored, value: read(t.clone()) });
            t
        });
        all
    }
}

impl Transformer {
    /// [`Model::folded`], as what it is.
    pub fn with_folded(&self, adapter: &Adapter) -> Transformer {
        let mut model = self.clone();
        if !adapter.weights.is_empty() {
            model.replace(adapter.weights.iter().map(|m| matrix(m.clone(), &self.device)));
        }
        let base = model.clone();
        for (target, weight) in base.starts(adapter) {
            model.backbone.layers[target.layer].set_weight(target.kind, self.rounded(weight));
        }
        model
    }

    /// [`Self::with_folded`] with the numbers of every updated weight as `round` makes them, which is told the target's place in
    /// the adapter.
    pub(crate) fn with_folded_as(&self, adapter: &Adapter, round: impl Fn(usize, Vec<f32>) -> Vec<f32>) -> Transformer {
        let (mut model, base) = (self.clone(), self.clone());
        for (place, (target, weight)) in base.starts(adapter).enumerate() {
            let [rows, cols] = weight.dims();
            let numbers = weight.inner().into_data().try_to_vec().expect("f32 on the device");
            let weight = matrix(crate::Matrix::new(rows, cols, round(place, numbers)), &self.device);
            model.backbone.layers[target.layer].set_weight(target.kind, self.rounded(weight));
        }
        model
    }
}
