//! Options that every command has, and what several do with theirs.

use std::io::Read;

use anyhow::{Context, Result};
use bonfire_experiment::UserError;
use bonfire_experiment::config::CheckedConfig;
use bonfire_experiment::device::{DeviceChoice, Devices};
use bonfire_experiment::log::note;
use clap::{Args, ValueEnum};

/// A text given as an option, or with `-` what comes in; `what` it is, in an error.
///
/// # Errors
/// What comes in cannot be read.
pub fn given_or_read(given: &str, what: &str) -> Result<String> {
    if given != "-" {
        return Ok(given.to_string());
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).with_context(|| format!("cannot read the {what}"))?;
    Ok(text)
}

/// An option's number above 0.
///
/// # Errors
/// No number, or another.
pub fn positive(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    number.filter(|n| n.is_finite() && *n > 0.0).ok_or_else(|| "expected a positive number".into())
}

/// How what is printed looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line, without bars and colour
    Json,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// auto, cpu, wgpu, vulkan or cuda; a GPU also with its number; several with commas: cuda:0,cuda:1
    #[arg(long, global = true, value_name = "DEVICE")]
    pub device: Option<Devices>,
    /// Override a key of the configuration; may be given again
    #[arg(long = "set", global = true, value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
    /// Print only the result
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// What is printed: lines for people, or a JSON object a line
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

impl Common {
    /// For a command without a configuration to override.
    ///
    /// # Errors
    /// There is a `--set`; `way_out` says what to do instead.
    pub fn refuse_sets(&self, command: &str, way_out: &str) -> Result<(), UserError> {
        match self.sets.first() {
            Some(set) => {
                let what = format!("{command} reads no configuration, so `--set {set}` changes nothing");
                Err(UserError::new(what).help(way_out))
            }
            None => Ok(()),
        }
    }

    /// Says what was noticed when `loaded` was read, and lets `--device` go before the configuration's own.
    pub fn applied_to(&self, mut loaded: CheckedConfig) -> CheckedConfig {
        loaded.notices.iter().for_each(note);
        if let Some(devices) = &self.device {
            loaded.config.engine.device = devices.clone();
        }
        loaded
    }

    /// The first device, `--device` going before the configuration's own.
    pub fn first_device(&self, loaded: &CheckedConfig) -> DeviceChoice {
        self.device.as_ref().unwrap_or(&loaded.config.engine.device).first()
    }
}
