//! The adapter on the host: plain numbers that the server keeps, averages, writes and reads.

use rand::{Rng, RngExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Factor, Target};

/// A matrix on the host, row-major.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// `rows · cols` numbers.
    pub data: Vec<f32>,
}

impl Matrix {
    /// A matrix of zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Matrix { rows, cols, data: vec![0.0; rows * cols] }
    }

    /// A matrix from its rows.
    ///
    /// # Panics
    /// When `data` is not `rows · cols` long.
    pub fn new(rows: usize, cols: usize, data: Vec<f32>) -> Self {
        assert_eq!(data.len(), rows * cols, "a matrix of {rows} x {cols}");
        Matrix { rows, cols, data }
    }

    /// Rows and columns exchanged.
    pub fn transposed(&self) -> Matrix {
        // Block by block: a column at a time would read a cache line for every number of a large matrix.
        const BLOCK: usize = 32;
        let mut data = vec![0.0; self.data.len()];
        let blocks = (0..self.rows).step_by(BLOCK).flat_map(|r| (0..self.cols).step_by(BLOCK).map(move |c| (r, c)));
        for (top, left) in blocks {
            for r in top..self.rows.min(top + BLOCK) {
                for c in left..self.cols.min(left + BLOCK) {
                    data[c * self.rows + r] = self.data[r * self.cols + c];
                }
            }
        }
        Matrix { rows: self.cols, cols: self.rows, data }
    }

    /// Some of the rows, in the order given.
    pub fn rows(&self, chosen: &[usize]) -> Matrix {
        let data = chosen.iter().flat_map(|r| &self.data[r * self.cols..(r + 1) * self.cols]).copied().collect();
        Matrix { rows: chosen.len(), cols: self.cols, data }
    }

    /// The product with `other`, in f64 sums; for tests and small matrices.
    pub fn matmul(&self, other: &Matrix) -> Matrix {
        assert_eq!(self.cols, other.rows, "inner sizes agree");
        let at = |r: usize, c: usize| {
            (0..self.cols)
                .map(|i| f64::from(self.data[r * self.cols + i]) * f64::from(other.data[i * other.cols + c]))
                .sum::<f64>() as f32
        };
        let data = (0..self.rows).flat_map(|r| (0..other.cols).map(move |c| at(r, c))).collect();
        Matrix { rows: self.rows, cols: other.cols, data }
    }
}

/// A tensor of the classifier head, in row-vector orientation: weights `[in, out]`, biases `[1, out]`.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadTensor {
    /// Parameter path as Hugging Face names it, e.g. `classifier.dense.weight`.
    pub name: String,
    /// Its values.
    pub value: Matrix,
}

/// How the A factors start; B starts at zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterInit {
    /// Uniform in ±1/√d_in: PEFT's default, Kaiming-uniform with a = √5.
    #[default]
    Kaiming,
    /// Normal with deviation 1/rank: PEFT's "gaussian".
    Gaussian,
}

/// A and B of every target, and the head: what a federation trains.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// Global rank, slots of every target.
    pub rank: usize,
    /// LoRA's alpha; the scale is `alpha / rank`.
    pub alpha: f64,
    /// The linears that carry it.
    pub targets: Vec<Target>,
    /// `[d_in, R]` of every target.
    pub a: Vec<Matrix>,
    /// `[R, d_out]` of every target.
    pub b: Vec<Matrix>,
    /// What stands between A and B of every target, `[R, R]` or a diagonal `[R, 1]`; empty for plain LoRA.
    pub core: Vec<Matrix>,
    /// The head's tensors, trained or not: an exported adapter needs them.
    pub head: Vec<HeadTensor>,
    /// In full fine-tuning every tensor of the encoder, in the order of [`crate::Model::weights`], in place of the
    /// backbone's own; else empty.
    pub weights: Vec<Matrix>,
}

impl Adapter {
    /// A fresh adapter: A drawn from `rng` in target order, B zero, so that it changes nothing yet.
    pub fn fresh(
        targets: &[Target],
        rank: usize,
        alpha: f64,
        init: AdapterInit,
        head: Vec<HeadTensor>,
        rng: &mut impl Rng,
    ) -> Self {
        let mut draw = |t: &Target| {
            let bound = 1.0 / (t.d_in as f64).sqrt();
            let mut one = || match init {
                AdapterInit::Kaiming => rng.random_range(-bound..bound) as f32,
                AdapterInit::Gaussian => (standard_normal(rng) / rank as f64) as f32,
            };
            // Drawn slot by slot, so that the first slots of a larger rank equal those of a smaller one (Kaiming).
            let slots: Vec<f32> = (0..rank * t.d_in).map(|_| one()).collect();
            Matrix::new(rank, t.d_in, slots).transposed()
        };
        Adapter {
            rank,
            alpha,
            targets: targets.to_vec(),
            a: targets.iter().map(&mut draw).collect(),
            b: targets.iter().map(|t| Matrix::zeros(rank, t.d_out)).collect(),
            core: Vec::new(),
            head,
            weights: Vec::new(),
        }
    }

    /// For full fine-tuning: no linear carries an adapter, the weights themselves are what a federation trains.
    pub fn of_weights(weights: Vec<Matrix>, head: Vec<HeadTensor>) -> Self {
        let (a, b, core) = (Vec::new(), Vec::new(), Vec::new());
        Adapter { rank: 1, alpha: 1.0, targets: Vec::new(), a, b, core, head, weights }
    }

    /// LoRA's scale `s = alpha / rank`.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// The matrices of `factor`, in target order.
    pub fn factor(&self, factor: Factor) -> &[Matrix] {
        match factor {
            Factor::A => &self.a,
            Factor::B => &self.b,
            Factor::Core => &self.core,
        }
    }

    /// The matrices of `factor`, to be changed.
    pub fn factor_mut(&mut self, factor: Factor) -> &mut [Matrix] {
        match factor {
            Factor::A => &mut self.a,
            Factor::B => &mut self.b,
            Factor::Core => &mut self.core,
        }
    }

    /// The same update as plain LoRA: what stands between A and B goes into B.
    pub fn plain(&self) -> Adapter {
        let into = |(core, b): (&Matrix, &Matrix)| {
            if core.cols == 1 && core.rows == b.rows {
                let rows = b.data.chunks(b.cols.max(1)).zip(&core.data);
                Matrix::new(b.rows, b.cols, rows.flat_map(|(row, gate)| row.iter().map(move |v| v * gate)).collect())
            } else {
                core.matmul(b)
            }
        };
        if self.core.is_empty() {
            self.clone()
        } else {
            let b = self.core.iter().zip(&self.b).map(into).collect();
            Adapter { b, core: Vec::new(), ..self.clone() }
        }
    }

    /// A slot's vectors side by side: `[slots, d]`, one row a slot, as uploads hold them.
    pub fn slot_rows(&self, factor: Factor, target: usize) -> Matrix {
        match factor {
            Factor::A => self.a[target].transposed(),
            _ => self.factor(factor)[target].clone(),
        }
    }

    /// Scalars in `factor` over all targets.
    pub fn factor_params(&self, factor: Factor) -> u64 {
        self.factor(factor).iter().map(|m| m.data.len() as u64).sum()
    }

    /// Scalars in the weights that full fine-tuning trains.
    pub fn weight_params(&self) -> u64 {
        self.weights.iter().map(|m| m.data.len() as u64).sum()
    }

    /// Scalars in the head.
    pub fn head_params(&self) -> u64 {
        self.head.iter().map(|t| t.value.data.len() as u64).sum()
    }

    /// Whether every number is finite.
    pub fn is_finite(&self) -> bool {
        let heads = self.head.iter().map(|t| &t.value);
        let factors = self.a.iter().chain(&self.b).chain(&self.core);
        factors.chain(heads).chain(&self.weights).all(|m| m.data.iter().all(|v| v.is_finite()))
    }
}

/// A standard normal number (Box-Muller).
pub fn standard_normal(rng: &mut (impl Rng + ?Sized)) -> f64 {
    let u: f64 = 1.0 - rng.random::<f64>();
    let v: f64 = rng.random();
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
