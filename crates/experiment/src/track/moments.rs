//! When rounds ended. What is past is written down nowhere: such rounds are placed one after the other by their own seconds, the
//! last at the moment at which a tracker opens.

use std::time::{SystemTime, UNIX_EPOCH};

use bonfire_federation::RoundMetrics;

/// The ends of a run's rounds, in seconds since 1970.
#[derive(Debug)]
pub struct Moments {
    /// How long before [`Moments::opened`] each past round ended, latest first.
    past: Vec<f64>,
    /// When the tracker opened.
    pub opened: f64,
    /// When the run would have begun, had it not been stopped.
    pub began: f64,
}

impl Moments {
    /// Those of a run that has the rounds `past`.
    pub fn after(past: &[RoundMetrics]) -> Moments {
        let opened = now();
        let mut ago = 0.0;
        let before = |metrics: &RoundMetrics| {
            let ended = ago;
            ago += metrics.seconds;
            ended
        };
        let past = past.iter().rev().map(before).collect();
        Moments { past, opened, began: opened - ago }
    }

    /// The next round's: the first past one's, and this moment once none is left.
    pub fn next(&mut self) -> f64 {
        self.past.pop().map_or_else(now, |ago| self.opened - ago)
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
