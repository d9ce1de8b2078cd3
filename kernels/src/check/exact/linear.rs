//! The frozen linear with its adapters.

use burn::tensor::Device;

use super::pointwise::gelu_by_hand;
use super::threads::each;
use super::{Exact, Format, Off, add, backward, compare, dot, gradient, read, rows};
use crate::{
    Activated, Arithmetic, LowRank, Segments, SlotCounts, adapted_linear, adapted_linear_gelu, adapted_linear_of_gelu,
};

/// A scale that no format rounds.
const SCALE: f32 = 0.5;

/// Where GELU stands.
#[derive(Clone, Copy, PartialEq)]
enum Gelu {
    Nowhere,
    /// The result is GELU of the linear's.
    After,
    /// The linear's input is GELU of the input.
    Before,
}

/// One linear.
#[derive(Clone)]
struct Linear {
    /// Tokens of each client; two more belong to nobody.
    lengths: Vec<usize>,
    d: usize,
    /// Output features of each of the linears side by side.
    width: usize,
    /// Which of them carry an adapter.
    adapted: Vec<bool>,
    rank: usize,
    /// Whether A and B are each client's own, or all clients'.
    own: [bool; 2],
    /// Whether clients have different numbers of slots, some none.
    chosen: bool,
    gelu: Gelu,
    seed: u64,
}

pub(super) fn small(seed: u64) -> Vec<Exact> {
    let ragged = vec![5, 0, 1, 9, 33, 70];
    let base = Linear {
        lengths: ragged,
        d: 13,
        width: 6,
        adapted: vec![true; 3],
        rank: 3,
        own: [true, true],
        chosen: false,
        gelu: Gelu::Nowhere,
        seed,
    };
    let one = Linear { d: 21, width: 70, adapted: vec![true], rank: 5, ..base.clone() };
    let none = |gelu| Linear { adapted: vec![false], gelu, ..one.clone() };
    vec![
        Linear { chosen: true, gelu: Gelu::After, ..one.clone() }.case("linear and GELU"),
        Linear { own: [true, false], adapted: vec![true, false, true], gelu: Gelu::After, ..base.clone() }
            .case("linear and GELU, A trains"),
        none(Gelu::After).case("linear and GELU, no adapter"),
        Linear { chosen: true, gelu: Gelu::Before, ..one.clone() }.case("linear of GELU"),
        Linear { own: [false, true], gelu: Gelu::Before, ..base.clone() }.case("linear of GELU, B trains"),
        none(Gelu::Before).case("linear of GELU, no adapter"),
        base.clone().case("linear, A and B train"),
        Linear { d: 45, width: 101, adapted: vec![true], rank: 21, own: [true, false], chosen: true, ..base.clone() }
            .case("linear, A trains"),
        Linear { d: 93, width: 40, adapted: vec![true, false, true], rank: 70, own: [false, true], ..base.clone() }
            .case("linear, B trains"),
        Linear { d: 64, width: 64, adapted: vec![true, true], rank: 16, chosen: true, ..base }
            .case("linear, chosen slots"),
    ]
}

pub(super) fn real(tokens: usize, seed: u64) -> Vec<Exact> {
    const CLIENTS: usize = 30;
    // From half to one and a half of the mean, one client with a single token, one with none.
    let mean = tokens as f64 / CLIENTS as f64;
    let mut lengths: Vec<usize> = (0..CLIENTS)
        .map(|c| (mean * (0.5 + (c * 7 % CLIENTS) as f64 / (CLIENTS - 1) as f64)).round() as usize)
        .collect();
    (lengths[3], lengths[11]) = (1, 0);
    // The first has what is left over.
    lengths[0] += tokens.saturating_sub(lengths.iter().sum());
    let base = Linear {
        lengths,
        d: 768,
        width: 768,
        adapted: vec![true; 3],
        rank: 16,
        own: [true, true],
        chosen: false,
        gelu: Gelu::Nowhere,
        seed,
    };
    // GELU's slopes want every number of the result in f64: of an eighth of the tokens.
    let eighth = base.lengths.iter().map(|tokens| tokens.div_ceil(8)).collect();
    let inside = Linear { lengths: eighth, width: 3072, adapted: vec![true], gelu: Gelu::After, ..base.clone() };
    vec![
        inside.clone().case("linear and GELU"),
        Linear { d: 3072, width: 768, gelu: Gelu::Before, ..inside }.case("linear of GELU"),
        base.clone().case("linear, q k v, A and B train"),
        Linear { width: 3072, adapted: vec![true], chosen: true, ..base.clone() }.case("linear, chosen slots"),
        Linear { d: 3072, adapted: vec![true], own: [true, false], ..base }.case("linear, A trains, B shared"),
    ]
}

/// The numbers of one problem.
struct Problem {
    of: Linear,
    clients: Segments,
    used: Vec<usize>,
    /// What the device is given.
    input: Vec<f32>,
    weights: Vec<f32>,
    /// What the linear reads.
    x: Vec<f32>,
    w: Vec<f32>,
    /// The same turned, `[N, d]`.
    turned: Vec<f32>,
    bias: Vec<f32>,
    /// The gradient of the linear's result.
    dy: Vec<f32>,
    /// Of each linear with an adapter: where its columns start, A and B.
    factors: Vec<(usize, [Vec<f32>; 2])>,
}

impl Linear {
    fn case(self, operation: &'static str) -> Exact {
        let (tokens, n, clients) = (self.tokens(), self.columns(), self.lengths.len());
        let (d, rank, adapters) = (self.d, self.rank, self.adapted.iter().filter(|&&a| a).count());
        let shape = format!("[{tokens}, {d}] x [{d}, {n}], {clients} clients, {adapters} x rank {rank}");
        Exact { operation, shape, rounded: true, run: Box::new(move |device, format| self.measure(device, format)) }
    }

    fn tokens(&self) -> usize {
        self.lengths.iter().sum::<usize>() + 2
    }

    fn columns(&self) -> usize {
        self.width * self.adapted.len()
    }

    /// Factors of the stack that each client has its own of, or that all share.
    fn stacked(&self) -> [usize; 2] {
        self.own.map(|own| if own { self.lengths.len() } else { 1 })
    }

    fn problem(&self, format: Format) -> Problem {
        let (t, d, n) = (self.tokens(), self.d, self.columns());
        let draw = |n: usize, seed: u64| format.numbers(n, 1000 * self.seed + seed);
        // Like trained weights, results are of the size of inputs; a power of two, which no format rounds.
        let small = 0.5f32.powi((d.ilog2() / 2) as i32);
        let w: Vec<f32> = draw(d * n, 2).into_iter().map(|v| v * small).collect();
        let [a, b] = self.stacked();
        let places = (0..self.adapted.len()).filter(|&i| self.adapted[i]);
        let factors = places.map(|i| {
            // Both are f32 whatever the format.
            let f32s = |n, seed| Format::F32.numbers(n, 1000 * self.seed + seed);
            let pair = [f32s(a * self.rank * d, 10 + i as u64), f32s(b * self.rank * self.width, 20 + i as u64)];
            (i * self.width, pair)
        });
        let slots = |c: usize| if self.chosen { (5 * c + 3) % (self.rank + 1) } else { self.rank };
        // To where GELU is nothing and where it is its argument; the linear's result by its input alone.
        let reach = if self.gelu == Gelu::Nowhere { 1.0 } else { 4.0 };
        let input: Vec<f32> = draw(t * d, 1).into_iter().map(|v| v * reach).collect();
        let gelu = |v: &f32| if self.gelu == Gelu::Before { gelu_by_hand((*v).into(), 1.0).0 as f32 } else { *v };
        let weights = draw(t * n, 4);
        let mut problem = Problem {
            clients: Segments::from_lengths(self.lengths.iter().copied()),
            used: (0..self.lengths.len()).map(slots).collect(),
            x: input.iter().map(gelu).collect(),
            input,
            turned: (0..n).flat_map(|c| (0..d).map(move |r| (r, c))).map(|(r, c)| w[r * n + c]).collect(),
            w,
            bias: draw(n, 3),
            dy: weights.clone(),
            weights,
            factors: factors.collect(),
            of: self.clone(),
        };
        if self.gelu == Gelu::After {
            let slopes = each(t, |t| {
                let y = problem.row(t, problem.clients.owners().get(t).copied())[0].clone();
                let dy = &problem.weights[t * n..(t + 1) * n];
                y.iter().zip(dy).map(|(&y, &dy)| gelu_by_hand(y, dy.into()).1 as f32).collect::<Vec<f32>>()
            });
            problem.dy = slopes.concat();
        }
        problem
    }

    fn measure(&self, device: &Device, format: Format) -> Result<Vec<Off>, String> {
        let problem = self.problem(format);
        let found = problem.run(device, format)?;
        Ok(problem.compare(&found))
    }
}

/// What the device gives: the result, the gradient of x, and of A and B of each adapter.
struct Found {
    y: Vec<f32>,
    /// The linear's result before GELU.
    before: Option<Vec<f32>>,
    dx: Vec<f32>,
    factors: Vec<[Vec<f32>; 2]>,
}

impl Problem {
    fn run(&self, device: &Device, format: Format) -> Result<Found, String> {
        let (of, device) = (&self.of, &device.clone().autodiff());
        let (t, d, n) = (of.tokens(), of.d, of.columns());
        let x = format.put(&self.input, [t, d], device).require_grad();
        let (w, bias) = (format.put(&self.w, [d, n], device), format.put(&self.bias, [n], device));
        let [ca, cb] = of.stacked();
        let used = of.chosen.then(|| SlotCounts::new(self.used.clone()));
        let lowrank = |(_, [a, b]): &(usize, [Vec<f32>; 2])| LowRank {
            a: Format::F32.put(a, [ca, of.rank, d], device).require_grad(),
            b: Format::F32.put(b, [cb, of.rank, of.width], device).require_grad(),
            used: used.clone(),
            scale: SCALE,
        };
        let updates: Vec<LowRank> = self.factors.iter().map(lowrank).collect();
        let columns = self.factors.iter().map(|(start, _)| *start..start + of.width);
        let adapters: Vec<_> = updates.iter().zip(columns).collect();
        let (clients, f32s) = (&self.clients, Arithmetic::F32);
        let (y, before) = match of.gelu {
            Gelu::Nowhere => (adapted_linear(x.clone(), w, bias, &adapters, clients, f32s), None),
            Gelu::After => {
                let (Activated { before, after }, _) =
                    adapted_linear_gelu(x.clone(), w, bias, &adapters, clients, f32s);
                (after, Some(read(before)?))
            }
            Gelu::Before => {
                let input = Activated::gelu(x.clone());
                (adapted_linear_of_gelu(input, w, bias, &adapters, clients, f32s), None)
            }
        };
        let grads = backward(&y, format.put(&self.weights, [t, n], device));
        let factors = updates.iter().map(|u| Ok([gradient("A", &u.a, &grads)?, gradient("B", &u.b, &grads)?]));
        let factors = factors.collect::<Result<_, String>>()?;
        Ok(Found { y: read(y)?, before, dx: gradient("x", &x, &grads)?, factors })
    }

    /// The rows that are compared where all would take too long: of every client the first, the last and some between, and
    /// those of nobody.
    fn sample(&self) -> Vec<usize> {
        const FEW: usize = 400;
        let t = self.of.tokens();
        if t <= FEW {
            return (0..t).collect();
        }
        let ends = self.clients.ranges().filter(|r| !r.is_empty()).flat_map(|r| [r.start, r.end - 1]);
        let mut sample: Vec<usize> = ends.chain((0..t).step_by(t / FEW * 2)).chain([t - 2, t - 1]).collect();
        sample.sort_unstable();
        sample.dedup();
        sample
    }

    fn compare(&self, found: &Found) -> Vec<Off> {
        let (of, owners, sample) = (&self.of, self.clients.owners(), self.sample());
        let owner = |t: usize| owners.get(t).copied();
        let expected = each(sample.len(), |i| (sample[i], self.row(sample[i], owner(sample[i]))));
        let (mut ys, mut dxs): (Vec<_>, Vec<_>) = expected.into_iter().map(|(t, [y, dx])| ((t, y), (t, dx))).unzip();
        let mut offs = Vec::new();
        if let Some(before) = &found.before {
            offs.push(compare("before GELU", before, of.columns(), &ys));
            ys.iter_mut().flat_map(|(_, y)| y).for_each(|y| *y = gelu_by_hand(*y, 1.0).0);
        }
        if of.gelu == Gelu::Before {
            for (t, dx) in &mut dxs {
                let input = &self.input[*t * of.d..];
                dx.iter_mut().zip(input).for_each(|(dx, &x)| *dx = gelu_by_hand(x.into(), *dx).1);
            }
        }
        offs.push(compare("result", &found.y, of.columns(), &ys));
        offs.push(compare("gradient of x", &found.dx, of.d, &dxs));
        for (i, found) in found.factors.iter().enumerate() {
            let [a, b] = self.factor_gradients(i);
            offs.push(compare(format!("gradient of A {i}"), &found[0], of.d, &rows(&a, of.d)));
            offs.push(compare(format!("gradient of B {i}"), &found[1], of.width, &rows(&b, of.width)));
        }
        offs
    }

    /// Row `slot` of factor `which` (A or B) of adapter `i` as `client` has it.
    fn slot(&self, i: usize, which: usize, client: usize, slot: usize) -> &[f32] {
        let width = [self.of.d, self.of.width][which];
        let at = self.place(which, client, slot) * width;
        &self.factors[i].1[which][at..at + width]
    }

    /// Which row of the stack that is.
    fn place(&self, which: usize, client: usize, slot: usize) -> usize {
        (if self.of.own[which] { client } else { 0 }) * self.of.rank + slot
    }

    /// The result and the gradient of x in row `t`.
    fn row(&self, t: usize, client: Option<usize>) -> [Vec<f64>; 2] {
        let (d, n, width) = (self.of.d, self.of.columns(), self.of.width);
        let (x, dy) = (&self.x[t * d..(t + 1) * d], &self.dy[t * n..(t + 1) * n]);
        let of_column = |c: usize| dot(x, &self.turned[c * d..(c + 1) * d]) + f64::from(self.bias[c]);
        let mut y: Vec<f64> = (0..n).map(of_column).collect();
        let mut dx: Vec<f64> = (0..d).map(|r| dot(dy, &self.w[r * n..(r + 1) * n])).collect();
        let Some(client) = client else { return [y, dx] };
        for (i, (start, _)) in self.factors.iter().enumerate() {
            for slot in 0..self.used[client] {
                let (a, b) = (self.slot(i, 0, client, slot), self.slot(i, 1, client, slot));
                add(&mut y[*start..start + width], f64::from(SCALE) * dot(x, a), b);
                add(&mut dx, f64::from(SCALE) * dot(&dy[*start..start + width], b), a);
            }
        }
        [y, dx]
    }

    /// The gradients of A and B of adapter `i`, over all tokens.
    fn factor_gradients(&self, i: usize) -> [Vec<f64>; 2] {
        let (of, start) = (&self.of, self.factors[i].0);
        let (d, n, width, rank) = (of.d, of.columns(), of.width, of.rank);
        // Each client's sums over its own tokens; where a factor is shared they are added up.
        let own = each(of.lengths.len(), |client| {
            let mut sums = [vec![0.0; rank * d], vec![0.0; rank * width]];
            for t in self.clients.range(client) {
                let x = &self.x[t * d..(t + 1) * d];
                let dy = &self.dy[t * n + start..t * n + start + width];
                for slot in 0..self.used[client] {
                    let (a, b) = (self.slot(i, 0, client, slot), self.slot(i, 1, client, slot));
                    add(&mut sums[0][slot * d..(slot + 1) * d], f64::from(SCALE) * dot(dy, b), x);
                    add(&mut sums[1][slot * width..(slot + 1) * width], f64::from(SCALE) * dot(x, a), dy);
                }
            }
            sums
        });
        [0, 1].map(|which| {
            let all = own.iter().map(|sums| &sums[which]);
            if of.own[which] {
                return all.flatten().copied().collect();
            }
            let mut sum = vec![0.0; own[0][which].len()];
            all.for_each(|part| sum.iter_mut().zip(part).for_each(|(sum, v)| *sum += v));
            sum
        })
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    /// The check itself can fail: what a device would give with one client's factor of another.
    #[test]
    fn a_wrong_client_is_seen() {
        let linear = Linear {
            lengths: vec![3, 4],
            d: 8,
            width: 5,
            adapted: vec![true],
            rank: 2,
            own: [true, true],
            chosen: false,
            gelu: Gelu::Nowhere,
            seed: 1,
        };
        let problem = linear.problem(Format::F32);
        let right = problem.run(&Device::flex(), Format::F32).expect("the CPU works");
        assert!(
            problem.compare(&right).iter().all(|off| off.off <= Format::F32.allowed()),
            "{:?}",
            problem.compare(&right)
        );
        let mut swapped = linear.problem(Format::F32);
        let a = &mut swapped.factors[0].1[0];
        a.rotate_left(2 * 8);
        let wrong = swapped.run(&Device::flex(), Format::F32).expect("the CPU works");
        let offs = problem.compare(&wrong);
        assert!(offs.iter().any(|off| off.name == "result" && off.off > 0.1), "{offs:?}");
        // One row in the middle is enough.
        let mut one = Found { y: right.y.clone(), ..right };
        one.y[3 * 5 + 2] += 0.01;
        assert!(problem.compare(&one)[0].off > Format::F32.allowed());
    }
}
