"""Standard MIDI files of voices with one note at a time."""

from __future__ import annotations

import struct
from collections.abc import Sequence

QUARTER = 480
"""Ticks of a quarter note."""
LOUDNESS = 80

Note = tuple[int, int, int]
"""First step, step after the last, and MIDI number of a note."""


def midi_bytes(voices: Sequence[Sequence[Note]], steps: int, tempo: int = 72) -> bytes:
    """A MIDI file with a track for each voice.

    Args:
        voices: The notes of each voice in their order, which do not overlap.
        steps: Number of steps for each quarter note.
        tempo: Quarter notes for each minute.

    Returns:
        The content of the file.
    """
    tick = QUARTER // steps
    speed = b"\x00\xff\x51\x03" + (60_000_000 // tempo).to_bytes(3, "big")
    tracks = [_track(notes, k, tick, b"" if k else speed) for k, notes in enumerate(voices)]
    return b"MThd" + struct.pack(">IHHH", 6, 1, len(tracks), QUARTER) + b"".join(tracks)


def _track(notes: Sequence[Note], channel: int, tick: int, head: bytes) -> bytes:
    events, now = [head], 0
    for first, stop, number in notes:
        events.append(_wait((first - now) * tick) + bytes((0x90 | channel, number, LOUDNESS)))
        events.append(_wait((stop - first) * tick) + bytes((0x80 | channel, number, 0)))
        now = stop
    body = b"".join(events) + b"\x00\xff\x2f\x00"
    return b"MTrk" + struct.pack(">I", len(body)) + body


def _wait(ticks: int) -> bytes:
    """A number in groups of seven bits, the highest first; all but the last have the eighth bit."""
    out = [ticks & 0x7F]
    while ticks := ticks >> 7:
        out.append(0x80 | ticks & 0x7F)
    return bytes(reversed(out))
