"""Four-part chorales of Bach as tokens, from the package music21. The package is not imported: only its files are read."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scoresde._validation import check_count
from scoresde.data.dataset import Dataset
from scoresde.data.midi import Note, midi_bytes
from scoresde.data.musicxml import SILENT, part_names, read_score, read_voice
from scoresde.data.packaged import package_file
from scoresde.data.sources import LazySplits, check_split, split_indices
from scoresde.data.tokens import Tokens

VOICES = ("soprano", "alto", "tenor", "bass")
STEPS = 4
"""Steps for each quarter note: a step is a sixteenth note."""
REST, HOLD, LOWEST, HIGHEST = 0, 1, 36, 81
"""The first two tokens, and the MIDI numbers of the lowest and the highest pitch, C2 and A5."""
PAUSE = 16
"""Steps between two samples in a file."""
COMPARED, ALIKE = 96, 0.9
"""Steps that are compared to find a chorale that the corpus has twice, and the part of equal notes from which it is the same."""
NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


class BachChorales(LazySplits):
    """Windows (4, length) of the four-part chorales of Bach: a token for each voice and sixteenth note.

    The rows are soprano, alto, tenor and bass. Token 0 is a rest, token 1 holds the note before it, and the others begin a note,
    from C2 to A5. A window that starts within a note begins with its pitch. Chorales whose parts have one soprano, alto, tenor
    and bass are used, without other instruments. The corpus has some chorales twice, transposed or with small changes: of those
    with the same notes at nine in ten of their first steps, the first is used. A random part of the chorales is held out, so no
    chorale is in both sets.

    Windows for evaluation cover each held-out chorale; the last one ends with the chorale and may overlap the one before it.
    Chorales shorter than a window are left out. Samples are written as a MIDI file, with a bar of rest between two.

    Args:
        length: Steps of a window. Four are a quarter note.
        stride: Distance of training windows in steps.
        test_fraction: Fraction of the chorales that is held out.
        split_seed: Seed of the random split.

    Raises:
        FileNotFoundError: At the first use, if music21 is not installed.
        ValueError: At the first use, if ``length`` is more than the chorales have.
    """

    def __init__(self, length: int = 64, *, stride: int = 4, test_fraction: float = 0.1, split_seed: int = 0) -> None:
        check_count("length", length)
        check_count("stride", stride)
        check_split(test_fraction, split_seed)
        names = [f"{NAMES[k % 12]}{k // 12 - 1}" for k in range(LOWEST, HIGHEST + 1)]
        super().__init__((len(VOICES), length), Tokens(2 + len(names), ("rest", "hold", *names)))
        self.length, self.stride, self.test_fraction, self.split_seed = length, stride, test_fraction, split_seed

    def read(self) -> tuple[Dataset, Dataset]:
        whole = chorales(chorale_folder())
        kept = [piece for piece in whole if piece.shape[-1] >= self.length]
        if len(kept) < 2:
            longest = sorted([0, 0, *(piece.shape[-1] for piece in whole)])[-2]
            raise ValueError(f"length={self.length} is more than the chorales have: give {longest} at most")
        train, test = split_indices(len(kept), self.test_fraction, self.split_seed)
        name = "bach-chorales" if len(kept) == len(whole) else f"bach-chorales, {len(whole) - len(kept)} left out"
        return self._set(kept, train, self.stride, f"{name}/train"), self._set(kept, test, 0, f"{name}/test")

    def _set(self, pieces: list[np.ndarray], index: Tensor, stride: int, name: str) -> Dataset:
        windows = []
        for k in index.sort().values.tolist():
            n = pieces[k].shape[-1]
            starts = range(0, n - self.length + 1, stride) if stride else range(0, n, self.length)
            windows += [window(pieces[k], min(start, n - self.length), self.length) for start in starts]
        return Dataset(torch.from_numpy(np.stack(windows)), self.transform, name)

    def sample_file(self, raw: Tensor, condition: Mapping[str, Tensor] | None = None) -> tuple[str, bytes]:
        rows = self.transform.decode(raw).tolist()
        voices = [
            [note for k, event in enumerate(rows) for note in notes(event[v], k * (self.length + PAUSE))]
            for v in range(len(VOICES))
        ]
        return ".mid", midi_bytes(voices, STEPS)


def window(piece: np.ndarray, start: int, length: int) -> np.ndarray:
    """Tokens from a step on. A note that began before is written as its pitch."""
    out = piece[:, start : start + length].copy()
    out[:, 0] = sounding(piece[:, : start + 1])[:, -1]
    return out


def notes(tokens: list[int], start: int) -> list[Note]:
    """The notes of a voice from step ``start`` on. A hold without a note before it is a rest."""
    found: list[Note] = []
    for k, token in enumerate(tokens, start):
        if token > HOLD:
            found.append((k, k + 1, token - 2 + LOWEST))
        elif token == HOLD and found and found[-1][1] == k:
            found[-1] = (found[-1][0], k + 1, found[-1][2])
    return found


def chorale_folder() -> Path:
    """The folder of the chorales in the installed package."""
    return package_file("music21", "corpus/bach/bwv1.6.mxl", "pip install 'scoresde[music]'").parent


def distinct(pieces: list[np.ndarray]) -> list[np.ndarray]:
    """The pieces without those that have nearly the notes of an earlier one, perhaps transposed.

    Compared are the pitches that sound in the first `COMPARED` steps.
    """
    steps = min([COMPARED, *(piece.shape[1] for piece in pieces)])
    sounds = np.array([sounding(piece[:, :steps]) for piece in pieces], np.int64)
    kept: list[int] = []
    for k, here in enumerate(sounds):
        shifts = sounds[kept] - here
        alike = [(shifts == shifts[:, v : v + 1, :1]).mean((1, 2)) for v in range(len(VOICES))]
        if not kept or np.max(alike) < ALIKE:
            kept.append(k)
    return [pieces[k] for k in kept]


def sounding(tokens: np.ndarray) -> np.ndarray:
    """The last token of each voice that is not a hold, (voices, steps)."""
    places = np.where(tokens == HOLD, 0, np.arange(tokens.shape[1]))
    return np.take_along_axis(tokens, np.maximum.accumulate(places, axis=1), axis=1)


@functools.cache
def chorales(folder: Path) -> list[np.ndarray]:
    """The tokens (4, steps) of the different four-part chorales of a folder, in the order of the names of their files.

    Raises ValueError for a file that is damaged, or has a pitch that is not in the vocabulary.
    """
    found = []
    for file in sorted(folder.glob("*.mxl")):
        score = read_score(file)
        names = part_names(score)
        ids = [[key for key, name in names.items() if name.strip().lower().startswith(voice)] for voice in VOICES]
        if any(len(some) != 1 for some in ids):
            continue
        parts = {part.get("id"): part for part in score.iterfind("part")}
        voices = [read_voice(parts[some[0]], STEPS) for some in ids]
        tokens = np.zeros((len(VOICES), max(len(voice.pitch) for voice in voices)), np.uint8)
        for row, voice in zip(tokens, voices, strict=True):
            sounds = voice.pitch != SILENT
            if wrong := [p for p in voice.pitch[sounds].tolist() if not LOWEST <= p <= HIGHEST]:
                raise ValueError(f"{file} has the pitch {wrong[0]}: allowed are {LOWEST} to {HIGHEST}")
            row[: len(sounds)] = np.where(sounds, np.where(voice.begins, voice.pitch - LOWEST + 2, HOLD), REST)
        found.append(tokens)
    return distinct(found)
