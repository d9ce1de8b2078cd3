//! The paths that a configuration names, as they are found.

use std::path::{Path, PathBuf};

use crate::config::CheckedConfig;
use crate::log::note_once;
use crate::repo_name::RepoName;
use crate::user_error::UserError;

/// The file or folder that `key` names with `path`. A relative path holds from the current directory; that of a run where it
/// is not found there, from the directory in which the run began, which is noted.
///
/// # Errors
/// There is none: with the key's place, and what may have been meant.
pub fn found(loaded: &CheckedConfig, key: &str, path: &Path) -> Result<PathBuf, UserError> {
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    // An overridden path was written here and now.
    let began_in = loaded.began_in().filter(|_| path.is_relative() && !loaded.is_overridden(key));
    if let Some(there) = began_in.map(|folder| folder.join(path)).filter(|there| there.exists()) {
        note_once(format!("{key} = \"{}\" is read from where the run began: {}", path.display(), there.display()));
        return Ok(there);
    }
    let wrong =
        UserError::new(format!("`{key}`: no such file or folder: {}", path.display())).at(Some(loaded.place_of(key)));
    Err(wrong.help(help(key, path, began_in)))
}

fn help(key: &str, path: &Path, began_in: Option<&Path>) -> String {
    let text = path.to_string_lossy();
    let repository = if key == "data.path" {
        text.contains('/') && RepoName::parse_data(&text).is_some()
    } else {
        RepoName::parse(&text).is_some()
    };
    if let Some(folder) = began_in {
        return format!(
            "the path is relative, and the run began in {}, where it is not either: pass --set {key}=PATH",
            folder.display()
        );
    }
    let here = std::env::current_dir().map_or("the current directory".into(), |here| here.display().to_string());
    if repository {
        return format!(
            "did you mean \"hf:{text}\", the repository of the Hugging Face Hub? Relative paths hold from {here}"
        );
    }
    let hub = "a repository of the Hugging Face Hub is written \"hf:org/name\"";
    if path.is_relative() { format!("relative paths hold from {here}; {hub}") } else { hub.to_string() }
}
