//! From settings to strategies.

use super::{
    Common, FedExLora, FedIt, FedSb, FedSvd, FfaLora, FlexLora, Flora, Florist, HetLora, LoraA2, LoraFair, RaFlora,
    Replication, RoLora, Strategy,
};
use bonfire_engine::Tail;

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
        StrategySettings::FlexLora {} => Box::new(FlexLora { common: common(1.0) }),
        StrategySettings::Flora {} => Box::new(Flora { common: common(1.0), init: settings.adapter.init }),
        StrategySettings::Florist { tau } => {
            Box::new(Florist { common: common(1.0), init: settings.adapter.init, tau: *tau })
        }
        StrategySettings::RaFlora {} => Box::new(RaFlora { common: common(1.0) }),
        StrategySettings::Replication {} => Box::new(Replication { common: common(1.0) }),
        StrategySettings::HetLora { lambda, decay, least } => {
            let tail = Tail { weight: *lambda, decay: *decay, least: *least };
            Box::new(HetLora { common: common(1.0), tail, ranks: budgets })
        }
        StrategySettings::FedExLora { rank } => Box::new(FedExLora { common: common(1.0), rank: *rank }),
        StrategySettings::LoraFair { lambda } => Box::new(LoraFair { common: common(1.0), lambda: *lambda }),
        StrategySettings::FedSvd {} => Box::new(FedSvd { common: common(1.0) }),
        StrategySettings::FedSb {} => Box::new(FedSb { common: common(1.0) }),
    }
}
