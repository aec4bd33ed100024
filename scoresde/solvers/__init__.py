"""Solvers of ordinary and stochastic differential equations, independent of diffusion models."""

from scoresde._arguments import check_constructors
from scoresde.solvers.ode import ODESolution, ODESolver, SolverError
from scoresde.solvers.runge_kutta import RungeKutta
from scoresde.solvers.scipy_ode import ScipyODE
from scoresde.solvers.torchsde_sde import TorchSDE

__all__ = ["ODESolution", "ODESolver", "RungeKutta", "ScipyODE", "SolverError", "TorchSDE"]

check_constructors(globals(), records=(ODESolution,))


def __dir__() -> list[str]:
    return list(__all__)
