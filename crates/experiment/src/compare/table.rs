//! The table of a comparison, laid out as table 1 of the LoRA-A² paper: by rank, then strategy; a column a partition,
//! then what a run sends and how long it trains.

use std::collections::BTreeMap;

use super::attacked;
use super::cells::{digits, markdown, ranks};
use super::gain;
use super::grid::{Grid, Rank};
use super::personalised;
use super::results::{Group, Measured, Spread};
use super::variant::our_forms;
use crate::format::seconds;
use crate::format::table::three;

/// The whole of `table.md`.
pub fn page(grid: &Grid, groups: &[Group<'_>], command: &str, failures: &[String]) -> String {
    let config = &grid.base.config;
    let seeds: Vec<String> = grid.seeds.iter().map(u64::to_string).collect();
    let mut text = format!("# {}: strategies compared\n\n    {command}\n\n", grid.name());
    text += &format!(
        "Seed{} {}; {} rounds; {} clients; trained on {}.\n\n",
        if seeds.len() == 1 { "" } else { "s" },
        seeds.join(", "),
        config.train.rounds,
        config.clients.count,
        devices(groups),
    );
    let foretells = groups.iter().flat_map(Group::measured).any(|run| run.final_pearson.is_some());
    let what = if speaks(groups) {
        PERPLEXITY
    } else if foretells {
        PEARSON
    } else if groups.iter().flat_map(Group::measured).any(|run| run.final_f1.is_some()) {
        F1
    } else {
        ACCURACY
    };
    text += &format!("{}\n\n{what}, {NOTE}\n", table(grid, groups));
    text += &gain::table(grid, groups).map(|table| format!("\n{table}\n")).unwrap_or_default();
    text += &attacked::tables(grid, groups).map(|table| format!("\n{table}\n")).collect::<String>();
    text += &personalised::table(grid, groups).map(|table| format!("\n{table}\n")).unwrap_or_default();
    text += &our_forms(&grid.variants).map(|line| format!("\n{line}\n")).unwrap_or_default();
    if !failures.is_empty() {
        text += &format!("\nFailed:\n\n{}\n", failures.iter().map(|f| format!("* {f}")).collect::<Vec<_>>().join("\n"));
    }
    text
}

const ACCURACY: &str = "Accuracy: of the global model on the test split after the last round, in %";

const PERPLEXITY: &str = "Perplexity: of the global model on the test split after the last round";

const PEARSON: &str = "Pearson's correlation with the right numbers of the test split after the last round, ×100; compare.json has Spearman's too";

const F1: &str = "F1 of the spans, over all types together, of the test split after the last round, in %";

const NOTE: &str = "mean ± sample standard deviation over seeds; the best of each rank and column in bold. Upload, download (all clients, all rounds, as \
serialised) and time of local training (on the clock, which the cells of a sweep share): of one run, mean over seeds and columns. Rank: what a client may send of each \
target, `clients.budget` for lora-a2, fslora and fed-plora and `adapter.rank` elsewhere.";

/// Whether the runs are of a language model.
pub fn speaks(groups: &[Group<'_>]) -> bool {
    groups.iter().flat_map(Group::measured).any(|run| run.final_perplexity.is_some())
}

/// What a cell of the table shows: perplexity, or accuracy in %.
fn shown(run: &Measured) -> Option<f64> {
    run.final_perplexity.or(run.final_f1.or(run.final_accuracy).or(run.final_pearson).map(|score| score * 100.0))
}

fn devices(groups: &[Group<'_>]) -> String {
    let mut names: Vec<&str> = groups.iter().flat_map(Group::measured).map(|run| run.device.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() { "nothing yet".into() } else { names.join(" and ") }
}

/// The table alone, in Markdown, columns aligned.
pub fn table(grid: &Grid, groups: &[Group<'_>]) -> String {
    let mut head = vec!["rank".to_string(), "strategy".to_string()];
    head.extend(grid.columns.iter().map(|column| column.title()));
    head.extend(["upload MB", "download MB", "training"].map(String::from));
    head.extend(has_clock(groups).then(|| "on devices".to_string()));
    let mut rows = vec![head];
    rows.extend(untrained(groups, grid.columns.len()));
    for rank in ranks(groups) {
        let best: Vec<Option<f64>> = (0..grid.columns.len()).map(|column| best(groups, rank, column)).collect();
        for (variant, given) in grid.variants.iter().enumerate() {
            let here: Vec<&Group<'_>> = groups.iter().filter(|g| g.rank == rank && g.variant == variant).collect();
            if here.is_empty() {
                continue;
            }
            let mut row = vec![rank.to_string(), given.label()];
            row.extend(best.iter().enumerate().map(|(column, best)| {
                here.iter().find(|g| g.column == column).map_or("–".into(), |group| accuracy(group, *best))
            }));
            row.extend(costs(&here, has_clock(groups)));
            rows.push(row);
            rows.extend(personal(rank, &given.label(), &here, grid.columns.len(), has_clock(groups)));
        }
    }
    markdown(&rows)
}

/// The best mean of a rank and column (the highest accuracy, the lowest perplexity), when there are several to choose from.
fn best(groups: &[Group<'_>], rank: &Rank, column: usize) -> Option<f64> {
    let here = groups.iter().filter(|g| g.rank == rank && g.column == column);
    let means: Vec<f64> = here.filter_map(|g| g.spread(shown)).map(|s| s.mean).collect();
    let better = |x: &f64, y: &f64| if speaks(groups) { y.total_cmp(x) } else { x.total_cmp(y) };
    means.iter().copied().max_by(better).filter(|_| means.len() > 1)
}

/// `92.1 ± 0.4` (accuracy in %) or `5.12 ± 0.03` (perplexity), with what is missing or failed.
fn accuracy(group: &Group<'_>, best: Option<f64>) -> String {
    let (done, all, failed) = (group.measured().count(), group.outcomes.len(), group.failed());
    let digit = |runs: &Group<'_>| if speaks(std::slice::from_ref(runs)) { 2 } else { 1 };
    if let Some((after, measured)) = group.dropped() {
        let spoken = measured.iter().any(|run| run.final_perplexity.is_some());
        let then = Spread::of(measured.into_iter().filter_map(shown));
        let then = then.map(|spread| format!(" at {}", digits(spread, if spoken { 2 } else { 1 })));
        return format!("dropped after {after}{}", then.unwrap_or_default());
    }
    let Some(spread) = group.spread(shown) else {
        return match failed {
            0 => "–".into(),
            _ => "failed".into(),
        };
    };
    let text = digits(spread, digit(group));
    let text = if best == Some(spread.mean) { format!("**{text}**") } else { text };
    let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    if done < all { format!("{text} ({done} of {all}{failed})") } else { text }
}

/// Upload, download and time of a run, mean over seeds and columns.
fn costs(groups: &[&Group<'_>], clock: bool) -> Vec<String> {
    let mean = |of: fn(&Measured) -> f64| Spread::of(groups.iter().flat_map(|g| g.measured()).map(of)).map(|s| s.mean);
    let shown = |value: Option<f64>, show: fn(f64) -> String| value.map_or("–".to_string(), show);
    let simulated = groups.iter().flat_map(|g| g.measured()).filter_map(|run| run.simulated_seconds);
    let mut costs = vec![
        shown(mean(|run| run.upload_bytes as f64 / 1e6), three),
        shown(mean(|run| run.download_bytes as f64 / 1e6), three),
        shown(mean(|run| run.train_seconds), seconds),
    ];
    costs.extend(clock.then(|| shown(Spread::of(simulated).map(|s| s.mean), seconds)));
    costs
}

/// How many columns [`costs`] fills.
fn cost_columns(clock: bool) -> usize {
    3 + usize::from(clock)
}

/// Whether runs tell how long they would have taken on devices of their own.
fn has_clock(groups: &[Group<'_>]) -> bool {
    groups.iter().flat_map(Group::measured).any(|run| run.simulated_seconds.is_some())
}

/// A row for the untrained model, where runs evaluated it: over all runs of a column, which differ by their seeds alone.
fn untrained(groups: &[Group<'_>], columns: usize) -> Option<Vec<String>> {
    let of = |run: &Measured| run.untrained_perplexity.or(run.untrained_accuracy.map(|accuracy| accuracy * 100.0));
    let by_seed = |column: usize| {
        let runs = groups.iter().filter(|group| group.column == column).flat_map(Group::runs);
        runs.filter_map(|(seed, run)| Some((seed, of(run)?))).collect::<BTreeMap<u64, f64>>()
    };
    let digit = if speaks(groups) { 2 } else { 1 };
    let cells: Vec<Option<String>> = (0..columns)
        .map(|column| Spread::of(by_seed(column).into_values()).map(|spread| digits(spread, digit)))
        .collect();
    cells.iter().any(Option::is_some).then(|| {
        let start = ["–".to_string(), "untrained".to_string()];
        let cells = cells.into_iter().map(|cell| cell.unwrap_or("–".into()));
        let costs = vec!["–".to_string(); cost_columns(has_clock(groups))];
        start.into_iter().chain(cells).chain(costs).collect()
    })
}

/// A second row for strategies whose clients keep models of their own.
fn personal(rank: &Rank, label: &str, groups: &[&Group<'_>], columns: usize, clock: bool) -> Option<Vec<String>> {
    let of = |column: usize| {
        let group = groups.iter().find(|g| g.column == column)?;
        group.spread(|run| run.personal_accuracy.map(|accuracy| accuracy * 100.0)).map(|spread| digits(spread, 1))
    };
    let cells: Vec<Option<String>> = (0..columns).map(of).collect();
    cells.iter().any(Option::is_some).then(|| {
        let start = [rank.to_string(), format!("{label}, clients' own models")];
        let cells = cells.into_iter().map(|cell| cell.unwrap_or("–".into()));
        let costs = vec![String::new(); cost_columns(clock)];
        start.into_iter().chain(cells).chain(costs).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::super::grid::tests::grid;
    use super::super::results::Outcome;
    use super::*;

    fn done(accuracy: f64, megabytes: u64) -> Outcome {
        Outcome::Done(Box::new(Measured {
            final_accuracy: Some(accuracy),
            upload_bytes: megabytes * 1_000_000,
            download_bytes: 2_500_000,
            train_seconds: 75.0,
            device: "cpu".into(),
            ..Measured::default()
        }))
    }

    #[test]
    fn rows_go_by_rank_and_strategy_and_the_best_is_bold() {
        let grid = grid("lora-a2,fedit", &[0, 1], &[1, 4], &[0.5]);
        let outcomes: Vec<Outcome> = grid
            .cells
            .iter()
            .map(|cell| match (cell.variant, &cell.rank, cell.seed) {
                (0, Rank::Same(4), seed) => done(0.80 + 0.02 * seed as f64, 4),
                (1, Rank::Same(4), seed) => done(0.70 + 0.02 * seed as f64, 8),
                (0, _, 0) => done(0.6, 1),
                (0, _, _) => Outcome::Missing,
                _ => Outcome::Failed("not finite".into()),
            })
            .collect();
        let groups = Group::all(&grid, &outcomes);
        let expected = "\
| rank | strategy |          α 0.5 | upload MB | download MB |     training |
| ---- | -------- | -------------: | --------: | ----------: | -----------: |
| 4    | lora-a2  | **81.0 ± 1.4** |      4.00 |        2.50 | 1 min 15 s |
| 4    | fedit    |     71.0 ± 1.4 |      8.00 |        2.50 | 1 min 15 s |
| 1    | lora-a2  |  60.0 (1 of 2) |      1.00 |        2.50 | 1 min 15 s |
| 1    | fedit    |         failed |         – |           – |            – |";
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").replace("-", "");
        assert_eq!(squeezed(&table(&grid, &groups)), squeezed(expected));
        let page = page(&grid, &groups, "bonfire compare", &["fedit r1: not finite".into()]);
        for words in ["Seeds 0, 1;", "trained on cpu", "    bonfire compare\n", "* fedit r1: not finite"] {
            assert!(page.contains(words), "no {words:?} in {page}");
        }
    }

    #[test]
    fn the_untrained_model_is_the_first_row_a_seed_counted_once() {
        let grid = grid("lora-a2,fedit", &[0, 1], &[], &[]);
        let outcomes: Vec<Outcome> = grid
            .cells
            .iter()
            .map(|cell| match done(0.5, 1) {
                Outcome::Done(run) => {
                    let untrained_accuracy = Some([0.04, 0.06][cell.seed as usize]);
                    Outcome::Done(Box::new(Measured { untrained_accuracy, ..*run }))
                }
                other => other,
            })
            .collect();
        let text = table(&grid, &Group::all(&grid, &outcomes));
        let row = text.lines().nth(2).expect("a row");
        // The sample deviation of 4 and 6.
        assert!(row.contains("untrained") && row.contains("5.0 ± 1.4"), "{text}");
    }

    #[test]
    fn clients_own_models_get_a_row() {
        let grid = grid("lora-a2", &[0], &[], &[]);
        let mut outcome = done(0.5, 1);
        if let Outcome::Done(measured) = &mut outcome {
            measured.personal_accuracy = Some(0.9);
        }
        let timed = match &outcome {
            Outcome::Done(run) => {
                Outcome::Done(Box::new(Measured { simulated_seconds: Some(60.0), ..Measured::clone(run) }))
            }
            other => other.clone(),
        };
        // With the clock of clients' devices there is a column more.
        for outcomes in [[outcome], [timed]] {
            let text = table(&grid, &Group::all(&grid, &outcomes));
            assert!(text.contains("lora-a2, clients' own models") && text.contains("90.0"), "{text}");
        }
    }
}
