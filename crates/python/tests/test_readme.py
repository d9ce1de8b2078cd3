"""The READMEs' snippets run as they stand."""

import pathlib
import re
import runpy

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]


def snippets(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    return [
        pytest.param(code, id=f"{name}-{i}")
        for i, code in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    ]


@pytest.mark.parametrize("code", snippets("README.md") + snippets("crates/python/README.md"))
def test_a_snippet_runs(code, tmp_path, monkeypatch):
    snippet = tmp_path / "snippet.py"
    snippet.write_text("import bonfire\n" + code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(snippet))


def test_there_are_snippets():
    assert snippets("README.md") and len(snippets("crates/python/README.md")) == 3
