//! What the clients' devices and texts are like, for the time that a round takes.

use anyhow::Result;
use bonfire_experiment::config::{CheckedConfig, Source};
use bonfire_experiment::job;
use bonfire_experiment::log::{note, note_once};
use bonfire_federation::{DeviceKind, Settings, Texts};
use bonfire_models::ModelInfo;

use super::CostArgs;
use crate::progress::Waiting;

/// Devices and texts of all cells.
pub struct Time {
    /// In place of what the configuration says of devices.
    devices: Vec<DeviceKind>,
    /// Of every client; one for all of them where options say so.
    texts: Vec<Texts>,
}

impl Time {
    /// By the options, else by the configuration, whose data are read where they are needed and at hand (`has_data`).
    ///
    /// # Errors
    /// Data or a tokenizer that cannot be used.
    pub fn of(args: &CostArgs, base: &CheckedConfig, has_data: bool, model: &ModelInfo) -> Result<Time> {
        let given = &base.config.clients.devices;
        let options = [args.up, args.down, args.latency, args.tokens_per_second];
        let mut devices = match given.is_empty() || options.iter().any(Option::is_some) {
            false => given.clone(),
            true => {
                let speed = args.tokens_per_second.unwrap_or(f64::INFINITY);
                let one = DeviceKind::new(speed, args.up.unwrap_or(20.0), args.down.unwrap_or(100.0));
                vec![DeviceKind { latency: args.latency.unwrap_or(0.0), ..one }]
            }
        };
        if devices.iter().all(|kind| kind.tokens_per_second.is_infinite()) {
            return Ok(Time { devices, texts: Vec::new() });
        }
        let texts = texts(args, base, has_data, model)?;
        if texts.is_empty() {
            note(
                "a round is shown without training: nobody has said what a client trains on; pass --rows N --tokens N",
            );
            devices.iter_mut().for_each(|kind| kind.tokens_per_second = f64::INFINITY);
        }
        Ok(Time { devices, texts })
    }

    /// `settings` with these devices.
    pub fn on_devices(&self, mut settings: Settings) -> Settings {
        settings.clients.devices.clone_from(&self.devices);
        settings
    }

    /// What a client trains on.
    pub fn texts(&self, client: usize) -> Texts {
        self.texts.get(client).or(self.texts.first()).copied().unwrap_or_default()
    }

    /// The kinds of devices.
    pub fn devices(&self) -> &[DeviceKind] {
        &self.devices
    }
}

/// Empty where neither the options nor the data tell.
fn texts(args: &CostArgs, base: &CheckedConfig, has_data: bool, model: &ModelInfo) -> Result<Vec<Texts>> {
    let longest = base.config.data.max_length as f64;
    if args.tokens.is_some_and(|each| each > longest) {
        note_once(format!("texts are cut at data.max_length = {longest} tokens, whatever --tokens says"));
    }
    let of = |rows: usize, each: f64| Texts { rows, tokens: rows as f64 * each.min(longest) };
    if let (Some(rows), Some(each)) = (args.rows, args.tokens) {
        return Ok(vec![of(rows as usize, each)]);
    }
    // A model on the Hub would have to be fetched for its tokenizer, and of a folder its config.json may be all that is there.
    let tokenizes = match &base.config.model.path {
        Source::Hub(_) => false,
        Source::Folder(folder) => !folder.is_dir() || folder.join("tokenizer.json").exists(),
        _ => true,
    };
    if !has_data || (args.tokens.is_none() && !tokenizes) {
        return Ok(Vec::new());
    }
    let mut watch = Waiting::default();
    if let Some(each) = args.tokens {
        let shards = job::shards(base, &job::dataset(base, &mut watch)?)?;
        return Ok(shards.train.iter().map(|rows| of(rows.len(), each)).collect());
    }
    let (data, source) = job::dataset_and_source(base, &mut watch)?;
    let lengths = job::split_tokens(base, &data.train, &data.labels, "train", &source, model)?.ids;
    let mean = lengths.iter().map(Vec::len).sum::<usize>() as f64 / lengths.len().max(1) as f64;
    if let Some(rows) = args.rows {
        return Ok(vec![of(rows as usize, mean)]);
    }
    let shards = job::shards(base, &data)?;
    let shard = |rows: &Vec<usize>| Texts {
        rows: rows.len(),
        tokens: rows.iter().map(|&row| lengths[row].len()).sum::<usize>() as f64,
    };
    Ok(shards.train.iter().map(shard).collect())
}
