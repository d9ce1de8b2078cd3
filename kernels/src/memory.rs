//! What a device says of its memory.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Device, Tensor};

/// Questions to the device that a tensor lies on; 0 where it has no answer.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"))]
pub trait MemoryOps: Backend {
    /// Bytes it can hold.
    fn capacity(on: FloatTensor<Self>) -> u64;
    /// Bytes taken from the system so far.
    fn reserved(on: FloatTensor<Self>) -> u64;
    /// Bytes of the largest tensor it can hold.
    fn largest(on: FloatTensor<Self>) -> u64;
}

fn ask(
    device: &Device,
    question: fn(<Dispatch as burn::backend::BackendTypes>::FloatTensorPrimitive) -> u64,
) -> Option<u64> {
    let probe = Tensor::<1>::zeros([1], &device.clone().inner());
    Some(question(probe.into_dispatch())).filter(|&bytes| bytes > 0)
}

/// Bytes of memory that `device` has, where it tells: the machine's for the CPU, the card's for CUDA and, built with the
/// feature `vulkan`, for Vulkan. WebGPU states none.
pub fn device_memory(device: &Device) -> Option<u64> {
    ask(device, <Dispatch as MemoryOps>::capacity)
}

/// Bytes that this process has taken of `device`'s memory; not known for the CPU, where the system counts them.
pub fn device_memory_reserved(device: &Device) -> Option<u64> {
    ask(device, <Dispatch as MemoryOps>::reserved)
}

/// Bytes of the largest tensor that `device` can hold, whatever else is free; not known for the CPU. On WebGPU it is the
/// adapter's limit of a buffer or of one bound to a kernel, on CUDA what CubeCL takes from the driver at once.
pub fn device_buffer_limit(device: &Device) -> Option<u64> {
    ask(device, <Dispatch as MemoryOps>::largest)
}

#[cfg(feature = "flex")]
impl MemoryOps for burn_flex::Flex {
    fn capacity(_: FloatTensor<Self>) -> u64 {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let row = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        row.and_then(|row| row.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
    }

    fn reserved(_: FloatTensor<Self>) -> u64 {
        0
    }

    fn largest(_: FloatTensor<Self>) -> u64 {
        0
    }
}

#[cfg(feature = "cube")]
impl MemoryOps for burn_cubecl::CubeBackend {
    fn capacity(on: FloatTensor<Self>) -> u64 {
        on.client.properties().memory.max_memory().unwrap_or(0)
    }

    fn reserved(on: FloatTensor<Self>) -> u64 {
        use burn_cubecl::cubecl::MemoryScope;
        on.client.memory_report(MemoryScope::Device).usage().bytes_reserved
    }

    fn largest(on: FloatTensor<Self>) -> u64 {
        on.client.properties().memory.max_page_size
    }
}
