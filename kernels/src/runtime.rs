//! What is settled before the first GPU answers, and what of it outlives the process: which stream work goes to, and where
//! CubeCL keeps the products it has tuned and the kernels it has compiled. The CPU needs none of it.

use std::io;
use std::path::{Path, PathBuf};

/// Bonfire's folder in the user's cache: `XDG_CACHE_HOME` or `~/.cache`, then `bonfire`; `None` where there is no such place.
pub fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME").or_else(|| set("USERPROFILE"))?.join(".cache")))?;
    Some(caches.join("bonfire"))
}

/// Bonfire's own folder for what was tuned and compiled.
pub fn kernels_folder() -> Option<PathBuf> {
    Some(cache_folder()?.join("kernels"))
}

/// Settles how GPUs are used in this process. Call it before other threads start and before a device is named; calling it
/// again does nothing. Reads a `cubecl.toml` if there is one; a build with CUDA lays out mathematical functions in the cache where
/// no toolkit has them, since `CUDA_PATH` can be set only before other threads start. Nothing else is opened or created.
pub fn prepare() {
    #[cfg(feature = "cube")]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(cube::prepare);
    }
}

/// What was tuned and compiled before, by this process or another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Where.
    pub folder: PathBuf,
    /// Operations whose fastest kernel is known, each at one size on one device.
    pub tuned: u64,
    /// Kernels whose code need not be made again.
    pub compiled: u64,
    /// Bytes on the disk.
    pub bytes: u64,
}

/// Where CubeCL keeps what it tunes and compiles; `None` in a build without GPUs.
pub fn settled_folder() -> Option<PathBuf> {
    #[cfg(feature = "cube")]
    return Some(cube::folder());
    #[cfg(not(feature = "cube"))]
    None
}

/// What is kept; `None` in a build without GPUs. Where nothing is kept yet, nothing is opened or created.
pub fn kept() -> Option<Kept> {
    #[cfg(feature = "cube")]
    return Some(cube::kept());
    #[cfg(not(feature = "cube"))]
    None
}

/// Makes sure that what was kept can be read and added to; call it before the first device is opened. A database that is
/// damaged is deleted. Gives the one line that a user should read: nothing but time is lost either way.
pub fn mend_kept() -> Option<String> {
    #[cfg(feature = "cube")]
    return cube::mend();
    #[cfg(not(feature = "cube"))]
    None
}

/// Where kernels for CUDA take their mathematical functions from.
///
/// # Errors
/// They are nowhere on this machine and cannot be written, in words.
#[cfg(feature = "cuda")]
pub fn device_math() -> Result<crate::device_math::DeviceMath, String> {
    cube::device_math().clone()
}

/// Deletes [`kernels_folder`] with all in it; gives the bytes that were there.
///
/// # Errors
/// The system refuses.
pub fn forget_kept() -> io::Result<u64> {
    match kernels_folder().filter(|folder| folder.exists()) {
        None => Ok(0),
        Some(folder) => {
            let bytes = size(&folder);
            std::fs::remove_dir_all(&folder)?;
            Ok(bytes)
        }
    }
}

/// Bytes of the files in a folder.
fn size(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).filter(std::fs::Metadata::is_file).map(|m| m.len()).sum()
}

#[cfg(feature = "cube")]
mod cube {
    use std::fs::{self, File, TryLockError};
    use std::io;
    use std::panic::catch_unwind;
    use std::path::{Path, PathBuf};

    use cubecl::config::cache::CacheConfig;
    use cubecl::config::streaming::StreamPolicy;
    use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
    use cubecl::environment;
    use cubecl_environment::persistence::{Access, Database, Insertion, Origin};

    use super::{Kept, kernels_folder};
    #[cfg(feature = "cuda")]
    use crate::device_math::{DeviceMath, install};

    /// Processes whose own account of what they tuned and compiled is kept beside it.
    const SESSIONS: u32 = 4;

    /// Hands CubeCL the user's `cubecl.toml`, if there is one, with what it must not leave open.
    pub fn prepare() {
        let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
        settle(&mut config);
        CubeClRuntimeConfig::try_set(config);
        // Holds also where something has read CubeCL's own configuration before.
        cubecl_environment::stream::set_policy(StreamPolicy::Single);
        #[cfg(feature = "cuda")]
        device_math();
    }

    /// Lays out the mathematical functions that kernels for CUDA are linked with, where no toolkit has them.
    #[cfg(feature = "cuda")]
    #[allow(unsafe_code)] // the environment
    pub fn device_math() -> &'static Result<DeviceMath, String> {
        static FOUND: std::sync::OnceLock<Result<DeviceMath, String>> = std::sync::OnceLock::new();
        // SAFETY: `prepare` runs before other threads start; what reads the environment later, in CubeCL, is Rust.
        FOUND.get_or_init(|| unsafe { install(super::cache_folder().as_deref()) }.map_err(|error| error.to_string()))
    }

    /// What is ours to say, in a configuration that may be the user's.
    pub fn settle(config: &mut CubeClRuntimeConfig) {
        // By default every thread is a stream with memory of its own, which outlives the thread: a round's threads would leave
        // theirs behind, round after round, and weights made on one would be waited for on the other. One stream is one
        // queue and one pool a device; several devices still run side by side, each has its own.
        config.streaming.policy = StreamPolicy::Single;
        // The default, a project's build folder, is for programs that are being written.
        if matches!(config.environment.path, CacheConfig::Target) {
            config.environment.path = CacheConfig::Directory(kernels_folder().unwrap_or_else(nowhere));
        }
        config.environment.records.keep_sessions.get_or_insert(SESSIONS);
    }

    /// A folder that cannot be: where a user has no cache, CubeCL keeps what it tunes in memory. Not the folder of temporary
    /// files, where others may write: what is kept there is run.
    fn nowhere() -> PathBuf {
        Path::new("/dev/null").join("bonfire")
    }

    pub fn folder() -> PathBuf {
        super::prepare();
        environment::root()
    }

    pub fn kept() -> Kept {
        let folder = folder();
        let path = environment::path();
        // Not while another process makes the database.
        let _shared =
            path.exists().then(|| lock(&folder)).and_then(Result::ok).filter(|lock| lock.lock_shared().is_ok());
        let bytes = files_of(&path).filter_map(|file| Some(file.metadata().ok()?.len())).sum();
        let mut kept = Kept { tuned: 0, compiled: 0, bytes, folder };
        if path.exists() {
            for space in environment::namespaces() {
                match space.namespace.split('/').next() {
                    Some("autotune") => kept.tuned += space.entries,
                    Some("throughput" | "records") => {}
                    // A second key to the same code.
                    Some(name) if name.ends_with("-second-line") => {}
                    _ => kept.compiled += space.entries,
                }
            }
        }
        kept
    }

    pub fn mend() -> Option<String> {
        let folder = folder();
        // Without a cache folder of the user's there is nothing to mend, and nobody expects anything to be kept.
        kernels_folder()?;
        let lost = |why: String| {
            let folder = folder.display();
            Some(format!("what is newly tuned for GPUs cannot be kept in {folder} ({why}); it will be tuned again"))
        };
        let lock = match lock(&folder) {
            Ok(lock) => lock,
            Err(error) => return lost(error.to_string()),
        };
        // Whoever is alone may make the database anew. Others wait for that, which takes a moment, and then share it: making
        // and deleting what another process has just opened would lose what both of them tune.
        let said = match lock.try_lock() {
            Err(TryLockError::WouldBlock) => None,
            // Some file systems know no locks.
            Ok(()) | Err(TryLockError::Error(_)) => {
                let said = mend_alone(&environment::path()).unwrap_or_else(|error| lost(error.to_string()));
                let _ = environment::namespaces(); // opens it, which makes its tables
                let _ = lock.unlock();
                said
            }
        };
        let _ = lock.lock_shared();
        // To the process's end.
        std::mem::forget(lock);
        said
    }

    /// Deletes the database if it is damaged, and says so.
    fn mend_alone(path: &Path) -> io::Result<Option<String>> {
        let why = match path.exists().then(|| read(path)) {
            None | Some(Found::Whole) => return Ok(None),
            Some(Found::Damaged(why)) => why,
            Some(Found::Fatal) => {
                // Its engine holds it open, damage and all: in this process everything is kept in memory.
                environment::set_root(nowhere());
                "it cannot be read".into()
            }
        };
        files_of(path).try_for_each(|file| fs::remove_file(file.path()))?;
        Ok(Some(format!("{} was damaged ({why}); what is tuned for GPUs is tuned again", path.display())))
    }

    /// The file whose lock processes hold while they use the database beside it, shared, or make it, alone.
    fn lock(folder: &Path) -> io::Result<File> {
        fs::create_dir_all(folder)?;
        File::options().create(true).truncate(false).write(true).open(folder.join("lock"))
    }

    /// What a database turned out to be.
    enum Found {
        /// All of it can be read, or another process is at it.
        Whole,
        /// It cannot be opened.
        Damaged(String),
        /// Reading it breaks its engine.
        Fatal,
    }

    /// Reads all that a database holds, so that damage shows here and not in the middle of training.
    fn read(path: &Path) -> Found {
        let busy = |why: &str| ["busy", "locked"].iter().any(|word| why.to_lowercase().contains(word));
        match catch_unwind(|| read_all(path)) {
            Ok(Err(why)) if !busy(&why) => Found::Damaged(why),
            Ok(_) => Found::Whole,
            Err(_) => Found::Fatal,
        }
    }

    /// The engine says of what it cannot read that it is not there: what it counts is held against what it gives, and the
    /// database must take something, which one whose log was cut short does not.
    fn read_all(path: &Path) -> Result<(), String> {
        const PROBE: &str = "bonfire/probe";
        let database = Database::open_at(path, Access::ReadWrite)?;
        let (spaces, mut given) = (database.summary(), 0);
        spaces.iter().for_each(|space| database.scan(&space.namespace, &mut |_, _| given += 1));
        if given < spaces.iter().map(|space| space.entries).sum::<u64>() {
            return Err("entries are missing".into());
        }
        if let Insertion::Failed(why) = database.replace(PROBE, b"", b"", Origin::Local) {
            return Err(why);
        }
        database.purge(PROBE);
        Ok(())
    }

    /// A database's file, and those that its engine keeps beside it under longer names.
    fn files_of(path: &Path) -> impl Iterator<Item = fs::DirEntry> {
        let name = path.file_name().unwrap_or_default().to_owned();
        let beside = path.parent().map(fs::read_dir).into_iter().flatten().flatten().flatten();
        beside.filter(move |file| file.file_name().as_encoded_bytes().starts_with(name.as_encoded_bytes()))
    }
}

#[cfg(all(test, feature = "cube"))]
mod tests {
    use cubecl::config::CubeClRuntimeConfig;
    use cubecl::config::autotune::AutotuneLevel;
    use cubecl::config::cache::CacheConfig;
    use cubecl::config::streaming::StreamPolicy;

    use super::*;

    #[test]
    fn a_users_own_settings_stand() {
        let mut config = CubeClRuntimeConfig::default();
        config.environment.path = CacheConfig::Global;
        config.environment.records.keep_sessions = Some(9);
        config.autotune.level = AutotuneLevel::Full;
        cube::settle(&mut config);
        assert!(matches!(config.environment.path, CacheConfig::Global));
        assert_eq!(config.environment.records.keep_sessions, Some(9));
        assert!(matches!(config.autotune.level, AutotuneLevel::Full));
        assert_eq!(config.streaming.policy, StreamPolicy::Single);

        let mut config = CubeClRuntimeConfig::default();
        cube::settle(&mut config);
        assert!(
            matches!(&config.environment.path, CacheConfig::Directory(folder) if Some(folder) == kernels_folder().as_ref())
        );
        assert_eq!(config.streaming.policy, StreamPolicy::Single);
    }

    #[test]
    fn every_thread_is_on_the_one_stream() {
        prepare();
        let stream = || cubecl_environment::stream::StreamId::current().value;
        let other = std::thread::spawn(stream).join().expect("no panic");
        assert_eq!((stream(), other), (0, 0));
    }
}
