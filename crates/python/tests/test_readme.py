"""The READMEs' snippets run as they stand."""

import pathlib
import re

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
    monkeypatch.chdir(tmp_path)
    space = {}
    exec("import bonfire\n" + code, space)


def test_there_are_snippets():
    assert snippets("README.md") and len(snippets("crates/python/README.md")) == 3
