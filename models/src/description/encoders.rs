//! The encoders that can be trained, one description each: RoBERTa and BERT first, then what differs from them.

use super::NormPlace::{AfterAttention, AfterFeedForward, BeforeAttention, BeforeFeedForward};
use super::{Bend, Description, DropRate, Dropped, Embeddings, HeadForm, Linears, NormForm, Order, PoolerForm, Width};
use crate::TargetKind::{AttentionOutput, GateUp, Intermediate, Key, Output, Qkv, Query, Value};

const BERT_GROUPS: [Linears; 4] = [
    &[(Query, "attention.self.query"), (Key, "attention.self.key"), (Value, "attention.self.value")],
    &[(AttentionOutput, "attention.output.dense")],
    &[(Intermediate, "intermediate.dense")],
    &[(Output, "output.dense")],
];

const fn part(module: &'static str, width: Width, bend: Bend) -> HeadForm {
    HeadForm { module, width, bias: true, bend, dropped: true }
}

/// Embeddings, and the result of each block.
const BERT_DROPPED: Dropped = Dropped {
    embeddings: true,
    attention: Some(DropRate::Hidden),
    feed_forward_inside: false,
    feed_forward: Some(DropRate::Hidden),
};

/// `classifier.dense`, tanh, `classifier.out_proj`, as RoBERTa and MPNet have them.
const ROBERTA_HEAD: &[HeadForm] =
    &[part("classifier.dense", Width::Hidden, Bend::Tanh), part("classifier.out_proj", Width::Classes, Bend::None)];

/// RoBERTa (arXiv 1907.11692).
pub(super) const ROBERTA: Description = Description {
    name: "roberta",
    class: "Roberta",
    classifier: "Roberta",
    prefix: "roberta",
    layers: "encoder.layer",
    decoder: false,
    order: Order::Post,
    groups: BERT_GROUPS,
    norms: &[(AfterAttention, "attention.output.LayerNorm"), (AfterFeedForward, "output.LayerNorm")],
    norm: NormForm::Layer,
    first_reads_embeddings: false,
    embeddings: Embeddings {
        words: "embeddings.word_embeddings",
        positions: Some("embeddings.position_embeddings"),
        token_types: Some("embeddings.token_type_embeddings"),
        norm: Some("embeddings.LayerNorm"),
        distances: None,
    },
    last_norm: None,
    pooler: None,
    dropped: BERT_DROPPED,
    head: ROBERTA_HEAD,
    tag_head: Some(&[part("classifier", Width::Classes, Bend::None)]),
    pools_tokens: false,
    gguf: None,
    gguf_neighbours: false,
};

/// XLM-RoBERTa (arXiv 1911.02116): RoBERTa over another vocabulary.
pub(super) const XLM_ROBERTA: Description =
    Description { name: "xlm-roberta", class: "XLMRoberta", classifier: "XLMRoberta", ..ROBERTA };

/// CamemBERT (arXiv 1911.03894): the same again.
pub(super) const CAMEMBERT: Description =
    Description { name: "camembert", class: "Camembert", classifier: "Camembert", ..ROBERTA };

/// BERT (arXiv 1810.04805).
pub(super) const BERT: Description = Description {
    name: "bert",
    class: "Bert",
    classifier: "Bert",
    prefix: "bert",
    pooler: Some(PoolerForm { linear: "bert.pooler.dense", bend: Bend::Tanh, norm: None }),
    head: &[part("classifier", Width::Classes, Bend::None)],
    ..ROBERTA
};

/// DistilBERT (arXiv 1910.01108): no token types, no pooler.
pub(super) const DISTILBERT: Description = Description {
    name: "distilbert",
    class: "DistilBert",
    classifier: "DistilBert",
    prefix: "distilbert",
    layers: "transformer.layer",
    groups: [
        &[(Query, "attention.q_lin"), (Key, "attention.k_lin"), (Value, "attention.v_lin")],
        &[(AttentionOutput, "attention.out_lin")],
        &[(Intermediate, "ffn.lin1")],
        &[(Output, "ffn.lin2")],
    ],
    norms: &[(AfterAttention, "sa_layer_norm"), (AfterFeedForward, "output_layer_norm")],
    embeddings: Embeddings { token_types: None, ..ROBERTA.embeddings },
    dropped: Dropped { attention: None, ..BERT_DROPPED },
    head: &[
        HeadForm { dropped: false, ..part("pre_classifier", Width::Hidden, Bend::Relu) },
        part("classifier", Width::Classes, Bend::None),
    ],
    ..ROBERTA
};

/// MPNet (arXiv 2004.09297): attention also reads how far tokens are apart, from one table for all layers.
pub(super) const MPNET: Description = Description {
    name: "mpnet",
    class: "MPNet",
    classifier: "MPNet",
    prefix: "mpnet",
    groups: [
        &[(Query, "attention.attn.q"), (Key, "attention.attn.k"), (Value, "attention.attn.v")],
        &[(AttentionOutput, "attention.attn.o")],
        &[(Intermediate, "intermediate.dense")],
        &[(Output, "output.dense")],
    ],
    norms: &[(AfterAttention, "attention.LayerNorm"), (AfterFeedForward, "output.LayerNorm")],
    embeddings: Embeddings {
        token_types: None,
        distances: Some("encoder.relative_attention_bias"),
        ..ROBERTA.embeddings
    },
    ..ROBERTA
};

/// ModernBERT (arXiv 2412.13663): norms before each block, rotary positions, GeGLU, two layers of three local.
pub(super) const MODERNBERT: Description = Description {
    name: "modernbert",
    class: "ModernBert",
    classifier: "ModernBert",
    prefix: "model",
    layers: "layers",
    order: Order::Pre,
    groups: [&[(Qkv, "attn.Wqkv")], &[(AttentionOutput, "attn.Wo")], &[(GateUp, "mlp.Wi")], &[(Output, "mlp.Wo")]],
    norms: &[(BeforeAttention, "attn_norm"), (BeforeFeedForward, "mlp_norm")],
    norm: NormForm::LayerWithoutBias,
    first_reads_embeddings: true,
    embeddings: Embeddings {
        words: "embeddings.tok_embeddings",
        positions: None,
        token_types: None,
        norm: Some("embeddings.norm"),
        distances: None,
    },
    last_norm: Some("final_norm"),
    pooler: Some(PoolerForm { linear: "head.dense", bend: Bend::Gelu, norm: Some("head.norm") }),
    pools_tokens: true,
    dropped: Dropped {
        embeddings: true,
        attention: Some(DropRate::Attention),
        feed_forward_inside: true,
        feed_forward: None,
    },
    head: &[part("classifier", Width::Classes, Bend::None)],
    ..ROBERTA
};
