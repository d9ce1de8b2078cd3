//! `adapter.init`: a fresh adapter, or one that was trained before.

use std::path::{Path, PathBuf};

use bonfire_models::AdapterInit;
use serde::{Deserialize, Serialize};

/// How the adapter starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum AdapterStart {
    /// A is drawn from the seed, B is zero.
    Fresh(AdapterInit),
    /// From this folder, in PEFT layout.
    Folder(PathBuf),
}

impl AdapterStart {
    /// The folder of a trained adapter.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            AdapterStart::Fresh(_) => None,
            AdapterStart::Folder(folder) => Some(folder),
        }
    }

    /// How slots are drawn that start fresh.
    pub fn draw(&self) -> AdapterInit {
        match self {
            AdapterStart::Fresh(init) => *init,
            AdapterStart::Folder(_) => AdapterInit::default(),
        }
    }
}

impl Default for AdapterStart {
    fn default() -> Self {
        AdapterStart::Fresh(AdapterInit::default())
    }
}

impl From<String> for AdapterStart {
    fn from(text: String) -> Self {
        match text.as_str() {
            "kaiming" => AdapterStart::Fresh(AdapterInit::Kaiming),
            "gaussian" => AdapterStart::Fresh(AdapterInit::Gaussian),
            _ => AdapterStart::Folder(text.into()),
        }
    }
}

impl From<AdapterStart> for String {
    fn from(start: AdapterStart) -> Self {
        match start {
            AdapterStart::Fresh(AdapterInit::Kaiming) => "kaiming".into(),
            AdapterStart::Fresh(AdapterInit::Gaussian) => "gaussian".into(),
            AdapterStart::Folder(folder) => folder.display().to_string(),
        }
    }
}
