//! Opening what is asked for.

use burn::tensor::Device;

use super::choice::DeviceChoice;
#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "cuda"))]
use super::gpu;
use super::opened::Opened;
use crate::user_error::UserError;

/// A device as it is asked for, and opened, or why it cannot be.
pub type Tried = (DeviceChoice, Result<Opened, UserError>);

/// Every device of every backend in this build, the CPU first.
pub fn every() -> Vec<Tried> {
    let mut found = vec![(DeviceChoice::Cpu, open_cpu())];
    #[cfg(any(feature = "wgpu", feature = "vulkan", feature = "cuda"))]
    found.extend(gpu::every().into_iter().map(|choice| (choice, open(choice))));
    found.retain(|(choice, _)| choice.is_compiled_in());
    found
}

/// Opens the device asked for.
///
/// # Errors
/// A device that is not compiled in (naming the Cargo feature) or does not answer.
pub fn open(choice: DeviceChoice) -> Result<Opened, UserError> {
    match choice {
        DeviceChoice::Auto => open_auto(),
        DeviceChoice::Cpu => open_cpu(),
        #[cfg(feature = "wgpu")]
        DeviceChoice::Wgpu(index) => gpu::open_wgpu(index),
        #[cfg(feature = "vulkan")]
        DeviceChoice::Vulkan(index) => gpu::open_vulkan(index),
        #[cfg(feature = "cuda")]
        DeviceChoice::Cuda(index) => gpu::open_cuda(index),
        #[cfg(not(all(feature = "wgpu", feature = "vulkan", feature = "cuda")))]
        other => Err(not_compiled_in(other.backend())),
    }
}

#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "cuda"))]
fn open_auto() -> Result<Opened, UserError> {
    gpu::best().map_or_else(open_cpu, Ok)
}

#[cfg(not(any(feature = "wgpu", feature = "vulkan", feature = "cuda")))]
fn open_auto() -> Result<Opened, UserError> {
    open_cpu()
}

#[cfg(feature = "flex")]
fn open_cpu() -> Result<Opened, UserError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let name = format!("cpu (flex, {threads} thread{})", if threads == 1 { "" } else { "s" });
    Ok(Opened { device: Device::flex(), name, notice: None, software: false })
}

#[cfg(not(feature = "flex"))]
fn open_cpu() -> Result<Opened, UserError> {
    Err(not_compiled_in("flex"))
}

/// The message for a backend this binary was built without.
#[cfg_attr(all(feature = "wgpu", feature = "vulkan", feature = "cuda", feature = "flex"), expect(dead_code))]
fn not_compiled_in(feature: &str) -> UserError {
    let device = if feature == "flex" { "cpu" } else { feature };
    UserError::new(format!("this build of bonfire has no `{device}` device"))
        .help(format!(
            "it is there when built from source with its feature: cargo build --release --features {feature}; for Python, maturin build with the same option"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "flex")]
    #[test]
    fn the_cpu_always_answers() {
        assert!(open(DeviceChoice::Cpu).is_ok_and(|opened| opened.name.starts_with("cpu")));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_missing_backend_names_its_feature() {
        let Err(mistake) = open(DeviceChoice::Cuda(None)) else { panic!("no CUDA in this build") };
        assert!(mistake.help.is_some_and(|help| help.contains("--features cuda")));
    }
}
