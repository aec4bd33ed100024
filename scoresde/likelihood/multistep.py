"""log p along the probability flow on a fixed grid: one evaluation for each node, new probes at each.

In the whitened state w and the clock u (`sde/whitening.py`), with the residual slope f = dw/du and the residual divergence g,

    log p(x_0) = log p_T(x_T) + ln |det R_n / det R_0| + int g du

1. At node i, w_i is predicted from w_(i-1) by the polynomial through the last slopes (Adams-Bashforth), f_i and g_i are
   evaluated there once, and w_i is corrected with f_i (Adams-Moulton).
2. The integral of g is a quadrature with all of its values, by cubics through the four nodes about each interval. It needs
   no smooth g: every node has probes of its own, unbiased, whose errors do not add up as those of one fixed probe do.
3. Between the points where f was evaluated the true flow rises by int f du, which the same quadrature knows better than
   step 1 did. What is missing, d_i, is a jump of the path at node i, and a jump changes log p by its product with the score:

       log p = the above + sum_i (R_i^T score_i) . d_i

   takes the leading error away, for nothing (`tests/likelihood/test_multistep.py` measures the order before and after).
   A network's score may be far from the gradient of its own flow's log p where there is hardly any noise. For a density
   E |score|^2 = -E div score (Fisher), and that is at least what a Gaussian as wide as the data has; a score whose square is
   more than ten times both together counts for less, in proportion.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from scoresde._arguments import checked_arguments
from scoresde._validation import check_batch, check_count, check_finite, check_number, expand
from scoresde.likelihood.divergence import Hutchinson
from scoresde.likelihood.engine import Engine, FlowAnswer, FlowProblem, check_t_min, warn_caller
from scoresde.likelihood.estimate import PathError, between_orders, probe_variances, quadrature_square, trace_error
from scoresde.likelihood.estimate import dot as _dot
from scoresde.likelihood.grid import FlowGrid, grid_from, mean_and_spread, standard_grid
from scoresde.noise import NoiseSource
from scoresde.sde import LinearSDE, Score, check_same_process
from scoresde.sde.scores import CheckedScore, in_evaluation_mode, wide
from scoresde.sde.whitening import WhitePoint, white_points
from scoresde.solvers import SolverError
from scoresde.solvers.quadrature import Increments, adams

_ORDER = 2
_POINTS = 4
_TRUST = 10.0
DEFAULT_TOLERANCE = 0.02
"""Tolerance in bits/dim where no solver is given: the few samples for which 64 nodes do not suffice get more."""


@dataclass(frozen=True)
class Multistep(Engine):
    """Log-likelihood on a fixed grid, for any linear process.

    nodes: evaluations of the score, at least 4.
    grid: where they are; `fit_grid` makes one for a model, without one it is `standard_grid`.
    tolerance: largest estimated integration error of a sample in bits/dim: a sample above it is done again with twice
        the nodes, until ``max_nodes``. None: the nodes as they are.

    The estimate (`scoresde.likelihood.estimate`) is from the nodes' own values. On a coarse grid it is of the error's size, on
    a fine one several times larger (docs/likelihood_figures.md, "Is the stated error honest?").
    """

    nodes: int = 64
    grid: FlowGrid | None = None
    tolerance: float | None = None
    max_nodes: int = 1024

    def __post_init__(self) -> None:
        check_count("nodes", self.nodes, least=4)
        check_count("max_nodes", self.max_nodes, least=self.nodes)
        if self.tolerance is not None:
            check_number("tolerance", self.tolerance, above=0.0)

    @property
    def summary(self) -> str:
        grid = "None" if self.grid is None else self.grid.summary
        return repr(replace(self, grid=None)).replace("grid=None", f"grid={grid}")

    def weigh(self, problem: FlowProblem, x: Tensor) -> FlowAnswer:
        sde = problem.sde
        if not isinstance(sde, LinearSDE):
            raise TypeError(f"sde={sde!r} has no closed-form kernel, which Multistep needs: give solver=ScipyODE()")
        grid = self.grid or standard_grid(sde, problem.t_min)
        grid.check_fits(sde, problem.t_min)
        (answer, broke), nodes = _once(problem, sde, grid, x, self.nodes), self.nodes
        while self.tolerance is not None and 2 * nodes <= self.max_nodes:
            coarse = (answer.solver_error > self.tolerance * x[0].numel() * math.log(2.0)).nonzero().flatten()
            if not len(coarse):
                break
            nodes *= 2
            part = replace(problem, noise=NoiseSource(problem.noise.seed, problem.noise.indices[coarse]))
            again, when = _once(part, sde, grid, x[coarse], nodes)
            answer, broke = _replace_rows(answer, coarse, again), broke.index_copy(0, coarse, when)
        _report(answer.failed, broke)
        return answer


def _once(problem: FlowProblem, sde: LinearSDE, grid: FlowGrid, x: Tensor, nodes: int) -> tuple[FlowAnswer, Tensor]:
    """log p with a given number of nodes, and (B,) the first times at which a score was not finite, T where none was."""
    times, u = _places(sde, grid, grid.nodes(nodes))
    weights = Increments.of(u, _POINTS).total()
    divergence = problem.divergence
    products = divergence.products
    allotment = grid.allotment(u.detach(), weights.detach(), products) if divergence.divisible else [products] * nodes
    path = _Path.along(problem, sde, grid, times, u, x, allotment)
    d, start, end = x[0].numel(), path.points[0], path.points[-1]
    means = torch.stack([e.mean(0) for e in path.estimates])
    noisy = not (divergence.exact or divergence.fixed)
    noise = probe_variances(divergence, path.estimates, u.detach().to(means), d) if noisy else None
    g = means - d * torch.stack([p.gaussian_trace for p in path.points]).to(means)[:, None]
    weights = weights.to(means)
    prior = sde.prior_log_prob(path.latent)
    log_prob = prior + d * (end.log_det - start.log_det) + weights @ g + path.jumps
    failed = ~torch.isfinite(log_prob)
    broke = torch.stack([torch.where(torch.isfinite(v), sde.T, p.t) for v, p in zip(g, path.points, strict=True)])
    unresolved = quadrature_square(u.detach(), _POINTS, g.detach(), None if noise is None else noise.detach())
    answer = FlowAnswer(
        log_prob=torch.where(failed, torch.nan, log_prob),
        trace_error=trace_error(divergence, path.estimates, weights, noise, d),
        solver_error=(path.error_square + unresolved).sqrt(),
        latent=path.latent.to(x.dtype),
        prior_log_prob=prior,
        nfe=nodes,
        vjps=sum(path.products),
        failed=failed,
    )
    return answer, broke.amin(0)


@dataclass(frozen=True)
class _Path:
    """A pass over the nodes.

    error_square: (B,) nats^2, square of the path's error, see estimate.py. products: vector-Jacobian products at each node.
    estimates: for each node (E, B), minus the divergence of h. latent: x_T. jumps: (B,) what step 3 adds to log p.
    slopes, pulls: f and R^T score at each node, where they were asked for.
    """

    points: list[WhitePoint]
    estimates: list[Tensor]
    latent: Tensor
    jumps: Tensor
    error_square: Tensor
    products: list[int]
    slopes: list[Tensor]
    pulls: list[Tensor]

    @classmethod
    def along(
        cls,
        problem: FlowProblem,
        sde: LinearSDE,
        grid: FlowGrid,
        times: Tensor,
        u: Tensor,
        x: Tensor,
        allotment: list[int],
        keep: bool = False,
    ) -> _Path:
        """Steps 1 and 3 from the states x (B, *state) over nodes that `_places` made; ``keep`` returns the slopes."""
        wide = x.new_zeros((), dtype=torch.float64)
        points = [point.to(wide) for point in white_points(sde, times, grid.data_std)]
        predictors, correctors = adams(u, _ORDER)
        stencils = Increments.of(u, _POINTS)
        stream = problem.divergence.stream(x, problem.noise)
        origin = sde.augment(grid.origin(sde.project(torch.zeros_like(x[:1], dtype=torch.float64))))
        centres = [sde.kernel(t).mean(origin) for t in times.to(x.device)]
        evaluate = _evaluation(problem, x, points, centres)
        slopes: dict[int, Tensor] = {}
        places: dict[int, Tensor] = {}
        pulls: dict[int, Tensor] = {}
        trusts: dict[int, Tensor] = {}
        estimates: list[Tensor] = []
        products: list[int] = []
        jumps, error, unresolved = wide.expand(len(x)), PathError(x[0].numel()), between_orders(u.detach(), _POINTS)
        w, done, drawn = points[0].unroot(x.double() - centres[0]), 0, 0
        for i, count in enumerate(allotment):
            place = w if i == 0 else w + _combine(predictors[i - 1], slopes, i)
            probes = stream(0 if problem.divergence.fixed else drawn, count)
            drawn, products = drawn + count, [*products, len(probes)]
            slopes[i], estimate, pulls[i], trusts[i] = evaluate(place, i, probes)
            places[i] = place
            estimates.append(estimate)
            if i > 0:
                w = w + _combine(correctors[i - 1], slopes, i + 1)
            while done < len(u) - 1 and stencils.first[done] + stencils.points <= i + 1:
                stop = stencils.first[done] + stencils.points
                jump = _combine(stencils.weights[done], slopes, stop) - (places[done + 1] - places[done])
                jumps = jumps + _dot(pulls[done + 1], jump)
                hessian = estimates[done + 1].mean(0).to(wide) * points[done + 1].stretch
                error.add(pulls[done + 1], trusts[done + 1], jump, _combine(unresolved[done], slopes, stop), hessian)
                done += 1
                if not keep:
                    for old in [k for k in slopes if k < i - stencils.points]:
                        del slopes[old]
                for old in [k for k in places if k < done]:
                    del places[old]
                    if not keep:
                        del pulls[old]
        latent = centres[-1] + points[-1].root(place)
        return cls(points, estimates, latent, jumps, error.square(), products, _in_order(slopes), _in_order(pulls))


def _places(sde: LinearSDE, grid: FlowGrid, u: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) times of the nodes u, held constant, and u: with a graph where the process has one to its own parameters."""
    with torch.no_grad():
        times = sde.time_of_log_spread(u)
        times[0], times[-1] = grid.t_min, sde.T
    if torch.is_grad_enabled():
        clock = sde.log_spread(times)
        u = clock if clock.requires_grad else u
    return times, u


def _in_order(values: dict[int, Tensor]) -> list[Tensor]:
    return [values[k] for k in sorted(values)]


def _combine(weights: Tensor, slopes: dict[int, Tensor], stop: int) -> Tensor:
    """sum of weights times the slopes of the nodes before ``stop``."""
    first = stop - len(weights)
    if weights.requires_grad:
        return torch.stack([w * slopes[first + k] for k, w in enumerate(weights.to(slopes[first].device))]).sum(0)
    total = slopes[first] * float(weights[0])
    for k in range(1, len(weights)):
        total = torch.add(total, slopes[first + k], alpha=float(weights[k]))
    return total


Evaluation = Callable[[Tensor, int, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]


def _evaluation(problem: FlowProblem, x: Tensor, points: list[WhitePoint], centres: list[Tensor]) -> Evaluation:
    """(w, node, probes) -> the slope f, the estimates (E, B) of minus the divergence of h, R^T score times its trust, and
    the trust (B,); float64."""
    divergence, d = problem.divergence, x[0].numel()

    def evaluate(w: Tensor, i: int, probes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        point = points[i]
        narrow, t = point.spread.to(x), point.t.to(x).expand(len(x))
        back = narrow.transpose()
        here = (centres[i] + point.root(w)).to(x.dtype)
        scores: list[Tensor] = []

        def field(xi: Tensor) -> Tensor:
            scores.append(problem.score(here + narrow(xi), t))
            return back(scores[-1])

        h, trace = divergence(field, torch.zeros_like(here), probes, problem.differentiable)
        score = scores[0].double() if problem.differentiable else scores[0].detach().double()
        slope = -point.push(h.double() + point.pull(w))
        spoilt = 0.0 * slope.reshape(len(x), -1).sum(1)  # NaN where the score is not finite, and 0 elsewhere
        least = trace.mean(0).double().abs() + d * point.gaussian_trace
        trust = (_TRUST * least / _dot(h, h).double().clamp(min=1e-30)).clamp(max=1.0)
        return slope, -trace.double() + spoilt, point.root.transpose()(expand(trust, score) * score), trust

    if not problem.differentiable:
        return torch.no_grad()(evaluate)
    return lambda w, i, probes: checkpoint(evaluate, w, i, probes, use_reentrant=False)


def _report(failed: Tensor, broke: Tensor) -> None:
    """Warn of samples that failed; raise where all did."""
    if not bool(failed.any()):
        return
    where = failed.nonzero().flatten().tolist()
    message = f"the score is not finite at t={float(broke.min()):g} for batch positions {where[:8]}"
    if bool(failed.all()):
        raise SolverError(message)
    warn_caller(f"{message}: their log_prob is NaN")


def _replace_rows(answer: FlowAnswer, rows: Tensor, new: FlowAnswer) -> FlowAnswer:
    """The answer with some samples' results replaced, and the work of both."""
    names = ("log_prob", "trace_error", "solver_error", "latent", "prior_log_prob", "failed")
    merged = {name: getattr(answer, name).index_copy(0, rows, getattr(new, name)) for name in names}
    return FlowAnswer(**merged, nfe=answer.nfe + new.nfe, vjps=answer.vjps + new.vjps)


@checked_arguments
@torch.no_grad()
@in_evaluation_mode("score")
def fit_grid(
    sde: LinearSDE,
    score: Score,
    x: Tensor,
    *,
    t_min: float = 1e-5,
    fine: int = 200,
    floor: float = 0.5,
    seed: int = 0,
) -> FlowGrid:
    """A grid for this model from a few examples, at a cost of ``fine`` evaluations with two products each, once.

    x: (B, *event) examples, 16 to 96 of them; those of the training set are best, what is weighed later should not
        choose its nodes.
    t_min: where the flow starts. fine: nodes of the pilot. floor: share of the mean that is added to the density, which guards
    against what the pilot did not see.
    """
    check_batch("x", x)
    check_finite("x", x)
    check_same_process(sde, score)
    check_count("fine", fine, least=40)
    check_number("floor", floor, above=0.0)
    check_t_min(sde, t_min)
    noise = NoiseSource.of(seed, len(x), device=x.device)
    checked = CheckedScore(score, len(x), x.dtype)
    x = wide(x)
    centre, data_std = mean_and_spread(x)
    x, _ = sde.lift(x, noise)
    start = standard_grid(sde, t_min, data_std, centre)
    u = torch.linspace(start.u[0], start.u[-1], fine, dtype=torch.float64)
    problem = FlowProblem(sde, checked, t_min, Hutchinson(count=2, fixed=True), noise)
    path = _Path.along(problem, sde, start, *_places(sde, start, u), x, [2] * fine, keep=True)
    d, h = x[0].numel(), float(u[1] - u[0])
    estimates = torch.stack(path.estimates).cpu()  # (fine, 2, B)
    if not bool(torch.isfinite(estimates).all()):
        raise SolverError("the score is not finite on the way of these examples: no grid is made for it")
    slopes, traces = torch.stack(path.slopes).cpu(), estimates.mean(1) / d
    pulls = torch.stack(path.pulls).cpu()[1:-1]
    bend = (pulls * _second(slopes, h)).square().flatten(1).mean(1) + _second(traces, h).square().mean(1)
    return grid_from(t_min, u, bend, estimates.var(1).mean(1).sqrt(), data_std, floor, centre)


def _second(values: Tensor, h: float) -> Tensor:
    """Second differences."""
    return (values[2:] - 2.0 * values[1:-1] + values[:-2]) / h**2
