"""log p(x) by the probability flow ODE (Song et al. 2021, section 4.3 and appendix D.2; Chen et al. 2018)::

    dx/dt = v(x, t) = f - g^2 score / 2
    log p_(t_min)(x) = log p_T(x_T) + int_(t_min)^T div v(x_t, t) dt

If the state contains more than the data, the auxiliary variables v are drawn from a density q, and the result is
log p(x, v) - log q(v). Its mean is a lower bound of log p(x).

The result is not exactly log p_0(x), for two reasons. With t_min > 0 it is the density of data with noise sigma(t_min),
evaluated at x. And the prior stands in for p_T. ``known_biases`` estimates both effects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from scoresde._arguments import checked_arguments
from scoresde._validation import check_batch, check_choice, check_count, check_finite, expand
from scoresde.conditions import given
from scoresde.likelihood.adaptive import Adaptive
from scoresde.likelihood.divergence import Divergence, Exact, Hadamard, Hutchinson
from scoresde.likelihood.engine import Engine, FlowProblem, check_t_min
from scoresde.likelihood.multistep import DEFAULT_TOLERANCE, Multistep
from scoresde.noise import NoiseSource
from scoresde.score import ScoreModel
from scoresde.sde import SDE, GaussianKernel, LinearSDE, Score, check_same_process
from scoresde.sde.base import check_gaussian
from scoresde.sde.linalg.maps import BlockMap
from scoresde.sde.scores import CheckedScore, in_evaluation_mode, wide
from scoresde.solvers import ODESolver, ScipyODE

_SMALL = 4
"""Largest number of coordinates for which the default divergence is exact."""


@dataclass(frozen=True)
class LikelihoodResult:
    """Log-likelihoods of a batch.

    Attributes:
        log_prob: log p(x), (B,) nats, float64; NaN for a sample that failed.
        standard_error: Root of the sum of squares of ``trace_error`` and ``solver_error``, (B,) nats. A part that is NaN is
            left out. If both are NaN, the result is NaN.
        trace_error: Standard error of the divergence's estimate, (B,) nats; 0 for the exact divergence, NaN for a single
            fixed probe, whose error is unknown.
        solver_error: Estimate of the integration error, (B,) nats; NaN for an adaptive solver, which has only its tolerance.
        latent: The state x_T, (B, *state).
        prior_log_prob: log p_T(x_T), (B,) nats.
        nfe: Evaluations of the score for the whole batch.
        vjps: Products with the Jacobian of the score in addition to the evaluations. One of them costs about as much as a
            forward pass, so the total work is about nfe + vjps forward passes.
        failed: Samples without a result, (B,) bool.
        settings: Solver, divergence, t_min and seed.
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
    score: Callable[..., Tensor],
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
    condition: Mapping[str, Any] | None = None,
) -> LikelihoodResult:
    """Computes log p(x) in nats under the probability flow of ``score``.

    Args:
        sde: The process of the score. A chain stands for its process in continuous time, and the score of the nearest
            instant is used, as in the paper for models of discrete time.
        score: The score, (x, t) -> a tensor with the shape of x. Networks behind it run in evaluation mode, without dropout
            and batch statistics, and return to their own mode afterwards (see ``scoresde.sde.scores``).
        x: Finite data, (B, *event). For float16 or bfloat16 the score is evaluated in that dtype, and everything else in
            float32 or float64.
        solver: ``Multistep(tolerance=0.02)`` by default, a fixed grid with new probes at every node. The default is
            ``ScipyODE()`` for a process without closed-form kernels. ``RungeKutta()`` is an adaptive solver on the device.
            The tolerance of ``ScipyODE`` applies to the batch as a whole.
        divergence: ``Hadamard()`` by default, or ``Exact()`` for events of at most four coordinates. With an adaptive solver
            the default is ``Hutchinson()``, one Rademacher probe, as in the paper.
        probes: Products for each evaluation. Replaces the divergence's own number.
        tolerance: For the default solver ``Multistep``: the integration error of a sample in bits/dim above which it is
            computed again with twice the nodes (default 0.02). For ``ScipyODE``: rtol = atol (default 1e-5). It cannot be
            combined with ``solver``, which has its own tolerance.
        t_min: Start of the flow, in [0, T). The paper uses 1e-5.
        seed: Seed of the probes.
        first: Index of the first sample: sample i of the batch uses the probes with the key (seed, first + i).
        noise: Replaces ``seed`` and ``first``.
        differentiable: Keep a graph for gradients of log_prob, to x, to the parameters of the score, and to those parameters
            of the process that its kernels depend on (a learned schedule, including its end points). The latter gradients
            hold the times of the nodes fixed, so they differ from the derivative of the result by the integration error. A
            node is evaluated twice, and once more in the backward pass, so that the memory contains the states of the path
            and one evaluation; ``nfe`` counts the nodes. Only ``Multistep`` supports it. With False no result has a graph.
        condition: Conditions c of the score by name, with one row for each sample. The result is then log p(x | c).

    Returns:
        log p(x) of each sample with its error estimates and settings. A sample whose score is not finite has log_prob NaN
        and failed True, and a RuntimeWarning is issued. ``ScipyODE`` solves the batch as one system and raises an error
        instead.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is not allowed, or the score depends on x but has no graph to it (``torch.no_grad``,
            ``detach``), so that its divergence would be 0.
        SolverError: The solver cannot continue, or all samples failed.

    References:
        Song et al. 2021, "Score-based generative modeling through stochastic differential equations", arXiv:2011.13456.
        Chen et al. 2018, "Neural ordinary differential equations", arXiv:1806.07366.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE, GaussianMixture
        >>> sde, data = VPSDE(), GaussianMixture(torch.zeros(1, 2), torch.tensor([0.5]))
        >>> result = log_likelihood(sde, data.score(sde), data.sample(4))
        >>> result.log_prob.shape
        torch.Size([4])
    """
    if not isinstance(sde, SDE):
        raise TypeError(
            f"sde is a {type(sde).__name__}: give a process, e.g. VPSDE(), as in log_likelihood(sde, score, x)"
        )
    check_batch("x", x)
    check_finite("x", x)
    score = given(score, condition)
    check_same_process(sde, score)
    check_gaussian(sde, "the probability flow")
    sde = sde.continuous
    check_t_min(sde, t_min)
    check_choice("differentiable", differentiable, (True, False))
    _check_noise(sde, score, t_min)
    if solver is not None and tolerance is not None:
        raise ValueError("give either solver or tolerance, not both: a solver has its own tolerance")
    engine = flow_engine(default_solver(sde, tolerance) if solver is None else solver)
    engine.check_process(sde)
    divergence = _divergence(engine, x[0].numel()) if divergence is None else divergence
    if not isinstance(divergence, Divergence):
        raise TypeError(f"divergence={divergence!r} is not a Divergence: give Exact(), Hadamard(), Hutchinson(), ...")
    if probes is not None:
        divergence = _with_probes(divergence, probes)
    noise = NoiseSource.for_batch(noise, len(x), seed, first, x.device)
    x, precision = wide(x), x.dtype
    state, drawn = sde.sample_auxiliary(x, noise)
    with torch.set_grad_enabled(differentiable):  # either a complete graph or none
        followed = _GraphChecked(CheckedScore(score, len(x), precision, every_call=differentiable))
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


class _GraphChecked:
    """A score that is checked once for a graph to x, unless it is constant in x.

    The first call that requires gradients is checked.
    """

    def __init__(self, score: CheckedScore) -> None:
        self.score, self.checked = score, False

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        value = self.score(x, t)
        if not self.checked and torch.is_grad_enabled() and x.requires_grad:
            self.checked = True
            self._check_graph(value, x, t)
        return value

    def select_rows(self, index: Tensor) -> _GraphChecked:
        """The score for the samples ``index`` (n,)."""
        made = _GraphChecked(self.score.select_rows(index))
        made.checked = self.checked
        return made

    def _check_graph(self, value: Tensor, x: Tensor, t: Tensor) -> None:
        if value.requires_grad and _reaches(value, x):
            return
        with torch.no_grad():
            change = self.score(x.detach() + 1.0, t) - value
        if bool((change.nan_to_num(nan=0.0) != 0).any()):
            raise ValueError(
                "score depends on x but has no graph to it (torch.no_grad, detach, NumPy?), so its divergence cannot be "
                "computed: call the model itself; the result has no graph unless differentiable=True"
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
    """Raise ValueError if a network would be evaluated where the data has no noise."""
    if not (isinstance(score, ScoreModel) and isinstance(sde, LinearSDE)):
        return  # the score of the data itself may exist in closed form
    if not bool(torch.isfinite(sde.log_spread(torch.tensor(t_min, dtype=torch.float64)))):
        raise ValueError(
            f"t_min={t_min!r} is not allowed: {sde!r} has no noise there, and a network's output is divided by the noise; "
            "give a later time, e.g. t_min=1e-5"
        )


def default_solver(sde: SDE, tolerance: float | None = None) -> Engine | ODESolver:
    """The solver of ``log_likelihood`` for a process if none is given."""
    if isinstance(sde, LinearSDE):
        return Multistep(tolerance=DEFAULT_TOLERANCE if tolerance is None else tolerance)
    tolerance = 1e-5 if tolerance is None else tolerance
    return ScipyODE(rtol=tolerance, atol=tolerance)


def flow_engine(solver: Engine | ODESolver) -> Engine:
    """The engine of a solver. Raises TypeError if ``solver`` is not a solver."""
    if isinstance(solver, Engine):
        return solver
    if not callable(getattr(solver, "solve", None)):
        raise TypeError(f"solver={solver!r} is not a solver: give Multistep(), RungeKutta() or ScipyODE()")
    return Adaptive(solver)


def _divergence(engine: Engine, d: int) -> Divergence:
    if isinstance(engine, Adaptive):
        return Hutchinson()
    return Exact() if d <= _SMALL else Hadamard()


def _with_probes(divergence: Divergence, probes: int) -> Divergence:
    check_count("probes", probes)
    if divergence.exact:
        raise ValueError(f"probes={probes} is not allowed: {divergence!r} uses no probes")
    return replace(divergence, count=probes)  # type: ignore[call-arg]


@dataclass(frozen=True)
class KnownBiases:
    """First-order estimates of what a likelihood by the flow leaves out.

    Attributes:
        cutoff: log p_(t_min)(x) - log p_0(x), (B,) nats: the effect of the noise sigma(t_min) on the density at x. The
            estimate is valid while it is small. For quantized and dequantized data p_0 has steps, and the estimate says
            little.
        prior: KL(p(x_T | x_0) || prior), (B,) nats >= 0. Its mean over the data is an upper bound of the mean of
            log p_T - log prior.
    """

    cutoff: Tensor
    prior: Tensor


@checked_arguments
@torch.no_grad()
@in_evaluation_mode("score")
def known_biases(
    sde: LinearSDE,
    score: Callable[..., Tensor],
    x: Tensor,
    *,
    t_min: float = 1e-5,
    divergence: Divergence | None = None,
    noise: NoiseSource | None = None,
    condition: Mapping[str, Any] | None = None,
) -> KnownBiases:
    """Estimates the biases of ``log_likelihood`` at x from one evaluation of the score.

    With x_t = A x_0 + L z and s = score(x, t_min), the two directions of time and the Fokker-Planck equation give ::

        log p_t(x) - log p_0(x) = tr(L L^T ds/dx) / 2 + |L^T s|^2 / 2 - ln |det A| - s . (A - I) x + ...

    If the state contains auxiliary variables, only the part of the data is used: the rest is drawn from the density that is
    subtracted, and to this order its part has the mean 0. The KL divergence of the kernel N(m, C) at T from the prior N(0, R
    R^T) is ::

        [tr R^-1 C R^-T - d + |R^-1 m|^2] / 2 + ln |det R| - ln |det C| / 2

    Args:
        sde: The process. A chain stands for its process in continuous time, as in ``log_likelihood``.
        score: The score, (x, t) -> a tensor with the shape of x.
        x: Finite data, (B, *event).
        t_min: Start of the flow, in [0, T).
        divergence: The method for the trace, ``Exact()`` by default.
        noise: Keys of the probes and of the auxiliary variables.
        condition: Conditions c of the score by name, with one row for each sample. The biases are then those of log p(x | c).

    Returns:
        The two biases of each sample.

    Raises:
        ValueError: An argument is not allowed.
    """
    check_batch("x", x)
    check_finite("x", x)
    score = given(score, condition)
    check_same_process(sde, score)
    check_gaussian(sde, "the probability flow")
    sde = sde.continuous
    check_t_min(sde, t_min)
    _check_noise(sde, score, t_min)
    noise = NoiseSource.for_batch(noise, len(x), 0, 0, x.device)
    score, divergence = _GraphChecked(CheckedScore(score, len(x), x.dtype)), divergence or Exact()
    x = wide(x)
    state, _ = sde.sample_auxiliary(x, noise)
    d = state[0].numel()
    t = torch.tensor(t_min, dtype=torch.float64, device=x.device)
    start, end = sde.kernel(t), sde.kernel(torch.full_like(t, sde.T))
    narrow = start.to(x)
    scores: list[Tensor] = []

    def data_part(v: Tensor) -> Tensor:
        return sde.embed_data(sde.extract_data(v))  # the auxiliary variables were drawn from their own density

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
    """ln |det A| per coordinate of the data, for the block of A that maps data to data."""
    a = kernel.signal_map()
    if not isinstance(a, BlockMap):
        return float(a.log_det())
    data = sde.embed_data(torch.ones_like(like[:1], dtype=torch.float64))
    data = data.reshape(data.shape[1], -1)[:, 0]
    return float(((a.m @ data) @ data).abs().log().mean())


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).reshape(len(a), -1).sum(1)
