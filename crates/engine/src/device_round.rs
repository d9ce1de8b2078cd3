//! One round of one cohort on one device: probe and select if ordered, train, make the uploads.

use std::cell::Cell;

use bonfire_data::random::{Use, stream};
use bonfire_models::{Adapter, ClientAdapter, Factor, Matrix, Model, PackedBatch, Rounding};
use burn::tensor::Tensor;
use rand::RngExt;

use crate::batch_schedule::ClientJob;
use crate::engine::{Cohort, Engine, Member};
use crate::local_loop::{LocalLoop, LoopEvent, Outcome, Wanted};
use crate::parameters::{Parameters, Role};
use crate::send::{self, Learnt, resume, role_zeros};
use crate::{EngineError, Per, Plan, Score, Selection, StepTimes, Upload, layer_score, top_slots};

/// What a client knows after its probe.
#[derive(Default)]
struct Probed {
    slots: Option<Vec<Vec<usize>>>,
    /// What the selected slots keep of it, when the probe is not reset.
    movement: Option<Vec<Matrix>>,
    tokens: u64,
}

/// What a client is to do in a pass.
struct Work {
    steps: usize,
    r#use: Use,
    slots: Option<Vec<Vec<usize>>>,
    movement: Option<Vec<Matrix>>,
}

/// One round of one cohort.
pub(crate) struct DeviceRound<'p> {
    pub engine: &'p Engine,
    pub model: &'p dyn Model,
    pub plan: &'p Plan,
    pub global: &'p Adapter,
    pub cohort: &'p Cohort<'p>,
    /// Of the flights so far.
    pub times: Cell<StepTimes>,
}

/// Hears of steps and tokens; may end the round.
pub(crate) type Count<'c> = dyn FnMut(usize, u64) -> Result<(), EngineError> + 'c;

impl DeviceRound<'_> {
    /// The uploads, in the cohort's order.
    pub fn run(&self, count: &mut Count) -> Result<Vec<Upload>, EngineError> {
        let probes = self.probe(count)?;
        let outcomes = self.learn(&probes, count)?;
        Ok(self.uploads(probes, outcomes))
    }

    /// Ordinary, unmasked training of the active factor, then the slots of highest score (LoRA-A², section 4.2). `None` for
    /// clients that were lost on the way.
    fn probe(&self, count: &mut Count) -> Result<Vec<Option<Probed>>, EngineError> {
        let Some(selection) = &self.plan.selection else {
            return Ok(self.cohort.iter().map(|_| Some(Probed::default())).collect());
        };
        let probe = &selection.probe;
        let given: Vec<_> = self.cohort.iter().map(|m| self.plan.slots_of(m.client, self.global)).collect();
        let job = |i: usize, m: &Member| {
            Some(Work {
                steps: self.engine.probe_steps(self.plan, m),
                r#use: Use::Probe,
                slots: given[i].clone(),
                movement: None,
            })
        };
        if selection.score == Score::Random && probe.reset {
            let members = self.cohort.iter().zip(&given);
            return Ok(members.map(|(m, given)| Some(self.choose(selection, m, given.as_deref(), None))).collect());
        }
        let movement = !probe.reset || selection.score == Score::Magnitude;
        let scores = selection.score == Score::Contribution;
        let outcomes = self.run_jobs(job, Wanted { probe: true, movement, scores }, count)?;
        let members = self.cohort.iter().zip(&given).zip(outcomes);
        let chosen =
            members.map(|((m, given), outcome)| Some(self.choose(selection, m, given.as_deref(), Some(outcome?))));
        Ok(chosen.collect())
    }

    /// The slots of highest score of a client that has the slots `given`, or all; `probed` is what came of its probe, if it
    /// made one.
    fn choose(
        &self,
        selection: &Selection,
        member: &Member,
        given: Option<&[Vec<usize>]>,
        probed: Option<Outcome>,
    ) -> Probed {
        let targets = self.global.targets.len();
        let outcome = probed.unwrap_or_default();
        let mut scores = match selection.score {
            Score::Contribution => outcome.scores,
            Score::Magnitude => row_scores(&outcome.movement[..targets], norm),
            Score::Importance => row_scores(&outcome.extra[..targets], |row| sum(row, |v| v) / row.len() as f64),
            Score::Gradient => self.rank_one(&row_scores(&outcome.extra[..targets], norm), given),
            Score::Fisher => row_scores(&outcome.extra[..targets], |row| sum(row, |v| v)),
            Score::Random => self.random_scores(member.client, given),
        };
        if selection.per == Per::Byte {
            let factor = self.plan.active.factors()[0];
            for (row, target) in scores.iter_mut().zip(&self.global.targets) {
                let width = if factor == Factor::A { target.d_in } else { target.d_out };
                row.iter_mut().for_each(|score| *score /= size_of::<f32>() as f32 * width as f32);
            }
        }
        // Places among the slots the client has, then the slots themselves.
        let places = top_slots(&scores, selection.budgets[member.client] * targets);
        let slot = |(t, places): (usize, &Vec<usize>)| match given {
            None => places.clone(),
            Some(given) => places.iter().map(|&p| given[t][p]).collect(),
        };
        let slots = places.iter().enumerate().map(slot).collect();
        let movement = (!selection.probe.reset).then(|| self.keep(outcome.movement, &places));
        Probed { slots: Some(slots), movement, tokens: outcome.tokens }
    }

    /// Each slot's number times the norm of what the frozen factor holds of it.
    fn rank_one(&self, norms: &[Vec<f32>], given: Option<&[Vec<usize>]>) -> Vec<Vec<f32>> {
        let frozen = if self.plan.active.factors()[0] == Factor::A { Factor::B } else { Factor::A };
        let of = |(t, own): (usize, &Vec<f32>)| {
            let whole = self.global.slot_rows(frozen, t);
            let slot = |place: usize| given.map_or(place, |given| given[t][place]);
            let row = |place: usize| &whole.data[slot(place) * whole.cols..][..whole.cols];
            own.iter().enumerate().map(|(place, v)| (f64::from(*v) * norm(row(place))) as f32).collect()
        };
        norms.iter().enumerate().map(of).collect()
    }

    /// A number for every slot, whoever has it, so that the draw does not depend on which slots are left.
    fn random_scores(&self, client: usize, given: Option<&[Vec<usize>]>) -> Vec<Vec<f32>> {
        let (seed, round) = (self.engine.settings.seed, self.plan.round as u64);
        let mut rng = stream(seed, Use::Selection, round, client as u64, 0);
        let mut of = |t: usize| {
            let all: Vec<f32> = (0..self.global.rank).map(|_| rng.random()).collect();
            given.map_or_else(|| all.clone(), |given| given[t].iter().map(|&slot| all[slot]).collect())
        };
        (0..self.global.targets.len()).map(&mut of).collect()
    }

    /// What the chosen slots, and the head, keep of a probe's movement.
    fn keep(&self, mut movement: Vec<Matrix>, places: &[Vec<usize>]) -> Vec<Matrix> {
        for (matrix, chosen) in movement.iter_mut().zip(places) {
            *matrix = matrix.rows(chosen);
        }
        movement
    }

    /// Local training proper. `None` for clients that were lost on the way.
    fn learn(&self, probes: &[Option<Probed>], count: &mut Count) -> Result<Vec<Option<Outcome>>, EngineError> {
        let job = |i: usize, m: &Member| {
            let probed = probes[i].as_ref()?;
            let resumed = || resume(self.plan, self.global, m.memory);
            Some(Work {
                steps: self.engine.local_steps(m),
                r#use: Use::Batches,
                slots: probed.slots.clone().or_else(|| self.plan.slots_of(m.client, self.global)),
                movement: probed.movement.clone().or_else(resumed),
            })
        };
        self.run_jobs(job, Wanted { probe: false, movement: true, scores: false }, count)
    }

    /// SCAFFOLD's correction: the server's control variate minus the client's own, role by role over all slots.
    fn correction(&self, member: &Member) -> Option<Vec<Matrix>> {
        let server = self.plan.terms.variate.as_ref()?;
        let of = |role: Role| {
            let mut all = server.get(&role.name()).cloned().unwrap_or_else(|| role_zeros(role, self.global, server));
            if let Some(own) = member.memory.and_then(|m| m.get(&format!("control/{}", role.name()))) {
                all.data.iter_mut().zip(&own.data).for_each(|(c, own)| *c -= own);
            }
            all
        };
        Some(Role::all(self.plan, self.global).into_iter().map(of).collect())
    }

    /// Runs the members that have work; outcomes in the cohort's order, `None` where there is none.
    fn run_jobs(
        &self,
        work: impl Fn(usize, &Member) -> Option<Work>,
        wanted: Wanted,
        count: &mut Count,
    ) -> Result<Vec<Option<Outcome>>, EngineError> {
        let mut outcomes: Vec<Option<Outcome>> = self.cohort.iter().map(|_| None).collect();
        let (mut of, mut jobs) = (Vec::new(), Vec::new());
        for (i, m) in self.cohort.iter().enumerate() {
            let Some(Work { steps, r#use, slots, movement }) = work(i, m) else { continue };
            let variate = if wanted.probe { None } else { self.correction(m) };
            of.push(i);
            let update_factor = self.plan.update_factor(m.client, self.global);
            jobs.push(ClientJob {
                client: m.client,
                rows: m.rows,
                steps,
                r#use,
                slots,
                movement,
                variate,
                update_factor,
            });
        }
        if jobs.is_empty() {
            return Ok(outcomes);
        }
        let settings = &self.engine.settings;
        let places = self.engine.lanes_for(self.plan, self.global, jobs.len());
        let chosen: Vec<&Vec<Vec<usize>>> = jobs.iter().filter_map(|j| j.slots.as_ref()).collect();
        let most = |t: usize| chosen.iter().map(|slots| slots[t].len()).max().unwrap_or(0);
        let slots: Vec<usize> = (0..self.global.targets.len()).map(most).collect();
        let slots = (!chosen.is_empty()).then_some(slots.as_slice());
        let device = self.model.device().clone().inner();
        let parameters = Parameters::new(self.plan, self.global, settings, places, slots, wanted.probe, &device);
        let local_loop = LocalLoop {
            model: self.model,
            train: &self.engine.train,
            settings,
            recompute: self.engine.options.recompute,
            plan: self.plan,
            jobs: &jobs,
            wanted,
            clocked: self.engine.clocked,
        };
        local_loop.run(parameters, places, &mut |event| match event {
            LoopEvent::Step { clients, tokens } => count(clients, tokens),
            LoopEvent::Done(outcome) => {
                let member = of[outcome.job];
                outcomes[member] = Some(outcome);
                Ok(())
            }
            LoopEvent::Lost => Ok(()),
            LoopEvent::Finished(times) => {
                self.times.set(self.times.get() + times);
                Ok(())
            }
        })?;
        Ok(outcomes)
    }

    /// A score for every layer `[1, layers]` on the client's first batch, by the model that everybody starts from.
    fn layer_scores(&self, member: &Member) -> Matrix {
        let (engine, device) = (self.engine, self.model.device());
        let rows = &member.rows[..member.rows.len().min(engine.settings.batch_size)];
        let batch = PackedBatch::pack(&[rows.iter().map(|&row| engine.train.example(row)).collect()]);
        let batch = batch.to_device(self.model.info(), Rounding::of(device), device);
        let states = self.model.layer_states(&ClientAdapter::new(Vec::new(), Vec::new()), &batch);
        let layers = states.len();
        let states = Tensor::cat(states, 0).inner();
        let [count, width] = states.dims();
        let numbers: Vec<f32> = states.into_data().try_to_vec().expect("f32 on the device");
        let of = |rows: &[f32]| layer_score(&Matrix::new(count / layers, width, rows.to_vec())) as f32;
        Matrix::new(1, layers, numbers.chunks(count / layers * width).map(of).collect())
    }

    fn uploads(&self, probes: Vec<Option<Probed>>, outcomes: Vec<Option<Outcome>>) -> Vec<Upload> {
        let members = self.cohort.iter().zip(probes).zip(outcomes);
        members.filter_map(|((m, probed), outcome)| Some(self.upload(m, probed?, outcome?))).collect()
    }

    fn upload(&self, member: &Member, probed: Probed, outcome: Outcome) -> Upload {
        let learnt = Learnt {
            client: member.client,
            examples: member.rows.len(),
            chosen: probed.slots.is_some(),
            slots: probed.slots.or_else(|| self.plan.slots_of(member.client, self.global)),
            movement: outcome.movement,
            extra: outcome.extra,
            layer_scores: self.plan.layer_scores.then(|| self.layer_scores(member)),
            loss: outcome.loss,
            steps: outcome.steps,
            tokens: probed.tokens + outcome.tokens,
        };
        send::upload(self.plan, self.global, &self.engine.settings, &self.engine.noise, member.memory, learnt)
    }
}

/// One score a row.
fn row_scores(matrices: &[Matrix], score: impl Fn(&[f32]) -> f64) -> Vec<Vec<f32>> {
    matrices.iter().map(|m| m.data.chunks(m.cols.max(1)).map(|row| score(row) as f32).collect()).collect()
}

fn sum(row: &[f32], each: impl Fn(f64) -> f64) -> f64 {
    row.iter().map(|&v| each(f64::from(v))).sum()
}

fn norm(row: &[f32]) -> f64 {
    sum(row, |v| v * v).sqrt()
}
