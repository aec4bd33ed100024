"""What a model reads of the process: the kernel x_t | x_0 at the times of a batch, or `NoKernel` in its place.

A model scales its input by the kernel, its label is a function of the kernel, and a prediction converts the network's output
by it. Only a ``LinearSDE`` has a kernel in closed form. For any other process `kernel_at` returns a `NoKernel`, which scales
the input by the data's standard deviation alone and raises TypeError for everything else. A score model of such a process
therefore has a score, and no noise, data or velocity.
"""

from __future__ import annotations

from typing import NoReturn, cast

import torch
from torch import Tensor

from scoresde.score.labels import Label, LogNoiseLabel, LogTimeLabel
from scoresde.score.predictions import Prediction
from scoresde.sde.base import SDE
from scoresde.sde.linalg.kernel import GaussianKernel
from scoresde.sde.linear import LinearSDE


class NoKernel:
    """Stands for the kernel of a process that has none in closed form.

    Args:
        sde: The process, which errors name.
    """

    def __init__(self, sde: SDE) -> None:
        self.sde = sde

    def standardized(self, x: Tensor, data_std: float) -> Tensor:
        """x divided by the standard deviation of the data, which is the right scale at t = 0."""
        return x / data_std

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise TypeError(
            f"sde={self.sde!r} has no closed-form kernel, so its model has a score only, and not the noise, the data or the "
            f"velocity ({name})"
        )


def kernel_at(sde: SDE, t: Tensor) -> GaussianKernel:
    """The kernel x_t | x_0 of a process, or a `NoKernel` if it has none in closed form."""
    return sde.kernel(t) if isinstance(sde, LinearSDE) else cast(GaussianKernel, NoKernel(sde))


def default_label(sde: SDE) -> Label:
    """The label of a model if none is given."""
    return LogNoiseLabel() if isinstance(sde, LinearSDE) else LogTimeLabel()


def check_label(label: Label, sde: SDE) -> None:
    """Raise TypeError if the label needs the kernel of a process that has none in closed form."""
    if isinstance(sde, LinearSDE):
        return
    try:
        label(sde, torch.tensor([0.5 * sde.T]))
    except (TypeError, AttributeError) as problem:
        raise TypeError(
            f"label={label!r} is not allowed for {sde!r}, which has no closed-form kernel: give LogTimeLabel() or TimeLabel(1.0)"
        ) from problem


def check_prediction(prediction: Prediction, sde: SDE) -> None:
    """Raise TypeError if the prediction needs the kernel of a process that has none in closed form."""
    if prediction.needs_kernel and not isinstance(sde, LinearSDE):
        raise TypeError(
            f"prediction={prediction!r} is not allowed for {sde!r}, which has no closed-form kernel to make a score of it: "
            "give prediction='score'"
        )
