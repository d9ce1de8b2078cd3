"""Writes the small Parquet and Zstandard files that the tests of crates/data read.

    pip install pyarrow zstandard
    python scripts/make_data_fixtures.py

Columns, kinds of files and notes are those of the published sets that each file is named after (their cards on the Hub,
November 2026); the rows are our own.
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

OUT = Path(__file__).parent.parent / "crates/data/tests/fixtures"


def features(**columns):
    """The note that `datasets` writes into Parquet."""
    return {b"huggingface": json.dumps({"info": {"features": columns}}).encode()}


def value(dtype):
    return {"dtype": dtype, "_type": "Value"}


def classes(*names):
    return {"names": list(names), "_type": "ClassLabel"}


def write(path, table, note=None, **options):
    path = OUT / path
    path.parent.mkdir(parents=True, exist_ok=True)
    if note:
        table = table.replace_schema_metadata(note)
    pq.write_table(table, path, **options)


def banking77():
    names = ["activate_my_card", "age_limit", "card_arrival"]
    rows = [("when does my card come", 2), ("how old must I be", 1), ("it is still not here", 2), ("switch my card on", 0)]
    note = features(text=value("string"), label=classes(*names))
    for split, part in [("train", rows), ("test", rows[1:3])]:
        table = pa.table({"text": [text for text, _ in part], "label": pa.array([label for _, label in part], pa.int64())})
        write(f"banking77/data/{split}-00000-of-00001.parquet", table, note)


def sst2():
    note = features(idx=value("int32"), sentence=value("string"), label=classes("negative", "positive"))
    splits = {
        "train": [("a gem of a film ", 1), ("dull ", 0), ("never dull ", 1), ("a mess ", 0)],
        "validation": [("warm and wise ", 1), ("no fun ", 0)],
        "test": [("unseen ", -1), ("as well ", -1)],
    }
    for split, rows in splits.items():
        columns = {
            "idx": pa.array(range(len(rows)), pa.int32()),
            "sentence": [text for text, _ in rows],
            "label": pa.array([label for _, label in rows], pa.int64()),
        }
        write(f"sst2/data/{split}-00000-of-00001.parquet", pa.table(columns), note, compression="zstd")


def glue():
    note = features(
        premise=value("string"),
        hypothesis=value("string"),
        label=classes("entailment", "neutral", "contradiction"),
        idx=value("int32"),
    )
    rows = [("It rains.", "It is wet.", 0), ("She reads.", "She sings.", 1), ("He sleeps.", "He runs.", 2)]

    def table(rows, label=None):
        columns = {
            "premise": [row[0] for row in rows],
            "hypothesis": [row[1] for row in rows],
            "label": pa.array([row[2] if label is None else label for row in rows], pa.int64()),
            "idx": pa.array(range(len(rows)), pa.int32()),
        }
        return pa.table(columns)

    for part in range(2):
        write(f"glue/mnli/train-{part:05}-of-00002.parquet", table(rows), note, compression="gzip")
    for split, label in [
        ("validation_matched", None),
        ("validation_mismatched", None),
        ("test_matched", -1),
        ("test_mismatched", -1),
    ]:
        write(f"glue/mnli/{split}-00000-of-00001.parquet", table(rows[:2], label), note)
    note = features(
        question=value("string"),
        sentence=value("string"),
        label=classes("entailment", "not_entailment"),
        idx=value("int32"),
    )
    for split, label in [("train", [0, 1]), ("validation", [1, 0]), ("test", [-1, -1])]:
        columns = {
            "question": ["Who wrote it?", "When was it?"],
            "sentence": ["Ann wrote it.", "Bob likes tea."],
            "label": pa.array(label, pa.int64()),
            "idx": pa.array([0, 1], pa.int32()),
        }
        write(f"glue/qnli/{split}-00000-of-00001.parquet", pa.table(columns), note)


def imdb():
    note = features(text=value("string"), label=classes("neg", "pos"))
    for split, label in [("train", [0, 1, 1]), ("test", [1, 0, 0]), ("unsupervised", [-1, -1, -1])]:
        table = pa.table({"text": ["one <br />", "two", "three"], "label": pa.array(label, pa.int64())})
        write(f"imdb/plain_text/{split}-00000-of-00001.parquet", table, note)


def alpaca():
    columns = {
        "instruction": ["Add the numbers.", "Name a tree."],
        "input": ["2 and 2", ""],
        "output": ["4", "An oak."],
        "text": ["all of it", "all of it"],
    }
    write(
        "alpaca-gpt4/data/train-00000-of-00001-6ef3991c06080e14.parquet",
        pa.table(columns),
        data_page_version="2.0",
        compression="zstd",
    )


def tools():
    call = pa.struct([("function", pa.struct([("name", pa.string()), ("arguments", pa.string())])), ("type", pa.string())])
    turn = pa.struct([("role", pa.string()), ("content", pa.string()), ("tool_calls", pa.list_(call))])
    row = [
        {"role": "user", "content": "what is it?", "tool_calls": None},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": '{"q": 1}'}}],
        },
        {"role": "tool", "content": "found", "tool_calls": None},
        {"role": "assistant", "content": "this", "tool_calls": None},
    ]
    columns = {"messages": pa.array([row, row], pa.list_(turn)), "tools": ['[{"name": "look"}]'] * 2}
    for split in ["train", "test"]:
        write(f"tools/{split}.parquet", pa.table(columns), data_page_version="2.0")


def kinds():
    """The same rows packed in every way that Parquet's writers use."""
    columns = {
        "text": ["hello é", "", "there", "there"] * 10,
        "label": pa.array([0, 12, 12, 0] * 10, pa.int8()),
        "who": pa.array(["x", None, "y", "x"] * 10).dictionary_encode(),
        "more": [[{"a": 1.5}], [], None, [{"a": None}, {"a": 2.0}]] * 10,
    }
    table = pa.table(columns)
    for name in ["none", "snappy", "gzip", "zstd", "lz4"]:
        write(f"kinds/{name}.parquet", table, compression=name, row_group_size=15, data_page_version="1.0")
    write("kinds/zstd-2.parquet", table, compression="zstd", data_page_version="2.0", use_dictionary=False)


def packed():
    rows = [{"text": "hello é", "label": 0, "who": "x"}, {"text": "there", "label": 12, "who": 3}]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    # Two frames, as packing on several cores gives.
    (OUT / "rows.jsonl.zst").write_bytes(zstandard.compress(text) + zstandard.compress(text))


if __name__ == "__main__":
    for make in [banking77, sst2, glue, imdb, alpaca, tools, kinds, packed]:
        make()
