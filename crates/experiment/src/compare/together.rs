//! Which cells share their passes: one backbone, the same linears with adapters, and one local objective.

use super::grid::Grid;

/// Cells that share every pass, or have in common that they cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Together {
    /// The cells, in the grid's order.
    pub cells: Vec<usize>,
    /// Why each of them has its passes to itself; `None`: they share them.
    pub alone: Option<&'static str>,
    /// How many of them train at a time.
    pub at_a_time: usize,
}

/// Why cells are in several groups though each of them could share its passes.
pub const APART: &str =
    "adapter.targets, adapter.dropout, train.label_smoothing and train.class_weights must agree within a pass";

/// `cells` by what they share: those that share passes first, then those that cannot, by the reason.
pub fn groups(grid: &Grid, cells: &[usize]) -> Vec<Together> {
    let mut found: Vec<(Option<&'static str>, String, Vec<usize>)> = Vec::new();
    for &cell in cells {
        let config = &grid.cells[cell].loaded.config;
        let alone = config.settings().steps_alone();
        let (adapter, train) = (&config.adapter, &config.train);
        let key = match alone {
            Some(_) => String::new(),
            None => {
                format!("{:?} {} {} {:?}", adapter.targets, adapter.dropout, train.label_smoothing, train.class_weights)
            }
        };
        match found.iter_mut().find(|(why, other, _)| (*why, other.as_str()) == (alone, key.as_str())) {
            Some((.., cells)) => cells.push(cell),
            None => found.push((alone, key, vec![cell])),
        }
    }
    found.sort_by_key(|(alone, ..)| alone.is_some());
    found.into_iter().map(|(alone, _, cells)| Together { cells, alone, at_a_time: 1 }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::grid::tests::grid;
    use super::*;

    #[test]
    fn cells_share_passes_where_the_backbone_and_the_objective_are_the_same() {
        let strategies =
            "lora-a2,fedit:train.lr_a=1e-3,flora,fedit:adapter.dropout=0.1,full:adapter.rank=1,florist,pooled";
        let grid = grid(strategies, &[0, 1], &[], &[]);
        let groups = groups(&grid, &(0..grid.cells.len()).collect::<Vec<_>>());
        let of: Vec<(Vec<usize>, Option<&str>)> = groups
            .iter()
            .map(|group| {
                let mut variants: Vec<usize> = group.cells.iter().map(|&cell| grid.cells[cell].variant).collect();
                variants.dedup();
                variants.sort_unstable();
                variants.dedup();
                (variants, group.alone)
            })
            .collect();
        assert_eq!(
            of,
            [
                (vec![0, 1, 6], None),
                (vec![3], None),
                (vec![2, 5], Some("what clients learn is merged into the backbone")),
                (vec![4], Some("every weight of the backbone trains")),
            ]
        );
    }
}
