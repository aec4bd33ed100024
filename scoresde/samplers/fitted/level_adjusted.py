r"""DDIM whose levels follow the estimated noise of each sample.

Let tau_0 > ... > tau_K be the levels ln(sigma / alpha) of a grid. Before step k, a network estimates the level u of each state
(B,). The remaining levels go from u to tau_K in the proportions of the grid, so the step goes to::

    u_s = tau_K + (u - tau_K) (tau_{k+1} - tau_K) / (tau_k - tau_K)
    x_s = alpha_s E[x_0 | x_t] + sigma_s E[z | x_t]

with the times t of u and s of u_s, which differ from sample to sample. With u = tau_k this is DDIM.

References:
    San-Roman, Nachmani, Wolf 2021, "Noise estimation for generative diffusion models", arXiv:2104.02600. Here
    the remaining levels are those of the given grid, in place of a linear or Fibonacci schedule of beta.
"""

from __future__ import annotations

from torch import Tensor

from scoresde._validation import check_choice, check_number, expand
from scoresde.noise import NoiseSource
from scoresde.samplers import grids
from scoresde.samplers.base import Callback, CountedScore, Sampler
from scoresde.samplers.discretization import Discretization, Grid, Steps, discretization, plain_steps
from scoresde.samplers.fitted.level_network import LevelNetwork
from scoresde.score.denoising import check_scalar
from scoresde.sde import SDE, LinearSDE, ScalarSDE


class LevelAdjustedDDIM(Sampler):
    """DDIM without noise, with the noise level of each sample estimated before each step.

    Use it where a state may not have the noise level of its time, such as a start of unknown level. ``nfe`` does not count the
    evaluations of the level network. The callback gets the times of the grid, and hooks the times of each sample.

    Args:
        network: The level network of the process, see :func:`fit_level_network`.
        steps: Number of steps N, or N + 1 descending times.
        grid: Function of ``scoresde.samplers.grids`` that makes the times of N steps.
        t_min: Last time of the grid, > 0. None takes the process's own ``t_min`` if it has one, else 1e-3.
        denoise: Return E[x_0 | x] at the estimated level of the last state, with one more evaluation of the score.

    References:
        San-Roman et al. 2021, arXiv:2104.02600.

    Example:
        >>> levels = fit_level_network(sde, data, MLP((16,)))  # doctest: +SKIP
        >>> samples = LevelAdjustedDDIM(levels, 10)(sde, score, (100, 16)).samples  # doctest: +SKIP
    """

    takes_hooks = True

    def __init__(
        self,
        network: LevelNetwork,
        steps: Steps = 20,
        grid: Grid = grids.log_noise,
        *,
        t_min: float | None = None,
        denoise: bool = True,
    ) -> None:
        if t_min is not None:
            check_number("t_min", t_min, above=0.0)
        check_choice("denoise", denoise, (True, False))
        self.network, self.steps, self.grid, self.t_min = network, level_steps(steps), grid, t_min
        self.denoise = denoise
        discretization(self.steps, grid, t_min)

    def __repr__(self) -> str:
        return f"LevelAdjustedDDIM({self.network!r}, steps={self.steps!r})"

    def check_process(self, sde: SDE) -> None:
        check_scalar(sde)  # type: ignore[arg-type]
        self.network.check_process(sde, self.network.event_shape)  # type: ignore[arg-type]
        check_last_time(self.steps, self.grid, self.t_min, sde)  # type: ignore[arg-type]

    def start_time(self, sde: SDE) -> float:
        return discretization(self.steps, self.grid, self.t_min).start_time(sde)  # type: ignore[arg-type]

    def run(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(sde, ScalarSDE)  # by check_process
        times = self._times(sde)
        levels = sde.log_noise(times).tolist()
        end = levels[-1]
        for k in range(len(levels) - 1):
            u = self.network.log_noise(x)
            share = (levels[k + 1] - end) / (levels[k] - end)
            t, s = sde.time_of_log_noise(u), sde.time_of_log_noise(end + share * (u - end))
            data, z = _data_and_noise(sde, score, x, t)
            x = expand(sde.alpha(s).to(x), x) * data + expand(sde.sigma(s).to(x), x) * z
            x = score.hooked(k + 1, s.to(x), x)
            callback(k + 1, times[k + 1].to(x), x)
        if self.denoise:
            x, _ = _data_and_noise(sde, score, x, sde.time_of_log_noise(self.network.log_noise(x)))
        return x, times

    def _times(self, sde: ScalarSDE) -> Tensor:
        return discretization(self.steps, self.grid, self.t_min).times(sde)


def level_steps(steps: Steps) -> int | tuple[float, ...]:
    """The number of steps or the times, checked. Raises TypeError for a ``Discretization``."""
    plain = plain_steps(steps)
    if isinstance(plain, Discretization):
        raise TypeError(f"steps={steps!r} is not allowed: give a number of steps, or descending times")
    return plain


def check_last_time(steps: int | tuple[float, ...], grid: Grid, t_min: float | None, sde: ScalarSDE) -> None:
    """Raise ValueError if the last time of a grid is 0, where ln(sigma / alpha) is not finite."""
    last = float(discretization(steps, grid, t_min).times(sde)[-1])
    if last <= 0.0:
        raise ValueError(f"steps={steps!r} is not allowed: the last time is {last:g}, and must be above 0")


def _data_and_noise(sde: ScalarSDE, score: CountedScore, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """E[x_0 | x_t] and E[z | x_t], (B, *event), at the times t (B,)."""
    alpha, sigma = (expand(v.to(x), x) for v in (sde.alpha(t), sde.sigma(t)))
    z = -sigma * score(x, t.to(x))
    return (x - sigma * z) / alpha, z
