//! One step's examples, packed: sequences end to end, client by client. Nothing is padded.

use bonfire_kernels::{Grouped, Segments, runs_on_cpu};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// What sizes a batch may have on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Any.
    Exact,
    /// A few: eight between a power of two and the next, so that kernels are tuned for few shapes. The surplus tokens
    /// and sequences belong to nobody.
    Few,
}

impl Rounding {
    /// What a device likes: the CPU tunes nothing.
    pub fn of(device: &Device) -> Self {
        if runs_on_cpu(device) { Rounding::Exact } else { Rounding::Few }
    }

    /// The size for `n` rows.
    fn size(self, n: usize) -> usize {
        match self {
            Rounding::Exact => n,
            Rounding::Few => n.next_multiple_of((n.next_power_of_two() / 16).max(8)),
        }
    }
}

/// A packed batch on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedBatch {
    /// Token ids `[T]`.
    pub tokens: Vec<u32>,
    /// Class of every sequence `[S]`.
    pub labels: Vec<usize>,
    /// Token ranges of the sequences.
    pub sequences: Segments,
    /// Sequence ranges of the clients; a client may have none.
    pub clients: Segments,
}

impl PackedBatch {
    /// Packs `(token ids, class)` examples, a list for each client in flight.
    pub fn pack(clients: &[Vec<(&[u32], usize)>]) -> Self {
        let all = || clients.iter().flatten();
        PackedBatch {
            tokens: all().flat_map(|(ids, _)| ids.iter().copied()).collect(),
            labels: all().map(|&(_, label)| label).collect(),
            sequences: Segments::from_lengths(all().map(|(ids, _)| ids.len())),
            clients: Segments::from_lengths(clients.iter().map(Vec::len)),
        }
    }

    /// Puts the batch on `device`; positions count from `first_position` in every sequence.
    pub fn to_device(&self, first_position: usize, rounding: Rounding, device: &Device) -> DeviceBatch {
        let ints = |mut values: Vec<i32>, surplus: usize| {
            let n = rounding.size(values.len());
            values.resize(n, surplus as i32);
            Tensor::<1, Int>::from_data(TensorData::new(values, [n]), device)
        };
        let positions = self.sequences.ranges().flat_map(|r| (0..r.len()).map(|p| (first_position + p) as i32));
        let token_lengths = self.clients.ranges().map(|r| {
            let [start, end] = [r.start, r.end].map(|s| if s == 0 { 0 } else { self.sequences.range(s - 1).end });
            end - start
        });
        DeviceBatch {
            tokens: ints(self.tokens.iter().map(|&t| t as i32).collect(), 0),
            positions: ints(positions.collect(), first_position),
            firsts: ints(self.sequences.ranges().map(|r| r.start as i32).collect(), 0),
            labels: ints(self.labels.iter().map(|&l| l as i32).collect(), 0),
            by_client: Grouped::new(&self.clients, device),
            sequences: self.sequences.clone(),
            client_tokens: Segments::from_lengths(token_lengths),
            client_sequences: self.clients.clone(),
        }
    }
}

/// A packed batch on a device, with the index tensors that the forward pass reads.
#[derive(Clone, Debug)]
pub struct DeviceBatch {
    /// Token ids `[T]`, surplus included.
    pub tokens: Tensor<1, Int>,
    /// Position of every token `[T]`.
    pub positions: Tensor<1, Int>,
    /// First token of every sequence `[S]`, surplus included.
    pub firsts: Tensor<1, Int>,
    /// Class of every sequence `[S]`.
    pub labels: Tensor<1, Int>,
    /// What the sequences leave, client by client.
    pub by_client: Grouped,
    /// Token ranges of the sequences.
    pub sequences: Segments,
    /// Token ranges of the clients.
    pub client_tokens: Segments,
    /// Sequence ranges of the clients.
    pub client_sequences: Segments,
}
