//! The server of a federation, wherever its clients are: it plans, counts, says which uploads are believed, and aggregates. It
//! trains nothing.

use bonfire_data::random::NoiseKey;
use bonfire_engine::{Evaluation, MessageError, Plan, Problem, Upload};
use bonfire_models::{Adapter, Factor, Model, Task};

use crate::clock::Clock;
use crate::download::{Download, Pushes};
use crate::initial_adapter::{begin_trained, initial_adapter};
use crate::ledger::Traffic;
use crate::overlap::overlap;
use crate::protection::Protection;
use crate::strategies::{Strategy, build};
use crate::timeline::Timeline;
use crate::{
    ClientMetrics, EvaluateOn, FederationError, Ledger, Publish, RoundMetrics, Server, ServerSettings, Settings,
    Weights,
};

/// A movement's norm or a loss above this is nonsense whatever the settings: training that has diverged, or a client that means harm.
/// As numbers they are finite, and one of them would be the mean.
const NONSENSE: f64 = 1e6;

/// Clients of a round whose reason is noted.
const NOTED: usize = 3;

/// Strategy, state and ledger of a federation.
pub struct Coordinator {
    pub(crate) settings: Settings,
    pub(crate) strategy: Box<dyn Strategy>,
    pub(crate) server: Server,
    pub(crate) ledger: Ledger,
    /// After which round A and B were last drawn anew from the seed, by strategies whose clients draw them too.
    pub(crate) restarted: usize,
    /// Up to where sites know the log of what was merged.
    pub(crate) pushes: Pushes,
    /// Secrets and accounts of privacy.
    pub(crate) protection: Protection,
    /// The clients' devices, where something is said of them.
    pub(crate) clock: Option<Clock>,
    /// Where the run stands by them.
    pub(crate) timeline: Timeline,
    task: Task,
}

/// Refuses weights of classes that are not a number a class, or for a model without classes.
fn check_class_weights(settings: &Settings, task: Task) -> Result<(), FederationError> {
    let Some(weights) = &settings.train.class_weights else { return Ok(()) };
    let what = match task {
        Task::Classify(classes) | Task::Tag(classes) if classes == weights.len() => return Ok(()),
        Task::Classify(classes) | Task::Tag(classes) => {
            format!("has {} numbers for {classes} labels; give one a label", weights.len())
        }
        Task::MultiLabel(_) => {
            "weighs classes of which a text has one, and here it may have any number of labels; leave it out".into()
        }
        Task::Regress => "weighs classes, and a model that foretells numbers has none; leave it out".into(),
        Task::Causal => "weighs classes, and a language model has none; leave it out".into(),
    };
    Err(Problem::new("train.class_weights", what).into())
}

impl Coordinator {
    /// A federation of `clients` before its first round: a fresh adapter from the seed. Of `model` the shapes and the head
    /// are read, and in full fine-tuning the weights.
    ///
    /// # Errors
    /// A setting that cannot be, named by its key.
    pub fn new(mut settings: Settings, model: &dyn Model, clients: usize) -> Result<Self, FederationError> {
        if let Some(problem) = settings.problem() {
            return Err(problem.into());
        }
        settings.train.settle(model.info().hidden);
        check_class_weights(&settings, model.task())?;
        let global = initial_adapter(&settings, model)?;
        let protection = Protection::new(&settings, clients)?;
        let strategy = build(&settings, &protection, settings.budgets(clients)?);
        let (mut server, mut ledger) = (Server::new(global), Ledger::new(clients));
        if settings.adapter.init.folder().is_some() {
            begin_trained(strategy.as_ref(), &settings, &mut server, &mut ledger);
        }
        strategy.begin(&mut server);
        let (pushes, task, clock) = (Pushes::default(), model.task(), Clock::new(&settings, clients));
        let (restarted, timeline) = (0, Timeline::default());
        Ok(Coordinator { settings, strategy, server, ledger, restarted, pushes, protection, clock, timeline, task })
    }

    /// What the federation was told.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The state after the last complete round.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Clients of the federation.
    pub fn clients(&self) -> usize {
        self.ledger.clients()
    }

    /// The strategy's name.
    pub fn strategy_name(&self) -> &'static str {
        self.strategy.name()
    }

    /// Whether there is one model for all; else every client's own is what counts.
    pub fn has_global_model(&self) -> bool {
        self.settings.strategy.traits().has_global_model
    }

    /// Whether all rounds are done.
    pub fn is_finished(&self) -> bool {
        self.server.round >= self.settings.train.rounds
    }

    /// The orders for the next round.
    pub fn plan(&self) -> Plan {
        Plan { wire: self.settings.wire, ..self.strategy.plan(&self.server) }
    }

    /// The clients of the next round, ascending: see [`Self::cohort_of`].
    pub fn cohort(&self) -> Vec<usize> {
        self.cohort_of(self.server.round + 1)
    }

    /// The clients of `round`, ascending: see [`Settings::cohort`]. With noise on the mean each is drawn on its own, from a
    /// secret: who takes part is then for nobody to know beforehand.
    pub fn cohort_of(&self, round: usize) -> Vec<usize> {
        self.protection.cohort(&self.settings, round, self.clients(), self.begins())
    }

    /// When the next round begins, in seconds since the run began: at once, or when the first client's window opens.
    pub(crate) fn begins(&self) -> f64 {
        self.settings.first_open(self.clients(), self.timeline.now)
    }

    /// Noise of privacy comes from `key` from now on.
    pub(crate) fn draw_noise_from(&mut self, key: NoiseKey) -> Result<(), FederationError> {
        self.protection.key = key;
        self.strategy = build(&self.settings, &self.protection, self.settings.budgets(self.clients())?);
        Ok(())
    }

    /// Whether the global model is due to be evaluated after the last complete round.
    pub fn is_due(&self) -> bool {
        let round = self.server.round;
        round.is_multiple_of(self.settings.evaluate.every) || round == self.settings.train.rounds
    }

    /// Scalars of the global adapter, and of the head if it trains.
    pub fn trainable_params(&self) -> u64 {
        let adapter = &self.server.adapter;
        let head = if self.settings.trains_head() { adapter.head_params() } else { 0 };
        Factor::ALL.iter().map(|&factor| adapter.factor_params(factor)).sum::<u64>() + adapter.weight_params() + head
    }

    /// What a site lacks to begin the next round that last began round `since`; 0: it holds nothing. `clients` are all those
    /// of the site: of methods in which clients hold fewer slots it gets theirs. `None`: every slot.
    pub fn download(&self, since: usize, clients: Option<&[usize]>) -> Download {
        Download::new(self, &self.plan(), since, clients)
    }

    /// The adapter as clients know it that the round of `plan` begins with, where that is not the server's own: what they were
    /// sent was rounded.
    pub(crate) fn known_to_clients(&self, plan: &Plan) -> Option<Adapter> {
        if !plan.wire.codes_downloads() {
            return None;
        }
        let sent = self.ledger.newer_than(0);
        let mut adapter = self.server.adapter.clone();
        // What every client makes from the seed, or has with the backbone, is not sent.
        let seeded = |factor| plan.seeded && factor != Factor::Core;
        for factor in Factor::ALL.into_iter().filter(|&factor| sent.factor(factor) && !seeded(factor)) {
            plan.wire.round_factor(&mut adapter, factor);
        }
        if sent.head {
            adapter.head.iter_mut().for_each(|tensor| tensor.value = plan.wire.rounded(&tensor.value));
        }
        if sent.weights {
            adapter.weights.iter_mut().for_each(|matrix| *matrix = plan.wire.rounded(matrix));
        }
        Some(adapter)
    }

    /// A site was lost with all that it held: what its clients download next is whole, and the ledger counts it so.
    pub fn forget(&mut self, clients: &[usize]) {
        self.ledger.forget(clients);
    }

    /// Reads the message of a client for the round that runs: see [`Upload::decode`].
    ///
    /// # Errors
    /// As there.
    pub fn decode(&self, message: &[u8], plan: &Plan) -> Result<Upload, MessageError> {
        Upload::decode(message, plan, &self.server.adapter, &self.settings.train, self.clients())
    }

    /// Why an upload is left out of its round, whole as it is: what it says cannot be, or is more than `server.max_norm` and
    /// `server.max_examples` let a client say. `None`: it counts.
    pub fn disbelieves(&self, upload: &Upload) -> Option<String> {
        let ServerSettings { max_norm, max_examples, .. } = self.settings.server;
        let (norm, loss, examples) = (upload.norm(), upload.loss.abs(), upload.examples);
        let beyond = |number: f64, most: f64| number.is_nan() || number > most;
        if let Some(most) = max_norm.filter(|most| beyond(norm, *most)) {
            return Some(format!("its movement has norm {norm:.3e}, above server.max_norm = {most}"));
        }
        if beyond(norm, NONSENSE) {
            return Some(format!("its movement has norm {norm:.3e}, which no training that learns has"));
        }
        if beyond(loss, NONSENSE) {
            return Some(format!("its loss is {:.3e}, which no training that learns has", upload.loss));
        }
        if let Some(loss) = upload.start_loss().filter(|loss| *loss < 0.0 || beyond(*loss, NONSENSE)) {
            return Some(format!("its loss before training is {loss:.3e}, which no model that learns has"));
        }
        let most = max_examples.filter(|most| examples > *most)?;
        Some(format!("it says that it has {examples} examples, above server.max_examples = {most}"))
    }

    /// Takes out the uploads that are not [believed](Self::disbelieves), notes why, and gives their clients. Where the run keeps to itself who
    /// took part, nothing is noted.
    pub fn leave_out(&self, uploads: &mut Vec<Upload>) -> Vec<usize> {
        let (mut left_out, mut why) = (Vec::new(), Vec::new());
        uploads.retain(|upload| {
            let Some(problem) = self.disbelieves(upload) else { return true };
            why.push(format!("client {} is left out: {problem}", upload.client));
            left_out.push(upload.client);
            false
        });
        if !why.is_empty() && self.settings.publish() == Publish::All {
            let round = self.server.round + 1;
            let more = why.len().saturating_sub(NOTED);
            why.truncate(NOTED);
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            tracing::info!("round {round}: {}{more}", why.join("; "));
        }
        left_out
    }

    /// For a server whose sites see who takes part, whatever its own rows keep: no draw of clients is counted in the
    /// guarantee's favour.
    ///
    /// # Errors
    /// An ε that no noise reaches then.
    pub fn with_known_cohorts(mut self) -> Result<Self, FederationError> {
        self.settings.refuse_pooled()?;
        self.settings.refuse_clock()?;
        self.settings.refuse_personalised()?;
        let clients = self.clients();
        self.protection = self.protection.with_known_cohorts(&self.settings, clients)?;
        self.strategy = build(&self.settings, &self.protection, self.settings.budgets(clients)?);
        Ok(self)
    }

    /// Ends the round of `plan`: counts what crossed, and brings the server to the round's end. The clients in `stayed` were
    /// sent the round's start and did not drop out; those in `dropped` were sent it and did. Gives the round's counts and the
    /// bytes of every upload.
    ///
    /// # Errors
    /// The uploads cannot be combined; the state is as it was.
    pub fn aggregate(
        &mut self,
        plan: &Plan,
        uploads: &[Upload],
        stayed: &[usize],
        dropped: &[usize],
    ) -> Result<(Traffic, Vec<u64>), FederationError> {
        let round = plan.round;
        let mut ledger = self.ledger.clone();
        let down = ledger.download(plan, &self.server, stayed);
        let lost = ledger.download(plan, &self.server, dropped);
        let (up, sizes) = ledger.upload(uploads);
        let exchanges = self.settings.strategy.traits().exchanges;
        let mut next = self.server.clone();
        let counted = self.protection.counted(plan, &self.server.adapter, &self.settings, uploads);
        let uploads = counted.as_ref();
        if !uploads.is_empty() {
            match self.settings.server.weights {
                Weights::Examples => self.strategy.aggregate(&mut next, uploads)?,
                Weights::Uniform => {
                    let alike = |upload: &Upload| Upload { examples: 1, ..upload.clone() };
                    self.strategy.aggregate(&mut next, &uploads.iter().map(alike).collect::<Vec<_>>())?;
                }
            }
        }
        if !next.adapter.is_finite() {
            return Err(FederationError::NotFinite { round });
        }
        next.round = round;
        ledger.changed(plan, uploads, &self.server, &next);
        self.pushes.changed(round, &self.server.merged, &next.merged);
        if plan.seeded && !uploads.is_empty() {
            self.restarted = round;
        }
        (self.server, self.ledger) = (next, ledger);
        if !exchanges {
            return Ok((Traffic::default(), vec![0; sizes.len()]));
        }
        Ok((up.with_downloads(down, lost), sizes))
    }

    /// Of a round's rows what may be published: see [`Publish`].
    pub fn published(&self, row: RoundMetrics, clients: Vec<ClientMetrics>) -> (RoundMetrics, Vec<ClientMetrics>) {
        match self.settings.publish() {
            Publish::All => (row, clients),
            Publish::Minimal => (row.minimal(), Vec::new()),
        }
    }

    /// The row of the round of `plan`, which has just ended. What only the caller knows (who dropped out, times) is left empty.
    pub fn row(&self, plan: &Plan, uploads: &[Upload], traffic: Traffic, test: Option<Evaluation>) -> RoundMetrics {
        let adapter = &self.server.adapter;
        let slots = match &plan.live {
            Some(live) => live.count(),
            None => adapter.rank * adapter.targets.len(),
        };
        let examples: usize = uploads.iter().map(|u| u.examples).sum();
        let overlap = overlap(uploads.iter().map(|u| &u.slots), slots);
        let spent = self.protection.spent(&self.settings, self.server.round);
        let spoken = test.filter(|_| self.task == Task::Causal);
        let mut row = RoundMetrics {
            round: self.server.round,
            phase: plan.active.name().to_string(),
            train_loss: uploads.iter().map(|u| u.loss * u.examples as f64).sum::<f64>() / examples.max(1) as f64,
            test_loss: None,
            test_perplexity: spoken.map(|t| t.loss.exp()),
            test_exact_match: spoken.map(|t| t.exact_match),
            test_accuracy: None,
            test_macro_f1: None,
            test_macro_precision: None,
            test_macro_recall: None,
            test_micro_f1: None,
            test_pearson: None,
            test_spearman: None,
            test_f1: None,
            test_precision: None,
            test_recall: None,
            test_matthews: None,
            validation_loss: None,
            validation_accuracy: None,
            validation_macro_f1: None,
            validation_macro_precision: None,
            validation_macro_recall: None,
            validation_micro_f1: None,
            validation_pearson: None,
            validation_spearman: None,
            validation_f1: None,
            validation_precision: None,
            validation_recall: None,
            validation_matthews: None,
            client_accuracy: None,
            personalised: None,
            attack_success: None,
            upload_params: traffic.upload_params,
            upload_head_params: traffic.upload_head_params,
            upload_aux_params: traffic.upload_aux_params,
            upload_index_bytes: traffic.upload_index_bytes,
            upload_bytes: traffic.upload_bytes,
            download_params: traffic.download_params,
            download_bytes: traffic.download_bytes,
            lost_download_bytes: traffic.lost_download_bytes,
            late_upload_bytes: 0,
            dropped: Vec::new(),
            late: Vec::new(),
            simulated_seconds: None,
            watt_hours: None,
            staleness: None,
            skipped: Vec::new(),
            in_flight: 0,
            no_room_for: Vec::new(),
            personal_accuracy: None,
            personal_loss: None,
            personal_macro_f1: None,
            personal_matthews: None,
            personal_pearson: None,
            personal_spearman: None,
            personal_f1: None,
            slot_overlap: overlap.map(|o| o.found),
            slot_overlap_by_chance: overlap.map(|o| o.by_chance),
            live_slots: self.server.live().map(|live| live.count()),
            epsilon: spent.map(|spent| spent.epsilon),
            delta: spent.map(|spent| spent.delta),
            simulated_privacy: self.settings.privacy.is_some_and(|privacy| privacy.reproducible()),
            seconds: 0.0,
            train_seconds: 0.0,
            times: None,
            tokens: uploads.iter().map(|u| u.tokens).sum(),
        };
        test.iter().for_each(|found| row.put(EvaluateOn::Test, found));
        row
    }
}
