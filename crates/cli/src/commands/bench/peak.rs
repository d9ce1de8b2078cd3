//! Peak memory of one piece of work: of the process on the CPU, of the device's pools elsewhere. The pools' is an upper
//! bound: what they keep of earlier work counts too.

use bonfire_experiment::memory::{give_back_freed, keep_freed_awhile, taken_of};
use bonfire_kernels::runs_on_cpu;
use burn::tensor::Device;

/// A watch over the memory of one piece of work, which is slow on the CPU while it is watched.
pub struct Watch<'d> {
    device: &'d Device,
    /// Whether what is told counts from the start: the process's mark could be put back, or the device's pools were emptied.
    fresh: bool,
}

impl<'d> Watch<'d> {
    /// Starts watching; memory that is held only for reuse is given back first.
    pub fn start(device: &'d Device) -> Self {
        let fresh = if runs_on_cpu(device) {
            give_back_freed();
            // Writing 5 sets Linux's mark of the largest resident size back to the present one.
            std::fs::write("/proc/self/clear_refs", "5").is_ok()
        } else {
            device.memory_cleanup();
            true
        };
        Watch { device, fresh }
    }

    /// The peak since the start in bytes; nothing where the system does not tell. A device tells what its pools hold
    /// now: they grow with the work and are not given back before the next cleanup.
    pub fn peak(&self) -> Option<u64> {
        taken_of(self.device).filter(|_| self.fresh)
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        keep_freed_awhile();
    }
}
