"""Retired words: the field's terms and plain English are used everywhere outside the glossary and the changelog.

python -m tests.test_language scoresde/samplers docs       # prints the places in these folders
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ["scoresde", "docs", "configs", "notebooks", "benchmarks", "tests"]
FILES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile"]
EXEMPT = {"tests/test_language.py", "docs/glossary.md", "CHANGELOG.md"}

RETIRED = {  # a regular expression, matched without regard to case: what to write instead
    r"\bbeside\b": "next to, with, or compared with",
    r"\banew\b": "again",
    r"\blest\b": "so that ... not; to prevent",
    r"\bweigh(s|ed|ing)?\b(?! of)": "compute the likelihood (of)",
    r"\bhangs? on\b": "depends on",
    r"\bnobody's\b": "name the case",
    r"\bdraws? of (its|their) own\b": "independent noise",
    r"\bbelongs? to (its|their) seed": "depends only on (seed, i)",
    r"\ba number for every time\b": "scalar coefficients",
    r"\bway (down|up)\b": "time discretization; encoder, decoder",
    r"(?<!part )(?<!name )(?<! p )\bin parts\b(?![:)\]])": "sharded, in pieces",
    r"\beverything with everything\b": "compatibility matrix",
    r"\bthe house\b": "the architecture",
    r"\btold of\b": "the input of; depends on",
    r"\bkept for who": "saved for inspection",
    r"\bfor who (has|wants|needs|comes)\b": "for users who",
    r"\bwith hindsight\b": "say how it was chosen",
    r"\b(quarantine[ds]?)\b": "bad batches",
    r"\bconducts?\b": "contract",
    r"\bslips?\b": "mistake, error; diagnosis",
    r"\bkicks?\b": "noise scale",
    r"\binterrupts\b": "signals",
    r"\blaws\b": "distributions",
    r"\bthe law (of|at|is|has)\b": "the distribution",
    r"\bBelief\b": "posterior over x_0",
    r"\bdiffuse_twice\b": "apply_diffusion_matrix",
    r"\bsingle_step\b": "runge_kutta",
    r"(?<!Brownian )\bbridged?\b(?! matching| SDE| process)": "posterior; bridges are a class of models",
    r"\bmended\b|\bmends?\b": "fixed, corrected",
    r"\bwhence\b|\bwherein\b|\bthereof\b|\bthereby\b|\bthereupon\b|\bhitherto\b|\btherein\b": "plain words",
    r"\bmay hold a\b": "can have a",
    r"\bin step\b": "together",
    r"\bgo(es)? on (from|at|in|with|where)\b": "continues",
    r"\bno (?:more|other) than the\b": "only the",
    r"\bof someone else\b|\bof somebody\b": "third-party",
    r"\bbrought along\b": "provided",
    r"\bis called alike\b|\bare called alike\b": "has the same interface",
    r"\bthe nearest that is\b": "the closest match",
    r"\blook(s|ed)? after\b": "handles",
}


def tracked(*places: str) -> list[Path]:
    """Text files that git knows in these places, without the exempt ones."""
    listed = subprocess.run(["git", "ls-files", *places], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    kinds = {".py", ".md", ".ipynb", ".toml", ".cfg", ".sh", ""}
    return [ROOT / name for name in listed.split() if name not in EXEMPT and Path(name).suffix in kinds]


def retired_words(*places: str) -> list[str]:
    """One line for each occurrence: file, line number, the word, what to write instead."""
    found = []
    for path in tracked(*places):
        if not path.exists():
            continue
        text = re.sub(r'"image/png": "[^"]*"', "", path.read_text(errors="ignore"))
        places_found = []
        for pattern, better in RETIRED.items():
            for match in re.finditer(pattern, text, re.I):
                number = text.count("\n", 0, match.start()) + 1
                places_found.append((number, f"{match.group(0)!r} -> {better}"))
        found += [f"{path.relative_to(ROOT)}:{number}: {what}" for number, what in sorted(places_found)]
    return found


@pytest.mark.parametrize("place", [*FOLDERS, "the root"])
def test_no_retired_word_is_left(place):
    found = retired_words(*(FILES if place == "the root" else [place]))
    assert not found, "\n".join(found)


def test_a_retired_word_is_found():
    assert any(re.search(pattern, "Samples belong to their seed.", re.I) for pattern in RETIRED)


if __name__ == "__main__":
    for line in retired_words(*(sys.argv[1:] or [*FOLDERS, *FILES])):
        print(line)
