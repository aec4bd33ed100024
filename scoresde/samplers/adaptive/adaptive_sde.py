r"""The reverse SDE with an adaptive step size for each sample (Jolicoeur-Martineau et al. 2021, arXiv:2105.14080).

The reverse drift is r(x, t) = f(x, t) - g(t)^2 score(x, t). A step of size h from t to t - h makes two estimates with
one standard normal z::

    x'  = x - h r(x, t) + sqrt(h) g(t) z                                   Euler-Maruyama
    x'' = [x' + x - h r(x', t - h) + sqrt(h) g(t - h) z] / 2               stochastic Heun; the new state

    E = rms over coordinates of (x' - x'') / max(absolute, relative max(|x'|, |x' of the previous step|))

The step is accepted if E <= 1. The next step size is min(t - t_min, 0.9 h E^-0.9).

The error E depends on z. After a rejected step the paper draws new noise, so the accepted increments are no longer
those of a Brownian motion: on one coordinate the samples' distribution comes out twice too wide, at any tolerance. Here
the increment w over the rejected interval h is stored. The smaller steps that replace it draw from the
Brownian bridge (Rackauckas & Nie 2017, Discrete Contin. Dyn. Syst. B 22)::

    increment over h' < h  ~  N(h' w / h, h' (h - h') / h)

So each sample has one Brownian path, whichever steps are rejected.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from scoresde._validation import check_count, check_number, expand
from scoresde.conditions import rows_of
from scoresde.noise import NoiseSource
from scoresde.samplers.adaptive.base import SolverSampler
from scoresde.samplers.base import Callback, CountedScore
from scoresde.sde import SDE, Score

_SAFETY, _POWER = 0.9, 0.9


class AdaptiveSDE(SolverSampler):
    """Adaptive steps of the reverse SDE, for any process whose diffusion depends only on t.

    A step costs two evaluations of the score for each sample that has not yet arrived at ``t_min``. The callback is
    called whenever the slowest sample moves, with the time of that sample. In the result, ``spent`` has the evaluations
    of each sample and ``nfe`` those of the batch.

    Args:
        relative: Relative tolerance. The paper uses 0.01 to 0.05.
        absolute: Absolute tolerance. The paper uses one gray level, 2 / 255 for data in [-1, 1].
        first_step: Size of the first step.
        t_min: Last time, in (0, T). None takes the process's own ``t_min`` if it has one, else 1e-3.
        denoise: Return E[x_0 | x] at ``t_min`` instead of the state, with one more evaluation of the score.
        max_steps: Largest number of steps. A sample that has not arrived by then is marked as failed, and its state is
            NaN.
    """

    def __init__(
        self,
        relative: float = 0.02,
        absolute: float = 2.0 / 255.0,
        first_step: float = 0.01,
        *,
        t_min: float | None = None,
        denoise: bool = True,
        max_steps: int = 10_000,
    ) -> None:
        check_number("relative", relative, least=0.0)
        check_number("absolute", absolute, above=0.0)
        check_number("first_step", first_step, above=0.0)
        check_count("max_steps", max_steps)
        self.relative, self.absolute, self.first_step = relative, absolute, first_step
        self.max_steps = max_steps
        self.set_end(t_min, denoise=denoise)

    takes_hooks = True

    def check_process(self, sde: SDE) -> None:
        if not sde.additive:
            raise ValueError(
                f"{sde!r} has a diffusion that depends on the state, and AdaptiveSDE cannot estimate its error: "
                "use ReverseSDESampler"
            )
        super().check_process(sde)

    def run(
        self, sde: SDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        t_min = self.last_time(sde)
        t = torch.full((len(x),), sde.T, dtype=torch.float64, device=x.device)
        h = torch.full_like(t, min(self.first_step, sde.T - t_min))
        x, before, slowest = x.clone(), x.clone(), sde.T
        score.spent = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        paths = Paths(x)
        draws = noise.normals(x.shape[1:], steps=range(self.max_steps), purpose="adaptive", dtype=x.dtype)
        for k in range(self.max_steps):
            rows = (t > t_min).nonzero().flatten()
            if not len(rows):
                break
            wanted = h[rows]
            width, rise = paths.propose(rows, wanted, next(draws)[rows])
            part = functools.partial(score.evaluate, rows_of(score.score, rows), kind="score")
            low, high, error = self._step(sde, part, x[rows], t[rows], width, rise, before[rows])
            score.spent[rows] += 2
            lost = ~torch.isfinite(error)
            good = (error <= 1.0) | lost
            paths.settle(rows, width, rise, good)
            x[rows] = torch.where(expand(good, high), high, x[rows])
            before[rows] = torch.where(expand(good, low), low, before[rows])
            left = torch.where(good, t[rows] - width, t[rows])
            t[rows] = torch.where(lost | (left < t_min * (1.0 + 1e-9)), t_min, left)
            if score.hooks is not None:
                kept = score.hooked(k + 1, t, x)[rows]
                x[rows] = torch.where(expand(good, kept), kept, x[rows])
            change = _SAFETY * width * error.clamp(1e-6, 1e6) ** -_POWER
            # a step that the stack cut short does not show that longer steps would be accepted
            change = torch.where(width < wanted, change.minimum(wanted), change)
            h[rows] = change.minimum(t[rows] - t_min)
            if float(t.max()) < slowest:
                slowest = float(t.max())
                callback(k + 1, torch.tensor(slowest, dtype=x.dtype), x.clone())
        x[t > t_min] = torch.nan
        score.spent += self.denoise
        return self.denoised(sde, score, x, t_min), torch.empty(0)

    def _step(
        self, sde: SDE, score: Score, x: Tensor, t: Tensor, h: Tensor, rise: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x', x'' and E (n,)."""
        now, then = t.to(x), (t - h).to(x)
        width = expand(h.to(x), x)
        low = x - width * sde.reverse_drift(x, now, score(x, now)) + sde.apply_diffusion(rise, now)
        far = x - width * sde.reverse_drift(low, then, score(low, then)) + sde.apply_diffusion(rise, then)
        high = 0.5 * (low + far)
        scale = (self.relative * torch.maximum(low.abs(), before.abs())).clamp(min=self.absolute)
        ratio = ((low - high) / scale).to(torch.float64)
        return low, high, ratio.reshape(len(x), -1).square().mean(1).sqrt()


class Paths:
    """The known future of each sample's Brownian path: a stack of increments, with the next one on top."""

    depth = 16

    def __init__(self, x: Tensor) -> None:
        self.length = torch.zeros(len(x), self.depth, dtype=torch.float64, device=x.device)
        self.rise = x.new_zeros(len(x), self.depth, *x.shape[1:])
        self.count = torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def propose(self, rows: Tensor, h: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The width of the step, at most h and at most the top interval of the stack, and the increment over it."""
        top = (self.count[rows] - 1).clamp(min=0)
        length, rise = self.length[rows, top], self.rise[rows, top]
        known = self.count[rows] > 0
        cut = known & (h >= length * (1.0 - 1e-9))
        h = torch.where(cut, length, h)
        share = torch.where(known, h / length, 0.0)
        spread = (h * (1.0 - share)).sqrt()
        return h, expand(share.to(z), z) * rise + expand(spread.to(z), z) * z

    def settle(self, rows: Tensor, h: Tensor, rise: Tensor, good: Tensor) -> None:
        """Subtract the increment from the top interval; after a rejected step put it on the stack."""
        top = (self.count[rows] - 1).clamp(min=0)
        self.length[rows, top] -= h
        self.rise[rows, top] -= rise
        spent = (self.count[rows] > 0) & (self.length[rows, top] <= 1e-12)
        self.count[rows] -= spent.long()
        kept = ~good & (self.count[rows] < self.depth)
        back = rows[kept]
        self.length[back, self.count[back]] = h[kept]
        self.rise[back, self.count[back]] = rise[kept]
        self.count[back] += 1
