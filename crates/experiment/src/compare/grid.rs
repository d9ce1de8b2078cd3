//! From the options to cells: every variant at every rank, partition and seed, each a checked configuration.

use std::path::Path;

use anyhow::Result;
use bonfire_data::Partition;
use bonfire_federation::{Budget, BudgetUse, StrategySettings};
use serde::{Serialize, Serializer};

use super::variant::Variant;
use crate::config::{self, CheckedConfig, RunConfig};
use crate::device::Devices;
use crate::format::count_of;
use crate::user_error::UserError;

/// What the user wants compared; an empty list stands for the configuration's own value.
pub struct Asked<'a> {
    /// Strategies with their keys.
    pub variants: Vec<Variant>,
    /// Seeds.
    pub seeds: &'a [u64],
    /// Ranks.
    pub ranks: &'a [usize],
    /// Concentrations of Dirichlet partitions.
    pub alphas: &'a [f64],
}

/// The cells and what they have in common.
pub struct Grid {
    /// The configuration without any cell's settings.
    pub base: CheckedConfig,
    /// What is compared, in the order given.
    pub variants: Vec<Variant>,
    /// The partitions, in the order given.
    pub columns: Vec<Column>,
    /// Seeds, in the order given.
    pub seeds: Vec<u64>,
    /// All cells in the order in which they run: a seed at a time, so that every variant has a number early.
    pub cells: Vec<Cell>,
    /// What a user should know about how the configuration was read. That a cell leaves out the keys of another strategy
    /// goes without saying.
    pub notices: Vec<String>,
}

/// A partition.
#[derive(Clone, Debug)]
pub struct Column {
    /// Concentration of a Dirichlet partition.
    pub alpha: Option<f64>,
    /// The partition in words.
    pub words: String,
}

/// One run.
pub struct Cell {
    /// Place in [`Grid::variants`].
    pub variant: usize,
    /// Place in [`Grid::columns`].
    pub column: usize,
    /// Slots of a target that a client may upload.
    pub rank: Rank,
    /// Seed of partition and training.
    pub seed: u64,
    /// Name of its run folder.
    pub folder: String,
    /// Its configuration.
    pub loaded: CheckedConfig,
    sets: Vec<Set>,
}

/// What a client uploads of a target: the row of the table that a cell stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rank {
    /// The same for all clients.
    Same(usize),
    /// A distribution over the clients.
    Named(String),
}

/// A `--set` that a cell makes, and the option that asked for it.
#[derive(Clone, Debug)]
struct Set {
    text: String,
    origin: String,
}

impl Grid {
    /// Builds and checks all cells over the configuration in `file`, or over the built-in quickstart, with these `--set` texts and,
    /// in place of the configuration's own, these devices.
    ///
    /// # Errors
    /// The first configuration that cannot be, naming its variant.
    pub fn new(file: Option<&Path>, sets: &[String], devices: Option<&Devices>, asked: &Asked<'_>) -> Result<Grid> {
        asked.check()?;
        let (mut base, mut refused) = load_base(file, sets)?;
        base.config.engine.device = devices.cloned().unwrap_or(base.config.engine.device);
        let seeds = if asked.seeds.is_empty() { vec![base.config.train.seed] } else { asked.seeds.to_vec() };
        let variants = asked.variants.clone();
        let mut grid = Grid {
            columns: columns(&base.config, asked),
            notices: base.notices.clone(),
            base,
            variants,
            seeds,
            cells: Vec::new(),
        };
        let ranks: Vec<Option<usize>> = match asked.ranks {
            [] => vec![None],
            list => list.iter().copied().map(Some).collect(),
        };
        grid.notices.extend(ranks_from_budget(asked, &grid.base.config));
        let own = |variant: usize| asked.variants[variant].strategy == grid.base.config.strategy.name();
        let sets_of = |variant: usize| {
            if own(variant) || refused.is_some() { sets.to_vec() } else { grid.known_to(file, sets, variant) }
        };
        let sets: Vec<Vec<String>> = (0..asked.variants.len()).map(sets_of).collect();
        for seed in grid.seeds.clone() {
            for column in 0..grid.columns.len() {
                for (&rank, variant) in ranks.iter().flat_map(|r| (0..asked.variants.len()).map(move |v| (r, v))) {
                    let cell = grid.cell(file, &sets[variant], variant, column, rank, seed);
                    let cell = cell.map_err(|error| match refused.take() {
                        // Not that strategy's alone.
                        Some(mistake) if error.to_string().ends_with(&mistake.what) => mistake.into(),
                        _ => error,
                    })?;
                    grid.add(cell)?;
                }
            }
        }
        Ok(grid)
    }

    /// The comparison's name.
    pub fn name(&self) -> &str {
        self.base.config.name()
    }

    /// `sets` without those keys of `[strategy]` that the configuration's own strategy knows and the variant's does not: they are
    /// left out as the file's are.
    fn known_to(&self, file: Option<&Path>, sets: &[String], variant: usize) -> Vec<String> {
        let mut left = sets.to_vec();
        let name = format!("strategy.name={}", self.variants[variant].strategy);
        loop {
            let all: Vec<String> = left.iter().chain([&name]).cloned().collect();
            let unknown = config::load(file, &all).err().filter(|mistake| mistake.what.contains("unknown key"));
            let place = unknown.and_then(|mistake| mistake.place);
            let at = left.iter().position(|set| {
                set.trim_start().starts_with("strategy") && place.as_ref() == Some(&format!("--set {set}"))
            });
            let Some(at) = at else { return left };
            left.remove(at);
        }
    }

    fn cell(
        &self,
        file: Option<&Path>,
        sets: &[String],
        variant: usize,
        column: usize,
        rank: Option<usize>,
        seed: u64,
    ) -> Result<Cell> {
        let own = cell_sets(&self.variants[variant], &self.base.config, rank, &self.columns[column], seed)?;
        let all: Vec<String> = sets.iter().cloned().chain(own.iter().map(|set| set.text.clone())).collect();
        let named = |mistake| said_of(mistake, &self.variants[variant], &own);
        let mut loaded = config::load(file, &all).map_err(named)?;
        loaded.config.engine.device = self.base.config.engine.device.clone();
        let rank = Rank::of(&loaded.config.clients.budget, loaded.config.adapter.rank);
        let folder = format!("{}-r{rank}-{}-s{seed}", self.variants[variant].slug(), self.columns[column].slug());
        Ok(Cell { variant, column, rank, seed, folder, loaded, sets: own })
    }

    fn add(&mut self, cell: Cell) -> Result<()> {
        if let Some(twin) = self.cells.iter().find(|other| other.folder == cell.folder) {
            let [a, b] = [twin, &cell].map(|c| &self.variants[c.variant].text);
            let what = format!("`{a}` and `{b}` would both be written to {}", cell.folder);
            return Err(UserError::new(what).help("leave one of them out, or give it another value").into());
        }
        self.cells.push(cell);
        Ok(())
    }

    /// `error`, said of a cell: its variant is named, and the option that set the value at fault.
    pub fn explain(&self, cell: usize, error: anyhow::Error) -> anyhow::Error {
        let cell = &self.cells[cell];
        match error.downcast::<UserError>() {
            Ok(mistake) => said_of(mistake, &self.variants[cell.variant], &cell.sets).into(),
            Err(other) => other.context(format!("in the cell {}", cell.folder)),
        }
    }

    /// How large the grid is, of which `waiting` cells have to be run.
    pub fn describe(&self, waiting: usize) -> String {
        let (variants, columns, seeds, cells) =
            (self.variants.len(), self.columns.len(), self.seeds.len(), self.cells.len());
        let ranks = cells / (variants * columns * seeds);
        let parts = [(variants, "variant"), (ranks, "rank"), (columns, "partition"), (seeds, "seed")];
        let parts: Vec<String> = parts.map(|(n, one)| count_of(n, one)).into();
        format!("{}: {} = {}, {waiting} to run", self.name(), parts.join(" × "), count_of(cells, "cell"))
    }
}

/// The configuration without any cell's settings. A `--set` that it refuses may be refused by its own strategy alone, which is
/// perhaps not among those compared: it is left to the cells, and the refusal kept in case they refuse it as well.
fn load_base(file: Option<&Path>, sets: &[String]) -> Result<(CheckedConfig, Option<UserError>), UserError> {
    let mistake = match config::load(file, sets) {
        Ok(base) => return Ok((base, None)),
        Err(mistake) => mistake,
    };
    let others: Vec<String> =
        sets.iter().filter(|set| mistake.place.as_ref() != Some(&format!("--set {set}"))).cloned().collect();
    match config::load(file, &others) {
        Ok(base) if others.len() < sets.len() => Ok((base, Some(mistake))),
        _ => Err(mistake),
    }
}

impl Asked<'_> {
    /// Refuses what is given twice, and keys that a variant may not set.
    ///
    /// # Errors
    /// As said.
    pub fn check(&self) -> Result<(), UserError> {
        let variants: Vec<&str> = self.variants.iter().map(|v| v.text.as_str()).collect();
        let alphas: Vec<String> = self.alphas.iter().map(f64::to_string).collect();
        once("--strategies", &variants)?;
        once("--seeds", self.seeds)?;
        once("--ranks", self.ranks)?;
        once("--alphas", &alphas)?;
        for variant in &self.variants {
            if let Some((key, why)) = variant.shared_key() {
                return Err(UserError::new(format!("the variant `{}` cannot set {key}: {why}", variant.text))
                    .at(Some(format!("--strategies {}", variant.text)))
                    .help("for all cells alike, use --set"));
            }
        }
        Ok(())
    }
}

fn once<T: PartialEq + std::fmt::Display>(option: &str, values: &[T]) -> Result<(), UserError> {
    match values.iter().enumerate().find(|(i, value)| values[..*i].contains(value)) {
        Some((_, twice)) => Err(UserError::new(format!("{option} holds {twice} twice")).help("give each value once")),
        None => Ok(()),
    }
}

fn columns(config: &RunConfig, asked: &Asked<'_>) -> Vec<Column> {
    let dirichlet = |&alpha: &f64| Column { alpha: Some(alpha), words: format!("dirichlet, alpha {alpha}") };
    if !asked.alphas.is_empty() {
        return asked.alphas.iter().map(dirichlet).collect();
    }
    match &config.data.partition {
        Partition::Dirichlet { alpha } => vec![dirichlet(alpha)],
        _ => vec![Column { alpha: None, words: config.partition_words() }],
    }
}

/// What a cell sets, later ones over earlier ones: strategy, rank, partition, seed, and the variant's own keys.
fn cell_sets(
    variant: &Variant,
    base: &RunConfig,
    rank: Option<usize>,
    column: &Column,
    seed: u64,
) -> Result<Vec<Set>, UserError> {
    let named = format!("--strategies {}", variant.text);
    let mut sets = vec![Set { text: format!("strategy.name={}", variant.strategy), origin: named.clone() }];
    let by_rank = rank_sets(&variant.strategy, rank, base);
    let twice = |(key, _): &&(String, String)| by_rank.iter().any(|set| set.starts_with(&format!("{key}=")));
    if let (Some(_), Some((key, _))) = (rank, variant.keys.iter().find(twice)) {
        return Err(UserError::new(format!("the variant `{}` sets {key}, which --ranks sets too", variant.text))
            .at(Some(named))
            .help("leave one of them out"));
    }
    let origin = rank.map_or("the configuration".to_string(), |rank| format!("--ranks {rank}"));
    sets.extend(by_rank.into_iter().map(|text| Set { text, origin: origin.clone() }));
    if let Some(alpha) = column.alpha {
        let text = format!("data.partition={{ kind = \"dirichlet\", alpha = {alpha:?} }}");
        sets.push(Set { text, origin: format!("alpha {alpha}") });
    }
    sets.push(Set { text: format!("train.seed={seed}"), origin: format!("--seeds {seed}") });
    let keys = variant.keys.iter().zip(variant.origins());
    sets.extend(keys.map(|((key, value), origin)| Set { text: format!("{key}={value}"), origin }));
    Ok(sets)
}

/// What "rank r" means for a strategy.
///
/// LoRA-A² shares one global rank (`adapter.rank`) and r is what a client may send of it (`clients.budget`), and so it is
/// where slots are drawn for clients; everywhere else r is the rank itself and clients send all of it. When no rank is asked
/// for, these run as configured, and their rivals send as much as they would: at the budget if that is one number, else with
/// the configured ranks and budgets.
fn rank_sets(strategy: &str, asked: Option<usize>, base: &RunConfig) -> Vec<String> {
    let whole = |r: usize| vec![format!("adapter.rank={r}"), "clients.budget=full".to_string()];
    let selects = |name: &str| {
        let used = StrategySettings::with_defaults(name).map(|strategy| strategy.traits().budget);
        matches!(used, Some(BudgetUse::Slots | BudgetUse::Drawn))
    };
    let base_selects = matches!(base.strategy, StrategySettings::LoraA2 { .. });
    match (asked, &base.clients.budget) {
        (Some(r), _) if selects(strategy) => vec![format!("clients.budget={r}")],
        (Some(r), _) => whole(r),
        (None, Budget::Same(r)) if base_selects && !selects(strategy) => whole(*r),
        // Said again, since the configuration drops a budget when the strategy changes.
        (None, budget) => vec![format!("clients.budget={}", spelled(budget))],
    }
}

/// What is said of ranks that nobody asked for: see [`rank_sets`].
fn ranks_from_budget(asked: &Asked<'_>, base: &RunConfig) -> Option<String> {
    let (Budget::Same(budget), rank) = (&base.clients.budget, base.adapter.rank) else { return None };
    let at_it = |variant: &Variant| {
        rank_sets(&variant.strategy, None, base) == rank_sets(&variant.strategy, Some(*budget), base)
    };
    let others = asked.variants.iter().any(|variant| variant.strategy != base.strategy.name() && at_it(variant));
    let said = asked.ranks.is_empty() && others && *budget != rank;
    said.then(|| {
        format!(
            "methods that do not choose slots run at rank {budget}, which is clients.budget, so that all send about alike; \
             {} chooses among adapter.rank = {rank}. Other ranks: --ranks",
            base.strategy.name()
        )
    })
}

/// A budget as the configuration writes it.
fn spelled(budget: &Budget) -> String {
    toml::Value::try_from(budget).expect("a budget is a number, a list or a word").to_string()
}

/// `mistake` with its variant named, and the cell's own settings shown as the options they came from.
fn said_of(mistake: UserError, variant: &Variant, sets: &[Set]) -> UserError {
    let origin = |place: String| {
        let set = sets.iter().rev().find(|set| place == format!("--set {}", set.text));
        match set {
            Some(set) if set.origin != place => format!("{} (as {})", set.origin, set.text),
            _ => place,
        }
    };
    let what = format!("in the variant `{}`: {}", variant.text, mistake.what);
    UserError { what, place: mistake.place.map(origin), help: mistake.help }
}

impl Column {
    /// As a column's title, `α 0.1`.
    pub fn title(&self) -> String {
        self.alpha.map_or_else(|| self.words.clone(), |alpha| format!("α {alpha}"))
    }

    /// As part of a folder's name.
    fn slug(&self) -> String {
        match self.alpha {
            Some(alpha) => format!("a{alpha}"),
            None => {
                self.words.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect::<Vec<_>>().join("-")
            }
        }
    }
}

impl Rank {
    fn of(budget: &Budget, rank: usize) -> Rank {
        match budget {
            Budget::Full => Rank::Same(rank),
            Budget::Same(budget) => Rank::Same(*budget),
            Budget::Each(_) => Rank::Named("listed".into()),
            named => Rank::Named(spelled(named).trim_matches('"').to_string()),
        }
    }
}

impl std::fmt::Display for Rank {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Rank::Same(rank) => rank.fmt(f),
            Rank::Named(name) => name.fmt(f),
        }
    }
}

impl Serialize for Rank {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Rank::Same(rank) => to.serialize_u64(*rank as u64),
            Rank::Named(name) => to.serialize_str(name),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
