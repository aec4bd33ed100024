"""Integrators that know nothing of diffusion."""

from scoresde.solvers.runge_kutta import RungeKutta
from scoresde.solvers.scipy_ode import ODESolution, ScipyODE, SolverError
from scoresde.solvers.torchsde_sde import TorchSDE

__all__ = ["ODESolution", "RungeKutta", "ScipyODE", "SolverError", "TorchSDE"]
