#!/usr/bin/env python3
"""Write the small reference models and numbers that the tests compare with.

    python scripts/make_fixtures.py                    # writes to tests/fixtures/
    python scripts/make_fixtures.py --only llama-tiny
    python scripts/make_fixtures.py --real DIR --case NAME   # the numbers of a pretrained decoder in DIR, not its weights

For each family (encoders as classifiers, decoders as language models, some of them as classifiers too) it builds a randomly
initialised model in PyTorch, saves it in Hugging Face layout, attaches a PEFT adapter to all linear layers of every
block, and records what Transformers and PEFT compute with it, in f32, without dropout, on one thread. Two things are
written per family:

`<case>/`                    `config.json` and `model.safetensors`: the whole classification model, head included
`<case>.case.safetensors`    the tensors below
`<case>.case.json`           settings, the first loss, ten training losses

| tensor                     | what it is                                                                       |
|----------------------------|----------------------------------------------------------------------------------|
| `init.<name>`              | the trained tensors at the start: LoRA A and B (B is not zero) and the head      |
| `batch<i>.input_ids`       | four ragged batches of six texts, padded on the right to the longest             |
| `batch<i>.attention_mask`  | 1 on tokens, 0 on padding                                                        |
| `batch<i>.labels`          | one class a text; for a language model every token that is scored, -100 elsewhere |
| `base.logits`              | logits of batch 0 from the saved model alone, without an adapter; of a language  |
|                            | model where the next token is scored, text by text                               |
| `batch0.logits`            | logits of batch 0 with the adapter at its start                                  |
| `grad.<name>`              | gradients of the mean cross-entropy of batch 0 with respect to the trained tensors |
| `after10.<name>`           | the trained tensors after ten AdamW steps; step `i` uses batch `i mod 4`         |
| `after10.batch0.logits`    | logits of batch 0 after these steps                                              |

Names are PEFT's, less `base_model.model.`, `.default` and `.modules_to_save`; A is `[rank, in]`, B is `[out, rank]`.
For BERT the trained head is `classifier` alone: the pooler stays frozen, as PEFT leaves it.

`gguf-blocks.safetensors` holds random blocks of every packing of GGUF files, and the numbers they stand for;
`<case>.gguf` three of the decoders as llama.cpp's converter writes them.

Rerunning reproduces the files up to the rounding of the installed PyTorch.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    CamembertConfig,
    CamembertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Gemma3TextForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    Phi3Config,
    Phi3ForCausalLM,
    Phi3ForSequenceClassification,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    SmolLM3ForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

TARGETS = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
DECODER_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# Names as PEFT's users list them, in the order of the forward pass.
OTHER_TARGETS = {
    "distilbert": ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"],
    "mpnet": ["q", "k", "v", "o", "intermediate.dense", "output.dense"],
    "modernbert": ["Wqkv", "attn.Wo", "Wi", "mlp.Wo"],
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
}
RANK, ALPHA = 4, 8
CLASSES, VOCAB = 5, 120
LR, HEAD_LR, WEIGHT_DECAY, STEPS = 1e-3, 1e-2, 0.01, 10
LENGTHS = [  # tokens a text, its two special tokens included; 2 is the empty text
    [2, 20, 7, 3, 13, 11],
    [5, 2, 9, 17, 4, 6],
    [12, 12, 3, 8, 2, 19],
    [4, 10, 6, 2, 15, 3],
]

SHAPE = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    vocab_size=VOCAB,
    max_position_embeddings=40,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    classifier_dropout=0.0,
    num_labels=CLASSES,
)

# Grouped-query attention everywhere: 4 heads, 2 for keys and values.
DECODER = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    vocab_size=VOCAB,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,  # so that short, middle and long wavelengths all occur
)

# first, last: the special tokens around a text; words: the first id that is not special
FAMILIES = {
    "roberta-tiny": dict(
        model=RobertaForSequenceClassification,
        config=RobertaConfig(
            **SHAPE, type_vocab_size=1, layer_norm_eps=1e-5, bos_token_id=0, pad_token_id=1, eos_token_id=2
        ),
        first=0, last=2, words=5, seed=11,
    ),
    "bert-tiny": dict(
        model=BertForSequenceClassification,
        config=BertConfig(**SHAPE, type_vocab_size=2, layer_norm_eps=1e-12, pad_token_id=0),
        first=2, last=3, words=5, seed=12,
    ),
    "llama-tiny": dict(
        model=LlamaForCausalLM,
        config=LlamaConfig(**DECODER, tie_word_embeddings=True),
        first=1, last=2, words=5, seed=13,
    ),
    "llama3-tiny": dict(  # untied, scaled wavelengths, biases everywhere, heads wider than hidden / heads
        model=LlamaForCausalLM,
        config=LlamaConfig(
            **DECODER, tie_word_embeddings=False, attention_bias=True, mlp_bias=True, head_dim=12, rope_parameters=LLAMA3
        ),
        first=1, last=2, words=5, seed=14,
    ),
    "qwen2-tiny": dict(
        model=Qwen2ForCausalLM,
        config=Qwen2Config(**DECODER, tie_word_embeddings=False),
        first=1, last=2, words=5, seed=15,
    ),
    "llama-tiny-classifier": dict(
        model=LlamaForSequenceClassification,
        config=LlamaConfig(**DECODER, tie_word_embeddings=True, num_labels=CLASSES),
        first=1, last=2, words=5, seed=16,
    ),
    "xlm-roberta-tiny": dict(
        model=XLMRobertaForSequenceClassification,
        config=XLMRobertaConfig(
            **SHAPE, type_vocab_size=1, layer_norm_eps=1e-5, bos_token_id=0, pad_token_id=1, eos_token_id=2
        ),
        first=0, last=2, words=5, seed=18,
    ),
    "camembert-tiny": dict(
        model=CamembertForSequenceClassification,
        config=CamembertConfig(
            **SHAPE, type_vocab_size=1, layer_norm_eps=1e-5, bos_token_id=0, pad_token_id=1, eos_token_id=2
        ),
        first=0, last=2, words=5, seed=19,
    ),
    "distilbert-tiny": dict(
        model=DistilBertForSequenceClassification,
        config=DistilBertConfig(
            dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=VOCAB, max_position_embeddings=40, pad_token_id=0,
            dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0, num_labels=CLASSES,
        ),
        first=2, last=3, words=5, seed=20,
    ),
    "mpnet-tiny": dict(
        model=MPNetForSequenceClassification,
        config=MPNetConfig(**SHAPE, layer_norm_eps=1e-5, pad_token_id=1),
        first=0, last=2, words=5, seed=21,
    ),
    "modernbert-tiny": dict(  # windows of 4 tokens on either side, the mean of all tokens
        model=ModernBertForSequenceClassification,
        config=ModernBertConfig(
            hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48, vocab_size=VOCAB,
            max_position_embeddings=64, local_attention=8, classifier_pooling="mean", num_labels=CLASSES,
            pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3,
        ),
        first=2, last=3, words=5, seed=22,
    ),
    "modernbert-cls-tiny": dict(
        model=ModernBertForSequenceClassification,
        config=ModernBertConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=VOCAB,
            max_position_embeddings=64, local_attention=8, classifier_pooling="cls", num_labels=CLASSES,
            pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3,
        ),
        first=2, last=3, words=5, seed=23,
    ),
    "mistral-tiny": dict(  # a window of 6 tokens
        model=MistralForCausalLM,
        config=MistralConfig(**DECODER, tie_word_embeddings=False, sliding_window=6),
        first=1, last=2, words=5, seed=24,
    ),
    "qwen3-tiny": dict(
        model=Qwen3ForCausalLM,
        config=Qwen3Config(**DECODER, tie_word_embeddings=True, head_dim=12),
        first=1, last=2, words=5, seed=25,
    ),
    "qwen3-tiny-classifier": dict(
        model=Qwen3ForSequenceClassification,
        config=Qwen3Config(**DECODER, tie_word_embeddings=True, head_dim=12, num_labels=CLASSES),
        first=1, last=2, words=5, seed=26,
    ),
    "gemma3-tiny": dict(  # windows of 6 tokens in two layers of three, scores over another width than the heads'
        model=Gemma3ForCausalLM,
        config=Gemma3TextConfig(
            **(DECODER | dict(num_hidden_layers=3)), head_dim=12, query_pre_attn_scalar=16, sliding_window=6,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        ),
        first=1, last=2, words=5, seed=27,
    ),
    "gemma3-tiny-classifier": dict(
        model=Gemma3TextForSequenceClassification,
        config=Gemma3TextConfig(
            **DECODER, head_dim=12, query_pre_attn_scalar=16, sliding_window=6, num_labels=CLASSES,
            layer_types=["sliding_attention", "full_attention"],
        ),
        first=1, last=2, words=5, seed=28,
    ),
    "smollm3-tiny": dict(  # the second layer knows no positions
        model=SmolLM3ForCausalLM,
        config=SmolLM3Config(**DECODER, no_rope_layers=[1, 0]),
        first=1, last=2, words=5, seed=29,
    ),
    "smollm3-tiny-classifier": dict(
        model=SmolLM3ForSequenceClassification,
        config=SmolLM3Config(**DECODER, no_rope_layers=[1, 0], num_labels=CLASSES),
        first=1, last=2, words=5, seed=30,
    ),
    "phi3-tiny": dict(
        model=Phi3ForCausalLM,
        config=Phi3Config(**DECODER, tie_word_embeddings=False, sliding_window=6),
        first=1, last=2, words=5, seed=31,
    ),
    "phi3-tiny-classifier": dict(
        model=Phi3ForSequenceClassification,
        config=Phi3Config(**DECODER, tie_word_embeddings=False, num_labels=CLASSES),
        first=1, last=2, words=5, seed=32,
    ),
}  # fmt: skip


def is_gain(name):
    return name.endswith(("norm.weight", "norm1.weight", "layernorm.weight", "LayerNorm.weight"))


def perturb(model, rng):
    """Weights a test can trust: no zero bias, no unit gain, and attention that is far from uniform."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=rng)
            if is_gain(name):
                # Gemma stores what is added to 1.
                start = 0 if "Gemma" in type(model).__name__ else 1
                p.copy_(start + 0.2 * (2 * torch.rand(p.shape, generator=rng) - 1))
            elif "LayerNorm.bias" in name or name.endswith(".bias"):
                p.copy_(0.1 * noise)
            else:
                p.copy_(0.2 * noise)


def is_causal(family):
    return "CausalLM" in family["model"].__name__


def is_decoder(family):
    return "num_key_value_heads" in family["config"].to_dict()


def targets_of(family):
    usual = DECODER_TARGETS if is_decoder(family) else TARGETS
    return OTHER_TARGETS.get(family["config"].model_type, usual)


def make_batches(family, rng):
    batches = []
    for lengths in LENGTHS:
        ids = torch.full((len(lengths), max(lengths)), family["config"].pad_token_id)
        mask = torch.zeros_like(ids)
        for row, n in enumerate(lengths):
            ids[row, 0], ids[row, n - 1] = family["first"], family["last"]
            ids[row, 1 : n - 1] = torch.randint(family["words"], family["config"].vocab_size, (n - 2,), generator=rng)
            mask[row, :n] = 1
        labels = torch.randint(CLASSES, (len(lengths),), generator=rng)
        if is_causal(family):  # scored from somewhere after the first token: what is before is a prompt
            labels = torch.full_like(ids, -100)
            for row, n in enumerate(lengths):
                start = int(torch.randint(1, n, (1,), generator=rng))
                labels[row, start:n] = ids[row, start:n]
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return batches


def logits_of(net, batch):
    logits = net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    if batch["labels"].ndim == 1:
        return logits
    return logits[:, :-1][batch["labels"][:, 1:] != -100]


def answers(batch):
    labels = batch["labels"]
    return labels if labels.ndim == 1 else labels[:, 1:][labels[:, 1:] != -100]


def loss_of(net, batch):
    return F.cross_entropy(logits_of(net, batch), answers(batch))


def plain_name(name):
    return name.removeprefix("base_model.model.").replace(".default", "").replace(".modules_to_save", "")


def add_adapter(model, family, rng):
    """The PEFT model and its trained tensors by plain name. B starts away from zero, so that A has a gradient."""
    lora = LoraConfig(
        task_type="CAUSAL_LM" if is_causal(family) else "SEQ_CLS",
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        target_modules=targets_of(family),
        bias="none",
    )
    net = get_peft_model(model, lora).eval()
    params = {plain_name(n): p for n, p in net.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, p in params.items():
            if "lora_B" in name:
                p.copy_(0.05 * torch.randn(p.shape, generator=rng))
    return net, params


def snapshot(prefix, tensors):
    return {f"{prefix}.{name}": t.detach().clone().contiguous() for name, t in tensors.items()}


def train(net, params, batches):
    """Ten AdamW steps with a learning rate of its own for the head; returns the losses before each step."""
    head = [p for n, p in params.items() if "lora_" not in n]
    rest = [p for n, p in params.items() if "lora_" in n]
    groups = [{"params": rest, "lr": LR}, {"params": head, "lr": HEAD_LR}]
    optimizer, losses = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY), []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(net, batches[step % len(batches)])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def write_model(case, family, rng, out):
    model = family["model"](family["config"])
    perturb(model, rng)
    model.save_pretrained(out / case)
    (out / case / "generation_config.json").unlink(missing_ok=True)


def write_case(case, family, out):
    torch.manual_seed(family["seed"])
    rng = torch.Generator().manual_seed(family["seed"])
    folder = family.get("folder")  # a pretrained model stays where it is
    if folder is None:
        write_model(case, family, rng, out)
    reader = AutoModelForCausalLM if is_causal(family) else AutoModelForSequenceClassification
    base = reader.from_pretrained(  # what a reader of the folder sees
        folder or out / case, attn_implementation="eager", dtype=torch.float32
    ).eval()
    batches = make_batches(family, rng)

    tensors = {f"batch{i}.{k}": v for i, b in enumerate(batches) for k, v in b.items()}
    with torch.no_grad():
        tensors["base.logits"] = logits_of(base, batches[0])

    net, params = add_adapter(base, family, rng)
    tensors |= snapshot("init", params)
    logits = logits_of(net, batches[0])
    tensors["batch0.logits"] = logits.detach().clone()
    first_loss = F.cross_entropy(logits, answers(batches[0]))
    first_loss.backward()
    tensors |= snapshot("grad", {n: p.grad for n, p in params.items()})

    losses = train(net, params, batches)
    tensors |= snapshot("after10", params)
    with torch.no_grad():
        tensors["after10.batch0.logits"] = logits_of(net, batches[0])

    save_file(tensors, out / f"{case}.case.safetensors")
    meta = {
        "model": case,
        "rank": RANK,
        "lora_alpha": ALPHA,
        "targets": targets_of(family),
        "classes": None if is_causal(family) else CLASSES,
        "lr": LR,
        "head_lr": HEAD_LR,
        "weight_decay": WEIGHT_DECAY,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "batch0_loss": first_loss.item(),
        "losses_10_steps": losses,
    }
    (out / f"{case}.case.json").write_text(json.dumps(meta, indent=2) + "\n")
    print(case, "first loss", round(first_loss.item(), 4), "ten losses", [round(x, 4) for x in losses])


def write_blocks(path):
    """Random blocks of every packing of GGUF files, and the numbers that gguf-py makes of them."""
    rng, tensors = np.random.default_rng(41), {}
    for name in "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K".split():
        kind = gguf.GGMLQuantizationType[name]
        numbers, size = gguf.GGML_QUANT_SIZES[kind]
        count = max(2, 64 // numbers)
        blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
        halves = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
                  "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "F16": [0]}  # fmt: skip
        for at in halves.get(name, []):  # scales that are numbers
            scale = rng.normal(size=count).astype(np.float16)
            blocks[:, at : at + 2] = scale.view(np.uint8).reshape(count, 2)
        if name in ("F32", "BF16"):
            plain = rng.normal(size=count).astype(np.float32).view(np.uint8).reshape(count, 4)
            blocks = plain if name == "F32" else plain[:, 2:]
        blocks = np.ascontiguousarray(blocks)
        tensors[f"{name}.blocks"] = torch.from_numpy(blocks.copy())
        found = gguf.dequantize(blocks.reshape(-1).view(np.float32) if name == "F32" else blocks.reshape(1, -1), kind)
        tensors[f"{name}.numbers"] = torch.from_numpy(np.array(found, dtype=np.float32).reshape(-1))
    save_file(tensors, path)


def write_gguf(folder, path):
    """The decoder in `folder` as llama.cpp's converter writes it, in f32: names, and for LLaMA the rows of queries and keys."""
    config, weights = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    kind = config["model_type"].removesuffix("_text")
    writer = gguf.GGUFWriter(path, kind)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10000.0)
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_token_list([f"w{i}" for i in range(config["vocab_size"])])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.upper()], config["num_hidden_layers"])
    for name, tensor in weights.items():
        array = tensor.float().numpy()
        if kind == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            n = heads if "q_proj" in name else kv_heads
            array = array.reshape(n, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        if kind == "gemma3" and name.endswith("norm.weight"):
            array = array + 1
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=here.parent / "tests" / "fixtures", help="folder to write to")
    parser.add_argument("--only", choices=FAMILIES, help="write one family alone")
    parser.add_argument("--real", type=Path, help="folder of a pretrained decoder")
    parser.add_argument("--case", help="what to call its numbers")
    args = parser.parse_args()
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if args.real:
        config = AutoConfig.from_pretrained(args.real)
        real = dict(model=LlamaForCausalLM, config=config, first=1, last=2, words=5, seed=17, folder=args.real)
        return write_case(args.case, real, out)
    for case, family in FAMILIES.items():
        if args.only in (None, case):
            write_case(case, family, out)
    if args.only is None:
        write_blocks(out / "gguf-blocks.safetensors")
        for case in ("llama-tiny", "qwen3-tiny", "gemma3-tiny"):
            write_gguf(out / case, out / f"{case}.gguf")


if __name__ == "__main__":
    main()
