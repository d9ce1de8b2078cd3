"""Packs the program for people without a compiler: one archive and its checksum.

    python scripts/release/archive.py --bonfire target/release/bonfire --out dist [--target x86_64-unknown-linux-gnu]

In it: the program, both licences and those of everything it is linked from, the man page, completions for four shells, README and
changelog. A `.zip` for Windows, else a `.tar.gz`; the same files give the same bytes.
"""

import argparse
import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHELLS = {"bash": "bonfire.bash", "zsh": "_bonfire", "fish": "bonfire.fish", "powershell": "_bonfire.ps1"}


def called(program: Path, *arguments: str) -> bytes:
    return subprocess.run([program, *arguments], check=True, capture_output=True).stdout


def contents(program: Path, notices: Path) -> dict[str, tuple[bytes, int]]:
    """Name in the archive: bytes and mode."""
    files = {program.name: (program.read_bytes(), 0o755), "THIRD-PARTY.txt": (notices.read_bytes(), 0o644)}
    for name in ("LICENSE-MIT", "LICENSE-APACHE", "README.md", "CHANGELOG.md"):
        files[name] = ((ROOT / name).read_bytes(), 0o644)
    files["man/bonfire.1"] = (called(program, "man"), 0o644)
    for shell, name in SHELLS.items():
        files[f"completions/{name}"] = (called(program, "completions", shell), 0o644)
    return files


def packed(folder: str, files: dict[str, tuple[bytes, int]], windows: bool) -> bytes:
    out = io.BytesIO()
    if windows:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, (data, _) in sorted(files.items()):
                archive.writestr(zipfile.ZipInfo(f"{folder}/{name}"), data, zipfile.ZIP_DEFLATED)
        return out.getvalue()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as squeezed, tarfile.open(fileobj=squeezed, mode="w") as archive:
        for name, (data, mode) in sorted(files.items()):
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bonfire", type=Path, required=True, help="the program")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    parser.add_argument("--target", help="its platform, as rustc calls it [this machine's]")
    options = parser.parse_args()
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    said = called(options.bonfire, "--version").decode().split()
    if said[1:2] != [version]:
        sys.exit(f"error: {options.bonfire} says that it is {' '.join(said)}, and Cargo.toml {version}; build it anew")
    rustc = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    target = options.target or next(line.split()[1] for line in rustc.splitlines() if line.startswith("host:"))
    options.out.mkdir(parents=True, exist_ok=True)
    notices = options.out / "THIRD-PARTY.txt"
    gather = [sys.executable, ROOT / "scripts/release/notices.py", "--platform", target, "--out", notices]
    subprocess.run(gather, check=True)
    windows = "windows" in target
    name = f"bonfire-{version}-{target}"
    archive = options.out / f"{name}{'.zip' if windows else '.tar.gz'}"
    archive.write_bytes(packed(name, contents(options.bonfire, notices), windows))
    notices.unlink()
    # As `sha256sum --check` reads it.
    checksum = f"{hashlib.sha256(archive.read_bytes()).hexdigest()}  {archive.name}\n"
    archive.with_name(archive.name + ".sha256").write_text(checksum)
    print(f"{archive}: {archive.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
