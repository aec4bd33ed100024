"""Files with a changed bit, or cut off: refused by name, or what is read is what was written."""

from __future__ import annotations

import random
import zipfile

import numpy as np
import pytest
import torch

from scoresde._files import check_zip
from scoresde.data.arrays import read_array
from scoresde.interop.errors import ConvertError
from scoresde.interop.reference_file import read_reference
from scoresde.interop.verification import compare_outputs
from scoresde.metrics.moments import Moments

from .source_common import SMALL, Place


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("torn"), SMALL)


def same(a, b):
    """Whether two checkpoints hold the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def flips(content, count, seed):
    """Copies of ``content`` with one random bit changed; half of them in the last 40 %, where an archive has its directory."""
    draw = random.Random(seed)
    for k in range(count):
        place = draw.randrange(len(content)) if k % 2 else draw.randrange(int(0.6 * len(content)), len(content))
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        yield place, bytes(changed)


def cuts(content):
    """The front of ``content``, up to many places."""
    sizes = [
        0,
        1,
        3,
        4,
        30,
        *(int(len(content) * share / 1000) for share in (1, 5, 8, 10, 15, 20, 28, 35, 50, 100, 500)),
    ]
    return [content[:size] for size in (*sizes, len(content) - 1000, len(content) - 22, len(content) - 1)]


def test_changed_bits_of_a_checkpoint(place, tmp_path):
    """Refused with the name, or equal to the bit. What is not refused lies in the archive's own bookkeeping."""
    content, whole, file = place.file.read_bytes(), vars(read_reference(place.file)), tmp_path / "flipped.pth"
    refused = 0
    for where, changed in flips(content, 60, seed=0):
        file.write_bytes(changed)
        try:
            found = vars(read_reference(file))
        except ConvertError as problem:
            assert "flipped.pth" in str(problem)
            refused += 1
            continue
        assert all(same(whole[name], found[name]) for name in whole), where
    assert refused >= 40


def test_a_changed_bit_of_a_weight_is_named(place, tmp_path):
    """One flip in each tensor's bytes, found by its value."""
    content, file = place.file.read_bytes(), tmp_path / "flipped.pth"
    for name, tensor in list(place.content["model"].items())[1:20:4]:
        where = content.index(tensor.numpy().tobytes())
        changed = bytearray(content)
        changed[where + 2] ^= 1
        file.write_bytes(changed)
        with pytest.raises(ConvertError, match=r"flipped.pth is damaged.*Bad CRC-32 for file '\w+/data/\d+'"):
            read_reference(file)
        assert name


def test_a_part_called_a_folder(place, tmp_path):
    """One bit in the directory of the archive turns a member into a folder, which torch reads as uninitialized memory.

    Here it is read as it was written.
    """
    content, whole = bytearray(place.file.read_bytes()), vars(read_reference(place.file))
    with zipfile.ZipFile(place.file) as archive:
        start = archive.start_dir
    parts = 0
    while (start := content.find(b"PK\x01\x02", start)) >= 0:
        content[start + 38] |= 0x10
        start, parts = start + 46, parts + 1
    (tmp_path / "folders.pth").write_bytes(content)
    assert parts > 100
    found = vars(read_reference(tmp_path / "folders.pth"))
    assert all(same(whole[name], found[name]) for name in whole)


def test_cut_off_checkpoints(place, tmp_path):
    file = tmp_path / "cut.pth"
    for content in cuts(place.file.read_bytes()):
        file.write_bytes(content)
        with pytest.raises(ConvertError, match=r"cut\.pth is damaged, or not a checkpoint"):
            read_reference(file)


def test_a_file_without_checksums_says_so(place, tmp_path):
    """As torch wrote before 1.6: cut off it is refused, and the summary says that a changed bit could not be seen."""
    file = tmp_path / "old.pth"
    torch.save(place.content, file, _use_new_zipfile_serialization=False)
    content = file.read_bytes()
    for part in cuts(content):
        (tmp_path / "cut.pth").write_bytes(part)
        with pytest.raises(ConvertError, match=r"cut\.pth is"):
            read_reference(tmp_path / "cut.pth")
    code, out, _ = place.convert(file=file)
    assert code == 0 and "older than torch 1.6 and has no checksums" in out


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_changed_bits_of_arrays(tmp_path, save):
    """Every reader of .npz files: data, moments, expected outputs."""
    array = np.random.RandomState(0).rand(6, 3, 4, 4)
    arrays = {"mu": array[0].ravel(), "sigma": np.eye(48), "x": array, "labels": array[:, 0, 0, 0], "out_raw": array}
    whole = tmp_path / "whole.npz"
    save(whole, **arrays)
    readers = {
        "x": lambda file: read_array(f"{file}:x").numpy(),
        "mu": lambda file: Moments.load(file).mean.numpy(),
        "outputs": lambda file: compare_outputs(Echo(), {"raw": {}}, file) and array,
    }
    wanted = {"x": array, "mu": arrays["mu"], "outputs": array}
    content = whole.read_bytes()
    versions = [changed for _, changed in flips(content, 20, seed=1)] + cuts(content)
    for k, changed in enumerate(versions):
        file = tmp_path / f"flipped{k}.npz"
        file.write_bytes(changed)
        for name, read in readers.items():
            try:
                found = read(file)
            except ValueError as problem:
                assert file.name in str(problem), (name, problem)
            else:
                assert k < 20 and np.array_equal(found, wanted[name]), name


class Echo(torch.nn.Module):
    """A model whose network returns its input, for expected outputs equal to x."""

    prediction = None

    def __init__(self):
        super().__init__()
        self.network = torch.nn.Identity()
        self.network.forward = lambda x, label: x
        self.network.load_state_dict = lambda state: None


def test_check_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("part", b"some content")
    check_zip(tmp_path / "a.zip")
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "b.zip").write_bytes(content.replace(b"some content", b"same content"))
    with pytest.raises(ValueError, match=r"b\.zip is torn: its part 'part' does not have the checksum"):
        check_zip(tmp_path / "b.zip")
    (tmp_path / "c.npy").write_bytes(b"\x93NUMPY")
    check_zip(tmp_path / "c.npy")
    with pytest.raises(FileNotFoundError, match=r"d\.zip"):
        check_zip(tmp_path / "d.zip")
