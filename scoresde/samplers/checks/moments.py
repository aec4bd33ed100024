r"""The distribution of a sampler's output for Gaussian data, exact to rounding, from a single run on prepared noise.

For data N(m, P_0) the score is affine in x. The output of a sampler is then an affine function of its start and of the
noise,

.. math:: x_{out} = b + C w_T + \sum_k N_k z_k, \qquad x_T = m_T + V_T^{1/2} w_T,

with standard normal w_T and z_k. The noise source ``UnitNoise`` gives each row of a batch a unit vector for one of these
variables and zeros for all others. The rows of the output are then the columns of C and N_k. A last row has all
variables at once: it shows whether the map is affine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import expand
from scoresde.noise import NoiseSource
from scoresde.samplers.base import Sampler, SampleResult
from scoresde.sde import LinearSDE, ScalarSDE, Score
from scoresde.sde.checks import DenseProcess


@dataclass(frozen=True)
class Case:
    """The sampler to check, the process, and the settings of the checks: the arguments of ``check``."""

    make_sampler: Callable[[int], Sampler]
    sde: LinearSDE
    event_shape: tuple[int, ...]
    counts: tuple[int, ...]
    order: float | None
    t_min: float | None
    denoised: bool | None
    allowance: float
    samples: int
    seed: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "gauss", DenseProcess(self.sde, self.event_shape))

    gauss: DenseProcess = None  # type: ignore[assignment]

    def scale(self) -> Tensor:
        """Largest standard deviation of the data over the coordinates."""
        return self.gauss.marginal(self.gauss.t0)[1].diagonal().max().sqrt()


class GaussianScore:
    """The exact score and energy of N(m, P_0) for events of one shape. They record the times of their evaluations."""

    def __init__(self, sde: LinearSDE, event_shape: tuple[int, ...]) -> None:
        self.sde, self.times = sde, list[float]()
        size = math.prod(event_shape)
        self.mean = torch.linspace(0.2, 0.6, size, dtype=torch.float64).reshape(event_shape)
        self.variance = torch.linspace(0.3, 0.9, size, dtype=torch.float64).reshape(event_shape)
        self.dense = None if isinstance(sde, ScalarSDE) else DenseProcess(sde, event_shape)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.times += [float(t.min()), float(t.max())]
        times = t.to(torch.float64)
        if self.dense is None:
            assert isinstance(self.sde, ScalarSDE)
            a, v = expand(self.sde.alpha(times), x), expand(self.sde.sigma(times), x) ** 2
            return ((a * self.mean - x) / (a**2 * self.variance + v)).to(x.dtype)
        score = torch.empty_like(x, dtype=torch.float64)
        for time in times.unique():
            here = times == time
            score[here] = self.dense.score(x[here].to(torch.float64), float(time))
        return score.to(x.dtype)

    def score_and_variance(self, x: Tensor, t: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """The score and the variance of each coordinate of x_0 given x_t, for a process with scalar coefficients."""
        assert isinstance(self.sde, ScalarSDE)
        times = t.to(torch.float64)
        a, v = expand(self.sde.alpha(times), x), expand(self.sde.sigma(times), x) ** 2
        return self(x, t), (self.variance * v / (a**2 * self.variance + v)).to(x.dtype)

    def energy(self, x: Tensor, t: Tensor) -> Tensor:
        """-log p_t(x) up to a constant for each t, (B,), with one call of the score."""
        data = self.mean.to(x.device).expand(len(x), *self.mean.shape)
        mean = self.sde.kernel(t.to(torch.float64)).mean(self.sde.embed_data(data))
        return -0.5 * ((x - mean.to(x.dtype)) * self(x, t)).reshape(len(x), -1).sum(1)


class UnitNoise(NoiseSource):
    """Unit vectors as noise: row ``first + j`` of the batch has a one for the j-th number and zeros for all other numbers.

    The last row has fixed normal numbers. A draw is identified by (purpose, step, shape). The first run, with one row,
    records the draws. ``others`` counts the draws that a linear map cannot describe: those that are not normal, and
    those that the first run did not make.
    """

    def __init__(self, rows: int, first: int, draws: dict[tuple[str, int, tuple[int, ...]], int]) -> None:
        super().__init__(0, torch.arange(rows))
        for name, value in {"draws": draws, "first": first, "others": [0], "recording": rows == 1}.items():
            object.__setattr__(self, name, value)

    draws: dict[tuple[str, int, tuple[int, ...]], int]
    first: int
    others: list[int]
    recording: bool

    def normal(self, event_shape: Sequence[int], *, step: int, purpose: str, dtype: torch.dtype) -> Tensor:
        key, size = (purpose, step, tuple(event_shape)), math.prod(event_shape)
        if self.recording and key not in self.draws:
            self.draws[key] = self.used()
        value = torch.zeros(len(self.indices), size, dtype=dtype)
        if key not in self.draws:
            self.others[0] += 1  # a draw that depends on the state
        elif not self.recording:
            row = self.first + self.draws[key]
            value[row : row + size] = torch.eye(size, dtype=dtype)
            value[-1] = self.probe()[self.draws[key] :][:size].to(dtype)
        return value.reshape(len(self.indices), *event_shape)

    def _uniforms(self, size: int, step: int, purpose: str) -> Tensor:
        self.others[0] += 1
        return super()._uniforms(size, step, purpose)

    def used(self) -> int:
        """Total number of normal numbers in all draws."""
        return sum(math.prod(shape) for _, _, shape in self.draws)

    def probe(self) -> Tensor:
        """The numbers of the last row."""
        return _normals(self.used(), "probe of the draws")


def _normals(count: int, purpose: str) -> Tensor:
    return NoiseSource.of(0, 1).normal((count,), step=0, purpose=purpose, dtype=torch.float64)[0]


@dataclass(frozen=True)
class OutputDistribution:
    """Mean and covariance of a sampler's output for Gaussian data.

    Attributes:
        mean: (D,).
        covariance: (D, D).
        bend: Deviation of the map from an affine one, in standard deviations.
        last: Largest coefficient of the last draw.
        t_min: Time at which the sampler stopped.
        lowest: Lowest time at which the score was evaluated.
        nfe: Number of evaluations of the score.
    """

    mean: Tensor
    covariance: Tensor
    bend: float
    last: float
    t_min: float
    lowest: float
    nfe: int


def exact_distribution(s: Case, steps: int) -> OutputDistribution:
    """The distribution of the output with ``steps`` steps, from a run on ``UnitNoise``."""
    n, shape = s.gauss.size, s.gauss.shape
    start_mean, start_covariance = s.gauss.marginal(s.sde.T)
    root = torch.linalg.cholesky(start_covariance)
    draws: dict[tuple[str, int, tuple[int, ...]], int] = {}
    score = GaussianScore(s.sde, s.event_shape)
    dry = UnitNoise(1, 0, draws)
    run(s, steps, score, 1, noise=dry, start=start_mean.reshape(1, *shape))
    rows = 1 + n + dry.used() + 1
    source = UnitNoise(rows, 1 + n, draws)
    probe = _normals(n, "probe of the start")
    start = start_mean.repeat(rows, 1)
    start[1 : 1 + n] += root.mT
    start[-1] += root @ probe
    result = run(s, steps, score, rows, noise=source, start=start.reshape(rows, *shape))
    out = result.state.to(torch.float64).reshape(rows, n)
    columns = out[1:-1] - out[0]
    wanted = out[0] + torch.cat((probe, source.probe())) @ columns
    covariance = columns.mT @ columns
    bend = math.inf if source.others[0] + dry.others[0] else float((out[-1] - wanted).abs().max() / s.scale())
    last = 0.0
    if draws:
        at = 1 + n + max(draws.values())
        last = float((out[at:-1] - out[0]).abs().max())
    times = [float(t) for t in result.times]
    stop = s.t_min if s.t_min is not None else getattr(s.make_sampler(steps), "t_min", None)
    if s.t_min is None and times:
        stop = times[-1]
    t_min = min(score.times) if stop is None else float(stop)
    return OutputDistribution(out[0], covariance, bend, last, t_min, min(score.times), result.nfe)


def run(s: Case, steps: int, score: Score, rows: int, **kwargs: Any) -> SampleResult:
    """``rows`` samples of the sampler with ``steps`` steps, in float64 by default."""
    kwargs.setdefault("dtype", torch.float64)
    return s.make_sampler(steps)(s.sde, score, (rows, *s.event_shape), **kwargs)


def targets(s: Case, t: float) -> list[tuple[Tensor, Tensor]]:
    """Exact distributions (mean, covariance) of x_t and of E[x_0 | x_t]."""
    mean, covariance = s.gauss.marginal(t)
    unit, ones = s.gauss.unit, torch.full((s.gauss.size,), t, dtype=torch.float64)
    score = GaussianScore(s.sde, s.event_shape)

    def tweedie(x: Tensor) -> Tensor:
        return s.sde.data_from_score(x, ones[: len(x)], score(x, ones[: len(x)])).reshape(len(x), -1)

    found = [(mean, covariance)]
    if t > 0:
        at = mean.reshape(1, *s.gauss.shape)
        middle = tweedie(at)[0]
        slope = (tweedie(at + unit) - middle).mT
        found.append((middle, slope @ covariance @ slope.mT))
    return found


def distance(mean: Tensor, covariance: Tensor, target: tuple[Tensor, Tensor]) -> float:
    """Error of a distribution relative to the right one.

    Args:
        mean: (D,).
        covariance: (D, D).
        target: Mean and covariance of the right distribution.

    Returns:
        The error of the mean in standard deviations plus the relative error of the covariance, each the largest entry.
    """
    root = torch.linalg.cholesky(target[1] + 1e-12 * target[1].diagonal().max() * torch.eye(len(mean)))
    off = torch.linalg.solve_triangular(root, (mean - target[0])[:, None], upper=False)
    half = torch.linalg.solve_triangular(root, covariance, upper=False)
    white = torch.linalg.solve_triangular(root, half.mT, upper=False)
    return float(off.abs().max() + (white - torch.eye(len(mean))).abs().max())
