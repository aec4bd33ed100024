"""Stochastic differential equations by torchsde, forwards and backwards in time.

torchsde integrates dy = f(r, y) dr + g(r, y) dW with increasing r and a state of shape (B, d). A reverse-time SDE from t_start
down to t_end becomes one with r = t_start - t and the drift's sign changed.

The Brownian path of a sample is keyed by (seed, index of the sample), so that a sample does not depend on its neighbours:
with equal steps one vectorised draw for each step, with adaptive ones a `torchsde.BrownianInterval` for each sample, which
can be asked twice and is some hundred times slower. An adaptive batch shares its step size, so there samples do depend on
each other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torchsde
from torch import Tensor

from scoresde._validation import check_choice, check_number
from scoresde.noise import NoiseSource
from scoresde.solvers.ode import SolverError

METHODS = ("euler", "milstein", "srk", "heun", "midpoint", "reversible_heun", "euler_heun")
_STRATONOVICH = ("heun", "midpoint", "reversible_heun", "euler_heun")


@dataclass(frozen=True)
class TorchSDE:
    """`torchsde.sdeint` on states of any event shape.

    method: "euler", "milstein", "srk" (Ito), or "heun", "midpoint", "reversible_heun", "euler_heun" (Stratonovich: the same for
        a diffusion that does not depend on x).
    adaptive: choose the steps by ``rtol`` and ``atol`` instead of ``dt`` everywhere.
    """

    method: str = "euler"
    adaptive: bool = field(default=False, kw_only=True)
    rtol: float = 1e-3
    atol: float = 1e-3
    dt_min: float = 1e-6

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        check_number("rtol", self.rtol, above=0.0)
        check_number("atol", self.atol, above=0.0)
        check_number("dt_min", self.dt_min, above=0.0)

    def check(self, additive: bool) -> None:
        """Raise ValueError for a method that does not take a diffusion free of the state, or one that is not."""
        if not additive and self.stratonovich:
            raise ValueError(
                f"method={self.method!r} is of Stratonovich's kind, and a diffusion of x is meant as Ito's: give 'euler', "
                "'milstein' or 'srk'"
            )
        if additive and self.method == "reversible_heun":
            raise ValueError(
                "method='reversible_heun' wants the matrix of a diffusion, which is known by its product with a vector: "
                "give 'heun' or 'midpoint', of the same order"
            )

    @property
    def stratonovich(self) -> bool:
        """Whether it reads the SDE as Stratonovich's: another process than Ito's where the diffusion depends on x."""
        return self.method in _STRATONOVICH

    def solve(
        self,
        drift: Callable[[Tensor, Tensor], Tensor],
        diffusion: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        t_start: float,
        t_end: float,
        dt: float,
        noise: NoiseSource,
        *,
        additive: bool = False,
    ) -> Tensor:
        """x at t_end of dx = drift dt + diffusion dw', for t_start > t_end.

        drift(x, t) -> the shape of x; t is ().
        diffusion: (x, t) -> the shape of x, a number for every coordinate; where ``additive``, the map (v, t) -> G(t) v of
            any matrix that does not depend on x.
        dt: step size > 0, or the first one where adaptive. A whole number of them in the span are as many steps.

        Raises ValueError as `check` does, SolverError for a result that is not finite.
        """
        if additive:
            self.check(additive)

        def drift_back(x: Tensor, r: Tensor) -> Tensor:
            return -drift(x, t_start - r)

        def diffusion_back(x: Tensor, r: Tensor) -> Tensor:
            return diffusion(x, t_start - r)

        return self._integrate(drift_back, diffusion_back, x, 0.0, t_start - t_end, dt, noise, additive)

    def forward(
        self,
        drift: Callable[[Tensor, Tensor], Tensor],
        diffusion: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        t_start: float,
        t_end: float,
        dt: float,
        noise: NoiseSource,
    ) -> Tensor:
        """x at t_end of dx = drift dt + diffusion dw, for t_start < t_end; the rest as in `solve`.

        The Brownian path is that of a `solve` with the same ``noise``: give another where they must be independent.
        """
        return self._integrate(drift, diffusion, x, t_start, t_end, dt, noise)

    def _integrate(
        self,
        drift: Callable[[Tensor, Tensor], Tensor],
        diffusion: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        start: float,
        end: float,
        dt: float,
        noise: NoiseSource,
        additive: bool = False,
    ) -> Tensor:
        problem_kind = _Additive if additive else _Diagonal
        problem = problem_kind(drift, diffusion, tuple(x.shape[1:]), self.stratonovich)
        # times in float64, and dt a trifle longer: sums of dt that end short of the span would leave a step of rounding's width
        span = torch.tensor([start, end], dtype=torch.float64, device=x.device)
        dt = dt if self.adaptive else dt * (1.0 + 1e-11)
        flat = x.reshape(len(x), -1)
        kind = _TreeBrownian if self.adaptive else _StepBrownian
        brownian = kind(span, flat, noise, "space-time" if self.method == "srk" else "none")
        # torchsde warns of numerics that the check of the result meets, and probes a problem with a draw of torch's own
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            path = torchsde.sdeint(
                problem, flat, span, bm=brownian, method=self.method, dt=dt, adaptive=self.adaptive,
                rtol=self.rtol, atol=self.atol, dt_min=self.dt_min,
            )  # fmt: skip
        final = path[-1].reshape(x.shape)
        if not bool(torch.isfinite(final).all()):
            bad = torch.nonzero(~torch.isfinite(final).reshape(len(final), -1).all(1)).flatten().tolist()
            raise SolverError(
                f"torchsde's {self.method} with dt={dt:g} gave non-finite values at batch positions {bad[:8]}"
            )
        return final


class _Problem(torch.nn.Module):
    """The drift of dx = drift dr + diffusion dW in torchsde's form."""

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
        # torchsde looks at the drift once before its first step: that evaluation is kept and used
        if self._last is not None and self._last[0] == float(r) and self._last[1] is y:
            return self._last[2]
        value = self.drift(y.reshape(len(y), *self.event_shape), r.to(y)).reshape(y.shape)
        self._last = (float(r), y, value)
        return value


class _Diagonal(_Problem):
    """A diffusion with a number for every coordinate, which may depend on the state."""

    noise_type = "diagonal"

    def g(self, r: Tensor, y: Tensor) -> Tensor:
        return self.diffusion(y.reshape(len(y), *self.event_shape), r.to(y)).reshape(y.shape)


class _Additive(_Problem):
    """A diffusion that is any linear map of the noise, and not of the state."""

    noise_type = "additive"

    def g_prod(self, r: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self.diffusion(v.reshape(len(v), *self.event_shape), r.to(y)).reshape(y.shape)


class _KeyedBrownian(torchsde.BaseBrownian):
    """Brownian paths keyed by (seed, index): what torchsde asks of any Brownian motion."""

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


class _StepBrownian(_KeyedBrownian):
    """Increments W over one step after the other, and where asked the time integral U of the path within a step.

    W = sqrt(h) z_1,   U = int (w(r) - w(ta)) dr = h W / 2 + sqrt(h^3 / 12) z_2,   with z_1, z_2 independent normals.
    """

    def __init__(self, span: Tensor, like: Tensor, noise: NoiseSource, levy_area: str) -> None:
        super().__init__(span, like, noise, levy_area)
        self.steps: dict[tuple[float, float], int] = {}
        self.end = float(span[0])

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
        return self.noise.normal(self.like.shape[1:], step=step, purpose=purpose, dtype=self.like.dtype)


class _TreeBrownian(_KeyedBrownian):
    """A `torchsde.BrownianInterval` for each sample: any interval may be asked for, again and again."""

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
