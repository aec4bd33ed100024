"""What `import scoresde` loads: torch, numpy and little else. Other libraries are imported where they are first used."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

LATER = ("scipy", "torchsde", "sklearn", "matplotlib", "ml_collections", "tqdm", "diffusers", "absl", "PIL")


@pytest.fixture(scope="module")
def loaded():
    """The modules that a new process has after the import, without those of torch alone."""
    source = "import sys, torch; a = set(sys.modules); import scoresde; print(*sorted(set(sys.modules) - a))"
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout.split()


def test_an_editable_install_is_a_folder_on_the_path():
    """Otherwise, in the folder that contains the clone, ``import scoresde`` finds the clone as an empty namespace package."""
    config = configparser.ConfigParser()
    config.read(Path(__file__).resolve().parents[1] / "setup.cfg")
    assert config["options"]["package_dir"].split() == ["=", "."]


@pytest.mark.parametrize("library", LATER)
def test_a_library_is_loaded_where_it_is_used(loaded, library):
    assert [name for name in loaded if name.split(".")[0] == library] == []


def test_the_package_itself_is_loaded(loaded):
    assert "scoresde.samplers" in loaded and len(loaded) < 350
