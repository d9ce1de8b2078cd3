//! The process's memory: how its allocator treats what is freed, and the peak, where the system tells it.

use std::fmt;

use bonfire_engine::Estimate;
use bonfire_federation::Run;
use bonfire_kernels::{device_memory_reserved, runs_on_cpu};
use burn::tensor::Device;

use crate::format::bytes;

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

/// What a run is expected to take at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// On a device, by the shapes of model and clients.
    pub device: Estimate,
    /// Whether the device is the processor, whose memory is the host's.
    pub on_cpu: bool,
    /// What the process takes before the first round: the program, data, the model as it was read. 0 where the system does
    /// not tell.
    pub before: u64,
    /// What a round takes of the host besides.
    pub round: u64,
}

impl Expected {
    /// Of a run that has not begun.
    pub fn of(run: &Run) -> Expected {
        let on_cpu = run.devices().next().is_some_and(runs_on_cpu);
        let before = resident_bytes().unwrap_or(0);
        Expected { device: run.estimate(), on_cpu, before, round: run.round_bytes() }
    }

    /// Bytes of a device, with so many clients in flight.
    pub fn total(&self, in_flight: usize) -> u64 {
        let device = Estimate { in_flight, ..self.device };
        if self.on_cpu {
            // The backbone as it was read is in what there is; its folded copy is not.
            self.before + self.round + device.total() - device.backbone / 2
        } else {
            device.total()
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Estimate { available, in_flight, client, backbone } = self.device;
        let available = available.map(|n| format!(" of {}", bytes(n))).unwrap_or_default();
        write!(f, "about {}{available}: ", bytes(self.total(in_flight)))?;
        if self.on_cpu {
            write!(f, "program, data and model {}, ", bytes(self.before))?
        } else {
            write!(f, "backbone {}, ", bytes(backbone))?
        }
        write!(f, "{in_flight} in flight of {} each", bytes(client))?;
        if self.on_cpu {
            write!(f, ", uploads and server {}", bytes(self.round))
        } else {
            write!(f, "; {} of the host", bytes(self.before + self.round))
        }
    }
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

    /// The bindings do not name the option, so its number could be another's in another version of the allocator: one that is
    /// told by its name must be found under the number.
    #[test]
    #[allow(unsafe_code)]
    fn the_option_is_the_one_that_the_number_says() {
        const NAME: &str = "MIMALLOC_PURGE_DELAY";
        if std::env::var(NAME).as_deref() == Ok("4321") {
            // SAFETY: reads a number of a static table.
            assert_eq!(unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) }, 4321);
            return;
        }
        let this = std::env::current_exe().expect("a path");
        let mut again = std::process::Command::new(this);
        again.args(["--exact", "memory::tests::the_option_is_the_one_that_the_number_says"]).env(NAME, "4321");
        let output = again.output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_a_peak() {
        assert!(peak_bytes().is_some_and(|bytes| bytes > 100_000));
    }
}
