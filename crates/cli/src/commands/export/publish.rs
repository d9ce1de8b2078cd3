//! A folder that gets its name when all is well with it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// How the names of folders end that are not whole yet, after the number of the process that writes them.
const ENDING: &str = ".tmp";

/// Lets `fill` write into a folder beside `out`, and gives it the name `out` when all is well; else nothing is left. What an
/// export of the same name left that was killed is removed first.
///
/// # Errors
/// Those of `fill`; the system refuses a folder or its name.
pub fn publish(out: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let cannot_write = || format!("cannot write {}", out.display());
    let parent = parent(out);
    fs::create_dir_all(parent).with_context(cannot_write)?;
    sweep(parent, &name(out));
    let beside = parent.join(format!("{}.{}{ENDING}", name(out), std::process::id()));
    // Made anew, so that what lies there, a link above all, is never written through.
    fs::create_dir(&beside).with_context(cannot_write)?;
    let rename = |()| {
        // Renaming onto an empty folder fails on some systems.
        if out.exists() {
            fs::remove_dir(out)?;
        }
        fs::rename(&beside, out).with_context(cannot_write)
    };
    fill(&beside).and_then(rename).inspect_err(|_| drop(fs::remove_dir_all(&beside)))
}

/// The folder that `out` is to be in.
fn parent(out: &Path) -> &Path {
    out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn name(out: &Path) -> String {
    out.file_name().map_or_else(|| "export".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Removes folders `NAME.NUMBER.tmp` of processes that are no more.
fn sweep(parent: &Path, name: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let found = entry.file_name().to_string_lossy().into_owned();
        let number =
            found.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(ENDING)?.parse().ok());
        let folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if folder && number.is_some_and(|number: u32| number == std::process::id() || !is_alive(number)) {
            // What cannot be removed does no harm.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether a process of this number runs; where the system does not tell, it may.
fn is_alive(process: u32) -> bool {
    let listed = PathBuf::from("/proc").join(process.to_string());
    if Path::new("/proc/self").exists() {
        listed.exists()
    } else {
        let asked = std::process::Command::new("kill").args(["-0", &process.to_string()]).output();
        !cfg!(unix) || asked.map_or(true, |asked| asked.status.success())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_killed_exports_left_goes_and_what_others_write_stays() {
        let room = tempfile::tempdir().expect("a folder");
        let at = |name: &str| room.path().join(name);
        // Numbers of processes end at 4194304; that of the first is 1.
        let dead = "out.4194999.tmp";
        let alive = 1;
        for name in [dead, "other.4194999.tmp", "out.4194999.tmp.d", "out.x.tmp", &format!("out.{alive}.tmp")] {
            fs::create_dir(at(name)).expect("made");
            fs::write(at(name).join("weights"), "half").expect("written");
        }
        fs::write(at("out.4194998.tmp"), "a file").expect("written");
        publish(&at("out"), |folder| Ok(fs::write(folder.join("x"), "whole")?)).expect("published");
        let mut names: Vec<_> = fs::read_dir(room.path())
            .expect("read")
            .flatten()
            .map(|e| e.file_name().into_string().expect("text"))
            .collect();
        names.sort();
        let own = format!("out.{alive}.tmp");
        let mut expected = ["other.4194999.tmp", "out", "out.4194998.tmp", "out.4194999.tmp.d", &own, "out.x.tmp"];
        expected.sort_unstable();
        assert_eq!(names, expected);
        assert!(at("out/x").exists());
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let room = tempfile::tempdir().expect("a folder");
        publish(&room.path().join("deep/out"), |_| anyhow::bail!("no")).expect_err("fails");
        assert_eq!(fs::read_dir(room.path().join("deep")).expect("read").count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_beside_is_not_followed() {
        let room = tempfile::tempdir().expect("a folder");
        let victim = room.path().join("victim");
        fs::create_dir(&victim).expect("made");
        let link = room.path().join(format!("out.{}.tmp", std::process::id()));
        std::os::unix::fs::symlink(&victim, link).expect("linked");
        publish(&room.path().join("out"), |folder| Ok(fs::write(folder.join("x"), "harm")?)).expect_err("refused");
        assert_eq!(fs::read_dir(victim).expect("read").count(), 0);
    }
}
