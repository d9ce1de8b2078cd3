//! Whether NVIDIA's driver on this machine can run what is compiled for its cards, asked before anything is opened: a
//! driver too old for a card ends the process inside LLVM, with words that help nobody.
#![allow(unsafe_code)] // the driver's own functions

use std::ffi::c_int;

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
}

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
    (0..cards).try_for_each(|card| fits(driver, capability(card)?))
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

fn fits(driver: i32, capability: i32) -> Result<(), CudaFault> {
    let needed = needed(capability);
    if driver < needed { Err(CudaFault::TooOld { driver, capability, needed }) } else { Ok(()) }
}

fn started(result: CUresult) -> Result<(), CudaFault> {
    if result == CUresult::CUDA_SUCCESS { Ok(()) } else { Err(CudaFault::NotStarted(format!("{result:?}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_driver_is_told_with_what_would_do() {
        assert_eq!(fits(13_000, 90), Ok(()));
        assert_eq!(fits(12_080, 120), Ok(()));
        let said = fits(11_080, 90).expect_err("too old").to_string();
        assert!(said.contains("knows CUDA 11.8") && said.contains("capability 9.0 needs 12.0"), "{said}");
        assert!(fits(12_060, 100).is_err() && fits(11_010, 86).is_ok());
    }
}
