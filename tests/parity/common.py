"""The parity data: ../shared/parity next to the project if it exists, else the project's own copy in tests/data."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch

from scoresde.sde import VESDE, VPSDE, LinearSDE, SubVPSDE

_ROOT = Path(__file__).resolve().parents[2]
_PLACES = (_ROOT.parent / "shared" / "parity", _ROOT / "tests" / "data" / "parity")


@cache
def folder() -> Path:
    return next(place for place in _PLACES if (place / "sdes.npz").exists())


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(folder() / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


@cache
def meta() -> dict:
    return json.loads((folder() / "meta.json").read_text())


def tensor(array: np.ndarray, dtype: torch.dtype | None = None) -> torch.Tensor:
    return torch.as_tensor(array, dtype=dtype)


def make_sde(kind: str, p0: float, p1: float, **_: object) -> LinearSDE:
    return {"vp": VPSDE, "subvp": SubVPSDE, "ve": VESDE}[kind](p0, p1)


SDES = {name: dict(spec) for name, spec in meta()["sdes"].items()}


def net_rule(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The reference data's stand-in network, a tanh(x) + b x cos(c y) - d sin(e y + f)."""
    a, b, c, d, e, f = (meta()["net_rule"][k] for k in "abcdef")
    y = y.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return a * torch.tanh(x) + b * x * torch.cos(c * y) - d * torch.sin(e * y + f)


def deviation(ours: torch.Tensor, theirs: np.ndarray) -> float:
    """Largest difference relative to the largest value of the reference."""
    theirs_t = tensor(theirs, torch.float64)
    return float((ours.to(torch.float64) - theirs_t).abs().max() / theirs_t.abs().max().clamp(min=1e-300))
