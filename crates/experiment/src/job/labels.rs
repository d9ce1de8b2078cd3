//! The order of a data set's labels on a model that has a head already: the rows of the head mean what its `config.json`
//! calls them.

use std::collections::BTreeMap;

use bonfire_data::Dataset;
use bonfire_models::{ModelSource, Task};
use serde_json::Value;

use crate::config::{CheckedConfig, TaskKind};
use crate::log::note_once;

/// The data with its labels in the order that the `config.json` of the model in `source` numbers them, where that names exactly
/// these, upper and lower case aside; else as they are. A head for as many classes by other names is noted.
pub fn ordered(loaded: &CheckedConfig, data: Dataset, source: &ModelSource) -> Dataset {
    let config = &loaded.config;
    // Other models than folders' have no head, and no names of classes.
    if !matches!(source, ModelSource::Folder(_)) {
        return data;
    }
    let task = super::task(config, data.labels.len());
    if task.outputs().is_none() || task == Task::Regress || data.labels.is_empty() {
        return data;
    }
    let Ok((json, file)) = source.file("config.json") else { return data };
    let Some(names) = names(&json) else { return data };
    let numbers: Option<Vec<usize>> =
        data.labels.iter().map(|label| label.parse().ok().filter(|at| *at < names.len())).collect();
    if let (TaskKind::TokenClassification, Some(places)) = (config.model.task, numbers) {
        note_once(format!("{file}: the data's tags are numbers, which are {} there", list(&names)));
        return data.renamed(names, &places);
    }
    if config.model.new_head {
        return data;
    }
    match order(&names, &data.labels) {
        Some(order) => renumbered(data, &order),
        None => {
            let has_head = source.info().is_ok_and(|info| source.has_head(&info, task));
            if has_head && names.len() == data.labels.len() {
                note_once(format!(
                    "{file}: the model's head calls its classes {}, the data {}: row by row they are taken for each other; \
                     model.new_head = true draws a new head",
                    list(&names),
                    list(&data.labels)
                ));
            }
            data
        }
    }
}

fn list(names: &[String]) -> String {
    const LISTED: usize = 4;
    let shown: Vec<&str> = names.iter().take(LISTED).map(String::as_str).collect();
    format!("{}{}", shown.join(", "), if names.len() > LISTED { ", …" } else { "" })
}

/// The classes' names by number, where `id2label` has one for each of them and they are not the placeholders that
/// Transformers writes.
fn names(json: &[u8]) -> Option<Vec<String>> {
    let config: Value = serde_json::from_slice(json).ok()?;
    let map = config["id2label"].as_object()?;
    let numbered: BTreeMap<usize, String> =
        map.iter().map(|(id, name)| Some((id.parse().ok()?, name.as_str()?.to_string()))).collect::<Option<_>>()?;
    let dense = numbered.keys().copied().eq(0..numbered.len());
    let named = numbered.iter().any(|(id, name)| *name != format!("LABEL_{id}"));
    (dense && named).then(|| numbered.into_values().collect())
}

/// For each of the model's classes the data's label of that name.
fn order(names: &[String], labels: &[String]) -> Option<Vec<usize>> {
    let find = |name: &String| {
        let same = labels.iter().position(|label| label == name);
        // By another case only where that leaves no doubt.
        let small = name.to_lowercase();
        let mut alike = (0..labels.len()).filter(|&i| labels[i].to_lowercase() == small);
        same.or_else(|| alike.next().filter(|_| alike.next().is_none()))
    };
    let order: Vec<usize> = names.iter().map(find).collect::<Option<_>>()?;
    let mut each = order.clone();
    each.sort_unstable();
    each.into_iter().eq(0..labels.len()).then_some(order)
}

/// The same data with label `order[i]` called number `i`.
fn renumbered(data: Dataset, order: &[usize]) -> Dataset {
    let mut places = vec![0; order.len()];
    order.iter().enumerate().for_each(|(new, &old)| places[old] = new);
    let names = order.iter().map(|&old| data.labels[old].clone()).collect();
    data.renamed(names, &places)
}

#[cfg(test)]
mod tests {
    use bonfire_data::Example;

    use super::*;

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_string()).collect()
    }

    #[test]
    fn labels_go_by_the_heads_rows() {
        let found = order(&owned(&["travel", "Billing", "food"]), &owned(&["billing", "food", "travel"]));
        assert_eq!(found, Some(vec![2, 0, 1]));
        let data = Dataset {
            name: "x".into(),
            labels: owned(&["billing", "food", "travel"]),
            strata: Vec::new(),
            train: vec![Example::labelled("a bill", 0, None), Example::labelled("a trip", 2, None)],
            validation: vec![Example::labelled("a dinner", 1, None)],
            test: vec![Example::labelled("a meal", 1, None)],
            ..Dataset::default()
        };
        let data = renumbered(data, &[2, 0, 1]);
        assert_eq!(data.labels, ["travel", "billing", "food"]);
        let rows = data.train.iter().chain(&data.validation).chain(&data.test);
        assert_eq!(rows.map(|row| row.label).collect::<Vec<_>>(), [1, 0, 2, 2]);
    }

    #[test]
    fn other_names_leave_labels_as_they_are() {
        let names_of = |names: &[&str], labels: &[&str]| order(&owned(names), &owned(labels));
        assert_eq!(names_of(&["a", "b"], &["a", "c"]), None);
        assert_eq!(names_of(&["a", "b"], &["a", "b", "c"]), None);
        assert_eq!(names_of(&["a", "A"], &["A", "a"]), Some(vec![1, 0]));
        assert_eq!(names_of(&["a", "b"], &["A", "Ab"]), None);
        assert_eq!(names(br#"{"id2label":{"0":"LABEL_0","1":"LABEL_1"}}"#), None);
        assert_eq!(names(br#"{"id2label":{"0":"no","2":"yes"}}"#), None);
        assert_eq!(names(br#"{"id2label":{"1":"no","0":"yes"}}"#), Some(owned(&["yes", "no"])));
    }
}
