"""What a build from nothing costs: CPU seconds by crate, which a busy machine changes little, and in all.

    python scripts/measurements/cold_build.py                                             # as `cargo run --release` builds
    python scripts/measurements/cold_build.py --out lean.md -- --no-default-features --features flex
    python scripts/measurements/cold_build.py --command "test --no-run --workspace"

Builds into an empty folder (--folder, some 4 GB), which it deletes afterwards but with --keep. Sources must have been fetched
(`cargo fetch`).
Every call of the compiler is clocked by a wrapper, so build scripts and what they compile (C, assembly) stand in the total alone.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WRAPPER = """#!/usr/bin/env python3
import os, resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
name = sys.argv[sys.argv.index("--crate-name") + 1] if "--crate-name" in sys.argv else "-"
if name != "___":
    who = f"{os.environ.get('CARGO_PKG_NAME', name)} {os.environ.get('CARGO_PKG_VERSION', '')}"
    with open(os.environ["COLD_BUILD_LOG"], "a") as log:
        log.write(f"{used.ru_utime + used.ru_stime:.3f}\\t{who}\\n")
sys.exit(code)
"""


def build(folder: Path, command: list[str]) -> tuple[dict[str, float], float, float]:
    """CPU seconds by package; of the whole command, with what build scripts ran; seconds on the clock."""
    wrapper, log = folder / "wrapper", folder / "log"
    wrapper.write_text(WRAPPER)
    wrapper.chmod(0o755)
    log.touch()
    env = os.environ | {"CARGO_TARGET_DIR": str(folder / "target"), "RUSTC_WRAPPER": str(wrapper), "COLD_BUILD_LOG": str(log)}
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(["cargo", *command], cwd=ROOT, env=env)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    if done.returncode:
        sys.exit(done.returncode)
    packages: dict[str, float] = defaultdict(float)
    for line in log.read_text().splitlines():
        cpu, who = line.split("\t")
        packages[who] += float(cpu)
    total = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return packages, total, seconds


def table(packages: dict[str, float], total: float, seconds: float, top: int) -> str:
    ordered = sorted(packages.items(), key=lambda item: -item[1])
    rest = sum(cpu for _, cpu in ordered[top:])
    compiled = sum(packages.values())
    lines = ["| package | CPU s |", "|---|---:|"]
    lines += [f"| {who} | {cpu:.0f} |" for who, cpu in ordered[:top]]
    lines += [f"| {max(len(ordered) - top, 0)} others | {rest:.0f} |", f"| build scripts, cargo | {total - compiled:.0f} |"]
    lines += [f"| **all** | **{total:.0f}** ({total / 60:.1f} min) |"]
    load = os.getloadavg()[2]
    return "\n".join([*lines, "", f"{seconds / 60:.1f} minutes on {os.cpu_count()} cores, load {load:.1f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", default="build", help="cargo's, without --release [%(default)s]")
    parser.add_argument("--folder", type=Path, help="where to build [a temporary folder]")
    parser.add_argument("--keep", action="store_true", help="leave what was built in the folder's target")
    parser.add_argument("--top", type=int, default=30, help="rows of the table [%(default)s]")
    parser.add_argument("--out", type=Path, help="write the table there too")
    parser.add_argument("arguments", nargs="*", help="more for cargo, after --")
    options = parser.parse_args()
    if options.folder and options.folder.exists():
        sys.exit(f"error: {options.folder} is there; a cold build needs an empty place")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="cold-build-"))
    folder.mkdir(parents=True, exist_ok=True)
    first, *more = options.command.split()
    try:
        text = table(*build(folder, [first, "--release", *more, *options.arguments]), options.top)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
