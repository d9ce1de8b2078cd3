//! What the clients in flight own on the device: the movement of everything that trains since the round's start, and the
//! optimizer's moments of it. Where clients train chosen slots only, nothing else of a factor is here: each lane holds its client's
//! slots side by side, so time and memory go by the budget and not by the global rank.

mod group;
mod read;

use bonfire_kernels::{LowRank, SlotCounts};
use bonfire_models::{Adapter, ClientAdapter, Factor, Matrix};
use burn::tensor::{Device, Tensor, TensorData};

use crate::job::{ClientJob, Phase};
use crate::lanes::{cleared, pick, to_device};
use crate::terms::TermState;
use crate::{Active, NotFinite, Plan, Role, TrainSettings};

use group::together;
pub(crate) use group::{Group, Place};

/// One trained tensor with its client axis. All tensors live on the device without autodiff.
pub(crate) struct Parameter {
    pub role: Role,
    /// Where it lies.
    pub place: Place,
    /// What a strategy's terms carry from step to step.
    pub terms: TermState,
}

/// Tensors with the same learning rate that make the same steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    pub lr: f64,
    /// One of them.
    pub role: Role,
}

impl Rate {
    fn new(lr: f64, role: Role) -> Rate {
        let role = if matches!(role, Role::Head(_)) { Role::Head(0) } else { Role::Factor(0, Factor::A) };
        Rate { lr, role }
    }
}

/// One target as the clients in flight see it.
struct TargetState {
    /// Rows of the tensors on the device.
    rows: usize,
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
    /// LoRA's `α/R`.
    scale: f32,
    /// What trains, in the order of [`Role::all`], without targets of which no client has a slot.
    pub trained: Vec<Parameter>,
    /// The buffers that it lies in, one after the other.
    pub groups: Vec<Group>,
    /// The rates of its places.
    pub rates: Vec<Rate>,
    targets: Vec<TargetState>,
    /// The head's tensors at the round's start, `[1, rows, cols]`, where they do not train.
    head: Vec<Tensor<3>>,
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
        let full = plan.active == Active::Full;
        assert!(!full || lanes == 1, "weights have no client axis: one client trains them at a time");
        let kinds = if global.core.is_empty() { &Factor::ALL[..2] } else { &Factor::ALL[..] };
        let trains = plan.active.factors();
        let mut targets: Vec<TargetState> = (0..global.targets.len())
            .map(|t| TargetState {
                rows: slots.map_or(global.rank, |slots| slots[t]),
                host: kinds.iter().map(|&factor| global.slot_rows(factor, t)).collect(),
                device: Vec::new(),
                chosen: slots.map(|_| vec![Vec::new(); lanes]),
                counts: None,
            })
            .collect();
        let factors = trains.iter().flat_map(|&factor| {
            let lr = [plan.lr_a, plan.lr_b, plan.lr_core][index(factor)];
            let target = targets.iter().enumerate().filter(|(_, target)| target.rows > 0);
            target.map(move |(t, target)| (Role::Factor(t, factor), lr, &target.host[index(factor)], Some(target.rows)))
        });
        let weights = global.weights.iter().enumerate().filter(|_| full);
        let weights = weights.map(|(i, start)| (Role::Weight(i), plan.lr_a, start, None));
        let heads = global.head.iter().enumerate().filter(|_| plan.train_head);
        let heads = heads.map(|(i, tensor)| (Role::Head(i), settings.lr_head, &tensor.value, None));
        let all: Vec<_> = factors.chain(weights).chain(heads).collect();
        let mut rates: Vec<Rate> = Vec::new();
        let tensors = all.iter().map(|&(role, lr, start, rows)| {
            let rate = Rate::new(lr, role);
            let which = rates.iter().position(|other| *other == rate).unwrap_or_else(|| {
                rates.push(rate);
                rates.len() - 1
            });
            let dims = [rows.unwrap_or(start.rows), start.cols];
            let folded = plan.active.folds() && matches!(role, Role::Factor(..));
            // Where clients choose, their own slots come when they begin.
            let there = rows.is_none() || slots.is_none();
            (dims, which, folded, there.then_some(start))
        });
        let (groups, places) = Group::of(&tensors.collect::<Vec<_>>(), lanes, &settings.step_rule(), device);
        let parameter = |(&(role, ..), place): (&(Role, f64, &Matrix, Option<usize>), Place)| {
            let [rows, cols] = place.dims;
            let zeros = || Tensor::zeros([lanes, rows, cols], device);
            Parameter { role, place, terms: TermState::new(plan, phase, &zeros) }
        };
        let trained: Vec<Parameter> = all.iter().zip(places).map(parameter).collect();
        for (t, target) in targets.iter_mut().enumerate().filter(|(_, target)| target.rows > 0) {
            let here = |&factor: &Factor| {
                let p = trained.iter().find(|p| p.role == Role::Factor(t, factor));
                p.map_or_else(|| Tensor::empty([0, 0, 0], device), |p| p.start(&groups))
            };
            target.device = kinds.iter().map(here).collect();
        }
        let head = if plan.train_head { &[][..] } else { &global.head };
        let head = head.iter().map(|t| to_device(&t.value, device)).collect();
        let mut parameters = Parameters {
            scale: global.scale() as f32,
            trained,
            groups,
            rates,
            targets,
            head,
            roles: Role::all(plan, global),
            lanes,
            not_finite: settings.not_finite,
            update_factors: plan.draws_anew().then(|| (vec![1.0; lanes], Tensor::ones([lanes, 1, 1], device))),
            beside_frozen: plan.keeps_frozen_slots(),
            fresh: true,
            device: device.clone(),
        };
        // Slots that clients choose come when they begin.
        if slots.is_none() {
            parameters.load_frozen();
        }
        parameters
    }

    /// The trained tensors as tracked leaves `[C, rows, cols]`, the adapter made of them, and in full fine-tuning the
    /// weights `[rows, cols]`.
    ///
    /// With one active factor the backbone already holds the start (folded), so the update is the movement alone;
    /// else it is start and movement, which the optimizer's step has added.
    pub fn attach(&self) -> (Vec<Tensor<3>>, ClientAdapter, Vec<Tensor<2>>) {
        let leaf = |p: &Parameter| p.weights(&self.groups).autodiff().require_grad();
        let leaves: Vec<Tensor<3>> = self.trained.iter().map(leaf).collect(); // [C, rows, cols] each
        // By target: A [C|1, slots, d_in], B [C|1, slots, d_out], and what stands between them.
        let mut factors: Vec<Vec<Tensor<3>>> =
            self.targets.iter().map(|target| target.device.iter().map(|t| t.clone().autodiff()).collect()).collect();
        let mut head: Vec<Tensor<3>> = self.head.iter().map(|t| t.clone().autodiff()).collect();
        let mut weights: Vec<Tensor<3>> = Vec::new();
        for (p, leaf) in self.trained.iter().zip(&leaves) {
            match p.role {
                Role::Weight(_) => weights.push(leaf.clone()),
                Role::Factor(t, factor) => factors[t][index(factor)] = leaf.clone(),
                Role::Head(_) => head.push(leaf.clone()),
            }
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
        if !self.fresh {
            let clear = |t: Tensor<3>| match &keep {
                Some(keep) => cleared(t, keep, self.not_finite),
                None => t.zeros_like(),
            };
            self.trained.iter_mut().for_each(|p| p.terms.clear(&clear));
            self.groups.iter_mut().for_each(|group| group.clear(keep.as_ref(), self.not_finite));
        }
        for (number, group) in self.groups.iter_mut().enumerate() {
            let own = || self.trained.iter().filter(|p| p.place.group == number);
            let begins = |p: &Parameter| {
                let (place, at) = (p.place, position(&self.roles, p.role));
                let movements = starts.iter().filter_map(move |&(lane, job)| Some((lane, &job.movement.as_ref()?[at])));
                movements.filter(|(_, movement)| movement.rows > 0).map(move |(lane, movement)| (place, lane, movement))
            };
            let begun: Vec<(Place, usize, &Matrix)> = own().flat_map(begins).collect();
            if !begun.is_empty() {
                let begun = group.row_of_each(self.lanes, &begun, &self.device);
                for p in self.trained.iter_mut().filter(|p| p.place.group == number) {
                    p.terms.goes_on(&group.layout.tensor(&begun, p.place.number));
                }
                group.state.movement = group.state.movement.clone() + begun;
            }
            group.begin();
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
            target.choose(rows_a_slot, choosing().map(|(lane, slots)| (lane, slots[t].as_slice())));
        }
        self.load_frozen();
        for (number, group) in self.groups.iter_mut().enumerate() {
            let own = || self.trained.iter().filter(|p| p.place.group == number);
            let picked = own().filter_map(|p| match p.role {
                Role::Factor(t, factor) => Some((p.place, self.targets[t].picked(index(factor))?)),
                _ => None,
            });
            let picked: Vec<(Place, Vec<Matrix>)> = picked.collect();
            group.load_starts(self.lanes, &picked, &self.device);
        }
        for p in &self.trained {
            if let Role::Factor(t, factor) = p.role {
                self.targets[t].device[index(factor)] = p.start(&self.groups);
            }
        }
    }

    /// Brings factors that do not train to the device: all of them, or of each lane the slots it has.
    fn load_frozen(&mut self) {
        let here = self.targets.iter().enumerate().filter(|(_, target)| target.rows > 0);
        let factors = here.flat_map(|(t, target)| (0..target.host.len()).map(move |kind| (t, kind)));
        let trains = |(t, kind)| self.trained.iter().any(|p| p.role == Role::Factor(t, Factor::ALL[kind]));
        let frozen: Vec<(usize, usize)> = factors.filter(|&factor| !trains(factor)).collect();
        let lanes = |&(t, kind): &(usize, usize)| {
            let target = &self.targets[t];
            target.picked(kind).unwrap_or_else(|| vec![target.host[kind].clone()])
        };
        let tensors = together(&frozen.iter().map(lanes).collect::<Vec<_>>(), &self.device);
        for ((t, kind), tensor) in frozen.into_iter().zip(tensors) {
            self.targets[t].device[kind] = tensor;
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
        self.rows
    }

    /// Slots that the client in `lane` has; `None`: all there are.
    fn used(&self, lane: usize) -> Option<usize> {
        self.chosen.as_ref().map(|chosen| chosen[lane].len())
    }

    /// Gives clients their slots. The kernels read `rows_a_slot` rows a slot.
    fn choose<'s>(&mut self, rows_a_slot: usize, starts: impl Iterator<Item = (usize, &'s [usize])>) {
        let Some(chosen) = &mut self.chosen else { return };
        starts.for_each(|(lane, slots)| chosen[lane] = slots.to_vec());
        self.counts = Some(SlotCounts::new(chosen.iter().map(|slots| rows_a_slot * slots.len()).collect()));
    }

    /// What each lane has of a factor, the slots side by side; `None`: all of it.
    fn picked(&self, kind: usize) -> Option<Vec<Matrix>> {
        let chosen = self.chosen.as_ref()?;
        Some(chosen.iter().map(|slots| pick(&self.host[kind], slots, self.rows)).collect())
    }
}
