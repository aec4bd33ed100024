"""``check`` tests a sampler of your own: convergence, distribution of the samples, batches, random state, times and types."""

from scoresde.samplers.checks.report import check

__all__ = ["check"]


def __dir__() -> list[str]:
    return list(__all__)
