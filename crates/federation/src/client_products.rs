//! What strategies need that work with the product of a client's factors rather than with each factor alone.

use bonfire_engine::Upload;
use bonfire_models::{Adapter, Factor, Matrix};
use rayon::prelude::*;

use crate::algebra::{AlgebraError, Stack, Svd};
use crate::{FederationError, Server};

/// The uploads in the order of client numbers, so that their order of arrival changes nothing.
pub(crate) fn in_order(uploads: &[Upload]) -> Vec<&Upload> {
    let mut uploads: Vec<&Upload> = uploads.iter().collect();
    uploads.sort_by_key(|u| u.client);
    uploads
}

/// Each upload's weight `w_k = n_k / Σ n`.
pub(crate) fn weights(uploads: &[&Upload]) -> Vec<f64> {
    let total: f64 = uploads.iter().map(|u| u.examples as f64).sum();
    uploads.iter().map(|u| u.examples as f64 / total).collect()
}

/// A client's factors after training: its slots where they belong, zeros in those it does not have.
/// `(A [d_in, R], B [R, d_out])`.
///
/// # Panics
/// When the upload does not hold both factors.
pub(crate) fn trained(adapter: &Adapter, upload: &Upload, target: usize) -> (Matrix, Matrix) {
    let whole = |factor: Factor| {
        let (_, list) = upload.factors.iter().find(|(f, _)| *f == factor).expect("both factors were uploaded");
        let (moved, start) = (&list[target], adapter.slot_rows(factor, target));
        let mut end = Matrix::zeros(start.rows, start.cols);
        for (row, slot) in upload.slots.of(target).into_iter().enumerate() {
            let (from, to) = (row * moved.cols, slot * moved.cols);
            for i in 0..moved.cols {
                end.data[to + i] = start.data[to + i] + moved.data[from + i];
            }
        }
        end
    };
    (whole(Factor::A).transposed(), whole(Factor::B))
}

/// The empty sum of the shape of a target.
pub(crate) fn nothing(adapter: &Adapter, target: usize) -> Stack {
    let target = &adapter.targets[target];
    Stack::new(target.d_in, target.d_out)
}

/// `Σ w_k·A_k·B_k` of a target over the uploads, without LoRA's scale; `adapter` is what the clients started from.
/// Only slots that a client has are in it.
pub(crate) fn mean_of_products(adapter: &Adapter, uploads: &[&Upload], target: usize) -> Stack {
    let mut sum = nothing(adapter, target);
    for (upload, weight) in uploads.iter().zip(weights(uploads)) {
        let (a, b) = trained(adapter, upload, target);
        for slot in upload.slots.of(target) {
            sum.push_slots(&a, &b, slot..slot + 1, weight);
        }
    }
    sum
}

/// What `one` makes of every target, on all threads.
///
/// # Errors
/// The first of `one`, in target order.
pub(crate) fn each_target<T: Send>(
    adapter: &Adapter,
    one: impl Fn(usize) -> Result<T, AlgebraError> + Sync + Send,
) -> Result<Vec<T>, FederationError> {
    let all: Vec<Result<T, AlgebraError>> = (0..adapter.targets.len()).into_par_iter().map(one).collect();
    Ok(all.into_iter().collect::<Result<_, _>>()?)
}

/// Puts the leading part of `svd` into the slots of a target, √S on both sides. Slots beyond the rank of what was summed
/// keep their A and get B = 0: they add nothing, and can still learn.
pub(crate) fn set_from_svd(adapter: &mut Adapter, target: usize, svd: &Svd) {
    let rank = adapter.rank;
    let (mut a, b) = svd.split(rank);
    let old = &adapter.a[target];
    for slot in svd.rank().min(rank)..rank {
        (0..a.rows).for_each(|i| a.data[i * rank + slot] = old.data[i * rank + slot]);
    }
    (adapter.a[target], adapter.b[target]) = (a, b);
}

/// Merges `share · Σ w_k·s·A_k·B_k` of every target into the backbone, exactly: clients' factors side by side.
///
/// # Errors
/// Numbers that are not finite.
pub(crate) fn merge_products(server: &mut Server, uploads: &[&Upload], share: f64) -> Result<(), FederationError> {
    let (adapter, scale) = (&server.adapter, share * server.adapter.scale());
    let stacks = each_target(adapter, |t| Ok(mean_of_products(adapter, uploads, t).scaled(scale).factors()))?;
    merge(server, stacks)
}

/// Adds an update `(A, B)` of every target (scale included) to what is merged into the backbone. A log that has grown
/// half as wide again as its matrices is factored anew, which loses no more than f32's rounding; not at every step, as
/// that costs an SVD.
///
/// # Errors
/// Numbers that are not finite.
pub(crate) fn merge(server: &mut Server, updates: Vec<(Matrix, Matrix)>) -> Result<(), FederationError> {
    let (a, b) = updates.into_iter().unzip();
    server.merged.push(a, b);
    let (adapter, log) = (&server.adapter, &server.merged);
    let anew = each_target(adapter, |t| {
        let (a, b) = (&log.a[t], &log.b[t]);
        let most = a.rows.min(b.cols);
        if 2 * a.cols <= 3 * most {
            return Ok(None);
        }
        let mut all = nothing(adapter, t);
        all.push(a, b, 1.0);
        all.compressed(most).map(Some)
    })?;
    for (t, factors) in anew.into_iter().enumerate() {
        if let Some(factors) = factors {
            (server.merged.a[t], server.merged.b[t]) = factors;
        }
    }
    Ok(())
}
