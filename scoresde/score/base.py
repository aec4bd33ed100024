"""Base class of the models of x_t: a network, a process, and the time embedding's input.

The network is any module ``network(x, label, **condition) -> output``. Its ``label`` is a function of the noise level,
ln(sigma / alpha) by default, which has the same scale for every linear process. Its input is x divided by its standard
deviation sqrt(alpha^2 data_std^2 + sigma^2), or x itself with ``data_std=None``. Both are the same for VP and data_std = 1.
Under a process with a shift, the mean of x_t for data with mean 0 is subtracted first.

A process without a closed-form kernel has no alpha and sigma. Its label is ln t by default, and the network's input is
x / data_std.

A subclass defines what the output means: a `ScoreModel` makes a score of it, a `Classifier` the probabilities of classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from scoresde._arguments import check_constructors
from scoresde._validation import check_batch, check_number, shown, times_checked
from scoresde.conditions import check_condition
from scoresde.score.conditional import ConditionalModel
from scoresde.score.kernels import check_label, default_label, kernel_at
from scoresde.score.labels import Label
from scoresde.sde.base import SDE
from scoresde.sde.linalg.kernel import GaussianKernel
from scoresde.sde.scores import HALF

__all__ = ["NoiseConditionalModel"]


def high_precision(value: Tensor, x: Tensor) -> Tensor:
    """``value`` in float32 if x has half precision, else unchanged."""
    return value.float() if x.dtype in HALF else value


class NoiseConditionalModel(ConditionalModel, ABC):
    """Base class of a network of (x_t, t) under a process.

    A subclass implements ``forward`` and other functions of the network's output, which it gets from ``_evaluated``.

    A network of half precision takes x in its own dtype, and t in that dtype or in float32. The coefficients are then
    computed in float32.

    Args:
        network: A module that is called as ``network(input, label, **condition)``. A condition that is a tensor has one row
            for each sample, or no dimension.
        sde: The process that the network is trained under, or a chain of one for discrete-time models.
        label: The input of the time embedding: by default ``LogNoiseLabel()``, or ``LogTimeLabel()`` for a process without a
            closed-form kernel.
        data_std: Standard deviation of the data around 0, which scales the network's input. With None the network receives x
            itself.

    Raises:
        TypeError: When called, if x has another dtype or device than the network, or if a required condition is missing.
        ValueError: When called, if t is outside [0, T] or does not have the shape (B,), or if a condition has another number
            of rows than x.
    """

    def __init__(
        self, network: nn.Module, sde: SDE, *, label: Label | None = None, data_std: float | None = 1.0
    ) -> None:
        super().__init__(network)
        if not isinstance(sde, SDE):
            raise TypeError(f"sde={shown(sde)} is not a process: give an SDE, e.g. VPSDE()")
        if data_std is not None:
            check_number("data_std", data_std, above=0.0)
        if label is not None and not callable(label):
            raise TypeError(
                f"label={label!r} cannot be called: give LogNoiseLabel(), TimeLabel(999.0), SigmaLabel(), ..."
            )
        label = label or default_label(sde)
        check_label(label, sde)
        self.sde, self.label, self.data_std = sde, label, data_std

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """Computes the result that the class stands for.

        Args:
            x: The states, (B, *event).
            t: The times, (B,).
            **condition: Conditions of the network by name. A tensor has one row per sample, or no dimension.

        Returns:
            The result, with one row for each sample.
        """

    def output(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """Computes the output of the network itself.

        Args:
            x: The states, (B, *event).
            t: The times, (B,).
            **condition: Conditions of the network by name. A tensor has one row per sample, or no dimension.

        Returns:
            The output of the network for the scaled input and the label.
        """
        condition = {**self.condition, **condition}
        self._check_input(x, t, condition)
        with times_checked():
            return self._output(x, kernel_at(self.sde, high_precision(t, x)), t, condition)

    def _evaluated(
        self, x: Tensor, t: Tensor, condition: dict[str, Any], kernel: GaussianKernel | None = None
    ) -> tuple[SDE, GaussianKernel, Tensor, Tensor]:
        """The process, its kernel, the network's output and the state: the arguments of a ``Prediction``.

        The kernel is computed once. If x has half precision, which is too coarse for the coefficients, all of them are in
        float32."""
        condition = {**self.condition, **condition}
        self._check_input(x, t, condition)
        with times_checked():
            kernel = kernel or kernel_at(self.sde, high_precision(t, x))
            output = self._output(x, kernel, t, condition)
        return self.sde, kernel, high_precision(output, x), high_precision(x, x)

    def _output(self, x: Tensor, kernel: GaussianKernel, t: Tensor, condition: dict[str, Any]) -> Tensor:
        scaled = x if self.data_std is None else kernel.standardized(high_precision(x, x), self.data_std)
        label = self.label(self.sde, high_precision(t, x))
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
                f"t={low:g} is not allowed: the label of {self.label!r} is not finite there, because {self.sde!r} has no "
                "noise or no signal; give a t_min > 0"
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
                    raise TypeError(
                        f"{name} has dtype {tensor.dtype}, but the network has {weight.dtype}: convert one of them"
                    )
                if tensor.device != weight.device:
                    raise TypeError(
                        f"{name} is on {tensor.device}, but the network is on {weight.device}: move one of them"
                    )
        if t.shape != x.shape[:1]:
            raise ValueError(f"t has shape {tuple(t.shape)}: give ({len(x)},), one time per sample")
        self.sde.check_time(t)


check_constructors(globals())
