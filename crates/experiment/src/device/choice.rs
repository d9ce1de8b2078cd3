//! A device as a user names it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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

impl DeviceChoice {
    /// The backend's name, which is also its Cargo feature's.
    pub(super) fn backend(self) -> &'static str {
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
}
