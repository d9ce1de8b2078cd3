#!/usr/bin/env python3
"""Pretrain the small RoBERTa-style encoder that is built into the program.

    python scripts/pretrain_tiny.py CORPUS            # writes models/assets/tiny-roberta/
    python scripts/pretrain_tiny.py CORPUS --check    # and then fine-tunes it, beside a random start

CORPUS is a folder with `pretrain.txt` (one text a line) and, for `--check`, `labels.json` and `train.jsonl`,
`test.jsonl` with a `text` and a `label` (an index into the labels) a line.

1. A byte-level BPE tokenizer is trained on the text. Its special tokens have RoBERTa's ids, and its post-processor puts
   `<s>` and `</s>` around a text, so that `tokenizer.json` alone is enough.
2. A masked language model is trained on the CPU, in batches of texts of like length.
3. The encoder alone (`roberta.*`: no language-model head, no pooler, no classifier) is rounded to f16 and saved with
   its `config.json`. The held-out loss is printed before and after rounding: the difference must not matter.

The seed fixes everything but the order in which PyTorch sums.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForSequenceClassification, RobertaConfig, RobertaForMaskedLM, logging

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # ids 0 to 4
BOS, PAD, EOS, UNK, MASK = range(5)
MAX_TOKENS = 64
HELD_OUT = 1000  # texts kept from training, for the loss that is printed
MASKED = 0.15


# ---- tokenizer


def train_tokenizer(texts, vocab):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    # With the prefix space, the first word of a text is the same token as that word elsewhere.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        min_frequency=2,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    assert [tokenizer.token_to_id(t) for t in SPECIAL] == list(range(5))
    return tokenizer


def encode(tokenizer, texts):
    """Token ids with `<s>` and `</s>`, at most MAX_TOKENS of them; the tokenizer itself stays without a limit."""
    out = []
    for e in tokenizer.encode_batch(texts):
        out.append(e.ids if len(e.ids) <= MAX_TOKENS else e.ids[: MAX_TOKENS - 1] + [EOS])
    return out


# ---- batches


def pad(rows):
    ids = torch.full((len(rows), max(map(len, rows))), PAD)
    for r, row in enumerate(rows):
        ids[r, : len(row)] = torch.tensor(row)
    return ids, (ids != PAD).long()


def batches_by_length(lengths, tokens, rng):
    """Row indices of one epoch: texts of like length share a batch of about `tokens` tokens, in random order."""
    order = rng.permutation(len(lengths))
    order = order[np.argsort(np.asarray(lengths)[order], kind="stable")]  # ties stay shuffled
    batches, start = [], 0
    while start < len(order):
        end = start + max(1, tokens // lengths[order[start]])
        while end > start + 1 and (min(end, len(order)) - start) * lengths[order[min(end, len(order)) - 1]] > tokens:
            end -= 1
        batches.append(order[start:end])
        start = end
    return [batches[i] for i in rng.permutation(len(batches))]


def mask_tokens(ids, vocab, rng):
    """BERT's recipe: of the chosen tokens 80% become `<mask>`, 10% a random token, 10% stay."""
    chosen = (torch.rand(ids.shape, generator=rng) < MASKED) & (ids > MASK)
    fate = torch.rand(ids.shape, generator=rng)
    noise = torch.randint(len(SPECIAL), vocab, ids.shape, generator=rng)
    masked = torch.where(chosen & (fate < 0.8), MASK, ids)
    return torch.where(chosen & (fate >= 0.9), noise, masked), chosen


# ---- masked language model


def masked_loss(net, rows, rng):
    """Summed loss, correct guesses and number of masked tokens. The vocabulary is scored where it is needed only."""
    ids, keep = pad(rows)
    x, chosen = mask_tokens(ids, net.config.vocab_size, rng)
    hidden = net.roberta(input_ids=x, attention_mask=keep).last_hidden_state
    logits, target = net.lm_head(hidden[chosen]), ids[chosen]
    loss = F.cross_entropy(logits, target, reduction="sum")
    return loss, int((logits.argmax(-1) == target).sum()), len(target)


@torch.no_grad()
def evaluate(net, rows, seed):
    net.eval()
    rng, total, good, count = torch.Generator().manual_seed(seed), 0.0, 0, 0
    order = np.argsort([len(r) for r in rows], kind="stable")
    for i in range(0, len(order), 128):
        loss, right, n = masked_loss(net, [rows[j] for j in order[i : i + 128]], rng)
        total, good, count = total + loss.item(), good + right, count + n
    return total / count, good / count


def learning_rate(step, steps, peak):
    warmup = max(1, steps // 20)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))))


def decay_groups(net, weight_decay):
    matrices = [p for p in net.parameters() if p.ndim > 1]
    vectors = [p for p in net.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def pretrain(net, rows, held_out, a):
    shuffle, masks = np.random.default_rng(a.seed), torch.Generator().manual_seed(a.seed)
    optimizer = torch.optim.AdamW(decay_groups(net, 0.01), betas=(0.9, 0.98), eps=1e-6)
    lengths, queue, start, seen = [len(r) for r in rows], [], time.time(), 0
    for step in range(a.steps):
        if not queue:
            queue = batches_by_length(lengths, a.batch_tokens, shuffle)
        part = queue.pop()
        net.train()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, a.steps, a.lr)
        loss, _, count = masked_loss(net, [rows[i] for i in part], masks)
        if count == 0:
            continue
        optimizer.zero_grad(set_to_none=True)
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        seen += sum(lengths[i] for i in part)
        if (step + 1) % a.every == 0 or step + 1 == a.steps:
            held_loss, accuracy = evaluate(net, held_out, seed=1)
            print(
                f"step {step + 1:5d}  epochs {seen / sum(lengths):5.2f}  train {loss.item() / count:.3f}  "
                f"held-out {held_loss:.3f}  masked accuracy {100 * accuracy:.1f}%  {time.time() - start:.0f} s",
                flush=True,
            )


def build(vocab, seed):
    torch.manual_seed(seed)
    config = RobertaConfig(
        vocab_size=vocab,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=MAX_TOKENS + PAD + 1,  # RoBERTa counts positions from the padding id + 1
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )
    return RobertaForMaskedLM(config)


# ---- saving


def save(net, tokenizer, out):
    out.mkdir(parents=True, exist_ok=True)
    half = {n: t.detach().half().contiguous() for n, t in net.state_dict().items() if n.startswith("roberta.")}
    assert all(torch.isfinite(t).all() for t in half.values()), "a weight is too large for f16"
    save_file(half, out / "model.safetensors", metadata={"format": "pt"})
    config = {k: v for k, v in net.config.to_dict().items() if k not in ("id2label", "label2id", "_name_or_path")}
    config |= {"architectures": ["RobertaForSequenceClassification"], "dtype": "float16"}
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    for path in sorted(out.iterdir()):
        path.chmod(0o644)
        print(f"{path.name}: {path.stat().st_size:,} bytes")


def round_to_half(net):
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(p.half().float())


# ---- check: is the pretraining worth anything?


def read_split(corpus, split, tokenizer):
    rows = [json.loads(line) for line in (corpus / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
    return encode(tokenizer, [r["text"] for r in rows]), torch.tensor([r["label"] for r in rows])


def adapted(out, classes, pretrained, seed):
    """The classifier with LoRA (rank 8) on all six linears and a trained head, on the saved or a random encoder."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    if pretrained:
        net = AutoModelForSequenceClassification.from_pretrained(out, num_labels=classes, dtype=torch.float32)
    else:
        config = RobertaConfig.from_pretrained(out, num_labels=classes)
        net = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    targets = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
    return get_peft_model(net, LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=targets))


@torch.no_grad()
def accuracy(net, rows, labels):
    net.eval()
    order, good = np.argsort([len(r) for r in rows], kind="stable"), 0
    for i in range(0, len(order), 128):
        part = order[i : i + 128]
        ids, keep = pad([rows[j] for j in part])
        good += int((net(input_ids=ids, attention_mask=keep).logits.argmax(-1) == labels[part]).sum())
    return good / len(order)


def fine_tune(net, train, test, epochs, seed):
    (x, y), rng = train, np.random.default_rng(seed)
    head = [p for n, p in net.named_parameters() if p.requires_grad and "lora_" not in n]
    lora = [p for n, p in net.named_parameters() if p.requires_grad and "lora_" in n]
    optimizer = torch.optim.AdamW([{"params": lora, "lr": 1e-3}, {"params": head, "lr": 1e-2}], weight_decay=0.0)
    scores = [accuracy(net, *test)]
    for _ in range(epochs):
        net.train()
        order = rng.permutation(len(x))
        for i in range(0, len(order), 32):
            part = order[i : i + 32]
            ids, keep = pad([x[j] for j in part])
            loss = F.cross_entropy(net(input_ids=ids, attention_mask=keep).logits, y[part])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        scores.append(accuracy(net, *test))
    return scores


def check(corpus, out, seed):
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    train, test = (read_split(corpus, split, tokenizer) for split in ("train", "test"))
    classes = len(json.loads((corpus / "labels.json").read_text(encoding="utf-8")))
    print(f"check: {len(train[0])} texts to train, {len(test[0])} to test, {classes} classes; test accuracy by epoch")
    for name, pretrained in (("pretrained", True), ("random", False)):
        scores = fine_tune(adapted(out, classes, pretrained, seed), train, test, epochs=3, seed=seed)
        print(f"  {name:10s}", " ".join(f"{100 * s:5.1f}" for s in scores), flush=True)


def make(a):
    """Tokenizer, pretraining, rounding, saving."""
    lines = (a.corpus / "pretrain.txt").read_text(encoding="utf-8").splitlines()
    texts = list(dict.fromkeys(t for t in lines if t.strip()))  # else a repeated text is held out and trained on
    tokenizer = train_tokenizer(texts, a.vocab)
    rows = encode(tokenizer, texts)
    net = build(tokenizer.get_vocab_size(), a.seed)
    weights = sum(p.numel() for p in net.roberta.parameters())
    print(f"{len(rows)} texts, {sum(map(len, rows))} tokens, vocabulary {net.config.vocab_size}, {weights} weights")

    order = np.random.default_rng(a.seed).permutation(len(rows))
    held_out, rows = [rows[i] for i in order[:HELD_OUT]], [rows[i] for i in order[HELD_OUT:]]
    pretrain(net, rows, held_out, a)
    before = evaluate(net, held_out, seed=1)
    round_to_half(net)
    after = evaluate(net, held_out, seed=1)
    print(f"held-out loss and masked accuracy: f32 {before[0]:.4f} {before[1]:.4f}, f16 {after[0]:.4f} {after[1]:.4f}")
    save(net, tokenizer, a.out)


def main():
    here = Path(__file__).resolve().parent
    default_out = here.parent / "models" / "assets" / "tiny-roberta"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("corpus", type=Path, help="folder with pretrain.txt")
    p.add_argument("--out", type=Path, default=default_out, help="folder to write the model to")
    p.add_argument("--vocab", type=int, default=1200, help="largest vocabulary, special tokens and bytes included")
    p.add_argument("--steps", type=int, default=3000)
    p.add_argument("--batch-tokens", type=int, default=2048)
    p.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    p.add_argument("--every", type=int, default=200, help="steps between two printed lines")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=2, help="one is faster than two on a busy machine")
    p.add_argument("--check", action="store_true", help="fine-tune the result and a random start on the labelled texts")
    p.add_argument("--check-only", action="store_true", help="only the check, on what is saved")
    a = p.parse_args()
    logging.set_verbosity_error()  # that the classifier starts anew is no news here
    torch.set_num_threads(a.threads)
    if not a.check_only:
        make(a)
    if a.check or a.check_only:
        check(a.corpus, a.out, a.seed)


if __name__ == "__main__":
    main()
