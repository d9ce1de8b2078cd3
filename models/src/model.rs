//! What the engine asks of a model: one of the project's two public traits.

use bonfire_kernels::{LowRank, cross_entropy};
use burn::tensor::{Device, Gradients, Int, Tensor};

use crate::{
    Adapter, Clock, DeltaLog, DeviceBatch, Dropout, HeadTensor, Masks, ModelInfo, NamedWeight, NoiseSigns, Part,
    Target, Task,
};

/// The part of the model that clients own, on the device, first axis the client.
#[derive(Clone, Debug)]
pub struct ClientAdapter {
    /// The update of every target, in target order; `None` where no client has a slot, and an empty list when nothing
    /// is to be added to the backbone at all.
    pub updates: Vec<Option<LowRank>>,
    /// The head's tensors `[C|1, rows, cols]`, in the order of [`Model::head`].
    pub head: Vec<Tensor<3>>,
    /// Noise on the weight of every target, in target order, for a model from [`Model::noisy`]; empty: none.
    pub noise: Vec<NoiseSigns>,
    /// What the masks of a training step are made of, for a model that drops something ([`Model::dropout`]); `None`: nothing is
    /// dropped, as in evaluation.
    pub masks: Option<Masks>,
}

impl ClientAdapter {
    /// An adapter and head without noise and masks.
    pub fn new(updates: Vec<Option<LowRank>>, head: Vec<Tensor<3>>) -> Self {
        ClientAdapter { updates, head, noise: Vec::new(), masks: None }
    }

    /// The same numbers, out of reach of gradients.
    pub fn detached(&self) -> Self {
        let update = |u: &LowRank| LowRank { a: u.a.clone().detach(), b: u.b.clone().detach(), ..u.clone() };
        ClientAdapter {
            updates: self.updates.iter().map(|u| u.as_ref().map(update)).collect(),
            head: self.head.iter().map(|t| t.clone().detach()).collect(),
            noise: self.noise.clone(),
            masks: self.masks.clone(),
        }
    }
}

/// Losses `[C]` and the gradients of their sum, from one graph. What `clock` saw before was the forward pass.
pub fn at_once(losses: Tensor<1>, clock: &mut Clock) -> (Tensor<1>, Vec<Gradients>) {
    clock.lap(Part::Forward);
    let gradients = losses.clone().sum().backward();
    clock.lap(Part::Backward);
    (losses.inner(), vec![gradients])
}

/// A frozen backbone whose adapters and head are given from outside.
pub trait Model: Send + Sync {
    /// Shape and conventions.
    fn info(&self) -> &ModelInfo;

    /// The device the backbone lies on.
    fn device(&self) -> &Device;

    /// The linears that carry an adapter.
    fn targets(&self) -> &[Target];

    /// The classifier head as it starts.
    fn head(&self) -> &[HeadTensor];

    /// What it is trained to do.
    fn task(&self) -> Task;

    /// What a training step drops, given [masks](ClientAdapter::masks).
    fn dropout(&self) -> Dropout {
        Dropout::default()
    }

    /// The same model with `W + s·A·B` in place of every target's weight `W`, computed from the untouched `W`; where
    /// `adapter` brings weights of its own, these are its `W`.
    fn folded(&self, adapter: &Adapter) -> Box<dyn Model>;

    /// The same model able to add noise to its targets' weights: holds a bank for each, scaled to `W + s·A·B` of the
    /// round's `start`, where `W` is this model's own weight (so not one that was folded). `normals` gives a target's
    /// `d_in · d_out` standard normal numbers. See [`NoiseSigns`].
    fn noisy(&self, start: &Adapter, normals: &mut dyn FnMut(usize) -> Vec<f32>) -> Box<dyn Model>;

    /// Every tensor of the backbone without pooler and head, one after the other as checkpoints hold them: what full
    /// fine-tuning trains.
    fn weights(&self) -> Vec<NamedWeight>;

    /// The pooler's tensors, which never train; none where the architecture has no pooler.
    fn pooler(&self) -> Vec<NamedWeight>;

    /// The same model computing with other tensors in place of [`Self::weights`], in that order and those shapes. With
    /// `trained`, gradients reach them, and the linears and norms are composed of Burn's operations; without, tensors
    /// must not be tracked. Weights have no client axis: one client at a time can train them.
    ///
    /// # Panics
    /// When tensors do not fit, or train in another precision than f32.
    fn with_weights(&self, weights: Vec<Tensor<2>>, trained: bool) -> Box<dyn Model>;

    /// Hidden states of the token that stands for a sequence after each layer, `[S, D]` in f32.
    fn layer_states(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> Vec<Tensor<2>>;

    /// The same model with earlier updates in its weights, computed from the untouched ones.
    fn merged(&self, log: &DeltaLog) -> Box<dyn Model> {
        let rank = log.a.iter().map(|m| m.cols).max().unwrap_or(0).max(1);
        let (targets, alpha) = (self.targets().to_vec(), rank as f64);
        let (a, b) = (log.a.clone(), log.b.clone());
        self.folded(&Adapter { rank, alpha, targets, a, b, core: Vec::new(), head: Vec::new(), weights: Vec::new() })
    }

    /// Scores of every row that is read: `[N, K]`, or `[N, V]` for a causal model.
    fn logits(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> Tensor<2>;

    /// The training loss in nats of every row that is read `[N]`, without the surplus: cross-entropy, unless the batch has another
    /// [objective](DeviceBatch::objective); of numbers the squared error.
    fn row_losses(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> Tensor<1> {
        let logits = self.logits(adapter, batch);
        let labels = batch.labels.clone().narrow(0, 0, logits.dims()[0]);
        batch.objective.losses(logits, labels)
    }

    /// Mean training loss of every client's rows `[C]`; nothing is summed over clients.
    fn loss(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> Tensor<1> {
        batch.by_client.mean(self.row_losses(adapter, batch))
    }

    /// The losses `[C]` and the gradients of their sum, which with respect to a client's tensors is that of the
    /// client's own loss. Gradients may come in parts; a tensor's lie in one of them. With `recompute` the forward pass
    /// keeps each layer's input alone and the backward pass computes the layer again. `clock` tells the passes apart.
    ///
    /// # Panics
    /// With `recompute`, for a model that cannot.
    fn gradients(
        &self,
        adapter: &ClientAdapter,
        batch: &DeviceBatch,
        recompute: bool,
        clock: &mut Clock,
    ) -> (Tensor<1>, Vec<Gradients>) {
        assert!(!recompute, "this model keeps all activations");
        at_once(self.loss(adapter, batch), clock)
    }

    /// Every row that is read, without the surplus: its cross-entropy `[N]` and the answer of highest score `[N]`; where numbers are
    /// foretold, the squared error and nothing that means anything.
    fn evaluate(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> (Tensor<1>, Tensor<1, Int>) {
        let logits = self.logits(adapter, batch);
        let labels = batch.labels.clone().narrow(0, 0, logits.dims()[0]);
        (cross_entropy(logits.clone(), labels), logits.argmax(1).squeeze_dim(1))
    }
}
