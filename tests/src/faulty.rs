//! A model that misbehaves on purpose.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bonfire_models::{Adapter, ClientAdapter, DeviceBatch, HeadTensor, Model, ModelInfo, NamedWeight, Target, Task};
use burn::tensor::{Device, Tensor, TensorData};

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The loss, and with it every gradient, of whoever holds this lane of the batch is NaN.
    NanInLane(usize),
    /// The same at the n-th step alone, from 0, over all lanes and rounds.
    NanAtStep(usize),
    /// The device breaks off in the middle of the n-th step.
    BreaksAtStep(usize),
    /// The device's memory does not hold the n-th step.
    NoRoomAtStep(usize),
    /// The device's memory holds at most so many clients in flight.
    NoRoomAbove(usize),
    /// The device's memory holds at most so many tokens of texts that are evaluated.
    NoRoomToEvaluate(usize),
}

/// What CubeCL's error says where an allocation fails, as Burn hands it on.
pub const NO_ROOM: &str = "An IO error happened\nCaused by:\n  out of device memory allocating 1048576 bytes\n";

/// `inner` with a fault.
pub struct Faulty {
    inner: Box<dyn Model>,
    fault: Fault,
    /// Steps so far, shared by everything made of this model.
    steps: Arc<AtomicUsize>,
}

impl Faulty {
    /// A model with a fault.
    pub fn new(inner: impl Model + 'static, fault: Fault) -> Faulty {
        Faulty { inner: Box::new(inner), fault, steps: Arc::default() }
    }

    fn around(&self, inner: Box<dyn Model>) -> Box<dyn Model> {
        Box::new(Faulty { inner, fault: self.fault.clone(), steps: Arc::clone(&self.steps) })
    }
}

impl Model for Faulty {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }
    fn device(&self) -> &Device {
        self.inner.device()
    }
    fn targets(&self) -> &[Target] {
        self.inner.targets()
    }
    fn head(&self) -> &[HeadTensor] {
        self.inner.head()
    }
    fn task(&self) -> Task {
        self.inner.task()
    }
    fn folded(&self, adapter: &Adapter) -> Box<dyn Model> {
        self.around(self.inner.folded(adapter))
    }
    fn noisy(&self, start: &Adapter, normals: &mut dyn FnMut(usize) -> Vec<f32>) -> Box<dyn Model> {
        self.around(self.inner.noisy(start, normals))
    }
    fn weights(&self) -> Vec<NamedWeight> {
        self.inner.weights()
    }
    fn pooler(&self) -> Vec<NamedWeight> {
        self.inner.pooler()
    }
    fn with_weights(&self, weights: Vec<Tensor<2>>, trained: bool) -> Box<dyn Model> {
        self.around(self.inner.with_weights(weights, trained))
    }
    fn layer_states(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> Vec<Tensor<2>> {
        self.inner.layer_states(adapter, batch)
    }
    fn logits(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> Tensor<2> {
        if let Fault::NoRoomToEvaluate(tokens) = self.fault {
            assert!(batch.client_tokens.rows() <= tokens, "{NO_ROOM}");
        }
        self.inner.logits(adapter, batch)
    }
    fn loss(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> Tensor<1> {
        let step = self.steps.fetch_add(1, Ordering::SeqCst);
        let losses = self.inner.loss(adapter, batch);
        let lanes = losses.dims()[0];
        let wrong = match self.fault {
            Fault::NanInLane(lane) => Some(lane).filter(|p| *p < lanes),
            Fault::NanAtStep(n) => (step == n).then_some(0),
            Fault::BreaksAtStep(n) => {
                assert!(step != n, "the device is lost");
                None
            }
            Fault::NoRoomAtStep(n) => {
                assert!(step != n, "{NO_ROOM}");
                None
            }
            Fault::NoRoomAbove(most) => {
                assert!(lanes <= most, "{NO_ROOM}");
                None
            }
            Fault::NoRoomToEvaluate(_) => None,
        };
        let factors = (0..lanes).map(|p| if Some(p) == wrong { f32::NAN } else { 1.0 }).collect();
        losses * Tensor::from_data(TensorData::new::<f32, _>(factors, [lanes]), self.device())
    }
}
