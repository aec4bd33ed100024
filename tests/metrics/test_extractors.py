"""Extractors: features, errors, and digests that change with the function."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import scoresde
from scoresde.metrics import Coordinates, Extractor, Network, TorchScript
from scoresde.networks import MLP


class Means(nn.Module):
    """The mean of each channel, doubled with ``return_features``, the option of the Inception network."""

    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.tensor(2.0))

    def forward(self, images: torch.Tensor, return_features: bool = False):
        assert images.dtype == torch.uint8
        means = images.to(torch.float32).mean(dim=(2, 3))
        if return_features:
            means = means * self.factor
        return means


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    path = tmp_path_factory.mktemp("scripted") / "means.pt"
    torch.jit.script(Means()).save(str(path))
    return path


def test_coordinates():
    raw = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 2, 2)
    found = Coordinates()(raw)
    assert found.dtype == torch.float32 and torch.equal(found, raw.reshape(2, 12).float())
    large = torch.tensor([[2**40 + 1]])
    assert float(Coordinates()(large)) == 2**40 + 1
    assert Coordinates().name == "Coordinates" and Coordinates().digest == Coordinates().digest
    with pytest.raises(ValueError, match="non-finite values in 1 of 2 samples: index 1"):
        Coordinates()(torch.tensor([[0.0], [torch.nan]]))


def test_a_network_from_a_file(scripted):
    extractor = TorchScript(str(scripted))
    raw = torch.tensor([3, 250], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    assert torch.equal(extractor(raw), 2.0 * torch.tensor([[3.0] * 3, [250.0] * 3])), "gray is repeated"
    assert torch.equal(TorchScript(str(scripted), options={})(raw), extractor(raw) / 2)
    digest = hashlib.sha256(scripted.read_bytes()).hexdigest()
    assert extractor.digest == digest and "return_features=True" in extractor.name
    assert TorchScript(str(scripted), sha256=digest[:12]).digest == digest


def test_numbers_are_rounded_to_bytes_in_one_way(scripted):
    """-1 .. 1 is mapped to 0 .. 255: rounded half to even and clipped."""
    extractor = TorchScript(str(scripted), options={}, low=-1.0, high=1.0)
    at = torch.tensor([-1.0, -1.0 + 2 * 0.49 / 255, -1.0 + 2 * 0.51 / 255, 0.0, 1.0, 7.0, -3.0], dtype=torch.float64)
    assert extractor(at.reshape(-1, 1, 1, 1))[:, 0].tolist() == [0, 0, 1, 128, 255, 255, 0]
    levels = torch.arange(17).reshape(-1, 1, 1, 1)
    found = TorchScript(str(scripted), options={}, low=0, high=16)(levels)[:, 0]
    assert np.array_equal(found.numpy(), np.round(255 * np.arange(17) / 16))
    raw = torch.arange(256, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    same = TorchScript(str(scripted), options={}, low=0, high=255)(raw)
    assert torch.equal(same[:, 0], torch.arange(256).float()), "bytes stay as they are"
    with pytest.raises(ValueError, match="say which numbers are 0 and 255"):
        TorchScript(str(scripted))(at.reshape(-1, 1, 1, 1))


def test_what_a_file_may_not_be(scripted, tmp_path):
    with pytest.raises(FileNotFoundError, match="no TorchScript file"):
        TorchScript(str(tmp_path / "none.pt"))
    torch.save({"weights": torch.zeros(3)}, tmp_path / "weights.pt")
    (tmp_path / "text.pt").write_text("text")
    for name in ("weights.pt", "text.pt"):
        with pytest.raises(ValueError, match="is not a TorchScript file"):
            TorchScript(str(tmp_path / name))(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
    for read in (lambda extractor: extractor.digest, lambda extractor: extractor.module):
        with pytest.raises(ValueError, match="another file"):
            read(TorchScript(str(scripted), sha256="00"))
    with pytest.raises(ValueError, match="give both or neither"):
        TorchScript(str(scripted), low=0.0)
    with pytest.raises(ValueError, match="takes images"):
        TorchScript(str(scripted))(torch.zeros(2, 4, 3, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"refuses images of shape \(2, 3, 3, 3\) with options \{'bad': 1\}"):
        TorchScript(str(scripted), options={"bad": 1})(torch.zeros(2, 1, 3, 3, dtype=torch.uint8))


class Touch:
    """An object whose reading by Python would make a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_no_python_of_a_file_is_run(scripted, tmp_path):
    """The parts of the archive that are objects, replaced by one that makes a file where Python reads it."""
    touch = pickle.dumps(Touch(tmp_path / "made"))
    replaced = 0
    for part in ("data.pkl", "constants.pkl"):
        with zipfile.ZipFile(scripted) as good, zipfile.ZipFile(tmp_path / part, "w", zipfile.ZIP_STORED) as bad:
            for name in good.namelist():
                replaced += name.endswith(f"/{part}")
                bad.writestr(name, touch if name.endswith(f"/{part}") else good.read(name))
        with pytest.raises(ValueError, match="is not a TorchScript file"):
            TorchScript(str(tmp_path / part))(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    assert replaced == 2 and not (tmp_path / "made").exists()
    pickle.loads(touch)
    assert (tmp_path / "made").exists(), "the object does what it should not"


def test_torchscript_is_loaded_in_one_place():
    files = Path(scoresde.__file__).parent.rglob("*.py")
    assert [path.name for path in files if "jit.load" in path.read_text()] == ["extractors.py"]


def test_any_module():
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 2))
    extractor = Network(module, "tiny")
    raw = torch.arange(8, dtype=torch.uint8).reshape(2, 1, 2, 2)
    assert torch.equal(extractor(raw), extractor(raw)) and not extractor(raw).requires_grad
    before = extractor.digest
    assert Network(module, "other").digest == before and extractor.name == "Network('tiny')"
    with torch.no_grad():
        module[2].weight[0, 0] += 1e-3
    assert extractor.digest != before
    with pytest.raises(TypeError, match=r"give an nn\.Module"):
        Network(len, "len")


class Wrong(Extractor):
    """Returns given features."""

    def __init__(self, found):
        self.found = found

    @property
    def digest(self):
        return "0"

    def features(self, raw):
        return self.found


@pytest.mark.parametrize(
    "found", [torch.zeros(3), torch.zeros(2, 4), torch.zeros(3, 2).long(), None, torch.zeros(3, 2, 1)]
)
def test_features_are_vectors(found):
    with pytest.raises(ValueError, match=r"features are \(3, d\)"):
        Wrong(found)(torch.zeros(3, 5))
    assert Wrong(found).name == "Wrong" and repr(Wrong(3)) == "Wrong(found=3)"


def test_features_of_half_precision_become_float32():
    found = torch.tensor([[1.5], [2.5]])
    for half in (torch.bfloat16, torch.float16):
        made = Wrong(found.to(half))(torch.zeros(2, 5))
        assert made.dtype == torch.float32 and torch.equal(made, found) and made.numpy().shape == (2, 1)


def test_a_module_that_takes_something_else():
    for module, said in (
        (MLP((1, 2, 2), width=8, depth=1), "missing 1 required"),
        (torch.nn.Linear(3, 2), "cannot be multiplied"),
    ):
        with pytest.raises(ValueError, match=rf"Network\('mine'\) refuses samples of shape \(2, 1, 2, 2\): .*{said}"):
            Network(module, "mine")(torch.zeros(2, 1, 2, 2))
