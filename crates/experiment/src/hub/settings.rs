//! What the environment says about the Hub, in the variables of the Hub's own client.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::user_error::UserError;

/// Where models and data come from unless HF_ENDPOINT says otherwise.
const ENDPOINT: &str = "https://huggingface.co";

/// Seconds without an answer after which the Hub counts as gone, unless HF_HUB_DOWNLOAD_TIMEOUT says otherwise.
const PATIENCE: u64 = 30;

/// The folder of all repositories: HF_HUB_CACHE, or `hub` in the Hub's home.
pub fn cache() -> PathBuf {
    variable("HF_HUB_CACHE").map_or_else(|| home().join("hub"), PathBuf::from)
}

/// The Hub's home: HF_HOME, or `huggingface` among the user's caches.
fn home() -> PathBuf {
    let caches = || variable("XDG_CACHE_HOME").map(PathBuf::from).unwrap_or_else(|| user().join(".cache"));
    variable("HF_HOME").map_or_else(|| caches().join("huggingface"), PathBuf::from)
}

/// The user's folder; where the system knows none, this one.
fn user() -> PathBuf {
    std::env::home_dir().filter(|home| !home.as_os_str().is_empty()).unwrap_or_else(|| PathBuf::from("."))
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Whether HF_HUB_OFFLINE says so, in the words that the Hub's own client takes.
pub fn is_offline() -> bool {
    let value = std::env::var("HF_HUB_OFFLINE").unwrap_or_default().to_uppercase();
    ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
}

/// Where the Hub is, without a stroke at the end.
pub fn endpoint() -> String {
    let said = std::env::var("HF_ENDPOINT").ok();
    let said = said.as_deref().map(|text| text.trim().trim_end_matches('/')).filter(|text| !text.is_empty());
    said.unwrap_or(ENDPOINT).to_owned()
}

/// The user's token: HF_TOKEN, or the file that logging in writes.
///
/// # Errors
/// A token that cannot be one. It is not shown.
pub fn token() -> Result<Option<String>> {
    let file = variable("HF_TOKEN_PATH").map_or_else(|| home().join("token"), PathBuf::from);
    let said = std::env::var("HF_TOKEN").ok().filter(|token| !token.trim().is_empty());
    let (from, token) = match said {
        Some(token) => ("HF_TOKEN".to_owned(), token),
        None => (file.display().to_string(), fs::read_to_string(&file).unwrap_or_default()),
    };
    let token = token.trim();
    if token.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(Some(token.to_owned()).filter(|token| !token.is_empty()))
    } else {
        Err(UserError::new(format!("{from} holds no token of the Hub: it has characters that none has")).into())
    }
}

/// How long to wait for an answer, and for more of one.
pub fn patience() -> Duration {
    let said = std::env::var("HF_HUB_DOWNLOAD_TIMEOUT").ok().and_then(|text| text.trim().parse().ok());
    Duration::from_secs(said.filter(|seconds| (1..=86_400).contains(seconds)).unwrap_or(PATIENCE))
}
