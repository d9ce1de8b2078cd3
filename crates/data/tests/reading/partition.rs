//! What every partition keeps, and what each kind promises.

use std::collections::{BTreeSet, HashSet};
use std::fs;

use bonfire_data::{DataError, Dataset, Example, Partition, Rest, Shards, corpus, label_table};
use proptest::prelude::*;

/// A set with this many training rows of each label, interleaved, and half as many test rows.
fn rows(counts: &[usize]) -> Dataset {
    let examples = |counts: &[usize]| {
        let most = counts.iter().copied().max().unwrap_or(0);
        let at = |row: usize| counts.iter().enumerate().filter(move |(_, count)| row < **count).map(|(label, _)| label);
        let example = |label| Example::labelled("", label, None);
        (0..most).flat_map(at).map(example).collect::<Vec<_>>()
    };
    let half: Vec<usize> = counts.iter().map(|count| count / 2).collect();
    let labels = (0..counts.len()).map(|label| label.to_string()).collect();
    Dataset { name: "rows".to_owned(), labels, train: examples(counts), test: examples(&half), ..Dataset::default() }
}

fn assert_complete(shards: &[Vec<usize>], rows: usize) {
    let mut all = shards.concat();
    all.sort_unstable();
    assert!(all.into_iter().eq(0..rows), "every row in exactly one shard");
}

/// The test rows of a class differ from the exact proportion by less than one row.
fn assert_test_in_proportion(data: &Dataset, shards: &Shards) {
    let train = label_table(data, &shards.train);
    let tested = Dataset { train: data.test.clone(), ..data.clone() };
    let test = label_table(&tested, &shards.test);
    for label in 0..data.labels.len() {
        let sum = |table: &[Vec<usize>]| table.iter().map(|counts| counts[label]).sum::<usize>() as f64;
        for (client, counts) in train.iter().enumerate() {
            let quota = sum(&test) * counts[label] as f64 / sum(&train).max(1.0);
            let held = test[client][label] as f64;
            assert!((held - quota).abs() < 1.0 && (counts[label] > 0 || held == 0.0), "client {client}, label {label}");
        }
    }
}

fn seeded_kinds() -> impl Strategy<Value = Partition> {
    prop_oneof![
        Just(Partition::Iid {}),
        prop_oneof![Just(0.5), Just(1.0), Just(100.0)].prop_map(|alpha| Partition::Dirichlet { alpha }),
        (2usize..4).prop_map(|classes| Partition::Pathological { classes }),
        (1usize..4).prop_map(|per_client| Partition::Shards { per_client }),
    ]
}

proptest! {
    #![proptest_config(crate::cases::cases(96))]

    #[test]
    fn rows_are_split_completely_and_by_seed(
        kind in seeded_kinds(),
        counts in prop::collection::vec(40usize..120, 4..9),
        clients in 4usize..9,
        seed: u64,
    ) {
        let data = rows(&counts);
        let shards = kind.split(&data, clients, 2, seed).unwrap();
        prop_assert_eq!(shards.train.len(), clients);
        assert_complete(&shards.train, data.train.len());
        assert_complete(&shards.test, data.test.len());
        assert_test_in_proportion(&data, &shards);
        prop_assert!(shards.train.iter().all(|shard| shard.len() >= 2));
        prop_assert!(shards.train.iter().chain(&shards.test).all(|shard| shard.is_sorted()));
        prop_assert_eq!(&shards, &kind.split(&data, clients, 2, seed).unwrap());
        // Dealing whole pieces or classes to few clients may repeat, shuffling hundreds of rows does not.
        if matches!(kind, Partition::Iid {} | Partition::Dirichlet { .. }) {
            prop_assert_ne!(&shards.train, &kind.split(&data, clients, 2, seed.wrapping_add(1)).unwrap().train);
        }
    }

    #[test]
    fn pathological_clients_hold_exactly_their_classes(
        counts in prop::collection::vec(30usize..60, 2..12),
        classes in 1usize..5,
        clients in 1usize..16,
        seed: u64,
    ) {
        let data = rows(&counts);
        let split = Partition::Pathological { classes }.split(&data, clients, 1, seed);
        if classes > counts.len() || classes * clients < counts.len() {
            let refused = matches!(split, Err(DataError::Setting { key: "classes", .. }));
            prop_assert!(refused);
            return Ok(());
        }
        let table = label_table(&data, &split.unwrap().train);
        for client in &table {
            prop_assert_eq!(client.iter().filter(|count| **count > 0).count(), classes);
        }
        for label in 0..counts.len() {
            let held: Vec<usize> = table.iter().map(|counts| counts[label]).filter(|count| *count > 0).collect();
            prop_assert!(held.iter().max().unwrap() - held.iter().min().unwrap() <= 1, "{:?}", held);
        }
    }

    #[test]
    fn a_tiny_concentration_splits_completely(seed: u64) {
        let data = rows(&[60; 40]);
        let shards = Partition::Dirichlet { alpha: 0.01 }.split(&data, 8, 5, seed).unwrap();
        assert_complete(&shards.train, data.train.len());
        prop_assert!(shards.train.iter().all(|shard| shard.len() >= 5));
        // 40 classes over 8 clients at 0.01: a class has 1.3 holders on average, so far from all 320 pairs occur.
        let table = label_table(&data, &shards.train);
        let pairs = table.iter().flatten().filter(|count| **count > 0).count();
        prop_assert!((40..90).contains(&pairs), "{pairs} pairs of client and class");
    }
}

#[test]
fn concentration_sets_how_unequal_the_clients_are() {
    let data = rows(&[130; 77]);
    let classes = |alpha: f64| {
        let shards = Partition::Dirichlet { alpha }.split(&data, 30, 1, 3).unwrap();
        let held = label_table(&data, &shards.train).into_iter().flatten().filter(|count| *count > 0).count();
        held as f64 / 30.0
    };
    let (tiny, small, middle) = (classes(0.01), classes(0.1), classes(0.5));
    println!("classes a client: {tiny:.1} at 0.01, {small:.1} at 0.1, {middle:.1} at 0.5");
    // The LoRA-A2 paper's BANKING77 splits: 2 to 15, 18 to 34, 37 to 65.
    assert!((2.0..15.0).contains(&tiny) && (18.0..34.0).contains(&small) && (37.0..65.0).contains(&middle));
}

#[test]
fn pathological_pairs_are_those_of_the_paper() {
    let data = rows(&[20; 20]);
    let shards = Partition::Pathological { classes: 2 }.split(&data, 20, 1, 0).unwrap();
    for (client, counts) in label_table(&data, &shards.train).iter().enumerate() {
        let first = client / 2 * 2;
        let expected: Vec<usize> = (0..20).map(|label| if label / 2 * 2 == first { 10 } else { 0 }).collect();
        assert_eq!(*counts, expected, "client {client}");
    }
    let other = Partition::Pathological { classes: 2 }.split(&data, 20, 1, 1).unwrap();
    assert_ne!(shards.train, other.train, "the seed decides which half");
}

#[test]
fn shards_hold_few_labels() {
    let data = rows(&[100; 10]);
    let shards = Partition::Shards { per_client: 2 }.split(&data, 50, 20, 4).unwrap();
    for counts in label_table(&data, &shards.train) {
        assert_eq!(counts.iter().sum::<usize>(), 20);
        assert!(counts.iter().filter(|count| **count > 0).count() <= 2);
    }
    let other = Partition::Shards { per_client: 2 }.split(&data, 50, 20, 5).unwrap();
    assert_ne!(shards.train, other.train);
}

#[test]
fn natural_clients_are_the_groups() {
    let data = corpus::dataset();
    let kind = Partition::Natural { column: corpus::GROUP_COLUMN.to_owned() };
    let shards = kind.split(&data, 0, 1, 0).unwrap();
    assert_complete(&shards.train, data.train.len());
    assert_complete(&shards.test, data.test.len());
    let names: BTreeSet<_> = data.train.iter().map(|example| example.group.clone()).collect();
    for ((train, test), name) in shards.train.iter().zip(&shards.test).zip(names) {
        assert!(train.iter().all(|row| data.train[*row].group == name));
        assert!(test.iter().all(|row| data.test[*row].group == name));
    }
    assert_eq!(kind.split(&data, 20, 1, 0).unwrap(), shards);
    let named = kind.client_names(&data, &shards.train);
    assert_eq!((named.len(), &named[0]), (20, data.train[shards.train[0][0]].group.as_ref().unwrap()));
    let pairs = Partition::GroupedNatural { column: corpus::GROUP_COLUMN.to_owned(), group: 5, rest: Rest::Smaller };
    let fives = pairs.split(&data, 4, 1, 0).unwrap();
    assert_eq!(pairs.client_names(&data, &fives.train)[0], format!("{} and 2 more", named[..3].join(", ")));
    assert!((Partition::Iid {}).client_names(&data, &shards.train).is_empty());
    let error = kind.split(&data, 7, 1, 0).unwrap_err().to_string();
    assert!(error.contains("20 clients of its values (") && error.ends_with("use clients = 20"), "{error}");
    let error = kind.split(&rows(&[3, 3]), 0, 1, 0).unwrap_err().to_string();
    assert!(error.starts_with("training row 0 (counted from 0) has no value of column \"branch\""), "{error}");
}

#[test]
fn natural_test_rows_without_a_known_group() {
    let mut data = rows(&[4, 4]);
    data.train.iter_mut().enumerate().for_each(|(row, example)| example.group = Some(format!("g{}", row / 4)));
    data.test[0].group = Some("g1".to_owned());
    data.test[1].group = Some("nobody".to_owned());
    let shards = Partition::Natural { column: "g".to_owned() }.split(&data, 2, 1, 0).unwrap();
    assert!(shards.test[1].contains(&0));
    let held: HashSet<usize> = shards.test.concat().into_iter().collect();
    assert_eq!(held, HashSet::from([0, 2, 3]));
}

#[test]
fn a_file_is_checked() {
    let data = rows(&[3, 3]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("split.json");
    let split = |text: &str, min_shard| {
        fs::write(&path, text).unwrap();
        Partition::File { path: path.clone() }.split(&data, 2, min_shard, 0)
    };
    assert_eq!(split("[[5, 0], [1]]", 1).unwrap().train, [vec![0, 5], vec![1]]);
    for (text, expected) in [
        ("{}", "not a partition"),
        ("[[0]]", "1 clients are listed, but clients = 2"),
        ("[[0], [6]]", "client 1 lists row 6 of 6 training rows; expected rows from 0 to 5"),
        ("[[0, 0], [1]]", "row 0 is listed by client 0 and again by client 0"),
        ("[[0], [0]]", "row 0 is listed by client 0 and again by client 1"),
        ("[[0], [-1]]", "not a partition"),
        ("[[0], []]", "client 1 would hold 0 training rows, fewer than min_shard = 1"),
    ] {
        let error = split(text, 1).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let gone = Partition::File { path: "no/split.json".into() }.split(&data, 2, 1, 0).unwrap_err();
    assert!(matches!(gone, DataError::Read { .. }));
}

#[test]
fn impossible_settings_are_refused() {
    let data = rows(&[10, 10]);
    let refused =
        |kind: Partition, clients, min_shard| kind.split(&data, clients, min_shard, 0).unwrap_err().to_string();
    for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-9] {
        let error = refused(Partition::Dirichlet { alpha }, 2, 1);
        assert!(error.starts_with("alpha = "), "{error}");
    }
    let error = refused(Partition::Dirichlet { alpha: 0.001 }, 5, 4);
    assert!(error.contains("alpha = 0.001 over 5 clients of 20 training rows"), "{error}");
    assert!(refused(Partition::Iid {}, 0, 1).starts_with("clients = 0"));
    assert!(refused(Partition::Iid {}, 3, 7).contains("expected at most 2"));
    assert!(refused(Partition::Iid {}, usize::MAX, 2).starts_with("clients = "));
    assert!(refused(Partition::Iid {}, usize::MAX, 0).starts_with("clients = "));
    assert!(refused(Partition::Pathological { classes: 3 }, 4, 1).contains("expected a number from 1 to 2"));
    assert!(refused(Partition::Pathological { classes: 1 }, 1, 1).contains("expected at least 2"));
    assert!(refused(Partition::Pathological { classes: usize::MAX }, 4, 1).starts_with("classes = "));
    assert!(refused(Partition::Shards { per_client: 0 }, 4, 1).starts_with("per_client = 0"));
    assert!(refused(Partition::Shards { per_client: usize::MAX }, 4, 1).contains("from 1 to 5"));
}

#[test]
fn settings_are_read_strictly() {
    let read = |text: &str| serde_json::from_str::<Partition>(text);
    assert_eq!(read(r#"{"kind": "iid"}"#).unwrap(), Partition::Iid {});
    assert_eq!(read(r#"{"kind": "dirichlet", "alpha": 0.1}"#).unwrap(), Partition::Dirichlet { alpha: 0.1 });
    let file = Partition::File { path: "split.json".into() };
    assert_eq!(serde_json::to_string(&file).unwrap(), r#"{"kind":"file","path":"split.json"}"#);
    for wrong in
        [r#"{"kind": "iid", "alpha": 1}"#, r#"{"kind": "dirichlet"}"#, r#"{"kind": "dirichlet", "alpha": 1, "x": 2}"#]
    {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}
