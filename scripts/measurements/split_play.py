#!/usr/bin/env python3
"""Split a play into a federated data set: one row a speech, one client a speaker.

    python scripts/measurements/split_play.py tinyshakespeare/input.txt OUT [--least 40]

The text holds speeches separated by blank lines, each opened by the speaker's name and a colon on a line of its own.
Speakers with fewer than `--least` speeches are left out. The last fifth of every speaker's speeches is the test split.
Rows have `text` (name and speech) and `speaker`.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("play", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--least", type=int, default=40, help="fewest speeches of a speaker")
    args = parser.parse_args()

    speeches = defaultdict(list)
    for speech in args.play.read_text(encoding="utf-8").split("\n\n"):
        speaker, colon, said = speech.strip().partition(":\n")
        if colon and said.strip():
            speeches[speaker].append({"text": f"{speaker}:\n{said.strip()}", "speaker": speaker})
    kept = {name: rows for name, rows in sorted(speeches.items()) if len(rows) >= args.least}

    args.out.mkdir(parents=True, exist_ok=True)
    parts = {"train": [], "test": []}
    for rows in kept.values():
        cut = len(rows) - len(rows) // 5
        parts["train"] += rows[:cut]
        parts["test"] += rows[cut:]
    for name, rows in parts.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (args.out / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    print(f"{len(kept)} speakers, {len(parts['train'])} speeches to train, {len(parts['test'])} to test")


if __name__ == "__main__":
    main()
