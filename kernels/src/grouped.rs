//! The few rows that a step leaves for each client (one a sequence), side by side in a block `[C, n, ..]`, padded with
//! zero rows to the longest client's number: what the per-client classifier heads and losses are computed on, with one
//! batched product instead of one a client.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::{Arithmetic, Segments, lists_on, product};

/// How the rows of a batch go into the block and back.
#[derive(Clone, Debug)]
pub struct Grouped {
    clients: Segments,
    longest: usize,
    /// Row of each place in the block `[C·n]`, one past the last for padding; `None` where all clients have `n` rows.
    rows: Option<Tensor<1, Int>>,
    /// Place in the block of each row `[S]`.
    back: Option<Tensor<1, Int>>,
    /// `1 / rows` of each client `[C]`, 0 for a client without.
    shares: Tensor<1>,
}

impl Grouped {
    /// For rows that belong to `clients` run by run.
    pub fn new(clients: &Segments, device: &Device) -> Self {
        let longest = clients.ranges().map(|r| r.len()).max().unwrap_or(0);
        let even = clients.ranges().all(|r| r.len() == longest);
        let rows = || {
            let end = clients.rows();
            let places =
                |r: std::ops::Range<usize>| (0..longest).map(move |j| if j < r.len() { r.start + j } else { end });
            clients.ranges().flat_map(places).map(|row| row as i32).collect()
        };
        let back = || {
            let places = clients.ranges().enumerate();
            places.flat_map(|(c, r)| (0..r.len()).map(move |j| (c * longest + j) as i32)).collect()
        };
        let lists = if even { Vec::new() } else { vec![rows(), back()] };
        let mut lists = lists_on(&lists, device).into_iter();
        let shares: Vec<f32> =
            clients.ranges().map(|r| if r.is_empty() { 0.0 } else { 1.0 / r.len() as f32 }).collect();
        Grouped {
            longest,
            rows: lists.next(),
            back: lists.next(),
            shares: Tensor::from_data(TensorData::new(shares, [clients.len()]), device),
            clients: clients.clone(),
        }
    }

    /// `[S, K] -> [C, n, K]`; surplus rows, which belong to nobody, are left out.
    fn block(&self, x: Tensor<2>) -> Tensor<3> {
        let [count, width] = x.dims();
        let x = if count > self.clients.rows() { x.narrow(0, 0, self.clients.rows()) } else { x };
        let x = match &self.rows {
            Some(rows) => {
                let nothing = Tensor::zeros([1, width], &x.device()); // [1, K]
                Tensor::cat(vec![x, nothing], 0).select(0, rows.clone()) // [C·n, K]
            }
            None => x,
        };
        x.reshape([self.clients.len(), self.longest, width]) // [C, n, K]
    }

    /// `x_c·w_c + bias_c` in f32 for the rows of every client: `[S, K] -> [S, N]`, without the surplus rows of `x`.
    ///
    /// # Shapes
    /// `w` `[C, K, N]` and `bias` `[C, 1, N]`, or first axis 1 where all clients share them.
    pub fn linear(&self, x: Tensor<2>, w: Tensor<3>, bias: Tensor<3>) -> Tensor<2> {
        let [count, _, width] = w.dims();
        if count == 1 {
            let y = product(x, w.squeeze_dim(0), Arithmetic::F32) + bias.squeeze_dim::<2>(0);
            return y.narrow(0, 0, self.clients.rows());
        }
        let y = (product(self.block(x), w, Arithmetic::F32) + bias).reshape([self.clients.len() * self.longest, width]); // [C·n, N]
        match &self.back {
            Some(back) => y.select(0, back.clone()), // [S, N]
            None => y,
        }
    }

    /// The mean over each client's rows, `[S] -> [C]`; 0 for a client without rows. Nothing is summed over clients, so
    /// the gradient of one client's mean reaches its own rows only.
    pub fn mean(&self, values: Tensor<1>) -> Tensor<1> {
        self.block(values.unsqueeze_dim(1)).sum_dim(1).reshape([self.clients.len()]) * self.shares.clone()
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn rows_meet_their_own_clients_weights() {
        let device = Device::flex();
        for lengths in [vec![2, 0, 3], vec![2, 2, 2]] {
            let clients = Segments::from_lengths(lengths.clone());
            let x: Vec<f32> = (0..clients.rows()).map(|i| i as f32 + 1.0).collect();
            let values = Tensor::<1>::from_data(TensorData::new(x.clone(), [x.len()]), &device);
            let grouped = Grouped::new(&clients, &device);
            let w = Tensor::<3>::from_data(TensorData::new(vec![1f32, 10.0, 100.0], [3, 1, 1]), &device);
            let y = grouped.linear(values.clone().unsqueeze_dim(1), w.clone(), w);
            let expected: Vec<f32> =
                clients.owners().iter().zip(&x).map(|(&c, v)| 10f32.powi(c as i32) * (v + 1.0)).collect();
            assert_eq!(y.into_data().try_to_vec::<f32>().expect("f32"), expected);
            let means: Vec<f32> = grouped.mean(values).into_data().try_to_vec().expect("f32");
            let expected: Vec<f32> = clients
                .ranges()
                .map(|r| if r.is_empty() { 0.0 } else { x[r.clone()].iter().sum::<f32>() / r.len() as f32 })
                .collect();
            assert_eq!(means, expected);
        }
    }
}
