"""Any sampler held to what a sampler must do."""

from scoresde.samplers.checks.report import check

__all__ = ["check"]


def __dir__() -> list[str]:
    return list(__all__)
