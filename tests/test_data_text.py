"""Texts as windows of tokens: what the windows cover, bytes, digests, refusals, large files."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scoresde.data import (
    Affine,
    Bytes,
    Characters,
    Dataset,
    Enwik8,
    PythonTopics,
    Splits,
    Text8,
    TextFile,
    TokenizerFile,
)
from scoresde.data import text as texts
from scoresde.data.text_bytes import TextBytes
from scoresde.data.windows import TokenSequence, Windows

RHYME = "Röw, row, row your boat – gently down the stream.\r\nMerrily, merrily …\n" * 6
ALL = slice(None)


@pytest.fixture
def rhyme(tmp_path):
    (tmp_path / "rhyme.txt").write_bytes(RHYME.encode())
    return str(tmp_path / "rhyme.txt")


@pytest.fixture
def tokenizer(tmp_path):
    pytest.importorskip("tokenizers", reason="needs the extra 'text'")
    return byte_level(tmp_path / "tokenizer.json", 280)


def byte_level(file, size):
    """A small vocabulary of pairs of bytes, in a file."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [RHYME], trainers.BpeTrainer(vocab_size=size, initial_alphabet=letters, show_progress=False)
    )
    made.save(str(file))
    return str(file)


def sequence(content, vocabulary=None):
    return TokenSequence(TextBytes([("a text", np.frombuffer(content, np.uint8))]), vocabulary or Bytes())


@settings(deadline=None, max_examples=60)
@given(content=st.binary(min_size=1, max_size=60), length=st.integers(1, 20), stride=st.integers(1, 25))
def test_what_windows_cover(content, length, stride):
    """For evaluation every token is in one window but for the overlap of the last one, and the bytes sum to the length."""
    length = min(length, len(content))
    held_out = Windows(sequence(content), length)
    assert len(held_out) == math.ceil(len(content) / length)
    assert held_out.byte_counts(ALL).sum() == len(content)
    starts = held_out.starts(ALL)
    covered = [int(k) for start in starts for k in range(start, start + length)]
    assert set(covered) == set(range(len(content))) and len(covered) - len(content) == -len(content) % length
    assert (np.diff(starts)[:-1] == length).all()
    assert (
        bytes(held_out[ALL][0].tolist()) == content[:length] and bytes(held_out[ALL][-1].tolist()) == content[-length:]
    )

    train = Windows(sequence(content), length, stride)
    assert train.starts(ALL).tolist() == list(range(0, len(content) - length + 1, stride))
    assert bytes(train.read(len(train) - 1).tolist()) in content and train.byte_counts(ALL).tolist() == [length] * len(
        train
    )


@settings(deadline=None, max_examples=60)
@given(text=st.text(st.sampled_from("aé–😀\n "), min_size=2, max_size=40), length=st.integers(1, 9))
def test_characters_of_several_bytes(text, length):
    vocabulary = Characters("😀é a–\n")
    found = sequence(text.encode(), vocabulary)
    assert vocabulary.decode(found[np.arange(len(found))]).decode() == text and len(found) == len(text)
    windows = Windows(found, min(length, len(text)))
    assert windows.byte_counts(ALL).sum() == len(text.encode())
    first = text[: windows.length]
    assert windows.byte_counts(ALL)[0] == len(first.encode())


def test_vocabularies_share_the_held_out_bytes(rhyme):
    """Also where the cut of the fraction is within a character."""
    content = RHYME.encode()
    for fraction in np.linspace(0.1, 0.4, 31):
        data = TextFile(rhyme, 5, Bytes(), test_fraction=float(fraction))
        other = TextFile(rhyme, 9, Characters.of(RHYME), test_fraction=float(fraction))
        parts = [source.parts()[1].read(0, len(source.parts()[1])) for source in (data, other)]
        assert parts[0] == parts[1] and content.endswith(parts[0])
        assert data.test.byte_counts(ALL).sum() == other.test.byte_counts(ALL).sum() == len(parts[0])
        assert abs(len(parts[0]) - fraction * len(content)) < 5
    assert data.transform.names == () and other.transform.names == tuple(sorted(set(RHYME)))


def test_batches_texts_and_files(rhyme):
    data = TextFile(rhyme, 16, Characters.of(RHYME), stride=3)
    batch = data.train.batch(2, 4, seed=0)
    assert batch.x.dtype == torch.int64 and batch.x.shape == (4, 16) and batch.condition == {}
    assert all(text in RHYME for text in data.texts(batch.x))
    suffix, content = data.sample_file(batch.x[:2])
    assert suffix == ".txt" and content.decode().split("\n")[0] == "----- 0" and "\n----- 1\n" in content.decode()
    assert TextFile(rhyme, 4).texts(torch.tensor([[82, 195, 182, 10], [82, 195, 10, 255]])) == ["Rö\n", "R\\xc3\n\\xff"]
    assert data.train.summary.startswith("Dataset('rhyme.txt/train', ")
    numbers = Dataset(torch.zeros(3, 2), Affine())
    assert Splits(numbers, numbers).texts(numbers.raw) is None and numbers.byte_counts(ALL) is None


def test_digests(rhyme, tmp_path):
    def digest(*args, **options):
        data = TextFile(*args, **options)
        return data.train.digest(), data.test.digest()

    first = digest(rhyme, 8)
    assert first == digest(rhyme, 8) and digest(rhyme, 8, stride=2)[1] == first[1]
    others = [digest(rhyme, 9), digest(rhyme, 8, test_fraction=0.2), digest(rhyme, 8, Characters.of(RHYME))]
    (tmp_path / "other.txt").write_bytes(RHYME.replace("Merrily", "merrily").encode())
    others += [digest(str(tmp_path / "other.txt"), 8), (digest(rhyme, 8, stride=2)[0], "")]
    swapped = Characters.of(RHYME).alphabet[::-1]
    others += [digest(rhyme, 8, Characters(swapped))]
    assert len({pair[0] for pair in [first, *others]}) == 7


def test_several_files(rhyme, tmp_path):
    second = tmp_path / "second.txt"
    second.write_bytes(b"the end")
    data = TextFile([rhyme, str(second)], 7, test=[str(second)])
    assert data.train.raw.sequence.text.read(0, 10**6) == RHYME.encode() + b"the end"
    assert data.texts(data.train.events(torch.tensor([len(data.train) - 1]))) == ["the end"]
    assert data.texts(data.test.events(torch.tensor([0]))) == ["the end"] and len(data.test) == 1
    numbers = np.array([len(RHYME.encode()) - 1, len(RHYME.encode()), 0])
    assert bytes(data.train.raw.sequence.text[numbers]) == b"\ntR"
    assert data.train.raw.sequence.text.place(len(RHYME.encode()) + 3) == f"{second}, byte 3,"


@pytest.mark.parametrize(
    ("content", "vocabulary", "message"),
    [
        (b"", Bytes(), "is empty"),
        (b"shorter", Bytes(), r"length=8 is more than the 6 tokens of the training part of bad.txt: give 6 at most"),
        (b"abcabcabc\xffabcabcabcabc", Characters("abcé"), r"bad.txt, byte 9, is 0xff, which is not UTF-8 text"),
        (b"abcabcabc\xffabcabcabcabc", Characters("abc"), r"bad.txt, byte 9, is 0xff, which is not UTF-8 text"),
        ("abcé abcabcabcabc".encode(), Characters("abcé"), r"byte 5, holds the character ' ' \(U\+0020\)"),
        ("abcéabcabcabcabc".encode(), Characters("abc"), r"byte 3, holds the character 'é' \(U\+00E9\)"),
    ],
)  # fmt: skip
def test_texts_that_are_refused(tmp_path, content, vocabulary, message):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        TextFile(str(tmp_path / "bad.txt"), 8, vocabulary).train  # noqa: B018


def test_arguments_that_are_refused(rhyme):
    with pytest.raises(FileNotFoundError, match="no text file"):
        TextFile("missing.txt", 8).train  # noqa: B018
    with pytest.raises(ValueError, match=r"alphabet='aba' contains 'a' more than once"):
        Characters("aba")
    with pytest.raises(ValueError, match="leaves 0 of"):
        TextFile(rhyme, 8, test_fraction=1e-6).train  # noqa: B018
    with pytest.raises(ValueError, match=r"the held-out part of rhyme.txt: give \d+ at most"):
        TextFile(rhyme, 60).train  # noqa: B018


def test_python_topics():
    data = PythonTopics(64)
    text = texts.python_topics()
    assert 200_000 < len(text.encode()) < 2_000_000 and text.startswith('The "assert" statement')
    assert data.test.byte_counts(ALL).sum() + len(data.train) + 63 == len(text.encode())
    assert data.texts(data.train.events(torch.tensor([0])))[0] == text[:64]


@pytest.mark.parametrize("kind", [Text8, Enwik8])
def test_standard_parts(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(texts, "TOTAL", 200)
    monkeypatch.setattr(texts, "HELD_OUT", 10)
    letters = "".join(chr(97 + k % 26) for k in range(200))
    (tmp_path / "text").write_text(letters)
    test, validation = (kind(str(tmp_path / "text"), 4, held_out=part) for part in ("test", "validation"))
    read = [part.read(0, len(part)).decode() for data in (test, validation) for part in data.parts()]
    assert read == [letters[:180], letters[190:], letters[:180], letters[180:190]]
    assert len(test.train) == 6 and test.transform.tokens == (27 if kind is Text8 else 256)
    (tmp_path / "text").write_text(letters + "a")
    with pytest.raises(ValueError, match="has 201 bytes: text8 and enwik8 have 200"):
        kind(str(tmp_path / "text"), 4).train  # noqa: B018


def test_a_large_file_is_not_read_as_a_whole(tmp_path, monkeypatch):
    """Windows are read from the file, with the same tokens and digests as in memory; other vocabularies read blocks."""
    words = np.random.default_rng(0).integers(97, 123, 5000).astype(np.uint8)
    words[::11] = 10
    file = tmp_path / "large.txt"
    file.write_bytes(words.tobytes() + "é".encode() * 400)
    for vocabulary in (Bytes(), Characters("\né" + "".join(map(chr, range(97, 123))))):
        small = TextFile(str(file), 32, vocabulary)
        with monkeypatch.context() as patch:
            for module in ("text_bytes", "arrays"):
                patch.setattr(f"scoresde.data.{module}.IN_MEMORY", 1000)
            patch.setattr("scoresde.data.text_bytes.AT_ONCE", 128)
            patch.setattr("scoresde.data.windows.AT_ONCE", 128)
            large = TextFile(str(file), 32, vocabulary)
            assert not large.train.raw.sequence.text.in_memory
            assert torch.equal(large.test.encode(ALL, seed=0), small.test.encode(ALL, seed=0))
            assert torch.equal(large.train.batch(3, 5, seed=0).x, small.train.batch(3, 5, seed=0).x)
            assert (large.train.digest(), large.test.digest()) == (small.train.digest(), small.test.digest())
            assert large.test.byte_counts(ALL).tolist() == small.test.byte_counts(ALL).tolist()
    with monkeypatch.context() as patch:
        patch.setattr("scoresde.data.text_bytes.IN_MEMORY", 1000)
        data = TextFile(str(file), 32, Characters("abc\n"))
        with pytest.raises(ValueError, match=r"large.txt, byte 1, holds the character"):
            data.train.events(torch.arange(2))


def test_tokenizers(rhyme, tokenizer):
    made = TokenizerFile(tokenizer)
    data = TextFile(rhyme, 8, made)
    assert made.tokens == data.transform.tokens == 280 and data.transform.names == ()
    assert data.test.byte_counts(ALL).sum() == TextFile(rhyme, 8).test.byte_counts(ALL).sum()
    whole = data.train.raw.sequence
    assert len(whole) < len(whole.text) and made.decode(whole[np.arange(len(whole))]) == whole.text.read(
        0, len(whole.text)
    )


def test_a_tokenizer_that_changed(rhyme, tokenizer, tmp_path):
    before = TextFile(rhyme, 8, TokenizerFile(tokenizer))
    digest, stated = before.test.digest(), TokenizerFile(tokenizer)._digest
    assert TextFile(rhyme, 8, TokenizerFile(tokenizer, stated)).test.digest() == digest
    byte_level(tokenizer, 281)
    assert TextFile(rhyme, 8, TokenizerFile(tokenizer)).test.digest() != digest
    with pytest.raises(ValueError, match=f"sha256='{stated}' is not that of .*tokenizer.json"):
        TokenizerFile(tokenizer, stated)


def test_tokenizers_that_are_refused(rhyme, tokenizer, tmp_path):
    from tokenizers import Tokenizer, normalizers

    other = Tokenizer.from_file(tokenizer)
    other.normalizer = normalizers.Lowercase()
    other.save(str(tmp_path / "lower.json"))
    with pytest.raises(ValueError, match=r"rhyme.txt, byte 0, is changed by .*lower.json, 'Röw.* to 'röw"):
        TextFile(rhyme, 8, TokenizerFile(str(tmp_path / "lower.json"))).train  # noqa: B018
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ValueError, match=r"broken\.json cannot be read as a tokenizer"):
        TokenizerFile(str(tmp_path / "broken.json"))
    with pytest.raises(FileNotFoundError, match="no tokenizer file"):
        TokenizerFile(str(tmp_path / "missing.json"))


def test_tokens_of_a_large_text_are_saved_once(rhyme, tmp_path, monkeypatch):
    """The same tokens, sizes and digests as in memory; a changed text or vocabulary never finds them."""
    alphabet, cache = "".join(sorted(set(RHYME))), tmp_path / "tokens"
    encoded = []
    original = Characters.encode

    def counted(self, content, place):
        encoded.append(len(content))
        return original(self, content, place)

    monkeypatch.setattr(Characters, "encode", counted)
    monkeypatch.setattr("scoresde.data.text_bytes.IN_MEMORY", 30)
    monkeypatch.setattr("scoresde.data.text_bytes.AT_ONCE", 64)

    def both(vocabulary, folder=str(cache)):
        data = TextFile(rhyme, 8, vocabulary, cache=folder)
        return data.train.raw, data.test.raw

    train, test = both(Characters(alphabet))
    other = both(Characters(alphabet), "")
    assert torch.equal(train[ALL], other[0][ALL]) and torch.equal(test[ALL], other[1][ALL])
    assert (train.digest(), test.digest()) == (other[0].digest(), other[1].digest())
    assert test.byte_counts(ALL).tolist() == other[1].byte_counts(ALL).tolist()
    assert len(list(cache.iterdir())) == 2 and max(encoded) <= 64
    encoded.clear()
    again = both(Characters(alphabet))
    assert not encoded and torch.equal(again[0][ALL], train[ALL])
    both(Characters(alphabet[::-1]))
    assert encoded and len(list(cache.iterdir())) == 4
    with open(rhyme, "a") as stream:
        stream.write("row\n" * 5)
    assert len(both(Characters(alphabet))[0]) > len(train) and len(list(cache.iterdir())) == 6
    for file in cache.glob("*/sizes.bin"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"sizes.bin has 0 bytes, and \d+ were written: remove the folder"):
        both(Characters(alphabet))


def test_a_kill_leaves_no_tokens(rhyme, tmp_path, monkeypatch):
    """A folder has its name only when all of it is written."""
    monkeypatch.setattr("scoresde.data.text_bytes.IN_MEMORY", 30)
    cache = tmp_path / "tokens"
    data = TextFile(rhyme, 8, Characters("".join(sorted(set(RHYME) - {"…"}))), cache=str(cache))
    with pytest.raises(ValueError, match="holds the character '…'"):
        data.train  # noqa: B018
    assert list(cache.iterdir()) == []


@pytest.mark.skipif(find_spec("tokenizers") is not None, reason="the package is installed")
def test_without_the_package(tmp_path):
    with pytest.raises(ImportError, match=r"pip install 'scoresde\[text\]'"):
        TokenizerFile(str(tmp_path / "tokenizer.json"))
