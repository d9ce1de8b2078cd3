//! Clipping over all that a client trains. All of it is f32.

use burn::tensor::{Device, Tensor};

use super::{Exact, Format, compare, read, rows};
use crate::{FlatLayout, clip};

/// The norm that is left at most.
const LIMIT: f64 = 3.0;

/// Rows and columns of the tensors of each layout.
type Layouts = Vec<Vec<[usize; 2]>>;

pub(super) fn small(seed: u64) -> Vec<Exact> {
    vec![clipped(5, vec![vec![[3, 7], [1, 1], [16, 90]], vec![[1, 5]]], seed), clipped(1, vec![vec![[1, 1]]], seed)]
}

pub(super) fn real(seed: u64) -> Vec<Exact> {
    vec![
        clipped(30, vec![vec![[16, 768]; 12], vec![[768, 77], [1, 77]]], seed),
        // More workgroups than one axis of a launch holds.
        clipped(65_537, vec![vec![[1, 3]]], seed),
    ]
}

/// Gradients of very different sizes: every fifth client has none at all, some are brought down a thousandfold, some stay.
fn clipped(clients: usize, layouts: Layouts, seed: u64) -> Exact {
    let (tensors, numbers) = layouts.iter().flatten().fold((0, 0), |(n, all), [r, c]| (n + 1, all + r * c));
    let shape = format!("{clients} clients, {tensors} tensors of {numbers} numbers in {} layouts", layouts.len());
    let run = move |device: &Device, format: Format| {
        let size = |client: usize| [1.0, 1e-3, 1e3, 0.0, 0.5][client % 5];
        let mut squares = vec![0f64; clients];
        let mut of_layouts: Vec<(FlatLayout, Vec<Tensor<3>>)> = Vec::new();
        for (l, tensors) in layouts.iter().enumerate() {
            let mut there = Vec::new();
            for (i, &[rows, cols]) in tensors.iter().enumerate() {
                let mut drawn = format.numbers(clients * rows * cols, 1000 * seed + 20 * l as u64 + i as u64 + 1);
                for (client, own) in drawn.chunks_mut(rows * cols).enumerate() {
                    own.iter_mut().for_each(|v| *v *= size(client));
                    squares[client] += own.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
                }
                there.push(format.put(&drawn, [clients, rows, cols], device));
            }
            of_layouts.push((FlatLayout::new(tensors.iter().map(|&dims| (dims, 0, false))), there));
        }
        let of_layouts: Vec<(&FlatLayout, &[Tensor<3>])> = of_layouts.iter().map(|(l, t)| (l, &t[..])).collect();
        let kinds = 2;
        let rates: Vec<f32> =
            format.numbers(kinds * clients * 4, 1000 * seed + 99).into_iter().map(|v| v.abs() + 0.5).collect();
        let found = read(clip(format.put(&rates, [kinds, clients, 4], device), &of_layouts, LIMIT))?;
        let factor = |place: usize| (LIMIT / (squares[place % clients].sqrt() + 1e-6)).min(1.0);
        let expected: Vec<f64> =
            (0..kinds * clients).map(|place| f64::from(rates[4 * place + 3]) * factor(place)).collect();
        let (fourth, others): (Vec<_>, Vec<_>) = found.iter().copied().enumerate().partition(|(at, _)| at % 4 == 3);
        let [fourth, others] = [fourth, others].map(|part| part.into_iter().map(|(_, v)| v).collect::<Vec<f32>>());
        let kept: Vec<f64> = rates.chunks(4).flat_map(|rates| &rates[..3]).map(|&v| f64::from(v)).collect();
        // Each factor by its own measure: those that are brought down most are small beside the others.
        let relative = |values: Vec<f64>| -> Vec<f64> { values.iter().zip(&expected).map(|(v, e)| v / e).collect() };
        let there: Vec<f32> =
            relative(fourth.into_iter().map(f64::from).collect()).into_iter().map(|v| v as f32).collect();
        Ok(vec![
            compare("factors", &there, 1, &rows(&relative(expected.clone()), 1)),
            compare("the other numbers", &others, 3, &rows(&kept, 3)),
        ])
    };
    Exact { operation: "clipping", shape, rounded: false, run: Box::new(run) }
}
