//! From uploads to the next adapter, for every strategy that averages movements: how values of clients are combined
//! (mean, median, trimmed mean), what the server's optimizer makes of it, and the noise of central privacy.

use bonfire_data::random::{NoiseKey, Use};
use bonfire_engine::{Role, RoundSchedule, Upload};
use bonfire_models::{Adapter, Factor, Matrix, standard_normal};

use crate::client_products::in_order;
use crate::fair::{Fair, Weight};
use crate::robust::{believed, near_median};
use crate::server_optimizer::{Moved, step};
use crate::smoothing::smooth;
use crate::{Aggregation, Norm, ServerOptimizer, State};

/// How the server combines movements; `Rule::default()` is plain FedAvg.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// How the clients' values of one number become one.
    pub aggregation: Aggregation,
    /// What the server makes of that.
    pub optimizer: ServerOptimizer,
    /// How its learning rate moves over so many rounds.
    pub schedule: Option<(RoundSchedule, usize)>,
    /// Noise on the mean.
    pub noise: Option<CentralNoise>,
    /// Clients weigh the more the worse the model serves them, by q-FedAvg.
    pub fair: Option<Fair>,
    /// σ of the Laplacian smoothing of what factors moved by, after the noise; 0: none.
    pub smoothing: f64,
}

/// Gaussian noise on the mean of clipped uploads (DP-FedAvg, McMahan et al., arXiv 1710.06963).
#[derive(Clone, Debug, PartialEq)]
pub struct CentralNoise {
    /// Noise multiplier z.
    pub multiplier: f64,
    /// The norm that uploads are clipped to, C.
    pub clip: f64,
    /// Clients expected in a round, m: every client weighs `1/m`, and the noise's deviation is `z·C/m`.
    pub expected: f64,
    /// What the noise is drawn from.
    pub key: NoiseKey,
}

/// Adds the clients' average movement to `adapter`: `X ← X + Σ w_k ΔX_k` with `w_k = n_k / Σ n` over the uploads.
///
/// Slots that a client did not upload count as zero (LoRA-A², algorithm 1); with [`Norm::Choosers`] the weights of a
/// slot are those of its choosers, made to sum to one. Sums are in f64 and in the order of client numbers, so the
/// order in which uploads arrive changes nothing.
pub fn average(adapter: &mut Adapter, uploads: &[Upload], norm: Norm) {
    Rule::default().apply(adapter, &mut State::default(), 0, uploads, norm);
}

impl Rule {
    /// Brings `adapter` from the start of `round` to its end; `state` is the server's memory.
    pub fn apply(&self, adapter: &mut Adapter, state: &mut State, round: usize, uploads: &[Upload], norm: Norm) {
        let uploads = in_order(uploads);
        let believed = believed(self.aggregation, &uploads);
        let uploads: Vec<&Upload> = believed.iter().map(|upload| upload.as_ref()).collect();
        let Some(first) = uploads.first() else { return };
        let optimizer = self.optimizer.at_rate(self.schedule.map_or(1.0, |(schedule, of)| schedule.factor(round, of)));
        let weights = self.weights(&uploads);
        let mut number = 0;
        let mut noised = |moved: &mut Moved| {
            number += 1;
            self.add_noise(moved, round, number);
        };
        for (f, &(factor, _)) in first.factors.iter().enumerate() {
            for target in 0..adapter.targets.len() {
                let lists: Vec<_> = uploads.iter().map(|u| (u.slots.of(target), &u.factors[f].1[target])).collect();
                let matrix = &mut adapter.factor_mut(factor)[target];
                let (rank, width) =
                    if factor == Factor::A { (matrix.cols, matrix.rows) } else { (matrix.rows, matrix.cols) };
                let mut moved = self.combine(&weights, &lists, rank, width, norm);
                noised(&mut moved);
                smooth(&mut moved.values, width, self.smoothing);
                step(optimizer, state, Role::Factor(target, factor), &mut moved);
                add(matrix, factor == Factor::A, &moved);
            }
        }
        for (i, matrix) in adapter.weights.iter_mut().enumerate().take(first.weights.len()) {
            let lists: Vec<_> = uploads.iter().map(|u| ((0..matrix.rows).collect(), &u.weights[i])).collect();
            let mut moved = self.combine(&weights, &lists, matrix.rows, matrix.cols, Norm::All);
            noised(&mut moved);
            step(optimizer, state, Role::Weight(i), &mut moved);
            add(matrix, false, &moved);
        }
        for i in 0..first.head.len() {
            let matrix = &mut adapter.head[i].value;
            let lists: Vec<_> = uploads.iter().map(|u| ((0..matrix.rows).collect(), &u.head[i])).collect();
            let mut moved = self.combine(&weights, &lists, matrix.rows, matrix.cols, Norm::All);
            noised(&mut moved);
            step(optimizer, state, Role::Head(i), &mut moved);
            add(matrix, false, &moved);
        }
    }

    /// What each upload weighs in a mean.
    fn weights(&self, uploads: &[&Upload]) -> Vec<Weight> {
        match &self.fair {
            Some(fair) => fair.weights(uploads),
            None if self.noise.is_some() => uploads.iter().map(|_| Weight::plain(1.0)).collect(),
            None => uploads.iter().map(|u| Weight::plain(u.examples as f64)).collect(),
        }
    }

    /// One tensor of `rank` rows; of every upload what it weighs, its row numbers and rows.
    fn combine(
        &self,
        weights: &[Weight],
        lists: &[(Vec<usize>, &Matrix)],
        rank: usize,
        width: usize,
        norm: Norm,
    ) -> Moved {
        let total = self.noise.as_ref().map_or_else(|| weights.iter().map(|w| w.below).sum(), |noise| noise.expected);
        let mut chosen = vec![Vec::new(); rank];
        for (weight, (slots, vectors)) in weights.iter().zip(lists) {
            for (row, &slot) in slots.iter().enumerate() {
                chosen[slot].push((*weight, &vectors.data[row * width..(row + 1) * width]));
            }
        }
        let mut moved = Moved { values: vec![0.0; rank * width], width, touched: vec![false; rank] };
        for (slot, rows) in chosen.iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            moved.touched[slot] = true;
            let out = &mut moved.values[slot * width..(slot + 1) * width];
            match self.aggregation {
                Aggregation::Mean {} | Aggregation::NormClip { .. } | Aggregation::QFedAvg { .. } => {
                    let below = match norm {
                        Norm::All => total,
                        Norm::Choosers => rows.iter().map(|(weight, _)| weight.below).sum(),
                    };
                    for (weight, row) in rows {
                        out.iter_mut().zip(*row).for_each(|(sum, &v)| *sum += weight.above * f64::from(v));
                    }
                    out.iter_mut().for_each(|v| *v /= below);
                }
                aggregation => {
                    let absent = if norm == Norm::All { weights.len() - rows.len() } else { 0 };
                    robust(aggregation, rows, absent, out);
                }
            }
        }
        moved
    }

    fn add_noise(&self, moved: &mut Moved, round: usize, number: u64) {
        let Some(noise) = &self.noise else { return };
        let deviation = noise.multiplier * noise.clip / noise.expected;
        let mut rng = noise.key.stream(Use::Privacy, round as u64, u64::MAX, number);
        // Every row that exists, whoever moved it: the coordinator has seen to it that they all count as touched.
        for (row, touched) in moved.values.chunks_mut(moved.width.max(1)).zip(&moved.touched) {
            if *touched {
                row.iter_mut().for_each(|v| *v += deviation * standard_normal(rng.as_mut()));
            }
        }
    }
}

/// Median, trimmed mean (Yin et al., arXiv 1803.01498), what Bulyan makes of those it chose, or the plain mean of those that Krum did:
/// number by number and without weights; `absent` clients count as zero.
fn robust(aggregation: Aggregation, rows: &[(Weight, &[f32])], absent: usize, out: &mut [f64]) {
    let mut values = vec![0.0; rows.len() + absent];
    for (i, out) in out.iter_mut().enumerate() {
        values.fill(0.0);
        values.iter_mut().zip(rows).for_each(|(v, (_, row))| *v = f64::from(row[i]));
        values.sort_by(f64::total_cmp);
        let n = values.len();
        let cut = match aggregation {
            Aggregation::TrimmedMean { trim } => ((trim * n as f64) as usize).min((n - 1) / 2),
            Aggregation::Median {} => (n - 1) / 2,
            Aggregation::Bulyan { attackers } => {
                *out = near_median(&mut values, n.saturating_sub(2 * attackers));
                continue;
            }
            _ => 0,
        };
        let middle = &values[cut..n - cut];
        *out = middle.iter().sum::<f64>() / middle.len() as f64;
    }
}

/// Adds the rows that moved; where slots are columns, transposed. A slot nobody moved stays bit for bit as it is.
fn add(matrix: &mut Matrix, slots_are_columns: bool, moved: &Moved) {
    let rank = moved.touched.len();
    for slot in (0..rank).filter(|&slot| moved.touched[slot]) {
        for i in 0..moved.width {
            let at = if slots_are_columns { i * rank + slot } else { slot * moved.width + i };
            matrix.data[at] = (f64::from(matrix.data[at]) + moved.values[slot * moved.width + i]) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bonfire_engine::{Active, Slots};
    use bonfire_models::{Target, TargetKind};

    fn adapter() -> Adapter {
        let target = Target { name: "t".into(), kind: TargetKind::Query, layer: 0, d_in: 2, d_out: 3 };
        let (a, b) = (vec![Matrix::new(2, 2, vec![1.0; 4])], vec![Matrix::zeros(2, 3)]);
        Adapter { rank: 2, alpha: 2.0, targets: vec![target], a, b, core: vec![], head: vec![], weights: vec![] }
    }

    fn upload(client: usize, examples: usize, active: Active, slots: Vec<usize>, value: f32) -> Upload {
        let factor = active.factors()[0];
        let width = if factor == Factor::A { 2 } else { 3 };
        let vectors = Matrix::new(slots.len(), width, vec![value; slots.len() * width]);
        let slots = Slots::Chosen { rank: 2, slots: [slots].into_iter().collect() };
        Upload {
            client,
            examples,
            active,
            slots,
            factors: vec![(factor, vec![vectors])],
            weights: vec![],
            head: vec![],
            aux: vec![],
            coded: None,
            kept: Default::default(),
            loss: 0.0,
            steps: 1,
            tokens: 0,
        }
    }

    #[test]
    fn absent_slots_count_as_zero_or_not_at_all() {
        let uploads = [upload(0, 1, Active::B, vec![0], 4.0), upload(1, 3, Active::B, vec![0, 1], 8.0)];
        let mut all = adapter();
        average(&mut all, &uploads, Norm::All);
        assert_eq!(all.b[0].data, [7.0, 7.0, 7.0, 6.0, 6.0, 6.0]);
        let mut choosers = adapter();
        average(&mut choosers, &uploads, Norm::Choosers);
        assert_eq!(choosers.b[0].data, [7.0, 7.0, 7.0, 8.0, 8.0, 8.0]);
    }

    #[test]
    fn slots_of_a_are_columns_and_unchosen_ones_stay() {
        let mut it = adapter();
        average(&mut it, &[upload(0, 1, Active::A, vec![1], 0.5)], Norm::All);
        assert_eq!(it.a[0].data, [1.0, 1.5, 1.0, 1.5]);
        assert_eq!(it.b, adapter().b);
        average(&mut it, &[upload(0, 1, Active::A, vec![], 0.5)], Norm::All);
        assert_eq!(it.a[0].data, [1.0, 1.5, 1.0, 1.5], "a round in which nobody chose a slot changes nothing");
    }

    #[test]
    fn the_order_of_uploads_changes_nothing() {
        let mut uploads = vec![
            upload(0, 1, Active::B, vec![0], 0.1),
            upload(1, 3, Active::B, vec![0], 0.7),
            upload(2, 9, Active::B, vec![0, 1], -0.3),
        ];
        let mut first = adapter();
        average(&mut first, &uploads, Norm::All);
        uploads.reverse();
        let mut second = adapter();
        average(&mut second, &uploads, Norm::All);
        assert_eq!(first, second);
    }
}
