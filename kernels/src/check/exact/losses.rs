//! Heads of each client's own, their losses, and cross-entropy over a vocabulary. All of it is f32.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::threads::each;
use super::{Exact, Format, Off, add, backward, compare, dot, gradient, read, rows};
use crate::{Grouped, Segments, cross_entropy, cross_entropy_and_slopes};

pub(super) fn small(seed: u64) -> Vec<Exact> {
    vec![heads(vec![3, 0, 1, 4], 7, 5, seed), vocabulary(5, 1001, seed)]
}

pub(super) fn real(seed: u64) -> Vec<Exact> {
    vec![heads(vec![32; 30], 768, 77, seed), vocabulary(32, 49_152, seed)]
}

/// Weights of a row's softmax and its loss for `label`.
fn softmax(logits: &[f64], label: usize) -> (Vec<f64>, f64) {
    let highest = logits.iter().copied().fold(f64::MIN, f64::max);
    let total: f64 = logits.iter().map(|v| (v - highest).exp()).sum();
    (logits.iter().map(|v| (v - highest).exp() / total).collect(), highest + total.ln() - logits[label])
}

/// A linear a client on its own rows, and the mean of its losses.
struct Heads {
    clients: Segments,
    d: usize,
    classes: usize,
    x: Vec<f32>,
    /// `[C, d, K]`, and the same turned `[C, K, d]`.
    w: Vec<f32>,
    turned: Vec<f32>,
    bias: Vec<f32>,
    labels: Vec<usize>,
    /// The weight of each client's loss.
    dy: Vec<f32>,
}

fn heads(lengths: Vec<usize>, d: usize, classes: usize, seed: u64) -> Exact {
    let shape = format!("{} clients, {} texts of {d}, {classes} classes", lengths.len(), lengths.iter().sum::<usize>());
    let run = move |device: &Device, format: Format| Heads::new(&lengths, d, classes, format, seed).measure(device);
    Exact { operation: "heads and losses", shape, rounded: false, run: Box::new(run) }
}

impl Heads {
    fn new(lengths: &[usize], d: usize, classes: usize, format: Format, seed: u64) -> Heads {
        let (clients, c) = (Segments::from_lengths(lengths.iter().copied()), lengths.len());
        let draw = |n, s| format.numbers(n, 1000 * seed + s);
        let w: Vec<f32> = draw(c * d * classes, 31).into_iter().map(|v| v * 0.125).collect();
        let at = |i: usize| {
            let (client, k, r) = (i / (classes * d), i / d % classes, i % d);
            w[(client * d + r) * classes + k]
        };
        Heads {
            x: draw(clients.rows() * d, 30),
            turned: (0..w.len()).map(at).collect(),
            w,
            bias: draw(c * classes, 32),
            labels: (0..clients.rows()).map(|s| s * 7 % classes).collect(),
            dy: draw(c, 33),
            clients,
            d,
            classes,
        }
    }

    fn measure(&self, device: &Device) -> Result<Vec<Off>, String> {
        let (c, d, k, s) = (self.clients.len(), self.d, self.classes, self.clients.rows());
        let (device, f32s) = (&device.clone().autodiff(), Format::F32);
        let x = f32s.put(&self.x, [s, d], device).require_grad();
        let w = f32s.put(&self.w, [c, d, k], device).require_grad();
        let bias = f32s.put(&self.bias, [c, 1, k], device).require_grad();
        let labels = self.labels.iter().map(|&l| l as i32).collect::<Vec<_>>();
        let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [s]), device);
        let grouped = Grouped::new(&self.clients, device);
        let losses = grouped.mean(cross_entropy(grouped.linear(x.clone(), w.clone(), bias.clone()), labels));
        let grads = backward(&losses, f32s.put(&self.dy, [c], device));
        let [expected, dx, dw, db] = self.by_hand();
        Ok(vec![
            compare("losses", &read(losses)?, 1, &rows(&expected, 1)),
            compare("gradient of x", &gradient("x", &x, &grads)?, d, &rows(&dx, d)),
            compare("gradient of the heads", &gradient("the heads", &w, &grads)?, d * k, &rows(&dw, d * k)),
            compare("gradient of their biases", &gradient("their biases", &bias, &grads)?, k, &rows(&db, k)),
        ])
    }

    /// Losses `[C]`, and the gradients of rows, heads and biases.
    fn by_hand(&self) -> [Vec<f64>; 4] {
        let shares = each(self.clients.len(), |client| self.client(client));
        let mut all: [Vec<f64>; 4] = Default::default();
        for share in shares {
            all.iter_mut().zip(share).for_each(|(all, part)| all.extend(part));
        }
        all
    }

    fn client(&self, client: usize) -> [Vec<f64>; 4] {
        let (d, k, range) = (self.d, self.classes, self.clients.range(client));
        let weight = f64::from(self.dy[client]) / range.len().max(1) as f64;
        let (mut loss, mut dx) = (0.0, Vec::new());
        let (mut dw, mut db) = (vec![0.0; d * k], vec![0.0; k]);
        for s in range.clone() {
            let x = &self.x[s * d..(s + 1) * d];
            let row = |class: usize| &self.turned[(client * k + class) * d..(client * k + class + 1) * d];
            let logits: Vec<f64> =
                (0..k).map(|class| dot(x, row(class)) + f64::from(self.bias[client * k + class])).collect();
            let (mut slopes, own) = softmax(&logits, self.labels[s]);
            loss += own / range.len() as f64;
            slopes[self.labels[s]] -= 1.0;
            let mut toward = vec![0.0; d];
            for (class, slope) in slopes.iter().enumerate() {
                add(&mut toward, weight * slope, row(class));
                db[class] += weight * slope;
                for (r, &x) in x.iter().enumerate() {
                    dw[r * k + class] += weight * slope * f64::from(x);
                }
            }
            dx.extend(toward);
        }
        [vec![loss], dx, dw, db]
    }
}

fn vocabulary(answers: usize, vocab: usize, seed: u64) -> Exact {
    let run = move |device: &Device, format: Format| {
        let draw = |n, s| format.numbers(n, 1000 * seed + s);
        let logits: Vec<f32> = draw(answers * vocab, 40).into_iter().map(|v| v * 8.0).collect();
        let (dy, labels) = (draw(answers, 41), (0..answers).map(|i| i * 7919 % vocab).collect::<Vec<_>>());
        let device = &device.clone().autodiff();
        let put = Format::F32.put(&logits, [answers, vocab], device).require_grad();
        let ints = labels.iter().map(|&l| l as i32).collect::<Vec<_>>();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(ints, [answers]), device);
        let (at_once, slopes) = cross_entropy_and_slopes(put.clone().detach(), targets.clone().float());
        let slopes = slopes * Format::F32.put(&dy, [answers, 1], device);
        let losses = cross_entropy(put.clone(), targets);
        let grads = backward(&losses, Format::F32.put(&dy, [answers], device));
        let expected = each(answers, |i| {
            let row: Vec<f64> = logits[i * vocab..(i + 1) * vocab].iter().map(|&v| v.into()).collect();
            let (mut slopes, loss) = softmax(&row, labels[i]);
            slopes[labels[i]] -= 1.0;
            slopes.iter_mut().for_each(|v| *v *= f64::from(dy[i]));
            (vec![loss], slopes)
        });
        let (ls, ds): (Vec<_>, Vec<_>) = expected.into_iter().enumerate().map(|(i, (l, d))| ((i, l), (i, d))).unzip();
        Ok(vec![
            compare("losses", &read(losses)?, 1, &ls),
            compare("gradient", &gradient("the scores", &put, &grads)?, vocab, &ds),
            compare("losses with their gradient", &read(at_once)?, 1, &ls),
            compare("gradient with the losses", &read(slopes)?, vocab, &ds),
        ])
    };
    let shape = format!("[{answers}, {vocab}]");
    Exact { operation: "cross-entropy", shape, rounded: false, run: Box::new(run) }
}
