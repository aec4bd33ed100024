"""A multistep method whose times and coefficients were fitted to a model (`fit`).

In the coordinates w of `sde/gaussian_flow.py`, about the data's mean, where nothing moves for Gaussian data,

    x_i = m_i + R_i w_i        f_i = dw/du by the score at (x_i, t_i)        w_(i+1) = a_i w_i + sum_(j < K) b_ij f_(i-j)

with numbers a_i, b_ij and times t_i of its own for each step: the non-stationary methods of Shaul et al. 2024 (arXiv:2403.01329),
of which every linear multistep method is one, with few coefficients. The first time may be below T, since w hardly moves where
there is nothing but noise; the last w belongs to E[x_0 | x_(t_min)], so that N steps are N evaluations.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from scoresde._files import write_atomic
from scoresde._validation import check_finite, check_number, check_sizes
from scoresde.noise import NoiseSource
from scoresde.samplers.base import Callback, CountedScore, Sampler
from scoresde.samplers.exponential.coefficients import Factor, combine, linear
from scoresde.samplers.exponential.multistep import ExponentialMultistep
from scoresde.samplers.exponential.parameterization import DataParameterization, Parameterization, Whitened
from scoresde.samplers.fitted.expectation import Expectation
from scoresde.sde import SDE, LinearMap, LinearSDE, ScalarMap, Score
from scoresde.sde.gaussian_flow import WhitePoint, white_points

_FORMAT = 1


@dataclass(frozen=True)
class Place:
    """One time: x = centre + root w, and f = on_state w + on_score score(x, t). t: (B,). centre: (1, *state)."""

    t: Tensor
    centre: Tensor
    root: Factor
    unroot: Factor
    on_state: Factor
    on_score: Factor

    def state(self, w: Tensor) -> Tensor:
        """x."""
        return combine(((self.root, w),)).add_(self.centre)

    def whiten(self, x: Tensor) -> Tensor:
        """w."""
        return combine(((self.unroot, x - self.centre),))

    def slope(self, score: Score, w: Tensor) -> Tensor:
        """f."""
        return combine(((self.on_state, w), (self.on_score, score(self.state(w), self.t))))


def places(sde: LinearSDE, times: Tensor, mean: Tensor, data_std: float, like: Tensor) -> list[Place]:
    """A place for each of the times (n,), falling, for data about ``mean`` (*event) and states like ``like`` (B, *state)."""
    points = white_points(sde, times.flip(0).cpu(), data_std)[::-1]
    origin = sde.embed_data(mean[None].to("cpu", torch.float64))
    return [_place(sde, point, origin, like) for point in points]


def _place(sde: LinearSDE, point: WhitePoint, origin: Tensor, like: Tensor) -> Place:
    minus = torch.tensor(-1.0, dtype=torch.float64)
    on_state, on_score = point.push.compose(point.pull), point.push.compose(point.spread.transpose())
    maps = point.root, point.unroot, on_state.times(minus), on_score.times(minus)
    centre = sde.kernel(point.t).mean(origin).to(like)
    return Place(point.t.to(like).expand(len(like)), centre, *(_factor(m, like) for m in maps))


def _factor(one: LinearMap, like: Tensor) -> Factor:
    return float(one.c) if isinstance(one, ScalarMap) else one.to(like)


@dataclass(frozen=True)
class FittedMultistep(Sampler):
    """The method above, one evaluation for each step.

    times: (N,) falling, where the score is evaluated. t_min: < times[-1] or equal; the time that the end was fitted for.
    a: (N,). b: (N, K), b[i, j] the factor of f_(i-j). mean: (*event) and data_std: of the data.
    """

    times: Tensor
    t_min: float
    a: Tensor
    b: Tensor
    mean: Tensor
    data_std: float

    def __post_init__(self) -> None:
        check_number("t_min", self.t_min, above=0.0)
        check_number("data_std", self.data_std, above=0.0)
        check_sizes("mean", self.mean, "...")
        check_sizes("times", self.times, "N")
        check_sizes("b", self.b, len(self.times), "K")
        for name, value in (("times", self.times), ("a", self.a), ("b", self.b), ("mean", self.mean)):
            check_finite(name, value[None])
        n = len(self.times)
        if self.a.shape != (n,) or self.b.ndim != 2 or len(self.b) != n or not bool((self.times.diff() < 0).all()):
            raise ValueError(
                f"times {self.times.tolist()}, a of shape {tuple(self.a.shape)}, b of shape {tuple(self.b.shape)} do not fit: "
                "give (N,) falling times, (N,) and (N, K)"
            )

    def __repr__(self) -> str:
        return f"FittedMultistep({len(self.times)} steps from t={float(self.times[0]):.3g} to {self.t_min:g})"

    def run(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        process = linear(sde, self)
        top, end = (torch.tensor([t], dtype=torch.float64) for t in (process.T, self.t_min))
        start, *way = places(process, torch.cat((top, self.times, end)), self.mean, self.data_std, x)
        told = torch.cat((self.times, end)).to(x).unbind()
        a, b = self.a.tolist(), self.b.tolist()
        past: deque[Tensor] = deque(maxlen=self.b.shape[1])
        w = start.whiten(x)
        for i in range(len(a)):
            past.appendleft(way[i].slope(score, w))
            w = combine([(a[i], w), *zip(b[i], past, strict=False)])
            callback(i + 1, told[i + 1], way[i + 1].state(w))
        return way[-1].state(w), torch.cat((self.times, end))


class FittedSampler(Sampler):
    """What `fit` returns: a sampler for one model, and the error that it was measured to have.

    sampler: a `FittedMultistep`, or the plain method where the fit was no better. expected: an `Expectation`.
    process: repr of the process that it was fitted to. mark: `mark_of` it; another process or kind of event is refused.
    """

    def __init__(
        self, sampler: FittedMultistep | ExponentialMultistep, expected: Expectation, process: str, mark: list[float]
    ) -> None:
        if not mark:
            raise ValueError("mark=[] is not allowed: give the process's own, from mark_of")
        self.sampler, self.expected, self.process, self.mark = sampler, expected, process, mark

    def __repr__(self) -> str:
        kept = "" if isinstance(self.sampler, FittedMultistep) else "; no fit was better"
        return f"FittedSampler({self.sampler!r}: {self.expected}{kept})"

    def run(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        check_mark(
            linear(sde, self),
            sde.extract_data(x[:1]).shape[1:],
            self.mark,
            f"this sampler was fitted to, {self.process}",
        )
        return self.sampler.run(sde, score, x, noise, callback)

    def start_time(self, sde: SDE) -> float:
        """That of the sampler inside."""
        return self.sampler.start_time(sde)

    def save(self, path: Path | str) -> None:
        """Write a safetensors file, whole or not at all."""
        tensors, kind = _tensors(self.sampler)
        header = {"format": _FORMAT, "process": self.process, "mark": self.mark, **kind}
        header["expected"] = asdict(self.expected)
        content = {name: value.cpu().contiguous() for name, value in tensors.items()}
        write_atomic(Path(path), save(content, {"scoresde.sampler": json.dumps(header)}))

    @classmethod
    def load(cls, path: Path | str) -> FittedSampler:
        """Read what `save` wrote. Raises ValueError for a file that is torn or something else."""
        try:
            with safe_open(str(path), framework="pt") as file:
                header = json.loads((file.metadata() or {})["scoresde.sampler"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
            if header["format"] != _FORMAT:
                raise ValueError(f"format {header['format']}, this version reads {_FORMAT}")
            expected = Expectation(**header["expected"])
            return cls(_sampler(tensors, header), expected, header["process"], header["mark"])
        except (SafetensorError, KeyError, TypeError, ValueError) as problem:
            raise ValueError(f"{path} is torn or no fitted sampler of scoresde: {problem}") from problem


@torch.no_grad()
def mark_of(sde: LinearSDE, event_shape: Sequence[int]) -> list[float]:
    """Numbers by which a process on events of a shape is known again: what drift, diffusion and kernel make of a state."""
    shape = (1, *sde.state_shape(tuple(event_shape)))
    place = torch.arange(math.prod(shape), dtype=torch.float64)
    x, weights = (place + 1.0).cos().reshape(shape), (1.0 + place.sqrt()).sin().reshape(shape)
    found = [float(sde.T), *map(float, shape)]
    for share in (0.1, 0.5, 0.9):
        t = torch.tensor([share * sde.T], dtype=torch.float64)
        kernel = sde.kernel(t)
        made = sde.drift(x, t), sde.apply_diffusion(x, t), kernel.mean(x), kernel.scale(x)
        found += [float((weights * part).mean()) for part in made]
    return found


def check_mark(sde: LinearSDE, event_shape: Sequence[int], mark: Sequence[float], wanted: str) -> None:
    """Raise ValueError, "... is not what" ``wanted``, unless ``mark`` is the process's."""
    here = mark_of(sde, event_shape)
    if len(here) != len(mark) or not np.allclose(here, mark, rtol=1e-6, atol=1e-9):
        raise ValueError(f"sde={sde!r} with events of shape {tuple(event_shape)} is not what {wanted}")


def _tensors(sampler: FittedMultistep | ExponentialMultistep) -> tuple[dict[str, Tensor], dict[str, object]]:
    """What is saved of a sampler: tensors, and entries of the header."""
    if isinstance(sampler, FittedMultistep):
        tensors = {"times": sampler.times, "a": sampler.a, "b": sampler.b, "mean": sampler.mean}
        return tensors, {"t_min": sampler.t_min, "data_std": sampler.data_std}
    whitened = sampler.parameterization.data_std if isinstance(sampler.parameterization, Whitened) else None
    return {"times": given_times(sampler)}, {
        "order": sampler.order, "corrector": sampler.corrector, "start_order": sampler.first_step_order, "whitened": whitened,
    }  # fmt: skip


def _sampler(tensors: dict[str, Tensor], header: dict[str, object]) -> FittedMultistep | ExponentialMultistep:
    if "a" in tensors:
        return FittedMultistep(**tensors, t_min=header["t_min"], data_std=header["data_std"])  # type: ignore[arg-type]
    whitened = header["whitened"]
    parameterization: Parameterization = DataParameterization()
    if whitened is not None:
        parameterization = Whitened(data_std=whitened)  # type: ignore[arg-type]
    return ExponentialMultistep(
        tensors["times"], header["order"], parameterization,  # type: ignore[arg-type]
        corrector=header["corrector"], start_order=header["start_order"],  # type: ignore[arg-type]
    )  # fmt: skip


def given_times(sampler: ExponentialMultistep) -> Tensor:
    """The times of a sampler that was made from them."""
    return torch.tensor(sampler.steps, dtype=torch.float64)
