"""What `import scoresde` loads: torch, numpy and little else. Other libraries are imported where they are first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

LATER = ("scipy", "torchsde", "sklearn", "matplotlib", "ml_collections", "tqdm", "diffusers", "absl")


@pytest.fixture(scope="module")
def loaded():
    """The modules that a new process has after the import, without those of torch alone."""
    source = "import sys, torch; a = set(sys.modules); import scoresde; print(*sorted(set(sys.modules) - a))"
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("library", LATER)
def test_a_library_is_loaded_where_it_is_used(loaded, library):
    assert [name for name in loaded if name.split(".")[0] == library] == []


def test_the_package_itself_is_loaded(loaded):
    assert "scoresde.samplers" in loaded and len(loaded) < 350
