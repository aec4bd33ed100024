"""Calls of a model by a sampler: checked, counted, and only for the samples that need them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from scoresde._validation import shown
from scoresde.conditions import rows_of
from scoresde.jump.base import JumpProcess
from scoresde.jump.states import check_log_probs, check_logits, quantiles
from scoresde.noise import NoiseSource
from scoresde.sde.scores import check_signature


def check_model(process: JumpProcess, model: object) -> None:
    """Check that a model is callable and belongs to the process.

    Args:
        process: The process of the caller.
        model: The model.

    Raises:
        TypeError: If it is not callable.
        ValueError: If it has another process.
    """
    if not callable(model) or isinstance(model, type):
        raise TypeError(f"model={shown(model)} cannot be called: give model(x, t), e.g. a CategoricalModel")
    other = process_of_model(model)
    if other is not None and other != process:
        raise ValueError(
            f"the model was made for {other!r}, and process={process!r} is another one: give model.process"
        )


def process_of_model(model: object) -> JumpProcess | None:
    """The process of a model, or of the model within guidance, conditions or wrappers of PyTorch.

    Args:
        model: The model.

    Returns:
        The process, or None if there is none.
    """
    for _ in range(16):  # wrappers can be nested
        if isinstance(process := getattr(model, "process", None), JumpProcess):
            return process
        inner = (getattr(model, name, None) for name in ("score", "module", "_orig_mod"))
        model = next((value for value in inner if value is not None), None)
    return None


class CountedModel:
    """A model that checks its output and counts its calls.

    Attributes:
        calls: Number of calls.
        spent: Number of calls that each sample was part of, ``(B,)``.

    Args:
        model: The model.
        process: The process.
        samples: Number of samples B.
    """

    def __init__(self, model: Callable[..., Tensor], process: JumpProcess, samples: int) -> None:
        check_signature(model, "model")
        self.model, self.process, self.calls = model, process, 0
        self.spent = torch.zeros(samples, dtype=torch.int64)

    def __call__(self, x: Tensor, t: Tensor, rows: Tensor | None = None) -> Tensor:
        """Logits of p(x_0 | x_t).

        Args:
            x: States at t, ``(B, *event)``.
            t: Times, ``()`` or ``(B,)``.
            rows: Indices of the samples that are evaluated, ``(n,)``. None for all.

        Returns:
            The logits, ``(n, *event, tokens)``.
        """
        t, model = t.to(x.device).expand(len(x)), self.model
        if rows is not None and len(rows) < len(x):
            x, t, model = x[rows], t[rows], rows_of(model, rows)
        self.calls += 1
        self.spent[slice(None) if rows is None else rows.cpu()] += 1
        logits = model(x, t)
        check_logits("model", logits, x, self.process.tokens)
        check_log_probs("model", logits, t)
        return logits

    def draw(self, x: Tensor, t: Tensor, places: Tensor, noise: NoiseSource, step: int, purpose: str) -> Tensor:
        """Draw some coordinates from p(x_0 | x_t), each on its own. Samples without such a coordinate are not evaluated.

        Args:
            x: States at t, ``(B, *event)``.
            t: Times, ``()`` or ``(B,)``.
            places: The coordinates that are drawn, bool ``(B, *event)``.
            noise: Source of the random numbers.
            step: Number of the step, part of the key.
            purpose: Name of the use, part of the key.

        Returns:
            The states with these coordinates replaced, ``(B, *event)``.
        """
        rows = places.reshape(len(x), -1).any(1).nonzero().flatten()
        if len(rows) == 0:
            return x
        u = noise_of_rows(noise, rows).uniform(x.shape[1:], step=step, purpose=purpose, dtype=torch.float64)
        drawn = quantiles(self(x, t, rows), u, at=places[rows])
        return x.index_put((rows,), torch.where(places[rows], drawn, x[rows]))


def noise_of_rows(noise: NoiseSource, rows: Tensor) -> NoiseSource:
    """The noise of some samples of a batch.

    Args:
        noise: Source of the random numbers of the batch.
        rows: Indices of the samples, ``(n,)``.

    Returns:
        The source of the same draws for these samples.
    """
    return replace(noise, indices=noise.indices[rows])


def ancestral_step(
    process: JumpProcess,
    model: CountedModel,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    noise: NoiseSource,
    *,
    step: int,
    purpose: str,
) -> Tensor:
    """Draw each coordinate from p(x_s | x_t).

    Under ``Absorbing`` it is first drawn which coordinates are unmasked. The others are kept.

    Args:
        process: The process.
        model: The model.
        x: States at t, ``(B, *event)``.
        t: Time of the states, ``()``.
        s: Earlier time, ``()``.
        noise: Source of the random numbers.
        step: Number of the step, part of the key.
        purpose: Name of the use, part of the key.

    Returns:
        The states at s, ``(B, *event)``.
    """
    if not process.carries_over:
        return process.reverse_sample(x, model(x, t), s, t, noise, step=step, purpose=purpose)
    u = noise.uniform(x.shape[1:], step=step, purpose=f"{purpose} places", dtype=torch.float64)
    places = process.masked(x) & (u < unmasked_share(process, s, t))
    return model.draw(x, t, places, noise, step, purpose)


def unmasked_share(process: JumpProcess, s: Tensor, t: Tensor) -> Tensor:
    """The probability (alpha_s - alpha_t) / (1 - alpha_t) that a coordinate masked at t is not masked at s.

    Args:
        process: An ``Absorbing`` process.
        s: Time, ``()``.
        t: Later time, ``()``.

    Returns:
        The probability, ``()`` float64.
    """
    log_alpha = process.schedule.log_alpha(t)
    return (process.schedule.alpha(s) - log_alpha.exp()) / -torch.expm1(log_alpha)
