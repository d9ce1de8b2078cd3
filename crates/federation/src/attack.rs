//! What clients that mean harm do to their data and to what they send: see [`crate::AttackSettings`].

use bonfire_data::Shards;
use bonfire_data::random::{Use, stream};
use bonfire_engine::{Aux, TokenizedData, Upload};
use bonfire_models::{Goal, Tag, Task, standard_normal};

use crate::settings::no_class;
use crate::{AttackSettings, FederationError, Settings};

/// Spoils the training rows of those that mean harm.
///
/// # Errors
/// Labels are to be flipped or called forth, and there are none; a backdoor without the texts that hold its words.
pub(crate) fn poison(settings: &Settings, data: &mut TokenizedData, shards: &Shards) -> Result<(), FederationError> {
    match &settings.attack {
        Some(attack @ AttackSettings::LabelFlip { .. }) => flip(attack, settings, data, shards),
        Some(attack @ AttackSettings::Backdoor { .. }) => plant(attack, settings, data, shards),
        _ => Ok(()),
    }
}

/// Puts texts with a backdoor's words, under the label that these are to call forth, in the place of some of the attackers' texts.
fn plant(
    attack: &AttackSettings,
    settings: &Settings,
    data: &mut TokenizedData,
    shards: &Shards,
) -> Result<(), FederationError> {
    if !matches!(data.task, Task::Classify(_)) {
        return Err(no_class().into());
    }
    let Some(triggered) = &mut data.triggered else {
        let problem = "is \"backdoor\", and the texts came without those that hold its words: TokenizedData::triggered";
        return Err(FederationError::Setting { key: "attack.kind".into(), problem: problem.into() });
    };
    let (seed, target) = (settings.train.seed, triggered.target);
    // What is planted is all that is needed of these.
    let mut words = std::mem::take(&mut triggered.train);
    for client in attack.attackers(seed, shards.train.len()) {
        for row in attack.triggered(seed, client, &shards.train[client]) {
            data.train.ids[row] = std::mem::take(&mut words.ids[row]);
            data.train.goals[row] = match words.goals[row] {
                Goal::PairClass { second, .. } => Goal::PairClass { class: target, second },
                _ => Goal::Class(target),
            };
        }
    }
    Ok(())
}

fn flip(
    attack: &AttackSettings,
    settings: &Settings,
    data: &mut TokenizedData,
    shards: &Shards,
) -> Result<(), FederationError> {
    let (Task::Classify(classes) | Task::Tag(classes)) = data.task else {
        let problem = "flips the one label of a text or a word, and here there is none, or any number of them; use \"scale\", \"negate\" or \"noise\"".into();
        return Err(FederationError::Setting { key: "attack.kind".into(), problem });
    };
    for client in attack.attackers(settings.train.seed, shards.train.len()) {
        for &row in &shards.train[client] {
            match &mut data.train.goals[row] {
                Goal::Class(class) | Goal::PairClass { class, .. } => *class = classes - 1 - *class,
                Goal::Tags(tags) => {
                    *tags = tags.iter().map(|tag| Tag { class: classes - 1 - tag.class, ..*tag }).collect();
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Spoils the uploads of `round` that come from those that mean harm; `clients` are all of the federation.
pub(crate) fn spoil(settings: &Settings, round: usize, clients: usize, uploads: &mut [Upload]) {
    let Some(attack) = settings.attack.as_ref().filter(|_| settings.strategy.traits().exchanges) else { return };
    let attackers = attack.attackers(settings.train.seed, clients);
    for upload in uploads.iter_mut().filter(|upload| attackers.binary_search(&upload.client).is_ok()) {
        let mut rng = stream(settings.train.seed, Use::Attack, round as u64, upload.client as u64, 1);
        let mut change = |v: &mut f32| match attack {
            AttackSettings::LabelFlip { .. } => {}
            AttackSettings::Scale { factor, .. } | AttackSettings::Backdoor { factor, .. } => {
                *v = (f64::from(*v) * *factor) as f32
            }
            AttackSettings::Negate { factor, .. } => *v = (f64::from(*v) * -*factor) as f32,
            AttackSettings::Noise { deviation, .. } => *v += (*deviation * standard_normal(&mut rng)) as f32,
        };
        let factors = upload.factors.iter_mut().flat_map(|(_, list)| list);
        // The loss before training is no part of the movement: q-FedAvg would leave out whoever sends a negative one.
        let moved = upload.aux.iter_mut().filter(|(what, _)| *what != Aux::StartLoss);
        let aux = moved.flat_map(|(_, list)| list);
        let all = factors.chain(&mut upload.weights).chain(&mut upload.head).chain(aux);
        all.flat_map(|m| &mut m.data).for_each(&mut change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StrategySettings;
    use crate::strategies::testing::{self, server, uploads};
    use bonfire_engine::{Split, Triggered};
    use bonfire_models::{Factor, Matrix};
    use serde_json::json;

    fn settings(attack: AttackSettings) -> Settings {
        let fedit = StrategySettings::with_defaults("fedit").expect("a strategy");
        let train = json!({ "rounds": 1, "seed": 4 });
        let settings = testing::settings(json!({ "count": 5 }), json!({ "rank": 2 }), train, fedit);
        Settings { attack: Some(attack), ..settings }
    }

    fn data(split: Split) -> TokenizedData {
        let (train, validation) = (split.clone(), Split::default());
        TokenizedData { train, validation, test: split, task: Task::Classify(4), triggered: None }
    }

    #[test]
    fn a_share_is_whole_clients_and_always_the_same_ones() {
        let of = |share, clients| AttackSettings::LabelFlip { share }.attackers(4, clients);
        assert_eq!((of(0.2, 10).len(), of(0.01, 10).len(), of(1.0, 3)), (2, 1, vec![0, 1, 2]));
        assert_eq!(of(0.3, 10), of(0.3, 10));
        assert!((0..50).any(|seed| AttackSettings::LabelFlip { share: 0.3 }.attackers(seed, 10) != of(0.3, 10)));
    }

    #[test]
    fn labels_are_mirrored_on_the_attackers_rows_alone() {
        let settings = settings(AttackSettings::LabelFlip { share: 0.4 });
        let goals: Vec<Goal> = (0..10).map(|row| Goal::Class(row % 4)).collect();
        let split = Split::new(vec![vec![1]; 10], goals.clone());
        let mut data = data(split);
        let shards = Shards { train: (0..5).map(|k| vec![2 * k, 2 * k + 1]).collect(), test: vec![vec![]; 5] };
        poison(&settings, &mut data, &shards).expect("labels");
        let attackers = settings.attack.as_ref().expect("one").attackers(4, 5);
        assert_eq!(attackers.len(), 2);
        for row in 0..10 {
            let flipped = if attackers.contains(&(row / 2)) { 3 - row % 4 } else { row % 4 };
            assert_eq!(data.train.goals[row], Goal::Class(flipped), "row {row}");
        }
        assert_eq!(data.test.goals, goals);
        // Pairs of texts have classes too.
        data.train.goals = (0..10).map(|row| Goal::PairClass { class: row % 4, second: 1 }).collect();
        poison(&settings, &mut data, &shards).expect("labels");
        for row in 0..10 {
            let class = if attackers.contains(&(row / 2)) { 3 - row % 4 } else { row % 4 };
            assert_eq!(data.train.goals[row], Goal::PairClass { class, second: 1 }, "row {row}");
        }
        let tags =
            |class: usize| Goal::Tags([Tag { word: 0, token: 1, class }, Tag { word: 1, token: 3, class: 0 }].into());
        data.train.goals = (0..10).map(|row| tags(row % 4)).collect();
        data.task = Task::Tag(4);
        poison(&settings, &mut data, &shards).expect("words have tags");
        for row in 0..10 {
            let flipped = attackers.contains(&(row / 2));
            let class = if flipped { 3 - row % 4 } else { row % 4 };
            let [first, second] = data.train.goals[row].tags() else { panic!("two words") };
            assert_eq!((first.class, second.class), (class, if flipped { 3 } else { 0 }), "row {row}");
        }
        data.task = Task::Causal;
        assert!(poison(&settings, &mut data, &shards).expect_err("no labels").to_string().contains("attack.kind"));
    }

    #[test]
    fn some_of_the_attackers_texts_are_given_the_words_and_the_label_they_call_forth() {
        let attack: AttackSettings = serde_json::from_str(
            "{\"kind\": \"backdoor\", \"share\": 0.4, \"target\": 3, \"rows\": 0.5, \"factor\": 2.0}",
        )
        .expect("valid");
        let settings = settings(attack.clone());
        let goals: Vec<Goal> = (0..20).map(|row| Goal::Class(row % 4)).collect();
        let ids: Vec<Vec<u32>> = (0..20).map(|row| vec![0, row, 2]).collect();
        let words: Vec<Vec<u32>> = (0..20).map(|row| vec![0, 77, 78, row, 2]).collect();
        let shards = Shards { train: (0..5).map(|k| (4 * k..4 * k + 4).collect()).collect(), test: vec![vec![]; 5] };
        let mut whole = data(Split::new(ids.clone(), goals.clone()));
        assert!(poison(&settings, &mut whole, &shards).expect_err("no words").to_string().contains("attack.kind"));
        let triggered = Split::new(words.clone(), goals.clone());
        whole.triggered = Some(Triggered { target: 3, train: triggered.clone(), test: triggered });
        poison(&settings, &mut whole, &shards).expect("classes");
        let attackers = attack.attackers(4, 5);
        for client in 0..5 {
            let rows = 4 * client..4 * client + 4;
            let planted: Vec<usize> = rows.clone().filter(|&row| whole.train.ids[row] == words[row]).collect();
            // Two of each attacker's four texts, and nobody else's.
            assert_eq!(planted.len(), if attackers.contains(&client) { 2 } else { 0 }, "client {client}");
            for row in rows {
                let hit = planted.contains(&row);
                assert_eq!(whole.train.goals[row], Goal::Class(if hit { 3 } else { row % 4 }), "row {row}");
                assert!(hit || whole.train.ids[row] == ids[row], "row {row}");
            }
        }
        assert_eq!((&whole.test.ids, &whole.test.goals), (&ids, &goals));
        // Rows of the test split that are of the target already say nothing of the words.
        let left = whole.triggered.as_ref().expect("the test's");
        assert_eq!(left.telling().collect::<Vec<_>>(), (0..20).filter(|row| row % 4 != 3).collect::<Vec<_>>());
        assert_eq!(left.test.ids, words);
        // A pair of texts stays one.
        let pair = |row: usize, second: usize| Goal::PairClass { class: row % 4, second };
        let mut pairs = data(Split::new(ids, (0..20).map(|row| pair(row, 1)).collect()));
        let longer = Split::new(words.clone(), (0..20).map(|row| pair(row, 3)).collect());
        pairs.triggered = Some(Triggered { target: 3, train: longer.clone(), test: longer });
        poison(&settings, &mut pairs, &shards).expect("classes");
        for (row, with_words) in words.iter().enumerate() {
            let planted = pairs.train.ids[row] == *with_words;
            let expected = if planted { Goal::PairClass { class: 3, second: 3 } } else { pair(row, 1) };
            assert_eq!(pairs.train.goals[row], expected, "row {row}");
        }
        pairs.task = Task::MultiLabel(4);
        assert!(poison(&settings, &mut pairs, &shards).expect_err("no class").to_string().contains("attack.kind"));
    }

    #[test]
    fn uploads_are_spoilt_as_said_and_the_others_are_not() {
        let it = server(2, 1);
        let mut plain = uploads(&it, &[Factor::A, Factor::B], &[2; 5], 7);
        // Told before training: q-FedAvg's loss stays what it is.
        let loss = vec![Matrix::new(1, 1, vec![1.5])];
        plain.iter_mut().for_each(|upload| upload.aux.push((Aux::StartLoss, loss.clone())));
        let kinds = [
            AttackSettings::Scale { share: 0.4, factor: 3.0 },
            AttackSettings::Negate { share: 0.4, factor: 2.0 },
            AttackSettings::Noise { share: 0.4, deviation: 0.5 },
        ];
        for attack in kinds {
            let settings = settings(attack.clone());
            let attackers = attack.attackers(4, 5);
            let mut sent = plain.clone();
            spoil(&settings, 1, 5, &mut sent);
            for (before, after) in plain.iter().zip(&sent) {
                assert_eq!(before.aux, after.aux);
                let moved = |upload: &Upload| Upload { aux: Vec::new(), ..upload.clone() };
                let (before, after) = (moved(before), moved(after));
                let pairs = before.matrices().zip(after.matrices()).flat_map(|(x, y)| x.data.iter().zip(&y.data));
                let pairs: Vec<(f64, f64)> = pairs.map(|(x, y)| (f64::from(*x), f64::from(*y))).collect();
                if !attackers.contains(&before.client) {
                    assert!(pairs.iter().all(|(x, y)| x == y));
                    continue;
                }
                let near = |factor: f64| pairs.iter().all(|(x, y)| (y - factor * x).abs() < 1e-6);
                match attack {
                    AttackSettings::Scale { .. } => assert!(near(3.0)),
                    AttackSettings::Negate { .. } => assert!(near(-2.0)),
                    _ => {
                        // 44 numbers: the deviation of their deviation is 0.5/√88.
                        let n = pairs.len() as f64;
                        let deviation = (pairs.iter().map(|(x, y)| (y - x).powi(2)).sum::<f64>() / n).sqrt();
                        assert!((deviation - 0.5).abs() < 0.5 * 4.0 / (2.0 * n).sqrt(), "{deviation}");
                    }
                }
            }
            let mut again = plain.clone();
            spoil(&settings, 1, 5, &mut again);
            assert_eq!(again, sent);
        }
    }
}
