//! Finding GPUs that answer. Devices are tried with a small sum: a driver that lists an adapter may still not run on it.

use std::sync::Once;

use bonfire_engine::{EngineError, on_device};
use bonfire_kernels::runtime;
#[cfg(feature = "cuda")]
use bonfire_kernels::{CudaFault, cuda_driver};
use burn::tensor::{Device, DeviceType, Tensor};

use super::choice::DeviceChoice;
use super::opened::Opened;
use crate::log::note;
use crate::panics::quietly;
use crate::user_error::UserError;

#[cfg(any(feature = "wgpu", feature = "vulkan"))]
use burn::tensor::DeviceKind;

/// Names under which software rasterisers answer as if they were GPUs.
const SOFTWARE: [&str; 6] = ["llvmpipe", "lavapipe", "softpipe", "swiftshader", "microsoft basic render", "warp"];

/// What GPU drivers are called in `/dev` on Linux: DRM, NVIDIA, AMD compute, WSL, and those of small boards.
#[cfg(target_os = "linux")]
const NODES: [&str; 7] = ["dri", "nvidia", "kfd", "dxg", "mali", "nvhost", "kgsl"];

/// Whether a GPU may be here. Where none can be, graphics drivers are not asked: a software rasteriser takes its time and
/// writes complaints of its own to the terminal.
#[cfg(target_os = "linux")]
fn may_have_gpu() -> bool {
    let Ok(entries) = std::fs::read_dir("/dev") else { return true };
    let mut names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.any(|name| NODES.iter().any(|node| name.starts_with(node)))
}

#[cfg(not(target_os = "linux"))]
fn may_have_gpu() -> bool {
    true
}

/// The best real GPU that answers: CUDA first, then wgpu's discrete, integrated and virtual ones.
pub fn best() -> Option<Opened> {
    if !may_have_gpu() {
        return None;
    }
    candidates().into_iter().find_map(|(backend, device)| {
        let part = part(&device).ok()?;
        (!part.software && answers(&device).is_ok()).then(|| opened(backend, device, &part))
    })
}

/// Every device that a backend lists, whether it answers or not.
pub fn every() -> Vec<DeviceChoice> {
    let mut found: Vec<DeviceChoice> = Vec::new();
    #[cfg(feature = "cuda")]
    match cuda_driver() {
        Ok(()) => found.extend((0..list(DeviceType::Cuda).len()).map(|n| DeviceChoice::Cuda(Some(n)))),
        Err(CudaFault::NoDriver) => {}
        // Opening it says what stands against it.
        Err(_) => found.push(DeviceChoice::Cuda(None)),
    }
    #[cfg(feature = "wgpu")]
    found.extend((0..list(DeviceType::Wgpu).len()).map(|n| DeviceChoice::Wgpu(Some(n))));
    #[cfg(feature = "vulkan")]
    found.extend((0..list(DeviceType::Vulkan).len()).map(|n| DeviceChoice::Vulkan(Some(n))));
    found
}

/// Devices that may be real GPUs, best first. Software adapters are left out without opening them where wgpu says so.
fn candidates() -> Vec<(&'static str, Device)> {
    let mut found = Vec::new();
    #[cfg(feature = "cuda")]
    if cuda_can_run().is_ok() {
        found.extend(list(DeviceType::Cuda).into_iter().map(|device| ("cuda", device)));
    }
    #[cfg(feature = "wgpu")]
    found.extend(real("wgpu", &list(DeviceType::Wgpu), gpu_kinds(Device::wgpu)));
    // With the feature `wgpu` beside it, the same adapters are found above.
    #[cfg(all(feature = "vulkan", not(feature = "wgpu")))]
    found.extend(real("vulkan", &list(DeviceType::Vulkan), gpu_kinds(Device::vulkan)));
    found
}

/// The devices of `kinds` that are listed.
#[cfg(any(feature = "wgpu", feature = "vulkan"))]
fn real(backend: &'static str, listed: &[Device], kinds: Vec<Device>) -> Vec<(&'static str, Device)> {
    kinds.into_iter().filter(|device| listed.contains(device)).map(|device| (backend, device)).collect()
}

/// Opens wgpu's adapter `index`, or its best; a software one only because it was asked for.
#[cfg(feature = "wgpu")]
pub fn open_wgpu(index: Option<usize>) -> Result<Opened, UserError> {
    open_listed("wgpu", list(DeviceType::Wgpu), gpu_kinds(Device::wgpu), index)
}

/// Opens Vulkan's adapter `index`, or its best.
#[cfg(feature = "vulkan")]
pub fn open_vulkan(index: Option<usize>) -> Result<Opened, UserError> {
    open_listed("vulkan", list(DeviceType::Vulkan), gpu_kinds(Device::vulkan), index)
}

/// Opens CUDA device `index`, or the first.
#[cfg(feature = "cuda")]
pub fn open_cuda(index: Option<usize>) -> Result<Opened, UserError> {
    cuda_can_run()?;
    open_listed("cuda", list(DeviceType::Cuda), Vec::new(), index)
}

/// How to come by what a build with `cuda-cpp` compiles its kernels with.
#[cfg(feature = "cuda")]
const NVRTC: &str = "install the CUDA toolkit, or `pip install nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-crt \
    nvidia-cuda-cccl` of a CUDA no newer than the driver's, with CUDA_PATH set to site-packages/nvidia/cu13 and LD_LIBRARY_PATH to \
    its lib; a build with the feature `cuda` in place of `cuda-cpp` needs none of it";

/// What stands against CUDA on this machine, asked before anything is compiled for a card.
#[cfg(feature = "cuda")]
fn cuda_can_run() -> Result<(), UserError> {
    cuda_driver().map_err(|fault| {
        let way_out = match fault {
            CudaFault::NoDriver => "install NVIDIA's driver, or use --device cpu",
            CudaFault::NotStarted(_) => {
                "check that a card is there and its driver loaded (nvidia-smi), or use --device cpu"
            }
            CudaFault::TooOld { .. } => "install a newer NVIDIA driver, or use --device cpu",
            CudaFault::NoCompiler(_) => NVRTC,
            CudaFault::CompilerTooNew { .. } => {
                "install a newer NVIDIA driver or an older NVRTC, or build with the feature `cuda` in place of `cuda-cpp`"
            }
            CudaFault::CompilerTooOld { .. } => {
                "install a newer CUDA toolkit, or build with the feature `cuda` in place of `cuda-cpp`"
            }
        };
        UserError::new(fault.to_string()).help(way_out)
    })?;
    runtime::prepare();
    runtime::device_math().map(drop).map_err(|why| {
        UserError::new(format!("kernels for CUDA lack their mathematical functions, which cannot be written: {why}"))
            .help("set XDG_CACHE_HOME to a folder that can be written, or CUDA_PATH to a CUDA toolkit")
    })
}

/// Takes device `index` of those listed; without an index the first preferred one that is listed, else the first.
fn open_listed(
    backend: &'static str,
    listed: Vec<Device>,
    preferred: Vec<Device>,
    index: Option<usize>,
) -> Result<Opened, UserError> {
    let place = match index {
        Some(n) => n,
        None => preferred.iter().find_map(|p| listed.iter().position(|d| d == p)).unwrap_or(0),
    };
    let Some(device) = listed.get(place).cloned() else {
        return Err(missing(backend, place, listed.len()));
    };
    match part(&device).and_then(|part| answers(&device).map(|()| part)) {
        Ok(part) => Ok(opened(backend, device, &part)),
        Err(error) => Err(unusable(&format!("`{backend}` device {place}"), &error)),
    }
}

/// The message for a device that is there and of no use.
fn unusable(device: &str, error: &EngineError) -> UserError {
    match error {
        EngineError::OutOfMemory { words, .. } => UserError::new(format!("{device} has no free memory ({words})"))
            .help("see what else is on it (nvidia-smi), wait for that, take another device, or use --device cpu"),
        EngineError::Device(words) => {
            UserError::new(format!("{device} is listed but does not answer: {}", cause(words)))
                .help("check its driver, or use --device cpu")
        }
        other => UserError::new(format!("{device} is of no use: {other}")),
    }
}

/// What came first of an error of many lines: what stands below its last "Caused by".
fn cause(words: &str) -> &str {
    let after = words.rsplit("Caused by:").next().unwrap_or(words);
    after.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it gave no reason")
}

/// The message for a device that is not there.
fn missing(backend: &str, place: usize, count: usize) -> UserError {
    match count {
        0 => UserError::new(format!("no `{backend}` device answers on this machine"))
            .help("check that its driver is installed, or use --device cpu"),
        _ => UserError::new(format!("there is no `{backend}` device {place}; {count} answer, numbered from 0"))
            .help(format!("use --device {backend}:0, or --device cpu")),
    }
}

/// A device's own name and whether it is a software rasteriser.
struct Part {
    name: String,
    software: bool,
}

/// Asks a device who it is.
///
/// # Errors
/// It cannot be opened.
fn part(device: &Device) -> Result<Part, EngineError> {
    mend_kept_kernels();
    let unnamed = || EngineError::Device("it does not say what it is".into());
    let identity = on_device(|| device.identity().ok_or_else(unnamed))?;
    let lower = identity.name.to_lowercase();
    let software = identity.physical.is_none() || SOFTWARE.iter().any(|name| lower.contains(name));
    Ok(Part { name: identity.name, software })
}

/// Has the device add up a few numbers.
///
/// # Errors
/// It fails, or adds wrongly.
fn answers(device: &Device) -> Result<(), EngineError> {
    let sum = on_device(|| {
        let read = Tensor::<1>::ones([8], device).sum().into_data().try_to_vec::<f32>();
        read.map_err(|error| EngineError::Device(format!("{error:?}")))
    })?;
    let wrong = || EngineError::Device(format!("eight ones are {sum:?} to it"));
    if sum == [8.0] { Ok(()) } else { Err(wrong()) }
}

/// Makes sure, once and before the first GPU is opened, that what was tuned before can be used.
fn mend_kept_kernels() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // The database's engine is given damaged files here, and nobody should on_round what it makes of them.
        if let Some(line) = quietly(runtime::mend_kept).flatten() {
            note(line);
        }
    });
}

/// Every device of a type; none when asking fails.
fn list(kind: DeviceType) -> Vec<Device> {
    runtime::prepare();
    quietly(|| Device::enumerate(kind).into_vec()).unwrap_or_default()
}

/// The first device of each kind of real GPU, best first.
#[cfg(any(feature = "wgpu", feature = "vulkan"))]
fn gpu_kinds(device: impl Fn(DeviceKind) -> Device) -> Vec<Device> {
    [DeviceKind::DiscreteGpu(0), DeviceKind::IntegratedGpu(0), DeviceKind::VirtualGpu(0)].map(device).into()
}

fn opened(backend: &str, device: Device, part: &Part) -> Opened {
    let notice = part.software.then(|| {
        format!("{} is a software rasteriser, much slower than --device cpu; it is used because you asked", part.name)
    });
    Opened { device, name: format!("{backend} ({})", part.name), notice, software: part.software }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_of_no_use_is_told_with_its_reason() {
        let full = EngineError::OutOfMemory { what: "one batch", words: "CUDA_ERROR_OUT_OF_MEMORY".into() };
        let said = unusable("`cuda` device 0", &full);
        assert_eq!(said.what, "`cuda` device 0 has no free memory (CUDA_ERROR_OUT_OF_MEMORY)");
        let words = "A launch error happened\nCaused by:\n  A compilation error\nCaused by:\n\n  no such function\nBacktrace:\n none";
        let said = unusable("`wgpu` device 1", &EngineError::Device(words.into()));
        assert_eq!(said.what, "`wgpu` device 1 is listed but does not answer: no such function");
    }
}
