//! Several devices for one run: `cuda:0,cuda:1`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::choice::DeviceChoice;
use super::open::open;
use super::opened::Opened;
use crate::user_error::UserError;

/// The devices a run trains on, the first of which also evaluates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Devices(Vec<DeviceChoice>);

impl Default for Devices {
    fn default() -> Self {
        Devices(vec![DeviceChoice::Auto])
    }
}

impl Devices {
    /// The first.
    pub fn first(&self) -> DeviceChoice {
        self.0[0]
    }

    /// All of them.
    pub fn choices(&self) -> &[DeviceChoice] {
        &self.0
    }

    /// Opens them all.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(&self) -> Result<Vec<Opened>, UserError> {
        self.0.iter().map(|&choice| open(choice)).collect()
    }
}

impl JsonSchema for Devices {
    fn schema_name() -> Cow<'static, str> {
        "Devices".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        const ONE: &str = "(auto|cpu|(wgpu|vulkan|cuda)(:[0-9]+)?)";
        json_schema!({
            "description": "auto, cpu, wgpu, vulkan or cuda; a GPU also with its number; several with commas.",
            "type": "string",
            "pattern": format!("^ *{ONE} *(, *{ONE} *)*$"),
            "examples": ["auto", "cpu", "wgpu", "cuda:0,cuda:1"],
        })
    }
}

impl From<DeviceChoice> for Devices {
    fn from(choice: DeviceChoice) -> Self {
        Devices(vec![choice])
    }
}

/// The names of opened devices in one line.
pub fn names(opened: &[Opened]) -> String {
    opened.iter().map(|o| o.name.as_str()).collect::<Vec<_>>().join(" + ")
}

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>().map(Devices)
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(DeviceChoice::to_string).collect();
        f.write_str(&parts.join(","))
    }
}

impl TryFrom<String> for Devices {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Devices> for String {
    fn from(devices: Devices) -> Self {
        devices.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_as_they_are_written() {
        for text in ["auto", "cpu", "cuda:0,cuda:1", "wgpu:2,cpu"] {
            assert_eq!(text.parse::<Devices>().map(|d| d.to_string()), Ok(text.to_string()));
        }
        assert_eq!("cuda:0, cuda:1".parse::<Devices>().map(|d| d.to_string()), Ok("cuda:0,cuda:1".into()));
        for text in ["", "cuda:0,", "cuda:0;cuda:1"] {
            assert!(text.parse::<Devices>().is_err_and(|e| e.contains("expected auto, cpu")), "{text}");
        }
    }
}
