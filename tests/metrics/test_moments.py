"""Moments: merged batches equal the whole set; files of this library and of other tools."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scoresde.data.sources import read_array
from scoresde.metrics import Moments
from tests.metrics.common import normals


def test_merged_batches_equal_the_whole_set():
    """Also far from 0, where sums of squares would cancel."""
    features = normals(100, 5, 0) + 1e7
    whole = Moments.of(features)
    expected = np.cov(features.numpy() - 1e7, rowvar=False)
    for sizes in ([100], [1] * 100, [33, 1, 66], [99, 1]):
        found = Moments.gather(features.split(sizes))
        assert found.count == 100
        assert torch.allclose(found.mean, whole.mean, rtol=1e-15, atol=0)
        assert np.abs(found.covariance.numpy() - expected).max() < 1e-7
    # planted: a part left out
    assert np.abs(Moments.gather(features.split(33)[:-1]).covariance.numpy() - expected).max() > 1e-3


def test_the_covariance_is_unbiased():
    """4000 sets of 3 draws of variance 1, each known to 1: within five standard errors; dividing by n is off by 1/3."""
    draws = normals(12000, 1, 1).split(3)
    mean = float(torch.stack([Moments.of(part).covariance for part in draws]).mean())
    assert abs(mean - 1.0) < 5 / 4000**0.5


def test_files(tmp_path):
    moments = Moments.of(normals(10, 3, 2))
    moments.save(tmp_path / "ours.npz")
    found = Moments.load(tmp_path / "ours.npz")
    assert found.count == 10 and torch.equal(found.mean, moments.mean)
    assert torch.equal(found.covariance, moments.covariance)
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(2, np.float32), sigma=np.eye(2), other=np.zeros(1))
    theirs = Moments.load(tmp_path / "theirs.npz")
    assert theirs.count is None and theirs.mean.dtype == torch.float64
    with pytest.raises(ValueError, match="unknown count cannot be merged"):
        theirs.merge(theirs)


class Touch:
    """An object whose reading would make a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_what_is_no_such_file_is_refused(tmp_path):
    def made(name, **arrays):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    torn = made("torn.npz", mu=np.zeros(2), sigma=np.eye(2))
    torn.write_bytes(torn.read_bytes()[:100])
    hostile = made("hostile.npz", mu=np.array([Touch(tmp_path / "made")], object), sigma=np.eye(1))
    (tmp_path / "text.npz").write_text("mu")
    bad = {
        torn: "contain mu", hostile: "contain mu", tmp_path / "text.npz": "contain mu", tmp_path: "contain mu",
        made("complex.npz", mu=np.ones(1) * 1j, sigma=np.eye(1)): "complex128: give real numbers",
        made("names.npz", mean=np.zeros(2)): "contain mu", made("nan.npz", mu=np.array([np.nan]), sigma=np.eye(1)): "non-finite",
        made("shape.npz", mu=np.zeros(2), sigma=np.eye(3)): r"\(d,\) and \(d, d\)",
        made("askew.npz", mu=np.zeros(2), sigma=np.array([[1.0, 0.5], [0.0, 1.0]])): "not symmetric",
    }  # fmt: skip
    for path, message in bad.items():
        with pytest.raises(
            (ValueError, FileNotFoundError), match=message if path != tmp_path else "no file of moments"
        ):
            Moments.load(path)
    assert not (tmp_path / "made").exists()
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        Moments.load(tmp_path / "none.npz")


def test_refusals():
    for features in (torch.zeros(3), torch.zeros(0, 3), torch.zeros(3, 0)):
        with pytest.raises(ValueError, match=r"give \(n, d\)"):
            Moments.of(features)
    with pytest.raises(ValueError, match="non-finite"):
        Moments.of(torch.tensor([[float("inf")]]))
    with pytest.raises(ValueError, match="at least one part"):
        Moments.gather([])
    with pytest.raises(ValueError, match="of 2 and of 3 numbers"):
        Moments.of(torch.zeros(2, 2)).merge(Moments.of(torch.zeros(2, 3)))


def test_any_flipped_bit_is_a_refusal_or_another_file(tmp_path):
    """Of a compressed archive, as written by other tools, for which zlib and zip raise their own errors."""
    path = tmp_path / "theirs.npz"
    np.savez_compressed(path, mu=np.arange(2.0), sigma=np.eye(2))
    whole = path.read_bytes()
    refused = 0
    for place in range(0, 8 * len(whole), 7):
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        for read in (Moments.load, lambda path: read_array(f"{path}:mu")):
            try:
                read(path)
            except ValueError:
                refused += 1
    assert refused > 100
