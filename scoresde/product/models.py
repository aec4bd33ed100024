r"""The model of a product process: one network for the score of the real coordinates and the logits of the categorical ones.

The network is any network for vectors, such as an ``MLP``. Its input and its output have the same width:

    input     the real coordinates, scaled to unit variance, then the categorical ones as one number for each state, 0 or 1
    output    a prediction for each real coordinate, then logits for each state (those of a mask are not used)

Each part of the output depends on both parts of the input. Given the states of the categorical coordinates, the first part is
a ``ScoreModel`` of the real ones, and given the real ones, the second part is a ``CategoricalModel`` of the others.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from scoresde._validation import check_choice, check_output, shown
from scoresde.jump.models import carry_over
from scoresde.product.process import ProductProcess
from scoresde.score.base import NoiseConditionalModel, high_precision
from scoresde.score.labels import Label
from scoresde.score.predictions import PREDICTIONS, Prediction
from scoresde.sde.linalg.kernel import GaussianKernel


class ProductModel(NoiseConditionalModel):
    """A network as a model of a product process: ``model(x, t, **condition)`` returns the score and the logits, packed.

    Args:
        network: A module that is called as ``network(input, label, **condition)``, from ``(B, process.input_width)`` to the
            same shape.
        process: The process that the network is trained under.
        prediction: What the network predicts for the real coordinates: "noise", "score", "data", "velocity", or a
            ``Prediction``.
        label: The input of the time embedding, by default ``LogNoiseLabel()``.
        data_std: Standard deviation of the real coordinates of the data, which scales the network's input. None for no scale.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.jump import Absorbing
        >>> from scoresde.networks import MLP
        >>> from scoresde.product import ProductModel, ProductProcess
        >>> process = ProductProcess(VPSDE(), [None, Absorbing(3)])
        >>> model = ProductModel(MLP((process.input_width,)), process)
        >>> score, (logits,) = model.parts(torch.tensor([[0.5, 3.0]]), torch.tensor([0.5]))  # the category is masked
        >>> score.shape, logits.shape
        (torch.Size([1, 1]), torch.Size([1, 1, 3]))
    """

    def __init__(
        self,
        network: nn.Module,
        process: ProductProcess,
        prediction: str | Prediction = "noise",
        *,
        label: Label | None = None,
        data_std: float | None = 1.0,
    ) -> None:
        if not isinstance(process, ProductProcess):
            raise TypeError(f"process={shown(process)} is not a product process: give a ProductProcess")
        super().__init__(network, process.sde, label=label, data_std=data_std)
        if isinstance(prediction, str):
            check_choice("prediction", prediction, PREDICTIONS)
            prediction = PREDICTIONS[prediction]()
        if not isinstance(prediction, Prediction):
            raise TypeError(
                f"prediction={shown(prediction)} is not a Prediction: give {sorted(PREDICTIONS)} or an instance"
            )
        self.process, self.prediction = process, prediction

    def forward(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """The score and the logits.

        Args:
            x: States, ``(B, d)``.
            t: Times, ``(B,)``.
            **condition: Conditions of the network by name.

        Returns:
            The packed output, ``(B, process.width)``.
        """
        process = self.process
        sde, kernel, output, x = self._evaluated(x, t, condition)
        real, states = process.split(x)
        score = self.prediction.score(sde, kernel, output[:, : len(process.real)], real)
        parts, at = [score], len(process.real)
        for group, part in zip(process.groups, states, strict=True):
            m, size = len(group.coordinates), group.jump.states
            logits = output[:, at : at + m * size].unflatten(1, (m, size))[..., : group.jump.tokens]
            parts.append(carry_over(group.jump, part, logits).flatten(1).to(score.dtype))
            at += m * size
        return torch.cat(parts, 1)

    def parts(self, x: Tensor, t: Tensor, **condition: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The score and the logits, each on its own.

        Args:
            x: States, ``(B, d)``.
            t: Times, ``(B,)``.
            **condition: Conditions of the network by name.

        Returns:
            The score of the real coordinates, ``(B, n)``, and the logits of each group of categorical coordinates, ``(B, m,
            tokens)``.
        """
        return self.process.split_output(self(x, t, **condition), x)

    def _output(self, x: Tensor, kernel: GaussianKernel, t: Tensor, condition: dict[str, Any]) -> Tensor:
        real, states = self.process.split(x)
        wide = high_precision(real, real)
        scaled = wide if self.data_std is None else kernel.standardized(wide, self.data_std)
        hot = [
            nnf.one_hot(part, group.jump.states).flatten(1).to(x.dtype)
            for group, part in zip(self.process.groups, states, strict=True)
        ]
        inputs = torch.cat((scaled.to(x.dtype), *hot), 1)
        out: Tensor = self.network(inputs, self.label(self.sde, high_precision(t, x)).to(x.dtype), **condition)
        check_output("network", out, inputs)
        return out
