r"""Time grids with the smallest sum of costs, by dynamic programming.

Let t_0 < t_1 < ... < t_(M-1) be instants, and L(s, t) the cost of a step from t down to s < t. A grid of k steps is a path
from the last instant to the first. Its cost is the sum of the costs of its steps. With C[0, t_0] = 0 and all other C[0, t]
infinite::

    C[k, t] = min over s < t of C[k-1, s] + L(s, t)

C[k, t_(M-1)] is the smallest cost of k steps. The instants s that attain the minima, followed from t_(M-1), are the best grid.
One pass gives the best grids of 1, ..., K steps in K M^2 operations.

A path can also end in the data instead of t_0. The last step then has the cost D(t), and C[1, t] = D(t).

Of several instants with the same sum, the earliest is used, so that the result is the same on every machine.

References:
    Watson, Ho, Norouzi, Chan 2021, "Learning to efficiently sample from diffusion probabilistic models", arXiv:2106.03802.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_count, shown
from scoresde.score.denoising import ascending_times


@dataclass(frozen=True)
class OptimalGrids:
    """The best grids of 1, ..., K steps.

    Attributes:
        grids: K tensors of descending times, float64. A grid of k steps has k + 1 times, or k times if its last step ends in
            the data. It is empty if no path of k steps is permitted.
        totals: Costs of the grids, (K,) float64. Infinite if no path of k steps is permitted.
    """

    grids: tuple[Tensor, ...]
    totals: Tensor

    def grid(self, steps: int) -> Tensor:
        """The best grid of a number of steps.

        Args:
            steps: Number of steps k, at most K.

        Returns:
            Descending times, float64: k + 1 of them, or k if the last step ends in the data. A sampler takes them as
            its ``steps``, if there are at least two.

        Raises:
            ValueError: There is no grid of so many steps.
        """
        check_count("steps", steps)
        if steps > len(self.grids):
            raise ValueError(f"steps={steps} is not allowed: the grids have 1 to {len(self.grids)} steps")
        if math.isinf(float(self.totals[steps - 1])):
            raise ValueError(f"steps={steps} is not allowed: every path of {steps} steps has an infinite cost")
        return self.grids[steps - 1]

    def __repr__(self) -> str:
        return f"OptimalGrids(1 to {len(self.grids)} steps, totals from {self.totals[0]:.6g} to {self.totals[-1]:.6g})"


Costs = Tensor | Callable[[Tensor, Tensor], Tensor]
"""A table (M, M), or a function of the times (s, t), each of shape (P,), that returns (P,)."""


@checked_arguments
def optimal_grids(times: Tensor, costs: Costs, steps: int, *, decoder: Tensor | None = None) -> OptimalGrids:
    """Find the grids of 1, ..., K steps with the smallest sum of costs.

    Args:
        times: Instants that a grid can use, ascending, (M,). Every grid begins at the last.
        costs: Costs L(s, t): ``costs[j, i]`` is that of the step from ``times[j]`` down to ``times[i]``, for i < j. Infinity
            means that the step is not permitted. Entries with i >= j are not read. A function of the times s and t,
            each of shape (P,) with s < t, can be given instead of the table.
        steps: Largest number of steps K, at most M - 1, or M with ``decoder``.
        decoder: Costs D(t) of the last step, from each instant to the data, (M,). If it is None, every grid ends at the
            first instant.

    Returns:
        The best grids and their costs.

    Raises:
        ValueError: A cost is NaN or minus infinity, or another argument is not allowed.

    References:
        Watson et al. 2021, arXiv:2106.03802.

    Example:
        >>> import torch
        >>> times = torch.linspace(0.0, 1.0, 5, dtype=torch.float64)
        >>> optimal_grids(times, lambda s, t: (t**2 - s**2) ** 2, 2).grid(2)
        tensor([1.0000, 0.7500, 0.0000], dtype=torch.float64)
    """
    times = ascending_times("times", times)
    table, last = _table(times, costs), _decoder(times, decoder)
    check_count("steps", steps)
    most = len(times) - (last is None)
    if steps > most:
        raise ValueError(f"steps={steps} is not allowed: {len(times)} instants have grids of at most {most} steps")
    best, before = _start(len(times), last), []
    totals, paths = [], []
    for k in range(steps):
        if k > 0 or last is None:
            sums = table + best
            before.append(sums.argmin(axis=1))
            best = np.take_along_axis(sums, before[-1][:, None], axis=1)[:, 0]
        totals.append(float(best[-1]))
        paths.append(_path(before, len(times) - 1) if math.isfinite(totals[-1]) else [])
    grids = tuple(times[torch.tensor(path, dtype=torch.long)] for path in paths)
    return OptimalGrids(grids, torch.tensor(totals, dtype=torch.float64))


@checked_arguments
def grid_cost(times: Tensor, costs: Costs, grid: Tensor, *, decoder: Tensor | None = None) -> float:
    """The sum of the costs of a grid.

    Args:
        times: The instants of the table, ascending, (M,).
        costs: As for :func:`optimal_grids`.
        grid: Descending times of the grid, each of them one of ``times``, (N + 1,).
        decoder: Cost of the last step, from each instant to the data, (M,), which is added at the last time.

    Returns:
        The sum.

    Raises:
        ValueError: A time of the grid is not among ``times``, or the times do not descend.

    Example:
        >>> import torch
        >>> times = torch.linspace(0.0, 1.0, 5, dtype=torch.float64)
        >>> grid_cost(times, lambda s, t: (t**2 - s**2) ** 2, torch.tensor([1.0, 0.5, 0.0]))
        0.625
    """
    times = ascending_times("times", times)
    table, last = _table(times, costs), _decoder(times, decoder)
    wanted = _ascending(grid)
    distance, index = (wanted[:, None] - times).abs().min(1)
    if float(distance.max()) > 1e-6 * float(times.abs().max()):
        outside = float(wanted[distance.argmax()])
        raise ValueError(f"grid has the time {outside:g}, which is not one of times: give times of the table")
    cost = sum(float(table[t, s]) for s, t in zip(index[:-1].tolist(), index[1:].tolist(), strict=True))
    return cost if last is None else cost + float(last[index[0]])


def _ascending(grid: Tensor) -> Tensor:
    """The times of a grid in ascending order."""
    times = grid.detach().to("cpu", torch.float64)
    if times.ndim != 1 or len(times) < 1:
        raise ValueError(f"grid has shape {tuple(times.shape)}: give (N + 1,), one or more times")
    if not bool(times.isfinite().all()) or bool((times.diff() >= 0).any()):
        raise ValueError(f"grid={shown(times)} is not allowed: give finite times that descend, each once")
    return times.flip(0)


def _start(count: int, last: np.ndarray | None) -> np.ndarray:
    """C[1, t] = D(t), or C[0, t]."""
    if last is not None:
        return last
    start = np.full(count, np.inf)
    start[0] = 0.0
    return start


def _path(before: list[np.ndarray], end: int) -> list[int]:
    """The instants of the best path that ends at ``end``, from there back to its beginning."""
    path = [end]
    for row in reversed(before):
        path.append(int(row[path[-1]]))
    return path


def _table(times: Tensor, costs: Costs) -> np.ndarray:
    """The costs (M, M), with infinity where i >= j."""
    count = len(times)
    later, earlier = torch.tril_indices(count, count, offset=-1)
    if isinstance(costs, Tensor):
        if costs.shape != (count, count):
            raise ValueError(
                f"costs has shape {tuple(costs.shape)}: give ({count}, {count}), one row for each of times"
            )
        values = costs.detach().to("cpu", torch.float64)[later, earlier]
    else:
        values = torch.as_tensor(costs(times[earlier], times[later])).detach().to("cpu", torch.float64)
        if values.shape != later.shape:
            raise ValueError(f"costs returned shape {tuple(values.shape)}: it must return {tuple(later.shape)}")
    _check_costs("costs", values)
    table = np.full((count, count), np.inf)
    table[later.numpy(), earlier.numpy()] = values.numpy()
    return table


def _decoder(times: Tensor, decoder: Tensor | None) -> np.ndarray | None:
    if decoder is None:
        return None
    if decoder.shape != times.shape:
        raise ValueError(f"decoder has shape {tuple(decoder.shape)}: give {tuple(times.shape)}, one cost per time")
    values = decoder.detach().to("cpu", torch.float64)
    _check_costs("decoder", values)
    found: np.ndarray = values.numpy()
    return found


def _check_costs(name: str, values: Tensor) -> None:
    bad = values.isnan() | (values == -math.inf)
    if bool(bad.any()):
        raise ValueError(
            f"{name} holds {shown(float(values[bad][0]))} in {int(bad.sum())} places: give numbers, or inf for a step that is "
            "not permitted"
        )
