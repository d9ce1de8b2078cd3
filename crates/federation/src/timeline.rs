//! Where a run stands by the clock of `[[clients.devices]]`, and asynchronous rounds (FedBuff, Nguyen et al., arXiv 2106.06639): who begins when
//! from which version of the model, and whose uploads make the next one.
//!
//! When an upload comes depends on bytes and tokens alone, which are known before anybody trains. So all who begin with a version are
//! found first, train together in one pass, and what they learnt waits here until it comes.

mod schedule;
mod stored;

use std::collections::BTreeMap;

use bonfire_engine::{Choice, Plan, Upload, sketch};

use crate::clock::{Clock, Closed, Work};
use crate::{Asynchronous, Coordinator, RoundMetrics};

pub(crate) use schedule::{Turn, Visit};
pub(crate) use stored::StoredTimeline;

/// Where a run stands: its time, and who is at work.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Timeline {
    /// Seconds since the run began.
    pub now: f64,
    /// Clients that train, or send, or have gone without a word; empty in synchronous rounds.
    pub at_work: Vec<Visit>,
    /// What those of them send whose numbers are finite, by client.
    pub uploads: BTreeMap<usize, Upload>,
}

impl Coordinator {
    /// Who begins with the version that the round of `plan` starts from, and whose uploads come until the next one; `None`: rounds are
    /// synchronous. A client trains on `tokens(client)`.
    pub(crate) fn turn(&self, plan: &Plan, tokens: &dyn Fn(usize) -> u64) -> Option<Turn> {
        let (how, clock) = (self.settings.server.asynchronous?, self.clock.as_ref()?);
        // All uploads of such a strategy are of one length.
        let upload = sketch(plan, &self.server.adapter, &self.settings.train, 0, Choice::Widest);
        let upload_bytes = plan.wire.message_len(&upload, 0) as u64;
        let mut work = |client: usize| Work {
            client,
            download_bytes: self.ledger.download_bytes(plan, &self.server, client),
            tokens: tokens(client),
            upload_bytes,
        };
        Some(clock.turn(&self.settings, how, plan.round, &self.timeline, &mut work))
    }

    /// Ends a turn: `uploads`, of those who began with it, wait until they come, and those that came are put in their place.
    pub(crate) fn end_turn(&self, turn: Turn, uploads: &mut Vec<Upload>) -> Option<Closed> {
        let clock = self.clock.as_ref()?;
        let mut waiting = self.timeline.uploads.clone();
        waiting.extend(std::mem::take(uploads).into_iter().map(|upload| (upload.client, upload)));
        // Of a client whose numbers were not finite there is nothing.
        uploads.extend(turn.arrived.iter().filter_map(|visit| waiting.remove(&visit.client)));
        uploads.sort_by_key(|upload| upload.client);
        let mut closed = turn.closed(clock, self.timeline.now);
        closed.after.uploads = waiting;
        Some(closed)
    }
}

impl Asynchronous {
    /// Weighs movements by how many versions old they are.
    pub(crate) fn weigh(&self, closed: &Closed, uploads: &mut [Upload]) {
        for upload in uploads {
            match closed.staleness.get(&upload.client) {
                None | Some(0) => {}
                Some(&staleness) => upload.scale(self.weight(staleness)),
            }
        }
    }
}

impl Turn {
    /// How the turn went that began at `from`; the uploads of those who are still at work are for the caller to keep.
    pub fn closed(self, clock: &Clock, from: f64) -> Closed {
        let arrived = || self.arrived.iter();
        let mut clients: Vec<usize> = arrived().map(|visit| visit.client).collect();
        clients.sort_unstable();
        Closed {
            seconds: self.ends - from,
            of_client: arrived().map(|visit| (visit.client, visit.arrives - visit.began)).collect(),
            watt_hours: clock.watt_hours(arrived().map(|visit| (visit.client, visit.tokens))),
            staleness: arrived().map(|visit| (visit.client, self.round - visit.round)).collect(),
            arrived: Some(clients),
            after: Timeline { now: self.ends, at_work: self.at_work.clone(), uploads: BTreeMap::new() },
            ..Closed::default()
        }
    }
}

/// The mean of what uploads were old.
pub(crate) fn mean_staleness(closed: &Closed) -> Option<f64> {
    let count = closed.arrived.as_ref().map(Vec::len).filter(|count| *count > 0)?;
    Some(closed.staleness.values().sum::<usize>() as f64 / count as f64)
}

impl Closed {
    /// Writes into the row of the round what the clock says.
    pub fn tell(&self, metrics: &mut RoundMetrics) {
        metrics.late_upload_bytes = self.late_upload_bytes;
        (metrics.simulated_seconds, metrics.watt_hours) = (Some(self.seconds), self.watt_hours);
        metrics.staleness = mean_staleness(self);
    }
}
