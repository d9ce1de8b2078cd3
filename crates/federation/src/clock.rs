//! How long rounds would take on the devices and links of `[[clients.devices]]`: a function of the seed and of the messages
//! themselves, whatever this machine needs. A client downloads, trains and uploads, one after the other; a round is closed when
//! all that are waited for have sent everything, or at its deadline. The server's own work takes no time.

use std::collections::BTreeMap;

use bonfire_engine::{Plan, Upload};

use crate::timeline::{Timeline, Turn};
use crate::{Coordinator, DeviceKind, Settings};

/// The clients' devices.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    kinds: Vec<DeviceKind>,
    /// Of every client.
    kind: Vec<usize>,
    /// Seconds after which a round is closed.
    deadline: Option<f64>,
    /// Clients that a round waits for.
    wanted: usize,
}

/// What a client has to do in a round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub client: usize,
    pub download_bytes: u64,
    pub tokens: u64,
    pub upload_bytes: u64,
}

/// How a round went by the clock.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Closed {
    /// Seconds from its begin to its end.
    pub seconds: f64,
    /// Clients that had not sent everything by then, ascending.
    pub late: Vec<usize>,
    /// Bytes of what they sent, or would have.
    pub late_upload_bytes: u64,
    /// Seconds that each client was at it, those that were late too.
    pub of_client: BTreeMap<usize, f64>,
    /// Watt hours of all that trained, where every kind says what it draws.
    pub watt_hours: Option<f64>,
    /// In asynchronous rounds, whose uploads came, ascending.
    pub arrived: Option<Vec<usize>>,
    /// How many versions had been made since each of them downloaded.
    pub staleness: BTreeMap<usize, usize>,
    /// Where the run stands then.
    pub after: Timeline,
}

impl Clock {
    /// Of `count` clients; `None`: nothing is said of their devices.
    pub fn new(settings: &Settings, count: usize) -> Option<Clock> {
        let clients = &settings.clients;
        (!clients.devices.is_empty()).then(|| Clock {
            kinds: clients.devices.clone(),
            kind: settings.device_kinds(count),
            deadline: clients.deadline,
            wanted: settings.cohort_size(count),
        })
    }

    /// Of clients of these kinds, so many of which are wanted.
    #[cfg(test)]
    pub fn of(kinds: Vec<DeviceKind>, kind: Vec<usize>, wanted: usize) -> Clock {
        Clock { kinds, kind, deadline: None, wanted }
    }

    /// Clients of the federation.
    pub fn clients(&self) -> usize {
        self.kind.len()
    }

    /// Clients that a round waits for; in asynchronous rounds, that are at work at any time.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// The first moment from `now` on at which `client` is inside its window.
    pub fn opens(&self, client: usize, now: f64) -> f64 {
        self.kind(client).availability.from(now)
    }

    /// The kind of `client`, from 0, and what it is.
    pub fn kind(&self, client: usize) -> &DeviceKind {
        &self.kinds[self.kind[client]]
    }

    /// What tables call the device of `client`.
    pub fn name(&self, client: usize) -> String {
        let number = self.kind[client];
        self.kinds[number].called(number)
    }

    /// Seconds that a client needs from being told to having sent everything.
    pub fn seconds(&self, work: Work) -> f64 {
        let kind = self.kind(work.client);
        let link = |bytes: u64, mbit: f64| if bytes > 0 { kind.latency + 8e-6 * bytes as f64 / mbit } else { 0.0 };
        let trains = work.tokens as f64 / kind.tokens_per_second;
        link(work.download_bytes, kind.down) + trains + link(work.upload_bytes, kind.up)
    }

    /// Watt hours of clients that train on so many tokens, where every kind says what it draws.
    pub fn watt_hours(&self, trained: impl Iterator<Item = (usize, u64)>) -> Option<f64> {
        let joules = |(client, tokens): (usize, u64)| {
            let kind = self.kind(client);
            kind.watts.unwrap_or(0.0) * (tokens as f64 / kind.tokens_per_second)
        };
        let draws = self.kinds.iter().all(|kind| kind.watts.is_some());
        draws.then(|| trained.map(joules).sum::<f64>() / 3600.0)
    }

    /// Closes a round of these clients: those invited that did not drop out.
    pub fn close(&self, all: &[Work]) -> Closed {
        let mut arrivals: Vec<(f64, Work)> = all.iter().map(|&work| (self.seconds(work), work)).collect();
        arrivals.sort_by(|(a, first), (b, second)| a.total_cmp(b).then(first.client.cmp(&second.client)));
        let in_time = |seconds: f64| self.deadline.is_none_or(|limit| seconds <= limit);
        let counted = arrivals.iter().take(self.wanted).take_while(|(seconds, _)| in_time(*seconds)).count();
        let last = counted.checked_sub(1).map_or(0.0, |last| arrivals[last].0);
        // Whoever is still missing, having dropped out or being slow, is waited for until the deadline.
        let seconds = if counted < self.wanted { self.deadline.unwrap_or(last) } else { last };
        let mut late: Vec<usize> = arrivals[counted..].iter().map(|(_, work)| work.client).collect();
        late.sort_unstable();
        Closed {
            seconds,
            late,
            late_upload_bytes: arrivals[counted..].iter().map(|(_, work)| work.upload_bytes).sum(),
            of_client: arrivals.iter().map(|(seconds, work)| (work.client, *seconds)).collect(),
            watt_hours: self.watt_hours(all.iter().map(|work| (work.client, work.tokens))),
            ..Closed::default()
        }
    }
}

impl Coordinator {
    /// Closes the round of `plan` by the clock; `None`: there is no clock. In a synchronous round, which begins at `from`, the uploads of clients
    /// are taken out that came too late; in the turn of an asynchronous one those that came take the place of those that began.
    pub(crate) fn close(
        &self,
        plan: &Plan,
        turn: Option<Turn>,
        from: f64,
        uploads: &mut Vec<Upload>,
    ) -> Option<Closed> {
        if let Some(turn) = turn {
            return self.end_turn(turn, uploads);
        }
        let clock = self.clock.as_ref()?;
        let exchanges = self.settings.strategy.traits().exchanges;
        let bytes = |bytes: u64| if exchanges { bytes } else { 0 };
        let work = |upload: &Upload| Work {
            client: upload.client,
            download_bytes: bytes(self.ledger.download_bytes(plan, &self.server, upload.client)),
            tokens: upload.tokens,
            upload_bytes: bytes(upload.encoded_len() as u64),
        };
        let closed = clock.close(&uploads.iter().map(work).collect::<Vec<_>>());
        uploads.retain(|upload| closed.late.binary_search(&upload.client).is_err());
        Some(closed.starting_at(self.timeline.now, from))
    }
}

/// Those of `stays` that were late, and the others.
pub(crate) fn part_late(closed: Option<&Closed>, stays: Vec<usize>) -> (Vec<usize>, Vec<usize>) {
    stays.into_iter().partition(|client| closed.is_some_and(|closed| closed.late.binary_search(client).is_ok()))
}

impl Closed {
    /// The same of a round that was to begin at `now` and began at `from`: somebody had to be waited for.
    pub fn starting_at(mut self, now: f64, from: f64) -> Closed {
        self.seconds += from - now;
        self.after.now = now + self.seconds;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three laptops, quick and behind slow links, and a phone that is slow at everything.
    fn clock(wanted: usize, deadline: Option<f64>) -> Clock {
        let laptop = DeviceKind { latency: 0.5, watts: Some(60.0), ..DeviceKind::new(1_000.0, 8.0, 80.0) };
        let phone = DeviceKind { watts: Some(5.0), ..DeviceKind::new(100.0, 1.0, 10.0) };
        Clock { kinds: vec![laptop, phone], kind: vec![0, 0, 0, 1], deadline, wanted }
    }

    fn work(client: usize, tokens: u64) -> Work {
        Work { client, download_bytes: 10_000_000, tokens, upload_bytes: 1_000_000 }
    }

    #[test]
    fn a_client_downloads_trains_and_uploads() {
        let clock = clock(4, None);
        // 0.5 + 80 Mbit at 80 + 2000 at 1000 + 0.5 + 8 Mbit at 8.
        assert!((clock.seconds(work(0, 2_000)) - (0.5 + 1.0 + 2.0 + 0.5 + 1.0)).abs() < 1e-12);
        // 80 Mbit at 10 + 2000 at 100 + 8 Mbit at 1.
        assert!((clock.seconds(work(3, 2_000)) - (8.0 + 20.0 + 8.0)).abs() < 1e-12);
        // Nothing to download is no message.
        let nothing = Work { download_bytes: 0, upload_bytes: 0, ..work(0, 2_000) };
        assert!((clock.seconds(nothing) - 2.0).abs() < 1e-12);
    }

    #[test]
    fn a_round_waits_for_all_or_for_as_many_as_are_wanted_or_until_its_deadline() {
        let all = [work(0, 2_000), work(1, 4_000), work(2, 3_000), work(3, 2_000)];
        let closed = clock(4, None).close(&all);
        assert_eq!((closed.seconds, &closed.late[..]), (36.0, &[][..]));
        assert_eq!(closed.of_client.values().copied().collect::<Vec<_>>(), [5.0, 7.0, 6.0, 36.0]);
        // 9 s of training at 60 W, 20 s at 5 W.
        assert!((closed.watt_hours.expect("watts") - (9.0 * 60.0 + 20.0 * 5.0) / 3600.0).abs() < 1e-12);
        // The first two of four.
        let closed = clock(2, None).close(&all);
        assert_eq!((closed.seconds, &closed.late[..], closed.late_upload_bytes), (6.0, &[1, 3][..], 2_000_000));
        // A deadline: what is there by then counts, to the second.
        let closed = clock(4, Some(7.0)).close(&all);
        assert_eq!((closed.seconds, &closed.late[..]), (7.0, &[3][..]));
        // One has dropped out: the deadline is waited for, or the last that comes where there is none.
        let closed = clock(4, Some(60.0)).close(&all[..3]);
        assert_eq!((closed.seconds, &closed.late[..]), (60.0, &[][..]));
        assert_eq!(clock(4, None).close(&all[..3]).seconds, 7.0);
        // Nobody comes.
        assert_eq!(clock(4, Some(1.0)).close(&all).late, [0, 1, 2, 3]);
        assert_eq!(clock(4, None).close(&[]), Closed { watt_hours: Some(0.0), ..Closed::default() });
    }

    #[test]
    fn of_equals_the_first_client_is_first() {
        let alike = [work(2, 1_000), work(0, 1_000), work(1, 1_000)];
        assert_eq!(clock(2, None).close(&alike).late, [2]);
    }
}
