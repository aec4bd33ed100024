r"""Resampling (Lugmayr et al. 2022, RePaint, arXiv:2201.09865): a reverse step, and the forward step back.

.. math::
    x_s \sim p(x_s \mid x_t), \qquad x_t \leftarrow a \, x_s + \mathrm{std} \, z

For an exact reverse step this leaves p_t as it is. With a hook that replaces known entries
(:class:`~scoresde.samplers.hooks.KeepKnown`), the other entries see the known ones in every repetition, and come closer to their
conditional distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde._validation import check_count
from scoresde.samplers.grid_sampler import Model
from scoresde.samplers.instants import Interval
from scoresde.samplers.predictor_corrector.correctors import Corrector


@dataclass(frozen=True)
class Resampling(Corrector):
    """Repetitions of a reverse step to the next time of the grid and the forward step back.

    The reverse step is that of :class:`~scoresde.samplers.Ancestral`, x_s = (x + std^2 score) / a + std z. A repetition needs one
    evaluation of the score. The process must have scalar coefficients.

    Args:
        steps: Number of repetitions at each time.

    References:
        Lugmayr et al. 2022, "RePaint: inpainting using denoising diffusion probabilistic models", arXiv:2201.09865.
    """

    steps: int = 1

    draws_per_step = 2  # one for each direction
    needs_transition = True

    def __post_init__(self) -> None:
        check_count("steps", self.steps)

    def step(self, model: Model, x: Tensor, interval: Interval, z: Tensor, past: Any) -> tuple[Tensor, Tensor, Any]:
        """x_s = (x + std^2 score) / a + std z_1, then x_t = a x_s + std z_2."""
        a, std = interval.a, interval.std
        back = (x + std**2 * model.score(x, interval.at)) / a + std * z[0]
        mean = a * back
        return mean + std * z[1], mean, None
