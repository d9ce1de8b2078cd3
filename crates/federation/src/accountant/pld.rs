//! The privacy loss distribution of the sampled Gaussian mechanism, composed by Fourier transform (Koskela, Jälkö and Honkela,
//! arXiv 1906.03049; Gopi, Lee and Wutschitz, arXiv 2106.02848): closer than Rényi divergences, which bound the whole of it.
//!
//! For neighbours P and Q, the loss at an outcome x is `ln P(x)/Q(x)` and `δ(ε) = E_P[(1 − e^(ε − L))₊]`; losses of rounds
//! add up. With noise σ (in units of the clip) and a client drawn with probability q, one of the two is `N(0, σ²)` and the
//! other `(1 − q)·N(0, σ²) + q·N(1, σ²)`, one way round where a client is removed, the other where it is added; the larger ε
//! counts. Losses go onto a grid by *connecting the dots* (Doroshenko et al., arXiv 2207.04380): what lies between two points
//! is dealt out to both so that its weight under P and under Q stay as they are, which errs upwards and by little.

mod fourier;

use fourier::power_of_circle;

/// Points of the grid on which rounds are added up.
const POINTS: usize = 1 << 17;
/// What may be left out of the grid on either side; it is added to δ.
const LEFT_OUT: f64 = 1e-14;
/// From this δ on the transform's rounding, a bound on which is added to δ, is small beside it.
pub(super) const LEAST_DELTA: f64 = 1e-9;
/// Rounding of all points of the transform together, with room to spare.
const ROUNDING: f64 = 1e-12;
/// Deviations of noise that are looked at on either side: beyond them lies less than 10⁻²².
const REACH: f64 = 9.8;

/// Which neighbour has the client.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// P has it, Q does not.
    Remove,
    /// Q has it, P does not.
    Add,
}

/// ε at `delta` of `rounds` rounds.
pub(super) fn epsilon(q: f64, noise: f64, rounds: usize, delta: f64) -> f64 {
    [Way::Remove, Way::Add].map(|way| composed(way, q, noise, rounds).epsilon(delta)).into_iter().fold(0.0, f64::max)
}

/// Losses on a grid: `mass[i]` at `(low + i)·step`, the rest at infinity.
struct Losses {
    low: i64,
    step: f64,
    mass: Vec<f64>,
    infinite: f64,
}

/// `P(Z > z)` of a standard normal.
fn above(z: f64) -> f64 {
    0.5 * libm::erfc(z / std::f64::consts::SQRT_2)
}

/// `P(from < Z ≤ to)`, by the tail that keeps the digits.
fn between(from: f64, to: f64) -> f64 {
    if from > 0.0 { above(from) - above(to) } else { above(-to) - above(-from) }
}

/// `ln (1 − q + q·e^((2x − 1)/2σ²))`: the loss at x where a client is removed.
fn loss(q: f64, noise: f64, x: f64) -> f64 {
    let ratio = (2.0 * x - 1.0) / (2.0 * noise * noise);
    // ln(1 + q(e^r − 1)), without overflow.
    if ratio > 0.0 { ratio + (q + (1.0 - q) * (-ratio).exp()).ln() } else { (q * ratio.exp_m1()).ln_1p() }
}

/// Where that loss is `loss`; minus infinity where every loss is above it.
fn place(q: f64, noise: f64, loss: f64) -> f64 {
    let odds = (loss.exp_m1() + q) / q;
    if odds > 0.0 { noise * noise * odds.ln() + 0.5 } else { f64::NEG_INFINITY }
}

/// The losses of one round on a grid of this step.
fn single(way: Way, q: f64, noise: f64, step: f64) -> Losses {
    let ends = [-REACH * noise, 1.0 + REACH * noise].map(|x| loss(q, noise, x));
    let [least, most] = if way == Way::Remove { ends } else { [-ends[1], -ends[0]] };
    let (low, high) = ((least / step).floor() as i64 - 1, (most / step).ceil() as i64 + 1);
    let count = (high - low) as usize + 1;
    let mut mass = vec![0.0; count];
    let at = |i: usize| (low + i as i64) as f64 * step;
    // Outcomes between the places of two losses: their weight under the plain and under the mixed distribution.
    let weights = |from: f64, to: f64| {
        let plain = between(from / noise, to / noise);
        (plain, (1.0 - q) * plain + q * between((from - 1.0) / noise, (to - 1.0) / noise))
    };
    let spots: Vec<f64> =
        (0..count).map(|i| if way == Way::Remove { place(q, noise, at(i)) } else { place(q, noise, -at(i)) }).collect();
    for i in 1..count {
        let (p, r) = match way {
            Way::Remove => {
                let (plain, mixed) = weights(spots[i - 1], spots[i]);
                (mixed, plain)
            }
            Way::Add => weights(spots[i], spots[i - 1]),
        };
        // To the upper point `b`, to the lower `p − b`, with `b·e^(−upper) + (p − b)·e^(−lower) = r`.
        let b = ((p - at(i - 1).exp() * r) / -(-step).exp_m1()).clamp(0.0, p.max(0.0));
        mass[i] += b;
        mass[i - 1] += p - b;
    }
    // What lies below the grid counts as its lowest point, what lies above as infinite.
    let infinite = match way {
        Way::Remove => (1.0 - q) * above(spots[count - 1] / noise) + q * above((spots[count - 1] - 1.0) / noise),
        Way::Add => above(-spots[count - 1] / noise),
    };
    let rest = 1.0 - infinite - mass.iter().sum::<f64>();
    mass[0] += rest.max(0.0);
    Losses { low, step, mass, infinite }
}

impl Losses {
    /// A bound, `LEFT_OUT` of the sum of `rounds` losses lies beyond it on that side of the line (Chernoff).
    fn reach(&self, rounds: usize, upwards: bool) -> f64 {
        let sign = if upwards { 1.0 } else { -1.0 };
        let at = |i: usize| (self.low + i as i64) as f64 * self.step;
        let bound = |t: f64| {
            let largest = if upwards { sign * t * at(self.mass.len() - 1) } else { sign * t * at(0) };
            let sum: f64 =
                self.mass.iter().enumerate().map(|(i, m)| m * (sign * t * at(i) - largest).exp()).sum::<f64>();
            (rounds as f64 * (largest + sum.ln()) - LEFT_OUT.ln()) / t
        };
        let tries = (-24..=40).map(|n| bound(2f64.powf(f64::from(n) / 2.0)));
        sign * tries.filter(|b| b.is_finite()).fold(f64::INFINITY, f64::min)
    }

    /// ε at which `E[(1 − e^(ε − L))₊]` and what is infinite come to `delta`.
    fn epsilon(&self, delta: f64) -> f64 {
        if self.infinite > delta {
            return f64::INFINITY;
        }
        // δ = over − e^ε·under between two points, with the sums over all losses above.
        let (mut over, mut under) = (self.infinite, 0.0);
        for (i, mass) in self.mass.iter().enumerate().rev() {
            let here = (self.low + i as i64) as f64 * self.step;
            if over - under * here.exp() > delta {
                break;
            }
            over += mass;
            under += mass * (-here).exp();
            let below = here - self.step;
            if over - under * below.exp() > delta {
                return ((over - delta) / under).ln();
            }
        }
        f64::NEG_INFINITY
    }
}

/// The losses of `rounds` rounds.
fn composed(way: Way, q: f64, noise: f64, rounds: usize) -> Losses {
    let ends = [-REACH * noise, 1.0 + REACH * noise].map(|x| loss(q, noise, x));
    // Rough, to find out how far the sum of all rounds reaches.
    let rough = single(way, q, noise, (ends[1] - ends[0]) / 20_000.0);
    let (most, least) = (rough.reach(rounds, true), rough.reach(rounds, false));
    let width = (most - least).max(ends[1] - ends[0]) * 1.001;
    let step = width / (POINTS - 4) as f64;
    let one = single(way, q, noise, step);
    let mut line = vec![0.0; POINTS];
    for (i, mass) in one.mass.iter().enumerate() {
        line[(one.low + i as i64).rem_euclid(POINTS as i64) as usize] += mass;
    }
    let sums = power_of_circle(line, rounds);
    let low = (least / step).floor() as i64 - 1;
    let at = |i: usize| sums[(low + i as i64).rem_euclid(POINTS as i64) as usize].max(0.0);
    let infinite = 1.0 - (1.0 - one.infinite).powf(rounds as f64) + 2.0 * LEFT_OUT + ROUNDING;
    Losses { low, step, mass: (0..POINTS).map(at).collect(), infinite }
}
