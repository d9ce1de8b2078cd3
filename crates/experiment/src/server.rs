//! The server of a federation across machines.

use std::path::Path;

use anyhow::{Result, ensure};
use bonfire_data::Dataset;
use bonfire_engine::{Evaluation, Split, TokenizedData, Triggered, Upload, evaluate, evaluate_rows};
use bonfire_federation::{ClientMetrics, Coordinator, RoundMetrics, Summary};
use bonfire_models::peft::{self, Layout, PeftMeta, PeftTensor};
use bonfire_models::{Model, Transformer};

use crate::checkup::Purpose;
use crate::checkup::admit::admit;
use crate::config::{CheckedConfig, Source};
use crate::device;
use crate::fingerprint::{fingerprint, weights_of};
use crate::job;
use crate::log::note;
use crate::summary::{Identity, Totals};
use crate::watch::Watch;

/// The server of a federation across machines, with what it needs to judge and write the global model.
pub struct OpenServer {
    /// Strategy, state and ledger.
    pub coordinator: Coordinator,
    /// SHA-256, in hex, of what server and sites must agree on: settings that change numbers, labels, tokenizer, and a sample of
    /// the backbone's weights.
    pub fingerprint: String,
    /// The resolved configuration as TOML.
    pub config: String,
    /// The labels' names in their order; empty where nothing has labels.
    pub labels: Vec<String>,
    model: Transformer,
    test: Split,
    /// Where clients plant a backdoor, the test texts with its words.
    triggered: Option<Triggered>,
    identity: Identity,
    totals: Totals,
    meta: PeftMeta,
}

/// Reads model, labels and test rows, and makes a server. Training rows may be missing.
///
/// # Errors
/// A model or data that cannot be used, a setting that cannot be.
pub fn server(loaded: &CheckedConfig, watch: &mut dyn Watch) -> Result<OpenServer> {
    let config = &loaded.config;
    loaded.notices.iter().for_each(note);
    if config.evaluate.best.is_some() {
        note(
            "evaluate.best and train.stop are for a run in one process: a federation across machines keeps its last round",
        );
    }
    let opened = device::open(config.engine.device.first())?;
    job::refuse_precision(loaded, std::slice::from_ref(&opened))?;
    admit(std::slice::from_ref(&opened), |watch| Purpose::of(loaded, watch), watch)?;
    let (data, source) = match &config.data.path {
        Source::Folder(folder) if !job::has_training_rows(loaded, folder)? => {
            job::part_and_source(loaded, folder, watch)?
        }
        _ => job::dataset_and_source(loaded, watch)?,
    };
    let labels = data.labels.clone();
    let model = job::model(loaded, &source, job::task(config, data.labels.len()), &opened.device)?;
    let fingerprint = fingerprint(config, &data, &source, &weights_of(&source)?)?;
    let data = Dataset { train: Vec::new(), ..data };
    let TokenizedData { test, triggered, .. } = job::tokens(loaded, &data, &source, model.info())?;
    // Sites are told who takes part.
    let coordinator = Coordinator::new(config.settings(), &model, config.clients.count)
        .and_then(Coordinator::with_known_cohorts)
        .map_err(|e| job::federation_error(loaded, e))?;
    let trainable = coordinator.trainable_params();
    let identity = Identity::of(config, &opened.name, &model, coordinator.server(), trainable);
    Ok(OpenServer {
        fingerprint,
        config: config.to_toml(),
        labels,
        test,
        triggered,
        identity,
        totals: Totals::default(),
        meta: PeftMeta {
            base_model: config.model.path.base_model(),
            dropout: config.adapter.dropout,
            task: model.task(),
        },
        coordinator,
        model,
    })
}

impl OpenServer {
    /// The global model on the configuration's test rows; `None` where there are none, or where clients' own models are what
    /// counts.
    ///
    /// # Errors
    /// The device fails.
    pub fn evaluate(&self) -> Result<Option<Evaluation>> {
        if self.test.is_empty() || !self.coordinator.has_global_model() {
            return Ok(None);
        }
        let rows: Vec<usize> = (0..self.test.len()).collect();
        let adapter = self.coordinator.server().model();
        let mut found = evaluate(&self.model, &adapter, &self.test, &rows)?;
        if let Some(triggered) = &self.triggered {
            let telling: Vec<usize> = triggered.telling().collect();
            found.attack_success =
                triggered.answered(&evaluate_rows(&self.model, &adapter, &triggered.test, &telling)?);
        }
        Ok(Some(found))
    }

    /// Writes the global adapter in PEFT layout.
    ///
    /// # Errors
    /// A file cannot be written; full fine-tuning, which trains no adapter.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.refuse_weights()?;
        let meta = self.meta.clone();
        Ok(peft::write(folder, &self.coordinator.server().model(), &meta, Layout::Uniform)?)
    }

    /// The tensors that [`Self::save`] writes.
    ///
    /// # Errors
    /// Full fine-tuning, which trains no adapter.
    pub fn tensors(&self) -> Result<Vec<PeftTensor>> {
        self.refuse_weights()?;
        Ok(peft::tensors(&self.coordinator.server().model()))
    }

    fn refuse_weights(&self) -> Result<()> {
        let trains_all = !self.coordinator.server().adapter.weights.is_empty();
        ensure!(!trains_all, "full trains every weight and leaves no adapter; its numbers are in the download");
        Ok(())
    }

    /// Takes out the uploads that are not believed, says why, and gives their clients.
    ///
    /// # Errors
    /// There are some, and none is left.
    pub fn leave_out(&self, uploads: &mut Vec<Upload>) -> Result<Vec<usize>> {
        let round = self.coordinator.server().round + 1;
        let skipped = self.coordinator.leave_out(uploads);
        ensure!(!uploads.is_empty() || skipped.is_empty(), "round {round}: the upload of no client is believed");
        Ok(skipped)
    }

    /// Notes a round's row for the summary.
    pub fn note(&mut self, row: &RoundMetrics, clients: &[ClientMetrics]) {
        self.totals.add(&self.identity, row, clients.len());
    }

    /// The run in one object, as `summary.json` has it.
    pub fn summary(&self) -> Summary {
        self.totals.summary(&self.identity)
    }
}
