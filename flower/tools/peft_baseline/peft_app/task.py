"""What a client trains and the server evaluates: the data, the network, local training, the accuracy.

Nothing here knows of Flower. `texts` and `network` are kept for the life of the process: a Ray actor reads
the backbone and the texts once, not once a round.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification, AutoTokenizer

EVALUATION_BATCH = 128


@dataclass(frozen=True)
class Settings:
    """The run config, checked."""

    model: str
    data: str
    partition: str
    clients: int
    rank: int
    alpha: float
    targets: tuple[str, ...]
    max_length: int
    batch_size: int
    slices: int
    epochs: int
    rounds: int
    lr_a: float
    lr_b: float
    lr_head: float
    seed: int

    @staticmethod
    def of(run_config: Mapping[str, str | int | float | bool]) -> "Settings":
        """Raises ValueError, naming the key, where a path is missing or a count is not positive."""
        values = {name: run_config[name.replace("_", "-")] for name in Settings.__dataclass_fields__}
        for key in ["model", "data", "partition"]:
            if not values[key] or not Path(values[key]).exists():
                raise ValueError(
                    f"{key} = {values[key]!r} is not there; set it with --run-config '{key}=\"PATH\"'"
                )
        for key in ["clients", "rank", "max_length", "batch_size", "slices", "epochs", "rounds"]:
            if values[key] < 1:
                raise ValueError(f"{key.replace('_', '-')} = {values[key]}; it must be at least 1")
        values["targets"] = tuple(values["targets"].split(","))
        return Settings(**values)


@dataclass(frozen=True)
class Texts:
    """One split: token ids a text (int64, without padding) and labels `[texts]`."""

    ids: list[torch.Tensor]
    labels: torch.Tensor
    pad: int

    def batch(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids and mask `[rows, longest of them]`, labels `[rows]`."""
        ids = [self.ids[row] for row in rows]
        mask = pad_sequence([torch.ones_like(text) for text in ids], batch_first=True)
        return pad_sequence(ids, batch_first=True, padding_value=self.pad), mask, self.labels[rows]


@lru_cache
def texts(settings: Settings, split: str) -> Texts:
    lines = (Path(settings.data) / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    tokenizer = AutoTokenizer.from_pretrained(settings.model)
    found = tokenizer([row["text"] for row in rows], truncation=True, max_length=settings.max_length)[
        "input_ids"
    ]
    labels = torch.tensor([row["label"] for row in rows])
    return Texts([torch.tensor(ids) for ids in found], labels, tokenizer.pad_token_id)


@lru_cache
def shards(settings: Settings) -> list[list[int]]:
    """The training rows of each client."""
    lists = json.loads(Path(settings.partition).read_text(encoding="utf-8"))
    if len(lists) != settings.clients:
        raise ValueError(
            f"partition: {settings.partition} has {len(lists)} row lists; clients = {settings.clients}"
        )
    return lists


@lru_cache
def network(settings: Settings) -> PeftModel:
    """The backbone with LoRA and a trained head, both drawn from the seed: alike in all processes."""
    torch.manual_seed(settings.seed)
    classes = int(texts(settings, "train").labels.max()) + 1
    base = AutoModelForSequenceClassification.from_pretrained(
        settings.model,
        num_labels=classes,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        dtype=torch.float32,
    )
    lora = LoraConfig(
        task_type="SEQ_CLS",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        target_modules=list(settings.targets),
        bias="none",
    )
    return get_peft_model(base, lora)


def optimizer(net: PeftModel, settings: Settings) -> torch.optim.AdamW:
    """A fresh one for each client and round, with a learning rate each for A, B and the head."""
    rates = {"A": settings.lr_a, "B": settings.lr_b, "head": settings.lr_head}
    groups = {part: {"params": [], "lr": rate} for part, rate in rates.items()}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            part = "A" if ".lora_A." in name else "B" if ".lora_B." in name else "head"
            groups[part]["params"].append(parameter)
    return torch.optim.AdamW(groups.values(), weight_decay=0.0)


def train(net: PeftModel, settings: Settings, rows: Sequence[int], seed: Sequence[int]) -> float:
    """Trains on these rows in an order drawn from the seed; the mean loss over the steps, in nats."""
    data, rng = texts(settings, "train"), np.random.default_rng(seed)
    step_losses, optimize = [], optimizer(net, settings)
    net.train()
    for _ in range(settings.epochs):
        order = rng.permutation(rows)
        for start in range(0, len(order), settings.batch_size):
            optimize.zero_grad(set_to_none=True)
            step_losses.append(
                backward(net, data, order[start : start + settings.batch_size], settings.slices)
            )
            optimize.step()
    return float(torch.stack(step_losses).mean())


def backward(net: PeftModel, data: Texts, rows: np.ndarray, slices: int) -> torch.Tensor:
    """Gradients of the batch's mean loss, slice by slice; the mean loss."""
    if slices > 1:
        rows = rows[np.argsort([len(data.ids[row]) for row in rows], kind="stable")]
    total = torch.zeros(())
    for part in np.array_split(rows, min(slices, len(rows))):
        ids, mask, labels = data.batch(part)
        logits = net(input_ids=ids, attention_mask=mask).logits
        loss = cross_entropy(logits, labels, reduction="sum") / len(rows)
        loss.backward()
        total += loss.detach()
    return total


def accuracy(net: PeftModel, settings: Settings) -> float:
    """The share of right answers on the test split; texts of like length together."""
    data, right = texts(settings, "test"), 0
    order = np.argsort([len(ids) for ids in data.ids], kind="stable")
    net.eval()
    with torch.inference_mode():
        for start in range(0, len(order), EVALUATION_BATCH):
            ids, mask, labels = data.batch(order[start : start + EVALUATION_BATCH])
            right += int((net(input_ids=ids, attention_mask=mask).logits.argmax(-1) == labels).sum())
    return right / len(order)
