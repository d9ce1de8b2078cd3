"""The run's folder on the ServerApp's machine: rows, adapter, checkpoint. Whole files are replaced, never half written."""

import json
import os
from pathlib import Path
from typing import Any

import bonfire


class RunFolder:
    """`rows` are those of metrics.jsonl, one a round."""

    def __init__(self, path: str, resume: bool) -> None:
        self.path = Path(path).expanduser().resolve()
        self.checkpoint = self.path / "checkpoint"
        self.config = self.path / "config.toml"
        self.rows: list[dict[str, Any]] = []
        if self.checkpoint.exists() and not resume:
            raise ValueError(
                f"{self.path} holds a run already: resume=true goes on with it, another `out` begins one"
            )
        if resume and not self.checkpoint.exists():
            raise ValueError(
                f"{self.path} has no checkpoint to go on from (resume=true); `out` names the run's folder"
            )
        self.path.mkdir(parents=True, exist_ok=True)

    def begin(self, server: bonfire.Server) -> None:
        """Writes the resolved configuration; of a run that goes on, takes up the rows of its complete rounds."""
        replace(self.config, server.config.encode())
        metrics = self.path / "metrics.jsonl"
        if server.round:
            lines = metrics.read_text(encoding="utf-8").splitlines()[: server.round]
            self.rows = [json.loads(line) for line in lines]

    def add(self, server: bonfire.Server, row: dict[str, Any]) -> None:
        """A complete round. The checkpoint comes last: what it stands for is there by then."""
        self.rows.append(row)
        server.save(self.path / "adapter")
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        replace(self.path / "metrics.jsonl", lines.encode())
        replace(self.checkpoint, server.state())

    def add_wire(self, rows: list[dict[str, Any]]) -> None:
        with open(self.path / "wire.jsonl", "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))


def replace(path: Path, content: bytes) -> None:
    """Writes a file beside, has it on the disk, and renames it over."""
    beside = path.with_name(path.name + ".tmp")
    with open(beside, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
