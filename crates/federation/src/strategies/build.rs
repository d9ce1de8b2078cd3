//! From settings to strategies.

use bonfire_engine::{TailPenalty, Threshold};

use super::baselines::{Local, Pooled};
use super::clustered::Clustered;
use super::dfl::Dfl;
use super::fed_plora::FedPlora;
use super::fed_sb::FedSb;
use super::fedask::FedAsk;
use super::fedex_lora::FedExLora;
use super::fedlada::FedLada;
use super::fedpeptao::FedPepTao;
use super::fedrot_lora::FedRotLora;
use super::fedsa_lora::FedSaLora;
use super::fedsvd::FedSvd;
use super::flexlora::FlexLora;
use super::flora::Flora;
use super::florist::Florist;
use super::fslora::FsLora;
use super::full::Full;
use super::hetlora::HetLora;
use super::la_lora::LaLora;
use super::lora_fair::LoraFair;
use super::raflora::RaFlora;
use super::replication::Replication;
use super::sa_fedlora::SaFedLora;
use super::sora::Sora;
use super::xgblora::XgbLora;
use super::{Common, FedIt, FfaLora, LoraA2, RoLora, Strategy};
use crate::protection::Protection;
use crate::settings::MOST_GROUPS;
use crate::{Settings, StrategySettings};

/// The strategy that `settings` name; `budgets` are the clients' slots per target, or their ranks.
pub(crate) fn build(settings: &Settings, protection: &Protection, budgets: Vec<usize>) -> Box<dyn Strategy> {
    let common = |ratio| Common::new(settings, protection, &budgets, ratio);
    match &settings.strategy {
        StrategySettings::LoraA2 { probe, score, per, norm, .. } => Box::new(LoraA2 {
            common: common(5.0),
            probe: probe.clone(),
            score: *score,
            per: *per,
            norm: *norm,
            budgets,
            rank: settings.adapter.rank,
        }),
        StrategySettings::FedIt { .. } => Box::new(FedIt { common: common(1.0) }),
        StrategySettings::FfaLora { .. } => Box::new(FfaLora { common: common(1.0) }),
        StrategySettings::FedPepTao { layers, lr, momentum } => {
            Box::new(FedPepTao { common: common(1.0), layers: *layers, lr: *lr, momentum: *momentum })
        }
        StrategySettings::Full {} => Box::new(Full { common: common(1.0) }),
        StrategySettings::RoLora { .. } => Box::new(RoLora { common: common(1.0) }),
        StrategySettings::FlexLora {} => Box::new(FlexLora { common: common(1.0) }),
        StrategySettings::Flora {} => Box::new(Flora { common: common(1.0), init: settings.adapter.init.draw() }),
        StrategySettings::Florist { tau } => {
            Box::new(Florist { common: common(1.0), init: settings.adapter.init.draw(), tau: *tau })
        }
        StrategySettings::RaFlora {} => Box::new(RaFlora { common: common(1.0) }),
        StrategySettings::Replication {} => Box::new(Replication { common: common(1.0) }),
        StrategySettings::FedExLora { rank } => Box::new(FedExLora { common: common(1.0), rank: *rank }),
        StrategySettings::LoraFair { lambda } => Box::new(LoraFair { common: common(1.0), lambda: *lambda }),
        StrategySettings::FedSvd {} => Box::new(FedSvd { common: common(1.0) }),
        StrategySettings::FedSb {} => Box::new(FedSb { common: common(1.0) }),
        StrategySettings::HetLora { weight, decay, least } => Box::new(HetLora {
            common: common(1.0),
            tail: TailPenalty { weight: *weight, decay: *decay, least: *least },
        }),
        StrategySettings::FedSaLora {} => Box::new(FedSaLora { common: common(1.0) }),
        StrategySettings::SaFedLora { initiating, prox, least } => {
            let initiating = initiating.unwrap_or(settings.train.rounds.div_ceil(5));
            Box::new(SaFedLora { common: common(1.0), initiating, prox: *prox, least: *least })
        }
        StrategySettings::Sora { twice, .. } => {
            let (xi, lr_gate) = settings.gates().expect("sora has gates");
            Box::new(Sora { common: common(1.0), lr_gate, threshold: Threshold { xi, twice: *twice } })
        }
        StrategySettings::XgbLora { layers, ridge, shrinkage } => Box::new(XgbLora {
            common: common(1.0),
            layers: *layers,
            ridge: *ridge,
            shrinkage: *shrinkage,
            init: settings.adapter.init.draw(),
        }),
        StrategySettings::FedLada { own } => {
            Box::new(FedLada { common: common(1.0), lr_head: settings.train.lr_head, own: *own })
        }
        StrategySettings::Local {} => Box::new(Local { common: common(1.0) }),
        StrategySettings::Pooled {} => Box::new(Pooled { common: common(1.0) }),
        StrategySettings::FsLora {} => Box::new(FsLora { common: common(1.0) }),
        StrategySettings::FedPlora {} => Box::new(FedPlora { common: common(1.0) }),
        StrategySettings::FedRotLora { lambda } => Box::new(FedRotLora { common: common(1.0), lambda: *lambda }),
        StrategySettings::LaLora { first, smoothing } => {
            let usual = if settings.privacy.is_some() { 1.0 } else { 0.0 };
            Box::new(LaLora::new(common(2.0), *first, smoothing.unwrap_or(usual)))
        }
        StrategySettings::FedAsk { columns } => {
            let columns = columns.unwrap_or(2 * settings.adapter.rank);
            Box::new(FedAsk { common: common(1.0), columns })
        }
        StrategySettings::Clustered { groups, most } => {
            Box::new(Clustered { common: common(1.0), groups: *groups, most: most.unwrap_or(MOST_GROUPS) })
        }
        StrategySettings::Dfl { private, apart } => {
            let private = private.unwrap_or(settings.adapter.rank / 2);
            Box::new(Dfl { common: common(1.0), private, divergence_weight: *apart })
        }
    }
}
