#!/usr/bin/env python3
"""Load what Bonfire exports with the tools it is meant for, and compare their answers with Bonfire's.

    pip install -r scripts/checks/interop/requirements.txt
    python scripts/checks/interop/check.py --bonfire target/release/bonfire

Makes tiny random models (every encoder and decoder that can be trained, LLaMA with tied and with separate embeddings) and a
few texts, trains four rounds of each as classifier, as a model of several labels, as a tagger of words and, a decoder, as
language model, exports every format and layout, and loads them with Transformers, PEFT and gguf:

  peft     PeftModel.from_pretrained on the base model: logits of every test text as `bonfire evaluate --predictions` says
  merged   AutoModelFor… alone: the same
  gguf     gguf.GGUFReader: metadata, names, shapes, and the numbers against the PEFT export

It also goes the other way: an adapter that PEFT wrote, with ranks of its own, is where a run starts.
All in f32, on the CPU; differences above 1e-4 of the largest logit fail. The work is left in --keep DIR, if given.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.numpy import load_file
from tokenizers import Tokenizer, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForSequenceClassification,
    CamembertConfig,
    CamembertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)
from transformers.utils import logging

ASSETS = Path(__file__).parents[3] / "models" / "assets"
TOLERANCE = 1e-4
CLASSES, VOCAB, LENGTH, PAD = 3, 1200, 32, 1
RANK, ALPHA = 4, 6

ENCODER = dict(
    vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
    max_position_embeddings=66, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=CLASSES,
)
DECODER = dict(
    vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=48, max_position_embeddings=64, bos_token_id=0, eos_token_id=2, pad_token_id=PAD,
)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)

MODELS = {
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**ENCODER, pad_token_id=PAD, type_vocab_size=1)),
    "bert": lambda: BertForSequenceClassification(BertConfig(**ENCODER, pad_token_id=0)),
    "llama-tied": lambda: LlamaForCausalLM(LlamaConfig(**DECODER, tie_word_embeddings=True)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**DECODER, tie_word_embeddings=False, rope_parameters=LLAMA3)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**DECODER, tie_word_embeddings=False, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**DECODER, tie_word_embeddings=True)),
    "xlm-roberta": lambda: XLMRobertaForSequenceClassification(XLMRobertaConfig(**ENCODER, pad_token_id=PAD, type_vocab_size=1)),
    "camembert": lambda: CamembertForSequenceClassification(CamembertConfig(**ENCODER, pad_token_id=PAD, type_vocab_size=1)),
    "distilbert": lambda: DistilBertForSequenceClassification(DistilBertConfig(
        vocab_size=VOCAB, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=66, pad_token_id=PAD,
        dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0, num_labels=CLASSES)),
    "mpnet": lambda: MPNetForSequenceClassification(MPNetConfig(**ENCODER, pad_token_id=PAD)),
    "modernbert": lambda: ModernBertForSequenceClassification(ModernBertConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=64, local_attention=8, classifier_pooling="mean", num_labels=CLASSES, pad_token_id=PAD,
        bos_token_id=0, eos_token_id=2, cls_token_id=0, sep_token_id=2)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**DECODER, head_dim=12, tie_word_embeddings=True)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(
        **DECODER, head_dim=12, query_pre_attn_scalar=16, sliding_window=6, layer_types=["sliding_attention", "full_attention"])),
    "smollm3": lambda: SmolLM3ForCausalLM(SmolLM3Config(**DECODER, no_rope_layers=[1, 0])),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**DECODER, tie_word_embeddings=False)),
}
# What differs from LLaMA's or BERT's names: the linears of a trained adapter, and what GGUF calls the architecture.
ENCODERS = ("roberta", "bert", "xlm-roberta", "camembert", "distilbert", "mpnet", "modernbert")
TWO_TARGETS = {"distilbert": ("q_lin", "lin1"), "mpnet": ("q", "intermediate.dense"), "modernbert": ("Wqkv", "Wi"),
               "phi3": ("qkv_proj", "gate_up_proj")}
GGUF_NAMES = {"qwen2": "qwen2", "qwen3": "qwen3", "gemma3": "gemma3", "smollm3": "smollm3", "phi3": "phi3"}
FUSED = {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
SUFFIXES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
            "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
            "ffn_down": "mlp.down_proj"}

failures = []


def report(what, apart, allowed):
    verdict = "ok" if apart <= allowed else "WRONG"
    print(f"  {what:<44} {apart:.2e}  (allowed {allowed:.1e})  {verdict}", flush=True)
    if not apart <= allowed:
        failures.append(what)


def make_model(name, folder):
    torch.manual_seed(7)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith("proj.bias"):  # zero at the start, which would hide a missing bias
                value.normal_(std=0.1)
    model.save_pretrained(folder)
    of = "tiny-roberta" if name in ENCODERS else "tiny-llama"
    for file in ("tokenizer.json", "tokenizer_config.json"):
        if (ASSETS / of / file).exists():
            shutil.copy(ASSETS / of / file, folder / file)


def make_data(folder):
    folder.mkdir()
    words = [["card", "bank", "money"], ["book", "page", "library"], ["train", "ticket", "station"]]
    rng = np.random.default_rng(3)
    for split, count in (("train", 96), ("test", 24)):
        with (folder / f"{split}.jsonl").open("w") as out:
            for i in range(count):
                own = rng.choice(words[i % CLASSES], size=2 + i % 4)
                text = "my " + " and the ".join(own)
                row = {"text": text, "label": i % CLASSES, "labels": [i % CLASSES, *([0] if i % 5 == 0 and i % CLASSES else [])]}
                row["tokens"] = text.split()
                row["tags"] = [f"B-{i % CLASSES}" if word in words[i % CLASSES] else "O" for word in row["tokens"]]
                out.write(json.dumps(row) + "\n")


def toml(value):
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(v)}" for key, v in value.items()) + " }"
    return json.dumps(value)


class Runner:
    def __init__(self, binary, room):
        self.binary, self.room = binary, room

    def bonfire(self, *args):
        done = subprocess.run([self.binary, *map(str, args), "--device", "cpu"], cwd=self.room, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"bonfire {' '.join(map(str, args))} failed:\n{done.stderr}")
        return done.stdout

    def train(self, model, data, out, task="classification", **more):
        causal = task == "causal-lm"
        columns = {"multi-label": dict(text="text", label="labels"), "token-classification": dict(text="tokens", label="tags"),
                   "classification": dict(text="text", label="label")}
        sections = {
            "model": dict(path=str(model), task=task),
            "data": dict(path=str(data), max_length=LENGTH, partition=dict(kind="iid"), **columns.get(task, {})),
            "clients": dict(count=4, budget=1),
            "adapter": dict(rank=RANK, alpha=ALPHA, head="frozen" if causal else "trained"),
            "train": dict(rounds=4, epochs=1, batch_size=4, lr_a=2e-2),
            "strategy": dict(name="lora-a2"),
        }
        for key, value in more.items():
            section, name = key.split("__")
            sections[section][name] = value
        with (self.room / f"{out}.toml").open("w") as file:
            for section, keys in sections.items():
                file.write(f"[{section}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in keys.items()))
        self.bonfire("train", f"{out}.toml", "--quiet", "--out", out)

    def predictions(self, run):
        self.bonfire("evaluate", run, "--predictions", f"{run}.jsonl")
        return [json.loads(line) for line in (self.room / f"{run}.jsonl").open()]


def answers(net, tokenizer, rows, texts):
    """Logits of every text of a classifier, or of every word's first token, or mean cross-entropies of a language model."""
    found = []
    with torch.no_grad():
        for row, text in zip(rows, texts):
            if "tags" in row:
                words = Tokenizer.from_str(tokenizer.to_str())
                words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
                encoding = words.encode(text.split(), is_pretokenized=True)
                first = [encoding.word_ids.index(word) for word in range(len(text.split()))]
                found += net(input_ids=torch.tensor([encoding.ids])).logits[0][first].tolist()
                continue
            ids = row.get("tokens") or tokenizer.encode(text).ids[:LENGTH]
            logits = net(input_ids=torch.tensor([ids])).logits[0]
            if "tokens" in row:
                n = row["answers"]
                loss = torch.nn.functional.cross_entropy(logits[-n - 1 : -1], torch.tensor(ids[-n:]))
                found.append([loss.item()])
            else:
                found.append(logits.tolist())
    return np.array(found)


def compare(what, net, tokenizer, rows, texts):
    if "tags" in rows[0]:
        ours = np.concatenate([np.array(row["logits"]).reshape(len(row["tags"]), -1) for row in rows])
    else:
        ours = np.array([row["logits"] if "logits" in row else [row["loss"]] for row in rows])
    theirs = answers(net, tokenizer, rows, texts)
    allowed = TOLERANCE * np.abs(ours).max()
    report(what, np.abs(ours - theirs).max(), allowed)
    layers = [module for module in net.modules() if isinstance(module, LoraLayer)]
    if layers:  # without its adapter the model must answer otherwise, or nothing was compared
        for layer in layers:
            layer.scaling = {name: 0.0 for name in layer.scaling}
        moved = np.abs(answers(net, tokenizer, rows, texts) - theirs).max()
        if moved < 10 * allowed:
            failures.append(f"{what}: the adapter moves answers by {moved:.1e} alone")


def check_gguf(what, path, arch, heads, peft_folder, alpha):
    """The file by gguf's own reader: metadata, and every pair's product against the PEFT export's."""
    reader = GGUFReader(path)

    def text(key):
        return bytes(reader.fields[key].parts[-1]).decode()

    meta = [text("general.type"), text("adapter.type"), text("general.architecture")]
    if meta != ["adapter", "lora", arch]:
        failures.append(f"{what}: metadata {meta}")
    file_alpha = float(reader.fields["adapter.lora.alpha"].parts[-1][0])
    weights = load_file(peft_folder / "adapter_model.safetensors")
    tensors = {t.name: np.array(t.data) for t in reader.tensors}
    apart, seen, largest = 0.0, 0, 1e-12
    for name in [n for n in tensors if n.endswith(".lora_a")]:
        stem = name.removesuffix(".lora_a")
        _, layer, part, _ = stem.split(".")
        down, up = tensors[name], tensors[stem + ".lora_b"]
        suffix = (SUFFIXES | FUSED if arch == "phi3" else SUFFIXES)[part]
        module = f"base_model.model.model.layers.{layer}.{suffix}"
        a, b = weights[f"{module}.lora_A.weight"], weights[f"{module}.lora_B.weight"]
        want = alpha / RANK * b @ a
        if part in ("attn_q", "attn_k") and arch in ("llama", "smollm3"):
            n = heads[part]
            # What llama.cpp's converter does to the base weight of the same name.
            want = want.reshape(n, 2, want.shape[0] // n // 2, want.shape[1]).swapaxes(1, 2).reshape(want.shape)
        got = file_alpha / up.shape[1] * up @ down
        apart, seen, largest = max(apart, np.abs(got - want).max()), seen + 1, max(largest, np.abs(want).max())
    report(f"{what} ({seen} pairs)", apart if seen == len(tensors) / 2 > 0 else float("inf"), 1e-5 * largest)


def check_exports(runner, name, model, run, texts, tokenizer):
    rows = runner.predictions(run)
    causal, tags = "tokens" in rows[0], "tags" in rows[0]
    auto = AutoModelForCausalLM if causal else AutoModelForTokenClassification if tags else AutoModelForSequenceClassification
    more = {} if causal else {"num_labels": CLASSES + tags, "ignore_mismatched_sizes": True}

    def export(kind, *args):
        runner.bonfire("export", run, "--verify", "--out", f"{run}-{kind}", *args)

    for layout in ("uniform", "compact"):
        export(layout, "--format", "peft", "--layout", layout)
        base = auto.from_pretrained(model, dtype=torch.float32, **more)
        net = PeftModel.from_pretrained(base, runner.room / f"{run}-{layout}").eval()
        compare(f"{run} peft {layout}", net, tokenizer, rows, texts)
    for kind, size in (("merged", "5"), ("sharded", "0.0001")):
        export(kind, "--format", "merged", "--shard-size", size)
        net = auto.from_pretrained(runner.room / f"{run}-{kind}", dtype=torch.float32).eval()
        compare(f"{run} {kind}", net, tokenizer, rows, texts)
    if causal:
        arch = GGUF_NAMES.get(name, "llama")
        heads = {"attn_q": DECODER["num_attention_heads"], "attn_k": DECODER["num_key_value_heads"]}
        for layout in ("uniform", "compact"):
            export(f"gguf-{layout}", "--format", "gguf", "--layout", layout)
            path = runner.room / f"{run}-gguf-{layout}" / "adapter.gguf"
            check_gguf(f"{run} gguf {layout}", path, arch, heads, runner.room / f"{run}-uniform", ALPHA)


def check_import(runner, name, model, data, texts, tokenizer):
    """An adapter of PEFT's own making, ranks and scales differing: a run that does not move answers as PEFT does."""
    torch.manual_seed(5)
    decoder = name not in ENCODERS
    base = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32, num_labels=CLASSES)
    usual = ("q_proj", "up_proj") if decoder else ("query", "intermediate.dense")
    first, second = TWO_TARGETS.get(name, usual)
    config = LoraConfig(task_type="SEQ_CLS", r=3, lora_alpha=5, target_modules=[first, second], use_rslora=True,
                        rank_pattern={f"layer(s)?.1.*{second.split('.')[0]}.*": 5}, alpha_pattern={first: 2})
    net = get_peft_model(base, config).eval()
    with torch.no_grad():
        for key, value in net.named_parameters():
            if "lora_B" in key or "modules_to_save" in key:
                value.normal_(std=0.3)
    net.save_pretrained(runner.room / f"{name}-theirs")
    alpha = 5 / 5**0.5 * 5  # the scale of the module of largest rank, at that rank
    runner.train(model, data, f"{name}-import", adapter__init=f"{name}-theirs", adapter__rank=5, adapter__alpha=alpha,
                 adapter__targets=[first, second], train__rounds=1, train__lr_a=1e-12, train__lr_head=1e-12)
    compare(f"{name} import", net, tokenizer, runner.predictions(f"{name}-import"), texts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bonfire", type=Path, required=True, help="the built binary")
    parser.add_argument("--keep", type=Path, help="an empty folder to work in")
    parser.add_argument("--only", choices=MODELS, help="one model alone")
    args = parser.parse_args()
    torch.set_num_threads(2)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="peft")
    with tempfile.TemporaryDirectory() as temporary:
        room = (args.keep or Path(temporary)).resolve()
        room.mkdir(parents=True, exist_ok=True)
        runner, data = Runner(args.bonfire.resolve(), room), room / "data"
        make_data(data)
        texts = [json.loads(line)["text"] for line in (data / "test.jsonl").open()]
        for name in [args.only] if args.only else MODELS:
            print(name, flush=True)
            model = room / name
            make_model(name, model)
            tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
            runner.train(model, data, f"{name}-run")
            check_exports(runner, name, model, f"{name}-run", texts, tokenizer)
            check_import(runner, name, model, data, texts, tokenizer)
            tasks = {"labels": "multi-label", "tags": "token-classification", "causal": "causal-lm"}
            for what, task in tasks.items():
                # An encoder foretells nothing, and Transformers has no Gemma 3 that tags.
                if (name in ENCODERS and what == "causal") or (name == "gemma3" and what == "tags"):
                    continue
                runner.train(model, data, f"{name}-{what}", task=task, model__new_head=what != "causal")
                check_exports(runner, name, model, f"{name}-{what}", texts, tokenizer)
    if failures:
        sys.exit(f"{len(failures)} wrong: " + "; ".join(failures))
    print("all exports load and agree")


if __name__ == "__main__":
    main()
