"""A network, a process, and what the network predicts: together, a score.

    model(x, t) = grad log p_t(x)

The network is any module ``network(x, label, **condition) -> output``; a `Prediction` says what the output is:

    noise      E[z | x_t]                          score = -output / sigma                   (DDPM)
    score      grad log p_t                        score = output                            (NCSN, the paper's VE)
    data       E[x_0 | x_t]                        score = (alpha output - x) / sigma^2      (Tweedie)
    velocity   alpha E[z | x_t] - sigma E[x_0 | x_t]                                         (Salimans & Ho 2022)
    MixedPrediction     E[z | x_t] less what it is for Gaussian data                         (Vahdat et al. 2021)
    Levels              logits over the levels of quantised data, see `scoresde.score.quantized`

What it is told of the time is a `label`, by default ln(sigma / alpha), the same for every linear process; the paper's
labels are `TimeLabel(999.0)` (VP, sub-VP) and `SigmaLabel()` (VE). What it is given is x over its standard deviation
sqrt(alpha^2 data_std^2 + sigma^2), or x itself with ``data_std=None`` (the paper; the same for VP and data_std = 1). Under a
process with a shift the mean of x_t for data about 0 is taken off first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scoresde._arguments import check_constructors
from scoresde._validation import check_batch, check_choice, check_number, shown, times_checked
from scoresde.conditions import check_condition, required_conditions
from scoresde.score.labels import Label, LogNoiseLabel
from scoresde.score.predictions import PREDICTIONS, DataPosterior, Prediction
from scoresde.sde.linalg.kernel import GaussianKernel
from scoresde.sde.linear import LinearSDE
from scoresde.sde.scores import HALF


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
        return self.posterior(x, t, **condition).mean

    def velocity(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """alpha E[z | x_t] - sigma E[x_0 | x_t]."""
        return self.prediction.velocity(*self._evaluated(x, t, condition))

    def posterior(self, x: Tensor, t: Tensor, **condition: Any) -> DataPosterior:
        """What the model believes of x_0."""
        return self.prediction.posterior(*self._evaluated(x, t, condition))

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


check_constructors(globals())
