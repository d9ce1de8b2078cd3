//! The label distribution in a terminal: the full matrix when it fits, else a line of figures a client. Of a set without
//! labels the sizes alone.

use bonfire_data::Dataset;
use bonfire_experiment::format::one_line;

/// The table for `counts[client][label]` in at most `width` columns where possible; `names`: whose rows clients hold, where rows say.
pub fn render(names: &[String], labels: &[String], counts: &[Vec<usize>], tests: &[usize], width: usize) -> String {
    let labels = &labels.iter().map(|label| one_line(label)).collect::<Vec<_>>();
    let named = |rows: Vec<Vec<String>>| aligned(&with_names(names, rows));
    if labels.is_empty() {
        return format!("{}\n{}", named(size_rows(counts, tests)), total(labels, counts));
    }
    let heads: Vec<String> = (0..labels.len()).map(|label| label.to_string()).collect();
    let matrix = named(matrix_rows(&heads, counts, tests));
    let body = if matrix.lines().next().is_some_and(|line| line.chars().count() <= width) {
        format!("{matrix}\n\n{}", legend(labels, width))
    } else {
        named(figure_rows(labels, counts, tests))
    };
    format!("{body}\n{}", total(labels, counts))
}

/// The rows with the clients' names after their numbers, of which the beginning is shown.
fn with_names(names: &[String], mut rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    const MOST: usize = 24;
    let short = |name: &String| {
        let line = one_line(name);
        match line.char_indices().nth(MOST) {
            Some((at, _)) => format!(" {}…", &line[..at]),
            None => format!(" {line}"),
        }
    };
    if !names.is_empty() {
        let cells = std::iter::once(" ".to_string()).chain(names.iter().map(short));
        rows.iter_mut().zip(cells).for_each(|(row, cell)| row.insert(1, cell));
    }
    rows
}

/// The splits of the set with their sizes in one line.
pub fn splits(data: &Dataset) -> String {
    let splits = [("train", &data.train), ("validation", &data.validation), ("test", &data.test)];
    let there: Vec<String> = splits
        .iter()
        .filter(|(name, rows)| *name != "validation" || !rows.is_empty())
        .map(|(name, rows)| format!("{} {name}", rows.len()))
        .collect();
    format!("splits of {}: {}", one_line(&data.name), there.join(", "))
}

fn matrix_rows(heads: &[String], counts: &[Vec<usize>], tests: &[usize]) -> Vec<Vec<String>> {
    let mut rows = vec![[&["client", "train", "test", "label"].map(String::from)[..], heads].concat()];
    for (client, (row, test)) in counts.iter().zip(tests).enumerate() {
        let size: usize = row.iter().sum();
        let cell = |count: &usize| if *count == 0 { "·".to_string() } else { count.to_string() };
        let mut line = vec![client.to_string(), size.to_string(), test.to_string(), String::new()];
        line.extend(row.iter().map(cell));
        rows.push(line);
    }
    rows
}

fn size_rows(counts: &[Vec<usize>], tests: &[usize]) -> Vec<Vec<String>> {
    let mut rows = vec![["client", "train", "test"].map(String::from).to_vec()];
    for (client, (row, test)) in counts.iter().zip(tests).enumerate() {
        rows.push([client, row.iter().sum(), *test].map(|number| number.to_string()).to_vec());
    }
    rows
}

fn figure_rows(labels: &[String], counts: &[Vec<usize>], tests: &[usize]) -> Vec<Vec<String>> {
    let mut rows = vec![["client", "train", "test", "labels", "largest", " label"].map(String::from).to_vec()];
    for (client, (row, test)) in counts.iter().zip(tests).enumerate() {
        let size: usize = row.iter().sum();
        let held = row.iter().filter(|&&count| count > 0).count();
        // The first of equals.
        let largest = (0..row.len()).rev().max_by_key(|&label| row[label]).filter(|_| size > 0);
        let share = largest.map_or("-".to_string(), |label| format!("{:.0}%", 100.0 * row[label] as f64 / size as f64));
        let name = largest.map_or(String::new(), |label| format!(" {}", labels[label]));
        rows.push(vec![client.to_string(), size.to_string(), test.to_string(), held.to_string(), share, name]);
    }
    rows
}

/// Columns padded to their widest cell, numbers to the right; cells that start with a space to the left.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| {
            if cell.starts_with(' ') { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join(" ").trim_end().to_string()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// `0 card_arrival  1 card_linking …`, wrapped.
fn legend(labels: &[String], width: usize) -> String {
    let mut lines = vec![String::new()];
    for (number, name) in labels.iter().enumerate() {
        let entry = format!("{number} {name}");
        let line = lines.last_mut().expect("there is a line");
        if line.is_empty() {
            *line = entry;
        } else if line.chars().count() + 2 + entry.chars().count() <= width {
            line.push_str("  ");
            line.push_str(&entry);
        } else {
            lines.push(entry);
        }
    }
    lines.join("\n")
}

/// The spread over clients in one line.
fn total(labels: &[String], counts: &[Vec<usize>]) -> String {
    let sizes: Vec<usize> = counts.iter().map(|row| row.iter().sum()).collect();
    let held: Vec<usize> = counts.iter().map(|row| row.iter().filter(|&&count| count > 0).count()).collect();
    let span = |values: &[usize]| {
        let (low, high) = (values.iter().min().copied().unwrap_or(0), values.iter().max().copied().unwrap_or(0));
        if low == high { low.to_string() } else { format!("{low} to {high}") }
    };
    let with = match labels.len() {
        0 => String::new(),
        all => format!(", with {} of {all} labels", span(&held)),
    };
    let all = sizes.iter().sum::<usize>();
    format!("{} clients, {all} training texts: {} a client{with}", counts.len(), span(&sizes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|label| format!("label_{label}")).collect()
    }

    #[test]
    fn few_labels_give_the_matrix() {
        let text = render(&[], &names(3), &[vec![10, 0, 2], vec![0, 5, 1]], &[4, 2], 80);
        assert_eq!(
            text,
            "client train test label  0 1 2\n     0    12    4       10 · 2\n     1     6    2        · 5 1\n\n\
             0 label_0  1 label_1  2 label_2\n2 clients, 18 training texts: 6 to 12 a client, with 2 of 3 labels"
        );
    }

    #[test]
    fn clients_are_named_where_rows_say() {
        let whose = ["Berlin".to_owned(), "a branch of a very long name".to_owned()];
        let text = render(&whose, &[], &[vec![10], vec![5]], &[4, 2], 80);
        assert_eq!(
            text.lines().take(3).collect::<Vec<_>>(),
            [
                "client                            train test",
                "     0  Berlin                       10    4",
                "     1  a branch of a very long …     5    2"
            ]
        );
    }

    #[test]
    fn no_labels_give_sizes() {
        let text = render(&[], &[], &[vec![10], vec![5]], &[4, 2], 80);
        assert_eq!(
            text,
            "client train test\n     0    10    4\n     1     5    2\n2 clients, 15 training texts: 5 to 10 a client"
        );
    }

    #[test]
    fn many_labels_give_figures() {
        let mut row = vec![1; 60];
        row[7] = 41;
        let text = render(&[], &names(60), &[row, vec![0; 60]], &[9, 0], 80);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "client train test labels largest  label");
        assert_eq!(lines[1], "     0   100    9     60     41%  label_7");
        assert_eq!(lines[2], "     1     0    0      0       -");
    }
}
