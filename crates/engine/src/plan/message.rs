//! A plan on its way to clients on another machine: JSON, and beside it the tensors that some methods send.

use std::sync::Arc;

use bonfire_models::{Adapter, Matrix};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Active, LocalOptimizer, Named, Plan};
use crate::{Role, RoleTensors, TargetSlots};

impl Plan {
    /// The orders as JSON, and the tensors that belong to them: `control/…`, `second/…`, `direction/…`.
    pub fn to_message(&self) -> (String, Named) {
        let mut tensors = Named::new();
        let mut put = |kind: &str, of_roles: &RoleTensors| {
            tensors.extend(of_roles.iter().map(|(role, matrix)| (format!("{kind}/{role}"), matrix.clone())));
        };
        if let Some(variate) = &self.terms.variate {
            put("control", variate);
        }
        if let LocalOptimizer::Amended { second, direction, .. } = &self.optimizer {
            put("second", second);
            put("direction", direction);
        }
        (serde_json::to_string(self).expect("numbers and names"), tensors)
    }

    /// Reads what [`Plan::to_message`] wrote.
    ///
    /// # Errors
    /// Anything else, in words. Whether the orders fit a model and its clients says [`Plan::misfit`].
    pub fn from_message(text: &str, tensors: &Named) -> Result<Plan, String> {
        let mut plan: Plan = serde_json::from_str(text).map_err(|e| format!("it is not a plan: {e}"))?;
        let of_kind = |kind: &str| {
            let own = tensors.iter().filter_map(|(name, matrix)| Some((name.strip_prefix(kind)?, name, matrix)));
            let role = |(role, name, matrix): (&str, &String, &Matrix)| match role.parse::<Role>() {
                Ok(role) => Ok((role, matrix.clone())),
                Err(()) => Err(format!("its tensor \"{name}\" is of nothing that trains")),
            };
            own.map(role).collect::<Result<RoleTensors, String>>().map(Arc::new)
        };
        if let Some(variate) = &mut plan.terms.variate {
            *variate = of_kind("control/")?;
        }
        if let LocalOptimizer::Amended { second, direction, .. } = &mut plan.optimizer {
            (*second, *direction) = (of_kind("second/")?, of_kind("direction/")?);
        }
        Ok(plan)
    }

    /// The first order that cannot be carried out by `clients` clients with an adapter like `global`.
    pub fn misfit(&self, global: &Adapter, clients: usize) -> Option<String> {
        let (rank, targets) = (global.rank, global.targets.len());
        let live = |live: &TargetSlots| live.len() == targets && live.iter().flatten().all(|&slot| slot < rank);
        let rates = [self.lr_a, self.lr_b, self.lr_core];
        let trains = match self.active {
            Active::Full => !global.weights.is_empty(),
            Active::Core | Active::All => global.core.len() == targets && targets > 0,
            Active::A | Active::B | Active::Both => targets > 0,
        };
        let one_factor = self.active.factors().len() == 1;
        let selects = self
            .selection
            .as_ref()
            .is_none_or(|s| one_factor && s.budgets.len() == clients && s.probe.problem().is_none());
        let roles = Role::all(self, global);
        // Tensors of what does not train are ignored.
        let fits = |(role, m): (&Role, &Matrix)| !roles.contains(role) || role.shape(global) == [m.rows, m.cols];
        let checks = [
            ("round", self.round > 0),
            ("active", trains),
            ("live", self.live.as_ref().is_none_or(live)),
            ("ranks", self.ranks.as_ref().is_none_or(|r| r.len() == clients)),
            ("selection", selects),
            ("draw", self.draw.is_none() || (self.selection.is_none() && self.active == Active::Both)),
            ("align", self.align.is_none_or(|a| self.active == Active::Both && (0.0..=1.0).contains(&a.strength))),
            ("sketch", self.sketch.is_none_or(|s| self.active == Active::Both && s.columns > 0 && s.rows > 0)),
            ("learning rates", rates.iter().all(|lr| lr.is_finite() && *lr >= 0.0)),
            ("private", self.private.targets.iter().all(|&t| t < targets) && self.private.is_of_a_kind()),
            ("branches", self.terms.branches.is_none_or(|b| b.shared <= rank)),
            // Where the model has nothing of what is to train, shapes cannot be asked for; `active` is refused above.
            ("tensors", !trains || self.tensors().all(fits)),
        ];
        let wrong = checks.into_iter().find(|(_, fine)| !fine);
        wrong.map(|(what, _)| format!("the plan's {what} cannot be carried out with this model and these clients"))
    }

    fn tensors(&self) -> impl Iterator<Item = (&Role, &Matrix)> {
        let amended = match &self.optimizer {
            LocalOptimizer::Configured => None,
            LocalOptimizer::Amended { second, direction, .. } => Some([second, direction]),
        };
        let amended = amended.into_iter().flatten();
        self.terms.variate.iter().chain(amended).flat_map(|tensors| tensors.iter())
    }
}

/// Whether there are control variates; the tensors themselves go beside the text.
pub(super) mod presence {
    use super::*;

    pub fn serialize<S: Serializer>(variate: &Option<Arc<RoleTensors>>, to: S) -> Result<S::Ok, S::Error> {
        variate.is_some().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Arc<RoleTensors>>, D::Error> {
        Ok(bool::deserialize(from)?.then(Arc::default))
    }
}
