//! What `[wire]` goes together with.

use bonfire_engine::Problem;

use super::{Settings, StrategySettings};

impl Settings {
    /// What short messages cannot carry, or would break.
    pub(super) fn wire_problem(&self) -> Option<Problem> {
        let (wire, name, traits) = (&self.wire, self.strategy.name(), self.strategy.traits());
        if !traits.exchanges {
            return None;
        }
        let is = |wrong: bool, key, what: String| wrong.then(|| Problem::new(key, what));
        let coded = wire.codes_uploads();
        let unknown_length = wire.top_k.is_some() || wire.deflate;
        wire.problem()
            .or(is(
                coded && self.adds_central_noise(),
                "wire",
                "rounds what clients send, and the noise of [privacy] hides movements up to a bound that rounding can pass; leave \
                 wire.upload, wire.head, wire.top_k and wire.deflate out, or use privacy.kind = \"laplace\", which is added before"
                    .into(),
            ))
            .or(is(
                coded && matches!(self.strategy, StrategySettings::FedAsk { .. }),
                "wire",
                "shortens movements, and fedask sends sketches of its products; leave it out".into(),
            ))
            .or(is(
                unknown_length && matches!(self.strategy, StrategySettings::HetLora { .. }),
                if wire.deflate { "wire.deflate" } else { "wire.top_k" },
                "makes messages of any length, and of hetlora the length tells how much a client has pruned; leave it out".into(),
            ))
            .or(is(
                wire.error_feedback == Some(true) && !traits.keeps_slots,
                "wire.error_feedback",
                format!("adds to a slot what it lacked before, and in {name} slots are others in every round; leave it out"),
            ))
            .or(is(
                wire.codes_downloads() && (traits.merges || traits.keeps_private),
                "wire.download",
                format!(
                    "rounds the adapter that clients start from, and of {name} {}; leave it out",
                    if traits.merges { "they get what is merged into the backbone" } else { "they keep a part for themselves" }
                ),
            ))
    }

    /// Whether clients add to what they send what they could not send before.
    pub(crate) fn feeds_errors_back(&self) -> bool {
        let by_itself = self.wire.is_coarse() && self.strategy.traits().keeps_slots;
        self.wire.codes_uploads() && self.wire.error_feedback.unwrap_or(by_itself)
    }
}
