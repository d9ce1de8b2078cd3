use super::super::variant::Variants;
use super::*;

/// A grid over the built-in quickstart.
pub fn grid(strategies: &str, seeds: &[u64], ranks: &[usize], alphas: &[f64]) -> Grid {
    with_sets(strategies, seeds, ranks, alphas, &[]).expect("a grid that can be")
}

pub fn with_sets(strategies: &str, seeds: &[u64], ranks: &[usize], alphas: &[f64], sets: &[&str]) -> Result<Grid> {
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    let variants = strategies.parse::<Variants>().expect("variants").0;
    Grid::new(None, &sets, None, &Asked { variants, seeds, ranks, alphas })
}

fn folders(grid: &Grid) -> Vec<&str> {
    grid.cells.iter().map(|cell| cell.folder.as_str()).collect()
}

fn refusal(grid: Result<Grid>) -> UserError {
    grid.err().expect("refused").downcast().expect("a mistake")
}

#[test]
fn every_variant_at_every_rank_partition_and_seed() {
    let grid = grid("lora-a2,fedit:train.lr_b=1e-2", &[0, 1], &[1, 2], &[0.5, 0.01]);
    assert_eq!(grid.cells.len(), 16);
    assert_eq!(folders(&grid)[..3], ["lora-a2-r1-a0.5-s0", "fedit-train.lr_b-1e-2-r1-a0.5-s0", "lora-a2-r2-a0.5-s0"]);
    let last = &grid.cells[15].loaded.config;
    assert_eq!((last.train.seed, last.train.lr_b), (1, Some(bonfire_federation::Rate::Value(1e-2))));
    assert_eq!(last.data.partition, Partition::Dirichlet { alpha: 0.01 });
    assert!(grid.describe(3).ends_with("2 variants × 2 ranks × 2 partitions × 2 seeds = 16 cells, 3 to run"));
}

#[test]
fn a_rank_is_a_budget_for_lora_a2_and_the_rank_itself_elsewhere() {
    let budget_and_rank = |grid: &Grid| -> Vec<(Budget, usize)> {
        let of = |cell: &Cell| (cell.loaded.config.clients.budget.clone(), cell.loaded.config.adapter.rank);
        grid.cells.iter().map(of).collect()
    };
    // The quickstart has rank 8 and budget 2.
    let asked = grid("lora-a2,fedit,fslora", &[], &[4], &[]);
    assert_eq!(budget_and_rank(&asked), [(Budget::Same(4), 8), (Budget::Full, 4), (Budget::Same(4), 8)]);
    let own = grid("lora-a2,fedit", &[], &[], &[]);
    assert_eq!(budget_and_rank(&own), [(Budget::Same(2), 8), (Budget::Full, 2)]);
    assert_eq!(own.cells[0].rank, own.cells[1].rank);
    let full = with_sets("lora-a2,fedit", &[], &[], &[], &["clients.budget=full"]).expect("a grid");
    assert_eq!(budget_and_rank(&full), [(Budget::Full, 8), (Budget::Full, 8)]);
    let fedit = with_sets("lora-a2,fedit", &[], &[], &[], &["strategy.name=fedit", "adapter.rank=4"]).expect("a grid");
    assert_eq!(budget_and_rank(&fedit), [(Budget::Full, 4), (Budget::Full, 4)]);
    let named = with_sets("lora-a2", &[], &[], &[], &["clients.budget=normal", "adapter.rank=16"]).expect("a grid");
    assert_eq!(named.cells[0].rank, Rank::Named("normal".into()));
}

#[test]
fn a_budget_above_the_rank_names_variant_and_option() {
    let mistake = refusal(with_sets("fedit,lora-a2", &[], &[16], &[], &[]));
    assert!(mistake.what.starts_with("in the variant `lora-a2`: `clients.budget`"), "{}", mistake.what);
    assert_eq!(mistake.place.as_deref(), Some("--ranks 16 (as clients.budget=16)"));
}

#[test]
fn a_strategy_or_key_that_is_not_known_names_its_variant() {
    let mistake = refusal(with_sets("lora-a2,fedlt", &[], &[], &[], &[]));
    assert!(mistake.what.contains("`fedlt`") && mistake.help.is_some_and(|help| help.contains("fedit")));
    let mistake = refusal(with_sets("fedit:norm=choosers", &[], &[], &[], &[]));
    assert!(mistake.what.contains("in the variant `fedit:norm=choosers`: unknown key `norm`"), "{}", mistake.what);
    assert_eq!(mistake.place.as_deref(), Some("--strategies fedit:norm=choosers (as strategy.norm=choosers)"));
}

#[test]
fn what_contradicts_itself_is_refused() {
    let what =
        |strategies: &str, seeds: &[u64], ranks: &[usize]| refusal(with_sets(strategies, seeds, ranks, &[], &[])).what;
    assert!(what("fedit,fedit", &[], &[]).contains("--strategies holds fedit twice"));
    assert!(what("fedit", &[3, 3], &[]).contains("--seeds holds 3 twice"));
    assert!(what("fedit:adapter.rank=2", &[], &[1]).contains("which --ranks sets too"));
    assert!(what("fedit:data.labels=3", &[], &[]).contains("cannot set data.labels"));
    assert!(what("fedit:train.eps=1e-8,fedit:train.eps= 1e-8", &[], &[]).contains("would both be written to"));
}

#[test]
fn a_set_that_only_the_configurations_own_strategy_refuses_is_the_cells_matter() {
    let with = |strategies: &str, set: &str| with_sets(strategies, &[], &[], &[], &[set]);
    let asked = with("fedit", "adapter.dropout=0.1").expect("a grid");
    assert_eq!(asked.cells[0].loaded.config.adapter.dropout, 0.1);
    assert_eq!(asked.cells[0].rank, Rank::Same(2), "as without it");
    let own = refusal(with("fedit,lora-a2", "adapter.dropout=0.1"));
    assert!(own.what.contains("lora-a2"), "{}", own.what);
    // A slip is nobody's strategy's.
    let slip = refusal(with("fedit", "train.rouns=2"));
    assert!(slip.what.starts_with("unknown key `rouns`"), "{}", slip.what);
}
