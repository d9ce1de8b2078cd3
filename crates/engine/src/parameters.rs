//! What the clients in flight own on the device: the movement of everything that trains since the round's start, and AdamW's
//! moments of it. Where clients train chosen slots only, nothing else of a factor is here: each lane holds its client's
//! slots side by side, so time and memory go by the budget and not by the global rank.

mod read;

use bonfire_kernels::{LowRank, Moving, SlotCounts};
use bonfire_models::{Adapter, ClientAdapter, Factor, Matrix};
use burn::tensor::{Device, Tensor, TensorData};

use crate::job::{ClientJob, Phase};
use crate::lanes::{cleared, pick, put, take, to_device};
use crate::terms::TermState;
use crate::{Active, NotFinite, Plan, Role, TrainSettings};

/// One trained tensor with its client axis. All tensors live on the device without autodiff.
pub(crate) struct Parameter {
    pub role: Role,
    pub lr: f64,
    /// `[1, rows, cols]`, or `[C, rows, cols]` where clients hold different slots: the round's start.
    pub start: Tensor<3>,
    /// `[C, rows, cols]`; a row of a factor is a slot.
    pub state: Moving,
    /// What a strategy's terms carry from step to step.
    pub terms: TermState,
}

/// One target as the clients in flight see it.
struct TargetState {
    /// Factors at the round's start, slot by slot, on the host: `[R, d_in]`, `[R, d_out]`, and what stands between
    /// them where something does.
    host: Vec<Matrix>,
    /// The same on the device, `[1, R, ..]`; with chosen slots the clients' own, `[C, slots, ..]`.
    device: Vec<Tensor<3>>,
    /// Slots of each client in flight, `C` lists; `None`: all have all.
    chosen: Option<Vec<Vec<usize>>>,
    /// How many these are, as the kernels read it.
    counts: Option<SlotCounts>,
}

/// Everything the clients in flight own.
pub(crate) struct Parameters {
    active: Active,
    /// LoRA's `α/R`.
    scale: f32,
    /// What trains, in the order of [`Role::all`], without targets of which no client has a slot.
    pub trained: Vec<Parameter>,
    targets: Vec<TargetState>,
    /// The head's tensors at the round's start, `[1, rows, cols]`.
    head: Vec<Tensor<3>>,
    /// In full fine-tuning the encoder's tensors at the round's start, `[1, rows, cols]`; else none.
    weights: Vec<Tensor<3>>,
    /// All roles of the plan.
    pub roles: Vec<Role>,
    /// Lanes of the batch, C.
    pub lanes: usize,
    not_finite: NotFinite,
    /// What each client's update is multiplied by, `[C]`, and the same on the device `[C, 1, 1]`; `None`: nothing.
    update_factors: Option<(Vec<f32>, Tensor<3>)>,
    /// Slots that a client does not train are in the backbone, and so are those that it trains, as they began: these are taken
    /// off again beside the trained ones.
    beside_frozen: bool,
    /// Whether no lane has held a client yet: all movement and moments are still zero.
    fresh: bool,
    pub device: Device,
}

/// Where a factor stands among those of a target.
pub(crate) fn index(factor: Factor) -> usize {
    match factor {
        Factor::A => 0,
        Factor::B => 1,
        Factor::Core => 2,
    }
}

impl Parameters {
    /// State for `lanes` clients at the round's start; `device` without autodiff. `slots` gives for every target how
    /// many slots the client with most of them has; `None`: all slots train.
    pub fn new(
        plan: &Plan,
        global: &Adapter,
        settings: &TrainSettings,
        lanes: usize,
        slots: Option<&[usize]>,
        phase: Phase,
        device: &Device,
    ) -> Self {
        let kinds = if global.core.is_empty() { &Factor::ALL[..2] } else { &Factor::ALL[..] };
        let hold = |t: usize| {
            let host: Vec<Matrix> = kinds.iter().map(|&factor| global.slot_rows(factor, t)).collect();
            let here = |m: &Matrix| match slots {
                None => to_device(m, device),
                Some(slots) => Tensor::zeros([lanes, slots[t], m.cols], device),
            };
            let device = host.iter().map(here).collect();
            TargetState { host, device, chosen: slots.map(|_| vec![Vec::new(); lanes]), counts: None }
        };
        let targets: Vec<TargetState> = (0..global.targets.len()).map(hold).collect();
        let head: Vec<_> = global.head.iter().map(|t| to_device(&t.value, device)).collect();
        let full = plan.active == Active::Full;
        assert!(!full || lanes == 1, "weights have no client axis: one client trains them at a time");
        let weights: Vec<_> = global.weights.iter().filter(|_| full).map(|m| to_device(m, device)).collect();
        let parameter = |(role, lr, start): (Role, f64, &Tensor<3>)| {
            let [_, rows, cols] = start.dims();
            let zeros = || Tensor::zeros([lanes, rows, cols], device);
            Parameter {
                role,
                lr,
                start: start.clone(),
                state: Moving { movement: zeros(), first: zeros(), second: zeros() },
                terms: TermState::new(plan, phase, &zeros),
            }
        };
        let factors = plan.active.factors().iter().flat_map(|&factor| {
            let lr = [plan.lr_a, plan.lr_b, plan.lr_core][index(factor)];
            let target = targets.iter().enumerate().filter(|(_, target)| target.slots() > 0);
            target.map(move |(t, target)| (Role::Factor(t, factor), lr, &target.device[index(factor)]))
        });
        let heads = head.iter().enumerate().filter(|_| plan.train_head);
        let heads = heads.map(|(i, start)| (Role::Head(i), settings.lr_head, start));
        let all = weights.iter().enumerate().map(|(i, start)| (Role::Weight(i), plan.lr_a, start));
        let trained = factors.chain(all).chain(heads).map(parameter).collect();
        Parameters {
            active: plan.active,
            scale: global.scale() as f32,
            trained,
            targets,
            head,
            weights,
            roles: Role::all(plan, global),
            lanes,
            not_finite: settings.not_finite,
            update_factors: plan.draws_anew().then(|| (vec![1.0; lanes], Tensor::ones([lanes, 1, 1], device))),
            beside_frozen: plan.keeps_frozen_slots(),
            fresh: true,
            device: device.clone(),
        }
    }

    /// The trained tensors as tracked leaves `[C, rows, cols]`, the adapter made of them, and in full fine-tuning the
    /// weights `[rows, cols]`.
    ///
    /// With one active factor the backbone already holds the start (folded), so the update is the movement alone;
    /// else start and movement are added here.
    pub fn attach(&self) -> (Vec<Tensor<3>>, ClientAdapter, Vec<Tensor<2>>) {
        let leaf = |p: &Parameter| p.state.movement.clone().autodiff().require_grad();
        let leaves: Vec<Tensor<3>> = self.trained.iter().map(leaf).collect(); // [C, rows, cols] each
        // By target: A [C|1, slots, d_in], B [C|1, slots, d_out], and what stands between them.
        let mut factors: Vec<Vec<Tensor<3>>> =
            self.targets.iter().map(|target| target.device.iter().map(|t| t.clone().autodiff()).collect()).collect();
        let mut head: Vec<Tensor<3>> = self.head.iter().map(|t| t.clone().autodiff()).collect();
        let mut weights: Vec<Tensor<3>> = self.weights.iter().map(|t| t.clone().autodiff()).collect();
        for (p, leaf) in self.trained.iter().zip(&leaves) {
            let tensor = match p.role {
                Role::Weight(i) => &mut weights[i],
                Role::Factor(t, factor) => &mut factors[t][index(factor)],
                Role::Head(i) => &mut head[i],
            };
            let folded = self.active.folds() && matches!(p.role, Role::Factor(..));
            // [C, rows, cols]: the movement alone, or start [C|1, rows, cols] + movement.
            *tensor = if folded { leaf.clone() } else { tensor.clone() + leaf.clone() };
        }
        let update = |(factors, target): (Vec<Tensor<3>>, &TargetState)| {
            (target.slots() > 0).then(|| {
                let (mut a, mut b) = plain(factors);
                if self.beside_frozen {
                    let start = |factor| target.device[index(factor)].clone().autodiff();
                    (a, b) = (beside(a, start(Factor::A)), beside(b, start(Factor::B).neg()));
                }
                if let Some((_, factors)) = &self.update_factors {
                    b = b * factors.clone().autodiff();
                }
                LowRank { a, b, used: target.counts.clone(), scale: self.scale }
            })
        };
        let updates = factors.into_iter().zip(&self.targets).map(update).collect();
        (leaves, ClientAdapter::new(updates, head), weights.into_iter().map(|t| t.squeeze_dim(0)).collect())
    }

    /// Gives lanes to new clients: their slots, zero moments, and the movement each starts from (zero, or what a probe
    /// left of its slots).
    pub fn reset(&mut self, starts: &[(usize, &ClientJob)]) {
        self.load_slots(starts);
        if let Some((factors, on_device)) = &mut self.update_factors {
            starts.iter().for_each(|(lane, job)| factors[*lane] = job.update_factor);
            *on_device = Tensor::from_data(TensorData::new(factors.clone(), [self.lanes, 1, 1]), &self.device);
        }
        let keep = (starts.len() < self.lanes).then(|| self.keep_all_but(starts.iter().map(|(lane, _)| *lane)));
        for p in &mut self.trained {
            if !self.fresh {
                let clear = |t: Tensor<3>| match &keep {
                    Some(keep) => cleared(t, keep, self.not_finite),
                    None => t.zeros_like(),
                };
                let Moving { movement, first, second } = take(&mut p.state, &self.device);
                let [movement, first, second] = [movement, first, second].map(clear);
                p.state = Moving { movement, first, second };
                p.terms.clear(&clear);
            }
            let at = position(&self.roles, p.role);
            let movements = starts.iter().filter_map(|&(lane, job)| Some((lane, &job.movement.as_ref()?[at])));
            let begun: Vec<(usize, &Matrix)> = movements.filter(|(_, movement)| movement.rows > 0).collect();
            if !begun.is_empty() {
                let [lanes, rows, cols] = p.state.movement.dims();
                let begun = put(&begun, [lanes, rows, cols], &self.device);
                p.terms.goes_on(&begun);
                let Moving { movement, first, second } = take(&mut p.state, &self.device);
                p.state = Moving { movement: movement + begun, first, second };
            }
        }
        self.fresh = false;
    }

    /// Brings the slots of clients that begin to the device.
    fn load_slots(&mut self, starts: &[(usize, &ClientJob)]) {
        let choosing = || starts.iter().filter_map(|(lane, job)| Some((*lane, job.slots.as_ref()?)));
        if choosing().next().is_none() {
            return;
        }
        let rows_a_slot = if self.beside_frozen { 2 } else { 1 };
        for (t, target) in self.targets.iter_mut().enumerate() {
            target.load_slots(rows_a_slot, choosing().map(|(lane, slots)| (lane, slots[t].as_slice())), &self.device);
        }
        for p in &mut self.trained {
            if let Role::Factor(t, factor) = p.role {
                p.start = self.targets[t].device[index(factor)].clone();
            }
        }
    }

    /// 1 for every lane but the given ones, `[C, 1, 1]`.
    pub fn keep_all_but(&self, lanes: impl Iterator<Item = usize>) -> Tensor<3> {
        let mut keep = vec![1f32; self.lanes];
        lanes.for_each(|lane| keep[lane] = 0.0);
        Tensor::from_data(TensorData::new(keep, [self.lanes, 1, 1]), &self.device)
    }

    /// Targets of the model.
    pub fn targets(&self) -> usize {
        self.targets.len()
    }

    /// Rows of a target's tensors on the device.
    pub fn rows(&self, target: usize) -> usize {
        self.targets[target].slots()
    }

    /// Slots the client in `lane` has of a factor; `None`: all there are.
    pub fn rows_of(&self, role: Role, lane: usize) -> Option<usize> {
        match role {
            Role::Factor(t, _) => self.targets[t].used(lane),
            Role::Weight(_) | Role::Head(_) => None,
        }
    }
}

/// Where the plan's roles name `role`.
pub(crate) fn position(roles: &[Role], role: Role) -> usize {
    roles.iter().position(|other| *other == role).expect("a role of the plan")
}

/// Slot by slot the rows of `x` and of `y` in turn: `[C, 2·slots, width]`.
fn beside(x: Tensor<3>, y: Tensor<3>) -> Tensor<3> {
    let [clients, slots, width] = x.dims();
    let pairs: Tensor<4> = Tensor::cat(vec![x.unsqueeze_dim(2), y.unsqueeze_dim(2)], 2);
    pairs.reshape([clients, 2 * slots, width])
}

/// A `[C|1, slots, d_in]` and B `[C|1, slots, d_out]` of a target's update, with what stands between them in B.
fn plain(mut factors: Vec<Tensor<3>>) -> (Tensor<3>, Tensor<3>) {
    let core = (factors.len() > 2).then(|| factors.remove(2));
    let b = factors.remove(1);
    let b = match core {
        None => b,
        Some(gates) if gates.dims()[2] == 1 && gates.dims()[1] == b.dims()[1] => b * gates, // diag(g)·B
        Some(core) => core.matmul(b),                                                       // [slots, slots]·B
    };
    (factors.remove(0), b)
}

impl TargetState {
    /// Rows of the tensors on the device.
    fn slots(&self) -> usize {
        self.device[0].dims()[1]
    }

    /// Slots that the client in `lane` has; `None`: all there are.
    fn used(&self, lane: usize) -> Option<usize> {
        self.chosen.as_ref().map(|chosen| chosen[lane].len())
    }

    /// Gives clients their slots: one transfer a factor, whoever begins. The kernels read `rows_a_slot` rows a slot.
    fn load_slots<'s>(
        &mut self,
        rows_a_slot: usize,
        starts: impl Iterator<Item = (usize, &'s [usize])>,
        device: &Device,
    ) {
        let most = self.slots();
        let Some(chosen) = &mut self.chosen else { return };
        starts.for_each(|(lane, slots)| chosen[lane] = slots.to_vec());
        self.counts = Some(SlotCounts::new(chosen.iter().map(|slots| rows_a_slot * slots.len()).collect()));
        if most == 0 {
            return;
        }
        for (tensor, host) in self.device.iter_mut().zip(&self.host) {
            let rows: Vec<f32> = chosen.iter().flat_map(|slots| pick(host, slots, most).data).collect();
            *tensor = Tensor::from_data(TensorData::new(rows, [chosen.len(), most, host.cols]), device);
        }
    }
}
