//! How the time of training steps divides into data, forward, backward and optimizer.

use std::time::Instant;

use bonfire_kernels::runs_on_cpu;
use burn::tensor::Device;

/// A part of a training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Waiting for a packed batch and putting it on the device.
    Data,
    /// From the batch to the losses.
    Forward,
    /// From the losses to the gradients, layers that are computed again included.
    Backward,
    /// From the gradients to the clients' new numbers.
    Optimizer,
    /// The rest: reading what finished clients leave.
    Rest,
}

impl Part {
    /// How many there are.
    pub const COUNT: usize = 5;
}

/// On a GPU one step in so many is clocked.
const CLOCKED: usize = 16;

/// Which steps are clocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// All: the device has done its work when a call returns.
    Always,
    /// A few: the device is handed work and does it later.
    Sometimes,
    /// None.
    Never,
}

/// Clocks the steps of one pass on one device.
///
/// The CPU has done its work when a call returns, so every step is clocked. A GPU is handed work and does it later: there
/// every 16th step alone is clocked, waiting for the device after each part, and the shares found in these steps are
/// taken for those of the whole pass. Its first step, in which kernels are compiled and tuned, counts only where there is
/// no other.
#[derive(Clone, Debug)]
pub struct Clock {
    device: Device,
    when: When,
    step: usize,
    start: Instant,
    last: Instant,
    /// Of the first step where work is queued.
    first: [f64; Part::COUNT],
    seconds: [f64; Part::COUNT],
}

impl Clock {
    /// Starts the pass and its first step.
    pub fn start(device: &Device) -> Clock {
        Clock::new(device, if runs_on_cpu(device) { When::Always } else { When::Sometimes })
    }

    /// A clock that is never read and never waits for the device: for steps that are timed from outside.
    pub fn stopped(device: &Device) -> Clock {
        Clock::new(device, When::Never)
    }

    fn new(device: &Device, when: When) -> Clock {
        let now = Instant::now();
        let mut clock = Clock {
            device: device.clone(),
            when,
            step: 0,
            start: now,
            last: now,
            first: [0.0; Part::COUNT],
            seconds: [0.0; Part::COUNT],
        };
        clock.wait();
        clock
    }

    /// The time since the last lap was spent on `part`.
    pub fn lap(&mut self, part: Part) {
        if self.is_clocked() {
            let before = self.last;
            self.wait();
            let queues = self.when == When::Sometimes;
            let seconds = if queues && self.step == 0 { &mut self.first } else { &mut self.seconds };
            seconds[part as usize] += (self.last - before).as_secs_f64();
        }
    }

    /// Ends a step and starts the next.
    pub fn end_step(&mut self) {
        self.lap(Part::Rest);
        self.step += 1;
        if self.is_clocked() {
            self.wait();
        }
    }

    /// Seconds of every part since the start, by `Part as usize`; all zero where nothing is clocked.
    pub fn seconds(&self) -> [f64; Part::COUNT] {
        let sum = |seconds: &[f64]| seconds.iter().sum::<f64>();
        let queues = self.when == When::Sometimes;
        let clocked = if queues && sum(&self.seconds) == 0.0 { self.first } else { self.seconds };
        if queues && sum(&clocked) > 0.0 {
            clocked.map(|s| s / sum(&clocked) * self.start.elapsed().as_secs_f64())
        } else {
            clocked
        }
    }

    fn is_clocked(&self) -> bool {
        match self.when {
            When::Always => true,
            When::Sometimes => self.step == 0 || self.step % CLOCKED == 1,
            When::Never => false,
        }
    }

    /// Waits for the device, where it lags behind, and reads the clock.
    fn wait(&mut self) {
        if self.when == When::Sometimes {
            // A device that fails says so where its numbers are read.
            let _ = self.device.sync();
        }
        self.last = Instant::now();
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use std::thread::sleep;
    use std::time::Duration;

    const MOMENT: Duration = Duration::from_millis(3);

    fn steps(clock: &mut Clock, count: usize) {
        for _ in 0..count {
            clock.lap(Part::Data);
            sleep(MOMENT);
            clock.lap(Part::Forward);
            clock.end_step();
        }
    }

    #[test]
    fn where_work_is_done_on_return_every_step_is_clocked() {
        let mut clock = Clock::start(&Device::flex());
        assert_eq!(clock.when, When::Always);
        steps(&mut clock, 4);
        let seconds = clock.seconds();
        assert!(seconds[Part::Forward as usize] >= 4.0 * MOMENT.as_secs_f64(), "{seconds:?}");
        assert!(seconds.iter().sum::<f64>() <= clock.start.elapsed().as_secs_f64());
    }

    #[test]
    fn where_work_is_queued_shares_stand_for_the_whole_pass() {
        let mut clock = Clock::new(&Device::flex(), When::Sometimes);
        // Compiling, which says nothing of the steps to come.
        sleep(MOMENT * 10);
        clock.lap(Part::Backward);
        clock.end_step();
        steps(&mut clock, 20);
        let (seconds, all) = (clock.seconds(), clock.start.elapsed().as_secs_f64());
        assert_eq!(seconds[Part::Backward as usize], 0.0);
        assert!((seconds.iter().sum::<f64>() - all).abs() < 0.1 * all, "{seconds:?} of {all}");
        assert!(seconds[Part::Forward as usize] > 0.5 * all, "{seconds:?} of {all}");
    }

    #[test]
    fn a_single_queued_step_counts() {
        let mut clock = Clock::new(&Device::flex(), When::Sometimes);
        steps(&mut clock, 1);
        assert!(clock.seconds()[Part::Forward as usize] > 0.0);
    }

    #[test]
    fn a_stopped_clock_says_nothing() {
        let mut clock = Clock::stopped(&Device::flex());
        steps(&mut clock, 3);
        assert_eq!(clock.seconds(), [0.0; Part::COUNT]);
    }
}
