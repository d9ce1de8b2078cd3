"""The one version that everything given out has: of the workspace, the Python package, and what they ask of each other.

    python scripts/release/versions.py            # are they the same?
    python scripts/release/versions.py v0.1.0     # and is this tag theirs?
"""

import argparse
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def read(name: str) -> dict:
    return tomllib.loads((ROOT / name).read_text())


def versions() -> dict[str, str]:
    """Where a version stands, and which."""
    workspace = read("Cargo.toml")["workspace"]
    found = {"[workspace.package] of Cargo.toml": workspace["package"]["version"]}
    for name, dependency in workspace["dependencies"].items():
        if name.startswith("bonfire-"):
            found[f"{name} in Cargo.toml"] = dependency.get("version", "none")
    found["crates/python/Cargo.toml"] = read("crates/python/Cargo.toml")["package"]["version"]
    for dependency in read("crates/python/pyproject.toml")["project"]["dependencies"]:
        if dependency.startswith("bonfire-lora-cli"):
            found["bonfire-lora-cli in crates/python/pyproject.toml"] = dependency.partition("==")[2]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tag", nargs="?")
    tag = parser.parse_args().tag
    found = versions()
    wanted = tag.removeprefix("v") if tag else next(iter(found.values()))
    wrong = [f"error: {place} says {version}, not {wanted}" for place, version in found.items() if version != wanted]
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{wanted} in all {len(found)} places")


if __name__ == "__main__":
    main()
