//! The lock of a folder that a process writes.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result};

use super::names::LOCK;
use super::{own, read};
use crate::user_error::UserError;

/// Says that this process writes a folder, for as long as it lives: the system takes the lock back when the process ends,
/// however it ends.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Locks the folder at `path`. A file system that knows no locks is said so, and nothing more.
    ///
    /// # Errors
    /// Another process has it, or the system refuses the file.
    pub fn take(path: &Path) -> Result<Lock> {
        let file = path.join(LOCK);
        let cannot_write = || format!("cannot write {}", file.display());
        let mut lock = own::write(&file, OpenOptions::new().read(true).write(true)).with_context(cannot_write)?;
        match patiently(|| lock.try_lock()) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let owner = read::text(&file).unwrap_or_default();
                // Others may have written something else there.
                let number = owner.parse::<u32>().map(|owner| format!(" (process {owner})")).unwrap_or_default();
                return Err(UserError::new(format!("another bonfire{number} is writing to {}", path.display()))
                    .help("wait until it is done, or name another folder")
                    .into());
            }
            Err(TryLockError::Error(error)) if knows_no_locks(&error) => tracing::info!(
                "the file system of {} knows no locks ({error}): take care that no other bonfire writes there",
                path.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", file.display()));
            }
        }
        // For the message of whoever comes next.
        let process = std::process::id().to_string();
        let said = lock.set_len(0).and_then(|()| lock.write_all(process.as_bytes()));
        said.with_context(cannot_write)?;
        Ok(Lock(lock))
    }

    /// The file that is locked.
    pub fn file(&self) -> &File {
        &self.0
    }
}

/// Tries again as long as signals come in between.
fn patiently(mut lock: impl FnMut() -> Result<(), TryLockError>) -> Result<(), TryLockError> {
    loop {
        match lock() {
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Whether the error is that of a file system without locks: EOPNOTSUPP, ENOSYS, and ENOLCK, which NFS without its lock daemon
/// gives and which has no name of its own in `ErrorKind`.
fn knows_no_locks(error: &io::Error) -> bool {
    let no_locks = if cfg!(any(target_os = "linux", target_os = "android")) { 37 } else { 77 };
    error.kind() == ErrorKind::Unsupported || (cfg!(unix) && error.raw_os_error() == Some(no_locks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn file_systems_without_locks_are_told_from_other_errors() {
        // EOPNOTSUPP, ENOSYS, ENOLCK; EIO, EBADF, EACCES.
        for (code, none) in [(95, true), (38, true), (37, true), (5, false), (9, false), (13, false)] {
            assert_eq!(knows_no_locks(&io::Error::from_raw_os_error(code)), none, "{code}");
        }
    }

    #[test]
    fn a_signal_is_no_reason_to_stop() {
        let mut left = 3;
        let outcome = patiently(|| {
            left -= 1;
            if left > 0 { Err(TryLockError::Error(ErrorKind::Interrupted.into())) } else { Ok(()) }
        });
        assert!(outcome.is_ok() && left == 0);
        let refused = patiently(|| Err(TryLockError::Error(io::Error::other("no"))));
        assert!(matches!(refused, Err(TryLockError::Error(_))));
    }

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let room = tempfile::tempdir().expect("a folder");
        let _first = Lock::take(room.path()).expect("free");
        let error = Lock::take(room.path()).expect_err("taken").to_string();
        assert!(error.contains(&format!("another bonfire (process {})", std::process::id())), "{error}");
    }
}
