#!/usr/bin/env python3
"""Load a run's GGUF adapter with llama.cpp itself and compare its losses with Bonfire's, example by example.

    pip install llama-cpp-python gguf safetensors ml_dtypes        # the first builds llama.cpp
    bonfire export RUN --format gguf --out OUT
    bonfire evaluate RUN --predictions FILE
    python scripts/checks/interop/check_llama_cpp.py --model DIR --adapter OUT/adapter.gguf --predictions FILE

MODEL is the folder of the LLaMA that the run started from. It is written as a GGUF in f32 beside the adapter's numbers, with the
rows of queries and keys in llama.cpp's order and a vocabulary of stand-ins, since token ids go in, not text. Then llama.cpp reads
both,
and the mean loss of every example's scored tokens is compared; without the adapter it must differ.
"""

import argparse
import json
import tempfile
from pathlib import Path

import gguf
import numpy as np
from llama_cpp import Llama
from safetensors.numpy import load_file

TOLERANCE = 2e-3  # of the loss; llama.cpp keeps keys and values in f16

LINEARS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def turned(weight, heads):
    """Rows from halves side by side to pairs, as llama.cpp turns them."""
    rows = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, rows, -1).swapaxes(1, 2).reshape(weight.shape)


def write_base(folder, path):
    config = json.loads((folder / "config.json").read_text())
    tensors = {name: np.asarray(t, dtype=np.float32) for name, t in load_file(folder / "model.safetensors").items()}
    heads, width = config["num_attention_heads"], config["hidden_size"]
    groups = config.get("num_key_value_heads") or heads
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    theta = config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta", 10000.0)
    writer.add_rope_freq_base(theta)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(config["vocab_size"])
    count = config["vocab_size"]
    writer.add_tokenizer_model("llama")
    # llama.cpp wants a byte for every value and the special tokens; the rest may be anything.
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    names += [f"w{i}" for i in range(len(names), count)]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (count - 259)
    writer.add_token_list(names)
    writer.add_token_scores([0.0] * count)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, tensor in tensors.items():
        if name == "model.embed_tokens.weight":
            new = "token_embd.weight"
        elif name == "model.norm.weight":
            new = "output_norm.weight"
        elif name == "lm_head.weight":
            new = "output.weight"
        else:
            _, _, layer, module = name.removesuffix(".weight").split(".", 3)
            new = f"blk.{layer}.{LINEARS[module]}.weight"
            if module.endswith(("q_proj", "k_proj")):
                tensor = turned(tensor, heads if module.endswith("q_proj") else groups)
        writer.add_tensor(new, np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def losses(model, rows):
    found = []
    for row in rows:
        model.reset()
        model.eval(row["tokens"])
        scores = np.array(model.scores[: len(row["tokens"])], dtype=np.float64)
        scores -= scores.max(axis=1, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        start = len(row["tokens"]) - row["answers"]
        own = [-logs[at - 1, row["tokens"][at]] for at in range(start, len(row["tokens"]))]
        found.append(float(np.mean(own)))
    return np.array(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100)
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.predictions.open(encoding="utf-8")][: args.rows]
    wanted = np.array([row["loss"] for row in rows])
    with tempfile.TemporaryDirectory() as room:
        base = Path(room) / "base.gguf"
        write_base(args.model, base)
        context = json.loads((args.model / "config.json").read_text())["max_position_embeddings"]
        options = dict(model_path=str(base), n_ctx=context, logits_all=True, verbose=False, n_threads=2)
        with_adapter = losses(Llama(lora_path=str(args.adapter), **options), rows)
        bare = losses(Llama(**options), rows)
    apart = np.abs(with_adapter - wanted).max()
    print(f"{len(rows)} examples: mean loss {wanted.mean():.5f} by Bonfire, {with_adapter.mean():.5f} by llama.cpp with the "
          f"adapter, {bare.mean():.5f} without; apart by {apart:.1e} at most")
    if apart > TOLERANCE * max(1.0, wanted.max()) or np.abs(bare - wanted).max() < 10 * apart:
        raise SystemExit("llama.cpp does not agree")


if __name__ == "__main__":
    main()
