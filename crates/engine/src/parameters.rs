//! What the clients in flight own on the device: the movement of everything that trains, its moments, its masks.

use bonfire_kernels::{AdamW, LowRank, Moments, StepFactors, adamw_step};
use bonfire_models::{Adapter, ClientAdapter, Factor, Matrix, Target};
use burn::tensor::{Device, Gradients, Tensor, TensorData};

use crate::{Active, Plan, TrainSettings};

/// What one tensor of the client's state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A factor of a target, by target number.
    Factor(usize, Factor),
    /// A tensor of the head, by number.
    Head(usize),
}

/// One trained tensor with its client axis. All tensors live on the device without autodiff.
pub(crate) struct Parameter {
    pub role: Role,
    lr: f64,
    /// `[1, rows, cols]`: the round's start, the same for all.
    start: Tensor<3>,
    /// `[C, rows, cols]`: end minus start so far.
    pub movement: Tensor<3>,
    moments: Moments,
}

/// Everything the clients in flight own.
pub(crate) struct Parameters {
    active: Active,
    scale: f32,
    pub trained: Vec<Parameter>,
    /// The global factors and head `[1, ..]`, for what is frozen.
    a: Vec<Tensor<3>>,
    b: Vec<Tensor<3>>,
    head: Vec<Tensor<3>>,
    /// Per target `[C, R]`; empty when all slots train.
    slots: Vec<Tensor<2>>,
    optimizer: AdamW,
    clip_norm: Option<f64>,
    device: Device,
}

fn upload(m: &Matrix, device: &Device) -> Tensor<3> {
    Tensor::from_data(TensorData::new(m.data.clone(), [1, m.rows, m.cols]), device)
}

/// A column of numbers, one a client: `[C, 1, 1]`.
pub(crate) fn column(values: Vec<f32>, device: &Device) -> Tensor<3> {
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n, 1, 1]), device)
}

impl Parameters {
    /// State for `lanes` clients at the round's start; `device` without autodiff.
    pub fn new(
        plan: &Plan,
        global: &Adapter,
        settings: &TrainSettings,
        lanes: usize,
        masked: bool,
        device: &Device,
    ) -> Self {
        let put = |ms: &[Matrix]| ms.iter().map(|m| upload(m, device)).collect::<Vec<_>>();
        let (a, b) = (put(&global.a), put(&global.b));
        let head: Vec<_> = global.head.iter().map(|t| upload(&t.value, device)).collect();
        let of = |factor| if factor == Factor::A { (&a, plan.lr_a) } else { (&b, plan.lr_b) };
        let factors = plan.active.factors().iter().flat_map(|&factor| {
            let (starts, lr) = of(factor);
            starts.iter().enumerate().map(move |(t, start)| (Role::Factor(t, factor), lr, start))
        });
        let heads = head.iter().enumerate().filter(|_| plan.train_head);
        let heads = heads.map(|(i, start)| (Role::Head(i), settings.lr_head, start));
        let trained = factors
            .chain(heads)
            .map(|(role, lr, start)| {
                let [_, rows, cols] = start.dims();
                let zeros = || Tensor::zeros([lanes, rows, cols], device);
                let moments = Moments { first: zeros(), second: zeros() };
                Parameter { role, lr, start: start.clone(), movement: zeros(), moments }
            })
            .collect();
        let slots =
            if masked { vec![Tensor::zeros([lanes, global.rank], device); global.targets.len()] } else { vec![] };
        Parameters {
            active: plan.active,
            scale: global.scale() as f32,
            trained,
            a,
            b,
            head,
            slots,
            optimizer: AdamW { betas: settings.betas, eps: settings.eps, weight_decay: settings.weight_decay },
            clip_norm: settings.clip_norm,
            device: device.clone(),
        }
    }

    /// The trained tensors as tracked leaves, and the adapter made of them.
    ///
    /// With one active factor the backbone already holds the start (folded), so the update is the movement alone;
    /// with both, start and movement are added here.
    pub fn attach(&self) -> (Vec<Tensor<3>>, ClientAdapter) {
        let leaves: Vec<Tensor<3>> =
            self.trained.iter().map(|p| p.movement.clone().autodiff().require_grad()).collect();
        let lift = |ts: &[Tensor<3>]| ts.iter().map(|t| t.clone().autodiff()).collect::<Vec<_>>();
        let (mut a, mut b, mut head) = (lift(&self.a), lift(&self.b), lift(&self.head));
        for (p, leaf) in self.trained.iter().zip(&leaves) {
            let place = match p.role {
                Role::Factor(t, Factor::A) => &mut a[t],
                Role::Factor(t, Factor::B) => &mut b[t],
                Role::Head(i) => &mut head[i],
            };
            let folded = self.active != Active::Both && matches!(p.role, Role::Factor(..));
            *place = if folded { leaf.clone() } else { place.clone() + leaf.clone() };
        }
        let slots = |t: usize| self.slots.get(t).map(|s| s.clone().autodiff());
        let updates = a
            .into_iter()
            .zip(b)
            .enumerate()
            .map(|(t, (a, b))| LowRank { a, b, slots: slots(t), scale: self.scale })
            .collect();
        (leaves, ClientAdapter { updates, head })
    }

    /// One optimizer step from the gradients of `leaves`. Per client: `rates` on the learning rate, `corrections` of
    /// both moments, all `[C, 1, 1]`.
    pub fn step(&mut self, leaves: &[Tensor<3>], mut grads: Gradients, rates: Tensor<3>, corrections: [Tensor<3>; 2]) {
        let masks: Vec<_> = self.trained.iter().map(|p| self.mask(p.role)).collect();
        let gradients: Vec<Tensor<3>> = leaves
            .iter()
            .map(|leaf| leaf.grad_remove(&mut grads).expect("every trained tensor reaches the loss"))
            .collect();
        let clip = self.clip_norm.map(|limit| clip_factors(&gradients, limit));
        let [correct_first, correct_second] = corrections;
        for ((p, gradient), mask) in self.trained.iter_mut().zip(gradients).zip(masks) {
            let gradient = match &clip {
                Some(factors) => gradient * factors.clone(),
                None => gradient,
            };
            let factors = StepFactors {
                lr: rates.clone() * p.lr,
                correct_first: correct_first.clone(),
                correct_second: correct_second.clone(),
            };
            (p.movement, p.moments) = adamw_step(
                &self.optimizer,
                p.movement.clone(),
                p.start.clone(),
                p.moments.clone(),
                gradient,
                mask,
                &factors,
            );
        }
    }

    /// The slot mask in the shape of a trained tensor: `[C, 1, R]` for A, `[C, R, 1]` for B, none for the head.
    fn mask(&self, role: Role) -> Option<Tensor<3>> {
        let Role::Factor(t, factor) = role else { return None };
        self.slots.get(t).map(|s| match factor {
            Factor::A => s.clone().unsqueeze_dim(1),
            Factor::B => s.clone().unsqueeze_dim(2),
        })
    }

    /// Gives place `lane` to a new client: zero moments, the movement it starts from (zero, or what a probe left),
    /// and its slots.
    pub fn reset_lane(&mut self, lane: usize, movement: Option<&[Matrix]>, slots: Option<&[Vec<usize>]>) {
        for (i, p) in self.trained.iter_mut().enumerate() {
            let [_, rows, cols] = p.start.dims();
            let zero = || Tensor::<3>::zeros([1, rows, cols], &self.device);
            let place = [lane..lane + 1, 0..rows, 0..cols];
            let begin = movement.map_or_else(zero, |m| upload(&m[i], &self.device));
            p.movement = p.movement.clone().slice_assign(place.clone(), begin);
            p.moments.first = p.moments.first.clone().slice_assign(place.clone(), zero());
            p.moments.second = p.moments.second.clone().slice_assign(place, zero());
        }
        if let Some(chosen) = slots {
            for (tensor, chosen) in self.slots.iter_mut().zip(chosen) {
                let rank = tensor.dims()[1];
                let mut row = vec![0f32; rank];
                chosen.iter().for_each(|&s| row[s] = 1.0);
                let row = Tensor::<2>::from_data(TensorData::new(row, [1, rank]), &self.device);
                *tensor = tensor.clone().slice_assign([lane..lane + 1, 0..rank], row);
            }
        }
    }

    /// The movement of the client in `lane`, every trained tensor in order.
    pub fn read_lane(&self, lane: usize) -> Vec<Matrix> {
        let read = |p: &Parameter| {
            let [_, rows, cols] = p.movement.dims();
            let data = p.movement.clone().narrow(0, lane, 1).into_data();
            Matrix::new(rows, cols, data.try_to_vec().expect("f32 on the device"))
        };
        self.trained.iter().map(read).collect()
    }

    /// Selection scores of the client in `lane`: a list of one score a slot, for every target.
    pub fn score_lane(&self, lane: usize, targets: &[Target]) -> Vec<Vec<f32>> {
        let score = |t: usize| {
            let moved = |factor| {
                let p = self.trained.iter().find(|p| p.role == Role::Factor(t, factor));
                p.map(|p| p.movement.clone().narrow(0, lane, 1))
            };
            let a = moved(Factor::A).unwrap_or_else(|| self.a[t].clone());
            let b = moved(Factor::B).unwrap_or_else(|| self.b[t].clone());
            bonfire_kernels::slot_scores(a, b).into_data().try_to_vec().expect("f32 on the device")
        };
        (0..targets.len()).map(score).collect()
    }
}

/// What brings every client's gradient norm to at most `limit`: `[C, 1, 1]`.
fn clip_factors(gradients: &[Tensor<3>], limit: f64) -> Tensor<3> {
    let squares = gradients.iter().map(|g| g.clone().square().sum_dim(2).sum_dim(1));
    let norm = squares.reduce(|x, y| x + y).expect("something trains").sqrt();
    // As in PyTorch: limit / (norm + 1e-6), never above 1.
    (norm + 1e-6).recip().mul_scalar(limit).clamp_max(1.0)
}
