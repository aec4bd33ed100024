"""Array files: headers that state what does not follow, flipped bits, and arrays that stay in their file."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import torch

from scoresde.data import Affine, Arrays, Quantized, arrays, sources
from scoresde.data.arrays import names_in, read_array
from scoresde.data.inspect_facts import survey
from scoresde.data.inspect_sources import find
from scoresde.data.rows import Rows
from tests.data_common import F64


def forged(header, content=bytes(64), version=b"\x01\x00"):
    """An .npy file with a header of one's own."""
    text = header.encode().ljust(117) + b"\n"
    size = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + size + text + content


def said(shape, descr="'<f8'", fortran="False"):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}"


HEADERS = [
    (
        said("(10000000000000, 2)"),
        r"shape \(10000000000000, 2\) of float64, 160000000000000 bytes, and 64 bytes follow",
    ),
    (said("(10000000000000000000, 2)"), r"states the shape .*sizes are 0 to 2\*\*63 - 1"),
    (said("(18446744073709551616, 0)"), r"sizes are 0 to 2\*\*63 - 1"),
    (said("(4611686018427387904, 4)"), "bytes, and 64 bytes follow"),
    (said("(-4, -2)"), "sizes are 0 to"),
    (said("(True, 8)"), "sizes are 0 to"),
    (said("(3, 2)"), r"48 bytes, and 64 bytes follow: the file is cut off, or damaged"),
    (said("(5, 2)"), "80 bytes, and 64 bytes follow"),
    (said("(4, 2)", "'|O'"), "holds object: give real or whole numbers"),
    (said("(4, 1)", "'<c16'"), "holds complex128: give real or whole numbers; the imaginary part"),
    (said("(4, 2)", "[('a', '<f8')]"), "give real or whole numbers"),
    (said("(4,)", "'(2,)f8'"), "give real or whole numbers"),
    (said("(" + "1, " * 70 + "8)"), "plain array: .*dimension"),
    (said("None"), "plain array: .*shape"),
    ("(" * 116, "plain array: "),
    ("[" * 117, "plain array: "),
    ("{'descr': __import__('os').system('touch executed')}", "plain array: "),
]


@pytest.mark.parametrize(("header", "why"), HEADERS)
@pytest.mark.parametrize("form", ["npy", "npz"])
def test_forged_headers_are_refused_before_memory_is_taken(tmp_path, header, why, form):
    content, spec = forged(header), str(tmp_path / "a.npy")
    if form == "npy":
        (tmp_path / "a.npy").write_bytes(content)
    else:
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("x.npy", content)
        spec = f"{tmp_path / 'a.npz'}:x"
    for call in (lambda: read_array(spec), lambda: Arrays(spec), lambda: find(spec)):
        with pytest.raises(ValueError, match=rf"a\.np.*{why}"):
            call()


def test_headers_of_other_versions(tmp_path):
    (tmp_path / "a.npy").write_bytes(forged(said("(4, 2)"), version=b"\x02\x00"))
    assert read_array(str(tmp_path / "a.npy")).shape == (4, 2)
    for version in (b"\x03\x00", b"\x09\x00"):
        (tmp_path / "a.npy").write_bytes(forged(said("(4, 2)"), version=version))
        with pytest.raises(ValueError, match="version"):
            read_array(str(tmp_path / "a.npy"))


@pytest.mark.parametrize("compressed", [False, True])
def test_a_flipped_bit_in_an_archive_is_seen_or_changes_nothing(tmp_path, compressed):
    """60 bits of the array's bytes and header, and 60 others: no other numbers are ever returned."""
    wanted = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, x=wanted, y=np.zeros((2, 2)))
    whole, refused = file.getvalue(), 0
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        start, length = archive.getinfo("x.npy").header_offset, archive.getinfo("x.npy").compress_size
    place = np.random.default_rng(1).choice(length, min(length, 60), replace=False) + start + 50
    for k in [*place.tolist(), *np.random.default_rng(2).integers(0, len(whole), 60).tolist()]:
        content = bytearray(whole)
        content[k] ^= 1 << (k % 8)
        (tmp_path / "a.npz").write_bytes(content)
        try:
            found = read_array(f"{tmp_path / 'a.npz'}:x")
        except ValueError as problem:
            assert "a.npz" in str(problem)
            refused += 1
            continue
        assert np.array_equal(found.numpy(), wanted)
    assert refused > 50


def test_cut_files_are_named(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((50, 3)))
    np.savez(tmp_path / "b.npz", x=np.zeros((50, 3)))
    for name, key in (("a.npy", ""), ("b.npz", ":x")):
        whole = (tmp_path / name).read_bytes()
        for length in (0, 1, 6, 9, 60, 128, len(whole) // 2, len(whole) - 1):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(ValueError, match=name):
                read_array(f"{tmp_path / name}{key}")


def test_names_of_an_archive(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((9, 2)), y=np.ones((9, 2)))
    assert names_in(tmp_path / "a.npz") == ["x", "y"]
    assert torch.equal(read_array(f"{tmp_path / 'a.npz'}:y.npy"), torch.ones(9, 2, dtype=F64))
    np.save(tmp_path / "b.npy", np.zeros((9, 2)))
    (tmp_path / "b.npz").write_bytes((tmp_path / "b.npy").read_bytes())
    with pytest.raises(ValueError, match=r"b\.npz: cannot be read as an \.npz file"):
        find(str(tmp_path / "b.npz"))
    with pytest.raises(ValueError, match=r"it is not an \.npz file of named arrays"):
        read_array(f"{tmp_path / 'b.npz'}:x")


# --- rows of a file ----------------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch):
    """Every array counts as large."""
    monkeypatch.setattr(arrays, "IN_MEMORY", 0)
    monkeypatch.setattr(sources, "IN_MEMORY", 0)
    monkeypatch.setattr("scoresde.data.rows.AT_ONCE", 17)


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", ">i4", "float16", "<f4", ">f4", "float64", "bool"])
def test_rows_of_a_file_are_those_of_memory(tmp_path, few, kind):
    """The same events, batches, order, and digest as of the array in memory; a split copies nothing."""
    content = np.random.default_rng(0).integers(0, 2 if kind == "bool" else 100, (30, 2, 3)).astype(kind)
    np.save(tmp_path / "a.npy", content)
    data = Arrays(str(tmp_path / "a.npy"), test_fraction=0.2)
    assert isinstance(data.train.raw, Rows) and data.train.raw.array is data.test.raw.array
    train, test = sources.split_indices(30, 0.2, 0)
    whole = torch.from_numpy(content.astype(content.dtype.newbyteorder("=")).astype("f8"))
    for part, index in ((data.train, train), (data.test, test)):
        assert torch.equal(part.raw[:].to(F64), whole[index])
        assert torch.equal(
            part.events(torch.tensor([3, 1, 4, 5, 1])).to(F64), whole[index[torch.tensor([3, 1, 4, 5, 1])]]
        )
        assert torch.equal(part.raw.read(2).to(F64), whole[index[2]])
    in_memory = sources.split(read_array_whole(content), Affine(), 0.2, 0, "a")[0]
    assert data.train.digest() == in_memory.digest()
    assert torch.equal(data.train.batch(3, 11, seed=1)[0], in_memory.batch(3, 11, seed=1)[0])
    levels = Arrays(str(tmp_path / "a.npy"), levels=100, test_fraction=0.2).train
    assert torch.equal(levels.transform.decode(levels.encode([0, 5], seed=0)).to(F64), whole[train[[0, 5]]])


def read_array_whole(content):
    wide = {"uint16": "i4", "bool": "u1"}.get(content.dtype.name, content.dtype.newbyteorder("="))
    return torch.from_numpy(content.astype(wide))


def test_all_rows_of_a_file_are_checked_at_once(tmp_path, few):
    content = np.ones((30, 3), np.float16)
    content[[7, 21], 1] = np.nan
    np.save(tmp_path / "a.npy", content)
    with pytest.raises(ValueError, match=r"a\.npy' holds non-finite values in 2 of 30 samples: index 7, 21"):
        Arrays(str(tmp_path / "a.npy"))
    np.save(tmp_path / "b.npy", np.arange(30)[:, None])
    with pytest.raises(ValueError, match=r"levels=20 allows 0 \.\. 19"):
        Arrays(str(tmp_path / "b.npy"), levels=20)
    np.save(tmp_path / "c.npy", 1e8 + np.random.default_rng(0).normal(size=(30, 2)))
    with pytest.raises(ValueError, match=r"float32 rounds away"):
        Arrays(str(tmp_path / "c.npy"))


def test_a_file_that_changes_while_it_is_read_is_said(tmp_path, few):
    np.save(tmp_path / "a.npy", np.arange(90.0).reshape(30, 3))
    data = Arrays(str(tmp_path / "a.npy"), test_fraction=0.2).train
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:300])
    with pytest.raises(ValueError, match=r"a\.npy was changed while it was read: start again"):
        data.batch(0, 8, seed=0)


def test_inspect_looks_at_rows_of_a_file(tmp_path, few):
    content = np.random.default_rng(0).normal(3.0, 2.0, (40, 3)).astype(np.float16)
    np.save(tmp_path / "a.npy", content)
    facts = survey(find(str(tmp_path / "a.npy")))
    assert facts.dtype == "float16" and facts.mean == pytest.approx(content.astype("f8").mean())


def test_order_of_fortran(tmp_path, few):
    """Rows of such a file are scattered over all of it: it is read whole."""
    content = np.asfortranarray(np.arange(60).reshape(20, 3))
    np.save(tmp_path / "a.npy", content)
    assert b"'fortran_order': True" in (tmp_path / "a.npy").read_bytes()
    assert np.array_equal(read_array(str(tmp_path / "a.npy")).numpy(), content)
    assert len(Arrays(str(tmp_path / "a.npy"), levels=60).train) == 18


def test_the_dtype_of_a_file_is_kept(tmp_path):
    """In memory too: half precision is a quarter of float64, and widened batch by batch."""
    for kind in ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64"):
        np.savez(tmp_path / "a.npz", x=np.arange(20).reshape(10, 2).astype(kind))
        data = Arrays(f"{tmp_path / 'a.npz'}:x")
        assert str(data.train.raw.dtype) == f"torch.{kind}"
        assert torch.equal(data.train.encode([0], seed=0, dtype=F64), data.train.raw[:1].to(F64))
    assert Quantized(20).check(data.train.raw).dtype == torch.int64


class TestChannelsLast:
    """``channels="last"``: the last axis of (n, *sides, channels) is moved to the front of the events."""

    @pytest.mark.parametrize("shape", [(30, 7, 2), (30, 4, 5, 3), (30, 2, 3, 4, 1)])
    def test_the_axis_is_moved(self, tmp_path, shape):
        content = np.random.default_rng(0).normal(size=shape)
        np.save(tmp_path / "last.npy", content)
        np.save(tmp_path / "first.npy", np.moveaxis(content, -1, 1))
        last, first = Arrays(str(tmp_path / "last.npy"), channels="last"), Arrays(str(tmp_path / "first.npy"))
        assert last.event_shape == first.event_shape == (shape[-1], *shape[1:-1])
        assert last.train.digest() == first.train.digest() and last.test.digest() == first.test.digest()

    def test_rows_stay_in_the_file(self, tmp_path, few):
        content = np.random.default_rng(0).normal(size=(30, 7, 2))
        np.save(tmp_path / "last.npy", content)
        data = Arrays(str(tmp_path / "last.npy"), str(tmp_path / "last.npy"), channels="last")
        assert isinstance(data.train.raw, Rows) and data.event_shape == (2, 7)
        assert np.array_equal(data.train.raw[torch.tensor([5, 3])].numpy(), content[[5, 3]].transpose(0, 2, 1))
        assert Arrays(str(tmp_path / "last.npy"), channels="last").test.events(torch.tensor([0])).shape == (1, 2, 7)

    @pytest.mark.parametrize("size", [2**26, 1])
    def test_an_axis_is_added(self, tmp_path, monkeypatch, size):
        monkeypatch.setattr(arrays, "IN_MEMORY", size)
        for shape in ((30, 7), (30, 4, 5)):
            content = np.random.default_rng(0).normal(size=shape)
            np.save(tmp_path / "a.npy", content)
            data = Arrays(str(tmp_path / "a.npy"), str(tmp_path / "a.npy"), channels="none")
            assert isinstance(data.train.raw, Rows) == (size == 1) and data.event_shape == (1, *shape[1:])
            assert np.array_equal(data.train.raw[:].numpy(), content[:, None])

    def test_vectors_have_no_channels(self, tmp_path):
        np.save(tmp_path / "a.npy", np.ones((9, 2)))
        with pytest.raises(ValueError, match=r"channels='last' is not allowed for .*a.npy of shape \(9, 2\)"):
            Arrays(str(tmp_path / "a.npy"), channels="last")
