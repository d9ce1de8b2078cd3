//! What the clients in flight own on the device: the movement of everything that trains, and its moments. Where clients
//! train chosen slots only, nothing else of a factor is here: each place in the batch holds its client's slots side by
//! side, so time and memory go by the budget and not by the global rank.

use std::ops::Range;

use bonfire_kernels::{AdamW, LowRank, Moving, SlotCounts, adamw_step, slot_scores};
use bonfire_models::{Adapter, ClientAdapter, Factor, Matrix};
use burn::tensor::{Device, Gradients, Tensor, TensorData};

use crate::itinerary::Job;
use crate::{Active, Plan, TrainSettings};

/// What one tensor of the client's state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A factor of a target, by target number.
    Factor(usize, Factor),
    /// A tensor of the head, by number.
    Head(usize),
}

/// One trained tensor with its client axis. All tensors live on the device without autodiff.
struct Parameter {
    role: Role,
    lr: f64,
    /// `[1, rows, cols]`, or `[C, rows, cols]` where clients hold different slots: the round's start.
    start: Tensor<3>,
    /// `[C, rows, cols]`; a row of a factor is a slot.
    state: Moving,
}

/// One target as the clients in flight see it.
struct Held {
    /// Factors at the round's start, slot by slot, on the host: `[R, d_in]`, `[R, d_out]`.
    host: [Matrix; 2],
    /// The same on the device, `[1, R, ..]`; with chosen slots the clients' own, `[C, places, ..]`.
    device: [Tensor<3>; 2],
    /// Slots of each client in flight `[C]`; `None`: all have all.
    used: Option<Vec<usize>>,
    /// The same as the kernels read it.
    counts: Option<SlotCounts>,
}

/// Everything the clients in flight own.
pub(crate) struct Parameters {
    active: Active,
    scale: f32,
    trained: Vec<Parameter>,
    targets: Vec<Held>,
    head: Vec<Tensor<3>>,
    optimizer: AdamW,
    clip_norm: Option<f64>,
    lanes: usize,
    /// Whether no place has held a client yet: all movement and moments are still zero.
    fresh: bool,
    device: Device,
}

/// Takes a state out of its place, so that it may be changed where it lies.
fn take(state: &mut Moving, device: &Device) -> Moving {
    let nothing = || Tensor::empty([0, 0, 0], device);
    std::mem::replace(state, Moving { movement: nothing(), first: nothing(), second: nothing() })
}

fn upload(m: &Matrix, device: &Device) -> Tensor<3> {
    Tensor::from_data(TensorData::new(m.data.clone(), [1, m.rows, m.cols]), device)
}

/// The chosen rows, then rows of zeros up to `places`.
fn pick(m: &Matrix, chosen: &[usize], places: usize) -> Matrix {
    let mut out = Matrix::zeros(places, m.cols);
    for (row, &slot) in out.data.chunks_mut(m.cols.max(1)).zip(chosen) {
        row.copy_from_slice(&m.data[slot * m.cols..(slot + 1) * m.cols]);
    }
    out
}

fn index(factor: Factor) -> usize {
    match factor {
        Factor::A => 0,
        Factor::B => 1,
    }
}

impl Parameters {
    /// State for `lanes` clients at the round's start; `device` without autodiff. `places` gives for every target how
    /// many slots the client with most of them has chosen; `None`: all slots train.
    pub fn new(
        plan: &Plan,
        global: &Adapter,
        settings: &TrainSettings,
        lanes: usize,
        places: Option<&[usize]>,
        device: &Device,
    ) -> Self {
        let hold = |(t, (a, b)): (usize, (&Matrix, &Matrix))| {
            let host = [a.transposed(), b.clone()];
            let device = match places {
                None => host.each_ref().map(|m| upload(m, device)),
                Some(places) => host.each_ref().map(|m| Tensor::zeros([lanes, places[t], m.cols], device)),
            };
            Held { host, device, used: places.map(|_| vec![0; lanes]), counts: None }
        };
        let targets: Vec<Held> = global.a.iter().zip(&global.b).enumerate().map(hold).collect();
        let head: Vec<_> = global.head.iter().map(|t| upload(&t.value, device)).collect();
        let parameter = |(role, lr, start): (Role, f64, &Tensor<3>)| {
            let [_, rows, cols] = start.dims();
            let zeros = || Tensor::zeros([lanes, rows, cols], device);
            Parameter {
                role,
                lr,
                start: start.clone(),
                state: Moving { movement: zeros(), first: zeros(), second: zeros() },
            }
        };
        let factors = plan.active.factors().iter().flat_map(|&factor| {
            let lr = if factor == Factor::A { plan.lr_a } else { plan.lr_b };
            let held = targets.iter().enumerate().filter(|(_, held)| held.places() > 0);
            held.map(move |(t, held)| (Role::Factor(t, factor), lr, &held.device[index(factor)]))
        });
        let heads = head.iter().enumerate().filter(|_| plan.train_head);
        let heads = heads.map(|(i, start)| (Role::Head(i), settings.lr_head, start));
        let trained = factors.chain(heads).map(parameter).collect();
        let (betas, eps, weight_decay) = (settings.betas, settings.eps, settings.weight_decay);
        Parameters {
            active: plan.active,
            scale: global.scale() as f32,
            trained,
            targets,
            head,
            optimizer: AdamW { lr: 0.0, betas, eps, weight_decay },
            clip_norm: settings.clip_norm,
            lanes,
            fresh: true,
            device: device.clone(),
        }
    }

    /// The trained tensors as tracked leaves, and the adapter made of them.
    ///
    /// With one active factor the backbone already holds the start (folded), so the update is the movement alone;
    /// with both, start and movement are added here.
    pub fn attach(&self) -> (Vec<Tensor<3>>, ClientAdapter) {
        let leaf = |p: &Parameter| p.state.movement.clone().autodiff().require_grad();
        let leaves: Vec<Tensor<3>> = self.trained.iter().map(leaf).collect();
        let mut factors: Vec<[Tensor<3>; 2]> =
            self.targets.iter().map(|held| held.device.each_ref().map(|t| t.clone().autodiff())).collect();
        let mut head: Vec<Tensor<3>> = self.head.iter().map(|t| t.clone().autodiff()).collect();
        for (p, leaf) in self.trained.iter().zip(&leaves) {
            let place = match p.role {
                Role::Factor(t, factor) => &mut factors[t][index(factor)],
                Role::Head(i) => &mut head[i],
            };
            let folded = self.active != Active::Both && matches!(p.role, Role::Factor(..));
            *place = if folded { leaf.clone() } else { place.clone() + leaf.clone() };
        }
        let update = |([a, b], held): ([Tensor<3>; 2], &Held)| {
            (held.places() > 0).then(|| LowRank { a, b, used: held.counts.clone(), scale: self.scale })
        };
        let updates = factors.into_iter().zip(&self.targets).map(update).collect();
        (leaves, ClientAdapter::new(updates, head))
    }

    /// One optimizer step from the gradients of `leaves`. `clients` `[C, 3]`: see [`adamw_step`].
    pub fn step(&mut self, leaves: Vec<Tensor<3>>, mut grads: Gradients, clients: Tensor<2>) {
        let gradient = |leaf: Tensor<3>| leaf.grad_remove(&mut grads).expect("every trained tensor reaches the loss");
        // The leaves are let go here, so that the step may write where the movement lies.
        let gradients: Vec<Tensor<3>> = leaves.into_iter().map(gradient).collect();
        let clip = self.clip_norm.map(|limit| clip_factors(&gradients, limit));
        for (p, gradient) in self.trained.iter_mut().zip(gradients) {
            let gradient = match &clip {
                Some(factors) => gradient * factors.clone(),
                None => gradient,
            };
            let state = take(&mut p.state, &self.device);
            let constants = AdamW { lr: p.lr, ..self.optimizer };
            p.state = adamw_step(constants, state, p.start.clone(), gradient, clients.clone());
        }
    }

    /// Gives places to new clients: their slots, zero moments, and the movement each starts from (zero, or what a probe
    /// left of its slots).
    pub fn reset(&mut self, starts: &[(usize, &Job)]) {
        self.choose(starts);
        let roles = self.roles();
        let keep = (starts.len() < self.lanes).then(|| self.keep_all_but(starts.iter().map(|(lane, _)| *lane)));
        for p in &mut self.trained {
            if !self.fresh {
                let clear = |t: Tensor<3>| match &keep {
                    Some(keep) => t * keep.clone(),
                    None => t.zeros_like(),
                };
                let Moving { movement, first, second } = take(&mut p.state, &self.device);
                let [movement, first, second] = [movement, first, second].map(clear);
                p.state = Moving { movement, first, second };
            }
            let at = roles.iter().position(|role| *role == p.role).expect("a role of the plan");
            for (lane, job) in starts {
                let Some(begin) = job.movement.as_ref().map(|list| &list[at]).filter(|m| m.rows > 0) else { continue };
                let Moving { movement, first, second } = take(&mut p.state, &self.device);
                let place = [*lane..lane + 1, 0..begin.rows, 0..begin.cols];
                p.state = Moving { movement: movement.slice_assign(place, upload(begin, &self.device)), first, second };
            }
        }
        self.fresh = false;
    }

    /// Puts the clients' slots into their places.
    fn choose(&mut self, starts: &[(usize, &Job)]) {
        for (t, held) in self.targets.iter_mut().enumerate() {
            for (lane, job) in starts {
                if let Some(slots) = &job.slots {
                    held.choose(*lane, &slots[t], &self.device);
                }
            }
        }
        if starts.iter().any(|(_, job)| job.slots.is_some()) {
            for held in &mut self.targets {
                held.counts = held.used.clone().map(SlotCounts::new);
            }
            for p in &mut self.trained {
                if let Role::Factor(t, factor) = p.role {
                    p.start = self.targets[t].device[index(factor)].clone();
                }
            }
        }
    }

    /// 1 for every place but the given ones `[C, 1, 1]`.
    pub fn keep_all_but(&self, lanes: impl Iterator<Item = usize>) -> Tensor<3> {
        let mut keep = vec![1f32; self.lanes];
        lanes.for_each(|lane| keep[lane] = 0.0);
        Tensor::from_data(TensorData::new(keep, [self.lanes, 1, 1]), &self.device)
    }

    /// Everything that trains by plan, held or not: active factors target by target, then the head.
    fn roles(&self) -> Vec<Role> {
        let targets = 0..self.targets.len();
        let factors = self.active.factors().iter();
        let mut roles: Vec<Role> =
            factors.flat_map(|&factor| targets.clone().map(move |t| Role::Factor(t, factor))).collect();
        roles.extend(self.trained.iter().map(|p| p.role).filter(|role| matches!(role, Role::Head(_))));
        roles
    }

    /// What the client in `lane` leaves, in one read of the device: the number that `losses` `[C]` holds for it, and
    /// its movement: of every target of every active factor one row a slot it has, `[slots, d]`, then of the head.
    pub fn read_lane(&self, lane: usize, losses: &Tensor<1>) -> (f32, Vec<Matrix>) {
        let flat = |p: &Parameter| {
            let [_, rows, cols] = p.start.dims();
            let rows = self.rows_of(p.role, lane).unwrap_or(rows);
            p.state.movement.clone().slice([lane..lane + 1, 0..rows, 0..cols]).reshape([rows * cols])
        };
        let here = self.trained.iter().filter(|p| self.rows_of(p.role, lane) != Some(0));
        let mut parts = vec![losses.clone().narrow(0, lane, 1)];
        parts.extend(here.map(flat));
        let numbers: Vec<f32> = Tensor::cat(parts, 0).into_data().try_to_vec().expect("f32 on the device");
        let mut at = 1;
        let mut take = |rows: usize, cols: usize| {
            let range: Range<usize> = at..at + rows * cols;
            at = range.end;
            Matrix::new(rows, cols, numbers[range].to_vec())
        };
        let matrices = self.roles().into_iter().map(|role| match role {
            Role::Factor(t, factor) => {
                let held = &self.targets[t].host[index(factor)];
                take(self.rows_of(role, lane).unwrap_or(held.rows), held.cols)
            }
            Role::Head(i) => {
                let [_, rows, cols] = self.head[i].dims();
                take(rows, cols)
            }
        });
        let matrices = matrices.collect();
        (numbers[0], matrices)
    }

    /// Slots the client in `lane` has of a factor; `None`: all there are.
    fn rows_of(&self, role: Role, lane: usize) -> Option<usize> {
        match role {
            Role::Factor(t, _) => self.targets[t].used.as_ref().map(|used| used[lane]),
            Role::Head(_) => None,
        }
    }

    /// Selection scores of the client in `lane` in one read: a list of one score a slot, for every target.
    pub fn score_lane(&self, lane: usize) -> Vec<Vec<f32>> {
        let score = |(t, held): (usize, &Held)| {
            let of = |factor| {
                let p = self.trained.iter().find(|p| p.role == Role::Factor(t, factor));
                let whole = &held.device[index(factor)];
                p.map_or_else(|| whole.clone(), |p| p.state.movement.clone().narrow(0, lane, 1))
            };
            slot_scores(of(Factor::A), of(Factor::B)).squeeze_dim::<1>(0)
        };
        let scores = self.targets.iter().enumerate().map(score).collect();
        let numbers: Vec<f32> = Tensor::cat(scores, 0).into_data().try_to_vec().expect("f32 on the device");
        let mut rest = numbers.as_slice();
        let ranks = self.targets.iter().map(|held| held.host[0].rows);
        ranks
            .map(|rank| {
                let (now, later) = rest.split_at(rank);
                rest = later;
                now.to_vec()
            })
            .collect()
    }
}

impl Held {
    /// Rows of the tensors on the device.
    fn places(&self) -> usize {
        self.device[0].dims()[1]
    }

    /// Puts a client's slots into place `lane`.
    fn choose(&mut self, lane: usize, chosen: &[usize], device: &Device) {
        let places = self.places();
        if let Some(used) = &mut self.used {
            used[lane] = chosen.len();
        }
        if places == 0 {
            return;
        }
        for (tensor, host) in self.device.iter_mut().zip(&self.host) {
            let rows = upload(&pick(host, chosen, places), device);
            let all = std::mem::replace(tensor, Tensor::empty([0, 0, 0], device));
            *tensor = all.slice_assign([lane..lane + 1, 0..places, 0..host.cols], rows);
        }
    }
}

/// What brings every client's gradient norm to at most `limit`: `[C, 1, 1]`.
fn clip_factors(gradients: &[Tensor<3>], limit: f64) -> Tensor<3> {
    let squares = gradients.iter().map(|g| g.clone().square().sum_dim(2).sum_dim(1));
    let norm = squares.reduce(|x, y| x + y).expect("something trains").sqrt();
    // As in PyTorch: limit / (norm + 1e-6), never above 1.
    (norm + 1e-6).recip().mul_scalar(limit).clamp_max(1.0)
}
