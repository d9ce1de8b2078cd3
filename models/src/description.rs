//! What tells one architecture from another, as data: names, which linears share an input, where norms stand, what a head
//! is made of. `body.rs` computes whatever is described here; [`ModelInfo`](crate::ModelInfo) holds what a model's own
//! `config.json` adds to it (sizes, biases, windows, positions).

mod decoders;
mod encoders;

use crate::{Architecture, TargetKind, Task};

/// A linear's place in a layer: which it is, and its module path there.
pub(crate) type Linears = &'static [(TargetKind, &'static str)];

/// An architecture.
#[derive(Clone, Copy)]
pub(crate) struct Description {
    /// `model_type` in `config.json`.
    pub name: &'static str,
    /// The start of the names of Transformers' classes.
    pub class: &'static str,
    /// The same of the classifier's.
    pub classifier: &'static str,
    /// The first part of its tensors' names.
    pub prefix: &'static str,
    /// What comes between the prefix and a layer's number.
    pub layers: &'static str,
    /// Whether tokens see only what stands before them, and scores over the vocabulary follow the last layer.
    pub decoder: bool,
    /// Where norms stand.
    pub order: Order,
    /// The linears of a layer in the order of the forward pass, those that share an input together: attention's queries, keys
    /// and values; what follows attention; the feed-forward block's widening and narrowing ones.
    pub groups: [Linears; 4],
    /// The norms of a layer.
    pub norms: &'static [(NormPlace, &'static str)],
    /// What all norms are, those of heads included.
    pub norm: NormForm,
    /// Whether the first layer's attention reads the embeddings without a norm in between, as they had theirs.
    pub first_reads_embeddings: bool,
    /// Modules outside the layers.
    pub embeddings: Embeddings,
    /// The norm after the last layer.
    pub last_norm: Option<&'static str>,
    /// What stands between a classifier's hidden state and its head and is not trained.
    pub pooler: Option<PoolerForm>,
    /// What is dropped in training, as Transformers has it.
    pub dropped: Dropped,
    /// The head of a classifier of texts, in the order of the forward pass.
    pub head: &'static [HeadForm],
    /// The head of a classifier of tokens; `None`: Transformers has no such model.
    pub tag_head: Option<&'static [HeadForm]>,
    /// Whether the pooler also stands before that head, token by token.
    pub pools_tokens: bool,
    /// The name of its GGUF files, where llama.cpp reads adapters of it.
    pub gguf: Option<&'static str>,
    /// Whether GGUF files hold the rows of queries and keys so that features which are turned together are neighbours.
    pub gguf_neighbours: bool,
}

/// The modules of the embeddings, below the prefix.
#[derive(Clone, Copy)]
pub(crate) struct Embeddings {
    pub words: &'static str,
    pub positions: Option<&'static str>,
    pub token_types: Option<&'static str>,
    pub norm: Option<&'static str>,
    /// A table that attention reads by how far two tokens are apart.
    pub distances: Option<&'static str>,
}

/// What training drops besides the weights of attention, which all models drop alike.
#[derive(Clone, Copy)]
pub(crate) struct Dropped {
    /// The embeddings, after their norm.
    pub embeddings: bool,
    /// The result of attention's output linear, before it is added.
    pub attention: Option<DropRate>,
    /// What the narrowing linear reads.
    pub feed_forward_inside: bool,
    /// The result of the feed-forward block, before it is added.
    pub feed_forward: Option<DropRate>,
}

/// Which share is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DropRate {
    /// That of hidden states.
    Hidden,
    /// That of attention.
    Attention,
}

/// Where norms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// After each sum (BERT).
    Post,
    /// Before each block, and for some also after it, before the sum (LLaMA, Gemma 3).
    Pre,
}

/// A norm's place in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormPlace {
    BeforeAttention,
    /// Over each query head.
    Queries,
    /// Over each key head.
    Keys,
    AfterAttention,
    BeforeFeedForward,
    AfterFeedForward,
}

impl NormPlace {
    pub const COUNT: usize = 6;
}

/// What a norm is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormForm {
    /// A layer norm with gain and bias.
    Layer,
    /// A layer norm with a gain alone.
    LayerWithoutBias,
    /// An RMS norm (arXiv 1910.07467).
    Rms,
    /// An RMS norm whose stored gain is what is added to 1.
    RmsFromOne,
}

/// A frozen linear with a bend, and maybe a norm, before a classifier's head.
#[derive(Clone, Copy)]
pub(crate) struct PoolerForm {
    /// Full names, prefix included.
    pub linear: &'static str,
    pub bend: Bend,
    pub norm: Option<&'static str>,
}

/// A linear of a head.
#[derive(Clone, Copy)]
pub(crate) struct HeadForm {
    pub module: &'static str,
    pub width: Width,
    pub bias: bool,
    pub bend: Bend,
    /// Whether training drops a share of what it reads.
    pub dropped: bool,
}

/// Output features of a head's linear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Hidden,
    Classes,
}

/// What is done to a linear's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bend {
    None,
    Tanh,
    Relu,
    Gelu,
}

impl Architecture {
    /// What tells it from the others.
    pub(crate) fn describe(self) -> &'static Description {
        match self {
            Architecture::Roberta => &encoders::ROBERTA,
            Architecture::XlmRoberta => &encoders::XLM_ROBERTA,
            Architecture::Camembert => &encoders::CAMEMBERT,
            Architecture::Bert => &encoders::BERT,
            Architecture::DistilBert => &encoders::DISTILBERT,
            Architecture::MpNet => &encoders::MPNET,
            Architecture::ModernBert => &encoders::MODERNBERT,
            Architecture::Llama => &decoders::LLAMA,
            Architecture::Mistral => &decoders::MISTRAL,
            Architecture::Qwen2 => &decoders::QWEN2,
            Architecture::Qwen3 => &decoders::QWEN3,
            Architecture::Gemma3 => &decoders::GEMMA3,
            Architecture::SmolLm3 => &decoders::SMOLLM3,
            Architecture::Phi3 => &decoders::PHI3,
        }
    }
}

impl Description {
    /// What the head is made of for `task`; nothing where there is none.
    pub fn head_of(&self, task: Task) -> &'static [HeadForm] {
        match task {
            Task::Classify(_) | Task::MultiLabel(_) | Task::Regress => self.head,
            Task::Tag(_) => self.tag_head.unwrap_or_default(),
            Task::Causal => &[],
        }
    }

    /// What stands before the head for `task`.
    pub fn pooler_of(&self, task: Task) -> Option<PoolerForm> {
        self.pooler.filter(|_| task.is_of_texts() || (self.pools_tokens && matches!(task, Task::Tag(_))))
    }

    /// Every linear of a layer.
    pub fn linears(&self) -> impl Iterator<Item = &'static (TargetKind, &'static str)> {
        self.groups.into_iter().flatten()
    }

    /// The module path of a linear inside a layer.
    pub fn module(&self, kind: TargetKind) -> Option<&'static str> {
        self.linears().find(|(k, _)| *k == kind).map(|(_, path)| *path)
    }

    /// The name that PEFT's users list it by: the last part of its path, or all of it where others end alike.
    pub fn short(&self, kind: TargetKind) -> Option<&'static str> {
        let last = |path: &'static str| path.rsplit('.').next().unwrap_or(path);
        let path = self.module(kind)?;
        let alike = self.linears().filter(|(_, other)| last(other) == last(path)).count();
        Some(if alike > 1 { path } else { last(path) })
    }

    /// The norms of a layer.
    pub fn norms_of(&self, layer: usize) -> impl Iterator<Item = (NormPlace, &'static str)> {
        let bare = layer == 0 && self.first_reads_embeddings;
        self.norms.iter().copied().filter(move |(place, _)| !(bare && *place == NormPlace::BeforeAttention))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linears_go_by_the_names_that_peft_lists() {
        let described = |architecture: Architecture| {
            let description = architecture.describe();
            description.linears().map(|(kind, _)| description.short(*kind).expect("its own")).collect::<Vec<_>>()
        };
        assert_eq!(
            described(Architecture::Bert),
            ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
        );
        assert_eq!(described(Architecture::DistilBert), ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"]);
        assert_eq!(described(Architecture::MpNet), ["q", "k", "v", "o", "intermediate.dense", "output.dense"]);
        assert_eq!(described(Architecture::ModernBert), ["Wqkv", "attn.Wo", "Wi", "mlp.Wo"]);
        assert_eq!(described(Architecture::Phi3), ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]);
        assert_eq!(
            described(Architecture::Qwen3),
            ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        );
    }

    #[test]
    fn every_architecture_is_known_by_its_own_name() {
        for architecture in Architecture::ALL {
            assert_eq!(Architecture::named(architecture.name()), Some(architecture));
        }
    }
}
