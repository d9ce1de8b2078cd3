//! What partitions go by where a row has no one label: the kind of a sentence, or of a text with several labels.

use super::{Dataset, Example};
use crate::Tags;

/// What rows are that have nothing by which to tell them apart.
const NO_SPAN: &str = "no span";
const NO_LABEL: &str = "no label";

/// A sentence is of the type that most of its spans have, of equals the first by name.
pub(super) fn by_spans(data: &mut Dataset) {
    let tags = Tags::of(&data.labels);
    let kind = |example: &Example| {
        let mut counts = vec![0usize; tags.types().len()];
        tags.spans(&example.labels).iter().for_each(|span| counts[span.kind] += 1);
        let most = counts.iter().copied().max().filter(|most| *most > 0)?;
        counts.iter().position(|count| *count == most)
    };
    sort(data, kind, NO_SPAN, tags.types());
}

/// A text with several labels is of the one that fewest training rows have, of equals the first: each label is then spread as a draw of
/// its own, however often it stands beside a common one.
pub(super) fn by_rarest(data: &mut Dataset) {
    let mut counts = vec![0usize; data.labels.len()];
    data.train.iter().flat_map(|example| &example.labels).for_each(|&label| counts[label] += 1);
    let kind = |example: &Example| example.labels.iter().copied().min_by_key(|&label| (counts[label], label));
    let names = data.labels.clone();
    sort(data, kind, NO_LABEL, &names);
}

fn sort(data: &mut Dataset, kind: impl Fn(&Example) -> Option<usize>, none: &str, names: &[String]) {
    for rows in [&mut data.train, &mut data.validation, &mut data.test] {
        rows.iter_mut().for_each(|example| example.label = kind(example).map_or(0, |kind| kind + 1));
    }
    data.strata = std::iter::once(none.to_owned()).chain(names.iter().cloned()).collect();
}
