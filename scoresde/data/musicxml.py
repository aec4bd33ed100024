"""The notes of a voice in a MusicXML file, at equidistant steps. Only what chorales need: one note at a time in each part.

Chords keep their first note, parts with several voices the first one, and grace notes are left out. Repeats are read once.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
SILENT = -1


@dataclass(frozen=True)
class Voice:
    """A voice at equidistant steps.

    Attributes:
        pitch: The MIDI number of the note that sounds at each step, (n,). `SILENT` where there is none.
        begins: Whether the note begins at this step, (n,).
    """

    pitch: np.ndarray
    begins: np.ndarray


def read_score(file: Path) -> ElementTree.Element:
    """The score in a compressed MusicXML file.

    Args:
        file: A file that ends in .mxl.

    Returns:
        Its root element.

    Raises:
        ValueError: If the file is damaged, or has no score.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
            names = [e.get("full-path", "") for e in container.iter() if e.tag.endswith("rootfile")]
            return ElementTree.fromstring(archive.read(names[0]))
    except (zipfile.BadZipFile, KeyError, IndexError, ElementTree.ParseError, OSError, EOFError) as problem:
        raise ValueError(f"{file} cannot be read as compressed MusicXML: {problem}") from problem


def part_names(score: ElementTree.Element) -> dict[str, str]:
    """The names of the parts by their id."""
    return {part.get("id", ""): part.findtext("part-name") or "" for part in score.iter("score-part")}


def read_voice(part: ElementTree.Element, steps: int) -> Voice:
    """The notes of a part.

    Args:
        part: The element of a part.
        steps: Number of steps for each quarter note. A note sounds at the steps from its beginning up to its end.

    Returns:
        The voice.
    """
    notes, length = _notes(part)
    n = math.ceil(length * steps)
    pitch, begins = np.full(n, SILENT), np.zeros(n, bool)
    for start, duration, number, tied in notes:
        first, stop = math.ceil(start * steps), math.ceil((start + duration) * steps)
        pitch[first:stop] = number
        begins[first : min(first + 1, stop)] = not tied
    return Voice(pitch, begins)


def _notes(part: ElementTree.Element) -> tuple[list[tuple[Fraction, Fraction, int, bool]], Fraction]:
    """(start, duration, MIDI number, whether tied to the note before) of each note, and the end, in quarter notes."""
    notes: list[tuple[Fraction, Fraction, int, bool]] = []
    now, end, unit, first = Fraction(0), Fraction(0), Fraction(1), None
    for element in part.iterfind("measure/*"):
        unit = Fraction(1, int(element.findtext("divisions") or 0) or unit.denominator)
        duration = int(element.findtext("duration") or 0) * unit
        if element.tag == "backup":
            now -= duration
        elif element.tag == "forward":
            now += duration
        elif element.tag == "note" and element.find("grace") is None and element.find("chord") is None:
            voice = element.findtext("voice")
            first = voice if first is None else first
            if voice in (None, first) and element.find("rest") is None:
                tied = any(tie.get("type") == "stop" for tie in element.iterfind("tie"))
                notes.append((now, duration, _number(element), tied))
            now += duration
        end = max(end, now)
    return notes, end


def _number(note: ElementTree.Element) -> int:
    """The MIDI number of a note: 60 is the middle C."""
    octave, alter = int(note.findtext("pitch/octave") or 0), round(float(note.findtext("pitch/alter") or 0))
    return 12 * (octave + 1) + STEPS[note.findtext("pitch/step") or "C"] + alter
