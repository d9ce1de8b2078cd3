//! Peak memory of one piece of work: of the process on the CPU, of the device's pools elsewhere. Both are upper bounds:
//! what the allocator keeps from earlier work counts too.

use bonfire_kernels::runs_on_cpu;
use burn::tensor::Device;

use crate::memory::peak_bytes;

/// A watch over the memory of one piece of work.
pub struct Watch<'d> {
    device: &'d Device,
    /// Whether the process's mark could be put back before the work.
    fresh: bool,
}

impl<'d> Watch<'d> {
    /// Starts watching; memory that is held only for reuse is given back first, where that can be asked for.
    pub fn start(device: &'d Device) -> Self {
        let fresh = match runs_on_cpu(device) {
            // Writing 5 sets Linux's mark of the largest resident size back to the present one.
            true => std::fs::write("/proc/self/clear_refs", "5").is_ok(),
            false => {
                device.memory_cleanup();
                false
            }
        };
        Watch { device, fresh }
    }

    /// The peak since the start in bytes; nothing where the system does not tell. A device tells what its pools hold
    /// now: they grow with the work and are not given back before the next cleanup.
    pub fn peak(&self) -> Option<u64> {
        match runs_on_cpu(self.device) {
            true => peak_bytes().filter(|_| self.fresh),
            false => self.device.memory_pool_usage().map(|usage| usage.bytes_reserved),
        }
    }
}
