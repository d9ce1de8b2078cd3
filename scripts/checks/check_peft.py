#!/usr/bin/env python3
"""Load a run's adapter with Hugging Face PEFT and evaluate the test split with it.

    python scripts/checks/check_peft.py runs/NAME --model DIR --data DIR [--predictions FILE]

Prints accuracy and mean cross-entropy next to those the run measured last, and fails where they differ. MODEL and DATA
are the folders that the run was trained with; the labels must be numbers. With a FILE of `bonfire evaluate runs/NAME
--predictions FILE` scores are compared example by example. Needs torch, transformers and peft.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

BATCH, TOLERANCE = 128, 1e-3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--predictions", type=Path)
    args = parser.parse_args()

    rows = [json.loads(line) for line in (args.data / "test.jsonl").open(encoding="utf-8")]
    rows = [row | {"place": place} for place, row in enumerate(rows)]
    rows.sort(key=lambda row: len(row["text"]))
    classes = 1 + max(row["label"] for row in rows)
    base = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=classes, dtype=torch.float32)
    net, tokenizer = PeftModel.from_pretrained(base, args.run / "adapter").eval(), AutoTokenizer.from_pretrained(args.model)

    right, loss, scores = 0, 0.0, {}
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            texts, labels = [row["text"] for row in part], torch.tensor([row["label"] for row in part])
            encoded = tokenizer(texts, truncation=True, max_length=args.max_length, padding=True, return_tensors="pt")
            logits = net(**encoded).logits
            right += (logits.argmax(-1) == labels).sum().item()
            scores.update(zip((row["place"] for row in part), logits))
            loss += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()

    last = [json.loads(line) for line in (args.run / "metrics.jsonl").open()][-1]
    found, wanted = (right / len(rows), loss / len(rows)), (last["test_accuracy"], last["test_loss"])
    print(f"PEFT      accuracy {found[0]:.6f}  loss {found[1]:.6f}")
    print(f"the run   accuracy {wanted[0]:.6f}  loss {wanted[1]:.6f}")
    if any(abs(f - w) > TOLERANCE for f, w in zip(found, wanted)):
        sys.exit("they differ")
    if args.predictions:
        compare(scores, [json.loads(line) for line in args.predictions.open()])


def compare(scores, ours):
    """Example by example: the same answer, and the same scores to 1e-4 of the largest."""
    if len(ours) != len(scores):
        sys.exit(f"{len(ours)} predictions for {len(scores)} examples")
    said = {row["row"]: torch.tensor(row["logits"]) for row in ours}
    apart = max((said[place] - theirs).abs().max().item() for place, theirs in scores.items())
    largest = max(theirs.abs().max().item() for theirs in scores.values())
    others = sum((said[place].argmax() != theirs.argmax()).item() for place, theirs in scores.items())
    print(f"example by example: {others} of {len(ours)} answers differ; scores by {apart:.1e} at most, up to {largest:.2f}")
    if others or apart > 1e-4 * largest:
        sys.exit("they differ")


if __name__ == "__main__":
    main()
