r"""A time grid for one model: the steps of a second-order multistep method have equal errors on a pilot batch.

Over u (the log spread) let f be the prediction of ``Whitened``. A second-order method leaves out its second derivative.
The nodes are equally spaced in the integral of

.. math:: m(u) = \left( \mathrm{rms}\, \frac{d^2 f}{du^2} \right)^{1/3}

with the root mean square over samples and coordinates. m is smoothed, and ``floor`` times its mean is added. This
limits the ratio of successive steps, and allows for features that the pilot batch does not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_count, check_counts, check_number
from scoresde.samplers.exponential.coefficients import Evaluation, evaluations, linear_process
from scoresde.samplers.exponential.multistep import ExponentialMultistep
from scoresde.samplers.exponential.parameterization import Whitened
from scoresde.samplers.fitted.fingerprint import check_fingerprint, fingerprint
from scoresde.samplers.grids import check_t_min
from scoresde.sde import LinearSDE, Score
from scoresde.sde.scores import HALF, CheckedScore, in_evaluation_mode
from scoresde.solvers.density import check_shares, cumulative, smooth


@dataclass(frozen=True)
class AdaptiveGrid:
    """A grid function with a fitted density of nodes, for example ``UniPC(12, grid=grid)``. :func:`adaptive_grid` returns it.

    Args:
        t_min: Time at which the grid ends.
        u: (K,), ascending log spreads.
        share: (K,), ascending from 0 to 1: the share of the steps below u.
        process: ``repr`` of the process of the grid.
        event_shape: Shape of the events.
        fingerprint: The process's ``fingerprint``. The grid raises a ValueError for another process.
    """

    begins_at_end: ClassVar[bool] = True  # see ``Discretization.start_time``

    t_min: float
    u: tuple[float, ...] = field(repr=False)
    share: tuple[float, ...] = field(repr=False)
    process: str
    event_shape: tuple[int, ...] = field(repr=False)
    fingerprint: tuple[float, ...] = field(repr=False)

    def __post_init__(self) -> None:
        check_number("t_min", self.t_min, above=0.0)
        check_shares(self.u, self.share)
        check_counts("event_shape", self.event_shape)
        if not self.fingerprint:
            raise ValueError("fingerprint=() is not allowed: give the numbers of the process")

    def __call__(self, sde: LinearSDE, steps: int) -> Tensor:
        """The times of a number of steps.

        Args:
            sde: The process.
            steps: Number of steps.

        Returns:
            (steps + 1,) descending times from T to t_min, float64.

        Raises:
            ValueError: If the process is not that of the grid.
        """
        check_count("steps", steps)
        process = sde.continuous
        check_fingerprint(process, self.event_shape, self.fingerprint, f"this grid was made for, {self.process}")
        return _times(process, self.t_min, self.u, self.share, steps)


def _times(sde: LinearSDE, t_min: float, u: Sequence[float], share: Sequence[float], steps: int) -> Tensor:
    """(steps + 1,) descending times from T to t_min, for the shares of the steps below u."""
    times = sde.time_of_log_spread(torch.from_numpy(np.interp(np.linspace(1.0, 0.0, steps + 1), share, u)))
    times[0], times[-1] = sde.T, t_min
    return times


@checked_arguments
@torch.no_grad()
@in_evaluation_mode("score")
def adaptive_grid(
    sde: LinearSDE,
    score: Score,
    shape: Sequence[int],
    *,
    t_min: float = 1e-3,
    fine: int = 200,
    floor: float = 0.15,
    data_std: float = 0.5,
    seed: int = 0,
    start: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> AdaptiveGrid:
    """Adapt a time grid to a model, from a pilot batch. This takes ``fine`` evaluations of the score.

    Args:
        sde: Process of the score.
        score: (x, t) -> score.
        shape: (B, *event). A batch of 32 to 96 samples is enough.
        t_min: Time at which sampling stops.
        fine: Number of steps of the pilot, at least 40.
        floor: Part of the mean density that is added, > 0.
        data_std: Standard deviation of the data about zero.
        seed: Seed of the start.
        start: (B, *state), the start at T. None: a sample of the prior.
        dtype: Dtype of the start, if ``start`` is None.
        device: Device of the start, if ``start`` is None.

    Returns:
        The grid.

    Raises:
        TypeError: If the process is not linear.
        ValueError: If an argument is out of range.
    """
    check_count("fine", fine, least=40)
    check_t_min(sde, t_min, above=0.0)
    check_number("floor", floor, above=0.0)
    kind = dtype if start is None else start.dtype
    if kind in HALF:
        score, dtype = CheckedScore(score, dtype=kind), torch.float32
        start = None if start is None else start.float()
    parameterization = Whitened(data_std=data_std)
    process = linear_process(sde, "adaptive_grid")
    ends = process.log_spread(torch.tensor([t_min, process.T], dtype=torch.float64)).tolist()
    sampler = ExponentialMultistep(_times(process, t_min, ends, (0.0, 1.0), fine), 2, parameterization, corrector=True)
    slopes: list[Tensor] = []
    places: list[Evaluation] = []

    def watched(x: Tensor, t: Tensor) -> Tensor:
        value = score(x, t)
        if not places:
            places.extend(evaluations(process, parameterization, sampler.discretization.times(process), x))
        place = places[len(slopes)]
        y = x if place.center is None else x - place.center
        slopes.append(place(lambda *_: value, y).to(torch.float64))
        return value

    sampler(sde, watched, shape, seed=seed, start=start, dtype=dtype, device=device)
    f = torch.stack(slopes).flatten(1)
    bend = (f[2:] - 2.0 * f[1:-1] + f[:-2]).square().mean(1).sqrt().flip(0).cpu()
    density = smooth(bend ** (1.0 / 3.0), fine // 20)
    density = torch.cat((density[:1], density, density[-1:]))
    u = torch.linspace(ends[0], ends[1], fine + 1, dtype=torch.float64)
    share = cumulative(u, density + floor * density.mean())
    event = tuple(shape[1:])
    return AdaptiveGrid(
        t_min, tuple(u.tolist()), tuple(share.tolist()), repr(process), event, tuple(fingerprint(process, event))
    )
