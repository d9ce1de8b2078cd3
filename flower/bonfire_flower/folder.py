"""The run's folder on the ServerApp's machine: rows, adapter, checkpoint. Files are replaced as a whole."""

import json
import os
import tomllib
from logging import INFO
from pathlib import Path
from typing import Any

import bonfire
from flwr.common.logger import log


class RunFolder:
    """`rows` are those of metrics.jsonl, one a round. `minimal`: nothing is written that tells of single clients
    (`privacy.publish`). Of older checkpoints `keep - 1` stay."""

    def __init__(self, path: str, resume: bool) -> None:
        self.path = Path(path).expanduser().resolve()
        self.checkpoint = self.path / "checkpoint"
        self.config = self.path / "config.toml"
        self.rows: list[dict[str, Any]] = []
        self.saves, self.minimal, self.keep = True, False, 2
        if self.checkpoint.exists() and not resume:
            raise ValueError(
                f"{self.path} holds a run already: resume=true goes on with it, another `out` begins one"
            )
        if resume and not self.checkpoint.exists():
            raise ValueError(
                f"{self.path} has no checkpoint to go on from (resume=true); `out` names the run's folder"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        if not resume:
            # A run that ended before its first checkpoint may have left rows.
            for name in ("clients.jsonl", "wire.jsonl"):
                (self.path / name).unlink(missing_ok=True)

    def begin(self, server: bonfire.Server) -> None:
        """Writes the configuration; of a run that goes on, takes up the rows of its complete rounds."""
        replace(self.config, server.config.encode())
        if server.labels:
            replace(self.path / "labels.json", json.dumps(server.labels, ensure_ascii=False).encode())
        self.saves = leaves_adapter(server)
        told = tomllib.loads(server.config)
        self.minimal = told.get("privacy", {}).get("publish") == "minimal"
        self.keep = told.get("save", {}).get("keep", self.keep)
        if server.round:
            self.rows = self.kept("metrics.jsonl", server.round)
            replace(self.path / "clients.jsonl", lines(self.kept("clients.jsonl", server.round)))
            replace(self.path / "wire.jsonl", lines(self.kept("wire.jsonl", server.round)))

    def kept(self, name: str, rounds: int) -> list[dict[str, Any]]:
        """The rows of the first rounds: one that was cut off may have left more, the last of them half written."""
        text = (self.path / name).read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1].splitlines()
        return [row for line in whole if (row := json.loads(line))["round"] <= rounds]

    def add(self, server: bonfire.Server, row: dict[str, Any], wire: list[dict[str, Any]]) -> None:
        """A complete round. The checkpoint comes last: what it stands for is there by then."""
        self.rows.append(row)
        self.append("clients.jsonl", server.client_rows)
        self.append("wire.jsonl", [] if self.minimal else wire)
        if self.saves:
            server.save(self.path / "adapter")
        replace(self.path / "metrics.jsonl", lines(self.rows))
        replace(self.path / "summary.json", (json.dumps(server.summary, indent=2) + "\n").encode())
        self.set_aside(server.round - 1)
        # It holds the secret that privacy's noise is drawn from, where there is one.
        replace(self.checkpoint, server.state(), mode=0o600)

    def set_aside(self, round: int) -> None:
        """Keeps the checkpoint that is about to be replaced, of this round, and lets the oldest go."""
        if not self.checkpoint.exists():
            return
        older = self.path / "checkpoints"
        older.mkdir(exist_ok=True)
        kept = older / f"round-{round:06}"
        kept.unlink(missing_ok=True)
        os.link(self.checkpoint, kept)
        for path in sorted(older.glob("round-*"))[: -(self.keep - 1)]:
            path.unlink()

    def append(self, name: str, rows: list[dict[str, Any]]) -> None:
        with open(self.path / name, "ab") as file:
            file.write(lines(rows))


def leaves_adapter(server: bonfire.Server) -> bool:
    """Not in full fine-tuning: its weights are in the checkpoint alone."""
    try:
        server.tensors()
    except bonfire.BonfireError as error:
        log(INFO, "no adapter is written: %s", error)
        return False
    return True


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def replace(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Writes a file beside, has it on the disk, and renames it over."""
    beside = path.with_name(path.name + ".tmp")
    beside.unlink(missing_ok=True)
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
