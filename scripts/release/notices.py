"""The licences of everything that a program of this project is linked from: checked, and gathered into one file.

    python scripts/release/notices.py --check                                   # licences and bans of deny.toml
    python scripts/release/notices.py --out THIRD-PARTY.txt                     # to lie beside the program `bonfire`
    python scripts/release/notices.py --manifest crates/python/Cargo.toml --package bonfire-python --out THIRD-PARTY.txt
    python scripts/release/notices.py --duplicates              # crates that are there in several versions, and by whom

Nothing is fetched: texts are those in the sources that cargo has unpacked. Needs Python 3.11 and cargo.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXTS = re.compile(r"^(licen[cs]e|copying|notice|unlicense|copyright)", re.IGNORECASE)


def metadata(manifest: Path, platform: str) -> dict:
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--manifest-path", str(manifest)]
    return json.loads(subprocess.run([*command, "--filter-platform", platform], check=True, capture_output=True).stdout)


def linked(tree: dict, package: str) -> list[dict]:
    """The packages that end up in `package`: what builds or tests it stays behind."""
    packages = {p["id"]: p for p in tree["packages"]}
    nodes = {node["id"]: node for node in tree["resolve"]["nodes"]}
    root = next((p["id"] for p in tree["packages"] if p["name"] == package), None)
    if root is None:
        sys.exit(f"error: there is no package {package} in this workspace")
    found, waiting = set(), [root]
    while waiting:
        node = waiting.pop()
        if node in found or "proc-macro" in {kind for target in packages[node]["targets"] for kind in target["kind"]}:
            continue
        found.add(node)
        normal = (d["pkg"] for d in nodes[node]["deps"] if any(kind["kind"] is None for kind in d["dep_kinds"]))
        waiting.extend(normal)
    return sorted((packages[node] for node in found), key=lambda p: (p["name"], p["version"]))


def permitted(expression: str, allowed: set[str]) -> bool:
    """Whether an SPDX expression can be met by allowed licences; `/` is the old way to write OR."""
    words = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    python = []
    while words:
        word = words.pop(0)
        if word in ("(", ")"):
            python.append(word)
        elif word in ("AND", "OR"):
            python.append(word.lower())
        else:
            if words[:1] == ["WITH"]:
                word = f"{word} WITH {words[1]}"
                del words[:2]
            # An exception only gives more.
            python.append(str(word in allowed or word.split(" WITH ")[0] in allowed))
    return bool(eval(" ".join(python), {"__builtins__": {}}))


def problems(packages: list[dict], deny: dict) -> list[str]:
    allowed, banned = set(deny["licenses"]["allow"]), set(deny["bans"]["deny"])
    found = []
    for package in packages:
        name = f"{package['name']} {package['version']}"
        if package["name"] in banned:
            found.append(f"{name} is banned by deny.toml")
        if package["source"] is not None and not package["source"].startswith("registry+"):
            found.append(f"{name} comes from {package['source']}, not from a registry")
        licence = package["license"]
        if licence is None:
            if not texts(package):
                found.append(f"{name} names no licence and has no text of one")
        elif not permitted(licence, allowed):
            found.append(f"{name} is under {licence}, which deny.toml does not allow")
    return found


def texts(package: dict) -> list[Path]:
    folder = Path(package["manifest_path"]).parent
    return sorted(path for path in folder.iterdir() if path.is_file() and TEXTS.match(path.name))


def notices(packages: list[dict]) -> str:
    """One text, each licence's words once with the packages that they come with."""
    head = ["What this program is linked from, and under which licences.\n"]
    by_text: dict[str, list[str]] = defaultdict(list)
    for package in packages:
        if package["source"] is None:
            continue
        name = f"{package['name']} {package['version']}"
        head.append(f"{name}: {package['license'] or 'see its text'}  {package['repository'] or ''}".rstrip())
        for path in texts(package):
            by_text[path.read_text(encoding="utf-8", errors="replace").strip()].append(f"{name} ({path.name})")
    body = [f"{'=' * 100}\n{', '.join(names)}\n\n{text}\n" for text, names in by_text.items()]
    return "\n".join(head) + "\n\n" + "\n".join(body)


def duplicates(tree: dict, packages: list[dict]) -> list[str]:
    by_name = defaultdict(list)
    for package in packages:
        by_name[package["name"]].append(package)
    users = defaultdict(set)
    names = {p["id"]: p["name"] for p in tree["packages"]}
    for node in tree["resolve"]["nodes"]:
        for dep in node["deps"]:
            users[dep["pkg"]].add(names[node["id"]])
    lines = []
    for name, several in sorted(by_name.items()):
        if len(several) > 1:
            whose = (f"{p['version']} by {', '.join(sorted(users[p['id']])[:4])}" for p in several)
            lines.append(f"{name}: {'; '.join(whose)}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, default=ROOT / "Cargo.toml")
    parser.add_argument("--package", default="bonfire", help="what is given out [%(default)s]")
    parser.add_argument("--platform", default="x86_64-unknown-linux-gnu", help="[%(default)s]")
    parser.add_argument("--out", type=Path, help="the file to write")
    parser.add_argument("--check", action="store_true", help="only check licences, sources and bans")
    parser.add_argument("--duplicates", action="store_true", help="list crates that are there in several versions")
    options = parser.parse_args()
    if not (options.out or options.check or options.duplicates):
        parser.error("say --check, --duplicates or --out FILE")
    tree = metadata(options.manifest, options.platform)
    packages = linked(tree, options.package)
    if options.duplicates:
        print("\n".join(duplicates(tree, packages)))
        return
    found = problems(packages, tomllib.loads((ROOT / "deny.toml").read_text()))
    if found:
        sys.exit("\n".join(f"error: {problem}" for problem in found))
    if options.out:
        options.out.write_text(notices(packages), encoding="utf-8")
    print(f"{len(packages)} packages, every licence allowed" + (f"; written to {options.out}" if options.out else ""))


if __name__ == "__main__":
    main()
