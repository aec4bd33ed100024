"""NCSN and NCSNv2 (Song & Ermon 2019, 2020): RefineNets (Lin et al. 2017) of pre-activation residual blocks.

    x -> 3x3 -> stage 0 -> ... -> stage n-1          two residual blocks each; the first block of stages 1 .. n-3 halves the
         |         |                   |             sides (rounded up), the last two stages use dilation 2 and 4 instead
       3x3 <--- refine <--- ... <--- refine          combines the features from below, upsampled if needed, with the stage's

The normalization is InstanceNorm++. It restores what instance normalization removes, the differences between the means mu_k
of the channels:

    gamma_k ((x_k - mu_k) / s_k + alpha_k (mu_k - m) / v) + beta_k,      m, v mean and standard deviation of the mu_k

NCSN is conditioned on the index of the noise level: alpha, beta and gamma are rows of a table, and every convolution of the
refinement has a normalization. NCSNv2 is not conditioned on the noise level: its output is divided by sigma
(`ScaledScorePrediction`). There are no parity data for the outputs of either network, only for the layout of NCSNv2's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde._validation import check_count, check_counts, expand
from scoresde.networks.blocks import InputRange, activation_of, split_outputs
from scoresde.networks.fourier_features import FourierFeatures, feature_channels, with_features
from scoresde.networks.sides import with_even_sides

EPSILON = 1e-5


class InstanceNormPlus(nn.Module):
    """InstanceNorm++ of at least 2 channels, with one row of parameters for each of ``levels`` labels, or one row if 0."""

    def __init__(self, channels: int, levels: int = 0) -> None:
        super().__init__()
        shape = (levels, channels) if levels else (channels,)
        self.levels = levels
        self.alpha, self.gamma = (nn.Parameter(1.0 + 0.02 * torch.randn(shape)) for _ in range(2))
        self.beta = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        """Map (B, channels, H, W) to the same shape. ``row``: integers (B,), ignored if there are no levels."""
        alpha, gamma, beta = (p[row] if self.levels else p[None] for p in (self.alpha, self.gamma, self.beta))
        means = x.mean(dim=(2, 3))
        variance, mean = torch.var_mean(means, dim=1, keepdim=True)
        shift = alpha * (means - mean) / (variance + EPSILON).sqrt()
        return expand(gamma, x) * (F.instance_norm(x, eps=EPSILON) + expand(shift, x)) + expand(beta, x)


class RefineNet(nn.Module):
    """Base class of NCSN and NCSNv2. levels: rows of the normalizations; 0 also removes those of the refinement."""

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: int,
        multipliers: Sequence[int],
        outputs: int,
        input_range: Sequence[float],
        levels: int,
        activation: str = "elu",
        input_features: FourierFeatures | None = None,
    ) -> None:
        super().__init__()
        self.act = activation_of(activation)
        check_counts("event_shape", event_shape)
        check_counts("multipliers", multipliers)
        for name, value in (("channels", channels), ("outputs", outputs)):
            check_count(name, value)
        if len(multipliers) < 3:
            raise ValueError(
                f"multipliers={tuple(multipliers)} is not allowed: give three or more, the last two are dilated"
            )
        step = 2 ** (len(multipliers) - 3)
        if multipliers[-1] != multipliers[-2]:
            raise ValueError(f"multipliers={tuple(multipliers)} is not allowed: the last two must be equal")
        if len(event_shape) != 3 or any(side <= step for side in event_shape[1:]):
            raise ValueError(
                f"event_shape={tuple(event_shape)} is not allowed: give (C, H, W), H and W above {step} for "
                f"{len(multipliers)} multipliers"
            )
        images, widths = event_shape[0], [channels * m for m in multipliers]
        self.event_shape, self.outputs, self.step = tuple(event_shape), outputs, step
        self.input_range = InputRange(input_range)
        norm = partial(InstanceNormPlus, levels=levels)
        self.input_features = input_features
        self.first = nn.Conv2d(feature_channels(images, input_features), channels, 3, padding=1)
        self.norm = norm(channels)
        self.last = nn.Conv2d(channels, images * outputs, 3, padding=1)
        self.stages = nn.ModuleList()
        for i, (before, after) in enumerate(zip([channels, *widths], widths, strict=False)):
            dilation = {len(widths) - 2: 2, len(widths) - 1: 4}.get(i, 1)
            first = _Block(before, after, norm, self.act, dilation, narrows=i > 0)
            self.stages.append(nn.ModuleList([first, _Block(after, after, norm, self.act, dilation)]))
        self.refine = nn.ModuleList()
        inner = norm if levels else None
        for i in reversed(range(len(widths))):
            inputs = [widths[i]] if i == len(widths) - 1 else [widths[i], widths[i]]
            self.refine.append(_Refine(inputs, widths[max(i - 1, 0)], inner, self.act, last=i == 0))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Map (B, C, H, W) and labels (B,) to (B, C, H, W), or to (B, C, H, W, outputs) if ``outputs`` is above 1."""
        if x.ndim != 4 or x.shape[1] != self.event_shape[0] or any(side <= self.step for side in x.shape[2:]):
            raise ValueError(
                f"x has event shape {tuple(x.shape[1:])}: this {type(self).__name__} was made for {self.event_shape} "
                f"and takes sides above {self.step}"
            )
        row = self.row(label)
        h, results = self.first(with_features(self.input_range(x), self.input_features)), []
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            for block in stage:
                h = block(h, row)
            results.append(h)
        h = self.refine[0]([results.pop()], row)
        for refine in self.refine[1:]:
            h = refine([results.pop(), h], row)
        out = self.last(self.act(self.norm(h, row)))
        return split_outputs(out, self.outputs)

    def row(self, label: Tensor) -> Tensor:
        """The row of the tables of the normalizations."""
        return label


class NCSN(RefineNet):
    """NCSN, conditioned on the index of the noise level.

    Args:
        event_shape: (C, H, W) with sides above 2^(stages - 3).
        channels: Channels of the first stage.
        multipliers: Factors of ``channels``, one for each stage; the last two are equal.
        levels: Number of noise levels. Labels are integers 0 .. levels - 1.
        outputs: Numbers predicted for each coordinate. More than 1 adds a last dimension of that size.
        input_range: Range (low, high) of the data. The network maps it to [-1, 1].
        activation: "silu", "relu", "elu" or "lrelu" (slope 0.2 below 0).
        input_features: Fourier features that are appended to the input; none by default.

    References:
        Song and Ermon 2019, Generative modeling by estimating gradients of the data distribution.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        levels: int = 10,
        outputs: int = 1,
        input_range: Sequence[float] = (0.0, 1.0),
        activation: str = "elu",
        input_features: FourierFeatures | None = None,
    ) -> None:
        check_count("levels", levels)
        super().__init__(event_shape, channels, multipliers, outputs, input_range, levels, activation, input_features)
        self.levels = levels

    def row(self, label: Tensor) -> Tensor:
        """The row of the tables of the normalizations.

        Args:
            label: Labels of shape (B,), whole numbers 0 .. levels - 1.

        Returns:
            The labels as integers.

        Raises:
            ValueError: For other labels. Labels are checked on the CPU only.
        """
        row = label.long()
        looks = label.device.type == "cpu" and not torch.compiler.is_compiling()
        if looks and not bool(((row == label) & (row >= 0) & (row < self.levels)).all()):
            raise ValueError(
                f"labels from {float(label.min()):g} to {float(label.max()):g} are not all whole numbers in "
                f"0 .. {self.levels - 1}: give the model TimeLabel({self.levels - 1}, descending=True, whole=True)"
            )
        return row


class NCSNv2(RefineNet):
    """NCSNv2, which is not conditioned on the noise level.

    Args:
        event_shape: (C, H, W) with sides above 2^(stages - 3).
        channels: Channels of the first stage.
        multipliers: Factors of ``channels``, one for each stage, the last two equal: (1, 2, 2, 4, 4) for 128
            pixels, (1, 2, 2, 2, 4, 4) for 256.
        outputs: Numbers predicted for each coordinate. More than 1 adds a last dimension of that size.
        input_range: Range (low, high) of the data. The network maps it to [-1, 1].
        activation: "silu", "relu", "elu" or "lrelu" (slope 0.2 below 0).
        input_features: Fourier features that are appended to the input; none by default.

    References:
        Song and Ermon 2020, Improved techniques for training score-based generative models.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        outputs: int = 1,
        input_range: Sequence[float] = (0.0, 1.0),
        activation: str = "elu",
        input_features: FourierFeatures | None = None,
    ) -> None:
        super().__init__(event_shape, channels, multipliers, outputs, input_range, 0, activation, input_features)


Norm = partial[InstanceNormPlus]


class _Block(nn.Module):
    """Normalization, activation, 3x3 convolution, twice, with a shortcut; ``narrows`` without dilation halves the sides."""

    def __init__(
        self, before: int, after: int, norm: Norm, act: nn.Module, dilation: int, narrows: bool = False
    ) -> None:
        super().__init__()
        self.act = act
        self.halves = narrows and dilation == 1
        convolve = partial(nn.Conv2d, kernel_size=3, padding=dilation, dilation=dilation)
        # a block that narrows changes its channels only in the second convolution
        middle = before if narrows else after
        self.conv1 = convolve(before, middle)
        self.norm2, self.conv2 = norm(middle), convolve(middle, after)
        self.shortcut: nn.Module = nn.Identity()
        if narrows:
            self.shortcut = nn.Conv2d(before, after, 1) if self.halves else convolve(before, after)
        self.norm1 = norm(before)

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        h = self.conv1(self.act(self.norm1(x, row)))
        h = self.conv2(self.act(self.norm2(h, row))) + self.shortcut(x)
        return F.avg_pool2d(with_even_sides(h), 2) if self.halves else h


class _Convolution(nn.Module):
    """A normalization if there are normalizations, then the function ``between``, then a 3x3 convolution."""

    def __init__(self, before: int, after: int, norm: Norm | None, bias: bool = False) -> None:
        super().__init__()
        self.norm = None if norm is None else norm(before)
        self.conv = nn.Conv2d(before, after, 3, padding=1, bias=bias)

    def forward(self, x: Tensor, row: Tensor, between: Callable[[Tensor], Tensor] = lambda h: h) -> Tensor:
        out: Tensor = self.conv(between(x if self.norm is None else self.norm(x, row)))
        return out


class _Residuals(nn.Module):
    """x + conv(act(conv(act(x)))), repeated ``count`` times."""

    def __init__(self, channels: int, norm: Norm | None, act: nn.Module, count: int) -> None:
        super().__init__()
        self.act = act
        self.convs = nn.ModuleList(
            nn.ModuleList(_Convolution(channels, channels, norm) for _ in range(2)) for _ in range(count)
        )

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        for pair in self.convs:
            assert isinstance(pair, nn.ModuleList)
            h = x
            for conv in pair:
                h = conv(h, row, between=self.act)
            x = x + h
        return x


class _Refine(nn.Module):
    """Two residual units for each input, fusion at the largest sides, chained pooling, and residual units (three in the last)."""

    def __init__(self, inputs: Sequence[int], channels: int, norm: Norm | None, act: nn.Module, last: bool) -> None:
        super().__init__()
        self.act = act
        self.adapt = nn.ModuleList(_Residuals(width, norm, act, 2) for width in inputs)
        self.out = _Residuals(channels, norm, act, 3 if last else 1)
        self.fuse = nn.ModuleList(_Convolution(width, channels, norm, bias=True) for width in inputs if len(inputs) > 1)
        self.chain = nn.ModuleList(_Convolution(channels, channels, norm) for _ in range(2))
        self.pool = nn.MaxPool2d(5, stride=1, padding=2) if norm is None else nn.AvgPool2d(5, stride=1, padding=2)

    def forward(self, inputs: Sequence[Tensor], row: Tensor) -> Tensor:
        sides = inputs[0].shape[2:]
        adapted = [adapt(x, row) for adapt, x in zip(self.adapt, inputs, strict=True)]
        if self.fuse:
            fused = [conv(h, row) for conv, h in zip(self.fuse, adapted, strict=True)]
            adapted = [F.interpolate(h, size=sides, mode="bilinear", align_corners=True) for h in fused]
        x = self.act(sum(adapted[1:], start=adapted[0]))
        path = x
        for conv in self.chain:
            path = conv(path, row, between=self.pool)
            x = x + path
        out: Tensor = self.out(x, row)
        return out
