//! Whether NVIDIA's driver on this machine can run what is compiled for its cards, asked before anything is opened: a
//! driver too old for a card ends the process inside LLVM, with words that help nobody. A build with `cuda-cpp` needs NVRTC
//! and headers of the CUDA toolkit too, and where they are not there CubeCL panics.
#![allow(unsafe_code)] // the driver's own functions

use std::ffi::c_int;
#[cfg(any(test, feature = "cuda-cpp"))]
use std::path::Path;

use cudarc::driver::sys::{
    CUdevice, CUdevice_attribute_enum as Attribute, CUresult, cuDeviceGet, cuDeviceGetAttribute, cuDeviceGetCount,
    cuDriverGetVersion, cuInit, is_culib_present,
};

/// What stands against CUDA on this machine, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CudaFault {
    /// There is no driver.
    #[error("no NVIDIA driver is installed here: its library (libcuda.so.1, on Windows nvcuda.dll) was not found")]
    NoDriver,
    /// The driver does not start, with its error.
    #[error("the NVIDIA driver does not start: {0}")]
    NotStarted(String),
    /// The driver does not know how to load what is compiled for a card.
    #[error(
        "the NVIDIA driver is too old: it knows CUDA {}.{}, and a card of compute capability {}.{} needs {}.{}",
        .driver / 1000, .driver % 1000 / 10, .capability / 10, .capability % 10, .needed / 1000, .needed % 1000 / 10
    )]
    TooOld {
        /// The newest CUDA it knows, 1000 · major + 10 · minor.
        driver: i32,
        /// The card's compute capability, 10 · major + minor.
        capability: i32,
        /// The CUDA that would do.
        needed: i32,
    },
    /// What compiles kernels in a build with `cuda-cpp` is not here.
    #[error("this build (feature cuda-cpp) compiles its kernels by the CUDA toolkit's NVRTC: {0} was not found")]
    NoCompiler(String),
    /// What NVRTC writes is too new for the driver.
    #[error(
        "NVRTC is too new: it is of CUDA {}.{}, and the driver loads what is compiled by CUDA {}.{} or older",
        .compiler / 1000, .compiler % 1000 / 10, .driver / 1000, .driver % 1000 / 10
    )]
    CompilerTooNew {
        /// NVRTC's CUDA.
        compiler: i32,
        /// The newest CUDA the driver knows.
        driver: i32,
    },
    /// NVRTC does not know a card.
    #[error(
        "NVRTC is too old: it is of CUDA {}.{}, and a card of compute capability {}.{} needs {}.{}",
        .compiler / 1000, .compiler % 1000 / 10, .capability / 10, .capability % 10, .needed / 1000, .needed % 1000 / 10
    )]
    CompilerTooOld {
        /// NVRTC's CUDA.
        compiler: i32,
        /// The card's compute capability, 10 · major + minor.
        capability: i32,
        /// The CUDA that would do.
        needed: i32,
    },
}

/// A header of each part of the toolkit that kernels include, and where it may lie.
#[cfg(any(test, feature = "cuda-cpp"))]
const HEADERS: [&[&str]; 3] = [&["cuda_bf16.h"], &["crt/mma.h"], &["cccl/cuda/barrier", "cuda/barrier"]];

/// The oldest driver that loads code for a card: the first CUDA whose PTX has the card's architecture with its own
/// instructions (`sm_90a`, …), and 11.1 for what was there before.
fn needed(capability: i32) -> i32 {
    match capability {
        ..=88 => 11_010,
        89 => 11_080,
        90..=99 => 12_000,
        _ => 12_080,
    }
}

/// What the driver says of itself and of its cards.
///
/// # Errors
/// What stands against CUDA here.
pub fn cuda_driver() -> Result<(), CudaFault> {
    // SAFETY: loads the library and asks nothing of it.
    if !unsafe { is_culib_present() } {
        return Err(CudaFault::NoDriver);
    }
    let (mut driver, mut cards) = (0, 0);
    // SAFETY: the driver writes one integer through each pointer, which points to one.
    unsafe {
        started(cuInit(0))?;
        started(cuDriverGetVersion(&mut driver))?;
        started(cuDeviceGetCount(&mut cards))?;
    }
    #[cfg(feature = "cuda-cpp")]
    let compiler = Some(compiler()?);
    #[cfg(not(feature = "cuda-cpp"))]
    let compiler = None;
    (0..cards).try_for_each(|card| fits(driver, compiler, capability(card)?))
}

/// NVRTC's version, 1000 · major + 10 · minor, where it and its headers are found as CubeCL finds them.
#[cfg(feature = "cuda-cpp")]
fn compiler() -> Result<i32, CudaFault> {
    use cudarc::nvrtc::sys::{is_culib_present, nvrtcResult, nvrtcVersion};
    // SAFETY: loads the library and asks nothing of it.
    if !unsafe { is_culib_present() } {
        return Err(CudaFault::NoCompiler("its library (libnvrtc.so, on Windows nvrtc64_*.dll)".into()));
    }
    headers(cubecl::cuda::install::cuda_path().as_deref())?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is there, and writes one integer through each pointer, which points to one.
    match unsafe { nvrtcVersion(&mut major, &mut minor) } {
        nvrtcResult::NVRTC_SUCCESS => Ok(1000 * major + 10 * minor),
        error => Err(CudaFault::NotStarted(format!("{error:?}"))),
    }
}

/// Whether the toolkit in this folder has all that kernels include.
#[cfg(any(test, feature = "cuda-cpp"))]
fn headers(toolkit: Option<&Path>) -> Result<(), CudaFault> {
    let Some(toolkit) = toolkit else {
        return Err(CudaFault::NoCompiler("a toolkit with its headers (CUDA_PATH is not set)".into()));
    };
    let include = toolkit.join("include");
    match HEADERS.iter().find(|places| !places.iter().any(|place| include.join(place).is_file())) {
        Some(missing) => Err(CudaFault::NoCompiler(format!("the header {}", include.join(missing[0]).display()))),
        None => Ok(()),
    }
}

/// The compute capability of a card, 10 · major + minor.
fn capability(card: c_int) -> Result<i32, CudaFault> {
    let mut device: CUdevice = 0;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: as above; the card's number is below the driver's count.
    unsafe {
        started(cuDeviceGet(&mut device, card))?;
        let ask = |value: &mut c_int, what| started(cuDeviceGetAttribute(value, what, device));
        ask(&mut major, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        ask(&mut minor, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    }
    Ok(10 * major + minor)
}

fn fits(driver: i32, compiler: Option<i32>, capability: i32) -> Result<(), CudaFault> {
    let needed = needed(capability);
    // 12.6 writes what 12.5 did; every other CUDA writes a PTX of its own.
    let newest = if driver == 12_050 { 12_060 } else { driver };
    match compiler {
        _ if driver < needed => Err(CudaFault::TooOld { driver, capability, needed }),
        Some(compiler) if compiler < needed => Err(CudaFault::CompilerTooOld { compiler, capability, needed }),
        Some(compiler) if compiler > newest => Err(CudaFault::CompilerTooNew { compiler, driver }),
        _ => Ok(()),
    }
}

fn started(result: CUresult) -> Result<(), CudaFault> {
    if result == CUresult::CUDA_SUCCESS { Ok(()) } else { Err(CudaFault::NotStarted(format!("{result:?}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_driver_is_told_with_what_would_do() {
        assert_eq!(fits(13_000, None, 90), Ok(()));
        assert_eq!(fits(12_080, None, 120), Ok(()));
        let said = fits(11_080, None, 90).expect_err("too old").to_string();
        assert!(said.contains("knows CUDA 11.8") && said.contains("capability 9.0 needs 12.0"), "{said}");
        assert!(fits(12_060, None, 100).is_err() && fits(11_010, None, 86).is_ok());
    }

    #[test]
    fn a_compiler_that_does_not_go_with_the_driver_or_a_card_is_told() {
        assert_eq!(fits(13_000, Some(13_000), 90), Ok(()));
        assert_eq!(fits(13_000, Some(12_080), 120), Ok(()));
        assert_eq!(fits(12_050, Some(12_060), 90), Ok(()));
        let said = fits(13_000, Some(13_050), 90).expect_err("too new").to_string();
        assert!(said.contains("of CUDA 13.5") && said.contains("by CUDA 13.0 or older"), "{said}");
        let said = fits(13_000, Some(12_060), 120).expect_err("too old").to_string();
        assert!(said.contains("of CUDA 12.6") && said.contains("capability 12.0 needs 12.8"), "{said}");
    }

    #[test]
    fn the_header_that_is_missing_is_named() {
        let folder = std::env::temp_dir().join(format!("bonfire-headers-test-{}", std::process::id()));
        assert!(headers(None).expect_err("none").to_string().contains("CUDA_PATH"));
        for place in HEADERS.map(|places| places[0]) {
            let said = headers(Some(&folder)).expect_err("missing").to_string();
            assert!(said.contains(place), "{said}");
            let path = folder.join("include").join(place);
            std::fs::create_dir_all(path.parent().expect("it has parts")).expect("made");
            std::fs::write(path, "").expect("written");
        }
        assert_eq!(headers(Some(&folder)), Ok(()));
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
