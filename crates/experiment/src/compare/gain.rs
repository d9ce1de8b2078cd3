//! What a federation is worth: how far its accuracy lies above that of each client alone (`local`), and what share that is of the way
//! from there to all rows in one place (`pooled`). Of runs of one rank, partition and seed; only where the baselines were run.

use bonfire_federation::StrategySettings;
use serde::Serialize;

use super::cells::{by_variant, digits, hundredfold};
use super::grid::Grid;
use super::results::{Group, Measured, Spread};

/// How a group of runs lies between the baselines.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gain {
    /// Accuracy above `local`, 0 to 1, over the seeds that both have.
    pub over_local: Spread,
    /// Its mean as a share of the mean way from `local` to `pooled`, over the seeds that all three have; absent where `pooled` was not
    /// run, or is no better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of_the_way_to_pooled: Option<f64>,
}

/// A run's accuracy on the test split: of the global model, or where there is none of the clients' own models, each on its own
/// client's test rows. These are the split dealt out, so the two are means over the same rows.
fn accuracy(run: &Measured) -> Option<f64> {
    run.final_accuracy.or(run.personal_accuracy)
}

/// The accuracies of a group's complete runs by seed.
pub(super) fn by_seed(group: &Group<'_>) -> Vec<(u64, f64)> {
    group.runs().filter_map(|(seed, run)| Some((seed, accuracy(run)?))).collect()
}

pub(super) fn of_seed(list: &[(u64, f64)], seed: u64) -> Option<f64> {
    list.iter().find(|(own, _)| *own == seed).map(|(_, accuracy)| *accuracy)
}

/// The group of a baseline beside `group`: the first variant of that strategy.
fn beside<'g, 'r>(grid: &Grid, groups: &'g [Group<'r>], group: &Group<'_>, pools: bool) -> Option<&'g Group<'r>> {
    let is = |variant: usize| {
        let strategy = StrategySettings::with_defaults(&grid.variants[variant].strategy);
        strategy.map(|strategy| strategy.traits()).is_some_and(|traits| !traits.exchanges && traits.pools == pools)
    };
    groups.iter().find(|other| is(other.variant) && (other.rank, other.column) == (group.rank, group.column))
}

impl Gain {
    /// Of a group of `groups`; `None`: it is `local` itself, or nothing to compare it with was run.
    pub fn of(grid: &Grid, groups: &[Group<'_>], group: &Group<'_>) -> Option<Gain> {
        let local = beside(grid, groups, group, false).filter(|local| local.variant != group.variant)?;
        let (own, local) = (by_seed(group), by_seed(local));
        let gains: Vec<(u64, f64)> =
            own.iter().filter_map(|&(seed, own)| Some((seed, own - of_seed(&local, seed)?))).collect();
        let over_local = Spread::of(gains.iter().map(|(_, gain)| *gain))?;
        let pooled = beside(grid, groups, group, true).map(by_seed).unwrap_or_default();
        let both = gains.iter().filter_map(|&(seed, gain)| {
            Some((gain, of_seed(&pooled, seed)? - of_seed(&local, seed).expect("a gain over it")))
        });
        let (gain, way) = both.fold((0.0, 0.0), |(gain, way), (own, all)| (gain + own, way + all));
        Some(Gain { over_local, of_the_way_to_pooled: (way > 0.0).then(|| gain / way) })
    }
}

/// The table of gains, with what it says; `None`: no gain is known.
pub fn table(grid: &Grid, groups: &[Group<'_>]) -> Option<String> {
    by_variant(grid, groups, WHAT, |group| Gain::of(grid, groups, group).as_ref().map(cell))
}

const WHAT: &str = "Over local: points of accuracy above each client alone, and in brackets the share of the way from there to \
all rows in one place (pooled).";

fn cell(gain: &Gain) -> String {
    let points = hundredfold(gain.over_local);
    let sign = if points.mean >= 0.0 { "+" } else { "" };
    let share = gain.of_the_way_to_pooled.map(|share| format!(" ({:.0}%)", 100.0 * share)).unwrap_or_default();
    format!("{sign}{}{share}", digits(points, 1))
}

#[cfg(test)]
mod tests {
    use super::super::grid::tests::grid;
    use super::super::results::Outcome;
    use super::*;

    /// A grid of two seeds whose cells have these accuracies, variant by variant; `local` has no global model.
    fn told(strategies: &str, accuracies: &[[f64; 2]]) -> Option<String> {
        let grid = grid(strategies, &[0, 1], &[], &[]);
        let outcomes: Vec<Outcome> = grid
            .cells
            .iter()
            .map(|cell| {
                let accuracy = Some(accuracies[cell.variant][cell.seed as usize]);
                let local = grid.variants[cell.variant].strategy == "local";
                let (personal_accuracy, final_accuracy) = if local { (accuracy, None) } else { (None, accuracy) };
                Outcome::Done(Box::new(Measured { final_accuracy, personal_accuracy, ..Measured::default() }))
            })
            .collect();
        table(&grid, &Group::all(&grid, &outcomes))
    }

    #[test]
    fn gains_are_by_seed_and_shares_of_the_mean_way() {
        let text = told("fedit,local,pooled", &[[0.6, 0.8], [0.5, 0.6], [0.7, 0.9]]).expect("gains");
        // fedit: 0.1 and 0.2 above local; pooled: 0.2 and 0.3; 0.3 of 0.5.
        let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeezed.contains("fedit | +15.0 ± 7.1 (60%) |"), "{text}");
        assert!(squeezed.contains("pooled | +25.0 ± 7.1 (100%) |"), "{text}");
        assert!(!squeezed.contains("| local |"), "{text}");
    }

    #[test]
    fn what_was_not_run_is_not_compared_with() {
        assert_eq!(told("fedit,pooled", &[[0.6, 0.8], [0.7, 0.9]]), None);
        let text = told("fedit,local", &[[0.6, 0.8], [0.7, 0.9]]).expect("gains");
        assert!(text.contains("-10.0 ± 0.0 |"), "{text}");
        let text = told("fedit,local,pooled", &[[0.6, 0.8], [0.5, 0.5], [0.5, 0.4]]).expect("gains");
        assert!(text.contains("+20.0 ± 14.1 |"), "no way to go: {text}");
    }
}
