"""What README shows runs: its Python block as it is printed, its commands by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def test_there_are_blocks_to_run():
    assert BLOCKS


@pytest.mark.parametrize("steps", [pytest.param(2000, marks=pytest.mark.long), 3])
def test_the_first_block_runs(steps, tmp_path, monkeypatch):
    """As it is printed, with 2000 training steps. The default tests take 3 steps."""
    monkeypatch.chdir(tmp_path)
    assert BLOCKS[0].count("range(2000)") == 1
    names = {"__name__": "__main__"}
    exec(compile(BLOCKS[0].replace("range(2000)", f"range({steps})"), "README.md", "exec"), names)
    samples, result = names["samples"], names["result"]
    assert samples.shape == (5000, 2) and bool(samples.isfinite().all())
    assert result.log_prob.shape == result.standard_error.shape == (200,)
    if steps == 2000:  # nats; the value observed is -1.7
        assert -2.0 < float(result.log_prob.mean()) < -1.4


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make (\w[\w-]*)", README)):
        assert re.search(rf"^{target}:", makefile, re.M), target
