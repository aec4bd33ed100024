"""torchsde's solvers of stochastic differential equations, forward and backward in time.

torchsde integrates dy = f(r, y) dr + g(r, y) dW with increasing r and a state of shape (B, d). A reverse-time SDE from
t_start to t_end < t_start has this form with r = t_start - t and the opposite sign of the drift.

The Brownian path of a sample is keyed by (seed, index of the sample), so a sample does not depend on the other samples.
With equal steps there is one vectorized draw per step. With adaptive steps there is a ``torchsde.BrownianInterval`` for
each sample, which can be queried twice and is about a hundred times slower. A batch with adaptive steps has a common
step size. Then samples depend on each other.
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
    """``torchsde.sdeint`` for states of any event shape.

    Args:
        method: "euler", "milstein" or "srk" (Ito), or "heun", "midpoint", "reversible_heun" or "euler_heun"
            (Stratonovich). The two interpretations are equal if the diffusion does not depend on x.
        adaptive: Choose the steps by ``rtol`` and ``atol``, instead of equal steps ``dt``.
        rtol: Relative tolerance of adaptive steps, > 0.
        atol: Absolute tolerance of adaptive steps, > 0.
        dt_min: Smallest adaptive step, > 0.
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
        """Check that the method supports the diffusion.

        Args:
            additive: Whether the diffusion does not depend on the state.

        Raises:
            ValueError: If the method does not support it.
        """
        if not additive and self.stratonovich:
            raise ValueError(
                f"method={self.method!r} is a Stratonovich method, and a diffusion that depends on x is an Ito diffusion here: "
                "give 'euler', 'milstein' or 'srk'"
            )
        if additive and self.method == "reversible_heun":
            raise ValueError(
                "method='reversible_heun' needs the matrix of the diffusion, and only its product with a vector is known: "
                "give 'heun' or 'midpoint', which have the same order"
            )

    @property
    def stratonovich(self) -> bool:
        """Whether the method interprets the SDE as a Stratonovich SDE.

        If the diffusion depends on x, this is another process than the Ito SDE.
        """
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
        """Integrate the reverse-time SDE dx = drift dt + diffusion dw' from t_start to t_end < t_start.

        Args:
            drift: A function ``(x, t)`` that returns the drift, of the shape of ``x``. ``t`` has the shape ``()``.
            diffusion: A function ``(x, t)`` that returns the diagonal of the diffusion, of the shape of ``x``. If
                ``additive``, a function ``(v, t)`` that returns G(t) v for any matrix G that does not depend on x.
            x: State at ``t_start``, of shape ``(B, *state)``.
            t_start: Start time.
            t_end: End time, below ``t_start``.
            dt: Step size, > 0, or the first step size if adaptive.
            noise: Source of the noise.
            additive: Whether the diffusion does not depend on the state.

        Returns:
            The state at ``t_end``.

        Raises:
            ValueError: If the method does not support the diffusion.
            SolverError: If the result is not finite.
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
        """Integrate the SDE dx = drift dt + diffusion dw from t_start to t_end > t_start.

        The Brownian path is the path of :meth:`solve` with the same ``noise``. Use another source of noise if the two
        must be independent.

        Args:
            drift: A function ``(x, t)`` that returns the drift, of the shape of ``x``. ``t`` has the shape ``()``.
            diffusion: A function ``(x, t)`` that returns the diagonal of the diffusion, of the shape of ``x``.
            x: State at ``t_start``, of shape ``(B, *state)``.
            t_start: Start time.
            t_end: End time, above ``t_start``.
            dt: Step size, > 0, or the first step size if adaptive.
            noise: Source of the noise.

        Returns:
            The state at ``t_end``.

        Raises:
            SolverError: If the result is not finite.
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
        # times in float64, and dt slightly longer: if the sum of dt ends just below the span, a tiny extra step would follow
        span = torch.tensor([start, end], dtype=torch.float64, device=x.device)
        dt = dt if self.adaptive else dt * (1.0 + 1e-11)
        flat = x.reshape(len(x), -1)
        kind = TreeBrownian if self.adaptive else StepBrownian
        brownian = kind(span, flat, noise, "space-time" if self.method == "srk" else "none")
        # the result is checked below, so torchsde's warnings are not needed; torchsde draws from torch's global generator
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
