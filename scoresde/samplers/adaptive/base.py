"""What the samplers without a grid of times share: the last time and the final denoising step."""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde._validation import check_choice, check_number
from scoresde.samplers.base import Sampler
from scoresde.samplers.grids import check_t_min, end_time
from scoresde.sde import SDE, Score


class SolverSampler(Sampler):
    """A sampler that integrates from T to ``t_min`` with a solver that makes its own steps.

    Attributes:
        t_min: Last time, in (0, T). None takes the process's own ``t_min`` if it has one, else 1e-3.
        denoise: Whether to return E[x_0 | x] at ``t_min`` instead of the state.
    """

    t_min: float | None
    denoise: bool

    def set_end(self, t_min: float | None, *, denoise: bool) -> None:
        """Check and store the two arguments."""
        if t_min is not None:
            check_number("t_min", t_min, above=0.0)
        check_choice("denoise", denoise, (True, False))
        self.t_min, self.denoise = t_min, denoise

    def last_time(self, sde: SDE) -> float:
        """The last time for ``sde``. Raises ValueError if it is not below T."""
        t_min = end_time(sde, self.t_min)
        check_t_min(sde, t_min)
        return t_min

    def check_process(self, sde: SDE) -> None:
        """Raise ValueError if the last time does not fit, and TypeError if the final denoising step is not defined."""
        self.last_time(sde)
        if self.denoise and type(sde).data_from_score is SDE.data_from_score:
            raise TypeError(
                f"denoise=True is not allowed: E[x_0 | x_t] does not follow from the score of {sde!r}, which has no "
                "closed-form kernel; give denoise=False"
            )

    def denoised(self, sde: SDE, score: Score, x: Tensor, t_min: float) -> Tensor:
        """E[x_0 | x] at ``t_min`` (B, *state), or ``x`` without ``denoise``. Costs one evaluation of the score."""
        if not self.denoise:
            return x
        t = _batch_of(t_min, x)
        return sde.data_from_score(x, t, score(x, t))


def _batch_of(t: float, x: Tensor) -> Tensor:
    return torch.full((len(x),), t, dtype=x.dtype, device=x.device)
