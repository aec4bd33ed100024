"""The reverse SDE with step sizes of each sample's own (Jolicoeur-Martineau et al. 2021, "Gotta go fast", arXiv:2105.14080).

With the reverse drift r = f - g^2 score and one draw z for both, a step of size h down from t is

    x'  = x - h r(x, t) + sqrt(h) g(t) z                                   Euler and Maruyama
    x'' = [x' + x - h r(x', t - h) + sqrt(h) g(t - h) z] / 2               stochastic Heun, what is kept

    E = rms over coordinates of (x' - x'') / max(absolute, relative max(|x'|, |x' of the step before|))

accepted where E <= 1; then h <- min(t - t_min, 0.9 h E^-0.9). E hangs on z. The paper draws anew for a step that is made anew, so
that what is accepted is no Brownian motion any more: on one coordinate the law comes out twice too wide, at any tolerance. Here a
refused step leaves its increment w over h to the smaller steps in its place, which draw from the bridge to it,

    increment over h' < h  ~  N(h' w / h, h' (h - h') / h)

(Rackauckas & Nie 2017, Discrete Contin. Dyn. Syst. B 22): each sample has one path, whatever was refused on it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde._validation import check_choice, check_count, check_number, expand
from scoresde.noise import NoiseSource
from scoresde.samplers.base import Callback, CountedScore, Sampler
from scoresde.samplers.grids import check_t_min
from scoresde.sde import SDE

_SAFETY, _POWER = 0.9, 0.9


class AdaptiveSDE(Sampler):
    """Adaptive steps for any process whose diffusion is of t alone; two evaluations for each, of the samples still under way.

    relative, absolute: tolerances; the paper takes 0.01 to 0.05 and one grey level, 2 / 255 for data in [-1, 1].
    first_step: the first h. t_min: where it stops, in (0, T).
    denoise: return E[x_0 | x] at t_min, at the price of one evaluation, in place of x.
    max_steps: a sample that has not arrived by then is marked as failed: its state is NaN.

    The callback is called whenever the last of the samples moves, with its time; the others are ahead of it. The result's
    ``spent`` has the evaluations of each sample, ``nfe`` those of the batch.
    """

    def __init__(
        self,
        relative: float = 0.02,
        absolute: float = 2.0 / 255.0,
        first_step: float = 0.01,
        t_min: float = 1e-3,
        *,
        denoise: bool = True,
        max_steps: int = 10_000,
    ) -> None:
        check_number("relative", relative, least=0.0)
        check_number("absolute", absolute, above=0.0)
        check_number("first_step", first_step, above=0.0)
        check_number("t_min", t_min, above=0.0)
        check_choice("denoise", denoise, (True, False))
        check_count("max_steps", max_steps)
        self.relative, self.absolute, self.first_step = relative, absolute, first_step
        self.t_min, self.denoise, self.max_steps = t_min, denoise, max_steps

    def run(
        self, sde: SDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        if not sde.additive:
            raise ValueError(
                f"{sde!r} has a diffusion of the state, for which the error is not estimated: use ReverseSDESampler"
            )
        check_t_min(sde, self.t_min)
        t = torch.full((len(x),), sde.T, dtype=torch.float64, device=x.device)
        h = torch.full_like(t, min(self.first_step, sde.T - self.t_min))
        x, before, slowest = x.clone(), x.clone(), sde.T
        score.spent = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        paths = Paths(x)
        draws = noise.normals(x.shape[1:], steps=range(self.max_steps), purpose="adaptive", dtype=x.dtype)
        for k in range(self.max_steps):
            rows = (t > self.t_min).nonzero().flatten()
            if not len(rows):
                break
            wanted = h[rows]
            width, rise = paths.propose(rows, wanted, next(draws)[rows])
            low, high, error = self._step(sde, score, x[rows], t[rows], width, rise, before[rows])
            score.spent[rows] += 2
            lost = ~torch.isfinite(error)
            good = (error <= 1.0) | lost
            paths.settle(rows, width, rise, good)
            x[rows] = torch.where(expand(good, high), high, x[rows])
            before[rows] = torch.where(expand(good, low), low, before[rows])
            left = torch.where(good, t[rows] - width, t[rows])
            t[rows] = torch.where(lost | (left < self.t_min * (1.0 + 1e-9)), self.t_min, left)
            change = _SAFETY * width * error.clamp(1e-6, 1e6) ** -_POWER
            change = torch.where(width < wanted, change.minimum(wanted), change)  # a step cut short says little
            h[rows] = change.minimum(t[rows] - self.t_min)
            if float(t.max()) < slowest:
                slowest = float(t.max())
                callback(k + 1, torch.tensor(slowest, dtype=x.dtype), x.clone())
        x[t > self.t_min] = torch.nan
        if self.denoise:
            end = torch.full((len(x),), self.t_min, dtype=x.dtype, device=x.device)
            x = sde.data_from_score(x, end, score(x, end))  # type: ignore[attr-defined]
            score.spent += 1
        return x, torch.empty(0)

    def _step(
        self, sde: SDE, score: CountedScore, x: Tensor, t: Tensor, h: Tensor, rise: Tensor, before: Tensor
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
    """What is known of each sample's Brownian path ahead of it: a stack of increments, the nearest on top."""

    depth = 16

    def __init__(self, x: Tensor) -> None:
        self.length = torch.zeros(len(x), self.depth, dtype=torch.float64, device=x.device)
        self.rise = x.new_zeros(len(x), self.depth, *x.shape[1:])
        self.count = torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def propose(self, rows: Tensor, h: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """A width of at most h, no further than what is known of the next, and the increment over it."""
        top = (self.count[rows] - 1).clamp(min=0)
        length, rise = self.length[rows, top], self.rise[rows, top]
        known = self.count[rows] > 0
        cut = known & (h >= length * (1.0 - 1e-9))
        h = torch.where(cut, length, h)
        share = torch.where(known, h / length, 0.0)
        spread = (h * (1.0 - share)).sqrt()
        return h, expand(share.to(z), z) * rise + expand(spread.to(z), z) * z

    def settle(self, rows: Tensor, h: Tensor, rise: Tensor, good: Tensor) -> None:
        """Take the increment off what is known, and where the step was refused put it on top."""
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
