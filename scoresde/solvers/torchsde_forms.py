"""Problems and Brownian motions with the interfaces of torchsde. Importing this module imports torchsde."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torchsde
from torch import Tensor

from scoresde.noise import NoiseSource
from scoresde.solvers.ode import SolverError


class _Problem(torch.nn.Module):
    """The drift of dx = drift dr + diffusion dW, with torchsde's interface."""

    def __init__(
        self,
        drift: Callable[[Tensor, Tensor], Tensor],
        diffusion: Callable[[Tensor, Tensor], Tensor],
        event_shape: tuple[int, ...],
        stratonovich: bool,
    ) -> None:
        super().__init__()
        self.drift, self.diffusion, self.event_shape = drift, diffusion, event_shape
        self.sde_type = "stratonovich" if stratonovich else "ito"
        self._last: tuple[float, Tensor, Tensor] | None = None

    def f(self, r: Tensor, y: Tensor) -> Tensor:
        # torchsde evaluates the drift once before its first step: the value is stored and used in the first step
        if self._last is not None and self._last[0] == float(r) and self._last[1] is y:
            return self._last[2]
        value = self.drift(y.reshape(len(y), *self.event_shape), r.to(y)).reshape(y.shape)
        self._last = (float(r), y, value)
        return value


class Diagonal(_Problem):
    """A diagonal diffusion, which may depend on the state."""

    noise_type = "diagonal"

    def g(self, r: Tensor, y: Tensor) -> Tensor:
        return self.diffusion(y.reshape(len(y), *self.event_shape), r.to(y)).reshape(y.shape)


class Additive(_Problem):
    """A diffusion that is any linear map of the noise and does not depend on the state."""

    noise_type = "additive"

    def g_prod(self, r: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self.diffusion(v.reshape(len(v), *self.event_shape), r.to(y)).reshape(y.shape)


class _KeyedBrownian(torchsde.BaseBrownian):  # type: ignore[misc]  # torchsde has no types
    """Base class of Brownian paths keyed by (seed, index), with torchsde's interface."""

    def __init__(self, span: Tensor, like: Tensor, noise: NoiseSource, levy_area: str) -> None:
        super().__init__()
        self.span, self.like, self.noise, self._levy_area = span, like, noise, levy_area

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape})"

    @property
    def dtype(self) -> torch.dtype:
        return self.like.dtype

    @property
    def device(self) -> torch.device:
        return self.like.device

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.like.shape)

    @property
    def levy_area_approximation(self) -> str:
        return self._levy_area


class StepBrownian(_KeyedBrownian):
    """Increments W over successive steps, and on request the time integral U of the path within a step.

    W = sqrt(h) z_1 and U = int (w(r) - w(ta)) dr = h W / 2 + sqrt(h^3 / 12) z_2, with independent standard normals z_1,
    z_2.
    """

    def __init__(self, span: Tensor, like: Tensor, noise: NoiseSource, levy_area: str) -> None:
        super().__init__(span, like, noise, levy_area)
        self.steps: dict[tuple[float, float], int] = {}
        self.end = float(span[0])
        self.draws: dict[str, Iterator[tuple[int, Tensor]]] = {}
        self.last: dict[str, tuple[int, Tensor]] = {}

    def __call__(self, ta, tb=None, return_U=False, return_A=False):  # type: ignore[no-untyped-def]  # torchsde's names
        a, b = float(ta), float(tb)
        if (a, b) not in self.steps:
            if a < self.end:
                raise SolverError(
                    f"the solver asked for [{a:g}, {b:g}] after [.., {self.end:g}]: it needs adaptive=True"
                )
            self.steps[a, b], self.end = len(self.steps), b
        step, h = self.steps[a, b], b - a
        w = h**0.5 * self._normal("brownian increment", step)
        if not (return_U or return_A):
            return w
        u = 0.5 * h * w + (h**3 / 12.0) ** 0.5 * self._normal("brownian area", step)
        return (w, u, None) if return_A else (w, u)

    def _normal(self, purpose: str, step: int) -> Tensor:
        """The standard normals of a step. Those of the steps after the first are drawn together, because solvers ask in order."""
        shape, dtype = self.like.shape[1:], self.like.dtype
        if purpose not in self.draws:
            (a, b), *_ = self.steps
            ahead = range(step, step + math.ceil(float(self.span[-1] - self.span[0]) / (b - a)))
            self.draws[purpose] = zip(
                ahead, self.noise.normals(shape, steps=ahead, purpose=purpose, dtype=dtype), strict=False
            )
            self.last[purpose] = next(self.draws[purpose])
        while self.last[purpose][0] < step and (following := next(self.draws[purpose], None)) is not None:
            self.last[purpose] = following
        number, z = self.last[purpose]
        return z if number == step else self.noise.normal(shape, step=step, purpose=purpose, dtype=dtype)


class TreeBrownian(_KeyedBrownian):
    """A ``torchsde.BrownianInterval`` for each sample. Any interval may be queried, any number of times."""

    def __init__(self, span: Tensor, like: Tensor, noise: NoiseSource, levy_area: str) -> None:
        super().__init__(span, like, noise, levy_area)
        keys = noise.integers(2**31 - 1, (), step=0, purpose="brownian path").tolist()
        self.paths = [
            torchsde.BrownianInterval(
                t0=span[0], t1=span[1], size=(1, like.shape[1]), dtype=like.dtype, device=like.device,
                entropy=key, levy_area_approximation=levy_area,
            )
            for key in keys
        ]  # fmt: skip

    def __call__(self, ta, tb=None, return_U=False, return_A=False):  # type: ignore[no-untyped-def]  # torchsde's names
        parts = [path(ta, tb, return_U=return_U, return_A=return_A) for path in self.paths]
        if not (return_U or return_A):
            return torch.cat(parts)
        return tuple(None if piece[0] is None else torch.cat(piece) for piece in zip(*parts, strict=True))
