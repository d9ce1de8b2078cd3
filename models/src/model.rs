//! What the engine asks of a model: one of the project's two public traits.

use bonfire_kernels::{LowRank, cross_entropy};
use burn::tensor::{Device, Tensor};

use crate::{Adapter, DeltaLog, DeviceBatch, HeadTensor, ModelInfo, Target};

/// The part of the model that clients own, on the device, first axis the client.
#[derive(Clone, Debug)]
pub struct ClientAdapter {
    /// The update of every target, in target order; `None` where no client has a slot, and an empty list when nothing
    /// is to be added to the backbone at all.
    pub updates: Vec<Option<LowRank>>,
    /// The head's tensors `[C|1, rows, cols]`, in the order of [`Model::head`].
    pub head: Vec<Tensor<3>>,
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

    /// Number of classes (K).
    fn classes(&self) -> usize;

    /// The same model with `W + s·A·B` in place of every target's weight `W`, computed from the untouched `W`.
    fn folded(&self, adapter: &Adapter) -> Box<dyn Model>;

    /// The same model with earlier updates in its weights, computed from the untouched ones.
    fn merged(&self, log: &DeltaLog) -> Box<dyn Model> {
        let rank = log.a.iter().map(|m| m.cols).max().unwrap_or(0).max(1);
        let (targets, alpha) = (self.targets().to_vec(), rank as f64);
        let (a, b) = (log.a.clone(), log.b.clone());
        self.folded(&Adapter { rank, alpha, targets, a, b, core: Vec::new(), head: Vec::new() })
    }

    /// Class scores of every sequence `[S, K]`.
    fn logits(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> Tensor<2>;

    /// Mean cross-entropy of every client's sequences `[C]`; nothing is summed over clients.
    fn loss(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> Tensor<1> {
        let logits = self.logits(adapter, batch);
        let labels = batch.labels.clone().narrow(0, 0, logits.dims()[0]);
        let losses = cross_entropy(logits, labels);
        batch.by_client.mean(losses)
    }
}
