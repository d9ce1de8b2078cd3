//! What it gains that clients fine-tune the last round's model on their own rows (`evaluate.personalise`).

use super::cells::{by_variant, digits, hundredfold};
use super::grid::Grid;
use super::results::{Group, Measured};

const WHAT: &str = "Fine-tuned by each client on its own rows: the clients' mean accuracy in % before and after, in brackets the points gained; then the same of the worst tenth.";

/// The table; `None`: no run fine-tuned.
pub fn table(grid: &Grid, groups: &[Group<'_>]) -> Option<String> {
    by_variant(grid, groups, WHAT, cell)
}

/// `71.0 → 80.0 (9.0 ± 1.2); 40.0 → 52.0 (12.0 ± 3.1)`.
fn cell(group: &Group<'_>) -> Option<String> {
    let mean = |run: &Measured| run.personalised.map(|found| [found.before.mean, found.after.mean]);
    let worst = |run: &Measured| run.personalised.map(|found| [found.before.worst_decile, found.after.worst_decile]);
    Some(format!("{}; {}", gained(group, mean)?, gained(group, worst)?))
}

fn gained(group: &Group<'_>, of: fn(&Measured) -> Option<[f64; 2]>) -> Option<String> {
    let before = hundredfold(group.spread(|run| of(run).map(|[before, _]| before))?);
    let after = hundredfold(group.spread(|run| of(run).map(|[_, after]| after))?);
    let gain = hundredfold(group.spread(|run| of(run).map(|[before, after]| after - before))?);
    Some(format!("{:.1} → {:.1} ({})", before.mean, after.mean, digits(gain, 1)))
}

#[cfg(test)]
mod tests {
    use super::super::grid::tests::grid;
    use super::super::results::Outcome;
    use super::*;
    use bonfire_federation::Personalised;

    #[test]
    fn what_fine_tuning_gains_is_told_seed_by_seed() {
        let grid = grid("fedit,rolora", &[0, 1], &[], &[]);
        let outcome = |cell: &super::super::grid::Cell| {
            let after = [0.7, 0.9][cell.seed as usize];
            let found = Personalised::of(&[[0.4, after], [0.6, after]]);
            let personalised = if cell.variant == 1 { found } else { None };
            Outcome::Done(Box::new(Measured { personalised, ..Measured::default() }))
        };
        let outcomes: Vec<Outcome> = grid.cells.iter().map(outcome).collect();
        let text = table(&grid, &Group::all(&grid, &outcomes)).expect("a run that fine-tuned");
        // Gains of 20 and 40 points on the mean, of 30 and 50 on the worst; deviations of both 20/√2.
        assert!(text.contains("50.0 → 80.0 (30.0 ± 14.1); 40.0 → 80.0 (40.0 ± 14.1)"), "{text}");
        assert!(!text.contains("fedit"), "what did not fine-tune has no row: {text}");
    }
}
