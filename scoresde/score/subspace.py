"""Diffusion in a subspace where the noise is high (Jing, Corso, Berlinghieri, Jaakkola 2022, arXiv:2205.01490).

Of the modes of an orthonormal basis some are kept, rows U_k, and the others, U_perp, hold little of the data. At a time t_split
their noise has drowned them, and above it they are taken for independent Gaussians of the data's own widths:

    p_t(x) = p_t^low(U_k x) N(U_perp x; 0, (alpha_t^2 s_perp^2 + sigma_t^2) I)            t > t_split

    score(x, t) = U_k^T score_low(U_k x, t) - U_perp^T U_perp x / (alpha_t^2 s_perp^2 + sigma_t^2)

The process stays the ordinary one with a number for every time: alike in all directions, it acts on U_k x as on any event, so
score_low is the score of a model of U_k x_0 under the same process, of fewer dimensions. What shrinks is the score alone. (The
same could be a `ModewiseSDE` whose other modes stop at t_split; but then the prior, the signal-to-noise ratio and the kernel
would depend on the split, F would jump, and the full score below, an ordinary model, would be of another process. The law of x_t
is the same.) A `SubspaceScore` is a score in all dimensions at all times: the flow, the likelihood and every sampler take it.

Sampling saves its cost, with the same samplers in two legs:

    leg 1    U_k x from T to t_split under score_low, noisy at its end (``denoise=False``)
    joint    x = U_k^T low + U_perp^T n,   n ~ N(0, (alpha^2 s_perp^2 + sigma^2) I):  the wrapped score's law  (`join`)
    leg 2    x from t_split down under score_full, after a few Langevin steps on U_perp x where its law is not Gaussian (`settle`)

With more than one split, score_low is a `SubspaceScore` itself. `orthogonal_divergence` says what a split costs in fidelity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._arguments import check_constructors, checked_arguments
from scoresde._validation import check_batch, check_count, check_finite, check_number, expand
from scoresde.noise import NoiseSource
from scoresde.sde.base import Score, check_same_process
from scoresde.sde.linalg.basis import Basis
from scoresde.sde.scalar import ScalarSDE
from scoresde.sde.scores import in_evaluation_mode


class Subspace:
    """The span of some modes of an orthonormal basis, and its complement.

    basis: of the events, e.g. `basis.haar` (its kept quarter: 2x2 averages, doubled) or `basis.pca`'s.
    kept: bool, the basis's event shape; at least one mode is kept and one is not.

    low_shape is the shape of U_k x: kept modes that form a box in the event's shape keep it, (1, 8, 8) -> (1, 4, 4) by pooling;
    others make a vector (n,) in the order of the flattened event.
    """

    def __init__(self, basis: Basis, kept: Tensor) -> None:
        if not isinstance(kept, Tensor) or kept.dtype != torch.bool or kept.shape != basis.event_shape:
            raise ValueError(f"kept is {_said(kept)}: give a bool tensor of the basis's shape {basis.event_shape}")
        if not bool(kept.any()) or bool(kept.all()):
            raise ValueError(f"kept has {int(kept.sum())} of {kept.numel()} modes: keep at least one, and not all")
        self.basis, self.kept = basis, kept
        box, sides = torch.ones_like(kept), list[int]()
        for axis in range(kept.ndim):
            others = [k for k in range(kept.ndim) if k != axis]
            used = kept.any(dim=others, keepdim=True) if others else kept
            box = box & used
            sides.append(int(used.sum()))
        self.low_shape = tuple(sides) if torch.equal(box, kept) else (int(kept.sum()),)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """U_k x (B, *low_shape) and U_perp x (B, n_perp), for x (B, *event)."""
        check_batch("x", x)
        modes, kept = self.basis.forward(x), self.kept.to(x.device)
        return modes[:, kept].reshape(len(x), *self.low_shape), modes[:, ~kept]

    def down(self, x: Tensor) -> Tensor:
        """U_k x, (B, *event) -> (B, *low_shape): the data of the small model."""
        return self.split(x)[0]

    def merge(self, low: Tensor, perp: Tensor) -> Tensor:
        """U_k^T low + U_perp^T perp, (B, *event)."""
        if tuple(low.shape[1:]) != self.low_shape:
            raise ValueError(f"low has event shape {tuple(low.shape[1:])}: the subspace's is {self.low_shape}")
        kept = self.kept.to(low.device)
        order = torch.cat((kept.flatten().nonzero(), (~kept).flatten().nonzero())).flatten().argsort()
        modes = torch.cat((low.reshape(len(low), -1), perp), dim=1)[:, order]
        return self.basis.inverse(modes.reshape(len(low), *self.basis.event_shape))


@dataclass(frozen=True, eq=False)
class SubspaceScore:
    """``score(x, t)``: score_full for t <= t_split; above, score_low on U_k x and a Gaussian's on the rest.

    score_low: (low (B, *low_shape), t) -> the score of U_k x_t.
    score_full: (x (B, *event), t) -> grad log p_t(x).
    sde: the process of both. One with a number for every time: in any other, directions mix or differ.
    subspace: which modes score_low has. Data must be centred in the others.
    complement_std: standard deviation of the data in the modes that are not kept, >= 0; a number, or one for each, in the event's
        shape (the square root of the variances that `basis.pca` returns), where those of kept modes are not read.
    t_split: the time above which score_low serves, in (0, T).

    Only samples that need a score are evaluated by it, so a batch with times on both sides costs both.
    """

    score_low: Score
    score_full: Score
    sde: ScalarSDE
    subspace: Subspace
    complement_std: float | Tensor
    t_split: float

    def __post_init__(self) -> None:
        if not isinstance(self.sde, ScalarSDE):
            raise TypeError(f"sde={self.sde!r} is not alike in all directions: give a ScalarSDE")
        for score in (self.score_low, self.score_full):
            check_same_process(self.sde, score)
        check_number("t_split", self.t_split, above=0.0)
        if self.t_split >= self.sde.T:
            raise ValueError(f"t_split={self.t_split!r} is not allowed: give a time in (0, {self.sde.T:g})")
        std, shape = torch.as_tensor(self.complement_std, dtype=torch.float64), self.subspace.kept.shape
        if std.shape not in ((), shape):
            raise ValueError(f"complement_std has shape {tuple(std.shape)}: give a number or {tuple(shape)}")
        if not bool((std.expand(shape)[~self.subspace.kept] >= 0).all()) or not bool(torch.isfinite(std).all()):
            raise ValueError("complement_std holds negative or non-finite values")

    def __call__(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """The score at x (B, *event), t () or (B,), the shape of x. Raises ValueError for t outside [0, T]."""
        check_batch("x", x)
        self.sde.check_time(t, len(x))
        t = t.expand(len(x))
        above = t > self.t_split
        if bool(above.all()):
            return self._above(x, t, **condition)
        if not bool(above.any()):
            return self.score_full(x, t, **condition)
        here = {name: _rows(value, above) for name, value in condition.items()}
        there = {name: _rows(value, ~above) for name, value in condition.items()}
        parts = (self._above(x[above], t[above], **here), self.score_full(x[~above], t[~above], **there))
        order = torch.cat((above.nonzero(), (~above).nonzero())).flatten().argsort()
        return torch.cat(parts)[order]

    def _above(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        low, perp = self.subspace.split(x)
        score = self.score_low(low, t, **condition)
        if score.shape != low.shape:
            raise ValueError(f"score_low returned shape {tuple(score.shape)} for low of shape {tuple(low.shape)}")
        return self.subspace.merge(score, -perp / self.complement_variance(t).to(x))

    def complement_variance(self, t: Tensor) -> Tensor:
        """alpha^2 s_perp^2 + sigma^2, float64, (n_perp,) or (B, n_perp) as t is () or (B,)."""
        t = t.to(torch.float64)
        kept = self.subspace.kept.to(t.device)
        std = torch.as_tensor(self.complement_std, dtype=torch.float64, device=t.device).expand(kept.shape)[~kept]
        return (self.sde.alpha(t)[..., None] * std) ** 2 + self.sde.sigma(t)[..., None] ** 2

    def join(self, low: Tensor, noise: NoiseSource) -> Tensor:
        """A draw of x at t_split (B, *event) given U_k x = low (B, *low_shape): the rest from its Gaussian."""
        at = torch.tensor(self.t_split, dtype=torch.float64, device=low.device)
        variance = self.complement_variance(at)
        z = noise.normal(variance.shape, step=0, purpose="complement", dtype=low.dtype)
        return self.subspace.merge(low, variance.sqrt().to(low) * z)

    @in_evaluation_mode("self")
    def settle(self, x: Tensor, noise: NoiseSource, steps: int = 2, snr: float = 0.16) -> Tensor:
        """x (B, *event) at t_split after ``steps`` Langevin steps on U_perp x under score_full, U_k x staying as it is.

        A step is 2 (snr sigma)^2: for a score -z / sigma what the Langevin corrector takes (Song et al. 2021, algorithm 4-5).
        """
        check_batch("x", x)
        check_count("steps", steps, least=0)
        check_number("snr", snr, above=0.0)
        t = torch.full((len(x),), self.t_split, dtype=x.dtype, device=x.device)
        size = 2.0 * (snr * self.sde.sigma(t)[:, None]) ** 2
        low, perp = self.subspace.split(x)
        for k in range(steps):
            slope = self.subspace.split(self.score_full(self.subspace.merge(low, perp), t))[1]
            z = noise.normal(perp.shape[1:], step=k, purpose="settle", dtype=x.dtype)
            perp = perp + size * slope + (2.0 * size).sqrt() * z
        return self.subspace.merge(low, perp)


@checked_arguments
@in_evaluation_mode("wrapped")
def orthogonal_divergence(wrapped: SubspaceScore, x0: Tensor, times: Sequence[float], seed: int = 0) -> Tensor:
    """sigma^2 E |U_perp score_full(x_t) + U_perp x_t / (alpha^2 s_perp^2 + sigma^2)|^2 / n_perp at each time, (len(times),).

    The paper's orthogonal Fisher divergence in units of the noise, float64: 0 where the Gaussian is exact. A t_split is good
    where it is small, 1e-2 or so.

    wrapped: its score_full must serve at these times, its t_split is not read.
    x0: data (B, *event). times: in (0, T].
    """
    check_batch("x0", x0)
    check_finite("x0", x0)
    if x0.shape[1:] != wrapped.subspace.kept.shape:
        raise ValueError(
            f"x0 has shape {tuple(x0.shape)}: give (B, {', '.join(map(str, wrapped.subspace.kept.shape))})"
        )
    if not times:
        raise ValueError("times=() is not allowed: give at least one time")
    noise, values = NoiseSource.of(seed, len(x0), device=x0.device), []
    for k, time in enumerate(times):
        t = torch.full((len(x0),), time, dtype=x0.dtype, device=x0.device)
        x = wrapped.sde.marginal_sample(x0, t, noise, step=k)
        with torch.no_grad():
            slope = wrapped.subspace.split(wrapped.score_full(x, t))[1]
        gap = slope + wrapped.subspace.split(x)[1] / wrapped.complement_variance(t).to(x)
        values.append((expand(wrapped.sde.sigma(t), gap) * gap).double().square().mean())
    return torch.stack(values)


def _rows(value: Any, rows: Tensor) -> Any:
    """The part of a condition that belongs to some samples: batched tensors are cut, others are everyone's."""
    return value[rows] if isinstance(value, Tensor) and value.ndim > 0 and len(value) == len(rows) else value


def _said(kept: object) -> str:
    return f"{kept.dtype} of shape {tuple(kept.shape)}" if isinstance(kept, Tensor) else f"a {type(kept).__name__}"


check_constructors(globals())
