"""NCSN++, DDPM++ and DDPM: the UNets of the paper (Song et al. 2021, appendix H; Ho et al. 2020).

    x -> 3x3 -> level 0 -> ... -> lowest level -> middle -> lowest level -> ... -> level 0 -> head -> output
                     \\_________________________ skip connections _________________________/

Level i has sides of 1 / 2^i of the input's, rounded up (``sides.py``), and multipliers[i] times the channels. In addition to
the main path, the encoder can carry a downsampled input, and the decoder can build up the output (progressive growing, Karras
et al. 2020):

    progressive_input     "skip"      a 1x1 convolution of the downsampled input is combined with the features of every level
                          "residual"  strided convolutions of the input are added to the features of every level
    progressive_output    "skip"      every level adds its contribution to the upsampled output of the level below
                          "residual"  upsampled features of the output are added to the features of every level

NCSN++ uses FIR resampling, resampling inside the residual blocks, and rescaled sums. DDPM++ resamples inside the blocks and
rescales sums. DDPM uses none of them. Events have one, two or three dimensions in addition to the channels: series, images,
volumes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from scoresde._validation import check_choice, check_count, check_counts
from scoresde.conditions import ConditionKind
from scoresde.networks.blocks import InputRange, activation_of, convolution, initialized, split_outputs
from scoresde.networks.conditioning import CrossAttention, check_no_conditions, make_conditioning
from scoresde.networks.embeddings import Embedding, FourierEmbedding, SinusoidalEmbedding
from scoresde.networks.fourier_features import FourierFeatures, feature_channels, with_features
from scoresde.networks.resampling import FIR, Averaging, Resampling
from scoresde.networks.sides import attended_levels, sides_of_levels
from scoresde.networks.stages import LayerFactory, decoder, encoder

PROGRESSIVE = ("none", "skip", "residual")


class NCSNpp(nn.Module):
    """The UNet of the paper; the defaults are NCSN++ for CIFAR-10 in continuous time.

    The output is not divided by a noise level. Use a prediction such as `ScaledScorePrediction` for that.

    Args:
        event_shape: (C, *sides) with one to three sides of any length, which may differ. The network also accepts events with
            other sides.
        channels: Channels at full resolution.
        multipliers: Factors of ``channels``, one for each level.
        blocks: Residual blocks of each level of the encoder. The decoder has one more.
        attention: Longest sides of the levels that have attention, for (12, 20) and three levels some of 20, 10, 5. None for
            attention at 16 if a level has that side; () for attention at no level. The middle always has attention.
        dropout: Probability of dropout inside the blocks, in [0, 1).
        outputs: Numbers predicted for each coordinate. More than 1 adds a last dimension of that size.
        input_range: Range (low, high) of the data. The network maps it to [-1, 1].
        checkpoint: Recompute residual blocks in the backward pass. This needs less memory and more time.
        embedding: Embedding of the label; ``FourierEmbedding(channels)`` by default.
        resampling: The downsampling and upsampling; ``FIR()`` by default.
        block: "biggan" resamples inside residual blocks, "ddpm" between them.
        convolve: With ``block="ddpm"``, resample by convolutions; if False, by ``resampling`` only.
        progressive_input: "none", "skip" or "residual".
        progressive_output: "none", "skip" or "residual".
        combine: "sum" or "cat": how ``progressive_input="skip"`` combines the input with the features.
        rescale: Divide sums of two branches by sqrt(2).
        group_width: Minimum number of channels in a group of the group normalizations, which have at most 32 groups.
        groups: Number of groups of every group normalization; 0 derives it from ``group_width``.
        activation: "silu", "relu", "elu" or "lrelu" (slope 0.2 below 0).
        conditional: False for a network that ignores the label. It keeps the embedding and the label layers of the blocks,
            because checkpoints of the reference implementation contain them, but does not train them.
        conditions: Kinds of the conditions by name, e.g. ``{"label": Classes(10)}``.
        input_features: Fourier features that are appended to the input; none by default.

    References:
        Song et al. 2021, Score-based generative modeling through stochastic differential equations, appendix H.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 4,
        attention: Sequence[int] | None = None,
        dropout: float = 0.0,
        outputs: int = 1,
        input_range: Sequence[float] = (-1.0, 1.0),
        *,
        checkpoint: bool = False,
        embedding: Embedding | None = None,
        resampling: Resampling | None = None,
        block: str = "biggan",
        convolve: bool = True,
        progressive_input: str = "residual",
        progressive_output: str = "none",
        combine: str = "sum",
        rescale: bool = True,
        group_width: int = 4,
        groups: int = 0,
        activation: str = "silu",
        conditional: bool = True,
        conditions: Mapping[str, ConditionKind] | None = None,
        input_features: FourierFeatures | None = None,
    ) -> None:
        super().__init__()
        images, dims = _check_event(event_shape, multipliers)
        check_counts("attention", attention or ())
        for name, count in (("channels", channels), ("blocks", blocks), ("outputs", outputs)):
            check_count(name, count)
        check_count("groups", groups, least=0)
        check_count("group_width", group_width)
        check_choice("conditional", conditional, (False, True))
        if conditions and not conditional:
            raise ValueError(
                f"conditions={dict(conditions)!r} with conditional=False is not allowed: conditions are added to the embedded "
                "label"
            )
        check_choice("block", block, ("biggan", "ddpm"))
        check_choice("progressive_input", progressive_input, PROGRESSIVE)
        check_choice("progressive_output", progressive_output, PROGRESSIVE)
        check_choice("combine", combine, ("sum", "cat"))
        self.event_shape, self.outputs = tuple(event_shape), outputs
        self.input_range = InputRange(input_range)
        predicted, embedding_size, widths = images * outputs, 4 * channels, [channels * m for m in multipliers]
        attended = attended_levels(attention, event_shape[1:], len(widths))
        layers = LayerFactory(
            dims, embedding_size, resampling or FIR(), inside=block == "biggan", convolve=convolve, dropout=dropout,
            rescale=rescale, group_width=group_width, checkpoint=checkpoint,
            activation=activation, groups=groups, conditional=conditional,
        )  # fmt: skip
        self.embedding, self.act = embedding or FourierEmbedding(channels), activation_of(activation)
        self.label = nn.Sequential(
            initialized(nn.Linear(self.embedding.features, embedding_size)), self.act,
            initialized(nn.Linear(embedding_size, embedding_size)),
        ) if conditional else None  # fmt: skip
        self.conditioning = make_conditioning(conditions, embedding_size, event_shape)
        more = 0 if self.conditioning is None else self.conditioning.channels
        self.input_features = input_features
        self.first = convolution(dims, feature_channels(images, input_features) + more, channels)
        self.down, skips, width = encoder(
            layers, channels, widths, blocks, attended, images, progressive_input, combine
        )
        self.before, self.attention, self.after = (
            layers.residual(width, width), layers.attention(width), layers.residual(width, width),
        )  # fmt: skip
        tokens = {} if self.conditioning is None else self.conditioning.token_sizes
        self.tokens = CrossAttention(width, tokens) if tokens else None
        self.up = decoder(layers, width, widths, blocks, attended, skips, predicted, progressive_output)
        self.head = layers.head(widths[0], predicted) if progressive_output != "skip" else None

    def forward(self, x: Tensor, label: Tensor, /, **condition: Any) -> Tensor:
        """Evaluate the network.

        Args:
            x: Events of shape (B, C, *sides).
            label: Labels of shape (B,).
            **condition: Conditions by name, see ``scoresde.conditions``.

        Returns:
            A tensor of shape (B, C, *sides), or (B, C, *sides, outputs) if ``outputs`` is above 1.

        Raises:
            TypeError: If there is a condition that the network does not have.
            ValueError: If ``x`` has other channels or sides, or a condition is not of its kind.
        """
        self._check_input(x)
        image, embedded = self.input_range(x), self._embed(x, label, condition)
        h = with_features(image, self.input_features)
        h = self.first(h if self.conditioning is None else self.conditioning.images(h, condition))
        skips = [h]
        for level in self.down:
            h, image = level(h, image, embedded, skips)
        h = self.attention(self.before(h, embedded))
        if self.tokens is not None:
            h = self.tokens(h, condition)
        h = self.after(h, embedded)
        result: Tensor | None = None
        for level in self.up:
            h, result = level(h, result, embedded, skips)
        out = result if self.head is None else self.head(h)
        assert out is not None
        return split_outputs(out, self.outputs)

    def _embed(self, x: Tensor, label: Tensor, condition: Mapping[str, Any]) -> Tensor | None:
        """The embedded label and conditions, or None if the network is not conditional."""
        if self.conditioning is None:
            check_no_conditions(condition)
        if self.label is None:
            return None
        embedded = self.label(self.embedding(label))
        if self.conditioning is not None:
            embedded = embedded + self.conditioning(x, condition)
        out: Tensor | None = self.act(embedded)
        return out

    def _check_input(self, x: Tensor) -> None:
        alike = x.ndim == len(self.event_shape) + 1 and x.shape[1] == self.event_shape[0]
        if not alike:
            raise ValueError(
                f"x has event shape {tuple(x.shape[1:])}: this {type(self).__name__} was made for {self.event_shape} "
                "and takes as many channels and sides"
            )


class DDPMpp(NCSNpp):
    """DDPM++: `NCSNpp` without FIR filters and progressive growing, with a sinusoidal embedding by default.

    The arguments are those of `NCSNpp`.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 4,
        attention: Sequence[int] | None = None,
        dropout: float = 0.0,
        outputs: int = 1,
        input_range: Sequence[float] = (-1.0, 1.0),
        *,
        checkpoint: bool = False,
        embedding: Embedding | None = None,
        activation: str = "silu",
        conditional: bool = True,
        conditions: Mapping[str, ConditionKind] | None = None,
        input_features: FourierFeatures | None = None,
    ) -> None:
        check_count("channels", channels, least=4)
        super().__init__(
            event_shape, channels, multipliers, blocks, attention, dropout, outputs, input_range,
            checkpoint=checkpoint, embedding=embedding or SinusoidalEmbedding(channels), resampling=Averaging(),
            progressive_input="none",
            activation=activation, conditional=conditional, conditions=conditions, input_features=input_features,
        )  # fmt: skip


class DDPM(NCSNpp):
    """The UNet of DDPM (Ho et al. 2020), which resamples between the blocks and does not rescale sums.

    The arguments are those of `NCSNpp`. Ho et al. always use 32 groups. This network uses 32 groups from 64 channels on.
    With groups of a single channel (``group_width=1``), the normalization would remove what the label adds, and the output
    would not depend on time.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] | None = None,
        dropout: float = 0.0,
        outputs: int = 1,
        input_range: Sequence[float] = (-1.0, 1.0),
        *,
        checkpoint: bool = False,
        embedding: Embedding | None = None,
        convolve: bool = True,
        group_width: int = 2,
        groups: int = 0,
        activation: str = "silu",
        conditional: bool = True,
        conditions: Mapping[str, ConditionKind] | None = None,
        input_features: FourierFeatures | None = None,
    ) -> None:
        check_count("channels", channels, least=4)
        super().__init__(
            event_shape, channels, multipliers, blocks, attention, dropout, outputs, input_range,
            checkpoint=checkpoint, embedding=embedding or SinusoidalEmbedding(channels), resampling=Averaging(),
            block="ddpm", convolve=convolve,
            progressive_input="none", rescale=False, group_width=group_width, groups=groups, activation=activation,
            conditional=conditional, conditions=conditions, input_features=input_features,
        )  # fmt: skip


def _check_event(event_shape: Sequence[int], multipliers: Sequence[int]) -> tuple[int, int]:
    """Channels and number of sides."""
    check_counts("event_shape", event_shape)
    check_counts("multipliers", multipliers)
    if not multipliers:
        raise ValueError(f"multipliers={multipliers!r} is not allowed: give one for each resolution, e.g. (1, 2, 2)")
    images, *sides = event_shape or (0,)
    if not 1 <= len(sides) <= 3:
        raise ValueError(f"event_shape={tuple(event_shape)} is not allowed: give (C, *sides), one to three sides")
    longest = [max(level) for level in sides_of_levels(sides, len(multipliers))]
    if longest[-2:] == [1, 1]:
        raise ValueError(
            f"event_shape={tuple(event_shape)} is not allowed with {len(multipliers)} multipliers: the longest sides of the "
            f"levels would be {', '.join(map(str, longest))}; give at most {longest.index(1) + 1} multipliers"
        )
    return images, len(sides)
