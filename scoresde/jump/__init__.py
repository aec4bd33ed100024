"""Jump processes: generative models of discrete data, such as text, bits and levels of pixels.

A jump process replaces the coordinates of the data by other values at random times, and a model of p(x_0 | x_t)
reverses it::

    process = Absorbing(27)                                       # 27 tokens, and a mask
    model = CategoricalModel(network, process)                    # logits of x_0
    loss = ContinuousBound(process)(model, x0)                    # (B,)
    result = AncestralSampler(steps=100)(process, model, (16, 64))
    bound = jump_bound(process, model, x0)                        # bound.log_prob, bound.bits_per_token

States are tensors of integers (B, *event). docs/jump.md is the guide.
"""

from scoresde._arguments import check_constructors
from scoresde.jump.base import JumpProcess
from scoresde.jump.bounds import JumpBound, jump_bound
from scoresde.jump.checks import check
from scoresde.jump.corrected import CorrectedSampler
from scoresde.jump.exact import FirstHitting, Uniformization
from scoresde.jump.guidance import JumpClassifierGuidance, Sharpened
from scoresde.jump.importance import AdaptiveTimes
from scoresde.jump.keep import CosineKeep, KeepSchedule, PolynomialKeep, SDEKeep
from scoresde.jump.known import KnownTokens
from scoresde.jump.likelihood import JumpLikelihood
from scoresde.jump.markov import MarkovChain
from scoresde.jump.matrix import DiscretizedGaussian, NearestNeighbor, RateMatrix
from scoresde.jump.models import CategoricalModel, JumpModel, LeaveOneOutModel, RatioModel
from scoresde.jump.objectives import ContinuousBound, DiscreteBound, JumpDraw, JumpObjective
from scoresde.jump.oracles import DiscreteDistribution, EnumeratedJoint, ExactModel
from scoresde.jump.replacing import Absorbing, MaskAndReplace, Uniform
from scoresde.jump.sampler import GridJumpSampler, JumpSampler
from scoresde.jump.score_entropy import ScoreEntropy
from scoresde.jump.stepwise import AncestralSampler, TauLeaping
from scoresde.jump.unmasking import ConfidenceUnmasking, Remasking

__all__ = [
    "Absorbing",
    "AdaptiveTimes",
    "AncestralSampler",
    "CategoricalModel",
    "ConfidenceUnmasking",
    "ContinuousBound",
    "CorrectedSampler",
    "CosineKeep",
    "DiscreteBound",
    "DiscreteDistribution",
    "DiscretizedGaussian",
    "EnumeratedJoint",
    "ExactModel",
    "FirstHitting",
    "GridJumpSampler",
    "JumpBound",
    "JumpClassifierGuidance",
    "JumpDraw",
    "JumpLikelihood",
    "JumpModel",
    "JumpObjective",
    "JumpProcess",
    "JumpSampler",
    "KeepSchedule",
    "KnownTokens",
    "LeaveOneOutModel",
    "MarkovChain",
    "MaskAndReplace",
    "NearestNeighbor",
    "PolynomialKeep",
    "RateMatrix",
    "RatioModel",
    "Remasking",
    "SDEKeep",
    "ScoreEntropy",
    "Sharpened",
    "TauLeaping",
    "Uniform",
    "Uniformization",
    "check",
    "jump_bound",
]

check_constructors(globals(), records=(JumpBound, JumpDraw))
