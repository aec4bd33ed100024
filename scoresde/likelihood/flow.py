"""log p(x) by the probability flow (Song et al. 2021, section 4.3 and appendix D.2; Chen et al. 2018).

    dx/dt = v(x, t) = f - g^2 score / 2
    log p_(t_min)(x) = log p_T(x_T) + int_(t_min)^T div v(x_t, t) dt

Where the state is more than the data, the rest is drawn and its log-density q subtracted, log p(x, v) - log q(v): in
the mean a lower bound of log p(x).

What the number is not: t_min > 0 makes it the density of data with noise sigma(t_min), evaluated at x; and p_T is taken to be the
prior. `known_biases` estimates both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from scoresde._arguments import checked_arguments
from scoresde._validation import check_batch, check_choice, check_count, check_finite, expand
from scoresde.likelihood.adaptive import Adaptive
from scoresde.likelihood.divergence import Divergence, Exact, Hadamard, Hutchinson
from scoresde.likelihood.engine import Engine, FlowProblem, check_t_min
from scoresde.likelihood.multistep import DEFAULT_TOLERANCE, Multistep
from scoresde.noise import NoiseSource
from scoresde.score import ScoreModel
from scoresde.sde import SDE, GaussianKernel, LinearSDE, Score, check_same_process
from scoresde.sde.linalg.maps import BlockMap
from scoresde.sde.scores import CheckedScore, in_evaluation_mode, wide
from scoresde.solvers import ODESolver, ScipyODE

_SMALL = 4
"""Coordinates up to which the default divergence is exact."""


@dataclass(frozen=True)
class LikelihoodResult:
    """Log-likelihoods of a batch.

    log_prob: (B,) nats, float64; NaN for a sample that failed.
    standard_error: (B,) nats, of trace and solver together, by root of the sum of squares; a part that is not known is not in it,
        and where neither is, it is NaN.
    trace_error: (B,) nats, of the divergence's estimate: 0 for the exact one, NaN for a single fixed probe (unknown).
    solver_error: (B,) nats, of the integration: NaN for an adaptive solver, whose tolerance is all that is known.
    latent: (B, *state), x_T.
    prior_log_prob: (B,) nats, log p_T(x_T).
    nfe: evaluations of the score for the whole batch. vjps: products with its Jacobian on top of them; one costs about
        as much as a forward pass, so the work is about nfe + vjps forward passes.
    failed: (B,) bool, samples without a result.
    settings: how it was computed: solver, divergence, t_min, seed.
    """

    log_prob: Tensor
    standard_error: Tensor
    trace_error: Tensor
    solver_error: Tensor
    latent: Tensor
    prior_log_prob: Tensor
    nfe: int
    vjps: int
    failed: Tensor
    settings: dict[str, str]

    def __repr__(self) -> str:
        mean = float(self.log_prob.mean())
        return f"LikelihoodResult(mean log_prob={mean:.4f} nats over {len(self.log_prob)}, nfe={self.nfe}, {self.settings})"


@checked_arguments
@in_evaluation_mode("score")
def log_likelihood(
    sde: SDE,
    score: Score,
    x: Tensor,
    *,
    solver: Engine | ODESolver | None = None,
    divergence: Divergence | None = None,
    probes: int | None = None,
    tolerance: float | None = None,
    t_min: float = 1e-5,
    seed: int = 0,
    first: int = 0,
    noise: NoiseSource | None = None,
    differentiable: bool = False,
) -> LikelihoodResult:
    """log p(x) in nats under the probability flow of ``score``.

    sde: the process of the score. A chain stands for its process in continuous time, whose flow it is then, with the score of the
        nearest instant: the paper's practice for models of discrete time.
    score: (x, t) -> the shape of x. Networks behind it are evaluated in evaluation mode, without dropout and batch statistics,
        and keep their own mode afterwards, see `scoresde.sde.scores`.
    x: (B, *event) finite data. In float16 or bfloat16 the score is evaluated in that dtype, with all else in float32 or float64.
    solver: `Multistep(tolerance=0.02)` unless given, the fixed grid with new probes at every node; `ScipyODE()` for a process
        without closed-form kernels. Or a `RungeKutta` on the device. The tolerance of `ScipyODE` is held by the batch as a
        whole, see there.
    divergence: `Hadamard()` unless given, `Exact()` for events of at most four coordinates; with an adaptive solver
        `Hutchinson()`, one Rademacher probe, the paper's.
    probes: products for each evaluation, in place of the divergence's own number.
    tolerance: of the default solver: the integration error of a sample, in bits per dimension, above which it is computed again
        with twice the nodes (.02 unless given); rtol = atol of a solver with adaptive steps (1e-5 unless given). Not together
        with ``solver``, which has its own.
    t_min: where the flow starts, in [0, T); the paper takes 1e-5.
    seed, first: key of the probes: sample i of the batch has the number first + i. ``noise`` replaces both.
    differentiable: keep a graph to x, to the score's parameters and to those of the process that its kernels carry a graph to (a
        learned schedule, its ends too), for gradients of log_prob. The last are taken with the times of the nodes held, and so
        differ from the slope of the number by the integration's error. A node is evaluated twice, and once more in the backward
        pass, so that memory holds the states of the path and one evaluation; ``nfe`` counts the nodes. `Multistep` only.
        Otherwise no result has a graph.

    A sample whose score is not finite gets NaN, ``failed`` and a RuntimeWarning; `ScipyODE`, for which the batch is one
    system, raises. Raises TypeError or ValueError for bad input, ValueError for a score that depends on x but leaves no graph to
    it (``torch.no_grad``, ``detach``), since its divergence would be 0, SolverError where the solver cannot go on.
    """
    if not isinstance(sde, SDE):
        raise TypeError(f"sde is a {type(sde).__name__}: give a process, e.g. VPSDE(); log_likelihood(sde, score, x)")
    check_batch("x", x)
    check_finite("x", x)
    check_same_process(sde, score)
    sde = getattr(sde, "continuous", sde)
    check_t_min(sde, t_min)
    check_choice("differentiable", differentiable, (True, False))
    _check_noise(sde, score, t_min)
    if solver is not None and tolerance is not None:
        raise ValueError("give either solver or tolerance: a solver has its own")
    engine = _engine(sde, solver, tolerance)
    divergence = _divergence(engine, x[0].numel()) if divergence is None else divergence
    if not isinstance(divergence, Divergence):
        raise TypeError(f"divergence={divergence!r} is not a Divergence: give Exact(), Hadamard(), Hutchinson(), ...")
    if probes is not None:
        divergence = _with_probes(divergence, probes)
    noise = NoiseSource.for_batch(noise, len(x), seed, first, x.device)
    x, precision = wide(x), x.dtype
    state, drawn = sde.sample_auxiliary(x, noise)
    with torch.set_grad_enabled(differentiable):  # no graph that follows x half-way
        followed = _Followed(CheckedScore(score, len(x), precision, every_call=differentiable))
        found = engine.solve(FlowProblem(sde, followed, t_min, divergence, noise, differentiable), state)
    parts = torch.stack((found.trace_error, found.solver_error)).detach()
    known = ~parts.isnan()
    error = parts.nan_to_num(nan=0.0).square().sum(0).sqrt()
    settings = {
        "solver": engine.summary,
        "divergence": repr(divergence),
        "t_min": f"{t_min:g}",
        "seed": str(noise.seed),
    }
    return LikelihoodResult(
        log_prob=found.log_prob - torch.as_tensor(drawn, dtype=torch.float64, device=x.device),
        standard_error=torch.where(known.any(0), error, torch.nan),
        trace_error=found.trace_error.detach(),
        solver_error=found.solver_error.detach(),
        latent=found.latent,
        prior_log_prob=found.prior_log_prob,
        nfe=found.nfe,
        vjps=found.vjps,
        failed=found.failed,
        settings=settings,
    )


class _Followed:
    """A score that returns a graph to x unless it is constant in x.

    The graph is looked at on the first call that wants one.
    """

    def __init__(self, score: CheckedScore) -> None:
        self.score, self.looked = score, False

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        value = self.score(x, t)
        if not self.looked and torch.is_grad_enabled() and x.requires_grad:
            self.looked = True
            self._check_graph(value, x, t)
        return value

    def _check_graph(self, value: Tensor, x: Tensor, t: Tensor) -> None:
        if value.requires_grad and _reaches(value, x):
            return
        with torch.no_grad():
            change = self.score(x.detach() + 1.0, t) - value
        if bool((change.nan_to_num(nan=0.0) != 0).any()):
            raise ValueError(
                "score depends on x but leaves no graph to it (torch.no_grad, detach, NumPy?): its divergence, and with it "
                "log p, cannot be found. Call the model itself; no graph is kept for the result unless differentiable=True"
            )


def _reaches(value: Tensor, x: Tensor) -> bool:
    """Whether the graph of ``value`` leads back to x."""
    goal, seen, ahead = get_gradient_edge(x).node, set(), [value.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is goal:
            return True
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [before for before, _ in node.next_functions]
    return False


def _check_noise(sde: SDE, score: Score, t_min: float) -> None:
    """Raise ValueError where a network would be asked for the score of data without noise."""
    if not (isinstance(score, ScoreModel) and isinstance(sde, LinearSDE)):
        return  # a closed form may know the score of the data itself
    if not bool(torch.isfinite(sde.log_spread(torch.tensor(t_min, dtype=torch.float64)))):
        raise ValueError(
            f"t_min={t_min!r} is not allowed: {sde!r} has no noise there, and a network's score is divided by it; give a "
            "later time, e.g. t_min=1e-5"
        )


def _engine(sde: SDE, solver: Engine | ODESolver | None, tolerance: float | None) -> Engine:
    if isinstance(solver, Engine):
        return solver
    if solver is not None:
        if not callable(getattr(solver, "solve", None)):
            raise TypeError(f"solver={solver!r} is not a solver: give Multistep(), RungeKutta() or ScipyODE()")
        return Adaptive(solver)
    if isinstance(sde, LinearSDE):
        return Multistep(tolerance=DEFAULT_TOLERANCE if tolerance is None else tolerance)
    tolerance = 1e-5 if tolerance is None else tolerance
    return Adaptive(ScipyODE(rtol=tolerance, atol=tolerance))


def _divergence(engine: Engine, d: int) -> Divergence:
    if isinstance(engine, Adaptive):
        return Hutchinson()
    return Exact() if d <= _SMALL else Hadamard()


def _with_probes(divergence: Divergence, probes: int) -> Divergence:
    check_count("probes", probes)
    if divergence.exact:
        raise ValueError(f"probes={probes}: the exact divergence has none")
    return replace(divergence, count=probes)  # type: ignore[call-arg]


@dataclass(frozen=True)
class KnownBiases:
    """What a likelihood by the flow leaves out, to first order.

    cutoff: (B,) nats, log p_(t_min)(x) - log p_0(x): what noise sigma(t_min) does to the density at x. It is an
        estimate that holds while it is small; for data on a grid of levels (quantised and dequantised) p_0 has steps,
        and it says little.
    prior: (B,) nats >= 0, KL(p(x_T | x_0) || prior): its mean over the data is at least that of log p_T - log prior.
    """

    cutoff: Tensor
    prior: Tensor


@checked_arguments
@torch.no_grad()
@in_evaluation_mode("score")
def known_biases(
    sde: LinearSDE,
    score: Score,
    x: Tensor,
    *,
    t_min: float = 1e-5,
    divergence: Divergence | None = None,
    noise: NoiseSource | None = None,
) -> KnownBiases:
    """The biases of `log_likelihood` at x (B, *event), for one evaluation of the score. A chain stands for its process, as there.

    With x_t = A x_0 + L z and s = score(x, t_min), the two directions of time and Fokker and Planck's equation give

        log p_t(x) - log p_0(x) = tr(L L^T ds/dx) / 2 + |L^T s|^2 / 2 - ln |det A| - s . (A - I) x + ...

    of which the data's part is taken where the state is more: the rest is drawn by the density that is taken off, and to this
    order its part has the mean 0. And KL of the prior N(0, R R^T) against the kernel N(m, C) at T

        [tr R^-1 C R^-T - d + |R^-1 m|^2] / 2 + ln |det R| - ln |det C| / 2

    divergence: `Exact()` unless given.
    """
    check_batch("x", x)
    check_finite("x", x)
    check_same_process(sde, score)
    sde = sde.continuous
    check_t_min(sde, t_min)
    _check_noise(sde, score, t_min)
    noise = NoiseSource.for_batch(noise, len(x), 0, 0, x.device)
    score, divergence = _Followed(CheckedScore(score, len(x), x.dtype)), divergence or Exact()
    x = wide(x)
    state, _ = sde.sample_auxiliary(x, noise)
    d = state[0].numel()
    t = torch.tensor(t_min, dtype=torch.float64, device=x.device)
    start, end = sde.kernel(t), sde.kernel(torch.full_like(t, sde.T))
    narrow = start.to(x)
    scores: list[Tensor] = []

    def data_part(v: Tensor) -> Tensor:
        return sde.embed_data(sde.extract_data(v))  # what else the state holds was drawn, noise and all

    def field(xi: Tensor) -> Tensor:
        scores.append(data_part(score(state + data_part(narrow.scale(xi)), t.to(x).expand(len(x)))))
        return narrow.scale_transposed(scores[-1])

    probes = divergence.stream(state, noise)(0, divergence.products)
    h, trace = divergence(field, torch.zeros_like(state), probes)
    moved = _dot(scores[0].detach(), narrow.mean(state) - state)
    log_det = x[0].numel() * _log_det_of_data(sde, start, x)
    cutoff = 0.5 * (trace.mean(0).double() + _dot(h, h)) - log_det - moved
    root = sde.prior_root()
    shrunk = root.inverse().compose(end.noise_map())
    mean = end.mean(sde.embed_data(x).double())
    mean = root.inverse()(mean - expand(sde.prior_mean(), mean).to(mean))
    prior = 0.5 * (d * float(shrunk.mean_square()) - d + _dot(mean, mean)) - d * float(shrunk.log_det())
    return KnownBiases(cutoff, prior)


def _log_det_of_data(sde: LinearSDE, kernel: GaussianKernel, like: Tensor) -> float:
    """ln |det A| per coordinate of the data, of the part of A from data to data."""
    a = kernel.signal_map()
    if not isinstance(a, BlockMap):
        return float(a.log_det())
    data = sde.embed_data(torch.ones_like(like[:1], dtype=torch.float64))
    data = data.reshape(data.shape[1], -1)[:, 0]
    return float(((a.m @ data) @ data).abs().log().mean())


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).reshape(len(a), -1).sum(1)
