//! The row to hold the engine against: the same encoder made of Burn's own modules, trained client after client with
//! `Module::apply_lora` and Burn's AdamW, as a careful user of Burn alone would write it.

use anyhow::Result;
use bonfire_kernels::cross_entropy_composed;
use bonfire_models::{Goal, ModelInfo};
use burn::module::{Lora, Module, ParamGroup};
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::{gelu, softmax};
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::args::{BenchArgs, Targets};
use super::ways::{Done, Way};
use super::work::{Work, trains_head};

/// An encoder with a RoBERTa head; weights drawn by Burn, since only its speed is read.
#[derive(Module, Debug)]
struct PlainEncoder {
    words: Embedding,
    positions: Embedding,
    norm: LayerNorm,
    layers: Vec<PlainLayer>,
    head_dense: Linear,
    head_out: Linear,
    heads: usize,
    first_position: usize,
}

#[derive(Module, Debug)]
struct PlainLayer {
    query: Linear,
    key: Linear,
    value: Linear,
    attended: Linear,
    wide: Linear,
    narrow: Linear,
    attention_norm: LayerNorm,
    output_norm: LayerNorm,
}

impl PlainLayer {
    fn new(info: &ModelInfo, device: &Device) -> Self {
        let d = info.hidden;
        let linear = |d_in, d_out| LinearConfig::new(d_in, d_out).init(device);
        let norm = || LayerNormConfig::new(d).with_epsilon(info.eps).init(device);
        PlainLayer {
            query: linear(d, d),
            key: linear(d, d),
            value: linear(d, d),
            attended: linear(d, d),
            wide: linear(d, info.intermediate),
            narrow: linear(info.intermediate, d),
            attention_norm: norm(),
            output_norm: norm(),
        }
    }

    /// `[N, L, D] -> [N, L, D]`; `bias` `[N, 1, 1, L]` hides the padding.
    fn forward(&self, x: Tensor<3>, heads: usize, bias: Tensor<4>) -> Tensor<3> {
        let [n, l, d] = x.dims();
        let split = |t: Tensor<3>| t.reshape([n, l, heads, d / heads]).swap_dims(1, 2);
        let [q, k, v] = [&self.query, &self.key, &self.value].map(|linear| split(linear.forward(x.clone())));
        let scores = q.matmul(k.swap_dims(2, 3)) / ((d / heads) as f64).sqrt() + bias;
        let mixed = softmax(scores, 3).matmul(v).swap_dims(1, 2).reshape([n, l, d]);
        let x = self.attention_norm.forward(x + self.attended.forward(mixed));
        let inner = self.narrow.forward(gelu(self.wide.forward(x.clone())));
        self.output_norm.forward(x + inner)
    }
}

impl PlainEncoder {
    fn new(info: &ModelInfo, classes: usize, device: &Device) -> Self {
        let d = info.hidden;
        PlainEncoder {
            words: EmbeddingConfig::new(info.vocab, d).init(device),
            positions: EmbeddingConfig::new(info.positions, d).init(device),
            norm: LayerNormConfig::new(d).with_epsilon(info.eps).init(device),
            layers: (0..info.layers).map(|_| PlainLayer::new(info, device)).collect(),
            head_dense: LinearConfig::new(d, d).init(device),
            head_out: LinearConfig::new(d, classes).init(device),
            heads: info.heads,
            first_position: info.first_position,
        }
    }

    /// The same with fresh adapters on `targets`, everything else frozen but the head where it trains.
    fn with_lora(self, args: &BenchArgs) -> Self {
        let adapted = match args.targets {
            Targets::All => ParamGroup::from_predicate("layers"),
            Targets::Qv => ParamGroup::from_any_predicates(vec!["query", "value"]),
        };
        let adapted = self.apply_lora(Lora::new(args.rank, args.alpha).set_param_group(adapted));
        if trains_head(args) {
            adapted.set_require_grad_group(ParamGroup::from_predicate("head_"), true)
        } else {
            adapted
        }
    }

    /// Class scores `[N, K]` of padded texts.
    fn forward(&self, batch: PaddedBatch) -> Tensor<2> {
        let mut x = self.norm.forward(self.words.forward(batch.tokens) + self.positions.forward(batch.positions));
        for layer in &self.layers {
            x = layer.forward(x, self.heads, batch.bias.clone());
        }
        let first = x.narrow(1, 0, 1).squeeze_dim::<2>(1);
        self.head_out.forward(self.head_dense.forward(first).tanh())
    }
}

/// Texts padded to the longest among them.
struct PaddedBatch {
    /// `[N, L]`.
    tokens: Tensor<2, Int>,
    /// `[1, L]`.
    positions: Tensor<2, Int>,
    /// `[N, 1, 1, L]`: 0 at tokens, a large negative number at padding.
    bias: Tensor<4>,
    /// `[N]`.
    labels: Tensor<1, Int>,
}

impl PaddedBatch {
    fn new(texts: &[&Vec<u32>], labels: Vec<i32>, first_position: usize, device: &Device) -> Self {
        let (n, l) = (texts.len(), texts.iter().map(|ids| ids.len()).max().unwrap_or(0));
        let mut tokens = vec![0i32; n * l];
        let mut bias = vec![-1e9f32; n * l];
        for (i, ids) in texts.iter().enumerate() {
            for (j, &id) in ids.iter().enumerate() {
                tokens[i * l + j] = id as i32;
                bias[i * l + j] = 0.0;
            }
        }
        let positions: Vec<i32> = (0..l).map(|p| (first_position + p) as i32).collect();
        PaddedBatch {
            tokens: Tensor::from_data(TensorData::new(tokens, [n, l]), device),
            positions: Tensor::from_data(TensorData::new(positions, [1, l]), device),
            bias: Tensor::from_data(TensorData::new(bias, [n, 1, 1, l]), device),
            labels: Tensor::from_data(TensorData::new(labels, [n]), device),
        }
    }
}

/// The way for the `step` part.
pub fn way<'w>(args: &'w BenchArgs, work: &'w Work, device: &Device) -> Way<'w> {
    let device = device.clone().autodiff();
    let base = PlainEncoder::new(&work.info, work.classes(), &device);
    let run = move || {
        let mut done = Done::default();
        for rows in &work.shards {
            train(base.clone().with_lora(args), args, work, rows, &device, &mut done)?;
        }
        Ok(done)
    };
    let name = "Burn's apply_lora, one client after another".to_string();
    Way { name, in_flight: 1, run: Box::new(run) }
}

/// One client: fresh adapters, a fresh optimizer, its steps; the losses are read once at the end.
fn train(
    mut model: PlainEncoder,
    args: &BenchArgs,
    work: &Work,
    rows: &[usize],
    device: &Device,
    done: &mut Done,
) -> Result<()> {
    let mut optimizer = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.0).init();
    let mut losses = Tensor::<1>::zeros([1], &device.clone().inner());
    for part in rows.chunks(args.batch) {
        let texts: Vec<&Vec<u32>> = part.iter().map(|&row| &work.texts.ids[row]).collect();
        let class = |goal: &Goal| goal.class().unwrap_or(0) as i32;
        let labels = part.iter().map(|&row| class(&work.texts.goals[row])).collect();
        let batch = PaddedBatch::new(&texts, labels, model.first_position, device);
        let labels = batch.labels.clone();
        let loss = cross_entropy_composed(model.forward(batch), labels).mean();
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(1e-3, model, grads);
        losses = losses + loss.inner();
        done.tokens += texts.iter().map(|ids| ids.len() as u64).sum::<u64>();
        done.steps += 1;
    }
    let sum: f32 = losses.into_scalar();
    anyhow::ensure!(sum.is_finite(), "the loss of Burn's apply_lora is not finite");
    Ok(())
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use clap::Parser;

    use super::*;

    /// A command line of `bonfire bench`.
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    #[test]
    fn adapters_and_head_get_gradients_and_nothing_else() {
        let device = Device::flex().autodiff();
        let info = ModelInfo { layers: 2, hidden: 16, heads: 2, intermediate: 32, vocab: 40, ..ModelInfo::minilm() };
        let line = ["bench", "step", "--targets", "qv", "--rank", "2"];
        let args = Line::try_parse_from(line).expect("valid").args;
        let model = PlainEncoder::new(&info, 3, &device).with_lora(&args);
        let batch = PaddedBatch::new(&[&vec![0, 5, 2], &vec![0, 7, 8, 9, 2]], vec![0, 2], 2, &device);
        let labels = batch.labels.clone();
        let loss = cross_entropy_composed(model.forward(batch), labels).mean();
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        // A and B of query and value in two layers; weight and bias of two linears of the head.
        assert_eq!(grads.len(), 2 * 2 * 2 + 4);
    }

    #[test]
    fn padding_changes_nothing() {
        let device = Device::flex().autodiff();
        let info = ModelInfo { layers: 1, hidden: 16, heads: 2, intermediate: 32, vocab: 40, ..ModelInfo::minilm() };
        let model = PlainEncoder::new(&info, 3, &device);
        let scores = |texts: &[&Vec<u32>]| -> Vec<f32> {
            let batch = PaddedBatch::new(texts, vec![0; texts.len()], 2, &device);
            model.forward(batch).narrow(0, 0, 1).into_data().try_to_vec().expect("f32")
        };
        let (short, long) = (vec![0, 5, 2], vec![0, 7, 8, 9, 2]);
        for (alone, padded) in scores(&[&short]).iter().zip(scores(&[&short, &long])) {
            assert!((alone - padded).abs() < 1e-5, "{alone} alone, {padded} beside a longer text");
        }
    }
}
