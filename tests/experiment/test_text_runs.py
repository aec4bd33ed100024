"""Bits/byte of text: the ratio and its error, yardsticks of the same bytes, and a run from training to the report."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch

from scoresde.cli import main
from scoresde.data import Affine, Bytes, Characters, Dataset, TextFile
from scoresde.experiment import Experiment, load_config
from scoresde.experiment.results.simple_baseline import baseline_facts
from scoresde.experiment.results.text_facts import describe_text, text_facts
from scoresde.metrics import compressor_bits_per_byte, markov_bits
from tests.experiment.conftest import ROOT

TEXT = "".join(f"{k} small boats – {k * k % 97} large sails\n" for k in range(300))


@pytest.fixture
def file(tmp_path):
    (tmp_path / "boats.txt").write_text(TEXT)
    return str(tmp_path / "boats.txt")


def test_bits_per_byte(file):
    """A model that needs 5 bits for each byte has 5 bits/byte with any vocabulary."""
    for vocabulary, length in ((Bytes(), 32), (Characters.of(TEXT), 50)):
        data = TextFile(file, length, vocabulary)
        sizes = data.test.byte_counts(slice(None))
        exact = {k: 5.0 * size / length for k, size in enumerate(sizes.tolist())}
        facts = text_facts(data.train, data.test, len(data.test), exact)
        assert facts["bytes"] == sizes.sum() and facts["bits_per_byte"] == pytest.approx(5.0)
        assert facts["standard error"] == pytest.approx(0.0, abs=1e-9)
    text = data.parts()[1].read(0, int(sizes.sum()))
    figures = {one["name"]: one["value"] for one in facts["figures"]}
    assert figures["xz"] == compressor_bits_per_byte(text, "xz") > figures["xz, after the training text"]
    train = data.parts()[0].read(0, len(data.parts()[0]))
    assert figures["Markov model of order 5"] == pytest.approx(float(markov_bits(train, text, 5).mean()))
    train = data.parts()[0].read(0, len(data.parts()[0]))
    assert figures["Markov model of order 5"] == pytest.approx(float(markov_bits(train, text, 5).mean()))
    said = f"5.0000 +- 0.0000 bits/byte of {len(text)} bytes of text, perplexity {facts['perplexity']:.3f} per token; Markov"
    assert describe_text(facts).startswith(said) and facts["perplexity"] == 2.0 ** facts["bits_per_token"]
    assert figures["bzip2, after the training text"] == compressor_bits_per_byte(text, "bzip2", train)


def test_the_standard_error_of_a_ratio(file):
    """It is the spread of the ratio over many sets of windows, not only that of bits/dim."""
    data = TextFile(file, 8, Characters.of(TEXT), test_fraction=0.5)
    rng, n = np.random.default_rng(0), len(data.test)
    sizes = data.test.byte_counts(slice(None)).numpy()
    bits = rng.gamma(3.0, 1.0, n) * sizes
    ratios = []
    for _ in range(2000):
        index = rng.integers(0, n, n)
        ratios.append(bits[index].sum() / sizes[index].sum())
    facts = text_facts(data.train, data.train, n, dict(enumerate((bits / 8).tolist())))
    assert facts["figures"] == []  # training windows overlap
    facts = text_facts(data.train, data.test, n, dict(enumerate((bits / 8).tolist())))
    assert facts["standard error"] == pytest.approx(np.std(ratios), rel=0.1)
    one = text_facts(data.train, data.test, 1, {0: 1.0})
    assert one["standard error"] is None and "unknown" in describe_text(one)


def test_the_baseline_of_text(file):
    data = TextFile(file, 16, Characters.of(TEXT))
    bits = markov_bits(*(part.read(0, len(part)) for part in data.parts()), 5)
    found = baseline_facts(data.train, data.test, len(data.test), 0, {0: 100.0})
    assert found["value"] * 16 * len(data.test) == pytest.approx(float(bits.sum())) and "not better" in found["worse"]
    numbers = Dataset(torch.zeros(3, 2), Affine())
    assert text_facts(numbers, numbers, 3, {0: 1.0}) is None


def test_a_run_from_training_to_the_report(tmp_path, file, monkeypatch, capsys):
    folder, config = str(tmp_path / "run"), str(ROOT / "configs" / "jump" / "digits.py")
    small = [f"--config.data={{'name': 'TextFile', 'train': {file!r}, 'length': 16}}", "--config.training.batch_size=4"]
    small += ["--config.network={'name': 'TokenTransformer', 'width': 16, 'depth': 1}", "--config.training.steps=2"]
    small += ["--config.training.preview_every=0", "--config.likelihood.limit=6", "--config.sampling.count=2"]
    small += ["--config.samplers={'ancestral': {'name': 'AncestralSampler', 'steps': 4}}"]
    for command in ("train", "likelihood", "sample"):
        assert main([command, "--config", config, "--workdir", folder, *small]) in (0, None)
    (summary,) = [json.loads(path.read_text()) for path in (tmp_path / "run" / "likelihood").glob("*.json")]
    text = summary["text"]
    assert text["bytes"] == 96 and text["bits_per_byte"] == pytest.approx(summary["bits_per_dim"])
    assert math.isfinite(text["standard error"]) and summary["baseline"]["name"] == "Markov model of order 5"
    assert "----- 1\n" in (tmp_path / "run" / "samples" / "ancestral.txt").read_text()
    assert main(["report", "--workdir", folder]) in (0, None)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "model, 96 bytes of text" in page and "xz, after the training text" in page
    # a tokenizer whose file changed: nothing is computed or lost
    monkeypatch.setattr(Bytes, "digest", lambda self: "0" * 16)
    kept = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*") if path.suffix != ".lock"}
    for command in ("likelihood", "sample", "report"):
        assert main([command, "--workdir", folder]) == 2
        said = "the vocabulary of the data has changed: its digest is 0000000000000000, and .* was trained with [0-9a-f]{16}"
        assert re.search(said, capsys.readouterr().err)
    assert kept == {path: path.read_bytes() for path in kept}


@pytest.mark.parametrize("name", ["digits_binary", "mnist_binary", "chorales"])
def test_configs_of_other_tokens(name):
    """They build without the packages that contain the data."""
    made = Experiment.from_config(load_config(ROOT / "configs" / "jump" / f"{name}.py"))
    assert made.process.tokens == made.data.transform.tokens == (48 if name == "chorales" else 2)
