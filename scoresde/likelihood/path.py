"""One pass over the nodes of a grid: steps 1 and 3 of ``scoresde.likelihood.multistep``.

On a GPU every tensor operation costs a launch, and every number that is read from a tensor waits for the device. Therefore
``_frames`` computes the coefficients of all nodes at once on the CPU and moves them to the device once, weights are Python
numbers, and scalars for each sample and node are computed after the loop, for all nodes together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from scoresde.likelihood.divergence import probes_ahead
from scoresde.likelihood.engine import FlowProblem
from scoresde.likelihood.estimate import Estimates, between_orders, path_square
from scoresde.likelihood.grid import FlowGrid
from scoresde.sde import LinearSDE
from scoresde.sde.gaussian_flow import WhitePoint, white_path
from scoresde.sde.linalg.maps import LinearMap
from scoresde.solvers.quadrature import Increments, adams

ORDER = 2
POINTS = 4
_TRUST = 10.0

Weights = Sequence[float | Tensor]
"""Weights of the slopes at some nodes: tensors () if they have a graph to the parameters of the process."""


@dataclass(frozen=True)
class Path:
    """A pass over n nodes.

    Args:
        points: The whitened coordinates at all nodes.
        estimates: Minus the divergence of h.
        latent: x_T.
        jumps: What step 3 adds to log p, (B,).
        error_square: Square of the path's error, (B,) nats^2, see estimate.py.
        products: Vector-Jacobian products at each node.
        slopes: f at each node, if requested.
        pulls: R^T score times its trust at each node, if requested.
    """

    points: WhitePoint
    estimates: Estimates
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
        probe_counts: list[int],
        keep: bool = False,
    ) -> Path:
        """Steps 1 and 3 from the states x (B, *state) over the nodes of ``node_times``. With ``keep`` the slopes are returned."""
        points, frames = _frames(sde, grid, times, x)
        evaluate = _evaluation(problem, x)
        stencils = _Stencils.of(u, x.device)
        slopes: dict[int, Tensor] = {}
        pulls: dict[int, Tensor] = {}
        positions: dict[int, Tensor] = {}
        estimates: list[Tensor] = []
        squares: list[Tensor] = []
        along: list[Tensor] = []
        grams: list[Tensor] = []
        products: list[int] = []
        w = frames[0].unroot(x.double() - frames[0].center)
        moved = torch.zeros_like(w)
        probes = probes_ahead(problem.divergence, x, problem.noise, probe_counts)
        for i, (frame, drawn) in enumerate(zip(frames, probes, strict=True)):
            positions[i] = w if i == 0 else _add(w, stencils.predictors[i - 1], slopes, i)
            products.append(len(drawn))
            slopes[i], estimate, pulls[i], square = evaluate(positions[i], frame, drawn)
            estimates.append(estimate)
            squares.append(square)
            if i > 0:
                w = _add(w, stencils.correctors[i - 1], slopes, i + 1)
            while len(grams) < len(frames) - 1 and stencils.stop(len(grams)) <= i + 1:
                done, stop = len(grams), stencils.stop(len(grams))
                jump = _add(positions.pop(done) - positions[done + 1], stencils.rise[done], slopes, stop)
                along.append(_dot(pulls[done + 1], jump))
                moved = moved + jump
                with torch.no_grad():
                    grams.append(_gram(pulls[done + 1], jump, _sum(stencils.unresolved[done], slopes, stop)))
                if not keep:
                    pulls.pop(done)
                    for old in [k for k in slopes if k < i - POINTS]:
                        del slopes[old]
        last = len(frames) - 1
        latent = frames[-1].center + frames[-1].root(positions[last] + moved)
        found = Estimates.of(estimates)
        trust = _trusts(found, points, torch.stack(squares), x[0].numel())
        hessian = found.means() * points.stretch[:, None]
        error = path_square(torch.stack(grams), trust[1:].detach(), hessian[1:].detach(), x[0].numel())
        # at T the gradient of the prior, and not the score, gives the effect of the jumps on log p
        jumps = (trust[1:] * torch.stack(along)).sum(0) - _dot(pulls[last], moved)
        trusted = [pulls[k] * trust[k].reshape(-1, *[1] * (x.ndim - 1)) for k in sorted(pulls)] if keep else []
        return cls(points, found, latent, jumps, error, products, [slopes[k] for k in sorted(slopes)], trusted)


def node_times(sde: LinearSDE, grid: FlowGrid, u: Tensor) -> tuple[Tensor, Tensor]:
    """The times of the nodes u (n,), without a graph, and u, with a graph to the parameters of the process if there is one."""
    with torch.no_grad():
        times = sde.time_of_log_spread(u)
        times[0], times[-1] = grid.t_min, sde.T
    if torch.is_grad_enabled():
        clock = sde.log_spread(times)
        u = clock if clock.requires_grad else u
    return times, u


@dataclass(frozen=True)
class _Frame:
    """The coefficients of the evaluation at a node.

    Args:
        t: (B,), in the dtype of x.
        center: Mean of the Gaussian, (*state), float64.
        root: R.
        unroot: R^-1.
        lift: R^T.
        pull: B^T S^-1 R.
        push: -R^-1 B.
        narrow: B in the dtype of x.
        back: B^T in the dtype of x.
    """

    t: Tensor
    center: Tensor
    root: LinearMap
    unroot: LinearMap
    lift: LinearMap
    pull: LinearMap
    push: LinearMap
    narrow: LinearMap
    back: LinearMap


def _frames(sde: LinearSDE, grid: FlowGrid, times: Tensor, x: Tensor) -> tuple[WhitePoint, list[_Frame]]:
    """The coordinates at all nodes together, and the frame of each. They are computed on the CPU and moved to the device of x."""
    wide, n = x.new_zeros((), dtype=torch.float64), len(times)
    event = torch.zeros((1, *x.shape[1:]), dtype=torch.float64)
    origin = sde.embed_data(grid.origin(sde.extract_data(event)))
    centers = sde.kernel(times).mean(origin.expand(n, *origin.shape[1:])).to(wide)
    points = white_path(sde, times, grid.data_std).to(wide)
    narrow = points.spread.to(x)
    coefficients = (
        points.t.to(x)[:, None].expand(n, len(x)),
        centers,
        points.root,
        points.unroot,
        points.root.transpose(),
        points.pull,
        points.push.times(-torch.ones_like(wide)),
        narrow,
        narrow.transpose(),
    )
    return points, [_Frame(*part) for part in zip(*(c.unbind() for c in coefficients), strict=True)]


@dataclass(frozen=True)
class _Stencils:
    """Weights of the slopes for each interval: predictor, corrector, the rise of the path, and its unresolved part.

    Args:
        first: The first node of ``rise`` and ``unresolved``.
        points: Number of their nodes.
        predictors: Weights of the predictor.
        correctors: Weights of the corrector.
        rise: Weights of the rise of the path.
        unresolved: Weights of the difference between the cubic and the quadratic.
    """

    first: list[int]
    points: int
    predictors: list[Weights]
    correctors: list[Weights]
    rise: list[Weights]
    unresolved: list[Weights]

    @classmethod
    def of(cls, u: Tensor, device: torch.device) -> _Stencils:
        """The weights for the nodes u (n,)."""

        def read(rows: Sequence[Tensor]) -> list[Weights]:
            if not u.requires_grad:
                return [row.tolist() for row in rows]
            return [row.to(device).unbind() for row in rows]

        predictors, correctors = adams(u, ORDER)
        stencils, rest = Increments.of(u, POINTS), between_orders(u.detach(), POINTS)
        unresolved: list[Weights] = list(rest.tolist())
        rise = read(stencils.weights.unbind())
        return cls(stencils.first, stencils.points, read(predictors), read(correctors), rise, unresolved)

    def stop(self, interval: int) -> int:
        """One plus the last node that an interval needs."""
        return self.first[interval] + self.points


def _add(total: Tensor, weights: Weights, slopes: dict[int, Tensor], stop: int) -> Tensor:
    """``total`` plus the weighted sum of the slopes at the nodes before ``stop``."""
    for k, weight in enumerate(weights, start=stop - len(weights)):
        if isinstance(weight, Tensor):
            total = total + weight * slopes[k]
        else:
            total = torch.add(total, slopes[k], alpha=weight)
    return total


def _sum(weights: Weights, slopes: dict[int, Tensor], stop: int) -> Tensor:
    """The weighted sum of the slopes at the nodes before ``stop``."""
    return _add(weights[0] * slopes[stop - len(weights)], weights[1:], slopes, stop)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(B,) inner products of two states (B, *state)."""
    return (a * b).reshape(len(a), -1).sum(1)


def _gram(*states: Tensor) -> Tensor:
    """(B, k, k) inner products of k states (B, *state)."""
    flat = torch.stack([state.flatten(1) if state.ndim > 1 else state[:, None] for state in states], dim=1)
    return flat @ flat.mT


Evaluation = Callable[[Tensor, _Frame, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]


def _evaluation(problem: FlowProblem, x: Tensor) -> Evaluation:
    """(w, frame, probes) -> f, the estimates (E, B) of minus the divergence of h, R^T score, and |h|^2 (B,); float64."""
    divergence, zero = problem.divergence, torch.zeros_like(x)

    def evaluate(w: Tensor, frame: _Frame, probes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        here = (frame.center + frame.root(w)).to(x.dtype)
        scores: list[Tensor] = []

        def field(xi: Tensor) -> Tensor:
            scores.append(problem.score(here + frame.narrow(xi), frame.t))
            return frame.back(scores[-1])

        h, trace = divergence(field, zero, probes, problem.differentiable)
        h, score = h.double(), scores[0] if problem.differentiable else scores[0].detach()
        slope = frame.push(h + frame.pull(w))
        square = h.square().reshape(len(x), -1).sum(1)
        spoilt = 0.0 * square  # NaN if the score is not finite, else 0
        return slope, spoilt - trace, frame.lift(score.double()), square

    if not problem.differentiable:
        return torch.no_grad()(evaluate)
    return lambda w, frame, probes: checkpoint(evaluate, w, frame, probes, use_reentrant=False)


def _trusts(estimates: Estimates, points: WhitePoint, squares: Tensor, d: int) -> Tensor:
    """The part of the score at each node that step 3 uses, in (0, 1], (n, B)."""
    least = estimates.means().abs() + d * points.gaussian_trace[:, None]
    return (_TRUST * least / squares.clamp(min=1e-30)).clamp(max=1.0)
