"""Checks that what the Markdown pages name is there: files, headings, and the paths of the tree in code spans.

    python scripts/checks/check_links.py
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# A code span that begins with one of these and has no placeholder is a path of this tree.
FOLDERS = ("configs/", "crates/", "docs/", "examples/", "flower/", "kernels/", "models/", "scripts/", "tests/")


def pages() -> list[Path]:
    """What Git knows; of a history, no promise is made that its paths still stand."""
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "*.md"], capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.splitlines() if name != "CHANGELOG.md"]


def anchor(heading: str) -> str:
    """A heading's name in links, as GitHub makes it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
    return "".join(c for c in text.strip().lower() if c.isalnum() or c in " -_").replace(" ", "-")


def broken(page: Path, anchors: dict[Path, set[str]]) -> list[str]:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, name = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            wrong.append(f"{target} is not there")
        elif name and file in anchors and name not in anchors[file]:
            wrong.append(f"{target}: no such heading")
    for span in re.findall(r"`([^`\s]+)`", text):
        path = span.split(":")[0]
        plain = not re.search(r"[{}*<>…$,()]|NAME|FILE|DIR", path)
        if path.startswith(FOLDERS) and plain and not (ROOT / path).exists() and not (page.parent / path).exists():
            wrong.append(f"`{path}` is not there")
    return wrong


def main() -> None:
    all_pages = pages()
    heading = re.compile(r"^#+ (.*)$", re.MULTILINE)
    anchors = {page: {anchor(text) for text in heading.findall(page.read_text())} for page in all_pages}
    wrong = [f"{page.relative_to(ROOT)}: {text}" for page in all_pages for text in broken(page, anchors)]
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{len(all_pages)} pages, every link leads somewhere")


if __name__ == "__main__":
    main()
