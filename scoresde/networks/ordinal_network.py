r"""Networks of tokens that are levels, such as the gray levels of a picture, made from a network of numbers.

A convolution of level numbers uses the order of the levels, and neighboring levels have similar features from the start; an
embedding of tokens would have to learn the order. The level k of K is the number :math:`v = 2 k / (K - 1) - 1` in [-1, 1]. The
mask is not a level: its number is 0, and a second channel is 1 for it and 0 for levels. Learned features of each state can be
appended. The body maps these F channels of each coordinate to numbers of which K are the logits.

With ``logistic`` it predicts a location :math:`\mu` and a scale s of a logistic distribution, discretized and truncated to the
levels (D3PM). With :math:`w = 2 / (K - 1)` and the logistic function :math:`\sigma`, the probability of level k is proportional
to

.. math::
    \sigma\!\left(\frac{v_k + w/2 - \mu}{s}\right) - \sigma\!\left(\frac{v_k - w/2 - \mu}{s}\right)
    \propto \sigma\!\left(\frac{v_k + w/2 - \mu}{s}\right) \sigma\!\left(\frac{\mu - v_k + w/2}{s}\right).

The factor between both sides does not depend on k. The right side is computed, which has no cancellation.

References:
    Austin et al. 2021, "Structured denoising diffusion models in discrete state-spaces", arXiv:2107.03006, appendix B.5.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde._validation import check_count, check_counts, check_number, shown
from scoresde.conditions import ConditionKind
from scoresde.networks.token_inputs import check_tokens

_LABELS = (-14.0, 7.0)
"""Range of ln(t / (1 - t)) that is used as a label, inside the range of the default embeddings."""
_INITIAL_SCALE = math.exp(-2.0)
"""The scale of the logistic distribution for an output of 0, as in D3PM."""
_LARGEST = 20.0
"""Largest logarithm of the scale relative to the initial one."""


class OrdinalNetwork(nn.Module):
    """A network for levels, made from a network for numbers.

    The body is called with ``event_shape`` and ``outputs``, and with ``conditions`` if there are any. An event (C, H, W) becomes
    an event (F C, H, W) of the body, with F channels for each channel: the level, the mask if there is one, and ``features``.

    Args:
        event_shape: Shape of one event.
        tokens: Number of levels, the number of logits for each coordinate.
        states: ``tokens``, or ``tokens + 1`` for a process with a mask.
        body: Makes the body: a class, or a ``functools.partial`` of it with its arguments. In a config, a node without
            ``event_shape``, ``outputs`` and ``conditions``.
        features: Learned features of each state in addition to its number.
        logistic: Whether the logits are those of a truncated discretized logistic distribution.
        time_scale: The body's label is ``time_scale`` times the time, such as 999 for `DDPM` and `ImprovedUNet`. The default
            label is ln(t / (1 - t)), between -14 and 7, for bodies with a `RadialEmbedding` or a `FourierEmbedding`.
        conditions: Kinds of the conditions by name, e.g. ``{"label": Classes(10)}``.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from scoresde.networks import SmallUNet
        >>> network = OrdinalNetwork((1, 8, 8), tokens=17, states=18, body=partial(SmallUNet, channels=8, blocks=1))
        >>> network(torch.randint(18, (2, 1, 8, 8)), torch.rand(2)).shape
        torch.Size([2, 1, 8, 8, 17])
    """

    values: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        tokens: int,
        states: int,
        body: Callable[..., nn.Module],
        features: int = 0,
        logistic: bool = False,
        time_scale: float | None = None,
        conditions: Mapping[str, ConditionKind] | None = None,
    ) -> None:
        super().__init__()
        check_counts("event_shape", event_shape)
        check_count("tokens", tokens, least=2)
        check_count("features", features, least=0)
        if states not in (tokens, tokens + 1):
            raise ValueError(
                f"states={states} is not allowed: give {tokens} for levels only, or {tokens + 1} with a mask"
            )
        if time_scale is not None:
            check_number("time_scale", time_scale, above=0.0)
        self.event_shape, self.tokens, self.states = tuple(event_shape), tokens, states
        self.logistic, self.time_scale = logistic, time_scale
        value = torch.linspace(-1.0, 1.0, tokens)
        columns = [value] if states == tokens else [F.pad(value, (0, 1)), (torch.arange(states) == tokens).float()]
        self.register_buffer("values", torch.stack(columns, dim=1), persistent=False)
        self.features = nn.Embedding(states, features) if features else None
        self.each = len(columns) + features
        channels, *sides = self.event_shape or (1,)
        outputs = -(-(2 if logistic else tokens) // self.each)
        shape = (self.each * channels, *sides)
        self.body = _made(
            body, event_shape=shape, outputs=outputs, **({"conditions": conditions} if conditions else {})
        )

    def forward(self, x: Tensor, t: Tensor, /, **condition: Any) -> Tensor:
        """Compute the logits.

        Args:
            x: Levels of shape (B, *event), in 0 ... states - 1.
            t: Times in [0, 1], of shape (B,).
            **condition: Conditions by name, see ``scoresde.conditions``.

        Returns:
            Logits of shape (B, *event, tokens).

        Raises:
            TypeError: If there is a condition that the network does not have, or if ``x`` is not a tensor of integers.
            ValueError: If ``x`` has another event shape or another state, or a condition is not of its kind.
        """
        check_tokens("OrdinalNetwork", x, self.event_shape, self.states)
        channels, *sides = self.event_shape or (1,)
        numbers = F.embedding(x, self.values)
        inputs = numbers if self.features is None else torch.cat((numbers, self.features(x)), dim=-1)
        inputs = inputs.reshape(len(x), channels, *sides, self.each).movedim(-1, 2).flatten(1, 2)
        out: Tensor = self.body(inputs, self._label(t), **condition)
        out = out.reshape(len(x), channels, self.each, *sides, -1).movedim(2, -2).reshape(*x.shape, -1)
        return self._logistic(out, numbers) if self.logistic else out[..., : self.tokens]

    def _label(self, t: Tensor) -> Tensor:
        """The label of the body, (B,)."""
        label = (t / (1.0 - t)).log().clamp(*_LABELS) if self.time_scale is None else self.time_scale * t
        return label.to(self.values.dtype)

    def _logistic(self, out: Tensor, numbers: Tensor) -> Tensor:
        """The logits from a location, relative to the state, and a scale. Both are functions of the output."""
        location = torch.tanh(out[..., :1] + numbers[..., :1])
        sharpness = torch.exp(-out[..., 1:2].clamp(-_LARGEST, _LARGEST)) / _INITIAL_SCALE
        half = 1.0 / (self.tokens - 1)
        distance = self.values[: self.tokens, 0] - location
        return F.logsigmoid((distance + half) * sharpness) + F.logsigmoid((half - distance) * sharpness)


def _made(body: Callable[..., nn.Module], **given: Any) -> nn.Module:
    """The body. Raises TypeError if it does not take these arguments, or is not a network."""
    try:
        inspect.signature(body).bind(**given)
    except TypeError as problem:
        raise TypeError(f"body={shown(body)} does not take {', '.join(given)}: {problem}") from problem
    made: Any = body(**given)
    if not isinstance(made, nn.Module):
        raise TypeError(f"body={shown(body)} makes {shown(made)}: give a function that makes a network")
    return made
