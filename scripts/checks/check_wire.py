#!/usr/bin/env python3
"""The numbers of short messages (`[wire]`), written and read by NumPy from docs/file-formats.md alone.

    python scripts/checks/check_wire.py write tests/fixtures/wire.json      # what the Rust test reads
    BONFIRE_WIRE_OUT=/tmp/wire.json cargo test --release --workspace --lib numpy_writes
    python scripts/checks/check_wire.py read /tmp/wire.json                 # what it wrote
"""

import json
import sys
import zlib

import numpy as np


def bf16(values):  # round to nearest, ties to even
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (np.asarray(bits, np.uint32) << 16).view(np.float32)


def code(values, coding):
    values = np.asarray(values, np.float32)
    if coding in ("f32", "f16"):
        return values.astype("<f4" if coding == "f32" else "<f2").tobytes()
    if coding == "bf16":
        return bf16(values).astype("<u2").tobytes()
    most = np.float32(127 if coding == "int8" else 7)
    blocks = np.pad(values, (0, -len(values) % 64)).reshape(-1, 64)
    exact = np.abs(blocks).max(1) / most
    scales = bf16(exact)
    scales = np.where(from_bf16(scales) < exact, scales + 1, scales).astype("<u2")
    steps = from_bf16(scales)[:, None]
    whole = np.clip(np.rint(np.divide(blocks, steps, out=np.zeros_like(blocks), where=steps > 0)), -most, most)
    whole = whole.reshape(-1)[: len(values)].astype(np.int8)
    if coding == "int8":
        return scales.tobytes() + whole.tobytes()
    nibbles = np.append((whole + 8).astype(np.uint8), [0] * (len(whole) % 2)).astype(np.uint8).reshape(-1, 2)
    return scales.tobytes() + (nibbles[:, 0] | nibbles[:, 1] << 4).astype(np.uint8).tobytes()


def decode(data, coding, count):
    """The numbers, and what is left of the bytes."""
    if coding in ("f32", "f16", "bf16"):
        size = 4 if coding == "f32" else 2
        kind = {"f32": "<f4", "f16": "<f2", "bf16": "<u2"}[coding]
        found = np.frombuffer(data[: size * count], kind)
        return (from_bf16(found) if coding == "bf16" else found.astype(np.float32)), data[size * count :]
    blocks = -(-count // 64)
    scales = np.repeat(from_bf16(np.frombuffer(data[: 2 * blocks], "<u2")), 64)[:count]
    size = count if coding == "int8" else -(-count // 2)
    raw = np.frombuffer(data[2 * blocks : 2 * blocks + size], np.uint8)
    if coding == "int8":
        whole = raw.view(np.int8)
    else:
        whole = (np.stack([raw & 15, raw >> 4], 1).reshape(-1)[:count]).astype(np.int8) - 8
    return whole.astype(np.float32) * scales, data[2 * blocks + size :]


def read(data, wire, count):
    data = zlib.decompress(data, -15) if wire.get("deflate") else data
    if wire.get("top_k") is None:
        return decode(data, wire["upload"], count)
    sent = min(int(np.ceil(wire["top_k"] * count)), count)
    if data[0] == 0:
        size = -(-count // 8)
        bits = np.unpackbits(np.frombuffer(data[1 : 1 + size], np.uint8), bitorder="little")
        places, data = np.flatnonzero(bits), data[1 + size :]
    else:
        places, at, place = [], 1, -1
        for _ in range(sent):
            step = shift = 0
            while True:
                step |= (data[at] & 127) << shift
                at, shift = at + 1, shift + 7
                if data[at - 1] < 128:
                    break
            place += step + 1
            places.append(place)
        data = data[at:]
    few, rest = decode(data, wire["upload"], sent)
    found = np.zeros(count, np.float32)
    found[np.asarray(places)] = few
    return found, rest


def write(values, wire):
    if wire.get("top_k") is None:
        data = code(values, wire["upload"])
    else:
        sent = min(int(np.ceil(wire["top_k"] * len(values))), len(values))
        places = np.sort(np.argsort(-np.abs(values), kind="stable")[:sent])
        bits = np.zeros(len(values), np.uint8)
        bits[places] = 1
        data = b"\0" + np.packbits(bits, bitorder="little").tobytes() + code(values[places], wire["upload"])
    if wire.get("deflate"):
        packer = zlib.compressobj(wbits=-15)
        data = packer.compress(data) + packer.flush()
    return data


def main():
    how, path = sys.argv[1:]
    if how == "write":
        rng, cases = np.random.default_rng(3), []
        for coding in ("f32", "bf16", "f16", "int8", "int4"):
            for more in ({}, {"top_k": 0.25}, {"deflate": True}, {"top_k": 0.1, "deflate": True}):
                wire = {"upload": coding, **more}
                values = (rng.normal(size=203) * 1e-3).astype(np.float32)
                data = write(values, wire)
                found, rest = read(data, wire, len(values))
                assert not rest, wire
                cases.append({"wire": wire, "numbers": found.astype(float).tolist(), "bytes": list(data)})
        with open(path, "w", encoding="utf-8") as file:
            file.write(json.dumps(cases) + "\n")
        return
    with open(path, encoding="utf-8") as file:
        cases = json.load(file)
    for case in cases:
        found, rest = read(bytes(case["bytes"]), case["wire"], len(case["numbers"]))
        assert not rest and np.array_equal(found, np.asarray(case["numbers"], np.float32)), case["wire"]
    print(f"{len(cases)} messages read as they were meant")


if __name__ == "__main__":
    main()
