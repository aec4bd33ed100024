"""A network, a process, and what the network predicts: together, a score.

    model(x, t) = grad log p_t(x)

The network is any module ``network(x, label, **condition) -> output``; a `Prediction` says what the output is:

    noise      E[z | x_t]                          score = -output / sigma                   (DDPM)
    score      grad log p_t                        score = output                            (NCSN, the paper's VE)
    data       E[x_0 | x_t]                        score = (alpha output - x) / sigma^2      (Tweedie)
    velocity   alpha E[z | x_t] - sigma E[x_0 | x_t]                                         (Salimans & Ho 2022)
    MixedPrediction     E[z | x_t] less what it is for Gaussian data                         (Vahdat et al. 2021)
    Levels              logits over the levels of quantised data, see `scoresde.levels`

What it is told of the time is a `label`, by default ln(sigma / alpha), the same for every linear process; the paper's
labels are `TimeLabel(999.0)` (VP, sub-VP) and `SigmaLabel()` (VE). What it is given is x over its standard deviation
sqrt(alpha^2 data_std^2 + sigma^2), or x itself with ``data_std=None`` (the paper; the same for VP and data_std = 1). Under a
process with a shift the mean of x_t for data about 0 is taken off first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from scoresde._arguments import check_constructors, checked_arguments
from scoresde._validation import check_batch, check_choice, check_number, shown, times_checked
from scoresde.conditions import check_condition, required_conditions
from scoresde.sde.kernel import GaussianKernel
from scoresde.sde.linear import LinearSDE
from scoresde.sde.maps import BlockMap, LinearMap, ScalarMap
from scoresde.sde.scores import HALF

Label = Callable[[LinearSDE, Tensor], Tensor]
"""(process, t) -> what the network is told of the time, the shape of t."""


@dataclass(frozen=True)
class LogNoiseLabel:
    """ln(sigma / alpha): minus half the log signal-to-noise ratio, the same scale for every linear process."""

    def __call__(self, sde: LinearSDE, t: Tensor) -> Tensor:
        """The label of t."""
        return sde.log_noise(t)


@dataclass(frozen=True)
class TimeLabel:
    """``scale`` t, or ``scale`` (T - t) where ``descending``; rounded to a whole number where ``whole``.

    The paper: 999 t for VP and sub-VP; on a chain of N steps (N - 1) t for DDPM, and for SMLD round((N - 1) (1 - t)).
    """

    scale: float = 999.0
    descending: bool = field(default=False, kw_only=True)
    whole: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_number("scale", self.scale, above=0.0)

    def __call__(self, sde: LinearSDE, t: Tensor) -> Tensor:
        """The label of t."""
        label = self.scale * (sde.T - t if self.descending else t)
        return label.round() if self.whole else label


@dataclass(frozen=True)
class SigmaLabel:
    """sigma(t): the paper's label for VE."""

    def __call__(self, sde: LinearSDE, t: Tensor) -> Tensor:
        """The label of t."""
        return sde.noise_level(t)


@dataclass(frozen=True)
class Belief:
    """What a model believes of x_0 having seen x_t.

    mean: (B, *event), E[x_0 | x_t].
    logits: (B, *event, levels) where the model has a distribution over the levels of each coordinate, else None.
    """

    mean: Tensor
    logits: Tensor | None = None


class Prediction(ABC):
    """What the output of a network means.

    Each method takes the process ``sde``, its ``kernel`` at the times of the batch, the network's ``output`` and the state x
    (B, *state). A subclass gives `score`, and overrides what it knows without a detour.
    """

    @abstractmethod
    def score(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        """grad log p_t(x), the shape of x."""

    def noise(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        """E[z | x_t], the shape of x."""
        return kernel.noise_from_score(self.score(sde, kernel, output, x))

    def velocity(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        """alpha E[z | x_t] - sigma E[x_0 | x_t], the shape of x."""
        return kernel.velocity_from_score(x, self.score(sde, kernel, output, x))

    def belief(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Belief:
        """What the output says of x_0."""
        return Belief(kernel.data_from_score(x, self.score(sde, kernel, output, x)))


@checked_arguments
def like(x: Tensor, output: Tensor) -> Tensor:
    """``output`` where it has the shape of x; raises ValueError otherwise, lest it broadcasts."""
    if output.shape != x.shape:
        raise ValueError(
            f"the network's output has shape {tuple(output.shape)} for x of shape {tuple(x.shape)}: "
            "it must return what it predicts for every coordinate of x"
        )
    return output


class NoisePrediction(Prediction):
    """The output is E[z | x_t]."""

    def score(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return kernel.score_from_noise(like(x, output))

    def noise(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return like(x, output)

    def belief(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Belief:
        return Belief(kernel.data_from_noise(x, like(x, output)))


class ScorePrediction(Prediction):
    """The output is the score."""

    def score(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return like(x, output)


class DataPrediction(Prediction):
    """The output is E[x_0 | x_t]."""

    def score(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return kernel.score_from_data(x, like(x, output))

    def noise(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return kernel.noise_from_data(x, like(x, output))

    def belief(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Belief:
        return Belief(like(x, output))


class VelocityPrediction(Prediction):
    """The output is alpha E[z | x_t] - sigma E[x_0 | x_t]."""

    def score(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return kernel.score_from_noise(self.noise(sde, kernel, output, x))

    def noise(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return kernel.noise_from_velocity(x, like(x, output))

    def velocity(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return like(x, output)

    def belief(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Belief:
        return Belief(kernel.data_from_noise(x, self.noise(sde, kernel, output, x)))


@dataclass(frozen=True)
class MixedPrediction(Prediction):
    """The output corrects the score that data N(0, data_std^2 I) would have, in units of noise:

        score = -(data_std^2 A P A^T + L L^T)^-1 x - L^-T output

    with P the projection of a state on the data in it: the mixed score (Vahdat, Kreis, Kautz 2021, arXiv:2106.05931; Dockhorn
    et al. 2022, arXiv:2112.07068). A network that says 0 is exact for Gaussian data. For Langevin diffusion the velocity's part
    is -v / Sigma_vv - l output, as Dockhorn et al. have it, where x and v are uncorrelated under the Gaussian's law of x_t;
    elsewhere they leave that correlation to the network.

    data_std: standard deviation of the Gaussian data, > 0.
    """

    data_std: float = 1.0

    def __post_init__(self) -> None:
        check_number("data_std", self.data_std, above=0.0)

    def score(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return kernel.gaussian_score(x, self._root(sde, x)) + kernel.score_from_noise(like(x, output))

    def _root(self, sde: LinearSDE, x: Tensor) -> LinearMap:
        """data_std P; a number where the state is the data."""
        std = torch.tensor(self.data_std, dtype=x.dtype, device=x.device)
        if sde.project(x).shape == x.shape:
            return ScalarMap(std)
        fields = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        fields = fields.reshape(*fields.shape, *(1,) * (x.ndim - 2)).expand(-1, *x.shape[1:])
        of_data = sde.augment(sde.project(fields)).reshape(*fields.shape[:2], -1)[..., 0]
        return BlockMap(std * of_data.mT)


PREDICTIONS: dict[str, type[Prediction]] = {
    "noise": NoisePrediction,
    "score": ScorePrediction,
    "data": DataPrediction,
    "velocity": VelocityPrediction,
}


def _high(value: Tensor, x: Tensor) -> Tensor:
    """``value`` in float32 where x has half precision, else as it is."""
    return value.float() if x.dtype in HALF else value


class ScoreModel(nn.Module):
    """``model(x, t, **condition)`` is the score, for whatever the network predicts.

    network: module called as ``network(input, label, **condition)``. Conditions that are tensors have one row for each sample, or
        no dimension.
    sde: the process that it is trained under (a `LinearSDE`, or a chain of one for discrete-time models).
    prediction: "noise", "score", "data", "velocity", or a `Prediction`, e.g. ``MixedPrediction(0.5)``.
    label: what the network is told of the time; ``LogNoiseLabel()`` unless given.
    data_std: standard deviation of the data, about 0, for scaling the network's input; None gives the network x as it is.

    A network of half precision takes x in its own dtype, and t in that dtype or in float32. Coefficients are computed in float32
    then, and the score has the wider dtype of x and t.

    Raises TypeError for an x whose dtype or device is not the network's and for a condition that the network requires and does
    not get, ValueError for a t outside [0, T] or of a shape other than (B,), for a condition of another number of rows than x,
    and for a network whose output has the wrong shape.
    """

    def __init__(
        self,
        network: nn.Module,
        sde: LinearSDE,
        prediction: str | Prediction = "noise",
        *,
        label: Label | None = None,
        data_std: float | None = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network={shown(network)} is not a module: give an instance of a torch.nn.Module")
        self.required = required_conditions(network)
        if not isinstance(sde, LinearSDE):
            raise TypeError(f"sde={shown(sde)} has no closed-form kernel: a ScoreModel takes a LinearSDE")
        if data_std is not None:
            check_number("data_std", data_std, above=0.0)
        if isinstance(prediction, str):
            check_choice("prediction", prediction, PREDICTIONS)
            prediction = PREDICTIONS[prediction]()
        if not isinstance(prediction, Prediction):
            raise TypeError(
                f"prediction={shown(prediction)} is not a Prediction: give {sorted(PREDICTIONS)} or an instance"
            )
        if label is not None and not callable(label):
            raise TypeError(
                f"label={label!r} cannot be called: give LogNoiseLabel(), TimeLabel(999.0), SigmaLabel(), ..."
            )
        self.network, self.sde, self.prediction = network, sde, prediction
        self.label, self.data_std = label or LogNoiseLabel(), data_std

    def forward(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """The score at x (B, *event), t (B,), the shape of x."""
        score = self.prediction.score(*self._evaluated(x, t, condition))
        return score if x.dtype not in HALF else score.to(torch.promote_types(x.dtype, t.dtype))

    def noise(self, x: Tensor, t: Tensor, *, kernel: GaussianKernel | None = None, **condition: Any) -> Tensor:
        """E[z | x_t], the shape of x. kernel: ``sde.kernel(t)`` where it is at hand."""
        return self.prediction.noise(*self._evaluated(x, t, condition, kernel))

    def denoised(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """E[x_0 | x_t]."""
        return self.belief(x, t, **condition).mean

    def velocity(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """alpha E[z | x_t] - sigma E[x_0 | x_t]."""
        return self.prediction.velocity(*self._evaluated(x, t, condition))

    def belief(self, x: Tensor, t: Tensor, **condition: Any) -> Belief:
        """What the model believes of x_0."""
        return self.prediction.belief(*self._evaluated(x, t, condition))

    def output(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """What the network itself says."""
        self._check_input(x, t, condition)
        with times_checked():
            return self._output(x, self.sde.kernel(_high(t, x)), t, condition)

    def _evaluated(
        self, x: Tensor, t: Tensor, condition: dict[str, Any], kernel: GaussianKernel | None = None
    ) -> tuple[LinearSDE, GaussianKernel, Tensor, Tensor]:
        """What a `Prediction` takes: the process, its kernel, the network's output and the state.

        The kernel is computed once. Where x has half precision, which does not hold the coefficients, all is in float32.
        """
        self._check_input(x, t, condition)
        with times_checked():
            kernel = kernel or self.sde.kernel(_high(t, x))
            output = self._output(x, kernel, t, condition)
        return self.sde, kernel, _high(output, x), _high(x, x)

    def _output(self, x: Tensor, kernel: GaussianKernel, t: Tensor, condition: dict[str, Any]) -> Tensor:
        scaled = x if self.data_std is None else kernel.standardised(_high(x, x), self.data_std)
        label = self.label(self.sde, _high(t, x))
        if x.dtype in HALF:
            scaled, label = scaled.to(x.dtype), label.to(x.dtype)
        try:
            out: Tensor = self.network(scaled, label, **condition)
            return out
        except ValueError as problem:
            if bool(torch.isfinite(label).all()):
                raise
            low = float(t.min())
            raise ValueError(
                f"t={low:g} is not allowed: the label of {self.label!r} is not finite there, {self.sde!r} has no noise or no "
                "signal; begin at a t_min > 0"
            ) from problem

    def _check_input(self, x: Tensor, t: Tensor, condition: dict[str, Any]) -> None:
        check_batch("x", x)
        check_condition(len(x), condition, self.required)
        if not isinstance(t, Tensor):
            raise TypeError(f"t is a {type(t).__name__}: give a torch.Tensor of shape ({len(x)},), one time per sample")
        weight = next(self.network.parameters(), None)
        if weight is not None and weight.is_floating_point():
            kind = x.device.type
            mixed = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
            for name, tensor in (("x", x), ("t", t)):
                exact = name == "t" and weight.dtype in HALF and tensor.dtype == torch.float32
                if tensor.dtype != weight.dtype and not mixed and not exact:
                    raise TypeError(f"{name} has dtype {tensor.dtype}, the network {weight.dtype}: convert one of them")
                if tensor.device != weight.device:
                    raise TypeError(f"{name} is on {tensor.device}, the network on {weight.device}: move one of them")
        if t.shape != x.shape[:1]:
            raise ValueError(f"t has shape {tuple(t.shape)}: give ({len(x)},), one time per sample")
        self.sde.check_time(t)


check_constructors(globals(), records=(Belief,))
