//! Where a round's time goes on the clients' side.

use std::iter::Sum;
use std::ops::Add;

use bonfire_models::{Clock, Part};

/// Seconds of a round's training steps, probes included: means over the devices where there are several. On GPUs shares
/// of every 16th step taken for the whole (see [`Clock`]).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepTimes {
    /// Waiting for packed batches and putting them on the device.
    pub data: f64,
    /// Forward passes.
    pub forward: f64,
    /// Backward passes, layers that are computed again included.
    pub backward: f64,
    /// Optimizer steps.
    pub optimizer: f64,
}

impl StepTimes {
    /// What a pass's clock says.
    pub(crate) fn of(clock: &Clock) -> StepTimes {
        let seconds = clock.seconds();
        let spent = |part: Part| seconds[part as usize];
        StepTimes {
            data: spent(Part::Data),
            forward: spent(Part::Forward),
            backward: spent(Part::Backward),
            optimizer: spent(Part::Optimizer),
        }
    }

    /// The share of one of `devices` that worked side by side.
    pub(crate) fn over(self, devices: usize) -> StepTimes {
        let n = devices.max(1) as f64;
        StepTimes {
            data: self.data / n,
            forward: self.forward / n,
            backward: self.backward / n,
            optimizer: self.optimizer / n,
        }
    }

    /// All of it.
    pub fn total(&self) -> f64 {
        self.data + self.forward + self.backward + self.optimizer
    }
}

impl Add for StepTimes {
    type Output = StepTimes;

    fn add(self, other: StepTimes) -> StepTimes {
        StepTimes {
            data: self.data + other.data,
            forward: self.forward + other.forward,
            backward: self.backward + other.backward,
            optimizer: self.optimizer + other.optimizer,
        }
    }
}

impl Sum for StepTimes {
    fn sum<I: Iterator<Item = StepTimes>>(all: I) -> StepTimes {
        all.fold(StepTimes::default(), StepTimes::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_side_by_side_share_the_time() {
        let one = StepTimes { data: 1.0, forward: 2.0, backward: 4.0, optimizer: 1.0 };
        assert_eq!([one, one].into_iter().sum::<StepTimes>().over(2), one);
        assert_eq!(one.total(), 8.0);
    }
}
