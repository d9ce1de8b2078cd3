//! From settings to strategies.

use super::{Common, FedIt, FfaLora, LoraA2, RoLora, Strategy};
use crate::{Settings, StrategySettings};

/// The strategy that `settings` name; `budgets` are the clients' slots per target, or their ranks.
pub(crate) fn build(settings: &Settings, budgets: Vec<usize>) -> Box<dyn Strategy> {
    let common = |ratio| Common::new(settings, &budgets, ratio);
    match &settings.strategy {
        StrategySettings::LoraA2 { probe, score, norm, .. } => Box::new(LoraA2 {
            common: common(5.0),
            probe: probe.clone(),
            score: *score,
            norm: *norm,
            budgets,
            rank: settings.adapter.rank,
        }),
        StrategySettings::FedIt { .. } => Box::new(FedIt { common: common(1.0) }),
        StrategySettings::FfaLora { .. } => Box::new(FfaLora { common: common(1.0) }),
        StrategySettings::RoLora { .. } => Box::new(RoLora { common: common(1.0) }),
    }
}
