"""Whether the section ``likelihood`` of a config is for the process of the config."""

from __future__ import annotations

from scoresde.experiment.config.builder import ConfigError, config_errors
from scoresde.experiment.config.families import JUMPS, PRODUCTS, Process, family_of
from scoresde.experiment.config.sections import LikelihoodConfig
from scoresde.jump import JumpLikelihood, JumpProcess
from scoresde.likelihood.flow import flow_engine
from scoresde.product import ProductLikelihood, ProductProcess
from scoresde.sde import SDE


def check_likelihood(config: LikelihoodConfig, process: Process, discrete: Process) -> None:
    """Check that the section ``likelihood`` is for a process.

    Args:
        config: The section.
        process: The process of the config.
        discrete: The process of the model, which may be a chain of it.

    Raises:
        ConfigError: If the solver or the method is for other processes, or t_min is not below T.
    """
    method = config.method
    if isinstance(process, JumpProcess | ProductProcess):
        for name, given in (("solver", config.solver), ("tolerance", config.tolerance)):
            if given is not None:
                raise ConfigError(
                    f"config.likelihood.{name}={given!r} is for the probability flow of an SDE: leave it out"
                )
        wanted = family_of(process).likelihood
        if method is not None and not isinstance(method, wanted):
            raise ConfigError(f"config.likelihood.method={method!r} is not for {process!r}: give a {wanted.__name__}")
        if isinstance(method, ProductLikelihood) and method.t_min >= process.T:
            raise ConfigError(f"config.likelihood.method.t_min={method.t_min!r} is not below T={process.T}")
        if isinstance(method, JumpLikelihood):
            with config_errors("likelihood.method", arguments=("steps", "grid")):
                assert isinstance(process, JumpProcess)
                method.times(process)
        return
    if isinstance(method, JumpLikelihood | ProductLikelihood):
        owner = JUMPS if isinstance(method, JumpLikelihood) else PRODUCTS
        raise ConfigError(f"config.likelihood.method={method!r} is for {owner.text}: give a ChainBound, or None")
    if config.solver is not None:
        with config_errors("likelihood.solver"):
            flow_engine(config.solver).check_process(process)
    if method is not None:
        assert isinstance(discrete, SDE)
        with config_errors("likelihood.method", arguments=("steps", "sde")):
            method.check(discrete, min(config.t_min, 0.5 * process.T))
    if config.t_min >= process.T:
        raise ConfigError(f"config.likelihood.t_min={config.t_min!r} is not allowed: give a number below T={process.T}")
