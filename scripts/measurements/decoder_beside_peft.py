"""Measures local training of a decoder beside PyTorch and PEFT, in turns on one machine: real tokens a second.

    python scripts/measurements/decoder_beside_peft.py --model DIR --bonfire target/release/bonfire

The peer is what a simulation does today: one model in memory, LoRA on all seven linears by PEFT, the clients one after another,
each from the same adapter with an AdamW of its own. Both sides have texts of one length, so that nobody pads, in f32, and learn
every token from those before it. Needs torch, transformers and peft. DIR is a causal model in Hugging Face layout.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import cpu

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def peer(args) -> float:
    """Real tokens a second, the best of `repeats`, after one pass for nothing."""
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    config = LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=LINEARS, lora_dropout=0.0)
    model = get_peft_model(model, config).train()
    texts = torch.randint(model.config.vocab_size, (args.clients, args.steps, args.batch, args.length))
    start = {name: value.clone() for name, value in get_peft_model_state_dict(model).items()}
    trained = [value for value in model.parameters() if value.requires_grad]
    found = []
    for _ in range(1 + args.repeats):
        began = time.perf_counter()
        for client in texts:
            set_peft_model_state_dict(model, start)
            optimiser = torch.optim.AdamW(trained, lr=1e-3)
            for batch in client:
                optimiser.zero_grad()
                model(input_ids=batch, labels=batch).loss.backward()
                optimiser.step()
        found.append(texts.numel() / (time.perf_counter() - began))
    return max(found[1:])


def bonfire(args) -> dict[str, float]:
    """The same of the ways of `bench step`."""
    with tempfile.TemporaryDirectory() as room:
        out = Path(room, "bench.json")
        command = [args.bonfire, "bench", "step", "--device", "cpu", "--quiet", "--shape", args.model, "--task", "causal"]
        command += ["--clients", str(args.clients), "--batch", str(args.batch), "--steps", str(args.steps)]
        command += ["--rank", str(args.rank), "--alpha", str(2 * args.rank), "--lengths", f"{args.length}-{args.length}"]
        command += ["--repeats", str(args.repeats), "--ways", args.ways, "--json", str(out)]
        environment = os.environ | {"RAYON_NUM_THREADS": str(args.threads)}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        rows = json.loads(out.read_text())["devices"][0]["step"]["rows"]
    return {row["id"]: row["tokens_per_second"] for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--bonfire", default="target/release/bonfire")
    for name, default in {"clients": 8, "batch": 4, "steps": 1, "length": 256, "rank": 8, "repeats": 2, "turns": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--ways", default="auto", help="Bonfire's --ways: all-in-flight,auto,one-in-flight,burn-apply-lora")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of both sides")
    parser.add_argument("--peer", action="store_true", help="measure the peer alone and print its number")
    args = parser.parse_args()
    if args.peer:
        print(peer(args))
        return
    readings: dict[str, list[float]] = {}

    def take(found: dict[str, float]) -> None:
        for side, rate in found.items():
            print(f"{side:20} {rate:8.1f} tokens/s", flush=True)
            readings.setdefault(side, []).append(rate)

    for _ in range(args.turns):
        # A process of its own, so that each side has the whole memory.
        alone = subprocess.run([sys.executable, *sys.argv, "--peer"], check=True, capture_output=True, text=True)
        take({"PyTorch and PEFT": float(alone.stdout.split()[-1])})
        take(bonfire(args))
    theirs = statistics.median(readings["PyTorch and PEFT"])
    print(f"\nmedians of {args.turns} turns; {cpu()}, {args.threads} threads")
    for side, rates in readings.items():
        print(f"{side:20} {statistics.median(rates):8.1f} tokens/s  {statistics.median(rates) / theirs:5.2f} x")


if __name__ == "__main__":
    main()
