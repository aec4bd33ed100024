"""The Python blocks of a docs page run one after the other, the examples of docstrings run, and links have a target.

Pages that train or sample for more than a second run under `make test-all`.
"""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

from tests.params import some_long

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
WITH_CODE = [page for page in PAGES if "```python" in page.read_text()]
MODULES = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "scoresde").rglob("*.py") if ">>> " in path.read_text()
)


def test_there_is_a_page_to_run():
    assert WITH_CODE


@pytest.mark.parametrize(
    "page", some_long(WITH_CODE, lambda page: page.stem in ("bounds", "own_process", "tutorial")), ids=lambda p: p.name
)
def test_blocks_run_in_order(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))
    exec(compile(source, page.name, "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert bool(printed) == ("print(" in source)
    assert not re.search(r"\b(nan|inf)\b", printed), printed


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_docstrings_print_what_they_show(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testmod(importlib.import_module(module.removesuffix(".py").replace("/", ".")))
    assert failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_are_named_exist(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / target).exists() or target.startswith("api/"), target  # make docs writes docs/api
    for name in re.findall(r"`((?:scoresde|tests|benchmarks|configs)/[\w./-]+\.\w+)`", text):
        assert (ROOT / name).exists(), name
