"""Density of the nodes and probes of a fixed-grid solver, fitted once to a model from a few examples.

Over an interval of the clock u (``LinearSDE.log_spread``), the error of a multistep method grows with the second derivative
d^2 f / du^2 of the slope f of the whitened state and with that of the divergence g. The effect of f'' on log p is its
product with the score. Where the data is thin the score is large, and even a small f'' matters. The nodes have equal
distances in the integral of ::

    m(u) = ( mean_ij (p_ij d^2 f_ij / du^2)^2 + mean_i (d^2 g_i / du^2 / D)^2 )^(1/4),   smoothed, plus a fraction of its
    mean

with examples i, the D coordinates j, and p = R^T score, which is about 1 for Gaussian data. Equal local errors would require
the exponent 1/6; ``benchmarks/likelihood.py grids`` compares exponents.

The flow of a Gaussian with the examples' mean and spread is taken out of the state. Without the mean, the distance of the
data from 0 would add curvature to f.

The number of probes at a node is proportional to the standard deviation of one probe there times the weight of the node
(Neyman allocation). ``standard_grid`` is the choice without a model: it is safe and needs more nodes.
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

_PURE_NOISE = 1e3
"""Noise, in units of twice the data's standard deviation, above which the density of ``standard_grid`` is constant. A smaller
density leaves one long interval before a late T, and the interpolation of the slopes fails there."""


@dataclass(frozen=True)
class FlowGrid:
    """A density of nodes over the clock u, from t_min to T.

    Args:
        t_min: Start of the flow.
        u: Values of the clock, (K,), increasing.
        share: The fraction of the nodes below each u, (K,), increasing from 0 to 1.
        spread: Standard deviation of one probe's estimate of the divergence per du, (K,); empty if unknown.
        data_std: Standard deviation of the data about ``center``: the width of the Gaussian whose flow is taken out.
        center: Mean of that Gaussian: one number for each coordinate of the event, or one for all; empty for zero.
    """

    t_min: float
    u: tuple[float, ...]
    share: tuple[float, ...]
    spread: tuple[float, ...]
    data_std: float
    center: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_number("t_min", self.t_min, least=0.0)
        check_number("data_std", self.data_std, above=0.0)
        check_shares(self.u, self.share)
        if len(self.spread) not in (0, len(self.u)):
            raise ValueError(f"spread has {len(self.spread)} numbers: give {len(self.u)}, one for each of u, or none")
        for value in self.spread:
            check_number("spread", value, least=0.0)
        for value in self.center:
            check_number("center", value)

    def origin(self, event: Tensor) -> Tensor:
        """Returns ``center`` as a tensor for an event.

        Args:
            event: An event (1, *event), which gives the shape, dtype and device.

        Returns:
            The center, with the shape of ``event``.

        Raises:
            ValueError: The number of values does not fit the event.
        """
        if len(self.center) not in (0, 1, event.numel()):
            raise ValueError(
                f"the grid's center has {len(self.center)} numbers, but the event has {event.numel()} coordinates: make a "
                "grid for this data"
            )
        values = torch.tensor(self.center or (0.0,), dtype=event.dtype, device=event.device)
        return values.expand(event.numel()).reshape(event.shape)

    @property
    def summary(self) -> str:
        """The origin of the grid and its ends, in a few words."""
        known = "pilot" if self.spread else "standard"
        return f"FlowGrid({known}, t_min={self.t_min:g}, data_std={self.data_std:.3g})"

    def check_fits(self, sde: LinearSDE, t_min: float) -> None:
        """Checks that the grid runs from ``t_min`` to the end of the clock of ``sde``.

        Args:
            sde: The process.
            t_min: Start of the flow.

        Raises:
            ValueError: The grid was made for another process or another ``t_min``.
        """
        if self.t_min != t_min:
            raise ValueError(
                f"t_min={t_min!r} differs from the grid's t_min={self.t_min!r}: give that value, or make another grid"
            )
        ends = sde.log_spread(torch.tensor([t_min, sde.T], dtype=torch.float64)).tolist()
        if not np.allclose(ends, (self.u[0], self.u[-1]), rtol=0.0, atol=1e-6):
            raise ValueError(
                f"the grid runs from u={self.u[0]:.6g} to {self.u[-1]:.6g}, but the clock of {sde!r} runs from "
                f"{ends[0]:.6g} to {ends[1]:.6g}: make a grid for this process"
            )

    def nodes(self, count: int) -> Tensor:
        """Computes the nodes of a grid of ``count`` nodes.

        Args:
            count: Number of nodes.

        Returns:
            Values of u, (count,), increasing, including both ends, float64.
        """
        return torch.from_numpy(np.interp(np.linspace(0.0, 1.0, count), self.share, self.u))

    def probe_counts(self, u: Tensor, weights: Tensor, probes: int) -> list[int]:
        """Distributes the probes over the nodes.

        Args:
            u: The nodes, (n,).
            weights: Weights of the quadrature at the nodes, (n,).
            probes: Mean number of probes for each node.

        Returns:
            The number of probes for each node, at least one, with the mean ``probes``.
        """
        if not self.spread:
            return [probes] * len(u)
        wanted = torch.from_numpy(np.interp(u.numpy(), self.u, self.spread)) * weights.abs()
        return allocate(wanted, probes)

    def to_json(self) -> str:
        """The grid as JSON text.

        Returns:
            The text, which ``from_json`` reads.
        """
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> FlowGrid:
        """Reads a grid from its JSON text.

        Args:
            text: The text of ``to_json``.

        Returns:
            The grid.

        Raises:
            ValueError: The text is not that of a grid.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            lists = {name: tuple(fields.pop(name)) for name in ("u", "share", "spread")}
            lists["center"] = tuple(fields.pop("center", ()))
            return cls(t_min=fields["t_min"], data_std=fields["data_std"], **lists)
        except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as problem:
            raise ValueError(f"text does not describe a FlowGrid: {problem}") from problem


def allocate(wanted: Tensor, mean: int) -> list[int]:
    """Whole numbers >= 1 with the given mean, as close to proportional to ``wanted`` (n,) >= 0 as possible."""
    n, left = len(wanted), mean * len(wanted)
    if not bool((wanted > 0).any()):
        return [mean] * n
    wanted = wanted / wanted.max()
    fixed = torch.zeros(n, dtype=torch.bool)
    while True:  # nodes with less than one probe get one; the others share the remaining probes
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
def standard_grid(sde: LinearSDE, t_min: float, data_std: float = 0.5, center: tuple[float, ...] = ()) -> FlowGrid:
    """Grid for data with structure of widths between 1/1000 and 1, in units of twice its standard deviation.

    Args:
        sde: The process.
        t_min: Start of the flow.
        data_std: Standard deviation of the data about ``center``.
        center: Mean of the data: one number for each coordinate, or one for all; empty for zero.

    Returns:
        The grid, without a spread of the probes.

    Raises:
        ValueError: The process has no noise at ``t_min``.
    """
    check_number("t_min", t_min, least=0.0, below=sde.T)
    check_number("data_std", data_std, above=0.0)
    first, last = sde.log_spread(torch.tensor([t_min, sde.T], dtype=torch.float64)).tolist()
    if not math.isfinite(first):
        raise ValueError(
            f"t_min={t_min!r} is not allowed: {sde!r} has no noise there, and its clock starts at -infinity; give a later time"
        )
    u = torch.linspace(first, last, 401, dtype=torch.float64)
    s = u.exp() / (2.0 * data_std)
    density = (1.0 + s.clamp(max=_PURE_NOISE)).rsqrt() * (1.0 + 1e-3 / s) ** -0.25
    return FlowGrid(t_min, tuple(u.tolist()), tuple(cumulative(u, density).tolist()), (), data_std, center)


def grid_from(
    t_min: float,
    u: Tensor,
    bend: Tensor,
    spread: Tensor,
    data_std: float,
    floor: float,
    center: tuple[float, ...] = (),
) -> FlowGrid:
    """The grid of a pilot run.

    Args:
        t_min: Start of the flow.
        u: Nodes of the pilot run, (K,), uniform.
        bend: Mean square of d^2 f / du^2 at the inner nodes, (K - 2,).
        spread: Standard deviation of one probe, (K,).
        data_std: Standard deviation of the data about ``center``.
        floor: Added to the density, in units of its mean.
        center: Mean of the data.
    """
    density = bend**0.25
    density = torch.cat((density[:1], density, density[-1:]))
    density = smooth(density, len(u) // 20)
    share = floor * density.mean().clamp(min=1e-12)  # the score of a Gaussian has no curvature
    shares = cumulative(u, density + share)
    # a spread below the range of float32 has no meaning as a number, only that it is not 0
    known = tuple(max(value, 1e-30) if value > 0.0 else 0.0 for value in smooth(spread, len(u) // 20).tolist())
    return FlowGrid(t_min, tuple(u.tolist()), tuple(shares.tolist()), known, data_std, center)


def mean_and_spread(x: Tensor) -> tuple[tuple[float, ...], float]:
    """Center and standard deviation of data for a grid.

    Args:
        x: Examples, (B, *event).

    Returns:
        The mean of each coordinate, or one mean for all coordinates if there are fewer than 8 examples, and the root mean
        square deviation from it.
    """
    flat = x.detach().double().flatten(1) if x.ndim > 1 else x.detach().double()[:, None]
    few = len(flat) < 8
    mean = flat.mean().expand(1) if few else flat.mean(0)
    freedom = flat.numel() - 1 if few else (len(flat) - 1) * flat.shape[1]
    spread = float(((flat - mean).square().sum() / max(1, freedom)).sqrt())
    if spread <= 1e-12 * float(flat.abs().max()):  # examples that do not differ
        spread = float(flat.square().mean().sqrt()) or 1.0
    return tuple(mean.tolist()), spread
