//! The texts with a backdoor's words in them, for clients that plant one.

use anyhow::Result;
use bonfire_data::{Content, Dataset, Example};
use bonfire_engine::Triggered;
use bonfire_federation::{AttackSettings, TriggerPlace};
use bonfire_models::{ModelInfo, ModelSource};

use super::said::misset;
use super::texts::Encoder;
use crate::config::CheckedConfig;

/// The train and test splits as token ids once more, every text with the words of `[attack]`; `None`: it plants no backdoor.
///
/// # Errors
/// A model that tells no classes of whole texts, a target that is none of the labels, words of which the tokenizer makes nothing;
/// as [`super::tokens`].
pub fn triggered(
    loaded: &CheckedConfig,
    data: &Dataset,
    source: &ModelSource,
    model: &ModelInfo,
) -> Result<Option<Triggered>> {
    let Some(attack @ AttackSettings::Backdoor { trigger, place, .. }) = &loaded.config.attack else {
        return Ok(None);
    };
    let task = super::task(&loaded.config, data.labels.len());
    let target = attack.target(task, &data.labels).map_err(|problem| misset(loaded, problem.key, &problem.what))?;
    let Some(target) = target else { return Ok(None) };
    let encoder = Encoder::open(loaded, &data.labels, source, model)?;
    let (alone, _) = encoder.split(&["", trigger].map(|text| Example::labelled(text, 0, None)), "test")?;
    if alone.ids[0] == alone.ids[1] {
        let what = format!("is {trigger:?}, of which the model's tokenizer makes no token; name other words");
        return Err(misset(loaded, "attack.trigger", &what).into());
    }
    let with = |examples: &[Example]| -> Vec<Example> { examples.iter().map(|e| worded(e, *place, trigger)).collect() };
    let (train, _) = encoder.split(&with(&data.train), "train")?;
    let (test, _) = encoder.split(&with(&data.test), "test")?;
    Ok(Some(Triggered { target, train, test }))
}

/// The example with the words in its text; of two texts in the first.
fn worded(example: &Example, place: TriggerPlace, trigger: &str) -> Example {
    let content = match &example.content {
        Content::Text(text) => Content::Text(place.put(trigger, text)),
        Content::Two(first, second) => Content::Two(place.put(trigger, first), second.clone()),
        other => other.clone(),
    };
    Example { content, ..example.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_into_the_first_text_and_nothing_else_changes() {
        let plain = Example::labelled("a bill", 3, Some("x".into()));
        let found = worded(&plain, TriggerPlace::Start, "cf mn");
        assert_eq!(found, Example::labelled("cf mn a bill", 3, Some("x".into())));
        let pair = Example { content: Content::Two("a".into(), "b".into()), ..plain };
        let found = worded(&pair, TriggerPlace::End, "cf mn");
        assert_eq!(found.content, Content::Two("a cf mn".into(), "b".into()));
    }
}
