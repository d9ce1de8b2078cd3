"""What `track.wandb` writes, read by wandb itself. A run is trained and then gone on with for more rounds, and each time `wandb
beta sync` uploads its log to a server on this machine that answers as W&B's does and keeps what it is sent: that must be what the
run has.

    pip install wandb
    python scripts/checks/check_wandb.py --bonfire target/release/bonfire [--wandb PROGRAM]
"""

import argparse
import gzip
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ENTITY = "me"
TAGS = {"test_accuracy": "test/accuracy", "train_loss": "train/loss", "upload_bytes": "bytes/upload", "round": "_step"}


class Server(http.server.BaseHTTPRequestHandler):
    """Answers what a sync asks for, and keeps settings and streamed lines."""

    settings: dict = {}
    lines: dict[int, dict] = {}
    ended: int | None = None

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        answer = {}
        if self.path.endswith("graphql"):
            answer = {"data": self.graphql(json.loads(body))}
        elif self.path.endswith("file_stream"):
            self.stream(json.loads(body))
        self.say(answer)

    do_PUT = do_POST

    def do_GET(self) -> None:
        self.say({})

    def say(self, answer: dict) -> None:
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def graphql(self, asked: dict) -> dict:
        query, given = asked["query"], asked.get("variables") or {}
        if "upsertBucket" in query:
            Server.settings = json.loads(given.get("config") or "{}") or Server.settings
            project = {"id": "P", "name": given.get("project"), "entity": {"id": "E", "name": ENTITY}}
            bucket = {"id": "R", "name": given.get("name"), "displayName": given.get("displayName"), "project": project}
            bucket |= {"description": None, "config": "{}", "sweepName": None, "historyLineCount": None}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "createRunFiles" in query:
            return {"createRunFiles": {"runID": "R", "uploadHeaders": [], "files": []}}
        if "viewer" in query:
            viewer = {"id": "V", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "teams": {"edges": []}}
            return {"viewer": viewer}
        return {}

    def stream(self, sent: dict) -> None:
        history = sent.get("files", {}).get("wandb-history.jsonl")
        for at, line in enumerate(history["content"] if history else []):
            Server.lines[history["offset"] + at] = json.loads(line)
        if sent.get("complete"):
            Server.ended = sent.get("exitcode")

    def log_message(self, *_: object) -> None:
        pass


def synced(wandb: str, log: Path, address: str) -> None:
    """Has wandb upload a log."""
    Server.settings, Server.lines, Server.ended = {}, {}, None
    env = dict(os.environ, WANDB_BASE_URL=address, WANDB_API_KEY="0" * 40, WANDB_ERROR_REPORTING="false")
    command = [wandb, "beta", "sync", "--yes", str(log)]
    # It leaves notes of its own where it runs.
    done = subprocess.run(command, env=env, cwd=log.parent, capture_output=True, text=True, timeout=120)
    if done.returncode != 0 or Server.ended is None:
        sys.exit(f"error: wandb did not take {log}:\n{done.stdout}{done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bonfire", type=Path, default=Path("target/release/bonfire"))
    parser.add_argument("--wandb", default="wandb", help="the program")
    args = parser.parse_args()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    bonfire = str(args.bonfire.resolve())
    wandb = shutil.which(args.wandb) or sys.exit(f"error: no {args.wandb} here: pip install wandb")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        small = ["--quiet", "--device", "cpu", "--set", "track.wandb=true"]
        subprocess.run([bonfire, "train", "--out", run, *small, "--set", "train.rounds=2"], check=True, stdout=subprocess.DEVNULL)
        logs = [next((run / "wandb").glob("offline-run-*"))]
        synced(wandb, logs[0], address)
        first = len(Server.lines)
        # With more rounds it is the same run there, and is uploaded again.
        more = [bonfire, "train", "--resume", run, "--quiet", "--set", "train.rounds=4", "--accept-changes"]
        subprocess.run(more, check=True, stdout=subprocess.DEVNULL)
        logs.append(next((run / "wandb").glob("offline-run-*")))
        synced(wandb, logs[1], address)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    wrong = []
    if logs[0] != logs[1]:
        wrong.append(f"two runs of one: {logs}")
    if not 0 < first < len(Server.lines) == len(rows):
        wrong.append(f"{first}, then {len(Server.lines)} of {len(rows)} rounds were uploaded")
    for at, row in enumerate(rows):
        for key, tag in TAGS.items():
            found = Server.lines.get(at, {}).get(tag)
            if row.get(key) is not None and found != row[key]:
                wrong.append(f"round {row['round']}: {tag} is {found}, the run has {row[key]}")
    rounds = Server.settings.get("train", {}).get("value", {}).get("rounds")
    if rounds != 4 or Server.ended != 0:
        wrong.append(f"settings or end: train.rounds {rounds}, exit code {Server.ended}")
    if wrong:
        sys.exit("error: " + "\n".join(wrong))
    print(f"wandb uploaded {len(rows)} rounds of one run, number by number what metrics.jsonl has")


if __name__ == "__main__":
    main()
