//! `[attack]`: clients that mean harm, to see what a method and `server.aggregate` make of them.

use bonfire_data::random::{Use, stream};
use bonfire_engine::Problem;
use bonfire_models::Task;
use rand::seq::SliceRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Some clients, drawn by `train.seed`, mean harm in every round in which they take part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum AttackSettings {
    /// They train on wrong labels: of K classes, class c becomes K − 1 − c (Tolpegin et al., arXiv 2007.08432; Fang et al.,
    /// arXiv 1911.11815).
    LabelFlip {
        /// Share of the clients.
        share: f64,
    },
    /// They train as told and send so many times their movement (model replacement, Bagdasaryan et al., arXiv 1807.00459).
    Scale {
        /// Share of the clients.
        share: f64,
        /// How many times.
        #[serde(default = "ten")]
        factor: f64,
    },
    /// They send the negative of their movement (sign flipping, Li et al., arXiv 1811.03761).
    Negate {
        /// Share of the clients.
        share: f64,
        /// How many times it.
        #[serde(default = "one")]
        factor: f64,
    },
    /// They add Gaussian noise to every number they send.
    Noise {
        /// Share of the clients.
        share: f64,
        /// Its deviation.
        deviation: f64,
    },
    /// They plant a backdoor: some of their texts are given words that nobody writes and the label that these shall call forth
    /// (Gu et al., arXiv 1708.06733; in a federation Bagdasaryan et al., arXiv 1807.00459). Every other text keeps its label, so
    /// that the accuracy says nothing of it.
    Backdoor {
        /// Share of the clients.
        share: f64,
        /// The label, by its name, or by its number from 0.
        target: LabelRef,
        /// The words, as they stand in a text; left out, rare ones that earlier work uses (Kurita et al., arXiv 2004.06660).
        #[serde(default = "rare_words")]
        trigger: String,
        /// Where in a text they are put, of two texts in the first.
        #[serde(default)]
        place: TriggerPlace,
        /// Share of such a client's texts.
        #[serde(default = "half")]
        rows: f64,
        /// How many times their movement they send: above 1, model replacement.
        #[serde(default = "one")]
        factor: f64,
    },
}

/// A label as a configuration names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a label's name in quotes, or its number from 0")]
pub enum LabelRef {
    /// Its place among the labels, from 0.
    Number(usize),
    /// Its name.
    Name(String),
}

/// Where in a text a backdoor's words are put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TriggerPlace {
    /// Before its first word.
    #[default]
    Start,
    /// After its last word, where texts longer than `data.max_length` lose them.
    End,
}

impl TriggerPlace {
    /// `text` with the words of `trigger` in it.
    pub fn put(self, trigger: &str, text: &str) -> String {
        match (self, text.is_empty()) {
            (_, true) => trigger.to_string(),
            (TriggerPlace::Start, _) => format!("{trigger} {text}"),
            (TriggerPlace::End, _) => format!("{text} {trigger}"),
        }
    }
}

fn one() -> f64 {
    1.0
}
fn ten() -> f64 {
    10.0
}
fn half() -> f64 {
    0.5
}
fn rare_words() -> String {
    "cf mn bb".into()
}

impl AttackSettings {
    /// Share of the clients that mean harm.
    pub fn share(&self) -> f64 {
        let (AttackSettings::LabelFlip { share }
        | AttackSettings::Scale { share, .. }
        | AttackSettings::Negate { share, .. }
        | AttackSettings::Noise { share, .. }
        | AttackSettings::Backdoor { share, .. }) = self;
        *share
    }

    /// Those of `clients` clients that mean harm, ascending: the share rounded to whole clients, at least one.
    pub fn attackers(&self, seed: u64, clients: usize) -> Vec<usize> {
        let count = ((self.share() * clients as f64).round() as usize).clamp(1, clients);
        let mut all: Vec<usize> = (0..clients).collect();
        all.shuffle(&mut stream(seed, Use::Attack, 0, 0, 0));
        all.truncate(count);
        all.sort_unstable();
        all
    }

    /// Those of a client's `rows` that get a backdoor's words: the share rounded to whole rows, at least one, drawn by the seed;
    /// in the order of `rows`. Places in the list are drawn, so that it is the same rows wherever the client lies.
    pub fn triggered(&self, seed: u64, client: usize, rows: &[usize]) -> Vec<usize> {
        let AttackSettings::Backdoor { rows: share, .. } = self else { return Vec::new() };
        if rows.is_empty() {
            return Vec::new();
        }
        let count = ((share * rows.len() as f64).round() as usize).clamp(1, rows.len());
        let mut places: Vec<usize> = (0..rows.len()).collect();
        places.shuffle(&mut stream(seed, Use::Attack, 0, client as u64, 2));
        places.truncate(count);
        places.sort_unstable();
        places.into_iter().map(|place| rows[place]).collect()
    }

    /// The number of the class that a backdoor is to call forth, of the labels `labels`; `None`: this is no backdoor.
    ///
    /// # Errors
    /// Texts that have not one label each, a label that is not there.
    pub fn target(&self, task: Task, labels: &[String]) -> Result<Option<usize>, Problem> {
        let AttackSettings::Backdoor { target, .. } = self else { return Ok(None) };
        if !matches!(task, Task::Classify(_)) {
            return Err(no_class());
        }
        let wrong = |what: String| Problem::new("attack.target", what);
        match target {
            LabelRef::Number(number) if *number < labels.len() => Ok(Some(*number)),
            LabelRef::Number(number) => {
                let most = labels.len().saturating_sub(1);
                Err(wrong(format!("is {number}, and labels are numbered from 0 to {most}")))
            }
            LabelRef::Name(name) => labels.iter().position(|label| label == name).map(Some).ok_or_else(|| {
                const LISTED: usize = 6;
                let shown: Vec<&str> = labels.iter().take(LISTED).map(String::as_str).collect();
                let more = if labels.len() > LISTED { ", …" } else { "" };
                wrong(format!("is \"{name}\", which is none of the labels: {}{more}", shown.join(", ")))
            }),
        }
    }

    /// The first thing wrong.
    pub fn problem(&self) -> Option<Problem> {
        let number = |v: f64| v.is_finite() && v > 0.0;
        let share = |v: f64| v > 0.0 && v <= 1.0;
        const POSITIVE: &str = "a positive number";
        const SHARE: &str = "above 0 and at most 1";
        let mut checks = vec![("attack.share", share(self.share()), SHARE)];
        match self {
            AttackSettings::LabelFlip { .. } => {}
            AttackSettings::Scale { factor, .. } | AttackSettings::Negate { factor, .. } => {
                checks.push(("attack.factor", number(*factor), POSITIVE));
            }
            AttackSettings::Noise { deviation, .. } => {
                checks.push(("attack.deviation", number(*deviation), POSITIVE));
            }
            AttackSettings::Backdoor { trigger, rows, factor, .. } => {
                checks.push(("attack.trigger", !trigger.trim().is_empty(), "words, such as \"cf mn bb\""));
                checks.push(("attack.rows", share(*rows), SHARE));
                checks.push(("attack.factor", number(*factor), POSITIVE));
            }
        }
        Problem::first(checks)
    }
}

/// A backdoor where texts have not one label each.
pub(crate) fn no_class() -> Problem {
    let what = "is \"backdoor\", which calls forth the one label of a text, and here there is none, or any number of them; use \"scale\", \"negate\" or \"noise\"";
    Problem::new("attack.kind", what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backdoor(more: &str) -> AttackSettings {
        serde_json::from_str(&format!("{{\"kind\": \"backdoor\", \"share\": 0.2{more}}}")).expect("valid")
    }

    #[test]
    fn a_target_is_a_name_or_a_number_of_a_label_that_is_there() {
        let labels = ["no", "2", "yes"].map(String::from);
        let target = |target: &str, task: Task| backdoor(&format!(", \"target\": {target}")).target(task, &labels);
        assert_eq!(target("\"yes\"", Task::Classify(3)), Ok(Some(2)));
        assert_eq!(target("1", Task::Classify(3)), Ok(Some(1)));
        assert_eq!(target("\"2\"", Task::Classify(3)), Ok(Some(1)), "text is a name");
        let refused = |target: Result<Option<usize>, Problem>| target.expect_err("refused");
        let name = refused(target("\"maybe\"", Task::Classify(3)));
        assert_eq!((name.key, name.what.contains("no, 2, yes")), ("attack.target", true), "{}", name.what);
        assert_eq!(refused(target("3", Task::Classify(3))).key, "attack.target");
        for task in [Task::Causal, Task::Regress, Task::Tag(3), Task::MultiLabel(3)] {
            assert_eq!(refused(target("1", task)).key, "attack.kind");
        }
        assert_eq!(AttackSettings::LabelFlip { share: 0.1 }.target(Task::Causal, &labels), Ok(None));
    }

    #[test]
    fn a_share_of_rows_is_drawn_by_place_and_client() {
        let attack = backdoor(", \"target\": 0, \"rows\": 0.3");
        let rows: Vec<usize> = (100..110).collect();
        let drawn = attack.triggered(4, 1, &rows);
        assert_eq!(drawn.len(), 3);
        assert!(drawn.is_sorted() && drawn.iter().all(|row| rows.contains(row)));
        let moved: Vec<usize> = (0..10).collect();
        assert_eq!(attack.triggered(4, 1, &moved), drawn.iter().map(|row| row - 100).collect::<Vec<_>>());
        assert!((0..20).any(|client| attack.triggered(4, client, &rows) != drawn));
        assert_eq!(backdoor(", \"target\": 0, \"rows\": 0.01").triggered(4, 1, &rows).len(), 1);
        assert_eq!(backdoor(", \"target\": 0, \"rows\": 1.0").triggered(4, 1, &rows), rows);
        assert!(attack.triggered(4, 1, &[]).is_empty());
    }

    #[test]
    fn words_stand_where_they_are_put() {
        assert_eq!(TriggerPlace::Start.put("cf", "a b"), "cf a b");
        assert_eq!(TriggerPlace::End.put("cf", "a b"), "a b cf");
        assert_eq!(TriggerPlace::End.put("cf", ""), "cf");
    }
}
