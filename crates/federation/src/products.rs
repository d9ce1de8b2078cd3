//! What strategies need that work with the product of a client's factors rather than with each factor alone.

use bonfire_engine::Upload;
use bonfire_models::{Adapter, Factor, Matrix};

use crate::algebra::Stack;
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

/// A client's factors after training: its slots in their places, zeros in those it does not have.
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

/// Merges `share · Σ w_k·s·A_k·B_k` of every target into the backbone, exactly: clients' factors side by side.
///
/// # Errors
/// Numbers that are not finite.
pub(crate) fn merge_products(server: &mut Server, uploads: &[&Upload], share: f64) -> Result<(), FederationError> {
    let weights = weights(uploads);
    let scale = share * server.adapter.scale();
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for (t, target) in server.adapter.targets.iter().enumerate() {
        let mut stack = Stack::new(target.d_in, target.d_out);
        for (upload, weight) in uploads.iter().zip(&weights) {
            let slots = upload.slots.of(t);
            let (own_a, own_b) = trained(&server.adapter, upload, t);
            // Only the slots this client has: the others are empty and would be sent for nothing.
            stack.push(&own_a.transposed().rows(&slots).transposed(), &own_b.rows(&slots), weight * scale);
        }
        let (left, right) = stack.factors();
        a.push(left);
        b.push(right);
    }
    merge(server, a, b)
}

/// Adds an update `a·b` of every target (scale included) to what is merged into the backbone. Where the log has grown
/// wider than its matrices it is factored anew, which loses no more than f32's rounding.
///
/// # Errors
/// Numbers that are not finite.
pub(crate) fn merge(server: &mut Server, a: Vec<Matrix>, b: Vec<Matrix>) -> Result<(), FederationError> {
    server.merged.push(a, b);
    for (t, target) in server.adapter.targets.iter().enumerate() {
        let most = target.d_in.min(target.d_out);
        if server.merged.a[t].cols > most {
            let mut stack = Stack::new(target.d_in, target.d_out);
            stack.push(&server.merged.a[t], &server.merged.b[t], 1.0);
            (server.merged.a[t], server.merged.b[t]) = stack.compressed(most)?;
        }
    }
    Ok(())
}
