"""Mistakes of a user in Python: each is refused at once, in a message that names the parameter."""

import pytest
import torch

from scoresde import EMA, VPSDE, Exact, GaussianMixture, Quantized, ScalarSDE, ScoreModel, bits_per_dim, log_likelihood
from scoresde.likelihood import known_biases
from scoresde.losses import DenoisingScoreMatching
from scoresde.networks import MLP, DDPMpp, NCSNv2, SmallUNet
from scoresde.samplers import PredictorCorrector, ReverseDiffusion, fit
from scoresde.sde import BlurringSDE, check
from scoresde.solvers import RungeKutta

SDE = VPSDE()
NET = MLP((2,), width=8, depth=1)
MODEL = ScoreModel(NET, SDE)
MIXTURE = GaussianMixture(torch.tensor([[1.0, 0.5]]), stds=torch.tensor([0.3]))
EXACT = MIXTURE.score(SDE)
SAMPLER = PredictorCorrector(ReverseDiffusion(), steps=2)
X, T = torch.linspace(-1.0, 1.0, 8).reshape(4, 2), torch.full((4,), 0.5)

WRONG = {
    "time a number": (lambda: MODEL(X, 0.5), "t is a float"),
    "time an array": (lambda: MODEL(X, T.numpy()), "t is a ndarray"),
    "time of a mixture a number": (lambda: EXACT(X, 0.5), "t=0.5 is a float"),
    "times of a mixture too few": (lambda: EXACT(X, T[:3]), "t has shape (3,)"),
    "event of a mixture": (lambda: EXACT(X[0], T[:2]), "give (B, 2)"),
    "points of a mixture a list": (lambda: MIXTURE.log_prob([1.0, 2.0]), "x is a list"),
    "network a class": (lambda: ScoreModel(MLP, SDE), "network=<class"),
    "network and process exchanged": (lambda: ScoreModel(SDE, NET), "network=VPSDE"),
    "process a network": (lambda: ScoreModel(NET, NET), "sde=<MLP>"),
    "network of one argument": (lambda: ScoreModel(torch.nn.Linear(2, 2), SDE), "Linear.forward(input"),
    "label a word": (lambda: ScoreModel(NET, SDE, label="time"), "label='time'"),
    "objective of a model": (lambda: DenoisingScoreMatching(MODEL), "sde=<ScoreModel>"),
    "times a word": (lambda: DenoisingScoreMatching(SDE, times="uniform"), "times='uniform'"),
    "loss of a mixture": (lambda: DenoisingScoreMatching(SDE)(MIXTURE, X), "score=GaussianMixture"),
    "no score": (lambda: SAMPLER(SDE, None, (4, 2)), "score=None"),
    "score of nothing": (lambda: SAMPLER(SDE, lambda x, t: None, (4, 2)), "score returned a NoneType"),
    "score of an array": (lambda: SAMPLER(SDE, lambda x, t: x.numpy(), (4, 2)), "score returned a ndarray"),
    "whole-number dtype": (lambda: SAMPLER(SDE, EXACT, (4, 2), dtype=torch.int64), "dtype=torch.int64"),
    "dtype a word": (lambda: SAMPLER(SDE, EXACT, (4, 2), dtype="float32"), "dtype='float32'"),
    "no such device": (lambda: SAMPLER(SDE, EXACT, (4, 2), device="gpu"), "device='gpu'"),
    "pilot a number": (lambda: fit(SDE, EXACT, steps=5, pilot=16), "pilot=16"),
    "likelihood exchanged": (lambda: log_likelihood(EXACT, SDE, X), "sde=<_MixtureScore>"),
    "divergence a word": (lambda: log_likelihood(SDE, EXACT, X, divergence="exact"), "divergence='exact'"),
    "divergence a class": (lambda: log_likelihood(SDE, EXACT, X, divergence=Exact), "divergence=<class"),
    "solver a word": (lambda: log_likelihood(SDE, EXACT, X, solver="rk45"), "solver='rk45'"),
    "score of one column": (lambda: log_likelihood(SDE, lambda x, t: -x[:, :1], X), "score returned shape (4, 1)"),
    "levels for a transform": (lambda: bits_per_dim(T, (2,), 256), "transform=256"),
    "size for a shape": (lambda: bits_per_dim(T, 2, Quantized(levels=256)), "event_shape=2"),
    "event of a number": (lambda: MLP(2), "event_shape=2"),
    "event of a word": (lambda: MLP("a"), "event_shape='a'"),
    "event of halves": (lambda: MLP((2.5,)), "event_shape=(2.5,)"),
    "small network, event": (lambda: SmallUNet(64), "event_shape=64"),
    "small network, channels": (lambda: SmallUNet((1, 8, 8), channels="x"), "channels='x'"),
    "attention a number": (lambda: DDPMpp((3, 16, 16), attention=16), "attention=16"),
    "multipliers a number": (lambda: DDPMpp((3, 16, 16), multipliers=2), "multipliers=2"),
    "no multipliers": (lambda: DDPMpp((3, 16, 16), multipliers=()), "multipliers=()"),
    "multipliers a number, NCSNv2": (lambda: NCSNv2((3, 16, 16), multipliers=2), "multipliers=2"),
    "average of a number": (lambda: EMA(3), "module=3"),
    "events that blur": (lambda: BlurringSDE(8), "event_shape=8"),
    "check of a class": (lambda: check(VPSDE), "VPSDE"),
    "check on a number": (lambda: check(SDE, 2), "event_shape=2"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_mistake_is_named(wrong):
    mistake, named = WRONG[wrong]
    with pytest.raises((TypeError, ValueError)) as said:
        mistake()
    assert named in str(said.value)
    assert len(str(said.value)) < 300, "a message, not a page"


@torch.no_grad()
def _blind(x, t):
    return EXACT(x, t)


@pytest.mark.parametrize(
    "score", [_blind, lambda x, t: EXACT(x.detach(), t), lambda x, t: MODEL(x.detach(), t) - x.data]
)
@pytest.mark.parametrize("solver", [None, RungeKutta()])
def test_a_score_without_a_graph_has_no_likelihood(score, solver):
    """Its divergence would be 0, and log p would be a plausible but wrong number."""
    with pytest.raises(ValueError, match="has no graph"):
        log_likelihood(SDE, score, X, solver=solver)


@pytest.mark.parametrize("score", [_blind, lambda x, t: EXACT(x.detach(), t)])
def test_a_score_without_a_graph_has_no_known_biases(score):
    assert bool(known_biases(SDE, EXACT, X).cutoff.isfinite().all())
    with pytest.raises(ValueError, match="has no graph"):
        known_biases(SDE, score, X)


def test_a_constant_score_has_a_likelihood():
    """By hand: under VP a score c adds nothing to the divergence of the drift."""
    found = log_likelihood(
        SDE, lambda x, t: torch.full_like(x, 0.5), X, solver=RungeKutta(1e-6, 1e-6), divergence=Exact()
    )
    a = float(SDE.alpha(torch.tensor(1.0, dtype=torch.float64))) / float(
        SDE.alpha(torch.tensor(1e-5, dtype=torch.float64))
    )
    latent = a * X.double() + 0.5 * (a - 1.0)  # dx = -beta / 2 (x + c) dt
    wanted = SDE.prior_log_prob(latent) + 2 * torch.log(torch.tensor(a))
    assert torch.allclose(found.log_prob, wanted, atol=1e-4)


def test_the_repr_of_a_process():
    class Mine(ScalarSDE):
        alpha = sigma = drift_coefficient = diffusion = None

        def __init__(self, rate):
            self.rate, self._cache = rate, 0

    assert repr(Mine(3.0)) == "Mine(rate=3.0)"
