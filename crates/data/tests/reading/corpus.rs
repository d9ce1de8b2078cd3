//! The built-in corpus: what it promises, and that counting words does not solve it.

use std::collections::{HashMap, HashSet};

use bonfire_data::{Dataset, corpus};

fn words(text: &str) -> Vec<String> {
    let letters = |letter: char| if letter.is_ascii_alphanumeric() || letter == '\'' { letter } else { ' ' };
    let text: String = text.to_lowercase().chars().map(letters).collect();
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn it_has_the_promised_shape() {
    let data = corpus::dataset();
    assert_eq!((data.labels.len(), data.train.len(), data.test.len()), (30, 2400, 600));
    for (rows, each) in [(&data.train, 80), (&data.test, 20)] {
        for label in 0..data.labels.len() {
            assert_eq!(rows.iter().filter(|row| row.label == label).count(), each);
        }
    }
    for example in data.train.iter().chain(&data.test) {
        let (text, group) = (example.text(), &example.group);
        assert!(text.is_ascii() && !text.contains(['<', '>', '{', '}', '|']), "{text}");
        assert!((5..=20).contains(&text.split(' ').count()), "{text}");
        assert!(!text.contains("  ") && text.trim() == text, "{text}");
        assert!(group.is_some());
    }
    let groups: HashSet<_> = data.train.iter().map(|row| row.group.clone()).collect();
    assert_eq!(groups.len(), 20);
}

#[test]
fn it_is_the_same_every_time() {
    assert_eq!(corpus::dataset(), corpus::dataset());
    let more = corpus::pretraining_text(50);
    assert_eq!(corpus::pretraining_text(20), more[..20]);
}

#[test]
fn no_test_text_is_seen_before() {
    let data = corpus::dataset();
    let pretraining = corpus::pretraining_text(20_000);
    assert_eq!(pretraining.len(), 20_000);
    let train = data.train.iter().map(|row| row.text());
    let seen: HashSet<_> = train.chain(pretraining.iter().map(String::as_str)).map(words).collect();
    assert!(data.test.iter().all(|row| !seen.contains(&words(row.text()))));
    let different: HashSet<_> = pretraining.iter().collect();
    assert!(different.len() > 15_000, "{} of 20,000 lines differ", different.len());
}

/// Multinomial naive Bayes over words with add-a-tenth smoothing; classes are equally frequent.
fn naive_bayes(data: &Dataset) -> f64 {
    let labels = data.labels.len();
    let mut counts: HashMap<String, Vec<f64>> = HashMap::new();
    let mut totals = vec![0.0; labels];
    for row in &data.train {
        for word in words(row.text()) {
            counts.entry(word).or_insert_with(|| vec![0.0; labels])[row.label] += 1.0;
            totals[row.label] += 1.0;
        }
    }
    let vocabulary = counts.len() as f64;
    let guess = |text: &str| {
        let mut scores = vec![0.0; labels];
        for of_word in words(text).iter().filter_map(|word| counts.get(word)) {
            for (label, score) in scores.iter_mut().enumerate() {
                *score += ((of_word[label] + 0.1) / (totals[label] + 0.1 * vocabulary)).ln();
            }
        }
        (0..labels).max_by(|a, b| f64::total_cmp(&scores[*a], &scores[*b])).unwrap()
    };
    let right = data.test.iter().filter(|row| guess(row.text()) == row.label).count();
    right as f64 / data.test.len() as f64
}

#[test]
fn counting_words_is_not_enough() {
    let accuracy = naive_bayes(&corpus::dataset());
    println!("naive Bayes: {:.1}%", 100.0 * accuracy);
    assert!((0.60..0.95).contains(&accuracy), "naive Bayes reaches {:.1}%", 100.0 * accuracy);
}
