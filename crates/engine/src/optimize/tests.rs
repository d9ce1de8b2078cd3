//! Steps and terms against loops over single numbers in f64: the real step of the optimizer on a small model with three lanes. The first lane's client begins at step 1 and has slots of both targets, the second's begins at step 2 and
//! has one slot of the first target alone, the third lane is empty.

mod branches;
mod fedlada;
mod proximal;
mod ridge;
mod scaffold;
mod tail;
mod threshold;
mod turns;
mod watched;

use bonfire_kernels::Moving;
use bonfire_models::{Adapter, Factor, HeadTensor, Matrix, Target, TargetKind};
use burn::tensor::{Device, Tensor, TensorData};

use crate::batch_schedule::LaneStep;
use crate::job::{ClientJob, Phase};
use crate::optimize::Optimizer;
use crate::parameters::{Parameter, Parameters};
use crate::{Active, ClientOptimizer, Member, Plan, Role, TargetSlots, TrainSettings};

/// Steps that a test makes, and that each client does of them.
const STEPS: usize = 5;

const RANK: usize = 4;
const LANES: usize = 3;

/// A number of a client in f64.
#[derive(Clone, Copy, Debug, Default)]
struct Number {
    pub start: f64,
    pub movement: f64,
    pub first: f64,
    pub second: f64,
    /// What a term remembers besides.
    pub own: [f64; 3],
}

/// A client's tensor in f64, one row a slot that it has.
struct Numbers {
    pub role: Role,
    pub lane: usize,
    /// Which slots its rows are; of the head its rows.
    pub slots: Vec<usize>,
    pub rows: Vec<Vec<Number>>,
}

/// A number between -1 and 1 that differs from place to place, the same in f32 and f64.
fn made_up(place: usize) -> f64 {
    f64::from(((place * 7919 % 211) as f32 - 105.0) / 105.0)
}

/// `made_up` numbers as a matrix.
fn matrix(rows: usize, cols: usize, from: usize) -> Matrix {
    Matrix::new(rows, cols, (0..rows * cols).map(|i| made_up(from + i) as f32).collect())
}

/// Two targets, 3 to 2 and 2 to 3, of rank 4, and a head; with gates between the factors on demand.
fn global(gates: bool) -> Adapter {
    let target = |(d_in, d_out)| Target { name: "t".into(), kind: TargetKind::Query, layer: 0, d_in, d_out };
    Adapter {
        rank: RANK,
        alpha: 8.0,
        targets: [(3, 2), (2, 3)].map(target).to_vec(),
        a: vec![matrix(3, RANK, 10), matrix(2, RANK, 40)],
        b: vec![matrix(RANK, 2, 70), matrix(RANK, 3, 100)],
        core: if gates { vec![matrix(RANK, 1, 130), matrix(RANK, 1, 140)] } else { Vec::new() },
        head: vec![HeadTensor { name: "head".into(), value: matrix(2, 2, 150) }],
        weights: Vec::new(),
    }
}

/// Constants of local training; the rate falls in a straight line over each client's steps.
fn settings() -> TrainSettings {
    let settings = serde_json::json!({
        "rounds": 3, "lr_a": 0.02, "lr_head": 0.05, "weight_decay": 0.1, "betas": [0.8, 0.95], "eps": 1e-6, "schedule": "linear",
    });
    serde_json::from_value(settings).expect("valid settings")
}

/// The optimizer at work.
struct Case<'c> {
    pub global: Adapter,
    pub parameters: Parameters,
    plan: &'c Plan,
    settings: &'c TrainSettings,
    optimizer: Optimizer<'c>,
    pub jobs: Vec<ClientJob<'c>>,
    step: usize,
}

impl<'c> Case<'c> {
    pub fn new(plan: &'c Plan, settings: &'c TrainSettings, phase: Phase) -> Case<'c> {
        let global = global(plan.active.factors().contains(&Factor::Core));
        let slots = [vec![vec![0, 2, 3], vec![1]], vec![vec![1], vec![]]];
        let job = |(client, slots): (usize, Vec<Vec<usize>>)| ClientJob {
            member: Member::new(client, &[0]),
            steps: STEPS,
            slots: Some(slots.into_iter().collect::<TargetSlots>()),
            movement: None,
            correction: None,
            update_factor: 1.0,
            probed_tokens: 0,
        };
        let jobs = slots.into_iter().enumerate().map(job).collect();
        let parameters = Parameters::new(plan, &global, settings, LANES, Some(&[3, 1]), phase, &Device::flex());
        let optimizer = Optimizer::new(plan, settings);
        Case { global, parameters, plan, settings, optimizer, jobs, step: 0 }
    }

    /// The clients' numbers before the first step, tensor by tensor and lane by lane.
    pub fn numbers(&self) -> Vec<Numbers> {
        let mut all = Vec::new();
        for role in self.parameters.roles.clone() {
            for (lane, job) in self.jobs.iter().enumerate() {
                let (whole, slots) = match role {
                    Role::Factor(t, factor) => {
                        (self.global.slot_rows(factor, t), job.slots.as_ref().expect("chosen")[t].clone())
                    }
                    _ => (self.global.head[0].value.clone(), vec![0, 1]),
                };
                let number = |v: &f32| Number { start: f64::from(*v), ..Number::default() };
                let row = |slot: &usize| whole.data[slot * whole.cols..][..whole.cols].iter().map(number).collect();
                all.push(Numbers { role, lane, rows: slots.iter().map(row).collect(), slots });
            }
        }
        all
    }

    /// One step of the optimizer with gradients that are made up.
    pub fn step(&mut self) {
        self.step += 1;
        let begins = |(lane, job)| (lane + 1 == self.step).then_some((lane, job));
        let starts: Vec<(usize, &ClientJob)> = self.jobs.iter().enumerate().filter_map(begins).collect();
        if !starts.is_empty() {
            self.parameters.reset(&starts);
            self.optimizer.begin(&mut self.parameters, &starts);
        }
        let (leaves, ..) = self.parameters.attach();
        let trained = self.parameters.trained.iter().map(|p| (p.role, p.place.dims));
        let products = leaves.iter().zip(trained.collect::<Vec<_>>()).map(|(leaf, (role, [rows, cols]))| {
            let number = |at: usize| self.gradient(role, at / (rows * cols), at / cols % rows, at % cols) as f32;
            let numbers: Vec<f32> = (0..LANES * rows * cols).map(number).collect();
            let gradient = Tensor::<3>::from_data(TensorData::new(numbers, [LANES, rows, cols]), &Device::flex());
            (leaf.clone() * gradient.autodiff()).sum()
        });
        let mut gradients = products.reduce(|x, y| x + y).expect("something trains").backward();
        let gradients = leaves.into_iter().map(|leaf| leaf.grad_remove(&mut gradients).expect("trains")).collect();
        let lanes: Vec<LaneStep> = (0..LANES).map(|lane| Some((lane, self.own_step(lane)?))).collect();
        let lanes = self.optimizer.lane_steps(&lanes, &self.jobs, &self.parameters);
        self.optimizer.step(&mut self.parameters, gradients, lanes);
    }

    /// The own step of the client in `lane`, from 1; `None`: nobody is there (yet).
    pub fn own_step(&self, lane: usize) -> Option<usize> {
        (lane < self.jobs.len() && self.step > lane).then(|| self.step - lane)
    }

    /// The gradient of this step: nothing for rows that a client does not have, and for nobody.
    pub fn gradient(&self, role: Role, lane: usize, row: usize, col: usize) -> f64 {
        let rows = match (role, self.jobs.get(lane)) {
            (_, None) => 0,
            (Role::Factor(t, _), Some(job)) => job.slots.as_ref().expect("chosen")[t].len(),
            (_, Some(_)) => 2,
        };
        let there = row < rows && self.own_step(lane).is_some();
        let kind = self.parameters.roles.iter().position(|other| *other == role).expect("a role of the plan");
        if there { made_up(self.step * 1009 + kind * 101 + lane * 31 + row * 5 + col) } else { 0.0 }
    }

    /// The learning rate of a tensor at a client's own step.
    pub fn rate(&self, role: Role, own: usize) -> f64 {
        let lr = match role {
            Role::Factor(_, Factor::A) => self.plan.lr_a,
            Role::Factor(_, Factor::B) => self.plan.lr_b,
            Role::Factor(_, Factor::Core) => self.plan.lr_core,
            _ => self.settings.lr_head,
        };
        lr * (1.0 - (own - 1) as f64 / STEPS as f64)
    }

    /// AdamW (arXiv 1711.05101, algorithm 2) on one number, at the `updates`-th of its updates.
    pub fn adamw(&self, x: &mut Number, g: f64, rate: f64, updates: usize) {
        let TrainSettings { betas: [beta1, beta2], eps, weight_decay, .. } = *self.settings;
        x.first = beta1 * x.first + (1.0 - beta1) * g;
        x.second = beta2 * x.second + (1.0 - beta2) * g * g;
        let (m, v) = (x.first / (1.0 - beta1.powi(updates as i32)), x.second / (1.0 - beta2.powi(updates as i32)));
        x.movement -= rate * (m / (v.sqrt() + eps) + weight_decay * (x.start + x.movement));
    }

    /// A step of Adam or of SGD as PyTorch has them, on one number: the gradient has a part of weight decay.
    pub fn coupled(&self, x: &mut Number, g: f64, rate: f64, updates: usize) {
        let g = g + self.settings.weight_decay * (x.start + x.movement);
        let ClientOptimizer::Sgd { momentum, nesterov } = self.settings.optimizer else {
            // AdamW whose decay is zero, for it is in the gradient.
            let there = self.settings.weight_decay * (x.start + x.movement);
            self.adamw(x, g, rate, updates);
            x.movement += rate * there;
            return;
        };
        let sum = momentum * x.first + g;
        x.movement -= rate * if nesterov { g + momentum * sum } else { sum };
        if momentum > 0.0 {
            x.first = sum;
        }
    }

    /// Goes through [`STEPS`] steps: `number` makes a number's step from its gradient of cross-entropy, `(case, tensor, its
    /// place, own step, gradient)`. Gives the numbers at the end.
    pub fn follow(&mut self, numbers: &mut [Numbers], mut number: impl FnMut(&Case, &mut Number, Role, usize, f64)) {
        for _ in 0..STEPS {
            self.step();
            for Numbers { role, lane, rows, .. } in numbers.iter_mut() {
                let Some(own) = self.own_step(*lane) else { continue };
                for (row, numbers) in rows.iter_mut().enumerate() {
                    for (col, x) in numbers.iter_mut().enumerate() {
                        number(self, x, *role, own, self.gradient(*role, *lane, row, col));
                    }
                }
            }
        }
    }

    /// The same with every client's gradients clipped to `limit` in the norm over what `counts` says yes to, a tensor at its client's
    /// own step.
    pub fn follow_clipped(
        &mut self,
        numbers: &mut [Numbers],
        limit: f64,
        counts: impl Fn(Role, usize) -> bool,
        mut number: impl FnMut(&Case, &mut Number, Role, usize, f64),
    ) {
        let mut clipped = 0;
        for _ in 0..STEPS {
            self.step();
            let mut squares = [0.0; LANES];
            for Numbers { role, lane, rows, .. } in numbers.iter() {
                if self.own_step(*lane).is_some_and(|own| counts(*role, own)) {
                    let places = rows.iter().enumerate().flat_map(|(row, n)| (0..n.len()).map(move |col| (row, col)));
                    let square = |(row, col)| self.gradient(*role, *lane, row, col).powi(2);
                    squares[*lane] += places.map(square).sum::<f64>();
                }
            }
            let factors = squares.map(|squares| (limit / (squares.sqrt() + 1e-6)).min(1.0));
            clipped += factors.iter().filter(|factor| **factor < 1.0).count();
            for Numbers { role, lane, rows, .. } in numbers.iter_mut() {
                let Some(own) = self.own_step(*lane) else { continue };
                for (row, numbers) in rows.iter_mut().enumerate() {
                    for (col, x) in numbers.iter_mut().enumerate() {
                        number(self, x, *role, own, factors[*lane] * self.gradient(*role, *lane, row, col));
                    }
                }
            }
        }
        assert!(clipped > 0, "nothing was clipped");
    }

    /// Holds the device's movement and moments to `numbers`, and prints how far they are off at most, as a share of a tensor's
    /// largest number. Where no client is, nothing may have moved.
    #[track_caller]
    pub fn check(&self, term: &str, numbers: &[Numbers]) {
        let movement = largest(numbers, &self.parts(|state| &state.movement), &|x| x.movement);
        let first = largest(numbers, &self.parts(|state| &state.first), &|x| x.first);
        let second = largest(numbers, &self.parts(|state| &state.second), &|x| x.second);
        let groups = &self.parameters.groups;
        for p in &self.parameters.trained {
            let folded = self.plan.active.folds() && matches!(p.role, Role::Factor(..));
            let read = if folded { p.movement(groups) } else { p.movement(groups) + p.start(groups) };
            assert_eq!(p.weights(groups).into_data(), read.into_data(), "{}: what the model reads", p.role);
        }
        say(term, movement.max(first).max(second));
    }

    /// Holds what clients report to the `own` number of this index.
    #[track_caller]
    pub fn check_report(&self, term: &str, numbers: &[Numbers], own: usize) {
        say(term, largest(numbers, &self.tensors(|p| p.terms.report().expect("it is there").clone()), &|x| x.own[own]));
    }

    /// What lies in one of the flat buffers, as [`Self::tensors`] gives it.
    fn parts(&self, flat: impl Fn(&Moving) -> &Tensor<2>) -> Vec<(Role, usize, Vec<f32>)> {
        self.tensors(|p| {
            let group = &self.parameters.groups[p.place.group];
            let flat = flat(&group.state);
            // A moment that the optimizer has none of is a column.
            let there = flat.dims()[1] == group.layout.width();
            if there {
                group.layout.tensor(flat, p.place.number)
            } else {
                p.movement(&self.parameters.groups).zeros_like()
            }
        })
    }

    /// A tensor of every role on the host, by role and lane: `[rows · cols]`.
    fn tensors(&self, tensor: impl Fn(&Parameter) -> Tensor<3>) -> Vec<(Role, usize, Vec<f32>)> {
        let mut all = Vec::new();
        for p in &self.parameters.trained {
            let numbers: Vec<f32> = tensor(p).into_data().try_to_vec().expect("f32 on the device");
            let size = numbers.len() / LANES;
            all.extend(numbers.chunks(size).enumerate().map(|(lane, own)| (p.role, lane, own.to_vec())));
        }
        all
    }
}

/// The largest difference as a share of the tensor's largest number; zeros must be zeros.
fn largest(numbers: &[Numbers], found: &[(Role, usize, Vec<f32>)], of_number: &dyn Fn(&Number) -> f64) -> f64 {
    let mut far = 0f64;
    for (role, lane, found) in found {
        let tensor = numbers.iter().find(|tensor| (tensor.role, tensor.lane) == (*role, *lane));
        let mut expected: Vec<f64> =
            tensor.map(|tensor| tensor.rows.iter().flatten().map(of_number).collect()).unwrap_or_default();
        expected.resize(found.len(), 0.0);
        let size = expected.iter().map(|v| v.abs()).fold(0.0, f64::max);
        for (found, expected) in found.iter().zip(&expected) {
            let apart = (f64::from(*found) - expected).abs();
            assert!(*expected != 0.0 || *found == 0.0, "{role}, lane {lane}: {found} where nothing moves");
            far = far.max(if size > 0.0 { apart / size } else { apart });
        }
    }
    far
}

/// Prints the largest difference, and fails where f32 does not explain it.
#[track_caller]
fn say(term: &str, far: f64) {
    println!("{term:32} largest difference {far:.1e}");
    assert!(far < 1e-5, "{term}: off by {far:.1e}");
}

#[test]
fn without_terms_a_step_is_adamws() {
    let (plan, settings) = (Plan { train_head: true, ..Plan::new(1, Active::Both, 0.02, 0.05) }, settings());
    let mut case = Case::new(&plan, &settings, Phase::Training);
    let mut numbers = case.numbers();
    case.follow(&mut numbers, |case, x, role, own, g| case.adamw(x, g, case.rate(role, own), own));
    case.check("AdamW alone", &numbers);
}

#[test]
fn adam_and_sgd_step_as_pytorch_has_them() {
    let sgd = |momentum, nesterov| ClientOptimizer::Sgd { momentum, nesterov };
    for optimizer in [ClientOptimizer::Adam {}, sgd(0.0, false), sgd(0.9, false), sgd(0.9, true)] {
        let plan = Plan { train_head: true, ..Plan::new(1, Active::Both, 0.02, 0.05) };
        let settings = TrainSettings { optimizer, ..settings() };
        let mut case = Case::new(&plan, &settings, Phase::Training);
        let mut numbers = case.numbers();
        case.follow(&mut numbers, |case, x, role, own, g| case.coupled(x, g, case.rate(role, own), own));
        case.check(&format!("{optimizer:?}"), &numbers);
    }
}

#[test]
fn each_clients_gradient_is_clipped_by_its_own_norm() {
    let plan = Plan { train_head: true, ..Plan::new(1, Active::Both, 0.02, 0.05) };
    let limit = 1.2;
    let settings = TrainSettings { clip_norm: Some(limit), ..settings() };
    let mut case = Case::new(&plan, &settings, Phase::Training);
    let mut numbers = case.numbers();
    let step = |case: &Case, x: &mut Number, role, own, g| case.adamw(x, g, case.rate(role, own), own);
    case.follow_clipped(&mut numbers, limit, |_, _| true, step);
    case.check("clipping", &numbers);
}
