//! From a checked configuration to a federation that can train, and to the folder that it is written into.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use bonfire_federation::{Publish, Run};
use bonfire_models::{Model, ModelSource};

use crate::checkup::Purpose;
use crate::checkup::admit::admit;
use crate::config::{CheckedConfig, RunConfig};
use crate::device::{self, Opened};
use crate::interrupt::Interrupt;
use crate::job;
use crate::log::{RunLog, note};
use crate::partition_file::PartitionFile;
use crate::recorder::{Recorded, Recorder, settings_of};
use crate::run_folder::{self, RunFolder};
use crate::user_error::UserError;
use crate::watch::{Facts, Watch};

/// A federation that can train.
pub struct Prepared {
    /// Its server and all its clients.
    pub run: Run,
    /// Who holds how much of what.
    pub partition: PartitionFile,
    /// The devices, in words.
    pub devices: String,
    /// [`bonfire_data::Dataset::prompt_template`].
    pub prompt_template: Option<String>,
    /// Where its model comes from.
    pub source: ModelSource,
    /// What ends the run.
    pub interrupt: Arc<Interrupt>,
}

/// Opens the devices, then reads data and models. `interrupt` is asked for in between: until then nothing is lost by a plain
/// end of the program.
///
/// # Errors
/// A device, data or a model that cannot be used; what `interrupt` says.
pub fn prepare(
    config: &CheckedConfig,
    interrupt: impl FnOnce() -> Result<Arc<Interrupt>>,
    watch: &mut dyn Watch,
) -> Result<Prepared> {
    let opened = config.config.engine.device.open()?;
    opened.iter().filter_map(|o| o.notice.as_ref()).for_each(note);
    job::refuse_precision(config, &opened)?;
    admit(&opened, |watch| Purpose::of(config, watch), watch)?;
    let interrupt = interrupt()?;
    let Read { run, partition, prompt_template, source } =
        interrupt.while_preparing(|| federation(config, &opened, watch))?;
    Ok(Prepared { run, partition, devices: device::names(&opened), prompt_template, source, interrupt })
}

/// What comes of data and models.
struct Read {
    run: Run,
    partition: PartitionFile,
    prompt_template: Option<String>,
    source: ModelSource,
}

/// Reads data and models.
fn federation(checked: &CheckedConfig, opened: &[Opened], watch: &mut dyn Watch) -> Result<Read> {
    let config = &checked.config;
    let (data, source) = job::dataset_and_source(checked, watch)?;
    let shards = job::shards(checked, &data)?;
    job::refuse_empty(&shards)?;
    let partition = PartitionFile::of(&config.data.partition, &data, &shards);
    let load = |o: &Opened| job::model(checked, &source, job::task(config, data.labels.len()), &o.device);
    let models = opened.iter().map(load).collect::<Result<Vec<_>>>()?;
    job::note_on_adapter(config)?;
    let info = models[0].info().clone();
    let tokens = job::tokens(checked, &data, &source, &info)?;
    let devices = device::names(opened);
    watch.prepared(&Facts { data: &data, tokens: &tokens, shards: &shards, model: &info, devices: &devices });
    let models = models.into_iter().map(|m| Box::new(m) as Box<dyn Model>).collect();
    let run = Run::new(config.settings(), models, tokens, shards).map_err(|e| job::federation_error(checked, e))?;
    Ok(Read { run, partition, prompt_template: data.prompt_template, source })
}

impl Prepared {
    /// Makes the run's folder, whose log `log` becomes.
    ///
    /// # Errors
    /// The folder holds something already, or a file cannot be written.
    pub fn record(&self, config: &RunConfig, folder: &Path, log: &RunLog) -> Result<Recorder> {
        let files = RunFolder::create(folder, &settings_of(config, &self.run))?;
        log.open(folder)?;
        if config.settings().publish() == Publish::All {
            self.partition.write(folder)?;
        }
        let recorder = Recorder::new(files, &self.recorded(config), &self.run, Arc::clone(&self.interrupt));
        if recorder.as_ref().is_err_and(|error| error.is::<UserError>()) {
            // Nothing was trained, and the same command must find the place free once the mistake is mended.
            run_folder::clear(folder);
        }
        recorder
    }

    /// What a recorder needs to know.
    pub fn recorded<'r>(&'r self, config: &'r RunConfig) -> Recorded<'r> {
        Recorded {
            config,
            devices: &self.devices,
            labels: &self.partition.labels,
            prompt_template: self.prompt_template.as_deref(),
            source: &self.source,
        }
    }
}
