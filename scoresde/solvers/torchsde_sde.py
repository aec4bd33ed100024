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
        import torchsde

        from scoresde.solvers.torchsde_forms import Additive, Diagonal, StepBrownian, TreeBrownian

        problem_kind = Additive if additive else Diagonal
        problem = problem_kind(drift, diffusion, tuple(x.shape[1:]), self.stratonovich)
        # times in float64, and dt a trifle longer: sums of dt that end short of the span would leave a step of rounding's width
        span = torch.tensor([start, end], dtype=torch.float64, device=x.device)
        dt = dt if self.adaptive else dt * (1.0 + 1e-11)
        flat = x.reshape(len(x), -1)
        kind = TreeBrownian if self.adaptive else StepBrownian
        brownian = kind(span, flat, noise, "space-time" if self.method == "srk" else "none")
        # torchsde warns of numerics that the check of the result meets, and probes a problem with a draw of torch's own
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            path = torchsde.sdeint(
                problem, flat, span, bm=brownian, method=self.method, dt=dt, adaptive=self.adaptive,
                rtol=self.rtol, atol=self.atol, dt_min=self.dt_min,
            )  # fmt: skip
        final: Tensor = path[-1].reshape(x.shape)
        if not bool(torch.isfinite(final).all()):
            bad = torch.nonzero(~torch.isfinite(final).reshape(len(final), -1).all(1)).flatten().tolist()
            raise SolverError(
                f"torchsde's {self.method} with dt={dt:g} gave non-finite values at batch positions {bad[:8]}"
            )
        return final
