//! Peak memory of one piece of work: of the process on the CPU, of the device's pools elsewhere. The pools' is an upper
//! bound: what they keep of earlier work counts too.

use bonfire_kernels::{device_memory_reserved, runs_on_cpu};
use burn::tensor::Device;

use crate::memory::{give_back_freed, keep_freed_awhile, peak_bytes};

/// A watch over the memory of one piece of work, which is slow on the CPU while it is watched.
pub struct Watch<'d> {
    device: &'d Device,
    /// Whether the process's mark could be put back before the work.
    fresh: bool,
}

impl<'d> Watch<'d> {
    /// Starts watching; memory that is held only for reuse is given back first.
    pub fn start(device: &'d Device) -> Self {
        let fresh = match runs_on_cpu(device) {
            true => {
                give_back_freed();
                // Writing 5 sets Linux's mark of the largest resident size back to the present one.
                std::fs::write("/proc/self/clear_refs", "5").is_ok()
            }
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
            false => device_memory_reserved(self.device),
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        keep_freed_awhile();
    }
}
