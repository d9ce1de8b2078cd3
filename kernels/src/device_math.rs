//! Mathematical functions for CUDA where the toolkit is not installed.
//!
//! CubeCL's LLVM back end has no `exp`, `log`, `erf`, … of its own for NVIDIA's GPUs: it links them from
//! `nvvm/libdevice/libdevice.10.bc` of the CUDA toolkit, which machines that only run programs do not have. This crate
//! carries bitcode of the same names (`device_math/math.c`); where no toolkit is found it is written to a cache folder,
//! laid out as the toolkit would be, and `CUDA_PATH` of this process points there.
#![allow(unsafe_code)] // setting an environment variable

use std::io::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// `device_math/math.c` as LLVM bitcode, made by `device_math/build.sh`.
const BITCODE: &[u8] = include_bytes!("../device_math/math.bc");
/// Where CubeCL looks inside a toolkit.
const PLACE: [&str; 3] = ["nvvm", "libdevice", "libdevice.10.bc"];
/// Where CubeCL looks for a toolkit when `CUDA_PATH` is not set.
const USUAL: [&str; 4] = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"];

/// Where kernels for CUDA take their mathematical functions from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceMath {
    /// NVIDIA's libdevice, of the toolkit in this folder.
    Toolkit(PathBuf),
    /// The functions that this crate carries.
    Own,
    /// The compiler of CUDA C++ has them built in.
    Compiler,
}

impl std::fmt::Display for DeviceMath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeviceMath::Toolkit(root) => write!(f, "libdevice of {}", root.display()),
            DeviceMath::Own => write!(f, "bonfire's own (no CUDA toolkit here)"),
            DeviceMath::Compiler => write!(f, "NVRTC's own"),
        }
    }
}

/// Makes sure that kernels for CUDA find mathematical functions, under `cache` if they have to be written.
///
/// # Errors
/// Neither `cache` nor the system's folder for temporary files can be written.
///
/// # Safety
/// No other thread may read or write the environment other than through the standard library.
pub(crate) unsafe fn install(cache: Option<&Path>) -> io::Result<DeviceMath> {
    // `CUDA_PATH` is where NVRTC's headers are looked for, and must stay what it is.
    if cfg!(feature = "cuda-cpp") {
        return Ok(DeviceMath::Compiler);
    }
    if let Some(root) = toolkit() {
        return Ok(DeviceMath::Toolkit(root));
    }
    let root = cache.map(|cache| write_into(&cache.join(folder_name())));
    let root = match root {
        Some(Ok(root)) => root,
        // A cache that cannot be written costs a copy a process.
        _ => write_into(&private_folder()?)?,
    };
    // SAFETY: the caller's.
    unsafe { env::set_var("CUDA_PATH", root) };
    Ok(DeviceMath::Own)
}

/// The toolkit that CubeCL would take, if it has the functions.
fn toolkit() -> Option<PathBuf> {
    let named = env::var_os("CUDA_PATH").map(PathBuf::from);
    let mut roots = named.map_or_else(|| USUAL.map(PathBuf::from).to_vec(), |root| vec![root]).into_iter();
    roots.find(|root| in_toolkit(root).is_file())
}

fn in_toolkit(root: &Path) -> PathBuf {
    PLACE.iter().fold(root.to_path_buf(), |path, part| path.join(part))
}

/// Another program version may carry other functions.
fn folder_name() -> String {
    let sum = BITCODE
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("device-math-{sum:016x}")
}

/// A new folder among temporary files that nobody else may enter: what lies there becomes part of kernels.
fn private_folder() -> io::Result<PathBuf> {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.as_nanos());
    let folder = env::temp_dir().join(format!("bonfire-{}-{nanos}", std::process::id()));
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    // Fails where it exists.
    builder.create(&folder)?;
    Ok(folder)
}

/// Lays `root` out as a toolkit that holds nothing but the functions.
fn write_into(root: &Path) -> io::Result<PathBuf> {
    let path = in_toolkit(root);
    if fs::read(&path).is_ok_and(|found| found == BITCODE) {
        return Ok(root.to_path_buf());
    }
    let folder = path.parent().expect("it has parts");
    fs::create_dir_all(folder)?;
    // Beside, then renamed: another process may be reading.
    let beside = folder.join(format!("{}.tmp", std::process::id()));
    let written = fs::File::create(&beside).and_then(|mut file| file.write_all(BITCODE));
    written.and_then(|()| fs::rename(&beside, &path)).inspect_err(|_| drop(fs::remove_file(&beside)))?;
    Ok(root.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_and_mended() {
        let folder = env::temp_dir().join(format!("bonfire-device-math-test-{}", std::process::id()));
        let root = write_into(&folder).expect("written");
        assert_eq!(fs::read(in_toolkit(&root)).expect("there"), BITCODE);
        fs::write(in_toolkit(&root), b"cut").expect("written");
        write_into(&folder).expect("written again");
        assert_eq!(fs::read(in_toolkit(&root)).expect("there"), BITCODE);
        fs::remove_dir_all(folder).expect("removed");
    }
}
