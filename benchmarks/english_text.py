"""Bits/byte of the English text that comes with Python: a trained model, compressors and Markov models, on the same bytes.

    scoresde train      --config configs/jump/english.py --workdir runs/english
    scoresde likelihood --config configs/jump/english.py --workdir runs/english
    python -m benchmarks.english_text runs/english

A model sees the bytes of a window only. So there is also a Markov model whose contexts end at the beginning of a window.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from scoresde._files import read_sealed
from scoresde.data import PythonTopics
from scoresde.experiment import Experiment, load_config
from scoresde.metrics import COMPRESSORS, compressor_bits_per_byte, markov_bits

ORDERS = (0, 1, 2, 3, 4, 5, 6)


def in_windows(train: bytes, text: bytes, length: int, order: int) -> float:
    """Bits/byte of windows of a text: byte j of a window has the order min(j, ``order``)."""
    bits = torch.stack([markov_bits(train, text, k) for k in range(order + 1)])
    place = torch.arange(len(text))
    return float(bits[(place % length).clamp(max=order), place].mean())


def main(folder: Path) -> None:
    """Print the table."""
    experiment = Experiment.from_config(load_config(folder / "config.json"))
    data, config = experiment.data, experiment.training
    assert isinstance(data, PythonTopics)
    summary = read_sealed(folder / "likelihood" / "test-bound.json")
    text = summary["text"]
    train, held_out = (part.read(0, len(part)) for part in data.parts())
    size = sum(p.numel() for p in experiment.model.parameters())
    print(f"{len(train):,} bytes for training, {len(held_out):,} held out, data digest {summary['data digest']}")
    print(
        f"{size:,} parameters, step {summary['step']} of batch size {config.batch_size}; perplexity {text['perplexity']:.3f}"
    )
    rows = [("this model, a bound", f"{text['bits_per_byte']:.3f} +- {text['standard error']:.3f}")]
    for name in COMPRESSORS:
        rows.append((f"{name}, alone", f"{compressor_bits_per_byte(held_out, name):.3f}"))
        rows.append((f"{name}, after the training text", f"{compressor_bits_per_byte(held_out, name, train):.3f}"))
    for order in ORDERS:
        rows.append((f"Markov model of order {order}", f"{float(markov_bits(train, held_out, order).mean()):.3f}"))
    length = data.event_shape[0]
    found = in_windows(train, held_out, length, 5)
    rows.append((f"Markov model of order 5, in windows of {length} bytes", f"{found:.3f}"))
    print("\n".join(f"| {name} | {value} |" for name, value in rows))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
