//! q-FedAvg (Li, Sanjabi, Beirami and Smith, "Fair Resource Allocation in Federated Learning", ICLR 2020, arXiv 1905.10497, algorithm 2):
//! a client counts the more, the worse the model serves it. With F its loss before it trains and d its movement, by L = 1/η,
//!
//!   `w ← w + Σ F^q·L·d / Σ h`,  `h = q·F^(q−1)·L²·‖d‖² + L·F^q`,
//!
//! h being an upper bound of the Lipschitz constant of F^(q+1)/(q+1), so that one η, tuned for q = 0, serves every q. Sums run over
//! the round's clients, each counting once. With q = 0 that is their plain mean.

use bonfire_engine::{Role, Upload};
use bonfire_models::Factor;

/// Added to every loss, as in the published code, so that one of zero has powers.
const TINY: f64 = 1e-10;

/// What q-FedAvg knows of the objective.
#[derive(Clone, Debug, PartialEq)]
pub struct Fair {
    /// q: 0 is the plain mean, more serves the worst more.
    pub q: f64,
    /// L of A (and of the weights in full fine-tuning), of B, and of what stands between them.
    pub factors: [f64; 3],
    /// L of the head.
    pub head: f64,
}

/// What an upload weighs in a mean, and what it adds to the divisor: the same, but in q-FedAvg.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weight {
    /// What its movement is multiplied by.
    pub above: f64,
    /// What it adds to what the sum is divided by.
    pub below: f64,
}

impl Weight {
    /// Of a plain weighted mean.
    pub fn plain(weight: f64) -> Weight {
        Weight { above: weight, below: weight }
    }
}

impl Fair {
    /// Of each of the uploads. All are divided by L and by the highest loss's power, which leaves the quotient as it is and keeps
    /// powers finite: `F^q` and `F^q·(1 + q·L·‖d‖²/F)`. Where kinds of tensors have rates of their own, `L·‖d‖²` is the sum of their
    /// `‖d‖²/η`: the paper's formula in coordinates in which all rates are one.
    pub fn weights(&self, uploads: &[&Upload]) -> Vec<Weight> {
        let loss = |u: &&Upload| u.start_loss().unwrap_or(0.0).max(0.0) + TINY;
        let highest = uploads.iter().map(loss).fold(TINY, f64::max);
        let one = |upload: &&Upload| {
            let loss = loss(upload);
            let above = (loss / highest).powf(self.q);
            Weight { above, below: above * (1.0 + self.q * self.steepness(upload) / loss) }
        };
        uploads.iter().map(one).collect()
    }

    /// `L·‖d‖²` over all that the upload holds.
    fn steepness(&self, upload: &Upload) -> f64 {
        let of = |(role, matrix): (Role, &bonfire_models::Matrix)| {
            let square = matrix.data.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            // What has no rate has not moved.
            if square == 0.0 { 0.0 } else { self.lipschitz(role) * square }
        };
        upload.roles().zip(upload.matrices()).map(of).sum()
    }

    fn lipschitz(&self, role: Role) -> f64 {
        match role {
            Role::Factor(_, Factor::A) | Role::Weight(_) => self.factors[0],
            Role::Factor(_, Factor::B) => self.factors[1],
            Role::Factor(_, Factor::Core) => self.factors[2],
            Role::Head(_) => self.head,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Rule;
    use crate::strategies::testing::{server, uploads};
    use crate::{Norm, State};
    use bonfire_engine::Aux;
    use bonfire_models::{Adapter, Matrix};

    const LOSSES: [f32; 3] = [0.3, 1.7, 0.9];

    /// Three clients that hold all slots, with a head of 3 x 2 numbers and these losses.
    fn sent(server: &crate::Server) -> Vec<Upload> {
        let mut sent = uploads(server, &[Factor::A, Factor::B], &[3, 3, 3], 7);
        for (upload, loss) in sent.iter_mut().zip(LOSSES) {
            let numbers = (0..6).map(|i| 0.1 * (i as f32 - loss)).collect();
            upload.head = vec![Matrix::new(3, 2, numbers)];
            upload.aux = vec![(Aux::StartLoss, vec![Matrix::new(1, 1, vec![loss])])];
        }
        sent
    }

    fn after(fair: Fair, sent: &[Upload]) -> Adapter {
        let mut server = server(3, 5);
        let rule = Rule { fair: Some(fair), ..Rule::default() };
        rule.apply(&mut server.adapter, &mut State::default(), 1, sent, Norm::All);
        server.adapter
    }

    /// All numbers of an adapter, A slot by slot as uploads have it.
    fn flat(adapter: &Adapter) -> Vec<f64> {
        let a = (0..adapter.targets.len()).map(|t| adapter.slot_rows(Factor::A, t));
        let all: Vec<Matrix> =
            a.chain(adapter.b.iter().cloned()).chain(adapter.head.iter().map(|t| t.value.clone())).collect();
        all.iter().flat_map(|m| &m.data).map(|v| f64::from(*v)).collect()
    }

    fn movement(upload: &Upload) -> Vec<f64> {
        upload.matrices().flat_map(|m| &m.data).map(|v| f64::from(*v)).collect()
    }

    /// What the published code computes (litian96/fair_flearn, `trainers/qffedavg.py` and `fedbase.py::aggregate2`), in f64.
    fn published(before: &[f64], moved: &[Vec<f64>], losses: &[f64], q: f64, learning_rate: f64) -> Vec<f64> {
        let (mut deltas, mut hs) = (Vec::new(), Vec::new());
        for (movement, loss) in moved.iter().zip(losses) {
            let grads: Vec<f64> = movement.iter().map(|d| -d / learning_rate).collect();
            let norm_grad: f64 = grads.iter().map(|g| g * g).sum();
            deltas.push(grads.iter().map(|g| (loss + 1e-10).powf(q) * g).collect::<Vec<f64>>());
            hs.push(q * (loss + 1e-10).powf(q - 1.0) * norm_grad + (1.0 / learning_rate) * (loss + 1e-10).powf(q));
        }
        let denominator: f64 = hs.iter().sum();
        let update = |i: usize| deltas.iter().map(|delta| delta[i] / denominator).sum::<f64>();
        before.iter().enumerate().map(|(i, w)| w - update(i)).collect()
    }

    #[test]
    fn it_is_the_published_code() {
        let before = server(3, 5);
        let sent = sent(&before);
        let moved: Vec<Vec<f64>> = sent.iter().map(movement).collect();
        let losses = LOSSES.map(f64::from);
        for (q, rate) in [(0.0, 0.1), (0.2, 0.01), (1.0, 0.1), (2.5, 1.0), (15.0, 0.5)] {
            let fair = Fair { q, factors: [1.0 / rate; 3], head: 1.0 / rate };
            let expected = published(&flat(&before.adapter), &moved, &losses, q, rate);
            let found = flat(&after(fair, &sent));
            let off = expected.iter().zip(&found).map(|(e, f)| (e - f).abs()).fold(0.0, f64::max);
            // What the server adds is rounded to f32 once.
            assert!(off < 2e-7, "q = {q}: off by {off:.1e}");
        }
    }

    #[test]
    fn a_case_worked_out_by_hand() {
        // One number of B moves by 0.2 and by −0.4; losses 2 and 0.5; q = 1 and L = 10: h is L²·d² + L·F, so 4 + 20 and 16 + 5;
        // Σ F·L·d is 4 − 2. Of 45 that is 2.
        let before = server(3, 5);
        let one = |loss: f32, by: f32| {
            let mut upload = uploads(&before, &[Factor::B], &[3], 1).remove(0);
            upload.factors.iter_mut().flat_map(|(_, all)| all).for_each(|matrix| matrix.data.fill(0.0));
            upload.factors[0].1[0].data[0] = by;
            upload.aux = vec![(Aux::StartLoss, vec![Matrix::new(1, 1, vec![loss])])];
            upload
        };
        let sent = [Upload { client: 0, ..one(2.0, 0.2) }, Upload { client: 1, ..one(0.5, -0.4) }];
        let found = after(Fair { q: 1.0, factors: [10.0; 3], head: 10.0 }, &sent);
        let moved = f64::from(found.b[0].data[0]) - f64::from(server(3, 5).adapter.b[0].data[0]);
        assert!((moved - 2.0 / 45.0).abs() < 1e-7, "{moved}");
    }

    #[test]
    fn with_q_0_it_is_the_plain_mean_bit_for_bit() {
        let before = server(3, 5);
        let sent = sent(&before);
        let alike: Vec<Upload> = sent.iter().map(|u| Upload { examples: 1, ..u.clone() }).collect();
        let mut plain = server(3, 5);
        Rule::default().apply(&mut plain.adapter, &mut State::default(), 1, &alike, Norm::All);
        assert_eq!(after(Fair { q: 0.0, factors: [3.0, 5.0, 7.0], head: 2.0 }, &sent), plain.adapter);
    }

    #[test]
    fn kinds_of_tensors_with_rates_of_their_own_are_measured_by_them() {
        // Scaled by the roots of their rates all kinds have the rate one, where the paper's formula holds as it stands.
        let before = server(3, 5);
        let sent = sent(&before);
        let (rates, q) = ([0.01, 0.05, 0.2], 1.5);
        let of_kind = |upload: &Upload, i: usize| {
            let [a, b] = [0, 1].map(|f: usize| upload.factors[f].1.iter().map(|m| m.data.len()).sum::<usize>());
            if i < a {
                rates[0]
            } else if i < a + b {
                rates[1]
            } else {
                rates[2]
            }
        };
        let scaled = |values: Vec<f64>| -> Vec<f64> {
            values.into_iter().enumerate().map(|(i, v)| v / f64::sqrt(of_kind(&sent[0], i))).collect()
        };
        let moved: Vec<Vec<f64>> = sent.iter().map(|upload| scaled(movement(upload))).collect();
        let expected = published(&scaled(flat(&before.adapter)), &moved, &LOSSES.map(f64::from), q, 1.0);
        let fair = Fair { q, factors: [1.0 / rates[0], 1.0 / rates[1], 1.0], head: 1.0 / rates[2] };
        let found = scaled(flat(&after(fair, &sent)));
        let off = expected.iter().zip(&found).map(|(e, f)| (e - f).abs()).fold(0.0, f64::max);
        // f32 numbers below 1.5 over the root of 0.01.
        assert!(off < 2e-6, "off by {off:.1e}");
    }

    #[test]
    fn losses_that_have_no_powers_weigh_nothing_and_break_nothing() {
        let before = server(3, 5);
        let mut sent = sent(&before);
        sent[0].aux[0].1[0].data[0] = 0.0;
        sent[1].aux[0].1[0].data[0] = 1e6;
        for q in [0.1, 1.0, 60.0] {
            let fair = Fair { q, factors: [1e3; 3], head: 1e3 };
            assert!(
                fair.weights(&sent.iter().collect::<Vec<_>>())
                    .iter()
                    .all(|w| w.above.is_finite() && w.below.is_finite())
            );
            assert!(after(fair, &sent).is_finite(), "q = {q}");
        }
    }
}
