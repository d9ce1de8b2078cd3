//! One step's examples, packed: sequences end to end, client by client. Nothing is padded.

use std::ops::Range;
use std::sync::Arc;

use bonfire_kernels::{Grouped, Segments, lists_on, runs_on_cpu};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::{ModelInfo, Objective};

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
    pub(crate) fn size(self, n: usize) -> usize {
        match self {
            Rounding::Exact => n,
            Rounding::Few => n.next_multiple_of((n.next_power_of_two() / 16).max(8)),
        }
    }
}

/// The class of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The word, from 0.
    pub word: usize,
    /// The token that stands for it: its first.
    pub token: usize,
    /// Its class.
    pub class: usize,
}

/// What is asked of a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Goal {
    /// Its class.
    Class(usize),
    /// The class of a pair of texts.
    PairClass {
        /// The class.
        class: usize,
        /// The first token of the second text, by the tokenizer's token types: it and those after it have type 1.
        second: usize,
    },
    /// Which labels a text or a pair of texts has, of all that there are.
    Labels {
        /// Label by label.
        labels: Arc<[bool]>,
        /// Of a pair the first token of the second text, as above.
        second: Option<usize>,
    },
    /// The classes of these tokens, in the order of the text.
    Tags(Arc<[Tag]>),
    /// A number, of a text or of a pair of texts.
    Value {
        /// The number.
        value: f32,
        /// Of a pair the first token of the second text, as above.
        second: Option<usize>,
    },
    /// Every token from this place on, each from those before it. What comes earlier (a prompt) is read and not scored.
    Next(usize),
    /// The tokens of these ranges, in order and none of them the first, each from those before it: of a conversation what the
    /// assistant says.
    Spans(Arc<[Range<usize>]>),
}

impl Goal {
    /// How many answers a text of so many tokens is asked for.
    pub fn answers(&self, tokens: usize) -> usize {
        match self {
            Goal::Class(_) | Goal::PairClass { .. } | Goal::Labels { .. } | Goal::Value { .. } => 1,
            Goal::Tags(tags) => tags.len(),
            Goal::Next(_) | Goal::Spans(_) => self.scored(tokens).map(|range| range.len()).sum(),
        }
    }

    /// Whether one answer is asked of the whole text.
    fn is_of_text(&self) -> bool {
        matches!(self, Goal::Class(_) | Goal::PairClass { .. } | Goal::Labels { .. } | Goal::Value { .. })
    }

    /// Of a pair the first token of the second text.
    fn second(&self) -> Option<usize> {
        match self {
            Goal::PairClass { second, .. } => Some(*second),
            Goal::Labels { second, .. } | Goal::Value { second, .. } => *second,
            _ => None,
        }
    }

    /// The class that is asked for.
    pub fn class(&self) -> Option<usize> {
        match self {
            Goal::Class(class) | Goal::PairClass { class, .. } => Some(*class),
            _ => None,
        }
    }

    /// The tokens whose classes are asked for.
    pub fn tags(&self) -> &[Tag] {
        match self {
            Goal::Tags(tags) => tags,
            _ => &[],
        }
    }

    /// All classes that are asked for: of the text, or of its tokens.
    pub fn classes(&self) -> impl Iterator<Item = usize> + '_ {
        self.class().into_iter().chain(self.tags().iter().map(|tag| tag.class))
    }

    /// Which labels the text has.
    pub fn labels(&self) -> Option<&[bool]> {
        match self {
            Goal::Labels { labels, .. } => Some(labels),
            _ => None,
        }
    }

    /// The number that is asked for.
    pub fn value(&self) -> Option<f32> {
        match self {
            Goal::Value { value, .. } => Some(*value),
            _ => None,
        }
    }

    /// The tokens that are to be foretold, of a text of so many.
    pub fn scored(&self, tokens: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        let (next, spans): (_, &[Range<usize>]) = match self {
            Goal::Next(from) => (Some((*from).max(1)..tokens), &[]),
            Goal::Spans(spans) => (None, spans),
            _ => (None, &[]),
        };
        let within = move |range: &Range<usize>| range.start.max(1)..range.end.min(tokens);
        next.into_iter().chain(spans.iter().map(within))
    }
}

/// A packed batch on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedBatch {
    /// Token ids `[T]`.
    pub tokens: Vec<u32>,
    /// What is asked of every sequence `[S]`.
    pub goals: Vec<Goal>,
    /// Token ranges of the sequences.
    pub sequences: Segments,
    /// Sequence ranges of the clients; a client may have none.
    pub clients: Segments,
}

impl PackedBatch {
    /// Packs `(token ids, goal)` examples, a list for each client in flight.
    pub fn pack(clients: &[Vec<(&[u32], Goal)>]) -> Self {
        let all = || clients.iter().flatten();
        PackedBatch {
            tokens: all().flat_map(|(ids, _)| ids.iter().copied()).collect(),
            goals: all().map(|(_, goal)| goal.clone()).collect(),
            sequences: Segments::from_lengths(all().map(|(ids, _)| ids.len())),
            clients: Segments::from_lengths(clients.iter().map(Vec::len)),
        }
    }

    /// One batch of the clients of all `parts`, one part's after the other's.
    pub fn joined(parts: &[&PackedBatch]) -> Self {
        PackedBatch {
            tokens: parts.iter().flat_map(|part| part.tokens.iter().copied()).collect(),
            goals: parts.iter().flat_map(|part| part.goals.iter().cloned()).collect(),
            sequences: Segments::from_lengths(parts.iter().flat_map(|part| part.sequences.ranges().map(|r| r.len()))),
            clients: Segments::from_lengths(parts.iter().flat_map(|part| part.clients.ranges().map(|r| r.len()))),
        }
    }

    /// Lengths of the clients' runs, where each sequence counts `of` it.
    fn client_lengths(&self, of: impl Fn(usize) -> usize) -> Segments {
        Segments::from_lengths(self.clients.ranges().map(|r| r.map(&of).sum()))
    }

    /// The token that stands for a sequence: the first in an encoder, the last in a decoder.
    fn mark(&self, s: usize, info: &ModelInfo) -> usize {
        let range = self.sequences.range(s);
        if info.architecture.is_decoder() { range.end - 1 } else { range.start }
    }

    /// Rows that are read, and what is to be found there: `(token, answer)`.
    pub(crate) fn read(&self, info: &ModelInfo) -> impl Iterator<Item = (usize, usize)> {
        self.goals.iter().enumerate().flat_map(move |(s, goal)| {
            let range = self.sequences.range(s);
            let start = range.start;
            // Numbers and labels have no place among the classes, but they are read where a class is.
            let class = goal.is_of_text().then(|| (self.mark(s, info), goal.class().unwrap_or(0)));
            let tags = goal.tags().iter().map(move |tag| (start + tag.token, tag.class));
            let scored = goal.scored(range.len()).flatten().map(move |t| start + t);
            class.into_iter().chain(tags).chain(scored.map(|t| (t - 1, self.tokens[t] as usize)))
        })
    }

    /// The numbers that are asked for `[S, K]`, of labels 0 or 1, rounded up with zeros; `None` where something else is asked.
    fn values(&self, rounding: Rounding, device: &Device) -> Option<Tensor<2>> {
        let of_goal = |goal: &Goal| match goal {
            Goal::Value { value, .. } => Some(vec![*value]),
            Goal::Labels { labels, .. } => Some(labels.iter().map(|&there| f32::from(there)).collect()),
            _ => None,
        };
        let values: Vec<Vec<f32>> = self.goals.iter().map(of_goal).collect::<Option<_>>()?;
        let (rows, width) = (rounding.size(values.len()), values.first()?.len());
        let mut values = values.concat();
        values.resize(rows * width, 0.0);
        Some(Tensor::from_data(TensorData::new(values, [rows, width]), device))
    }

    /// The type of every token `[T]`, where a pair has a second text.
    fn types(&self) -> Option<Vec<i32>> {
        let second = |(s, goal): (usize, &Goal)| goal.second().unwrap_or_else(|| self.sequences.range(s).len());
        let seconds: Vec<usize> = self.goals.iter().enumerate().map(second).collect();
        let types_of = |(range, second): (Range<usize>, &usize)| {
            (0..range.len()).map(|t| i32::from(t >= *second)).collect::<Vec<_>>()
        };
        let types: Vec<i32> = self.sequences.ranges().zip(&seconds).flat_map(types_of).collect();
        types.contains(&1).then_some(types)
    }

    /// Puts the batch on `device` as models of the shape `info` read it.
    pub fn to_device(&self, info: &ModelInfo, rounding: Rounding, device: &Device) -> DeviceBatch {
        let rounded = |mut values: Vec<i32>, surplus: usize| {
            values.resize(rounding.size(values.len()), surplus as i32);
            values
        };
        let first = info.first_position;
        let positions = self.sequences.ranges().flat_map(|r| (0..r.len()).map(|p| (first + p) as i32));
        let (read, labels): (Vec<i32>, Vec<i32>) = self.read(info).map(|(t, a)| (t as i32, a as i32)).unzip();
        let client_read = self.client_lengths(|s| self.goals[s].answers(self.sequences.range(s).len()));
        let lists = [
            rounded(self.tokens.iter().map(|&t| t as i32).collect(), 0),
            rounded(positions.collect(), first),
            rounded((0..self.goals.len()).map(|s| self.mark(s, info) as i32).collect(), 0),
            rounded(read, 0),
            rounded(labels, 0),
        ];
        let types = self.types().map(|types| rounded(types, 0));
        let lists: Vec<Vec<i32>> = lists.into_iter().chain(types).collect();
        let mut lists = lists_on(&lists, device).into_iter();
        let mut next = || lists.next().expect("as many as there were");
        DeviceBatch {
            tokens: next(),
            positions: next(),
            marks: next(),
            read: next(),
            labels: next(),
            types: lists.next(),
            values: self.values(rounding, device),
            by_client: Grouped::new(&client_read, device),
            sequences: self.sequences.clone(),
            client_tokens: self.client_lengths(|s| self.sequences.range(s).len()),
            client_sequences: self.clients.clone(),
            client_read,
            objective: Objective::default(),
        }
    }
}

/// A packed batch on a device, with the index tensors that the forward pass reads. `N` rows are read: one a sequence
/// where it is classified, one for every token that is classified or to be foretold.
#[derive(Clone, Debug)]
pub struct DeviceBatch {
    /// Token ids `[T]`, surplus included.
    pub tokens: Tensor<1, Int>,
    /// Position of every token `[T]`.
    pub positions: Tensor<1, Int>,
    /// Type of every token `[T]`; `None` where all have type 0.
    pub types: Option<Tensor<1, Int>>,
    /// The token that stands for a sequence `[S]`, surplus included: the first in an encoder, the last in a decoder.
    pub marks: Tensor<1, Int>,
    /// The tokens whose result is read `[N]`, surplus included.
    pub read: Tensor<1, Int>,
    /// What is to be found there `[N]`: the class, or the next token.
    pub labels: Tensor<1, Int>,
    /// The numbers that are to be found there `[N, K]`, surplus included, where numbers are asked for, `K` = 1, or labels, each 0 or 1.
    pub values: Option<Tensor<2>>,
    /// What the rows that are read leave, client by client.
    pub by_client: Grouped,
    /// Token ranges of the sequences.
    pub sequences: Segments,
    /// Token ranges of the clients.
    pub client_tokens: Segments,
    /// Sequence ranges of the clients.
    pub client_sequences: Segments,
    /// Ranges of the clients among the rows that are read.
    pub client_read: Segments,
    /// What training asks of these rows; cross-entropy unless somebody puts another here.
    pub objective: Objective,
}

impl DeviceBatch {
    /// The numbers that are to be found in the first `n` rows `[n, K]`.
    pub(crate) fn asked_values(&self, n: usize) -> Tensor<2> {
        self.values.clone().expect("numbers of every text").narrow(0, 0, n)
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_read_and_not_scored() {
        let (a, b, c) = ([1, 7, 8, 9], [1, 5], [1, 6, 2]);
        let texts = [vec![(&a[..], Goal::Next(2)), (&b[..], Goal::Next(0))], vec![(&c[..], Goal::Next(2))]];
        let batch = PackedBatch::pack(&texts).to_device(&ModelInfo::roberta_base(), Rounding::Exact, &Device::flex());
        let ints = |t: Tensor<1, Int>| t.into_data().iter::<i64>().collect::<Vec<_>>();
        assert_eq!(ints(batch.read), [1, 2, 4, 7]);
        assert_eq!(ints(batch.labels), [8, 9, 5, 2]);
        assert_eq!(batch.client_read.ranges().map(|r| r.len()).collect::<Vec<_>>(), [3, 1]);
    }

    #[test]
    fn batches_join_as_if_they_had_been_packed_at_once() {
        let (a, b, c) = ([1, 7, 8, 9], [1, 5], [1, 6, 2]);
        let clients = [
            vec![(&a[..], Goal::Class(2)), (&b[..], Goal::Class(0))],
            vec![],
            vec![(&c[..], Goal::PairClass { class: 1, second: 2 })],
        ];
        let parts = [PackedBatch::pack(&clients[..2]), PackedBatch::pack(&clients[2..])];
        assert_eq!(PackedBatch::joined(&[&parts[0], &parts[1]]), PackedBatch::pack(&clients));
    }

    #[test]
    fn turns_are_scored_one_by_one_and_pairs_have_types() {
        let ids = [1, 7, 8, 9, 5, 4];
        let spans = Goal::Spans([1..3, 5..6].into());
        assert_eq!(spans.answers(6), 3);
        let (device, info) = (Device::flex(), ModelInfo::roberta_base());
        let ints = |t: Tensor<1, Int>| t.into_data().iter::<i64>().collect::<Vec<_>>();
        let batch = PackedBatch::pack(&[vec![(&ids[..], spans)]]).to_device(&info, Rounding::Exact, &device);
        assert_eq!((ints(batch.read), ints(batch.labels)), (vec![0, 1, 4], vec![7, 8, 4]));
        assert!(batch.types.is_none());
        let pair = Goal::PairClass { class: 3, second: 4 };
        let texts = vec![(&ids[..2], Goal::Class(1)), (&ids[..], pair)];
        let batch = PackedBatch::pack(&[texts]).to_device(&info, Rounding::Exact, &device);
        assert_eq!(batch.types.map(ints), Some(vec![0, 0, 0, 0, 0, 0, 1, 1]));
        assert_eq!((ints(batch.read), ints(batch.labels)), (vec![0, 2], vec![1, 3]));
        assert!(batch.values.is_none());
        // Numbers are read where classes are, and of pairs too.
        let number = |value, second| Goal::Value { value, second };
        let texts = vec![(&ids[..2], number(0.5, None)), (&ids[..], number(-3.0, Some(4)))];
        let batch = PackedBatch::pack(&[texts]).to_device(&info, Rounding::Exact, &device);
        assert_eq!(batch.types.map(ints), Some(vec![0, 0, 0, 0, 0, 0, 1, 1]));
        let values = batch.values.map(|t| t.into_data().try_to_vec::<f32>().expect("f32"));
        assert_eq!((ints(batch.read), values), (vec![0, 2], Some(vec![0.5, -3.0])));
        assert_eq!(batch.client_read.rows(), 2);
        // So are labels, one number each.
        let labels = |there: [bool; 3], second| Goal::Labels { labels: there.into(), second };
        let texts = vec![(&ids[..2], labels([true, false, true], None)), (&ids[..], labels([false; 3], Some(4)))];
        let batch = PackedBatch::pack(&[texts]).to_device(&info, Rounding::Exact, &device);
        assert_eq!(batch.types.map(ints), Some(vec![0, 0, 0, 0, 0, 0, 1, 1]));
        let values = batch.values.expect("numbers");
        assert_eq!((ints(batch.read), values.dims()), (vec![0, 2], [2, 3]));
        assert_eq!(values.into_data().try_to_vec::<f32>().expect("f32"), [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn tagged_tokens_are_read_where_they_stand() {
        let (a, b) = ([1, 7, 8, 9, 2], [1, 5, 2]);
        let tags = |tags: &[(usize, usize)]| {
            Goal::Tags(tags.iter().map(|&(token, class)| Tag { word: token - 1, token, class }).collect())
        };
        let texts = [vec![(&a[..], tags(&[(1, 4), (3, 0)]))], vec![(&b[..], tags(&[(1, 2)]))]];
        let (device, info) = (Device::flex(), ModelInfo::roberta_base());
        let ints = |t: Tensor<1, Int>| t.into_data().iter::<i64>().collect::<Vec<_>>();
        let packed = PackedBatch::pack(&texts);
        assert_eq!(packed.weights_by_client(None), [2.0, 1.0]);
        assert_eq!(packed.weights_by_client(Some(&[0.5, 9.0, 3.0, 9.0, 2.0])), [2.5, 3.0]);
        let batch = packed.to_device(&info, Rounding::Exact, &device);
        assert_eq!((ints(batch.read), ints(batch.labels)), (vec![1, 3, 6], vec![4, 0, 2]));
        assert_eq!(batch.client_read.ranges().map(|r| r.len()).collect::<Vec<_>>(), [2, 1]);
    }
}
