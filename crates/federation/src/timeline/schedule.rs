//! The events of a version: uploads come, places become free, clients begin, windows open.

use std::collections::VecDeque;

use bonfire_data::random::{Use, stream};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::{Asynchronous, Timeline};
use crate::Settings;
use crate::clock::{Clock, Work};

/// A client at work, from its download to its upload.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Visit {
    /// Client, from 0.
    pub client: usize,
    /// The round whose start it downloaded.
    pub round: usize,
    /// When it began, in seconds since the run began.
    #[serde(with = "super::stored::bits")]
    pub began: f64,
    /// When its upload has come.
    #[serde(with = "super::stored::bits")]
    pub arrives: f64,
    /// Tokens that it trains on.
    pub tokens: u64,
    /// It goes away before it uploads, which the server finds out when the upload does not come.
    pub drops: bool,
}

/// One version of the model, from its making to the next one's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Turn {
    /// The round that ends with the next version.
    pub round: usize,
    /// Clients that began with it, ascending.
    pub began: Vec<usize>,
    /// Whose uploads came, in that order.
    pub arrived: Vec<Visit>,
    /// Who is still at work when it ends.
    pub at_work: Vec<Visit>,
    /// When it ends, in seconds since the run began.
    pub ends: f64,
}

impl Clock {
    /// The turn of `round` from where `before` stands. Whenever fewer than `clients.per_round` are at work, the next client in an order drawn
    /// for the round begins that can be had, is not at work, and has nothing in the buffer; it has `work(client)` to do. Uploads that
    /// come at the same moment all count before anybody begins. The turn ends with a full buffer, or where nobody is left to begin.
    pub fn turn(
        &self,
        settings: &Settings,
        how: Asynchronous,
        round: usize,
        before: &Timeline,
        work: &mut dyn FnMut(usize) -> Work,
    ) -> Turn {
        let mut turn =
            Turn { round, began: Vec::new(), arrived: Vec::new(), at_work: before.at_work.clone(), ends: before.now };
        let mut waiting = self.order(settings, round, &turn.at_work);
        loop {
            while let Some(at) = turn.first_until(turn.ends) {
                let visit = turn.at_work.swap_remove(at);
                turn.arrived.extend((!visit.drops).then_some(visit));
                if turn.arrived.len() == how.buffer {
                    turn.began.sort_unstable();
                    return turn;
                }
            }
            while turn.at_work.len() < self.wanted() {
                let there = |&client: &usize| self.opens(client, turn.ends) == turn.ends;
                let Some(client) = waiting.iter().position(there).and_then(|at| waiting.remove(at)) else { break };
                let work = work(client);
                turn.began.push(client);
                turn.at_work.push(Visit {
                    client,
                    round,
                    began: turn.ends,
                    arrives: turn.ends + self.seconds(work),
                    tokens: work.tokens,
                    drops: settings.drops_out(round, client),
                });
            }
            let arrival = turn.at_work.iter().map(|visit| visit.arrives).min_by(f64::total_cmp);
            let opening = (turn.at_work.len() < self.wanted())
                .then(|| waiting.iter().map(|&client| self.opens(client, turn.ends)).min_by(f64::total_cmp))
                .flatten();
            match arrival.into_iter().chain(opening).min_by(f64::total_cmp) {
                Some(next) => turn.ends = next,
                None => {
                    turn.began.sort_unstable();
                    return turn;
                }
            }
        }
    }

    /// The clients that may begin in `round`, in the order in which they are asked.
    fn order(&self, settings: &Settings, round: usize, at_work: &[Visit]) -> VecDeque<usize> {
        let there = |&client: &usize| settings.is_there(self.kind(client).availability, round, client);
        let mut clients: Vec<usize> = (0..self.clients()).filter(there).collect();
        if self.wanted() < clients.len() {
            clients.shuffle(&mut stream(settings.train.seed, Use::Cohort, round as u64, 0, 0));
        }
        clients.retain(|client| at_work.iter().all(|visit| visit.client != *client));
        clients.into()
    }
}

impl Turn {
    /// Whose upload is the next to come, by `now`: the client of lowest number of several at the same moment.
    fn first_until(&self, now: f64) -> Option<usize> {
        let there = self.at_work.iter().enumerate().filter(|(_, visit)| visit.arrives <= now);
        let first = there.min_by(|(_, a), (_, b)| a.arrives.total_cmp(&b.arrives).then(a.client.cmp(&b.client)));
        first.map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests;
