"""Score-based generative models in continuous time::

    from scoresde import VPSDE, PredictorCorrector, ScoreModel, log_likelihood

A process turns data into noise, and a score model reverses it. Train with ``DenoisingScoreMatching``, sample with
``PredictorCorrector``, ``DDIM`` or ``UniPC``, and compute likelihoods with ``log_likelihood``. This namespace has the names
that most programs need. The sub-packages have the rest: ``scoresde.sde`` all processes, ``scoresde.samplers`` all samplers,
and so on. Import ``scoresde.experiment`` (runs from a config) and ``scoresde.interop`` (models of other projects)
explicitly. docs/architecture.md describes the layout.
"""

from scoresde import (
    data,
    distributions,
    ema,
    likelihood,
    losses,
    metrics,
    networks,
    noise,
    noise_distributions,
    samplers,
    score,
    sde,
    solvers,
)
from scoresde.data import Affine, Quantized
from scoresde.distributions import GaussianMixture, SmoothedEmpirical
from scoresde.ema import EMA
from scoresde.likelihood import Exact, Hutchinson, bits_per_dim, log_likelihood
from scoresde.losses import DenoisingScoreMatching
from scoresde.noise import NoiseSource as NoiseSource  # not listed below: for programs that import it from here
from scoresde.samplers import DDIM, EDM, DPMSolverPlusPlus, EulerMaruyama, PredictorCorrector, ProbabilityFlowODE, UniPC
from scoresde.score import ScoreModel
from scoresde.score.quantized import Levels as Levels  # not listed below: for programs that import it from here
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, CosineVPSDE, LinearSDE, ScalarSDE, SubVPSDE
from scoresde.version import __version__

__all__ = [
    "Affine",
    "CosineVPSDE",
    "DDIM",
    "DPMSolverPlusPlus",
    "DenoisingScoreMatching",
    "EDM",
    "EDMSDE",
    "EMA",
    "EulerMaruyama",
    "Exact",
    "GaussianMixture",
    "Hutchinson",
    "LinearSDE",
    "PredictorCorrector",
    "ProbabilityFlowODE",
    "Quantized",
    "SDE",
    "ScalarSDE",
    "ScoreModel",
    "SmoothedEmpirical",
    "SubVPSDE",
    "UniPC",
    "VESDE",
    "VPSDE",
    "__version__",
    "bits_per_dim",
    "data",
    "distributions",
    "ema",
    "noise_distributions",
    "likelihood",
    "log_likelihood",
    "losses",
    "metrics",
    "networks",
    "noise",
    "samplers",
    "score",
    "sde",
    "solvers",
]


def __dir__() -> list[str]:
    """The public names, without the names that imports leave in the namespace."""
    return list(__all__)
