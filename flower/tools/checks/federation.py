"""A Flower federation of real processes on loopback, for loopback.py and wire.py: started, watched, and
always ended."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import credentials

APP = Path(__file__).resolve().parents[2]
# Seconds that a server may take to answer after its start, and a short command to end.
START = 60
COMMAND = 120


class Failed(Exception):
    """Something that had to happen did not; the text says what."""


class Federation:
    """A SuperLink and SuperNodes. Their logs, keys and Flower's home are in `folder`."""

    def __init__(self, folder: Path, secure: bool, simulation: bool = False) -> None:
        self.folder, self.secure, self.simulation = folder, secure, simulation
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen] = {}
        self._commands: dict[int, list[str]] = {}
        home = folder / "home"
        home.mkdir(parents=True)
        self.env = os.environ | {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PYTHONUNBUFFERED": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        trust = f'root-certificates = "{folder / "ca.crt"}"' if secure else "insecure = true"
        connection = (
            f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{self.port}"\n{trust}\n'
        )
        (home / "config.toml").write_text(connection, encoding="utf-8")
        if secure:
            credentials.make_certificates(folder, [])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.processes):
            self.kill(name)

    def start_superlink(self) -> None:
        options = [
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--disable-runtime-dependency-installation",
        ]
        if self.secure:
            files = {
                "--ssl-ca-certfile": "ca.crt",
                "--ssl-certfile": "server.pem",
                "--ssl-keyfile": "server.key",
            }
            for option, name in files.items():
                options += [option, str(self.folder / name)]
            options.append("--enable-supernode-auth")
        else:
            options.append("--insecure")
        if self.simulation:
            options.append("--simulation")
        self._start("superlink", ["flower-superlink", *options])
        self._wait_for_port("superlink", self.port)

    def start_node(self, number: int, node_config: str, port: int | None = None) -> None:
        """A SuperNode; with TLS it has a key of its own that the SuperLink is told of first. `port`: of a
        forwarder."""
        options = ["--superlink", f"127.0.0.1:{port or self.port}", "--port", str(free_port())]
        options += ["--node-config", node_config]
        if self.secure:
            key = credentials.make_node_key(self.folder, number)
            self.flwr("supernode", "register", str(key.with_suffix(".pub")), "here")
            options += [
                "--root-certificates",
                str(self.folder / "ca.crt"),
                "--auth-supernode-private-key",
                str(key),
            ]
        else:
            options.append("--insecure")
        self._commands[number] = ["flower-supernode", *options]
        self._start(f"node-{number}", self._commands[number])

    def restart_node(self, number: int) -> None:
        """A SuperNode that was killed, with its key and configuration, and without what it held."""
        self._start(f"node-{number}", self._commands[number])

    def run_app(self, run_config: dict[str, str | float | bool], *more: str) -> subprocess.Popen:
        """`flwr run`, its log printed as it comes and kept in run.log. Returns at once."""
        settings = [f"{key}={toml(value)}" for key, value in run_config.items()]
        command = ["flwr", "run", str(APP), "here", "--stream", *more]
        for setting in settings:
            command += ["--run-config", setting]
        return self._start("run", command)

    def status(self) -> str:
        """Of the only run, such as `finished:completed`."""
        runs = json.loads(self.flwr("ls", "here", "--format", "json"))["runs"]
        return runs[0]["status"]

    def flwr(self, *arguments: str) -> str:
        command = ["flwr", *arguments]
        done = subprocess.run(
            command, check=False, env=self.env, capture_output=True, text=True, timeout=COMMAND
        )
        if done.returncode:
            raise Failed(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def kill(self, name: str) -> None:
        """SIGKILL to a process and all that it started."""
        process = self.processes.pop(name)
        for pid in [process.pid, *descendants(process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.wait(timeout=30)

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def trains(self, number: int, round: int) -> bool:
        """Whether a node has received its order of a round."""
        return bool(re.search(rf"ROUND {round}\].*\n.*Receiving: train", self.log(f"node-{number}")))

    def check_alive(self, names: list[str]) -> None:
        for name in names:
            if name in self.processes and self.processes[name].poll() is not None:
                raise Failed(f"{name} ended by itself:\n{self.log(name)[-3000:]}")

    def _start(self, name: str, command: list[str]) -> subprocess.Popen:
        with open(self.folder / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                command,
                env=self.env,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes[name] = process
        return process

    def _wait_for_port(self, name: str, port: int) -> None:
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            self.check_alive([name])
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.2)
        raise Failed(f"{name} did not open port {port} within {START} s:\n{self.log(name)[-3000:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def descendants(pid: int) -> list[int]:
    """All that a process started, and they; read from the list of processes."""
    command = ["ps", "-eo", "pid=,ppid="]
    table = subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMMAND).stdout
    children: dict[int, list[int]] = {}
    for line in table.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found = list(children.get(pid, []))
    for child in found:
        found += children.get(child, [])
    return found


def toml(value: str | float | bool) -> str:
    """As `flwr run --run-config` reads it: a text in single quotes, which cannot hold any."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        if "'" in value:
            raise Failed(f"{value}: flwr's run configuration cannot hold a single quote")
        return f"'{value}'"
    return str(value)
