//! Servers, uploads and dense references for tests: small random numbers, unequal weights, unequal ranks.

use bonfire_engine::{Active, Slots, Upload};
use bonfire_models::{Adapter, Factor, HeadTensor, Matrix, Target, TargetKind};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Server;

/// Slots of every target.
pub const RANK: usize = 4;
/// Widths of the two targets.
pub const WIDTHS: [(usize, usize); 2] = [(9, 7), (6, 11)];
/// Examples of the three clients.
pub const EXAMPLES: [usize; 3] = [5, 1, 14];

pub fn random(rows: usize, cols: usize, rng: &mut ChaCha8Rng) -> Matrix {
    Matrix::new(rows, cols, (0..rows * cols).map(|_| rng.random_range(-1.0f32..1.0)).collect())
}

/// A server in the middle of a run: both factors are random.
pub fn server() -> Server {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let target = |(layer, &(d_in, d_out)): (usize, &(usize, usize))| Target {
        name: format!("t{layer}"),
        kind: TargetKind::Query,
        layer,
        d_in,
        d_out,
    };
    let targets: Vec<Target> = WIDTHS.iter().enumerate().map(target).collect();
    let a = WIDTHS.iter().map(|w| random(w.0, RANK, &mut rng)).collect();
    let b = WIDTHS.iter().map(|w| random(RANK, w.1, &mut rng)).collect();
    let head = vec![HeadTensor { name: "h".into(), value: random(2, 3, &mut rng) }];
    Server::new(Adapter { rank: RANK, alpha: 8.0, targets, a, b, core: vec![], head })
}

/// An upload of every client; client `k` has the first `ranks[k]` slots. The last arrives first.
pub fn uploads(active: Active, ranks: [usize; 3]) -> Vec<Upload> {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut one = |client: usize| {
        let n = ranks[client];
        let width = |factor: Factor, w: (usize, usize)| match factor {
            Factor::A => w.0,
            Factor::B => w.1,
            Factor::Core => RANK,
        };
        let of = |&factor: &Factor, rng: &mut ChaCha8Rng| {
            (factor, WIDTHS.iter().map(|w| random(n, width(factor, *w), rng)).collect())
        };
        Upload {
            client,
            examples: EXAMPLES[client],
            active,
            slots: Slots::Given { rank: RANK, slots: vec![(0..n).collect(); WIDTHS.len()] },
            factors: active.factors().iter().map(|f| of(f, &mut rng)).collect(),
            head: vec![random(2, 3, &mut rng)],
            aux: vec![],
            kept: Default::default(),
            loss: 0.0,
            steps: 1,
            tokens: 0,
        }
    };
    (0..3).rev().map(|client| one(client)).collect()
}

pub fn weight(client: usize) -> f64 {
    EXAMPLES[client] as f64 / EXAMPLES.iter().sum::<usize>() as f64
}

/// A dense matrix in f64, row-major.
#[derive(Clone, Debug)]
pub struct Dense {
    pub cols: usize,
    pub data: Vec<f64>,
}

impl Dense {
    pub fn zeros(target: usize) -> Self {
        let (rows, cols) = WIDTHS[target];
        Dense { cols, data: vec![0.0; rows * cols] }
    }

    /// Adds `weight·A[:, slots]·B[slots, :]`, loop by loop.
    pub fn add(&mut self, a: &Matrix, b: &Matrix, slots: std::ops::Range<usize>, weight: f64) {
        for (at, sum) in self.data.iter_mut().enumerate() {
            let (i, j) = (at / self.cols, at % self.cols);
            for s in slots.clone() {
                *sum += weight * f64::from(a.data[i * a.cols + s]) * f64::from(b.data[s * b.cols + j]);
            }
        }
    }

    pub fn norm(&self) -> f64 {
        self.data.iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    /// Frobenius norm of the difference.
    pub fn apart(&self, other: &Dense) -> f64 {
        self.data.iter().zip(&other.data).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt()
    }

    /// Descending.
    pub fn singular_values(&self) -> Vec<f64> {
        let m = faer::Mat::from_fn(self.data.len() / self.cols, self.cols, |i, j| self.data[i * self.cols + j]);
        m.singular_values().expect("it converges")
    }

    /// How far the nearest matrix of `rank` is.
    pub fn beyond(&self, rank: usize) -> f64 {
        self.singular_values().iter().skip(rank).map(|s| s * s).sum::<f64>().sqrt()
    }
}

/// What `client` holds of `target` at the end of the round: A `[d_in, RANK]` and B, slots it has not at the start.
pub fn end(server: &Server, uploads: &[Upload], client: usize, target: usize) -> (Matrix, Matrix) {
    let upload = uploads.iter().find(|u| u.client == client).expect("an upload a client");
    let (mut a, mut b) = (server.adapter.a[target].clone(), server.adapter.b[target].clone());
    for (factor, list) in &upload.factors {
        for slot in 0..list[target].rows {
            for i in 0..list[target].cols {
                let moved = list[target].data[slot * list[target].cols + i];
                match factor {
                    Factor::A => a.data[i * RANK + slot] += moved,
                    Factor::B => b.data[slot * b.cols + i] += moved,
                    Factor::Core => {}
                }
            }
        }
    }
    (a, b)
}

/// `Σ w_k·A_k·B_k`, dense.
pub fn mean_of_products(server: &Server, uploads: &[Upload], ranks: [usize; 3], target: usize) -> Dense {
    let mut sum = Dense::zeros(target);
    for (client, rank) in ranks.into_iter().enumerate() {
        let (a, b) = end(server, uploads, client, target);
        sum.add(&a, &b, 0..rank, weight(client));
    }
    sum
}

/// The product of all of a server's model, without LoRA's scale, dense.
pub fn model(server: &Server, target: usize) -> Dense {
    let model = server.model();
    let mut product = Dense::zeros(target);
    let per_scale = model.scale() / server.adapter.scale();
    product.add(&model.a[target], &model.b[target], 0..model.rank, per_scale);
    product
}

/// That the head moved by its average.
#[track_caller]
pub fn check_head(before: &Server, after: &Server, uploads: &[Upload]) {
    for (i, value) in after.adapter.head[0].value.data.iter().enumerate() {
        let moved: f64 = uploads.iter().map(|u| weight(u.client) * f64::from(u.head[0].data[i])).sum();
        assert!((f64::from(*value) - f64::from(before.adapter.head[0].value.data[i]) - moved).abs() < 1e-6);
    }
}
