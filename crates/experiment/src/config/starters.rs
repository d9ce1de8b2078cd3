//! Short configurations to begin with, one for each kind of work.

use super::sample::sample;

/// What a starter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starter {
    /// Texts and labels.
    Classifier,
    /// A language model on prompts and responses.
    Llm,
    /// A few organisations, all in every round.
    CrossSilo,
    /// What a federation would cost.
    Planning,
    /// Every key with its default and what it does.
    Full,
}

impl Starter {
    /// All of them.
    pub const ALL: [Starter; 5] =
        [Starter::Classifier, Starter::Llm, Starter::CrossSilo, Starter::Planning, Starter::Full];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Starter::Classifier => "classifier",
            Starter::Llm => "llm",
            Starter::CrossSilo => "cross-silo",
            Starter::Planning => "planning",
            Starter::Full => "full",
        }
    }

    /// That of this name.
    pub fn of(name: &str) -> Option<Starter> {
        Starter::ALL.into_iter().find(|starter| starter.name() == name)
    }

    /// The file.
    pub fn text(self) -> String {
        match self {
            Starter::Classifier => include_str!("starters/classifier.toml").into(),
            Starter::Llm => include_str!("starters/llm.toml").into(),
            Starter::CrossSilo => include_str!("starters/cross-silo.toml").into(),
            Starter::Planning => include_str!("starters/planning.toml").into(),
            Starter::Full => sample(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn starters_are_short_and_valid_as_they_are() {
        for starter in Starter::ALL {
            let text = starter.text();
            let loaded =
                parse(starter.name(), &text, &[]).unwrap_or_else(|error| panic!("{}: {error}", starter.name()));
            assert!(loaded.notices.is_empty(), "{:?}", loaded.notices);
            let keys = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count();
            assert!(starter == Starter::Full || (15..=30).contains(&keys), "{}: {keys} lines", starter.name());
            assert!(text.lines().all(|line| line.chars().count() <= 130), "{}", starter.name());
            assert_eq!(Starter::of(starter.name()), Some(starter));
        }
    }
}
