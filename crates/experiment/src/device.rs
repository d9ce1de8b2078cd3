//! Which device a run uses: what the user may ask for, what is compiled in, what answers.
//! `auto` takes a real GPU if one answers, never a software rasteriser, else the CPU.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::user_error::UserError;

#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "cuda"))]
mod gpu;
mod list;

pub use list::{Devices, names};

/// What the user asks for, in `--device` or `engine.device`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// A GPU if one answers, else the CPU.
    #[default]
    Auto,
    /// The CPU, through Burn's Flex backend.
    Cpu,
    /// The n-th adapter that wgpu finds, or its best.
    Wgpu(Option<usize>),
    /// The same, on Vulkan alone.
    Vulkan(Option<usize>),
    /// The n-th CUDA device, or the first.
    Cuda(Option<usize>),
}

/// A device that answers, and its name in words.
pub struct Opened {
    /// The device, without autodiff.
    pub device: Device,
    /// Backend and part, as in `summary.json`.
    pub name: String,
    /// What the user should know about the choice.
    pub notice: Option<String>,
    /// Whether a GPU's work is done by the CPU.
    pub software: bool,
}

/// A device as it is asked for, and opened, or why it cannot be.
pub type Tried = (DeviceChoice, Result<Opened, UserError>);

/// Every device of every backend in this build, the CPU first.
pub fn every() -> Vec<Tried> {
    let mut found = vec![(DeviceChoice::Cpu, open_cpu())];
    #[cfg(any(feature = "wgpu", feature = "vulkan", feature = "cuda"))]
    found.extend(gpu::every().into_iter().map(|choice| (choice, open(choice))));
    found.retain(|(choice, _)| choice.is_compiled_in());
    found
}

/// Opens the device asked for.
///
/// # Errors
/// A device that is not compiled in (naming the Cargo feature) or does not answer.
pub fn open(choice: DeviceChoice) -> Result<Opened, UserError> {
    match choice {
        DeviceChoice::Auto => open_auto(),
        DeviceChoice::Cpu => open_cpu(),
        #[cfg(feature = "wgpu")]
        DeviceChoice::Wgpu(index) => gpu::open_wgpu(index),
        #[cfg(feature = "vulkan")]
        DeviceChoice::Vulkan(index) => gpu::open_vulkan(index),
        #[cfg(feature = "cuda")]
        DeviceChoice::Cuda(index) => gpu::open_cuda(index),
        #[cfg(not(all(feature = "wgpu", feature = "vulkan", feature = "cuda")))]
        other => Err(not_compiled_in(other.backend())),
    }
}

#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "cuda"))]
fn open_auto() -> Result<Opened, UserError> {
    gpu::best().map_or_else(open_cpu, Ok)
}

#[cfg(not(any(feature = "wgpu", feature = "vulkan", feature = "cuda")))]
fn open_auto() -> Result<Opened, UserError> {
    open_cpu()
}

#[cfg(feature = "flex")]
fn open_cpu() -> Result<Opened, UserError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let name = format!("cpu (flex, {threads} thread{})", if threads == 1 { "" } else { "s" });
    Ok(Opened { device: Device::flex(), name, notice: None, software: false })
}

#[cfg(not(feature = "flex"))]
fn open_cpu() -> Result<Opened, UserError> {
    Err(not_compiled_in("flex"))
}

/// The message for a backend this binary was built without.
#[cfg_attr(all(feature = "wgpu", feature = "vulkan", feature = "cuda", feature = "flex"), expect(dead_code))]
fn not_compiled_in(feature: &str) -> UserError {
    let device = if feature == "flex" { "cpu" } else { feature };
    UserError::new(format!("this build of bonfire has no `{device}` device"))
        .help(format!("build it with the Cargo feature `{feature}`: cargo build --release --features {feature}"))
}

impl DeviceChoice {
    /// The backend's name, which is also its Cargo feature's.
    fn backend(self) -> &'static str {
        match self {
            DeviceChoice::Auto => "auto",
            DeviceChoice::Cpu => "cpu",
            DeviceChoice::Wgpu(_) => "wgpu",
            DeviceChoice::Vulkan(_) => "vulkan",
            DeviceChoice::Cuda(_) => "cuda",
        }
    }

    /// Whether this build has the backend.
    pub fn is_compiled_in(self) -> bool {
        match self {
            DeviceChoice::Auto => true,
            DeviceChoice::Cpu => cfg!(feature = "flex"),
            DeviceChoice::Wgpu(_) => cfg!(feature = "wgpu"),
            DeviceChoice::Vulkan(_) => cfg!(feature = "vulkan"),
            DeviceChoice::Cuda(_) => cfg!(feature = "cuda"),
        }
    }

    /// The number after the colon.
    fn index(self) -> Option<usize> {
        match self {
            DeviceChoice::Auto | DeviceChoice::Cpu => None,
            DeviceChoice::Wgpu(n) | DeviceChoice::Vulkan(n) | DeviceChoice::Cuda(n) => n,
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.backend())?;
        match self.index() {
            Some(n) => write!(f, ":{n}"),
            None => Ok(()),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("\"{text}\"; expected auto, cpu, wgpu, vulkan or cuda, a GPU also with its number: cuda:1");
        let (backend, number) = match text.split_once(':') {
            Some((backend, number)) => (backend, Some(number.parse::<usize>().map_err(|_| expected())?)),
            None => (text, None),
        };
        match (backend, number) {
            ("auto", None) => Ok(DeviceChoice::Auto),
            ("cpu", None) => Ok(DeviceChoice::Cpu),
            ("wgpu", n) => Ok(DeviceChoice::Wgpu(n)),
            ("vulkan", n) => Ok(DeviceChoice::Vulkan(n)),
            ("cuda", n) => Ok(DeviceChoice::Cuda(n)),
            _ => Err(expected()),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_read_as_they_are_written() {
        for text in ["auto", "cpu", "wgpu", "wgpu:2", "vulkan", "vulkan:0", "cuda", "cuda:7"] {
            assert_eq!(text.parse::<DeviceChoice>().map(|c| c.to_string()), Ok(text.to_string()));
        }
        for text in ["gpu", "cpu:1", "cuda:", "cuda:x", "auto:0", ""] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }

    #[cfg(feature = "flex")]
    #[test]
    fn the_cpu_always_answers() {
        assert!(open(DeviceChoice::Cpu).is_ok_and(|opened| opened.name.starts_with("cpu")));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_missing_backend_names_its_feature() {
        let Err(mistake) = open(DeviceChoice::Cuda(None)) else { panic!("no CUDA in this build") };
        assert!(mistake.help.is_some_and(|help| help.contains("--features cuda")));
    }
}
