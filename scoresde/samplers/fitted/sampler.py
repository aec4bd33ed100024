r"""A multistep method whose times and coefficients are fitted to a model.

Let w be the coordinates of ``sde/gaussian_flow.py``, in which the probability flow of Gaussian data stands still. With
the mean m_i of the state at t_i and a matrix R_i,

.. math::

    x_i = m_i + R_i w_i, \qquad f_i = \frac{dw}{du}(x_i, t_i), \qquad
    w_{i+1} = a_i w_i + \sum_{j<K} b_{ij} f_{i-j}

where f_i is computed from the score at (x_i, t_i). The numbers a_i, b_ij and the times t_i are different for each step.
These are the non-stationary methods of Shaul et al. 2024 (arXiv:2403.01329). Every linear multistep method is one of
them.

The first time may be below T, because w hardly changes where x is almost pure noise. The last w gives E[x_0 |
x_(t_min)], so that N steps need N evaluations of the score.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from scoresde._files import write_atomic
from scoresde._validation import check_finite, check_number, check_sizes
from scoresde.noise import NoiseSource
from scoresde.samplers.base import Callback, CountedScore, Sampler
from scoresde.samplers.exponential.coefficients import Factor, combine, linear_process
from scoresde.samplers.exponential.multistep import ExponentialMultistep
from scoresde.samplers.exponential.parameterization import DataParameterization, Parameterization, Whitened
from scoresde.samplers.fitted.expectation import Expectation, KernelExpectation
from scoresde.samplers.fitted.fingerprint import check_fingerprint
from scoresde.samplers.fitted.ggdm import GGDM
from scoresde.sde import SDE, LinearMap, LinearSDE, ScalarMap, Score
from scoresde.sde.gaussian_flow import WhitePoint, white_points

_FORMAT = 2


@dataclass(frozen=True)
class WhiteCoordinates:
    """The coordinates w at one time: x = center + root w, and dw/du = on_state w + on_score score(x, t).

    Attributes:
        t: (B,), the time.
        center: (1, *state), the mean of the state.
        root: R.
        unroot: Inverse of R.
        on_state: Factor of w in the derivative.
        on_score: Factor of the score in the derivative.
    """

    t: Tensor
    center: Tensor
    root: Factor
    unroot: Factor
    on_state: Factor
    on_score: Factor

    def state(self, w: Tensor) -> Tensor:
        """The state x of w."""
        return combine(((self.root, w),)).add_(self.center)

    def whiten(self, x: Tensor) -> Tensor:
        """w of the state x."""
        return combine(((self.unroot, x - self.center),))

    def slope(self, score: Score, w: Tensor) -> Tensor:
        """The derivative dw/du."""
        return combine(((self.on_state, w), (self.on_score, score(self.state(w), self.t))))


def white_coordinates(
    sde: LinearSDE, times: Tensor, mean: Tensor, data_std: float, like: Tensor
) -> list[WhiteCoordinates]:
    """The coordinates at each of the times.

    Args:
        sde: The process.
        times: (n,), descending.
        mean: (*event), mean of the data.
        data_std: Standard deviation of the data about its mean.
        like: (B, *state), a state. The coordinates have its dtype and device.
    """
    points = white_points(sde, times.flip(0).cpu(), data_std)[::-1]
    origin = sde.embed_data(mean[None].to("cpu", torch.float64))
    return [_coordinates(sde, point, origin, like) for point in points]


def _coordinates(sde: LinearSDE, point: WhitePoint, origin: Tensor, like: Tensor) -> WhiteCoordinates:
    minus = torch.tensor(-1.0, dtype=torch.float64)
    on_state, on_score = point.push.compose(point.pull), point.push.compose(point.spread.transpose())
    maps = point.root, point.unroot, on_state.times(minus), on_score.times(minus)
    center = sde.kernel(point.t).mean(origin).to(like)
    return WhiteCoordinates(point.t.to(like).expand(len(like)), center, *(_factor(m, like) for m in maps))


def _factor(one: LinearMap, like: Tensor) -> Factor:
    return float(one.c) if isinstance(one, ScalarMap) else one.to(like)


@dataclass(frozen=True)
class FittedMultistep(Sampler):
    """The method above: one evaluation of the score per step.

    Args:
        times: (N,), descending: the times at which the score is evaluated.
        t_min: Time at which the method ends, at most ``times[-1]``.
        a: (N,), the factors of w.
        b: (N, K), with b[i, j] the factor of f_(i-j).
        mean: (*event), mean of the data.
        data_std: Standard deviation of the data about its mean.

    Raises:
        ValueError: If the shapes do not fit together, or the times do not descend.
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
                "give (N,) descending times, (N,) and (N, K)"
            )

    def __repr__(self) -> str:
        return f"FittedMultistep({len(self.times)} steps from t={float(self.times[0]):.3g} to {self.t_min:g})"

    def check_process(self, sde: SDE) -> None:
        linear_process(sde, type(self).__name__)

    def run(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        process = linear_process(sde, type(self).__name__)
        top, end = (torch.tensor([t], dtype=torch.float64) for t in (process.T, self.t_min))
        start, *points = white_coordinates(process, torch.cat((top, self.times, end)), self.mean, self.data_std, x)
        clocks = torch.cat((self.times, end)).to(x).unbind()
        a, b = self.a.tolist(), self.b.tolist()
        past: deque[Tensor] = deque(maxlen=self.b.shape[1])
        w = start.whiten(x)
        for i in range(len(a)):
            past.appendleft(points[i].slope(score, w))
            w = combine([(a[i], w), *zip(b[i], past, strict=False)])
            callback(i + 1, clocks[i + 1], points[i + 1].state(w))
        return points[-1].state(w), torch.cat((self.times, end))


class FittedSampler(Sampler):
    """A sampler for one model, with its measured error. :func:`fit` and :func:`fit_ggdm` return it.

    Args:
        sampler: A ``FittedMultistep``, or the best method without a fit if that was not better. Or a ``GGDM``.
        expected: The measured error.
        process: ``repr`` of the process.
        fingerprint: The process's ``fingerprint``. The sampler raises a ValueError for another process or event shape.
    """

    def __init__(
        self,
        sampler: FittedMultistep | ExponentialMultistep | GGDM,
        expected: Expectation | KernelExpectation,
        process: str,
        fingerprint: list[float],
    ) -> None:
        if not fingerprint:
            raise ValueError("fingerprint=[] is not allowed: give the numbers of the process")
        self.sampler, self.expected, self.process, self.fingerprint = sampler, expected, process, fingerprint

    def __repr__(self) -> str:
        note = "" if isinstance(self.sampler, FittedMultistep | GGDM) else "; no fit was better"
        return f"FittedSampler({self.sampler!r}: {self.expected}{note})"

    def run(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        event_shape = sde.extract_data(x[:1]).shape[1:]
        wanted = f"this sampler was fitted to, {self.process}"
        check_fingerprint(linear_process(sde, type(self).__name__), event_shape, self.fingerprint, wanted)
        return self.sampler.run(sde, score, x, noise, callback)

    def check_process(self, sde: SDE) -> None:
        self.sampler.check_process(sde)

    def start_time(self, sde: SDE) -> float:
        return self.sampler.start_time(sde)

    def save(self, path: Path | str) -> None:
        """Write a safetensors file. An interrupted call leaves no partial file.

        Args:
            path: The file.
        """
        tensors, kind = _tensors(self.sampler)
        header = {"format": _FORMAT, "process": self.process, "fingerprint": self.fingerprint, **kind}
        header["expected"] = asdict(self.expected)
        content = {name: value.cpu().contiguous() for name, value in tensors.items()}
        write_atomic(Path(path), save(content, {"scoresde.sampler": json.dumps(header)}))

    @classmethod
    def load(cls, path: Path | str) -> FittedSampler:
        """Read a file that :meth:`save` wrote.

        Args:
            path: The file.

        Returns:
            The sampler.

        Raises:
            ValueError: If the file is incomplete, or contains something else.
            FileNotFoundError: If there is no such file.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                header = json.loads((file.metadata() or {})["scoresde.sampler"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
            if header["format"] != _FORMAT:
                raise ValueError(f"format {header['format']}, this version reads {_FORMAT}")
            record = KernelExpectation if "d" in tensors else Expectation
            expected = record(**header["expected"])
            return cls(_sampler(tensors, header), expected, header["process"], header["fingerprint"])
        except (SafetensorError, KeyError, TypeError, ValueError) as problem:
            raise ValueError(f"{path} is incomplete or not a fitted sampler of scoresde: {problem}") from problem


def _tensors(sampler: FittedMultistep | ExponentialMultistep | GGDM) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The tensors of a file, and the entries of its header that depend on the kind of sampler."""
    if isinstance(sampler, GGDM):
        return {"times": sampler.times, "c": sampler.c, "d": sampler.d, "s": sampler.s}, {}
    if isinstance(sampler, FittedMultistep):
        tensors = {"times": sampler.times, "a": sampler.a, "b": sampler.b, "mean": sampler.mean}
        return tensors, {"t_min": sampler.t_min, "data_std": sampler.data_std}
    whitened = sampler.parameterization.data_std if isinstance(sampler.parameterization, Whitened) else None
    return {"times": given_times(sampler)}, {
        "order": sampler.order, "corrector": sampler.corrector, "start_order": sampler.first_step_order, "whitened": whitened,
    }  # fmt: skip


def _sampler(tensors: dict[str, Tensor], header: dict[str, object]) -> FittedMultistep | ExponentialMultistep | GGDM:
    """The sampler of a file."""
    if "d" in tensors:
        return GGDM(**tensors)
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
    """The times of a sampler that was constructed from them."""
    return torch.tensor(sampler.steps, dtype=torch.float64)
