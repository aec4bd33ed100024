r"""Product processes: an SDE for the real coordinates of an event, jump processes for the categorical ones.

The coordinates are perturbed independently, at a common time:

.. math::
    q(x_t \mid x_0) = N(x_t^{real};\, \alpha(t)\, x_0^{real},\, \sigma(t)^2 I)\; \prod_j q_j(x_t^j \mid x_0^j)

The reverse process couples them: the score of the real coordinates and p(x_0^j | x_t) of the categorical ones depend on
the whole state.

The state is one tensor of real numbers (B, d), in which a categorical coordinate holds the number of its state, as 0.0,
1.0, ... A table of d columns is then a batch like any other: data sets, samples, files and checkpoints need no second
tensor, and no code that treats the rows of both alike. float32 represents whole numbers up to 2^24 exactly, which is far
above the number of categories of a column. ``split`` and ``join`` convert between the packed state and its parts.

    process.split(x)                the real coordinates (B, n), and int64 states (B, m) of each group
    process.split_output(output)    the score (B, n), and logits (B, m, tokens) of each group

A group consists of the categorical coordinates with equal jump processes, so that they share one computation. What calls
what: a model (``models.py``, ``mixture.py``) returns both parts in one packed output; the objective, the bound and the
sampler split it, and give the score to the SDE, the logits to the jump processes. Group k draws its random numbers from
``noise.again(k + 1)``, the SDE from ``noise``, so that all draws are independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import check_finite, shown
from scoresde.jump.base import JumpProcess
from scoresde.jump.states import check_log_probs
from scoresde.noise import NoiseSource
from scoresde.samplers.arguments import whole_shape
from scoresde.sde import Chain, ScalarSDE
from scoresde.sde.scores import check_signature

LARGEST = 2**24
"""Largest number of states: float32 represents whole numbers up to it."""


@dataclass(frozen=True)
class Group:
    """The categorical coordinates with equal jump processes.

    Args:
        jump: The process of each coordinate.
        coordinates: Their numbers.
    """

    jump: JumpProcess
    coordinates: tuple[int, ...]


class ProductProcess:
    """An SDE for the real coordinates, and a jump process for each categorical one, with independent noise.

    Args:
        sde: The process of the real coordinates, with scalar coefficients and Gaussian noise.
        jumps: One entry for each coordinate: None for a real one, or the jump process of a categorical one. At least one
            coordinate of each kind, and the same T for all.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.jump import Absorbing
        >>> process = ProductProcess(VPSDE(), [None, Absorbing(3), None])
        >>> process.split(torch.tensor([[0.5, 2.0, -1.0]]))
        (tensor([[ 0.5000, -1.0000]]), (tensor([[2]]),))
    """

    def __init__(self, sde: ScalarSDE, jumps: Sequence[JumpProcess | None]) -> None:
        if not isinstance(sde, ScalarSDE) or isinstance(sde, Chain) or not sde.gaussian:
            raise TypeError(
                f"sde={shown(sde)} is not allowed: give a process with scalar coefficients and Gaussian noise in continuous "
                "time, e.g. VPSDE()"
            )
        if bool((sde.prior_mean() != 0).any()):
            raise TypeError(f"sde={shown(sde)} has a drift with a shift: give a process without one, e.g. VPSDE()")
        self.sde, self.jumps = sde, tuple(jumps)
        categorical = [jump for jump in self.jumps if jump is not None]
        if not categorical or len(categorical) == len(self.jumps):
            raise ValueError(
                f"jumps={shown(self.jumps)} is not allowed: give one entry for each coordinate, None for at least one real one "
                "and a jump process for at least one categorical one; an SDE or a jump process alone is for the others"
            )
        for jump in categorical:
            if abs(jump.T - sde.T) > 1e-12 * sde.T:
                raise ValueError(f"jumps has {jump!r} with T={jump.T:g}, and sde has T={sde.T:g}: give the same T")
            if jump.states > LARGEST:
                raise ValueError(f"jumps has {jump!r} with more than 2**24 states")
        self.real = tuple(i for i, jump in enumerate(self.jumps) if jump is None)
        groups: list[tuple[JumpProcess, list[int]]] = []
        for i, own in enumerate(self.jumps):
            if own is None:
                continue
            place = next((where for known, where in groups if known == own), None)
            if place is None:
                groups.append((own, [i]))
            else:
                place.append(i)
        self.groups = tuple(Group(jump, tuple(where)) for jump, where in groups)

    @property
    def T(self) -> float:
        """The last time."""
        return float(self.sde.T)

    @property
    def width(self) -> int:
        """Numbers in the output of a model: one for each real coordinate, and the logits of all tokens of the others."""
        return len(self.real) + sum(len(group.coordinates) * group.jump.tokens for group in self.groups)

    @property
    def input_width(self) -> int:
        """Numbers in the input and the output of a network: one for each real coordinate and each state of the others."""
        return len(self.real) + sum(len(group.coordinates) * group.jump.states for group in self.groups)

    def split(self, x: Tensor, name: str = "x", *, data: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The parts of packed states.

        Args:
            x: States, ``(B, d)``.
            name: Their name, for messages.
            data: Whether only tokens are allowed, and no masks.

        Returns:
            The real coordinates, ``(B, n)``, and the states of each group, ``(B, m)`` int64.

        Raises:
            ValueError: For another shape, or a categorical coordinate that is not the number of a state. The values are
                checked on the CPU only.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind = f"dtype {x.dtype}" if isinstance(x, Tensor) else f"type {type(x).__name__}"
            raise TypeError(f"{name} has {kind}: give a tensor of real numbers (B, {len(self.jumps)})")
        if x.ndim != 2 or x.shape[1] != len(self.jumps) or len(x) == 0:
            raise ValueError(f"{name} has shape {tuple(x.shape)}: give (B, {len(self.jumps)}), one column a coordinate")
        parts = []
        for group in self.groups:
            part = x[:, list(group.coordinates)]
            if x.device.type == "cpu" and not torch.compiler.is_compiling():
                wrong = part != part.round()
                wrong |= (part < 0) | (part >= (group.jump.tokens if data else group.jump.states))
                if bool(wrong.any()):
                    row, place = wrong.nonzero()[0].tolist()
                    kind, size = ("tokens", group.jump.tokens) if data else ("states", group.jump.states)
                    raise ValueError(
                        f"{name} has the value {float(part[row, place]):.9g} in row {row}, coordinate "
                        f"{group.coordinates[place]}: allowed are the {kind} 0 to {size - 1}"
                    )
            parts.append(part.long())
        return x[:, list(self.real)], tuple(parts)

    def join(self, real: Tensor, states: Sequence[Tensor]) -> Tensor:
        """The packed states of their parts, the inverse of ``split``.

        Args:
            real: The real coordinates, ``(B, n)``.
            states: The states of each group, ``(B, m)``.

        Returns:
            The packed states, ``(B, d)`` in the dtype of ``real``.
        """
        x = real.new_empty(len(real), len(self.jumps))
        x[:, list(self.real)] = real
        for group, part in zip(self.groups, states, strict=True):
            x[:, list(group.coordinates)] = part.to(x.dtype)
        return x

    def split_output(self, output: Tensor, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The parts of the output of a model.

        Args:
            output: The output, ``(B, width)``: the score of the real coordinates, then the logits of each group.
            x: The states, ``(B, d)``.

        Returns:
            The score, ``(B, n)``, and the logits of p(x_0 | x_t) of each group, ``(B, m, tokens)``.

        Raises:
            ValueError: For another shape, NaN, or a coordinate without a finite logit.
        """
        if not isinstance(output, Tensor) or output.shape != (len(x), self.width):
            what = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"type {type(output).__name__}"
            raise ValueError(
                f"model returned {what}: give {(len(x), self.width)}, the score of {len(self.real)} real coordinates and "
                "the logits of all tokens of the others"
            )
        sizes = [len(group.coordinates) * group.jump.tokens for group in self.groups]
        score, *flat = output.split([len(self.real), *sizes], 1)
        check_finite("score", score)
        logits = tuple(
            part.unflatten(1, (len(group.coordinates), group.jump.tokens))
            for part, group in zip(flat, self.groups, strict=True)
        )
        for part in logits:
            check_log_probs("model", part, torch.zeros(1))
        return score, logits

    def noises(self, noise: NoiseSource) -> tuple[NoiseSource, ...]:
        """The sources of the random numbers of the groups.

        Args:
            noise: Source of the random numbers of the real coordinates.

        Returns:
            One source for each group, independent of ``noise`` and of each other.
        """
        return tuple(noise.again(k + 1) for k in range(len(self.groups)))

    def prior_sample(
        self,
        shape: Sequence[int],
        *,
        noise: NoiseSource | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw samples from the prior: that of the SDE, and those of the jump processes.

        Args:
            shape: ``(B, d)``.
            noise: Source of the random numbers. It replaces ``seed`` and ``device``.
            seed: Sample i depends only on (seed, i).
            dtype: dtype of the samples.
            device: Device of the samples.

        Returns:
            The packed states, ``(B, d)``.
        """
        count = self.check_shape(shape)
        noise = NoiseSource.for_batch(noise, count, seed, 0, device)
        real = self.sde.prior_sample((count, len(self.real)), noise=noise, dtype=dtype, device=noise.indices.device)
        states = [
            group.jump.prior_sample((count, len(group.coordinates)), noise=own)
            for group, own in zip(self.groups, self.noises(noise), strict=True)
        ]
        return self.join(real, states)

    def marginal_sample(self, x0: Tensor, t: Tensor, noise: NoiseSource, *, step: int = 0) -> Tensor:
        """Draw x_t from q(x_t | x_0).

        Args:
            x0: Data, ``(B, d)``.
            t: Times in [0, T], ``(B,)``.
            noise: Source of the random numbers.
            step: Number of the step, part of the key.

        Returns:
            The packed states, ``(B, d)`` in the dtype of ``x0``.
        """
        return self.perturb(x0, t, noise, step=step)[0]

    def perturb(self, x0: Tensor, t: Tensor, noise: NoiseSource, *, step: int = 0) -> tuple[Tensor, Tensor]:
        """``marginal_sample`` together with the noise z of the real coordinates.

        Args:
            x0: Data, ``(B, d)``.
            t: Times in [0, T], ``(B,)``.
            noise: Source of the random numbers.
            step: Number of the step, part of the key.

        Returns:
            The packed states x_t = (alpha x_0 + sigma z, states), ``(B, d)``, and z, ``(B, n)``.
        """
        real, tokens = self.split(x0, "x0", data=True)
        z = noise.normal(real.shape[1:], step=step, purpose="perturb", dtype=real.dtype)
        kernel = self.sde.kernel(t.to(torch.float64)).to(real)
        moved = kernel.mean(real) + kernel.scale(z)
        states = [
            group.jump.marginal_sample(part, t.to(torch.float64), own, step=step)
            for group, part, own in zip(self.groups, tokens, self.noises(noise), strict=True)
        ]
        return self.join(moved, states), z

    def check_shape(self, shape: Sequence[int]) -> int:
        """Check the shape of a batch.

        Args:
            shape: ``(B, d)``.

        Returns:
            B.

        Raises:
            ValueError: For another shape.
        """
        shape = whole_shape(shape)
        if len(shape) != 2 or shape[1] != len(self.jumps):
            raise ValueError(f"shape={shape} is not allowed: give (B, {len(self.jumps)}), one number a coordinate")
        return int(shape[0])

    def category_losses(
        self, states: Sequence[Tensor], tokens: Sequence[Tensor], logits: Sequence[Tensor], t: Tensor
    ) -> Tensor:
        """The integrand of the continuous bound of the categorical coordinates.

        Args:
            states: The states at t of each group, ``(B, m)``.
            tokens: The data of each group, ``(B, m)``.
            logits: The logits of each group, ``(B, m, tokens)``.
            t: Times in (0, T), ``(B,)`` float64.

        Returns:
            Its sum over the coordinates, ``(B,)`` nats per unit of t, float64.
        """
        total = torch.zeros(len(t), dtype=torch.float64, device=t.device)
        for group, x_t, x0, own in zip(self.groups, states, tokens, logits, strict=True):
            total = total + group.jump.rate_divergence(x_t, x0, own, t).to(torch.float64).sum(1)
        return total


def latest(process: ProductProcess, t: Tensor) -> Tensor:
    """Times in float64, below T, where the rates of an absorbing process are finite."""
    return t.to(torch.float64).clamp(max=process.T * (1.0 - 1e-9))


def check_product_model(process: ProductProcess, model: object) -> None:
    """Check that a model is callable and belongs to the process.

    Args:
        process: The process of the caller.
        model: The model.

    Raises:
        TypeError: If it is not callable.
        ValueError: If it has another process.
    """
    if not isinstance(process, ProductProcess):
        raise TypeError(f"process={shown(process)} is not a product process: give a ProductProcess")
    if not callable(model) or isinstance(model, type):
        raise TypeError(f"model={shown(model)} cannot be called: give model(x, t), e.g. a ProductModel")
    check_signature(model, "model")
    other = getattr(model, "process", process)
    if other != process:
        raise ValueError(
            f"the model was made for {other!r}, and process={process!r} is another one: give model.process"
        )
