"""Arrays in files: what is read, and what is refused."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest
import torch

from scoresde.data import (
    Affine,
    Arrays,
    Quantized,
)
from tests.data_common import F64, Trap, levels


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float16", "float32", "float64", ">f4", "bool"])
def test_npy(tmp_path, dtype):
    content = (np.arange(40).reshape(20, 2) % 2).astype(dtype)
    np.save(tmp_path / "a.npy", content)
    data = Arrays(str(tmp_path / "a.npy"), test_fraction=0.25)
    assert len(data.train) == 15 and len(data.test) == 5 and data.transform == Affine()
    whole = torch.cat([data.train.raw, data.test.raw]).double()
    assert torch.equal(whole.mT, torch.tensor([[0.0] * 20, [1.0] * 20], dtype=F64))


def test_npz_and_levels(tmp_path):
    x = levels((30, 1, 4, 4), 9).numpy()
    np.savez(tmp_path / "all.npz", images=x[:20], held_out=x[20:])
    file = tmp_path / "all.npz"
    data = Arrays(f"{file}:images", f"{file}:held_out", levels=9, low=0.0)
    assert data.transform == Quantized(9, 0.0, 1.0) and data.event_shape == (1, 4, 4)
    assert np.array_equal(data.train.raw.numpy(), x[:20]) and np.array_equal(data.test.raw.numpy(), x[20:])


def test_real_data_is_shifted_and_scaled(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(20.0).reshape(10, 2))
    data = Arrays(str(tmp_path / "a.npy"), str(tmp_path / "a.npy"), shift=9.5, scale=2.0)
    x = data.train.encode(torch.arange(10), seed=0, dtype=F64)
    assert torch.allclose(x.flatten(), (torch.arange(20, dtype=F64) - 9.5) / 2)


def test_a_missing_file_or_key_says_what_is_there(tmp_path):
    np.savez(tmp_path / "all.npz", images=np.zeros((4, 2)), masks=np.zeros(4))
    with pytest.raises(FileNotFoundError, match=r"no data file .*none\.npy"):
        Arrays(str(tmp_path / "none.npy"))
    with pytest.raises(FileNotFoundError, match=r"no data file .*none\.npz"):
        Arrays(f"{tmp_path / 'none.npz'}:images")
    for spec in (f"{tmp_path / 'all.npz'}:image", str(tmp_path / "all.npz")):
        with pytest.raises(ValueError, match=r"all\.npz.*it contains \['images', 'masks'\]: select one"):
            Arrays(spec)


@pytest.mark.parametrize("form", ["npy", "npz", "pickle", "zip"])
def test_a_pickle_is_refused_and_not_executed(tmp_path, form):
    mark = tmp_path / "executed"
    array = np.array([Trap(mark)] * 4, dtype=object)[:, None]
    spec = str(tmp_path / "trap.npy")
    if form == "npy":
        np.save(tmp_path / "trap.npy", array, allow_pickle=True)
    elif form == "npz":
        np.savez(tmp_path / "trap.npz", x=array)
        spec = f"{tmp_path / 'trap.npz'}:x"
    elif form == "pickle":
        (tmp_path / "trap.npy").write_bytes(pickle.dumps(Trap(mark)))
    else:
        with zipfile.ZipFile(tmp_path / "trap.npz", "w") as file:
            file.writestr("x", pickle.dumps(Trap(mark)))
        spec = f"{tmp_path / 'trap.npz'}:x"
    with pytest.raises(ValueError):
        Arrays(spec)
    assert not mark.exists()
    # the trap works: what a careless reader would have done
    if form == "npy":
        np.load(tmp_path / "trap.npy", allow_pickle=True)
        assert mark.exists()


@pytest.mark.parametrize(
    "content", [np.array([["a", "b"]] * 4), np.ones((4, 2), dtype=complex), np.zeros((4, 2), "M8[s]")]
)
def test_arrays_of_no_numbers_are_refused(tmp_path, content):
    np.save(tmp_path / "a.npy", content)
    with pytest.raises(ValueError, match=r"holds .*: give real or whole numbers"):
        Arrays(str(tmp_path / "a.npy"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.npy", b""),
        ("text.npy", b"1, 2, 3\n"),
        ("cut.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'"),
        ("cut.npz:x", b"PK\x03\x04 the rest is lost"),
        ("none.npz", b"PK\x05\x06" + 18 * b"\x00"),
    ],
    ids=["empty", "text", "cut npy", "cut npz", "npz of no arrays"],
)
def test_broken_files_are_named(tmp_path, name, content):
    (tmp_path / name.partition(":")[0]).write_bytes(content)
    with pytest.raises(ValueError, match=name.partition(".")[0]):
        Arrays(str(tmp_path / name))


def test_bad_content_is_refused_at_once(tmp_path):
    np.save(tmp_path / "nan.npy", np.array([[1.0], [np.nan], [2.0], [3.0]]))
    with pytest.raises(ValueError, match="non-finite"):
        Arrays(str(tmp_path / "nan.npy"), test_fraction=0.5)
    np.save(tmp_path / "levels.npy", np.array([[1], [9], [2], [3]]))
    with pytest.raises(ValueError, match=r"levels=4 allows 0 \.\. 3"):
        Arrays(str(tmp_path / "levels.npy"), levels=4, test_fraction=0.5)


def test_large_whole_numbers_do_not_wrap(tmp_path):
    """uint64 beyond 2^63: refused, or right to rounding; not negative."""
    np.save(tmp_path / "large.npy", np.full((4, 2), 2**63 + 5, dtype=np.uint64))
    try:
        large = Arrays(str(tmp_path / "large.npy"), test_fraction=0.5)
    except ValueError:
        return
    assert (large.train.encode(torch.arange(2), seed=0) > 9e18).all()
