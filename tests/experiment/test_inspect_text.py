"""`scoresde inspect` of texts: vocabulary, length and stride, a config that trains, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scoresde.data import Bytes, Characters, TextFile, inspect_texts
from scoresde.data import text as texts
from scoresde.data.inspect_sources import find
from scoresde.experiment import Experiment, inspect
from scoresde.experiment.inspection import token_advice
from scoresde.jump import Absorbing

LINES = "".join(f"{k} small boats and {k * k % 97} large sails\n" for k in range(300))


def test_a_text_of_few_characters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "boats.txt").write_text(LINES)
    monkeypatch.setattr(token_advice, "SIZES", ((16, 1),))
    found = inspect("boats.txt", "boats.py", measure=False)
    assert found.usable and "the last tenth of the bytes is held out" in found.text
    assert (
        f"{len(LINES)} bytes, 300 lines, UTF-8 with {len(set(LINES))} different characters: they are the tokens"
        in found.text
    )
    assert "range" not in found.text and f"{len(set(LINES))} tokens" in found.text and "--channels" not in found.text
    made = Experiment.from_config(found.config)
    data = made.data
    assert (
        isinstance(data, TextFile) and data.vocabulary == Characters("".join(sorted(set(LINES)))) and data.length == 256
    )
    assert made.process == Absorbing(len(set(LINES))) and made.training.batch_size == 8
    space: dict[str, object] = {}
    exec((tmp_path / "boats.py").read_text(), space)
    assert json.loads(space["get_config"]().to_json()) == json.loads(found.config.to_json())


@pytest.mark.parametrize(
    ("content", "vocabulary", "said"),
    [
        (bytes(range(256)) * 10, Bytes(), "not UTF-8: read as bytes"),
        (
            "".join(map(chr, range(200, 400))).encode() * 5,
            Bytes(),
            "UTF-8 with 200 different characters: read as bytes",
        ),
    ],
)
def test_other_texts_are_bytes(tmp_path, content, vocabulary, said):
    (tmp_path / "a.txt").write_bytes(content)
    source = find(str(tmp_path / "a.txt"))
    assert "vocabulary" not in source.node and source.tokens == vocabulary.tokens and said in source.notes[0]


def test_characters_at_the_ends_of_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(inspect_texts, "AT_ONCE", 7)
    (tmp_path / "a.txt").write_text("öäü–" * 100)
    source = find(str(tmp_path / "a.txt"))
    assert source.node["vocabulary"]["alphabet"] == "äöü–" and source.node["length"] == 16


def test_length_and_stride(tmp_path, monkeypatch):
    monkeypatch.setattr(inspect_texts, "MANY", 20_000)
    (tmp_path / "a.txt").write_bytes(b"ab" * 10_000)
    assert find(str(tmp_path / "a.txt")).node | {"train": ""} == {
        "name": "TextFile", "train": "", "length": 256, "stride": 32, "vocabulary": {"name": "Characters", "alphabet": "ab"},
    }  # fmt: skip


def test_standard_texts(tmp_path, monkeypatch):
    for module in (texts, inspect_texts):
        monkeypatch.setattr(module, "TOTAL", 4000)
    monkeypatch.setattr(texts, "HELD_OUT", 200)
    letters = np.random.default_rng(0).integers(97, 123, 4000).astype(np.uint8)
    (tmp_path / "text8").write_bytes(letters.tobytes())
    assert find(str(tmp_path / "text8")).node == {"name": "Text8", "file": str(tmp_path / "text8"), "length": 64}
    found = inspect(str(tmp_path / "text8"), measure=False)
    assert found.usable and "the standard split" in found.text


def test_texts_that_are_refused(tmp_path):
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(ValueError, match="has 5 bytes: give a text of 320 at least"):
        find(str(tmp_path / "short.txt"))
    (tmp_path / "long.txt").write_text(LINES)
    with pytest.raises(ValueError, match="side=8 is only for folders of images"):
        find(str(tmp_path / "long.txt"), side=8)
    with pytest.raises(ValueError, match="channels='last' is only for arrays"):
        find(str(tmp_path / "long.txt"), channels="last")
