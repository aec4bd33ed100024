"""Problems with known answers: scores and divergences in closed form, exact or with a smooth error of 3 %.

    gmm2      25 narrow modes on a grid             gmm16    10 random anisotropic Gaussians
    gmm64, gmm192, gmm768   12, 8 and 4 Gaussians with spectra like those of images, in almost the same basis
    digits    scikit-learn's 8 x 8 digits, each a Gaussian of width 0.1

New distributions for samplers, on which no default was chosen (``new_distribution``):

    rare      two modes and a distant mode of 0.2 %           thin      10 of 12 directions of width 0.001
    rare16    gmm16 with another mode of 0.2 %                shifted   two narrow modes near 10
    heavy     tails of Student's t, 2.5 degrees of freedom    ring      a circle of 48 narrow modes

Each one exists under VP, sub-VP and VE. ``Problem.exact_log_prob(x)`` is the reference for all likelihood solvers: the
probability flow by DOP853 at 1e-10, with the trace in closed form and without whitening.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from scoresde import VESDE, VPSDE, GaussianMixture, SubVPSDE
from scoresde.data import Digits
from scoresde.distributions import SmoothedEmpirical
from scoresde.likelihood.divergence import Divergence, Field, ProbeStream
from scoresde.noise import NoiseSource
from scoresde.sde import ScalarSDE

PROCESSES: dict[str, ScalarSDE] = {"VP": VPSDE(), "sub-VP": SubVPSDE(), "VE": VESDE(0.01, 50.0)}
NEW_DISTRIBUTIONS = ("rare", "rare16", "heavy", "thin", "shifted", "ring")
DISTRIBUTIONS = ("gmm2", "gmm16", "gmm64", "gmm192", "gmm768", "digits")
T_MIN = 1e-5
_FEATURES = 64


def _normal(shape: tuple[int, ...], purpose: str, seed: int = 0) -> Tensor:
    return NoiseSource.of(seed, shape[0]).normal(shape[1:], step=0, purpose=purpose, dtype=torch.float64)


def _orthogonal(d: int, near: Tensor, angle: float, purpose: str, seed: int) -> Tensor:
    """The orthogonal matrix ``near`` times a random rotation of size ``angle``."""
    skew = _normal((d, d), purpose, seed) * angle / math.sqrt(d)
    return near @ torch.linalg.matrix_exp(skew - skew.mT)


@lru_cache
def distribution(name: str) -> GaussianMixture:
    """The distribution of the data. All but the new distributions have mean zero."""
    if name in NEW_DISTRIBUTIONS:
        return new_distribution(name)
    if name == "digits":
        data = Digits().train
        x = torch.cat([data.encode(torch.arange(len(data)), seed=0)]).to(torch.float64)
        return SmoothedEmpirical(x - x.mean(0), 0.1)
    d = int(name.removeprefix("gmm"))
    if d == 2:
        axis = torch.linspace(-0.9, 0.9, 5, dtype=torch.float64)
        means = torch.cartesian_prod(axis, axis)
        weights = _normal((25,), "weights").abs() + 0.2
        return GaussianMixture(means - (weights[:, None] * means).sum(0) / weights.sum(), 0.03, weights)
    count = {16: 10, 64: 12, 192: 8, 768: 4}[d]
    weights = _normal((count,), "weights").abs() + 0.2
    base = torch.linalg.qr(_normal((d, d), "basis"))[0]
    if d == 16:
        stds = 0.02 * 15.0 ** torch.rand(count, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        means, angle = 0.5 * _normal((count, d), "means"), 3.0
    else:
        spectrum = 0.5 * (torch.arange(1, d + 1, dtype=torch.float64)) ** (-math.log(50.0) / math.log(d))
        stds = spectrum * (0.2 * _normal((count, d), "stds")).exp()
        means, angle = (1.0 * spectrum * _normal((count, d), "means")) @ base.mT, 0.1
    turns = torch.stack([_orthogonal(d, base, angle, "turn", k) for k in range(count)])
    covariances = torch.einsum("kij,kj,klj->kil", turns, stds**2, turns)
    means = means - (weights[:, None] * means).sum(0) / weights.sum()
    return GaussianMixture(means, covariances=0.5 * (covariances + covariances.mT), weights=weights)


def new_distribution(name: str) -> GaussianMixture:
    """One of the distributions on which no default was chosen."""
    if name == "rare":
        means = torch.tensor([[-0.8, 0.0], [0.8, 0.2], [0.5, 3.0]], dtype=torch.float64)
        return GaussianMixture(
            means, torch.tensor([0.1, 0.15, 0.05]).double(), torch.tensor([0.499, 0.499, 0.002]).double()
        )
    if name == "rare16":
        base, mean = distribution("gmm16"), 0.7 * _normal((1, 16), "rare")
        assert base.rotations is not None
        covariances = base.rotations @ (base.variances[:, :, None] * base.rotations.mT)
        covariances = torch.cat((covariances, 0.05**2 * torch.eye(16, dtype=torch.float64)[None]))
        weights = torch.cat((0.998 * base.weights, torch.tensor([0.002], dtype=torch.float64)))
        covariances = 0.5 * (covariances + covariances.mT)
        return GaussianMixture(torch.cat((base.means, mean)), covariances=covariances, weights=weights)
    if name == "heavy":
        octave = torch.arange(8, dtype=torch.float64)
        return GaussianMixture(torch.zeros(8, 4, dtype=torch.float64), 0.1 * 2.0**octave, 2.0 ** (-2.5 * octave))
    if name == "thin":
        stds = torch.full((3, 12), 1e-3, dtype=torch.float64)
        stds[:, :2] = 0.5
        return GaussianMixture(0.4 * _normal((3, 12), "thin"), stds)
    if name == "shifted":
        off = torch.tensor([[0.3, 0.0, -0.2], [-0.3, 0.1, 0.1]], dtype=torch.float64)
        return GaussianMixture(10.0 + off, torch.tensor([0.05, 0.1]).double(), torch.tensor([0.3, 0.7]).double())
    angle = torch.arange(48, dtype=torch.float64) * (2.0 * math.pi / 48)
    return GaussianMixture(torch.stack((angle.cos(), angle.sin()), 1), 0.03)


@dataclass(frozen=True)
class PerturbedScore:
    """A score whose prediction of the noise has a smooth error of root mean square ``size``, like that of a trained network."""

    data: GaussianMixture
    sde: ScalarSDE
    size: float
    data_std: float

    @cached_property
    def features(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        d = math.prod(self.data.event_shape)
        waves = 1.5 / math.sqrt(d) * _normal((_FEATURES, d), "waves")
        return (
            waves,
            _normal((_FEATURES, d), "amplitudes"),
            _normal((_FEATURES,), "rates"),
            7.0 * _normal((_FEATURES,), "phases"),
        )

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        score = self.data._at(self.sde, x, t)[1]
        if self.size == 0.0:
            return score
        phase, _, amplitudes, sigma, _ = self._phase(x, t)
        error = self.size * math.sqrt(2.0 / _FEATURES) * phase.cos() @ amplitudes
        return score - (error / sigma).to(x.dtype).reshape(x.shape)

    def divergence(self, x: Tensor, t: Tensor) -> Tensor:
        """tr d score / dx in closed form, (B,) float64."""
        mix, flat = self.data, x.flatten(1).to(torch.float64)
        kernel = self.sde.kernel(t.to(torch.float64))
        alpha, sigma = (v.expand(len(x))[:, None, None] for v in (kernel.a, kernel.std))
        offset = flat[:, None] - alpha * mix.means
        if mix.rotations is not None:
            offset = torch.einsum("kij,bki->bkj", mix.rotations, offset)
        variance = (alpha**2 * mix.variances + sigma**2).expand(offset.shape)
        log_joint = mix.weights.log() - 0.5 * ((offset**2 / variance) + variance.log()).sum(-1)
        share = log_joint.softmax(-1)
        each = ((offset / variance) ** 2).sum(-1) - (1.0 / variance).sum(-1)
        score = mix._at(self.sde, x, t)[1].flatten(1).to(torch.float64)
        trace = (share * each).sum(-1) - (score**2).sum(-1)
        if self.size:
            phase, waves, amplitudes, std, scale = self._phase(x, t)
            slope = -self.size * math.sqrt(2.0 / _FEATURES) * phase.sin() @ (waves * amplitudes).sum(1)
            trace = trace - slope / (std * scale)[:, 0]
        return trace

    def _phase(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        waves, amplitudes, rates, phases = self.features
        kernel = self.sde.kernel(t.to(torch.float64))
        alpha, sigma = (v.expand(len(x))[:, None] for v in (kernel.a, kernel.std))
        scale = (alpha * self.data_std).hypot(sigma)
        phase = (x.flatten(1).to(torch.float64) / scale) @ waves.mT + (sigma / alpha).log() * rates + phases
        return phase, waves, amplitudes, sigma, scale


@dataclass(frozen=True)
class Problem:
    """A distribution, a process, and a score, which is exact for ``size=0``."""

    name: str
    process: str
    size: float = 0.0

    def __str__(self) -> str:
        return f"{self.name}{'~' if self.size else ''} {self.process}"

    @property
    def sde(self) -> ScalarSDE:
        return PROCESSES[self.process]

    @property
    def distribution(self) -> GaussianMixture:
        return distribution(self.name)

    @property
    def d(self) -> int:
        return math.prod(self.distribution.event_shape)

    @cached_property
    def data_std(self) -> float:
        mix = self.distribution
        within = mix.variances.mean(1) + mix.means.square().mean(1)
        return float((mix.weights * within).sum().sqrt())

    @cached_property
    def score(self) -> PerturbedScore:
        return PerturbedScore(self.distribution, self.sde, self.size, self.data_std)

    def exact_log_prob(self, x: Tensor, rtol: float = 1e-10) -> Tensor:
        """log p at T_MIN by the probability flow, (B,) in nats."""
        sde, shape, d = self.sde, x.shape, self.d
        ends = sde.log_noise(torch.tensor([T_MIN, sde.T], dtype=torch.float64)).tolist()

        def slope(u: float, y: np.ndarray) -> np.ndarray:
            state = torch.from_numpy(y[: -len(x)]).reshape(shape)
            t = sde.time_of_log_noise(torch.tensor(u, dtype=torch.float64)).expand(len(x))
            square = sde.sigma(t[0]) ** 2
            pull = sde.drift_coefficient(t[0]) * 2.0 * square / sde.diffusion(t[0]) ** 2
            change = pull * state - square * self.score(state, t)
            trace = pull * d - square * self.score.divergence(state, t)
            return torch.cat((change.reshape(-1), trace)).numpy()

        start = np.concatenate((x.double().reshape(-1).numpy(), np.zeros(len(x))))
        y = solve_ivp(slope, ends, start, "DOP853", rtol=rtol, atol=rtol).y[:, -1]
        return sde.prior_log_prob(torch.from_numpy(y[: -len(x)]).reshape(shape)) + torch.from_numpy(y[-len(x) :])


def suite(names: tuple[str, ...] = DISTRIBUTIONS) -> list[Problem]:
    """Every distribution with the exact and the perturbed score under every process; gmm768 under VP only, to save time."""
    return [
        Problem(name, process, size)
        for name in names
        for size in (0.0, 0.03)
        for process in (PROCESSES if name != "gmm768" else ("VP",))
    ]


@dataclass(frozen=True)
class KnownTrace(Divergence):
    """The exact divergence in closed form, for a scalar process and without Jacobian-vector products.

    A ``Divergence`` computes the trace of the Jacobian of xi -> sigma score(x + sigma xi) at 0. It equals sigma^2 div
    score.
    """

    problem: Problem

    exact: ClassVar[bool] = True

    @property
    def products(self) -> int:
        return 0

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """The score of the problem. It stores x and t for the divergence."""
        object.__setattr__(self, "_last", (x, t))
        return self.problem.score(x, t)

    def stream(self, x: Tensor, noise: NoiseSource) -> ProbeStream:
        return lambda first, count: x.new_zeros(1, *x.shape)

    def variance(self, estimates: Tensor, d: int) -> Tensor:
        return torch.zeros_like(estimates[0])

    def __call__(self, f: Field, x: Tensor, probes: Tensor, differentiable: bool = False) -> tuple[Tensor, Tensor]:
        h = f(x)
        place, t = self._last
        square = self.problem.sde.sigma(t.double()) ** 2
        return h, (square * self.problem.score.divergence(place, t))[None]
