#!/usr/bin/env python3
"""Pretrain the small LLaMA-style decoder that is built into the program.

    python scripts/pretrain_tiny_llama.py CORPUS        # writes models/assets/tiny-llama/

CORPUS is a folder with `pretrain.txt`, one text a line, as for `pretrain_tiny.py`, whose tokenizer, batches and
schedule this script shares. The decoder has grouped-query attention and tied embeddings; `tokenizer.json` puts `<s>`
before a text, and texts end with `</s>` in training. Weights are rounded to f16 and saved; the held-out loss is printed
before and after rounding.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pretrain_tiny import BOS, EOS, HELD_OUT, MAX_TOKENS, PAD, UNK, batches_by_length, decay_groups, learning_rate, pad
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def train_tokenizer(texts, vocab):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, min_frequency=2, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    assert [tokenizer.token_to_id(t) for t in SPECIAL] == [BOS, PAD, EOS, UNK]
    return tokenizer


def loss_of(net, rows):
    """Summed loss and number of tokens foretold."""
    ids, keep = pad(rows)
    logits = net(input_ids=ids, attention_mask=keep).logits[:, :-1]
    chosen, target = keep[:, 1:].bool(), ids[:, 1:]
    return F.cross_entropy(logits[chosen], target[chosen], reduction="sum"), int(chosen.sum())


@torch.no_grad()
def evaluate(net, rows):
    net.eval()
    order, total, count = np.argsort([len(r) for r in rows], kind="stable"), 0.0, 0
    for i in range(0, len(order), 128):
        loss, n = loss_of(net, [rows[j] for j in order[i : i + 128]])
        total, count = total + loss.item(), count + n
    return total / count


def pretrain(net, rows, held_out, a):
    shuffle = np.random.default_rng(a.seed)
    optimizer = torch.optim.AdamW(decay_groups(net, 0.01), betas=(0.9, 0.98), eps=1e-6)
    lengths, queue, start = [len(r) for r in rows], [], time.time()
    for step in range(a.steps):
        queue = queue or batches_by_length(lengths, a.batch_tokens, shuffle)
        net.train()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, a.steps, a.lr)
        loss, count = loss_of(net, [rows[i] for i in queue.pop()])
        optimizer.zero_grad(set_to_none=True)
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % a.every == 0 or step + 1 == a.steps:
            seconds = time.time() - start
            print(f"step {step + 1:5d}  held-out {evaluate(net, held_out):.3f}  {seconds:.0f} s", flush=True)


def build(vocab, seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        intermediate_size=256,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )
    return LlamaForCausalLM(config)


def save(net, tokenizer, out):
    out.mkdir(parents=True, exist_ok=True)
    half = {n: t.detach().half().contiguous() for n, t in net.state_dict().items() if n != "lm_head.weight"}
    assert all(torch.isfinite(t).all() for t in half.values()), "a weight is too large for f16"
    save_file(half, out / "model.safetensors", metadata={"format": "pt"})
    config = {k: v for k, v in net.config.to_dict().items() if k not in ("id2label", "label2id", "_name_or_path")}
    config |= {"architectures": ["LlamaForCausalLM"], "dtype": "float16"}
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    names |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 256}
    (out / "tokenizer_config.json").write_text(json.dumps(names, indent=2, sort_keys=True) + "\n")
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    for path in sorted(out.iterdir()):
        path.chmod(0o644)
        print(f"{path.name}: {path.stat().st_size:,} bytes")


def main():
    here = Path(__file__).resolve().parent
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("corpus", type=Path, help="folder with pretrain.txt")
    p.add_argument("--out", type=Path, default=here.parent / "models" / "assets" / "tiny-llama")
    p.add_argument("--vocab", type=int, default=1200, help="largest vocabulary, special tokens and bytes included")
    p.add_argument("--steps", type=int, default=3000)
    p.add_argument("--batch-tokens", type=int, default=2048)
    p.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    p.add_argument("--every", type=int, default=200, help="steps between two printed lines")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)

    lines = (a.corpus / "pretrain.txt").read_text(encoding="utf-8").splitlines()
    texts = list(dict.fromkeys(t for t in lines if t.strip()))  # else a repeated text is held out and trained on
    tokenizer = train_tokenizer(texts, a.vocab)
    rows = [e.ids[: MAX_TOKENS - 1] + [EOS] for e in tokenizer.encode_batch(texts)]
    net = build(tokenizer.get_vocab_size(), a.seed)
    weights = sum(p.numel() for p in net.parameters())
    print(f"{len(rows)} texts, {sum(map(len, rows))} tokens, vocabulary {net.config.vocab_size}, {weights} weights")
    order = np.random.default_rng(a.seed).permutation(len(rows))
    held_out, rows = [rows[i] for i in order[:HELD_OUT]], [rows[i] for i in order[HELD_OUT:]]
    pretrain(net, rows, held_out, a)
    before = evaluate(net, held_out)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(p.half().float())
    print(f"held-out loss: f32 {before:.4f}, f16 {evaluate(net, held_out):.4f}")
    save(net, tokenizer, a.out)


if __name__ == "__main__":
    main()
