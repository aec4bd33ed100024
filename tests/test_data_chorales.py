"""Chorales as tokens: small scores with known notes, and the corpus of music21 against music21 where it is installed."""

from __future__ import annotations

import zipfile
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from scoresde.data import BachChorales, chorales
from scoresde.data.chorales import HOLD, LOWEST, REST, distinct, notes, sounding, window
from scoresde.data.midi import midi_bytes
from scoresde.data.musicxml import part_names, read_score, read_voice

LETTERS = {0: ("C", 0), 2: ("D", 0), 4: ("E", 0), 5: ("F", 0), 7: ("G", 0), 9: ("A", 0), 11: ("B", 0), 6: ("F", 1)}
NAMES = ("Soprano", "Alto", "Tenor\rViola", "Bass")


def note(number, duration, more=""):
    step, alter = LETTERS[number % 12]
    pitch = f"<pitch><step>{step}</step><alter>{alter}</alter><octave>{number // 12 - 1}</octave></pitch>"
    return f"<note>{pitch}<duration>{duration}</duration>{more}</note>"


def part(measures):
    return "".join(f"<measure>{text}</measure>" for text in measures)


def save(file, parts, names=NAMES):
    listed = "".join(
        f'<score-part id="P{k}"><part-name>{name}</part-name></score-part>' for k, name in enumerate(names)
    )
    bodies = "".join(f'<part id="P{k}">{body}</part>' for k, body in enumerate(parts))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("META-INF/container.xml", '<container><rootfile full-path="s.xml"/></container>')
        archive.writestr("s.xml", f"<score-partwise><part-list>{listed}</part-list>{bodies}</score-partwise>")


DIVISIONS = "<attributes><divisions>2</divisions></attributes>"
TUNE = [
    DIVISIONS + note(60, 2) + note(62, 1) + "<note><rest/><duration>1</duration></note>",
    note(66, 2, "<tie type='start'/>") + note(66, 2, "<tie type='stop'/>") + note(66, 1),
]


def pieces(count, steps=40):
    rng = np.random.default_rng(0)
    return [rng.integers(HOLD, 48, (4, steps + 4 * k)).astype(np.uint8) for k in range(count)]


def test_notes_of_a_part(tmp_path):
    more = (
        "<note><chord/><pitch><step>A</step><octave>4</octave></pitch><duration>2</duration></note>"
        "<backup><duration>2</duration></backup>" + note(48, 2, "<voice>2</voice>")
        + "<note><grace/><pitch><step>A</step><octave>4</octave></pitch></note>"
    )  # fmt: skip
    chord = [
        DIVISIONS + note(64, 2, "<voice>1</voice>") + more + "<forward><duration>1</duration></forward>" + note(65, 1)
    ]
    save(tmp_path / "a.mxl", [part(TUNE), part(chord), "", ""])
    score = read_score(tmp_path / "a.mxl")
    assert list(part_names(score).values())[2].startswith("Tenor")
    found = read_voice(score.findall("part")[0], 4)
    assert found.pitch.tolist() == [60] * 4 + [62] * 2 + [-1] * 2 + [66] * 10
    assert np.flatnonzero(found.begins).tolist() == [0, 4, 8, 16]
    other = read_voice(score.findall("part")[1], 4)
    assert other.pitch.tolist() == [64] * 4 + [-1] * 2 + [65] * 2


def test_tokens_of_a_folder(tmp_path):
    save(tmp_path / "a.mxl", [part(TUNE)] * 4)
    save(tmp_path / "b.mxl", [part(TUNE)] * 4)
    save(tmp_path / "c.mxl", [part(TUNE)] * 5, ("Soprano 1", "Soprano 2", "Alto", "Tenor", "Bass"))
    (found,) = chorales.chorales(tmp_path)
    c4 = 60 - LOWEST + 2
    row = [c4, 1, 1, 1, c4 + 2, 1, REST, REST, c4 + 6, *[1] * 7, c4 + 6, 1]
    assert found.tolist() == [row] * 4
    names = BachChorales().transform.names
    assert [names[k] for k in (REST, HOLD, 2, c4, c4 + 6)] == ["rest", "hold", "C2", "C4", "F#4"] and len(names) == 48
    assert window(found, 2, 4).tolist() == [[c4, 1, c4 + 2, 1]] * 4
    assert notes(row, 10) == [(10, 14, 60), (14, 16, 62), (18, 26, 66), (26, 28, 66)]
    assert notes([HOLD, HOLD, c4, REST, HOLD], 0) == [(2, 3, 60)]


def test_scores_that_are_refused(tmp_path):
    (tmp_path / "x.mxl").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"x.mxl cannot be read as compressed MusicXML"):
        read_score(tmp_path / "x.mxl")
    low = tmp_path / "low"
    low.mkdir()
    save(low / "x.mxl", [part([DIVISIONS + note(24, 2)])] * 4)
    with pytest.raises(ValueError, match=r"x.mxl has the pitch 24: allowed are 36 to 81"):
        chorales.chorales(low)


def test_chorales_that_the_corpus_has_twice():
    first, second, third = pieces(3, 120)
    moved = np.where(sounding(first) > 3, first + (first > 1), first)
    changed = third.copy()
    changed[:, ::4] = 40
    found = distinct([first, second, moved, third, changed])
    assert [piece is other for piece, other in zip(found, (first, second, third, changed), strict=True)] == [True] * 4


def test_windows_of_both_sets(monkeypatch, tmp_path):
    """Held-out chorales are covered, and no chorale is in both sets."""
    made = pieces(20)
    monkeypatch.setattr(chorales, "chorales", lambda folder: made)
    monkeypatch.setattr(chorales, "chorale_folder", lambda: tmp_path)
    data = BachChorales(16, stride=3, test_fraction=0.2)
    held_out = sorted(chorales.split_indices(20, 0.2, 0)[1].tolist())
    test = data.test.encode(slice(None), seed=0)
    assert test.dtype == torch.int64 and test.shape[1:] == (4, 16)
    rows = iter(test)
    for k in held_out:
        n = made[k].shape[1]
        for start in range(0, n, 16):
            assert next(rows).tolist() == window(made[k], min(start, n - 16), 16).tolist()
    assert next(rows, None) is None
    assert len(data.train) == sum((made[k].shape[1] - 16) // 3 + 1 for k in range(20) if k not in held_out)
    assert BachChorales(60).test.name.startswith("bach-chorales, 5 left out")
    with pytest.raises(ValueError, match="length=1000 is more than the chorales have: give 112 at most"):
        BachChorales(1000).train  # noqa: B018


def test_midi_file():
    """Numbers from 128 on take two bytes."""
    found = midi_bytes([[(0, 1, 60), (3, 4, 62)], []], 4)
    assert found[:14] == b"MThd\0\0\0\x06\0\x01\0\x02\x01\xe0"
    body = bytes.fromhex("00ff5103 0cb735 00903c50 78803c00 8170903e50 78803e00 00ff2f00")
    assert found[14:].startswith(b"MTrk\0\0\0" + bytes([len(body)]) + body)
    assert found.endswith(b"MTrk\0\0\0\x04\0\xff\x2f\0")


@pytest.mark.skipif(find_spec("music21") is None, reason="needs the extra 'music'")
def test_the_corpus_against_music21():
    """Notes of two chorales, and the notes of a MIDI file."""
    from music21 import converter, midi, note as notes21  # noqa: I001

    for name in ("bwv1.6", "bwv171.6"):
        file = chorales.chorale_folder() / f"{name}.mxl"
        score = read_score(file)
        ids = [k for k, n in enumerate(part_names(score).values()) if n.lower().startswith(chorales.VOICES)]
        theirs = converter.parseFile(file, forceSource=True).parts
        for k in ids:
            voice = read_voice(score.findall("part")[k], 4)
            expected = np.full(len(voice.pitch), -1)
            for one in theirs[k].flatten().getElementsByClass(notes21.Note):
                if one.duration.isGrace:
                    continue
                expected[int(one.offset * 4) : int((one.offset + one.quarterLength) * 4)] = one.pitch.midi
            assert (expected == voice.pitch).mean() > 0.99, (name, k)
    data = BachChorales(32)
    suffix, content = data.sample_file(data.test.events(torch.arange(2)))
    read = midi.MidiFile()
    read.readstr(content)
    assert suffix == ".mid" and len(read.tracks) == 4
    begun = [sum(event.isNoteOn() for event in track.events) for track in read.tracks]
    raw = data.test.events(torch.arange(2))
    assert begun == [int((raw[:, v] > HOLD).sum()) for v in range(4)]
