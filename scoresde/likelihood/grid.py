"""Where a fixed-grid solver puts its nodes and its probes, learned once for a model from a few examples.

The error of a multistep method over an interval of the clock u (`LinearSDE.log_spread`) grows with the bend d^2 f / du^2 of
the slope f of the whitened state, and with that of the divergence g. What a bend of f does to log p is its product with the
score: where the data is thin, the score is steep and a small bend counts. Nodes are equally spaced in the integral of

    m(u) = ( mean_ij (p_ij d^2 f_ij / du^2)^2 + mean_i (d^2 g_i / du^2 / D)^2 )^(1/4),   smoothed, plus a share of its mean

with examples i, the D coordinates j, and p = R^T score, which is about 1 for Gaussian data (equal local errors would have
the exponent 1/6; `benchmarks/likelihood.py grids` compares).

The Gaussian whose flow is taken out has the examples' mean and spread: data far from 0 would otherwise bend f by its distance.

and the probes of a node go in proportion to the standard deviation of one probe there times the node's weight (Neyman's
allocation). `standard_grid` is the choice where nothing is known of the model: safe, with more nodes.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_number
from scoresde.sde import LinearSDE
from scoresde.solvers.density import check_shares, cumulative, smooth


@dataclass(frozen=True)
class FlowGrid:
    """A density of nodes over the clock u, from t_min to T.

    t_min: where the flow starts. u: (K,) rising. share: (K,) rising from 0 to 1, the part of the nodes below u.
    spread: (K,) standard deviation of one probe's estimate of the divergence per du; empty where it is not known.
    data_std: of the data about ``centre``: the width of the Gaussian whose flow is taken out.
    centre: mean of that Gaussian: a number for each coordinate of the event, or one for all; empty for zero.
    """

    t_min: float
    u: tuple[float, ...]
    share: tuple[float, ...]
    spread: tuple[float, ...]
    data_std: float
    centre: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_number("t_min", self.t_min, least=0.0)
        check_number("data_std", self.data_std, above=0.0)
        check_shares(self.u, self.share)
        if len(self.spread) not in (0, len(self.u)):
            raise ValueError(f"spread has {len(self.spread)} numbers: give {len(self.u)}, one for each of u, or none")
        for value in self.spread:
            check_number("spread", value, least=0.0)
        for value in self.centre:
            check_number("centre", value)

    def origin(self, event: Tensor) -> Tensor:
        """``centre`` in the shape, dtype and device of an event (1, *event). Raises ValueError where it does not fit."""
        if len(self.centre) not in (0, 1, event.numel()):
            raise ValueError(
                f"the grid's centre has {len(self.centre)} numbers, the event {event.numel()} coordinates: make a grid for "
                "this data"
            )
        values = torch.tensor(self.centre or (0.0,), dtype=event.dtype, device=event.device)
        return values.expand(event.numel()).reshape(event.shape)

    @property
    def summary(self) -> str:
        """How the grid was made and its ends, in a few words."""
        known = "pilot" if self.spread else "standard"
        return f"FlowGrid({known}, t_min={self.t_min:g}, data_std={self.data_std:.3g})"

    def check_fits(self, sde: LinearSDE, t_min: float) -> None:
        """Raise ValueError unless the grid runs from ``t_min`` to the end of the clock of ``sde``."""
        if self.t_min != t_min:
            raise ValueError(f"t_min={t_min!r} is not the grid's {self.t_min!r}: give that, or make another grid")
        ends = sde.log_spread(torch.tensor([t_min, sde.T], dtype=torch.float64)).tolist()
        if not np.allclose(ends, (self.u[0], self.u[-1]), rtol=0.0, atol=1e-6):
            raise ValueError(
                f"the grid runs from u={self.u[0]:.6g} to {self.u[-1]:.6g}, the clock of {sde!r} from {ends[0]:.6g} to "
                f"{ends[1]:.6g}: make a grid for this process"
            )

    def nodes(self, count: int) -> Tensor:
        """(count,) values of u, rising, ends included, float64."""
        return torch.from_numpy(np.interp(np.linspace(0.0, 1.0, count), self.share, self.u))

    def allotment(self, u: Tensor, weights: Tensor, probes: int) -> list[int]:
        """Probes for each node, ``probes`` in the mean and at least one."""
        if not self.spread:
            return [probes] * len(u)
        wanted = torch.from_numpy(np.interp(u.numpy(), self.u, self.spread)) * weights.abs()
        return allot(wanted, probes)

    def to_json(self) -> str:
        """The grid as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> FlowGrid:
        """The grid from its text. Raises ValueError where it is none."""
        try:
            fields: dict[str, Any] = json.loads(text)
            lists = {name: tuple(fields.pop(name)) for name in ("u", "share", "spread")}
            lists["centre"] = tuple(fields.pop("centre", ()))
            return cls(t_min=fields["t_min"], data_std=fields["data_std"], **lists)
        except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as problem:
            raise ValueError(f"this is not the text of a FlowGrid: {problem}") from problem


def allot(wanted: Tensor, mean: int) -> list[int]:
    """Whole numbers >= 1 with the given mean, as near to proportional to ``wanted`` (n,) >= 0 as that allows."""
    n, left = len(wanted), mean * len(wanted)
    if not bool((wanted > 0).any()):
        return [mean] * n
    wanted = wanted / wanted.max()
    fixed = torch.zeros(n, dtype=torch.bool)
    while True:  # those that would get less than one get one, and the rest share what is left
        part = torch.where(fixed, 1.0, wanted / wanted[~fixed].sum() * (left - int(fixed.sum())))
        small = (part < 1.0) & ~fixed
        if not bool(small.any()) or bool((fixed | small).all()):
            break
        fixed |= small
    whole = part.floor().clamp(min=1.0)
    rest = left - int(whole.sum())
    if rest > 0:
        whole[(part - whole).argsort(descending=True)[:rest]] += 1.0
    return [int(v) for v in whole.tolist()]


@checked_arguments
def standard_grid(sde: LinearSDE, t_min: float, data_std: float = 0.5, centre: tuple[float, ...] = ()) -> FlowGrid:
    """Nodes for data with structure between 1/1000 and 1 wide, in units of twice its standard deviation.

    Args:
        sde: the process.
        t_min: where the flow starts.
        data_std: standard deviation of the data about ``centre``.
        centre: mean of the data: a number for each coordinate, or one for all; empty for zero.

    Raises:
        ValueError: the process has no noise at ``t_min``.
    """
    check_number("t_min", t_min, least=0.0, below=sde.T)
    check_number("data_std", data_std, above=0.0)
    first, last = sde.log_spread(torch.tensor([t_min, sde.T], dtype=torch.float64)).tolist()
    if not math.isfinite(first):
        raise ValueError(
            f"t_min={t_min!r} is not allowed: {sde!r} has no noise there, and its clock no beginning; give a later one"
        )
    u = torch.linspace(first, last, 401, dtype=torch.float64)
    s = u.exp() / (2.0 * data_std)
    density = (1.0 + s).rsqrt() * (1.0 + 1e-3 / s) ** -0.25
    return FlowGrid(t_min, tuple(u.tolist()), tuple(cumulative(u, density).tolist()), (), data_std, centre)


def grid_from(
    t_min: float,
    u: Tensor,
    bend: Tensor,
    spread: Tensor,
    data_std: float,
    floor: float,
    centre: tuple[float, ...] = (),
) -> FlowGrid:
    """The grid of a pilot that saw ``bend`` (K - 2,), the mean square of d^2 f / du^2, inside a fine uniform u (K,).

    spread: (K,) standard deviation of one probe. floor: added share of the mean.
    """
    density = bend**0.25
    density = torch.cat((density[:1], density, density[-1:]))
    density = smooth(density, len(u) // 20)
    share = floor * density.mean().clamp(min=1e-12)  # a score that is a Gaussian's own has no bend at all
    shares = cumulative(u, density + share)
    # a number that float32 does not hold is no spread: its size counts for nothing
    known = tuple(max(value, 1e-30) if value > 0.0 else 0.0 for value in smooth(spread, len(u) // 20).tolist())
    return FlowGrid(t_min, tuple(u.tolist()), tuple(shares.tolist()), known, data_std, centre)


def mean_and_spread(x: Tensor) -> tuple[tuple[float, ...], float]:
    """Centre and standard deviation of data for a grid.

    Args:
        x: examples, (B, *event).

    Returns:
        The mean of each coordinate, or one for all where there are fewer than 8 examples, and the root mean square about it.
    """
    flat = x.detach().double().flatten(1) if x.ndim > 1 else x.detach().double()[:, None]
    few = len(flat) < 8
    mean = flat.mean().expand(1) if few else flat.mean(0)
    freedom = flat.numel() - 1 if few else (len(flat) - 1) * flat.shape[1]
    spread = float(((flat - mean).square().sum() / max(1, freedom)).sqrt())
    if spread <= 1e-12 * float(flat.abs().max()):  # examples that do not differ
        spread = float(flat.square().mean().sqrt()) or 1.0
    return tuple(mean.tolist()), spread
