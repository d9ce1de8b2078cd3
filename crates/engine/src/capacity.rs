//! How many clients are on a device together: as many as fill a step of the size that the device likes, and as its memory
//! holds.

use bonfire_kernels::{device_buffer_limit, device_memory, runs_on_cpu};
use bonfire_models::Model;
use burn::tensor::Device;

use crate::evaluate::TOKENS;
use crate::fit::{ClientStep, Estimate, check_pieces, clients_in_a_buffer};
use crate::room::Room;
use crate::{EngineError, EngineSettings, InFlight, Split, TrainSettings};

/// Tokens a step should hold for the device to be busy, by kind of device.
const TOKENS_A_STEP_CPU: usize = 4_096;
const TOKENS_A_STEP_GPU: usize = 32_768;

/// What the devices of a run hold, and what a client's batch takes.
pub(crate) struct Capacity {
    /// Bytes of the smallest device that tells.
    memory: Option<u64>,
    /// Bytes of a tensor that the least of the devices holds in one piece.
    buffer: Option<u64>,
    /// Tokens of a client's mean batch, and how many of its answers are scored.
    mean_batch: [u64; 2],
    /// Tensors of a client's size that the optimizer carries.
    moments: u64,
    /// How many tokens a token sees in the mean, where attention holds its scores; else 0.
    seen: u64,
    on_cpu: bool,
    /// What has failed so far.
    pub room: Room,
}

impl Capacity {
    /// Of devices that hold these `models`, for local training on `train` as `settings` say.
    pub fn new(models: &[Box<dyn Model>], train: &Split, settings: &TrainSettings) -> Capacity {
        let least = |known: fn(&Device) -> Option<u64>| models.iter().filter_map(|m| known(m.device())).min();
        let tokens: usize = train.ids.iter().map(Vec::len).sum();
        let answers: usize = train.ids.iter().zip(&train.goals).map(|(ids, goal)| goal.answers(ids.len())).sum();
        let mean_batch =
            [tokens, answers].map(|n| (settings.batch_size * n.div_ceil(train.len().max(1)).max(1)) as u64);
        let on_cpu = models.first().is_some_and(|model| runs_on_cpu(model.device()));
        let room = Room::new(TOKENS);
        let moments = settings.optimizer.moments();
        let holds = models.first().is_some_and(|m| m.dropout().model.attention > 0.0 || m.info().distances > 0);
        let squares: u64 = train.ids.iter().map(|ids| (ids.len() as u64).pow(2)).sum();
        let seen = if holds { squares.div_ceil((tokens as u64).max(1)) } else { 0 };
        Capacity {
            memory: least(device_memory),
            buffer: least(device_buffer_limit),
            mean_batch,
            moments,
            seen,
            on_cpu,
            room,
        }
    }

    /// What `cohort` clients that share a device and train `scalars` numbers each need there.
    pub fn estimate(&self, model: &dyn Model, options: &EngineSettings, cohort: usize, scalars: u64) -> Estimate {
        let (info, tokens) = (model.info(), self.mean_batch[0]);
        let step = ClientStep { scalars, tokens: self.mean_batch, moments: self.moments, seen: self.seen };
        let mut estimate = Estimate::new(info, model.task(), options, step, self.memory);
        let wanted = match options.in_flight {
            InFlight::Count(n) => n,
            InFlight::Auto => {
                let step = if self.grows(options) { self.room.tokens() } else { self.goal(options) };
                let goal = step.div_ceil(tokens as usize);
                let piece = |limit| clients_in_a_buffer(info, options.precision, tokens, limit);
                goal.min(estimate.clients().unwrap_or(goal)).min(self.buffer.map_or(goal, piece))
            }
        };
        estimate.in_flight = wanted.min(self.room.most()).clamp(1, cohort.max(1));
        estimate
    }

    /// Refuses clients that do not fit on the device even one by one, and tensors larger than its buffers. A number of clients
    /// in flight that the user has set is taken as it is.
    ///
    /// # Errors
    /// As said.
    pub fn check(&self, model: &dyn Model, options: &EngineSettings, scalars: u64) -> Result<(), EngineError> {
        if let Some(limit) = self.buffer {
            check_pieces(model.info(), model.task(), options.precision, self.mean_batch[0], limit)?;
        }
        let estimate = self.estimate(model, options, 1, scalars);
        if options.in_flight == InFlight::Count(1) || estimate.fits() {
            Ok(())
        } else {
            Err(EngineError::TooLarge { estimate })
        }
    }

    /// A round went well with `in_flight` clients of the `share` that a device had: where nothing is known of its memory, the
    /// next may take more.
    pub fn went_well(&self, options: &EngineSettings, in_flight: usize, share: usize) {
        if self.grows(options) && in_flight < share {
            self.room.grow(self.goal(options));
        }
    }

    /// Tokens of a step that the user or the kind of device likes.
    fn goal(&self, options: &EngineSettings) -> usize {
        options.tokens_per_step.unwrap_or(if self.on_cpu { TOKENS_A_STEP_CPU } else { TOKENS_A_STEP_GPU })
    }

    /// Whether steps begin small and grow from round to round: nothing is known of a GPU's memory.
    fn grows(&self, options: &EngineSettings) -> bool {
        let known = self.memory.is_some() || options.memory_gb.is_some();
        let said = options.in_flight != InFlight::Auto || options.tokens_per_step.is_some();
        !known && !said && !self.on_cpu
    }
}
