"""Denoising score matching (Vincent 2011; Song et al. 2021, eq. 7).

    loss(x_0) = E_t E_z  lambda(t) || s(x_t, t) - grad log p(x_t | x_0) ||^2,     x_t = alpha x_0 + sigma z,

where grad log p(x_t | x_0) = -z / sigma. Weightings:

    variance     lambda = sigma^2     || sigma s + z ||^2: DDPM's and SMLD's simple loss
    likelihood   lambda = g^2         || (g / sigma) (sigma s + z) ||^2: half of its sum over coordinates and integral over
                                      time bounds -log p from above, up to a constant (Song et al. 2021b, arXiv:2101.09258)

The residual is written with sigma s + z, which stays of order one as sigma -> 0; where noise and diffusion are matrices it is
L^T s + z, and G^T L^-T of it. For a chain of N instants
(``sde.discretize(N)``) with `ChainTimes` the same lines are DDPM's and SMLD's discrete objectives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde._validation import check_choice, shown, times_checked
from scoresde.losses.base import Objective
from scoresde.losses.times import TimeDistribution
from scoresde.score import ScoreModel
from scoresde.sde import Chain, GaussianKernel, LinearSDE, check_same_process

WEIGHTINGS = ("variance", "likelihood")
REDUCTIONS = ("mean", "half_sum")


@dataclass(frozen=True)
class Draw:
    """What an objective drew for a batch.

    Attributes:
        t: Times (B,).
        noise: Noise z (B, *state).
        x_t: Noisy data A x_0 + L z (B, *state).
        kernel: The distribution of x_t given x_0 at these times, computed once for the batch.
    """

    t: Tensor
    noise: Tensor
    x_t: Tensor
    kernel: GaussianKernel


class DenoisingScoreMatching(Objective[LinearSDE]):
    """``loss(model, x0)`` -> (B,), one unbiased estimate of the objective for each example.

    sde: a `LinearSDE`; a chain of one for the discrete objectives.
    weighting: "variance" or "likelihood". A chain has the first only, as in the paper.
    times: the distribution of t; the paper's `UniformTime()` for a process, `ChainTimes()` for a chain, unless given.
    reduction: over the coordinates of an example: "mean", or "half_sum" (nats where the weighting is "likelihood").
    seed: of the draws. Call k without ``step`` uses step k, so that a loop draws afresh each time.
    """

    def __init__(
        self,
        sde: LinearSDE,
        weighting: str = "variance",
        *,
        times: TimeDistribution | None = None,
        reduction: str = "mean",
        seed: int = 0,
    ) -> None:
        if not isinstance(sde, LinearSDE):
            raise TypeError(
                f"sde={shown(sde)} has no closed-form kernel, and denoising score matching needs grad log p(x_t | x_0)"
            )
        check_choice("weighting", weighting, WEIGHTINGS)
        check_choice("reduction", reduction, REDUCTIONS)
        if isinstance(sde, Chain) and weighting != "variance":
            raise ValueError(f"weighting={weighting!r} is defined in continuous time only: a chain allows 'variance'")
        super().__init__(sde, times, seed)
        self.weighting, self.reduction = weighting, reduction

    def __call__(
        self,
        model: Callable[..., Tensor],
        x0: Tensor,
        *,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        step: int | None = None,
        indices: Tensor | None = None,
        **condition: Any,
    ) -> Tensor:
        """The loss of each example, (B,).

        model: a score, (x, t, **condition) -> the shape of x.
        x0: (B, *event) data.
        t, noise: (B,) and (B, *event), drawn unless given.
        step, indices: key of the draws; the number of this call and 0 .. B-1 unless given.
        """
        draw = self.draw(x0, t=t, noise=noise, step=step, indices=indices)
        return self.evaluate(model, draw, **condition)

    def draw(
        self,
        x0: Tensor,
        *,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        step: int | None = None,
        indices: Tensor | None = None,
    ) -> Draw:
        """Times, noise and noisy data for a batch."""
        source, step = self._keyed(x0, t, step, indices)
        shape = self.sde.state_shape(x0.shape[1:])
        if t is None and noise is None:
            u, noise = source.uniform_and_normal(
                shape, step=step, purposes=("time", "perturb"), dtypes=(self._time_dtype(x0), x0.dtype)
            )
            t = self.times.times(self.sde, u)
        t = self._times(x0, source, step) if t is None else t
        if noise is None:
            noise = source.normal(shape, step=step, purpose="perturb", dtype=x0.dtype)
        elif noise.shape != (len(x0), *shape):
            raise ValueError(
                f"noise has shape {tuple(noise.shape)}: give {(len(x0), *shape)}, one state for each event"
            )
        with times_checked():
            kernel = self.sde.kernel(t)
            x_t = kernel.mean(self.sde.embed_data(x0)) + kernel.scale(noise)
        return Draw(t, noise, x_t.to(x0.dtype), kernel)

    def evaluate(self, model: Callable[..., Tensor], draw: Draw, **condition: Any) -> Tensor:
        """The loss of each example, (B,), for a given draw."""
        with times_checked():  # `draw` has checked them
            residual = draw.noise - self._noise(model, draw, condition)
            if self.weighting == "likelihood":
                residual = self.sde.in_diffusion_units(residual, draw.t, draw.kernel)
            square = residual.reshape(len(residual), -1) ** 2
            loss = square.mean(1) if self.reduction == "mean" else 0.5 * square.sum(1)
            return loss / self.times.density(self.sde, draw.t)

    def _noise(self, model: Callable[..., Tensor], draw: Draw, condition: dict[str, Any]) -> Tensor:
        """E[z | x_t]: as a `ScoreModel` has it, which for a noise prediction is the network's output, or from the score."""
        if not isinstance(model, ScoreModel):
            return draw.kernel.noise_from_score(self._score(model, draw.x_t, draw.t, condition))
        check_same_process(self.sde, model)
        return model.noise(draw.x_t, draw.t, kernel=draw.kernel, **condition)
