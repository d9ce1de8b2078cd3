//! The message a client sends at the end of a round: by how much what it trained has moved. All that the server ever sees
//! of a client is in here. What reads it back is in `receive.rs`.

use bonfire_models::{Factor, Matrix};

use crate::wire::Coded;
use crate::{Active, ClientMemory, Role, TargetSlots};

/// Which slots an upload holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slots {
    /// Every slot of every target; nothing needs to be said about them.
    All {
        /// Global rank.
        rank: usize,
    },
    /// Those the server gave to this client, so nothing needs to be said about them either.
    Given {
        /// Global rank.
        rank: usize,
        /// Slots of every target.
        slots: TargetSlots,
    },
    /// Those the client chose.
    Chosen {
        /// Global rank.
        rank: usize,
        /// Slots of every target.
        slots: TargetSlots,
    },
}

impl Slots {
    /// Global rank.
    pub fn rank(&self) -> usize {
        let (Slots::All { rank } | Slots::Given { rank, .. } | Slots::Chosen { rank, .. }) = self;
        *rank
    }

    /// Bytes that tell the server which slots these are: one bit for each slot of the model, or nothing.
    pub fn index_bytes(&self) -> usize {
        match self {
            Slots::All { .. } | Slots::Given { .. } => 0,
            Slots::Chosen { rank, slots } => (rank * slots.len()).div_ceil(8),
        }
    }

    /// The slots of `target`.
    pub fn of(&self, target: usize) -> Vec<usize> {
        match self {
            Slots::All { rank } => (0..*rank).collect(),
            Slots::Given { slots, .. } | Slots::Chosen { slots, .. } => slots[target].clone(),
        }
    }
}

/// What a method may have clients send besides movements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aux {
    /// By how much SCAFFOLD's control variates have changed, role by role.
    Variates,
    /// FedLADA's highest second moments, role by role.
    SecondMoments,
    /// A score a layer, `[1, layers]`.
    LayerScores,
    /// Two sketches of every target's product, one after the other: see [`crate::ProductSketch`].
    ProductSketches,
    /// The mean loss of the client's training rows by the model that it started from, `[1, 1]`, in nats an answer.
    StartLoss,
}

/// What every message begins with.
pub const MAGIC: &[u8; 4] = b"BFU1";

/// Bytes of a message before its slots and numbers.
pub const HEADER: usize = 20;

/// The bit of a message's flags that says that its numbers are coded by `[wire]`.
pub const CODED: u32 = flags::CODED;

/// The bits of a message's flags.
pub(crate) mod flags {
    pub const A: u32 = 1;
    pub const B: u32 = 2;
    pub const CHOSEN: u32 = 4;
    pub const HEAD: u32 = 8;
    pub const CORE: u32 = 16;
    pub const MORE: u32 = 32;
    pub const WEIGHTS: u32 = 64;
    pub const CODED: u32 = 128;
}

/// What one client learnt in one round: end minus start of what trained, for its slots only.
#[derive(Clone, Debug, PartialEq)]
pub struct Upload {
    /// Client, from 0.
    pub client: usize,
    /// Examples in its shard: its weight in the average.
    pub examples: usize,
    /// What trained.
    pub active: Active,
    /// Which slots are here.
    pub slots: Slots,
    /// For every active factor the movement of every target: one row a slot, `[slots, d_in]` for A and
    /// `[slots, d_out]` for B.
    pub factors: Vec<(Factor, Vec<Matrix>)>,
    /// In full fine-tuning the movement of every weight of the encoder; else empty.
    pub weights: Vec<Matrix>,
    /// Movement of the head's tensors; empty when the head is frozen.
    pub head: Vec<Matrix>,
    /// What else a method has clients send.
    pub aux: Vec<(Aux, Vec<Matrix>)>,
    /// The numbers as they cross, where that is otherwise than in f32: those above are then the ones that the server decodes.
    pub coded: Option<Coded>,
    /// What stays with the client for its next round. Never sent, never counted.
    pub kept: ClientMemory,
    /// Mean loss over the local steps, probe not counted. Reported, not sent.
    pub loss: f64,
    /// Local steps, probe not counted. Reported, not sent.
    pub steps: usize,
    /// Real tokens trained, probe included. Reported, not sent.
    pub tokens: u64,
}

impl Upload {
    /// What it holds of a kind besides movements.
    pub fn aux(&self, kind: Aux) -> Option<&[Matrix]> {
        self.aux.iter().find(|(other, _)| *other == kind).map(|(_, list)| list.as_slice())
    }

    /// The mean loss of the client's training rows by the model that it started from, where it was asked.
    pub fn start_loss(&self) -> Option<f64> {
        self.aux(Aux::StartLoss)?.first()?.data.first().map(|loss| f64::from(*loss))
    }

    /// Scalars of the adapter in this message, or of the weights in its place.
    pub fn adapter_params(&self) -> u64 {
        self.factors.iter().flat_map(|(_, targets)| targets).chain(&self.weights).map(|m| m.data.len() as u64).sum()
    }

    /// Scalars of the head in this message.
    pub fn head_params(&self) -> u64 {
        self.head.iter().map(|m| m.data.len() as u64).sum()
    }

    /// Other scalars in this message.
    pub fn aux_params(&self) -> u64 {
        self.aux.iter().flat_map(|(_, list)| list).map(|m| m.data.len() as u64).sum()
    }

    /// What the matrices of [`Self::matrices`] are.
    pub fn roles(&self) -> impl Iterator<Item = Role> {
        let factors = self.factors.iter().flat_map(|(factor, list)| (0..list.len()).map(|t| Role::Factor(t, *factor)));
        factors.chain((0..self.weights.len()).map(Role::Weight)).chain((0..self.head.len()).map(Role::Head))
    }

    /// The movement in this message, in the order it is sent.
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.factors.iter().flat_map(|(_, targets)| targets).chain(&self.weights).chain(&self.head)
    }

    /// Norm of the movement in this message.
    pub fn norm(&self) -> f64 {
        let square = |m: &Matrix| m.data.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        self.matrices().map(square).sum::<f64>().sqrt()
    }

    /// Scales the movement so that its norm is at most `most`.
    pub fn clip(&mut self, most: f64) {
        self.scale((most / self.norm().max(f64::MIN_POSITIVE)).min(1.0));
    }

    /// Multiplies the movement by `factor`.
    pub fn scale(&mut self, factor: f64) {
        let factors = self.factors.iter_mut().flat_map(|(_, list)| list);
        for m in factors.chain(&mut self.weights).chain(&mut self.head) {
            m.data.iter_mut().for_each(|v| *v = (f64::from(*v) * factor) as f32);
        }
    }

    /// The same message of a client that has not moved at all.
    pub fn stilled(mut self) -> Upload {
        self.matrices_mut().for_each(|m| m.data.fill(0.0));
        self.kept = ClientMemory::default();
        self
    }

    /// Scalars that cross, of the adapter (or the weights) and of the head.
    pub fn sent_params(&self) -> (u64, u64) {
        match &self.coded {
            Some(coded) => (coded.adapter, coded.head),
            None => (self.adapter_params(), self.head_params()),
        }
    }

    /// All scalars that cross.
    pub fn sent_scalars(&self) -> u64 {
        let (adapter, head) = self.sent_params();
        adapter + head + self.aux_params()
    }

    /// Bytes that say which slots, and which of their numbers, were sent.
    pub fn index_bytes(&self) -> usize {
        self.slots.index_bytes() + self.coded.as_ref().map_or(0, |coded| coded.index_bytes)
    }

    /// Bytes of [`Self::encode`], without making them.
    pub fn encoded_len(&self) -> usize {
        let plain = || 4 * (self.adapter_params() + self.head_params() + self.aux_params()) as usize;
        HEADER + self.slots.index_bytes() + self.coded.as_ref().map_or_else(plain, |coded| coded.bytes.len())
    }

    /// The message as it would cross the wire, little-endian: `"BFU1"`, client, examples, flags (1 A, 2 B, 4 slots
    /// chosen, 8 head, 16 core, 32 more, 64 weights, 128 coded) and rank as u32; one bit for each slot of each target if chosen; then the
    /// numbers as f32, or coded by `[wire]` (`docs/file-formats.md`), factor by factor, target by target, slot by slot, or the weights, the head's tensors, and what else a method
    /// sends. Shapes are known to both sides.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for word in [self.client as u32, self.examples as u32, self.flags(), self.slots.rank() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        if let Slots::Chosen { rank, slots } = &self.slots {
            let mut bits = vec![0u8; self.slots.index_bytes()];
            for at in slots.flat(*rank) {
                bits[at / 8] |= 1 << (at % 8);
            }
            bytes.extend(bits);
        }
        if let Some(coded) = &self.coded {
            bytes.extend(&coded.bytes);
            return bytes;
        }
        bytes.reserve_exact(4 * (self.adapter_params() + self.head_params() + self.aux_params()) as usize);
        for matrix in self.matrices().chain(self.aux.iter().flat_map(|(_, list)| list)) {
            matrix.data.iter().for_each(|v| bytes.extend_from_slice(&v.to_le_bytes()));
        }
        bytes
    }

    /// What the message holds, as its header says it.
    pub(crate) fn flags(&self) -> u32 {
        let flag = |factor: &Factor| match factor {
            Factor::A => flags::A,
            Factor::B => flags::B,
            Factor::Core => flags::CORE,
        };
        let there = |flag: u32, there: bool| if there { flag } else { 0 };
        self.factors.iter().map(|(factor, _)| flag(factor)).sum::<u32>()
            + there(flags::CHOSEN, matches!(self.slots, Slots::Chosen { .. }))
            + there(flags::HEAD, !self.head.is_empty())
            + there(flags::MORE, !self.aux.is_empty())
            + there(flags::WEIGHTS, !self.weights.is_empty())
            + there(flags::CODED, self.coded.is_some())
    }

    /// The matrices of the message, in the order they are sent, to be filled.
    pub(crate) fn matrices_mut(&mut self) -> impl Iterator<Item = &mut Matrix> {
        let factors = self.factors.iter_mut().flat_map(|(_, targets)| targets);
        let aux = self.aux.iter_mut().flat_map(|(_, list)| list);
        factors.chain(&mut self.weights).chain(&mut self.head).chain(aux)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(slots: Slots) -> Upload {
        let rows = [slots.of(0).len(), slots.of(1).len()];
        let factors = vec![(Factor::B, rows.iter().map(|&r| Matrix::new(r, 3, vec![1.5; r * 3])).collect())];
        Upload {
            client: 7,
            examples: 9,
            active: Active::B,
            slots,
            factors,
            weights: vec![],
            head: vec![],
            aux: vec![],
            coded: None,
            kept: ClientMemory::default(),
            loss: 0.0,
            steps: 1,
            tokens: 5,
        }
    }

    #[test]
    fn a_message_is_its_header_its_slots_and_its_numbers() {
        let all = upload(Slots::All { rank: 10 });
        assert_eq!(all.adapter_params(), 60);
        assert_eq!(all.encode().len(), 20 + 60 * 4);
        assert_eq!(all.encoded_len(), all.encode().len());
        let some = upload(Slots::Chosen { rank: 10, slots: [vec![0, 9], vec![3]].into_iter().collect() });
        assert_eq!(some.adapter_params(), 9);
        let bytes = some.encode();
        assert_eq!(bytes.len(), 20 + 3 + 9 * 4);
        assert_eq!(some.encoded_len(), bytes.len());
        assert_eq!(
            &bytes[20..23],
            &[0b1, 0b10_0010, 0],
            "slots 0 and 9 of target 0 are bits 0 and 9, slot 3 of target 1 is bit 13"
        );
        assert_eq!(f32::from_le_bytes([bytes[23], bytes[24], bytes[25], bytes[26]]), 1.5);
    }
}
