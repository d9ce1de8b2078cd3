//! The process's memory: how its allocator treats what is freed, and the peak, where the system tells it.

use bonfire_kernels::{device_memory_reserved, runs_on_cpu};
use burn::tensor::Device;

/// `mi_option_purge_delay` of mimalloc's `mi_option_e`, which the bindings do not name: milliseconds after which freed
/// memory goes back to the system; -1 is "never".
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Keeps freed memory for the next tensor. A training step frees and asks for the same hundreds of megabytes many times;
/// given back to the system in between, every page would be faulted in again (a third of a step's time on the CPU).
/// `MIMALLOC_PURGE_DELAY` in the environment still has the last word.
#[allow(unsafe_code)]
pub fn keep_freed() {
    // SAFETY: sets a number in a static table; called before other threads start.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) }
}

/// Gives freed memory back at once from here on, what was freed before included, so that the resident size says what is
/// in use. Slow: for measuring memory, until [`keep_freed_awhile`].
#[allow(unsafe_code)]
pub fn give_back_freed() {
    // SAFETY: sets a number in a static table that every thread reads by itself. Collecting needs a positive delay.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, 1);
        libmimalloc_sys::mi_collect(true);
        libmimalloc_sys::mi_option_set(PURGE_DELAY, 0);
    }
}

/// Keeps freed memory as [`keep_freed`] does, but so that [`give_back_freed`] still finds it: for minutes, not for ever.
#[allow(unsafe_code)]
pub fn keep_freed_awhile() {
    const MINUTES: std::ffi::c_long = 600_000;
    // SAFETY: as above.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, MINUTES) }
}

/// Largest resident size so far, in bytes; Linux only.
pub fn peak_bytes() -> Option<u64> {
    row_in("VmHWM:", &std::fs::read_to_string("/proc/self/status").ok()?)
}

/// The most that is taken of one of `devices` for this process so far: on the CPU the process's own peak, on GPUs what their
/// pools hold, which grow with the work and shrink only when memory has run out. `None` where nobody tells.
pub fn taken<'d>(devices: impl Iterator<Item = &'d Device>) -> Option<u64> {
    devices.filter_map(taken_of).max()
}

/// The same of one device.
pub fn taken_of(device: &Device) -> Option<u64> {
    if runs_on_cpu(device) { peak_bytes() } else { device_memory_reserved(device) }
}

/// Resident size now, in bytes; Linux only.
pub fn resident_bytes() -> Option<u64> {
    row_in("VmRSS:", &std::fs::read_to_string("/proc/self/status").ok()?)
}

/// A row of a `/proc/*/status` text, in bytes.
fn row_in(name: &str, status: &str) -> Option<u64> {
    let row = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = row.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n";
        assert_eq!((row_in("VmHWM:", status), row_in("VmRSS:", status)), (Some(2048 * 1024), Some(1024)));
        assert_eq!(row_in("VmHWM:", "Name:\tx\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_a_peak() {
        assert!(peak_bytes().is_some_and(|bytes| bytes > 100_000));
    }
}
