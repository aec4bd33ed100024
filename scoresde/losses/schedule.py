r"""The variance of the likelihood-weighted loss, as the objective of a learned noise schedule (Kingma et al. 2021, section 5).

Let l be the denoising loss with likelihood weighting for one time t, drawn uniformly:

.. math::
    \ell = \tfrac{1}{2} \frac{d\gamma}{dt} \| z - \hat z(x_t, t) \|^2, \qquad \gamma(t) = \ln \frac{\sigma^2}{\alpha^2}

Its mean is an integral over gamma, which depends only on the end points of gamma and not on the shape in between. So the shape
may be trained to minimize the variance, E[l^2] - E[l]^2. As the second term does not depend on the shape, E[l^2] has the same
gradient.

The end points change the bound itself. `VariationalSchedule` trains both with one evaluation of the network. At a time t, let
h(t) = ||z - z_hat(x_t, t)||^2 / 2 and h' its derivative, by automatic differentiation. A parameter eta of gamma changes the loss
l = h dgamma/dt by

.. math::
    \frac{\partial \ell}{\partial \eta} = h \frac{\partial}{\partial \eta} \frac{d\gamma}{dt}
        + h' \frac{\partial \gamma}{\partial \eta}

because h depends on eta through gamma(t) only. The gradient of the end points is the mean of this plus those of the prior and the
reconstruction. The gradient of the shape is the mean of 2 l times this, that of the second moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from scoresde._validation import shown, times_checked
from scoresde.data.transforms import Transform
from scoresde.losses.denoising import DenoisingScoreMatching
from scoresde.losses.noisy import Draw
from scoresde.losses.times import TimeDistribution, UniformTime, distribution_of
from scoresde.losses.variational import VariationalDiffusionLoss, VariationalDraw
from scoresde.score.step_terms import prior_divergence
from scoresde.sde import LinearSDE, ScalarSDE
from scoresde.sde.autodiff import value_and_slope


class ScheduleVariance(DenoisingScoreMatching):
    """The second moment of the likelihood-weighted loss, which trains the noise schedule of a process.

    ``loss(model, x0)`` is the square of the mean over coordinates of the denoising loss, for each example, (B,). Training with
    it changes the parameters of the process. The network is trained by another objective, ``DenoisingScoreMatching(sde,
    "likelihood")``, whose expected value stays the same.

    Args:
        sde: A process with trainable parameters, such as ``LearnedSNRSDE()``, whose end points are fixed.
        times: The distribution of t, which must be uniform for a fixed range: ``UniformTime(t_min)``, also with
            ``LowDiscrepancy``.
        seed: Seed of the random draws. With the seed of the network's objective, both use the same draws.

    Raises:
        TypeError: The process has no trainable parameters.
        ValueError: The end points of the schedule are trained. They change the mean of the loss, so the variance is not the
            right objective for them.

    References:
        Kingma et al. 2021, "Variational diffusion models", arXiv:2107.00630, section 5 and appendix I.

    Example:
        >>> import torch
        >>> from scoresde import ScoreModel
        >>> from scoresde.networks import MLP
        >>> from scoresde.sde import LearnedSNRSDE
        >>> sde = LearnedSNRSDE()
        >>> loss = ScheduleVariance(sde)
        >>> loss(ScoreModel(MLP((2,)), sde), torch.zeros(8, 2)).shape, list(loss.trained(ScoreModel(MLP((2,)), sde)))
        (torch.Size([8]), ['sde'])
    """

    def __init__(self, sde: LinearSDE, *, times: TimeDistribution | None = None, seed: int = 0) -> None:
        if not isinstance(sde, nn.Module) or not any(p.requires_grad for p in sde.parameters()):
            raise TypeError(
                f"sde={shown(sde)} has no trainable parameters: give a process that has, as LearnedSNRSDE()"
            )
        if getattr(sde, "train_ends", False):
            raise ValueError(
                f"sde={sde!r} has end points that are trained, and their gradient is not that of the variance: give "
                "train_ends=False"
            )
        _check_uniform(times)
        super().__init__(sde, "likelihood", times=times, seed=seed)

    def trained(self, model: Any) -> Mapping[str, nn.Module]:
        return {"sde": model.sde}

    def evaluate(self, model: Callable[..., Tensor], draw: Draw, **condition: Any) -> Tensor:
        return super().evaluate(model, draw, **condition).square()


@runtime_checkable
class LearnedRise(Protocol):
    """A process with gamma(t) = gamma_0 + exp(log_rise) share(t), where the share rises from 0 to 1."""

    gamma_0: nn.Parameter
    log_rise: nn.Parameter

    def share(self, t: Tensor) -> Tensor:
        """The share of the rise up to t, in the shape of t."""


class VariationalSchedule(VariationalDiffusionLoss):
    """The variational bound of discrete data, which trains a learned noise schedule with its end points.

    ``loss(model, x0)`` is the bound of `VariationalDiffusionLoss`, (B,) bits/dim. Its gradient with respect to the end points
    is that of the bound. Its gradient with respect to the shape between them, on which the mean does not depend, is that of
    the second moment of the diffusion term.

    Args:
        sde: The process, a ``LearnedSNRSDE`` or another one with ``gamma_0``, ``log_rise`` and ``share(t)`` for which gamma is
            ``gamma_0 + exp(log_rise) share(t)``. With ``train_ends=False`` only the shape is trained.
        transform: The transform of the data, a ``LevelMiddles``.
        times: ``LowDiscrepancy(UniformTime())`` by default, or ``UniformTime(t_min)``.
        seed: Seed of the random draws. With the seed of the network's objective, both use the same draws.

    References:
        Kingma et al. 2021, "Variational diffusion models", arXiv:2107.00630, section 5.1 and appendix I.

    Example:
        >>> import torch
        >>> from scoresde import ScoreModel
        >>> from scoresde.data import LevelMiddles
        >>> from scoresde.networks import MLP
        >>> from scoresde.sde import LearnedSNRSDE
        >>> sde, transform = LearnedSNRSDE(train_ends=True), LevelMiddles(17)
        >>> x0 = transform.encode(torch.zeros(8, 2), None, dtype=torch.float32)
        >>> VariationalSchedule(sde, transform)(ScoreModel(MLP((2,)), sde), x0).mean().backward()
        >>> sde.gamma_0.grad is None
        False
    """

    def __init__(
        self, sde: LinearSDE, transform: Transform, *, times: TimeDistribution | None = None, seed: int = 0
    ) -> None:
        if not isinstance(sde, LearnedRise):
            raise TypeError(f"sde={shown(sde)} has no learned end points: give LearnedSNRSDE(train_ends=True)")
        _check_uniform(times)
        super().__init__(sde, transform, times=times, seed=seed)

    def trained(self, model: Any) -> Mapping[str, nn.Module]:
        return {"sde": model.sde}

    def evaluate(self, model: Callable[..., Tensor], draw: Draw, **condition: Any) -> Tensor:
        assert isinstance(draw, VariationalDraw) and isinstance(self.sde, LearnedRise)
        error, change = self._error(model, draw, condition)
        bits = self._bits(draw.x0)
        share, slope = value_and_slope(self.sde.share, draw.t)
        start, rise = self.sde.gamma_0.to(draw.t), self.sde.log_rise.to(draw.t).exp()
        shape = (start + rise * share).detach(), (rise * slope).detach()  # gamma and its slope
        by_ends = start + rise * share.detach(), rise * slope.detach()
        by_shape = start.detach() + rise.detach() * share, rise.detach() * slope
        scale = self._span() * bits
        diffusion = scale * error * shape[1]
        prior, reconstruction = (term * bits for term in self._at_the_ends(draw))
        value = (prior + reconstruction).to(diffusion.dtype) + diffusion
        first, second = (scale * (error * gamma_slope + change * gamma) for gamma, gamma_slope in (by_ends, by_shape))
        moved = (prior + reconstruction).to(diffusion.dtype) + first + 2.0 * diffusion * second
        return value.detach() + (moved - moved.detach())

    def _error(
        self, model: Callable[..., Tensor], draw: VariationalDraw, condition: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """h = ||z - z_hat||^2 / 2 and its time derivative, (B,) each, without a graph. Without gradients the second is 0."""
        learns = torch.is_grad_enabled()
        t = draw.t.detach().requires_grad_(learns)
        with times_checked():
            kernel = self.sde.kernel(t)
            x_t = (kernel.mean(draw.x0) + kernel.scale(draw.noise)).to(draw.x0.dtype)
            at = Draw(t, draw.noise, x_t, kernel)
            error = 0.5 * (draw.noise - self._noise(model, at, condition)).reshape(len(x_t), -1).square().sum(1)
        change = torch.autograd.grad(error.sum(), t)[0] if learns else torch.zeros_like(t)
        return error.detach(), change

    def _at_the_ends(self, draw: VariationalDraw) -> tuple[Tensor, Tensor]:
        """The terms of prior and reconstruction, (B,) nats each, with gradients of the end points only."""
        sde = self.sde
        assert isinstance(sde, LearnedRise)
        start, rise = sde.gamma_0.double(), sde.log_rise.double().exp()
        first, last = (start + rise * sde.share(t).detach() for t in self._ends(draw.t.device))
        assert isinstance(sde, ScalarSDE)
        prior = prior_divergence(draw.x0, torch.sigmoid(-last).sqrt(), torch.sigmoid(last).sqrt(), sde.prior_std())
        return prior, self._reconstruction(draw, (0.5 * first).exp())


def _check_uniform(times: TimeDistribution | None) -> None:
    """Raise ValueError for times that are not uniform."""
    if times is not None and not isinstance(distribution_of(times), UniformTime):
        raise ValueError(
            f"times={times!r} is not allowed: the schedule decides how often each noise level occurs; give UniformTime()"
        )
