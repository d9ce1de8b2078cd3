//! Counts of what crossed between server and clients: scalars and bytes of the messages themselves, never a formula.

use bonfire_engine::{LocalOptimizer, Plan, RoleTensors, Upload};
use bonfire_models::{Factor, Matrix};
use serde::{Deserialize, Serialize};

use crate::{Server, groups};

/// Counts of one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Uploaded scalars: adapter and head.
    pub upload_params: u64,
    /// Of these, scalars of the head.
    pub upload_head_params: u64,
    /// Of these, what a method sends besides movements: control variates, moments.
    pub upload_aux_params: u64,
    /// Bytes that say which slots were uploaded.
    pub upload_index_bytes: u64,
    /// Bytes of all uploads as serialised.
    pub upload_bytes: u64,
    /// Downloaded scalars.
    pub download_params: u64,
    /// Bytes of all downloads as serialised, lost ones included.
    pub download_bytes: u64,
    /// Of these, what was sent to clients that dropped out before they uploaded, or came too late.
    pub lost_download_bytes: u64,
}

impl Traffic {
    /// These uploads with the downloads of the clients that stayed and of those that were lost.
    pub fn with_downloads(self, stayed: Traffic, lost: Traffic) -> Traffic {
        Traffic {
            download_params: stayed.download_params + lost.download_params,
            download_bytes: stayed.download_bytes + lost.download_bytes,
            lost_download_bytes: lost.download_bytes,
            ..self
        }
    }
}

/// Remembers which version of each part every client holds, so that a download holds only what is newer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Round before which each part last changed; 0: the start that every client makes for itself.
    versions: [usize; PARTS],
    /// Scalars that were merged into the backbone, by the round before which they were.
    merged: Vec<(usize, u64)>,
    /// Round in which each client last downloaded; 0: never.
    seen: Vec<usize>,
}

/// Parts of the server's state that clients may lack: A, B, what stands between them, the head, which slots exist,
/// what else a method sends, and the weights of full fine-tuning.
const PARTS: usize = 7;

/// The parts of the model that a download brings.
pub(crate) struct Coming {
    pub a: bool,
    pub b: bool,
    pub core: bool,
    pub head: bool,
    pub weights: bool,
    pub merged: bool,
}
const A: usize = 0;
const B: usize = 1;
const CORE: usize = 2;
const HEAD: usize = 3;
const LIVE: usize = 4;
const MORE: usize = 5;
const WEIGHTS: usize = 6;

fn part(factor: Factor) -> usize {
    match factor {
        Factor::A => A,
        Factor::B => B,
        Factor::Core => CORE,
    }
}

impl Ledger {
    /// A ledger for `clients` clients before the first round. The first contact sends A; B starts at zero and the
    /// head comes with the backbone, so neither needs to be sent until it changes.
    pub fn new(clients: usize) -> Self {
        let mut versions = [0; PARTS];
        versions[A] = 1;
        Ledger { versions, merged: Vec::new(), seen: vec![0; clients] }
    }

    /// Clients of the federation.
    pub(crate) fn clients(&self) -> usize {
        self.seen.len()
    }

    /// These clients have lost what they had downloaded.
    pub(crate) fn forget(&mut self, clients: &[usize]) {
        clients.iter().filter_map(|&client| self.seen.get_mut(client).map(|seen| *seen = 0)).for_each(drop);
    }

    /// What changed since the start of round `since`; 0: since the start that every client makes for itself.
    pub(crate) fn newer_than(&self, since: usize) -> Coming {
        let [a, b, core, head, _, _, weights] = self.versions.map(|version| version > since);
        Coming { a, b, core, head, weights, merged: self.merged.iter().any(|(round, _)| *round > since) }
    }

    /// The run starts from an adapter that was trained before: A, B, head and what was merged belong to nobody's seed, so
    /// that the first contact sends all of them.
    pub fn starts_trained(&mut self, server: &Server) {
        [A, B, HEAD].into_iter().for_each(|part| self.versions[part] = 1);
        if server.merged.pushed > 0 {
            self.merged.push((1, server.merged.pushed));
        }
    }

    /// Counts what `cohort` downloads at the start of the plan's round: every part newer than the client's copy, of the
    /// slots it works with, as the plan writes it.
    pub fn download(&mut self, plan: &Plan, server: &Server, cohort: &[usize]) -> Traffic {
        let mut traffic = Traffic::default();
        for &client in cohort {
            let (params, bytes) = self.message(plan, server, client);
            traffic.download_bytes += bytes;
            traffic.download_params += params;
        }
        self.sent(plan, cohort);
        traffic
    }

    /// Notes that these clients have what they lacked at the start of the plan's round.
    pub(crate) fn sent(&mut self, plan: &Plan, cohort: &[usize]) {
        cohort.iter().for_each(|&client| self.seen[client] = plan.round);
    }

    /// Bytes of what `client` downloads at the start of the plan's round.
    pub(crate) fn download_bytes(&self, plan: &Plan, server: &Server, client: usize) -> u64 {
        self.message(plan, server, client).1
    }

    /// Scalars and bytes of the message to `client`, `"BFD1"`, round and flags as u32, then the numbers; of none where it lacks nothing.
    pub(crate) fn message(&self, plan: &Plan, server: &Server, client: usize) -> (u64, u64) {
        let adapter = &server.adapter;
        let newer = self.versions.map(|version| version > self.seen[client]);
        let slots = plan.slots_held(client, adapter);
        // Of slots drawn anew a client may hold none.
        let sent = |f: Factor| newer[part(f)] || (plan.draws_anew() && self.versions[part(f)] > 0);
        let (mut params, mut bytes) = (0, 0);
        for factor in Factor::ALL.into_iter().filter(|&f| sent(f) && !adapter.factor(f).is_empty()) {
            if plan.seeded && factor != Factor::Core {
                continue;
            }
            for t in 0..adapter.targets.len() {
                let whole = adapter.factor(factor)[t].data.len() / adapter.rank;
                let shared = |slot: &usize| *slot < plan.private.shared_rows(t, factor, adapter.rank);
                let rows = match &slots {
                    None => (0..adapter.rank).filter(shared).count(),
                    Some(slots) => slots[t].iter().filter(|slot| shared(slot)).count(),
                };
                params += (rows * whole) as u64;
                bytes += plan.wire.download_len(rows * whole, whole) as u64;
            }
        }
        if newer[HEAD] && plan.private.shares_head() {
            params += adapter.head_params();
            let of = |m: &Matrix| plan.wire.download_len(m.data.len(), m.cols) as u64;
            bytes += adapter.head.iter().map(|tensor| of(&tensor.value)).sum::<u64>();
        }
        if newer[WEIGHTS] {
            params += adapter.weight_params();
            let of = |m: &Matrix| plan.wire.download_len(m.data.len(), m.cols) as u64;
            bytes += adapter.weights.iter().map(of).sum::<u64>();
        }
        if plan.private.by_group && groups::is_newer(&server.state, client, self.seen[client]) {
            params += plan.scalars(adapter);
            bytes += 4 * plan.scalars(adapter);
        }
        if newer[MORE] {
            params += more_params(plan);
            bytes += 4 * more_params(plan);
        }
        let merged = self.merged.iter().filter(|(round, _)| *round > self.seen[client]).map(|(_, n)| n).sum::<u64>();
        params += merged;
        bytes += 4 * merged;
        let live = if newer[LIVE] { (adapter.rank * adapter.targets.len()).div_ceil(8) as u64 } else { 0 };
        bytes += live;
        (params, if params + bytes > 0 { HEADER + bytes } else { 0 })
    }

    /// Counts the `uploads` of a round, in sum and the bytes of each.
    pub fn upload(&self, uploads: &[Upload]) -> (Traffic, Vec<u64>) {
        let mut traffic = Traffic::default();
        // A message can be large, so each is serialised once.
        let sizes: Vec<u64> = uploads.iter().map(|upload| upload.encode().len() as u64).collect();
        for upload in uploads {
            traffic.upload_params += upload.sent_scalars();
            traffic.upload_head_params += upload.sent_params().1;
            traffic.upload_aux_params += upload.aux_params();
            traffic.upload_index_bytes += upload.index_bytes() as u64;
        }
        traffic.upload_bytes = sizes.iter().sum();
        (traffic, sizes)
    }

    /// Notes what a round's `uploads` and the server changed: from the next round on clients lack it.
    pub fn changed(&mut self, plan: &Plan, uploads: &[Upload], before: &Server, after: &Server) {
        let mut note = |part: usize, changed: bool| {
            if changed {
                self.versions[part] = plan.round + 1;
            }
        };
        // What groups send moves their own models, and not what all begin with.
        let of_all = if plan.private.by_group { &[] } else { uploads };
        let sent = |factor| of_all.iter().any(|u| u.factors.iter().any(|(f, _)| *f == factor));
        for factor in Factor::ALL {
            note(part(factor), sent(factor) || before.adapter.factor(factor) != after.adapter.factor(factor));
        }
        note(WEIGHTS, uploads.iter().any(|u| !u.weights.is_empty()));
        note(HEAD, of_all.iter().any(|u| !u.head.is_empty()));
        note(LIVE, before.live() != after.live());
        note(MORE, uploads.iter().any(|u| !u.aux.is_empty()));
        let merged = after.merged.pushed - before.merged.pushed;
        if merged > 0 {
            self.merged.push((plan.round + 1, merged));
        }
    }
}

/// Bytes of a message's head.
pub(crate) const HEADER: u64 = 12;

/// Scalars of what a method sends to clients besides the model: control variates, moments, a direction.
fn more_params(plan: &Plan) -> u64 {
    let params = |tensors: &RoleTensors| tensors.values().map(|m| m.data.len() as u64).sum::<u64>();
    let variate = plan.terms.variate.as_ref().map_or(0, |c| params(c));
    variate
        + match &plan.optimizer {
            LocalOptimizer::Configured => 0,
            LocalOptimizer::Amended { second, direction, .. } => params(second) + params(direction),
        }
}
