"""Diffusion in a subspace where the noise is high (Jing, Corso, Berlinghieri, Jaakkola 2022, arXiv:2205.01490).

Some modes of an orthonormal basis are kept (rows U_k). The other modes, U_perp, contain little of the data. At a time
t_split the noise dominates them. Above t_split they are treated as independent Gaussians with the data's own widths::

    p_t(x) = p_t^low(U_k x) N(U_perp x; 0, (alpha_t^2 s_perp^2 + sigma_t^2) I)            t > t_split

    score(x, t) = U_k^T score_low(U_k x, t) - U_perp^T U_perp x / (alpha_t^2 s_perp^2 + sigma_t^2)

The process remains the ordinary process with scalar coefficients. It is the same in all directions, so it acts on U_k x as
on any event, and score_low is the score of a model of U_k x_0 under the same process in fewer dimensions. Only the score
becomes smaller. (A ``ModewiseSDE`` whose other modes stop at t_split would describe the same distribution of x_t. But then
the prior, the signal-to-noise ratio and the kernel would depend on the split, F would be discontinuous, and the full score
below, an ordinary model, would belong to another process.) A ``SubspaceScore`` is a score in all dimensions at all times, so
that the flow, the likelihood and every sampler accept it.

Sampling is cheaper with the same samplers in two legs::

    leg 1    U_k x from T to t_split under score_low, noisy at its end (denoise=False)
    joint    x = U_k^T low + U_perp^T n,   n ~ N(0, (alpha^2 s_perp^2 + sigma^2) I)       SubspaceScore.join
             this is the distribution of the wrapped score
    leg 2    x from t_split down under score_full, after a few Langevin steps on U_perp x
             if its distribution is not Gaussian                                          SubspaceScore.settle

For more than one split, score_low is a ``SubspaceScore`` itself. ``orthogonal_divergence`` measures the loss of fidelity of
a split."""

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

    The attribute ``low_shape`` is the shape of U_k x. Kept modes that form a box in the event's shape keep that box, e.g.
    (1, 8, 8) -> (1, 4, 4) for pooling. Other modes form a vector (n,) in the order of the flattened event.

    Args:
        basis: Basis of the events, e.g. ``basis.haar`` (whose kept quarter is 2x2 averages, doubled) or that of
            ``basis.pca``.
        kept: Which modes are kept, a bool tensor with the event shape of the basis. At least one mode is kept and one is
            not.
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
        """Splits states into the kept modes and the others.

        Args:
            x: The states, (B, *event).

        Returns:
            U_k x (B, *low_shape) and U_perp x (B, n_perp).
        """
        check_batch("x", x)
        modes, kept = self.basis.forward(x), self.kept.to(x.device)
        return modes[:, kept].reshape(len(x), *self.low_shape), modes[:, ~kept]

    def down(self, x: Tensor) -> Tensor:
        """Computes U_k x, the data of the small model.

        Args:
            x: The states, (B, *event).

        Returns:
            U_k x, (B, *low_shape).
        """
        return self.split(x)[0]

    def merge(self, low: Tensor, perp: Tensor) -> Tensor:
        """Computes U_k^T low + U_perp^T perp, the inverse of ``split``.

        Args:
            low: The kept modes, (B, *low_shape).
            perp: The other modes, (B, n_perp).

        Returns:
            The states, (B, *event).
        """
        if tuple(low.shape[1:]) != self.low_shape:
            raise ValueError(
                f"low has event shape {tuple(low.shape[1:])}: give {self.low_shape}, the shape of the subspace"
            )
        kept = self.kept.to(low.device)
        order = torch.cat((kept.flatten().nonzero(), (~kept).flatten().nonzero())).flatten().argsort()
        modes = torch.cat((low.reshape(len(low), -1), perp), dim=1)[:, order]
        return self.basis.inverse(modes.reshape(len(low), *self.basis.event_shape))


@dataclass(frozen=True, eq=False)
class SubspaceScore:
    """A score that uses the small model above t_split and the full model below.

    For t <= t_split it is score_full. For t > t_split it is score_low on U_k x, and a Gaussian's score on the rest. Each
    model is evaluated for those samples only that need it, so a batch with times on both sides costs both.

    Args:
        score_low: (low (B, *low_shape), t) -> the score of U_k x_t.
        score_full: (x (B, *event), t) -> grad log p_t(x).
        sde: The process of both. It must have scalar coefficients: other processes mix directions or treat them differently.
        subspace: The modes of score_low. The data must have mean 0 in the other modes.
        complement_std: Standard deviation of the data in the modes that are not kept, >= 0: a number, or a tensor with the
            event's shape (the square root of the variances of ``basis.pca``). Values for kept modes are ignored.
        t_split: The time above which score_low is used, in (0, T).
    """

    score_low: Score
    score_full: Score
    sde: ScalarSDE
    subspace: Subspace
    complement_std: float | Tensor
    t_split: float

    def __post_init__(self) -> None:
        if not isinstance(self.sde, ScalarSDE):
            raise TypeError(f"sde={self.sde!r} does not have scalar coefficients: give a ScalarSDE")
        for score in (self.score_low, self.score_full):
            check_same_process(self.sde, score)
        check_number("t_split", self.t_split, above=0.0)
        if self.t_split >= self.sde.T:
            raise ValueError(f"t_split={self.t_split!r} is not allowed: give a time in (0, {self.sde.T:g})")
        std, shape = torch.as_tensor(self.complement_std, dtype=torch.float64), self.subspace.kept.shape
        if std.shape not in ((), shape):
            raise ValueError(f"complement_std has shape {tuple(std.shape)}: give a number or {tuple(shape)}")
        if not bool((std.expand(shape)[~self.subspace.kept] >= 0).all()) or not bool(torch.isfinite(std).all()):
            raise ValueError("complement_std has negative or non-finite values: give finite numbers >= 0")

    def __call__(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """Computes the score.

        Args:
            x: The states, (B, *event).
            t: The times, () or (B,).
            **condition: Conditions of the two models by name.

        Returns:
            The score, with the shape of x.

        Raises:
            ValueError: t is outside [0, T].
        """
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
        """Computes alpha^2 s_perp^2 + sigma^2, the variance of the modes that are not kept.

        Args:
            t: The times, () or (B,).

        Returns:
            The variances in float64, (n_perp,) or (B, n_perp).
        """
        t = t.to(torch.float64)
        kept = self.subspace.kept.to(t.device)
        std = torch.as_tensor(self.complement_std, dtype=torch.float64, device=t.device).expand(kept.shape)[~kept]
        return (self.sde.alpha(t)[..., None] * std) ** 2 + self.sde.sigma(t)[..., None] ** 2

    def join(self, low: Tensor, noise: NoiseSource) -> Tensor:
        """Draws x at t_split given U_k x = low. The other modes are drawn from their Gaussian.

        Args:
            low: The kept modes, (B, *low_shape).
            noise: Keys of the random draws.

        Returns:
            The states, (B, *event).
        """
        at = torch.tensor(self.t_split, dtype=torch.float64, device=low.device)
        variance = self.complement_variance(at)
        z = noise.normal(variance.shape, step=0, purpose="complement", dtype=low.dtype)
        return self.subspace.merge(low, variance.sqrt().to(low) * z)

    @in_evaluation_mode("self")
    def settle(self, x: Tensor, noise: NoiseSource, steps: int = 2, snr: float = 0.16) -> Tensor:
        """Runs Langevin steps on U_perp x under score_full at t_split. U_k x does not change.

        The step size is 2 (snr sigma)^2. For a score -z / sigma this is the step of the Langevin corrector (Song et al.
        2021, algorithms 4 and 5).

        Args:
            x: The states at t_split, (B, *event).
            noise: Keys of the random draws.
            steps: Number of steps, >= 0.
            snr: Signal-to-noise ratio of a step, > 0.

        Returns:
            The states, (B, *event).
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
    """Orthogonal Fisher divergence of a split in units of the noise, for several times.

    sigma^2 E |U_perp score_full(x_t) + U_perp x_t / (alpha^2 s_perp^2 + sigma^2)|^2 / n_perp. It is 0 if the Gaussian is
    exact. A time is a good t_split if the value is small, about 1e-2.

    Args:
        wrapped: The score. Its score_full must be valid at these times. Its t_split is ignored.
        x0: Data, (B, *event).
        times: Times in (0, T].
        seed: Seed of the noise.

    Returns:
        The divergence at each time, (len(times),) float64.

    References:
        Jing, Corso, Berlinghieri, Jaakkola 2022, "Subspace diffusion generative models", arXiv:2205.01490.
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
    """The rows of a condition for some samples: batched tensors are indexed, other values are shared."""
    return value[rows] if isinstance(value, Tensor) and value.ndim > 0 and len(value) == len(rows) else value


def _said(kept: object) -> str:
    return f"{kept.dtype} of shape {tuple(kept.shape)}" if isinstance(kept, Tensor) else f"a {type(kept).__name__}"


check_constructors(globals())
