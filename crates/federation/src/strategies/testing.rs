//! Small random servers and uploads for the strategies' tests, and dense references in f64.

use bonfire_engine::{Active, ClientMemory, Slots, TargetSlots, Upload};
use bonfire_models::{Adapter, Factor, HeadTensor, Matrix, Target, TargetKind, standard_normal};
use rand::{Rng, SeedableRng};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::client_products::{in_order, trained, weights};
use crate::{Server, Settings, StrategySettings};

/// A part of a configuration.
pub(crate) fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("valid settings")
}

/// Settings of these sections and `strategy`; nothing else is asked for.
pub(crate) fn settings(clients: Value, adapter: Value, train: Value, strategy: StrategySettings) -> Settings {
    Settings {
        clients: read(clients),
        adapter: read(adapter),
        train: read(train),
        strategy,
        server: read(json!({})),
        privacy: None,
        attack: None,
        wire: Default::default(),
        evaluate: read(json!({})),
        engine: read(json!({})),
    }
}

fn random(rows: usize, cols: usize, rng: &mut impl Rng) -> Matrix {
    Matrix::new(rows, cols, (0..rows * cols).map(|_| (0.3 * standard_normal(rng)) as f32).collect())
}

/// A server with two targets in two layers (5 x 6 and 7 x 4), rank `rank`, scale 2, all numbers at random.
pub(crate) fn server(rank: usize, seed: u64) -> Server {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let target = |(layer, d_in, d_out): (usize, usize, usize)| Target {
        name: format!("layer.{layer}.query"),
        kind: TargetKind::Query,
        layer,
        d_in,
        d_out,
    };
    let targets: Vec<Target> = [(0, 5, 6), (1, 7, 4)].map(target).to_vec();
    let a = targets.iter().map(|t| random(t.d_in, rank, &mut rng)).collect();
    let b = targets.iter().map(|t| random(rank, t.d_out, &mut rng)).collect();
    let head = vec![HeadTensor { name: "classifier.weight".into(), value: random(3, 2, &mut rng) }];
    Server::new(Adapter { rank, alpha: 2.0 * rank as f64, targets, a, b, core: vec![], head, weights: vec![] })
}

/// One upload a client: client `k` has `3k + 1` examples and the first `ranks[k]` slots.
pub(crate) fn uploads(server: &Server, factors: &[Factor], ranks: &[usize], seed: u64) -> Vec<Upload> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let adapter = &server.adapter;
    let one = |(client, &rank): (usize, &usize)| {
        let list = |factor: Factor, rng: &mut rand_chacha::ChaCha8Rng| {
            let width = |t: usize| adapter.slot_rows(factor, t).cols;
            (0..adapter.targets.len()).map(|t| random(rank, width(t), rng)).collect()
        };
        Upload {
            client,
            examples: 3 * client + 1,
            active: Active::Both,
            slots: Slots::Given { rank: adapter.rank, slots: TargetSlots::first(rank, adapter.targets.len()) },
            factors: factors.iter().map(|&f| (f, list(f, &mut rng))).collect(),
            weights: vec![],
            head: vec![],
            aux: vec![],
            coded: None,
            kept: ClientMemory::default(),
            loss: 0.0,
            steps: 4,
            tokens: 0,
        }
    };
    ranks.iter().enumerate().map(one).collect()
}

/// `s·A·B` of a target, dense, row by row.
pub(crate) fn product_of(adapter: &Adapter, target: usize) -> Vec<f64> {
    dense(&adapter.a[target], &adapter.b[target]).into_iter().map(|v| v * adapter.scale()).collect()
}

/// `A·B` in f64.
pub(crate) fn dense(a: &Matrix, b: &Matrix) -> Vec<f64> {
    let at = |r: usize, c: usize| {
        (0..a.cols).map(|i| f64::from(a.data[r * a.cols + i]) * f64::from(b.data[i * b.cols + c])).sum::<f64>()
    };
    (0..a.rows).flat_map(|r| (0..b.cols).map(move |c| (r, c))).map(|(r, c)| at(r, c)).collect()
}

/// Frobenius norm of the difference.
pub(crate) fn apart(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt()
}

/// Singular values of a dense matrix of `cols` columns, descending.
pub(crate) fn singular_values(dense: &[f64], cols: usize) -> Vec<f64> {
    let m = faer::Mat::from_fn(dense.len() / cols, cols, |i, j| dense[i * cols + j]);
    m.singular_values().expect("it converges")
}

/// How far the nearest matrix of `rank` is from a dense one (Eckart and Young).
pub(crate) fn beyond(rank: usize, dense: &[f64], cols: usize) -> f64 {
    singular_values(dense, cols).iter().skip(rank).map(|s| s * s).sum::<f64>().sqrt()
}

/// That the columns of a matrix are orthonormal.
#[track_caller]
pub(crate) fn check_orthonormal(m: &Matrix) {
    let gram = m.transposed().matmul(m);
    let one = |at: usize| f32::from(u8::from(at / gram.cols == at % gram.cols));
    assert!(gram.data.iter().enumerate().all(|(at, v)| (v - one(at)).abs() < 1e-5), "{gram:?}");
}

/// `Σ w_k·s·A_k·B_k` of every target, dense: what exact aggregation gives.
pub(crate) fn dense_mean_of_products(before: &Server, uploads: &[Upload]) -> Vec<Vec<f64>> {
    let uploads = in_order(uploads);
    let weights = weights(&uploads);
    let mean = |t: usize| {
        let mut sum = vec![0.0; before.adapter.targets[t].d_in * before.adapter.targets[t].d_out];
        for (upload, weight) in uploads.iter().zip(&weights) {
            let (a, b) = trained(&before.adapter, upload, t);
            let product = dense(&a, &b);
            sum.iter_mut().zip(product).for_each(|(s, v)| *s += weight * before.adapter.scale() * v);
        }
        sum
    };
    (0..before.adapter.targets.len()).map(mean).collect()
}
