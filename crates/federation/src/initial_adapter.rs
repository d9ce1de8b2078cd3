//! What the server holds before the first round: an adapter drawn from the seed, one that was trained before, or in full
//! fine-tuning the weights as they were read.

use std::path::Path;

use bonfire_data::random::{Use, stream};
use bonfire_models::{Adapter, Matrix, Model, TargetKind, peft};

use crate::strategies::Strategy;
use crate::{FederationError, Ledger, Server, Settings};

/// The first adapter of a run on `model`.
///
/// # Errors
/// A trained adapter that cannot be read, does not fit the model, or differs from the settings.
pub(crate) fn initial_adapter(settings: &Settings, model: &dyn Model) -> Result<Adapter, FederationError> {
    let (adapter, head) = (&settings.adapter, model.head().to_vec());
    if settings.strategy.traits().trains_weights {
        return Ok(Adapter::of_weights(model.weights().into_iter().map(|w| w.value).collect(), head));
    }
    let mut rng = stream(settings.train.seed, Use::AdapterInit, 0, 0, 0);
    let fresh = Adapter::fresh(model.targets(), adapter.rank, adapter.alpha, adapter.init.draw(), head, &mut rng);
    match adapter.init.folder() {
        None => Ok(fresh),
        Some(folder) => trained(folder, model, fresh),
    }
}

fn bad(key: &str, problem: String) -> FederationError {
    FederationError::Setting { key: key.into(), problem }
}

/// The adapter in `folder`. What it leaves empty is as in `fresh`: an A of zeros beside a B of zeros could never learn.
fn trained(folder: &Path, model: &dyn Model, mut fresh: Adapter) -> Result<Adapter, FederationError> {
    if !folder.is_dir() {
        let problem = format!("is \"{}\": neither \"kaiming\" nor \"gaussian\" nor a folder", folder.display());
        return Err(bad("adapter.init", problem));
    }
    let read = peft::read(folder, model.info(), model.task())
        .map_err(|e| bad("adapter.init", format!("names an adapter that cannot be used: {e}")))?;
    agree(folder, model, &fresh, &read)?;
    for (t, target) in fresh.targets.iter().enumerate() {
        // A linear that carries nothing in some layers is not in the file.
        let Some(at) = read.targets.iter().position(|other| other == target) else { continue };
        let (a, b) = (read.a[at].transposed(), &read.b[at]);
        let drawn = fresh.a[t].transposed();
        let is_empty = |m: &Matrix, slot: usize| m.data[slot * m.cols..(slot + 1) * m.cols].iter().all(|v| *v == 0.0);
        let rows = (0..read.rank).flat_map(|slot| {
            let from = if is_empty(&a, slot) && is_empty(b, slot) { &drawn } else { &a };
            from.data[slot * a.cols..(slot + 1) * a.cols].iter().copied()
        });
        fresh.a[t] = Matrix::new(a.rows, a.cols, rows.collect()).transposed();
        fresh.b[t].clone_from(b);
    }
    Ok(Adapter { head: read.head, ..fresh })
}

/// Whether the settings are the adapter's own; a run should not say one thing and do another.
fn agree(folder: &Path, model: &dyn Model, ours: &Adapter, read: &Adapter) -> Result<(), FederationError> {
    let name = folder.display();
    let kinds = |adapter: &Adapter| {
        let mut kinds: Vec<TargetKind> = adapter.targets.iter().map(|t| t.kind).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    };
    let list = |kinds: &[TargetKind]| {
        let names: Vec<&str> = kinds.iter().map(|kind| kind.name(model.info().architecture)).collect();
        format!("[\"{}\"]", names.join("\", \""))
    };
    let (own, other) = (kinds(ours), kinds(read));
    if own != other {
        let (own, other) = (list(&own), list(&other));
        let problem = format!("is {own}, but the adapter in {name} adapts others: write adapter.targets = {other}");
        return Err(bad("adapter.targets", problem));
    }
    if ours.rank != read.rank {
        let (own, other) = (ours.rank, read.rank);
        let problem = format!("is {own}, but the adapter in {name} has rank {other}: write adapter.rank = {other}");
        return Err(bad("adapter.rank", problem));
    }
    if (ours.alpha - read.alpha).abs() > 1e-6 * read.alpha.abs() {
        let (own, other) = (ours.alpha, read.alpha);
        let problem = format!(
            "is {own}, but the adapter in {name} has a scale of alpha {other} at rank {}: write adapter.alpha = {other:?}",
            read.rank
        );
        return Err(bad("adapter.alpha", problem));
    }
    Ok(())
}

/// Fits a start that was trained before to the method, and lets the ledger know that clients lack it. Methods whose
/// clients draw every start from the seed have the trained part merged into the backbone, as all that they learn.
pub(crate) fn begin_trained(strategy: &dyn Strategy, settings: &Settings, server: &mut Server, ledger: &mut Ledger) {
    if strategy.plan(server).seeded {
        let (old, scale) = (&server.adapter, server.adapter.scale() as f32);
        let scaled = |b: &Matrix| Matrix::new(b.rows, b.cols, b.data.iter().map(|v| v * scale).collect());
        let (a, b) = (old.a.clone(), old.b.iter().map(scaled).collect());
        server.merged.push(a, b);
        let mut rng = stream(settings.train.seed, Use::AdapterInit, 0, 0, 0);
        let (init, old) = (settings.adapter.init.draw(), &server.adapter);
        let fresh = Adapter::fresh(&old.targets, old.rank, old.alpha, init, Vec::new(), &mut rng);
        (server.adapter.a, server.adapter.b) = (fresh.a, fresh.b);
    }
    ledger.starts_trained(server);
}
