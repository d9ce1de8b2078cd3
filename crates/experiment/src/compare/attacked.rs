//! What an attack costs: the accuracy of a variant that is attacked (`fedit:attack.kind=negate`) beside that of the same variant without
//! the keys of `[attack]`, by rank, partition and seed; only where both were run.

use serde::Serialize;

use super::cells::{by_variant, digits, hundredfold};
use super::gain::{by_seed, of_seed};
use super::grid::Grid;
use super::results::{Group, Spread};
use super::variant::Variant;

/// How an attacked group stands beside the same without an attack.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Attacked {
    /// Accuracy without the attack, 0 to 1, over the seeds that both have.
    pub clean_accuracy: Spread,
    /// Accuracy under it.
    pub attacked_accuracy: Spread,
    /// The one minus the other, seed by seed.
    pub lost: Spread,
}

/// The variant without the keys of `[attack]`; `None`: it has none.
fn clean_keys(variant: &Variant) -> Option<Vec<&(String, String)>> {
    let clean: Vec<&(String, String)> = variant.keys.iter().filter(|(key, _)| !key.starts_with("attack.")).collect();
    (clean.len() < variant.keys.len()).then_some(clean)
}

impl Attacked {
    /// Of a group of `groups`; `None`: it is not attacked, or was not run without the attack.
    pub fn of(grid: &Grid, groups: &[Group<'_>], group: &Group<'_>) -> Option<Attacked> {
        let own = &grid.variants[group.variant];
        let keys = clean_keys(own)?;
        let is_clean = |other: &&Group<'_>| {
            let variant = &grid.variants[other.variant];
            variant.strategy == own.strategy
                && variant.keys.iter().collect::<Vec<_>>() == keys
                && (other.rank, other.column) == (group.rank, group.column)
        };
        let clean = by_seed(groups.iter().find(is_clean)?);
        let both: Vec<[f64; 2]> =
            by_seed(group).into_iter().filter_map(|(seed, own)| Some([of_seed(&clean, seed)?, own])).collect();
        Some(Attacked {
            clean_accuracy: Spread::of(both.iter().map(|[clean, _]| *clean))?,
            attacked_accuracy: Spread::of(both.iter().map(|[_, own]| *own))?,
            lost: Spread::of(both.iter().map(|[clean, own]| clean - own))?,
        })
    }
}

/// The tables of attacks that have something to say: what accuracy they cost, how often backdoors are answered.
pub fn tables(grid: &Grid, groups: &[Group<'_>]) -> impl Iterator<Item = String> {
    let answered = |group: &Group<'_>| group.spread(|run| run.final_attack_success).map(|s| digits(hundredfold(s), 1));
    [table(grid, groups), by_variant(grid, groups, ANSWERED, answered)].into_iter().flatten()
}

const ANSWERED: &str = "Backdoors: of the test texts of other labels, those that are taken for the target when they hold the trigger, in %.";

/// The table of what attacks cost, with what it says; `None`: nothing was run with and without one.
fn table(grid: &Grid, groups: &[Group<'_>]) -> Option<String> {
    by_variant(grid, groups, WHAT, |group| Attacked::of(grid, groups, group).as_ref().map(cell))
}

const WHAT: &str = "Under attack: accuracy in % without and with it, and in brackets the points lost, seed by seed.";

fn cell(attacked: &Attacked) -> String {
    let [clean, under, lost] = [attacked.clean_accuracy, attacked.attacked_accuracy, attacked.lost].map(hundredfold);
    format!("{:.1} → {:.1} ({})", clean.mean, under.mean, digits(lost, 1))
}

#[cfg(test)]
mod tests {
    use super::super::grid::tests::grid;
    use super::super::results::{Measured, Outcome};
    use super::*;

    #[test]
    fn an_attacked_variant_stands_beside_the_same_without_the_attack() {
        let strategies = "fedit:train.lr_a=1e-3,fedit:attack.kind=negate:train.lr_a=1e-3:attack.share=0.2,\
                          rolora:attack.kind=negate:attack.share=0.2";
        let grid = grid(strategies, &[0, 1], &[], &[]);
        let accuracies = [[0.8, 0.9], [0.5, 0.7], [0.1, 0.1]];
        let outcome = |cell: &super::super::grid::Cell| {
            let final_accuracy = Some(accuracies[cell.variant][cell.seed as usize]);
            Outcome::Done(Box::new(Measured { final_accuracy, ..Measured::default() }))
        };
        let outcomes: Vec<Outcome> = grid.cells.iter().map(outcome).collect();
        let groups = Group::all(&grid, &outcomes);
        let text = table(&grid, &groups).expect("a pair");
        let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
        // Lost: 0.3 and 0.2.
        assert!(squeezed.contains("85.0 → 60.0 (25.0 ± 7.1) |"), "{text}");
        assert!(!text.contains("rolora"), "what was not run without the attack has no row: {text}");
        assert!(Attacked::of(&grid, &groups, &groups[0]).is_none());
    }

    #[test]
    fn how_often_a_backdoor_is_answered_needs_no_run_without_it() {
        let grid = grid("fedit,rolora:attack.kind=backdoor:attack.share=0.2:attack.target=0", &[0, 1], &[], &[]);
        let outcome = |cell: &super::super::grid::Cell| {
            let final_attack_success = (cell.variant == 1).then_some([0.9, 0.7][cell.seed as usize]);
            Outcome::Done(Box::new(Measured { final_attack_success, ..Measured::default() }))
        };
        let outcomes: Vec<Outcome> = grid.cells.iter().map(outcome).collect();
        let all: Vec<String> = tables(&grid, &Group::all(&grid, &outcomes)).collect();
        let [text] = all.as_slice() else { panic!("{all:?}") };
        // Their sample deviation is 0.2/√2.
        assert!(text.starts_with("Backdoors") && text.contains("80.0 ± 14.1") && !text.contains("fedit"), "{text}");
    }
}
