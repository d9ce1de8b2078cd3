//! What the strategies that combine products share: what clients hold at the end of a round, sums of their products,
//! and updates merged into the backbone.

use bonfire_data::random::{Use, stream};
use bonfire_engine::Upload;
use bonfire_models::{Adapter, AdapterInit, Factor, Matrix};
use rayon::prelude::*;

use crate::algebra::{AlgebraError, Stack, Svd};
use crate::{FederationError, Server};

/// What a client holds of one target at the end of a round.
pub(super) struct Held {
    /// Its share of the round's examples.
    pub weight: f64,
    /// Its slots, ascending.
    pub slots: Vec<usize>,
    /// `[d_in, slots]`.
    pub a: Matrix,
    /// `[slots, d_out]`.
    pub b: Matrix,
}

/// The uploads in the order of client numbers, each with its share of the examples: the order in which they arrive
/// changes nothing.
pub(super) fn weighted(uploads: &[Upload]) -> Vec<(f64, &Upload)> {
    let total: f64 = uploads.iter().map(|u| u.examples as f64).sum();
    let mut all: Vec<_> = uploads.iter().map(|u| (u.examples as f64 / total, u)).collect();
    all.sort_by_key(|(_, u)| u.client);
    all
}

/// What every client of the round holds of `target`: the round's start plus its movement. `server` is still at the
/// round's start.
pub(super) fn held(server: &Server, uploads: &[Upload], target: usize) -> Vec<Held> {
    let end = |(weight, upload): (f64, &Upload)| {
        let slots = upload.slots.of(target);
        let of = |factor: Factor| {
            let mut rows = server.adapter.slot_rows(factor, target).rows(&slots);
            if let Some((_, moved)) = upload.factors.iter().find(|(f, _)| *f == factor) {
                rows.data.iter_mut().zip(&moved[target].data).for_each(|(x, d)| *x += d);
            }
            rows
        };
        Held { weight, a: of(Factor::A).transposed(), b: of(Factor::B), slots }
    };
    weighted(uploads).into_iter().map(end).collect()
}

/// An empty sum of the shape of `target`.
pub(super) fn empty(server: &Server, target: usize) -> Stack {
    let target = &server.adapter.targets[target];
    Stack::new(target.d_in, target.d_out)
}

/// `Σ w_k·A_k·B_k` of `target`, without LoRA's scale.
pub(super) fn mean_of_products(server: &Server, uploads: &[Upload], target: usize) -> Stack {
    let mut sum = empty(server, target);
    held(server, uploads, target).iter().for_each(|h| sum.push(&h.a, &h.b, h.weight));
    sum
}

/// The same for every target, side by side on all threads.
pub(super) fn for_each_target<T: Send>(
    server: &Server,
    one: impl Fn(usize) -> Result<T, AlgebraError> + Sync + Send,
) -> Result<Vec<T>, FederationError> {
    let found: Result<Vec<T>, AlgebraError> = (0..server.adapter.targets.len()).into_par_iter().map(one).collect();
    Ok(found?)
}

/// Puts the leading part of `svd` into the adapter's slots of `target`, √S on both sides. Slots beyond the rank of what
/// was summed keep their A and get B = 0: they add nothing, and can still learn.
pub(super) fn place(adapter: &mut Adapter, target: usize, svd: &Svd) {
    let (rank, used) = (adapter.rank, svd.rank());
    let (mut a, b) = svd.split(rank);
    let old = &adapter.a[target];
    for row in 0..a.rows {
        for slot in used.min(rank)..rank {
            a.data[row * rank + slot] = old.data[row * rank + slot];
        }
    }
    (adapter.a[target], adapter.b[target]) = (a, b);
}

/// The head's average movement, added.
pub(super) fn average_head(adapter: &mut Adapter, uploads: &[Upload]) {
    let uploads = weighted(uploads);
    for (i, tensor) in adapter.head.iter_mut().enumerate().take(uploads.first().map_or(0, |(_, u)| u.head.len())) {
        for (at, value) in tensor.value.data.iter_mut().enumerate() {
            let moved: f64 = uploads.iter().map(|(w, u)| w * f64::from(u.head[i].data[at])).sum();
            *value = (f64::from(*value) + moved) as f32;
        }
    }
}

/// Merges `updates` (LoRA's scale included) into the backbone. A log that has grown past one and a half times the
/// width of its target is taken together, without loss beyond f32 rounding.
pub(super) fn merge(server: &mut Server, updates: Vec<(Matrix, Matrix)>) -> Result<(), FederationError> {
    let (a, b) = updates.into_iter().unzip();
    server.merged.push(a, b);
    let log = &server.merged;
    let together = for_each_target(server, |t| {
        let (a, b) = (&log.a[t], &log.b[t]);
        let width = a.rows.min(b.cols);
        if 2 * a.cols <= 3 * width {
            return Ok(None);
        }
        let mut all = empty(server, t);
        all.push(a, b, 1.0);
        all.compressed(width).map(Some)
    })?;
    for (t, factors) in together.into_iter().enumerate() {
        if let Some(factors) = factors {
            (server.merged.a[t], server.merged.b[t]) = factors;
        }
    }
    Ok(())
}

/// The adapter as a fresh start for the next round that every client draws for itself: A by the seed, B zero. The head
/// stays.
pub(super) fn restart(server: &mut Server, seed: u64, init: AdapterInit) {
    let mut rng = stream(seed, Use::Restart, server.round as u64 + 1, 0, 0);
    let Adapter { rank, alpha, targets, head, .. } = server.adapter.clone();
    server.adapter = Adapter::fresh(&targets, rank, alpha, init, head, &mut rng);
}
