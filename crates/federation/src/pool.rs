//! The baseline `pooled`: a federation's rows in one place, trained for as many steps.

use bonfire_data::Shards;

use crate::{ClientSettings, Settings};

/// The federation that one client stands for.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    settings: Settings,
    /// Training rows of each client.
    rows: Vec<usize>,
}

impl Pool {
    /// The federation of `settings` with these shards as one client that holds all of them; `None`: the strategy pools nothing.
    pub fn of(settings: &Settings, shards: &Shards) -> Option<(Pool, Settings, Shards)> {
        if !settings.strategy.traits().pools {
            return None;
        }
        let all = |shards: &[Vec<usize>]| {
            let mut rows = shards.concat();
            rows.sort_unstable();
            vec![rows]
        };
        let pool = Pool { settings: settings.clone(), rows: shards.train.iter().map(Vec::len).collect() };
        let pooled = Shards { train: all(&shards.train), test: all(&shards.test) };
        Some((pool, one_client(settings), pooled))
    }

    /// Local steps that the clients of `round` would make together, those left out that would drop out; at least one.
    pub fn steps(&self, round: usize) -> usize {
        let Pool { settings, rows } = self;
        let (stays, _) = settings.who_stays(round, &settings.cohort(round, rows.len(), 0.0));
        let of = |&client: &usize| {
            let all = settings.train.local_steps(rows[client]);
            ((all as f64 * settings.pace(round, client)).ceil() as usize).clamp(1, all)
        };
        stays.iter().map(of).sum::<usize>().max(1)
    }
}

/// The same settings for one client that always takes part.
pub(crate) fn one_client(settings: &Settings) -> Settings {
    Settings { clients: ClientSettings::new(1), ..settings.clone() }
}
