"""LoRA-A² beside FedIT over four clients, in one process. Needs the wheel of crates/python:

    python examples/federate.py
"""

import bonfire

CONFIG = {
    "name": "four-shards",
    "model": {"path": "builtin"},  # or a Hugging Face folder, or "hf:org/name"
    "data": {"path": "builtin", "labels": 20, "max_length": 32, "partition": {"kind": "dirichlet", "alpha": 0.5}},
    "clients": {"count": 4, "budget": 2},
    "adapter": {"rank": 8, "head": "trained"},
    "train": {"rounds": 6, "lr_a": 2e-3},
    "strategy": {"name": "lora-a2"},
}

for strategy in ("lora-a2", "fedit"):
    budget = "full" if strategy == "fedit" else 2
    run = bonfire.train(CONFIG, overrides={"strategy.name": strategy, "clients.budget": budget, "name": strategy})
    sent = sum(row["upload_bytes"] for row in run.rounds) / 1e6
    print(f"{strategy}: {run.summary['final_accuracy']:.1%} with {sent:.1f} MB sent; PEFT opens {run.folder}/adapter")
