//! Who holds which rows. A partition is a function of the data, the number of clients and the seed.
//!
//! Here are the kinds, the checks that hold for all of them, and the test rows; the ways of cutting are in
//! `partition/cut.rs` and by size in `partition/sized.rs`, the Dirichlet draw in `partition/dirichlet.rs`, the file in
//! `partition/file.rs`.

mod cut;
mod dirichlet;
mod file;
mod sized;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::random::{Use, stream};
use crate::{DataError, Dataset};
use cut::{apportion, deal, rows_by_label, shuffled};

/// How the training rows are split over the clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Partition {
    /// All rows shuffled and cut into equal shards.
    // Not a unit variant: serde lets those carry any key, so that an `alpha` would pass in silence.
    Iid {},
    /// For every class, shares over the clients drawn from a symmetric Dirichlet (Hsu et al. 2019; Li et al.
    /// 2022). Small `alpha` means that most clients see few classes. The whole split is drawn again until every
    /// client has `min_shard` rows.
    Dirichlet {
        /// Concentration, from 1e-6 to 1e6.
        alpha: f64,
    },
    /// Every client holds exactly `classes` classes. Classes are dealt in label order and neighbours share, so
    /// that 20 clients with 2 of 20 classes each come in pairs: clients 2k-1 and 2k hold classes 2k-1 and 2k
    /// (counted from 1), half each, as in the LoRA-A² paper. The seed decides which half of the rows.
    Pathological {
        /// Classes per client.
        classes: usize,
    },
    /// Rows sorted by label, cut into `clients x per_client` equal pieces, dealt at random (McMahan et al. 2017).
    Shards {
        /// Pieces per client.
        per_client: usize,
    },
    /// One client per distinct value of a column, in sorted order; `clients.count` is their number.
    Natural {
        /// The column.
        column: String,
    },
    /// Clients of several values of a column each, such as organizations of users: the values in sorted order, `group` to a client.
    /// `clients.count` is the number of groups.
    GroupedNatural {
        /// The column.
        column: String,
        /// Values a client.
        group: usize,
        /// What becomes of the values that are left over.
        #[serde(default)]
        rest: Rest,
    },
    /// All rows shuffled and cut into shards whose sizes grow with the client's number k = 1, 2, …: as k, k² or eᵏ.
    Growing {
        /// How fast.
        by: Growth,
    },
    /// All rows shuffled and cut into shards whose shares are drawn from a symmetric Dirichlet; labels play no part. Drawn again until
    /// every client has `min_shard` rows.
    SizeDirichlet {
        /// Concentration, from 1e-6 to 1e6; large: equal sizes.
        alpha: f64,
    },
    /// All rows shuffled and cut into shards whose sizes are in proportion to draws from a Poisson distribution. Drawn again until every
    /// client has `min_shard` rows.
    SizePoisson {
        /// Its mean, from 0.01 to 1e6; large: equal sizes.
        mean: f64,
    },
    /// A JSON file: a list with one list of training row indices (from 0) per client. It may leave rows out.
    File {
        /// The file.
        path: PathBuf,
    },
}

/// What becomes of values that do not fill a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rest {
    /// They are a last, smaller group.
    #[default]
    Smaller,
    /// The first groups have one more each.
    Larger,
    /// Nobody holds their rows.
    Drop,
    /// They are an error.
    Refuse,
}

/// How sizes grow with a client's number k.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Growth {
    /// As k.
    Linear,
    /// As k².
    Square,
    /// As eᵏ.
    Exponential,
}

impl Growth {
    /// The shares of `clients` clients, up to a factor.
    fn weights(self, clients: usize) -> Vec<f64> {
        let weight = |k: usize| match self {
            Growth::Linear => k as f64,
            Growth::Square => (k as f64).powi(2),
            // Beside the largest, so that many clients do not overflow.
            Growth::Exponential => (k as f64 - clients as f64).exp(),
        };
        (1..=clients).map(weight).collect()
    }
}

/// Row indices per client, ascending. Client `k` of `train` is client `k` of `test`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shards {
    /// Indices into [`Dataset::train`].
    pub train: Vec<Vec<usize>>,
    /// Indices into [`Dataset::test`]: the rows on which a client's own accuracy is measured.
    pub test: Vec<Vec<usize>>,
}

impl Partition {
    /// Splits a data set over `clients` clients.
    ///
    /// Every training row goes to exactly one client (a file may leave rows out), and every client gets at
    /// least `min_shard` of them. Test rows of a class are cut in proportion to the training rows of that class;
    /// in a natural partition a test row with a group goes to the client of its group, or to nobody if there
    /// is none.
    ///
    /// # Errors
    /// [`DataError::Setting`] for values that cannot work, [`DataError::Unlabelled`], [`DataError::ShardTooSmall`],
    /// [`DataError::DirichletUnlikely`], [`DataError::Groups`], [`DataError::GroupMissing`] and
    /// [`DataError::PartitionFile`].
    pub fn split(&self, data: &Dataset, clients: usize, min_shard: usize, seed: u64) -> Result<Shards, DataError> {
        self.refuse_unlabelled(data)?;
        let clients = self.count_clients(data, clients)?;
        check_enough(data.train.len(), clients, min_shard)?;
        let mut train = match self {
            Partition::Iid {} => cut::iid(data.train.len(), clients, seed),
            Partition::Dirichlet { alpha } => dirichlet::split(data, *alpha, clients, min_shard, seed)?,
            Partition::Pathological { classes } => cut::pathological(data, *classes, clients, seed)?,
            Partition::Shards { per_client } => cut::shards(data, *per_client, clients, seed)?,
            Partition::Natural { column } => cut::natural(&data.train, column)?,
            Partition::GroupedNatural { column, group, rest } => {
                sized::grouped(cut::natural(&data.train, column)?, *group, *rest)?
            }
            Partition::Growing { by } => sized::by_weights(data.train.len(), &by.weights(clients), seed),
            Partition::SizeDirichlet { alpha } => sized::dirichlet(data, *alpha, clients, min_shard, seed)?,
            Partition::SizePoisson { mean } => sized::poisson(data, *mean, clients, min_shard, seed)?,
            Partition::File { path } => file::read(path, data.train.len(), clients)?,
        };
        train.iter_mut().for_each(|shard| shard.sort_unstable());
        check_shards(&train, min_shard)?;
        let test = self.split_test(data, &train, seed);
        Ok(Shards { train, test })
    }

    /// Whose rows each client holds, in a partition by a column's values: the value, or the first of several. Empty in others.
    ///
    /// # Panics
    /// As [`label_table`].
    pub fn client_names(&self, data: &Dataset, shards: &[Vec<usize>]) -> Vec<String> {
        const SHOWN: usize = 3;
        if !matches!(self, Partition::Natural { .. } | Partition::GroupedNatural { .. }) {
            return Vec::new();
        }
        let name = |shard: &Vec<usize>| {
            let values: BTreeSet<&str> = shard.iter().filter_map(|row| data.train[*row].group.as_deref()).collect();
            let more = if values.len() > SHOWN { format!(" and {} more", values.len() - SHOWN) } else { String::new() };
            values.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ") + &more
        };
        shards.iter().map(name).collect()
    }

    fn refuse_unlabelled(&self, data: &Dataset) -> Result<(), DataError> {
        let kind = match self {
            Partition::Dirichlet { .. } => "dirichlet",
            Partition::Pathological { .. } => "pathological",
            Partition::Shards { .. } => "shards",
            _ => return Ok(()),
        };
        if data.is_labelled() { Ok(()) } else { Err(DataError::Unlabelled { name: data.name.clone(), kind }) }
    }

    fn count_clients(&self, data: &Dataset, clients: usize) -> Result<usize, DataError> {
        let groups = match self {
            Partition::Natural { column } => Some((column, cut::natural(&data.train, column)?.len())),
            Partition::GroupedNatural { column, group, rest } => {
                Some((column, sized::grouped(cut::natural(&data.train, column)?, *group, *rest)?.len()))
            }
            _ => None,
        };
        if let Some((column, groups)) = groups {
            return match clients {
                0 => Ok(groups),
                _ if clients == groups => Ok(groups),
                _ => Err(DataError::Groups { column: column.clone(), values: first_values(data), groups, clients }),
            };
        }
        if clients == 0 {
            return Err(DataError::Setting {
                key: "clients",
                value: "0".to_owned(),
                problem: "only a natural partition knows the number of clients itself".to_owned(),
                expected: "at least 1".to_owned(),
            });
        }
        Ok(clients)
    }

    fn split_test(&self, data: &Dataset, train: &[Vec<usize>], seed: u64) -> Vec<Vec<usize>> {
        let mut test = vec![Vec::new(); train.len()];
        let mut rest: Vec<usize> = (0..data.test.len()).collect();
        if matches!(self, Partition::Natural { .. } | Partition::GroupedNatural { .. }) {
            let held = |(at, shard): (usize, &Vec<usize>)| {
                shard.iter().map(|row| (data.train[*row].group.as_deref(), at)).collect::<Vec<_>>()
            };
            let clients: HashMap<_, _> = train.iter().enumerate().flat_map(held).collect();
            for row in std::mem::take(&mut rest) {
                match data.test[row].group.as_deref() {
                    None => rest.push(row),
                    group => clients.get(&group).into_iter().for_each(|at| test[*at].push(row)),
                }
            }
        }
        deal_test(data, train, &rest, seed, &mut test);
        test.iter_mut().for_each(|shard| shard.sort_unstable());
        test
    }
}

/// Counts each client's rows by label: `[clients][labels]`, in a set without labels `[clients][1]`. Pass
/// [`Shards::train`].
///
/// # Panics
/// If a row is not a training row of this data set.
pub fn label_table(data: &Dataset, shards: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let count = |shard: &Vec<usize>| {
        let mut counts = vec![0; data.classes()];
        shard.iter().for_each(|row| counts[data.train[*row].label] += 1);
        counts
    };
    shards.iter().map(count).collect()
}

/// The first values of the column that rows are grouped by, in words.
fn first_values(data: &Dataset) -> String {
    const SHOWN: usize = 8;
    let values: BTreeSet<&str> = data.train.iter().filter_map(|example| example.group.as_deref()).collect();
    let more = if values.len() > SHOWN { ", …" } else { "" };
    values.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ") + more
}

/// Cuts the test rows of every class in proportion to the clients' training rows of that class.
fn deal_test(data: &Dataset, train: &[Vec<usize>], rows: &[usize], seed: u64, test: &mut [Vec<usize>]) {
    let table = label_table(data, train);
    // Round 1 of this use: the training rows are cut in round 0.
    let mut stream = stream(seed, Use::Partition, 1, 0, 0);
    for (label, of_class) in rows_by_label(&data.test, rows, data.classes()).into_iter().enumerate() {
        let weights: Vec<f64> = table.iter().map(|counts| counts[label] as f64).collect();
        let held: Vec<usize> = test.iter().map(Vec::len).collect();
        let counts = apportion(of_class.len(), &weights, &held);
        deal(shuffled(of_class, &mut stream), &counts, test);
    }
}

fn check_enough(rows: usize, clients: usize, min_shard: usize) -> Result<(), DataError> {
    let needed = clients.checked_mul(min_shard.max(1));
    if needed.is_some_and(|needed| needed <= rows) || (min_shard == 0 && clients <= MOST_CLIENTS) {
        return Ok(());
    }
    Err(DataError::Setting {
        key: "clients",
        value: clients.to_string(),
        problem: format!("{rows} training rows cannot give each of them min_shard = {min_shard}"),
        expected: format!("at most {}", rows / min_shard.max(1)),
    })
}

/// With `min_shard = 0` clients may be empty, so the rows do not bound their number.
const MOST_CLIENTS: usize = 100_000;

fn check_shards(train: &[Vec<usize>], min_shard: usize) -> Result<(), DataError> {
    let small = train.iter().map(Vec::len).enumerate().find(|(_, size)| *size < min_shard);
    match small {
        Some((client, size)) => Err(DataError::ShardTooSmall { client, size, min_shard }),
        None => Ok(()),
    }
}
