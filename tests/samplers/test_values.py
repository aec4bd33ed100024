"""Samplers as values, and their common arguments: steps, grid, t_min, denoise."""

from __future__ import annotations

import inspect
from functools import partial

import numpy as np
import pytest
import torch

from scoresde.samplers import (
    DDIM,
    DEIS,
    EDM,
    AdaptiveSDE,
    Ancestral,
    AnnealedLangevin,
    DPMSolverPlusPlus,
    EulerMaruyama,
    Fast,
    Langevin,
    PredictorCorrector,
    ProbabilityFlowODE,
    ReferenceDiscretization,
    ReverseDiffusion,
    ReverseSDESampler,
    UniPC,
    exponential,
    grids,
    predictor_corrector,
)
from scoresde.samplers.exponential import AdamsBashforth, Churn, ExponentialRungeKutta, Whitened, noise_to_signal
from scoresde.samplers.grid_sampler import GridSampler
from scoresde.samplers.predictor_corrector import ConsistentAnnealed, Predictor, SymmetricSplitting
from scoresde.score import ScoreModel
from scoresde.sde import EDMSDE, VESDE, VPSDE

VALUES = [
    DDIM(eta=0.5, steps=50),
    EulerMaruyama(flow=True, steps=7, denoise=False),
    Ancestral(variance="lower", steps=ReferenceDiscretization(100, 1e-5)),
    ConsistentAnnealed(eta=1.0, steps=[0.9, 0.5, 1 / 3]),
    PredictorCorrector(DDIM(), Langevin(0.1, 2), steps=10, grid=grids.karras, t_min=1e-2),
    PredictorCorrector(None, AnnealedLangevin(), steps=np.array([1.0, 0.1])),
    DPMSolverPlusPlus(10, 3, eta=1.0, grid=partial(grids.karras, rho=5.0)),
    UniPC(torch.tensor([1.0, 0.2, 0.1])),
    DEIS(5, 2, noise_to_signal),
    AdamsBashforth(5, data_std=0.4, corrector=True),
    ExponentialRungeKutta(5, 2, Whitened(data_std=0.3), heun=True, churn=Churn(10.0)),
    EDM(18, churn=Churn(40.0, high=2.0), t_min=1e-2),
]


def score(x, t):
    return -x


@pytest.mark.parametrize("sampler", VALUES, ids=lambda s: type(s).__name__)
def test_the_repr_of_a_sampler_makes_an_equal_one(sampler):
    names = {
        **vars(exponential),
        **vars(predictor_corrector),
        **vars(grids),
        "ReferenceDiscretization": ReferenceDiscretization,
        "partial": partial,
        "torch": torch,
        "numpy": np,
    }
    again = eval(repr(sampler), names)
    assert again == sampler and repr(again) == repr(sampler)
    sde = VPSDE()
    start = torch.full((2, 2), 0.5, dtype=torch.float64)
    runs = [s(sde, score, (2, 2), start=start).samples for s in (sampler, again)]
    assert torch.equal(*runs)


def test_another_argument_makes_another_sampler():
    assert DDIM(steps=5) != DDIM(steps=6) and DDIM() != EulerMaruyama()
    assert UniPC(5, grid=partial(grids.karras, rho=5.0)) == UniPC(5, grid=partial(grids.karras, rho=5.0))
    assert UniPC(5, grid=partial(grids.karras, rho=5.0)) != UniPC(5, grid=partial(grids.karras, rho=6.0))


@pytest.mark.parametrize(
    "make",
    [DDIM, partial(DDIM, eta=1.0), EulerMaruyama, ReverseDiffusion, Ancestral, partial(ConsistentAnnealed, eta=0.6)],
)
def test_a_predictor_is_a_sampler(make):
    """The same numbers as in predictor-corrector sampling without a corrector."""
    arguments = {"steps": 30, "grid": grids.quadratic, "t_min": 1e-2}
    alone, composed = make(**arguments), PredictorCorrector(make(), **arguments)
    for seed in (0, 1):
        a, b = (s(VPSDE(), score, (3, 2), seed=seed) for s in (alone, composed))
        assert torch.equal(a.samples, b.samples) and a.nfe == b.nfe == 30


KINDS = [UniPC, DPMSolverPlusPlus, EDM, DEIS, AdamsBashforth, DDIM, EulerMaruyama, PredictorCorrector]


@pytest.mark.parametrize("kind", KINDS)
def test_the_common_arguments(kind):
    end = torch.tensor(0.02, dtype=torch.float64)
    times = kind(steps=6, grid=grids.log_noise, t_min=0.02)(VPSDE(), score, (2, 2)).times
    assert torch.equal(times, grids.log_noise(VPSDE(), 6, 0.02)) and times[-1] == end
    assert kind(steps=6)(VPSDE(), score, (2, 2)).times[-1] == 1e-3
    assert kind(steps=6)(EDMSDE(0.01, 10.0), score, (2, 2)).times[-1] == 0.01  # the t_min of the process
    assert kind(steps=6, t_min=0.5)(EDMSDE(0.01, 10.0), score, (2, 2)).times[-1] == 0.5
    given = (1.0, 0.4, 0.1)
    for steps in (given, list(given), np.array(given), torch.tensor(given, dtype=torch.float64)):
        sampler = kind(steps=steps)
        assert sampler.steps == given
        assert sampler(VPSDE(), score, (2, 2)).times.tolist() == list(given)
    assert kind(denoise=False).denoise is False and kind().denoise is True
    assert isinstance(kind(), GridSampler)


@pytest.mark.parametrize("kind", [*KINDS, ProbabilityFlowODE, ReverseSDESampler, AdaptiveSDE, Fast])
def test_the_end_has_the_same_arguments_on_every_sampler(kind):
    parameters = inspect.signature(kind).parameters
    for name, default in (("t_min", None), ("denoise", True))[: 1 if kind is Fast else 2]:  # Fast always denoises
        parameter = parameters[name]
        assert parameter.kind is parameter.KEYWORD_ONLY and parameter.default is default


SOLVED = [ProbabilityFlowODE, partial(ReverseSDESampler, steps=5), partial(AdaptiveSDE, 0.5, 0.5)]


@pytest.mark.parametrize(
    ("sde", "t_min", "end"), [(VPSDE(), None, 1e-3), (EDMSDE(0.01, 10.0), None, 0.01), (VPSDE(), 0.5, 0.5)]
)
@pytest.mark.parametrize("make", SOLVED)
def test_the_end_without_a_grid(make, sde, t_min, end):
    """The default of the last time is the t_min of the process. The denoising step is one evaluation at the last time."""
    seen = []

    def recording(x, t):
        seen.append(t)
        return score(x, t)

    clean, noisy = (
        make(t_min=t_min, denoise=flag)(sde, recording, (3, 2), dtype=torch.float64) for flag in (True, False)
    )
    assert clean.nfe == noisy.nfe + 1
    last = seen[clean.nfe - 1]
    assert last.tolist() == [end] * 3
    wanted = sde.data_from_score(noisy.samples, last, score(noisy.samples, last))
    torch.testing.assert_close(clean.samples, wanted)


def test_t_min_with_a_grid_without_t_min():
    """A t_min that would not be used raises an error."""
    for make, words in (
        (lambda: DDIM(steps=5, grid=grids.subsequence, t_min=1e-2), "subsequence has no t_min to set"),
        (lambda: DDIM(steps=5, grid=partial(grids.karras, t_min=0.1), t_min=1e-2), "has no t_min to set"),
        (lambda: UniPC([1.0, 0.1], t_min=1e-2), "has its own last time"),
        (lambda: DDIM(steps=ReferenceDiscretization(10), t_min=1e-2), "has its own last time"),
        (lambda: PredictorCorrector(DDIM(steps=50)), "has a grid of its own"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    assert DDIM(steps=5, grid=partial(grids.karras, t_min=0.1))(VPSDE(), score, (2, 2)).times[-1] == 0.1


class Network(torch.nn.Module):
    """Counts its calls."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.3))
        self.calls = 0

    def forward(self, x, label):
        self.calls += 1
        return self.weight * torch.tanh(x) + 0.1 * label.reshape(-1, *[1] * (x.ndim - 1))


@pytest.mark.parametrize("prediction", ["noise", "data", "velocity", "score"])
@pytest.mark.parametrize("sampler", [DDIM(steps=6), DPMSolverPlusPlus(6), EDM(6), UniPC(6)], ids=repr)
def test_a_model_returns_noise_and_data_directly(sampler, prediction):
    """The samples equal those from the model's score, with the same number of calls."""
    sde = VESDE(0.01, 5.0) if prediction == "score" else VPSDE(0.1, 8.0)
    model = ScoreModel(Network(), sde, prediction).double()
    found = sampler(sde, model, (3, 2), dtype=torch.float64, keep_every=2)
    calls = model.network.calls
    wanted = sampler(sde, lambda x, t: model(x, t), (3, 2), dtype=torch.float64, keep_every=2)
    torch.testing.assert_close(found.samples, wanted.samples, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.trajectory.data, wanted.trajectory.data, rtol=1e-9, atol=1e-9)
    assert calls == found.nfe == wanted.nfe


def test_a_model_with_a_modified_score_is_evaluated_as_a_score():
    """With an overridden forward, a hook, or another process, the model's noise does not agree with its score."""

    class Guided(ScoreModel):
        def forward(self, x, t, **condition):
            return super().forward(x, t, **condition) - 2.0 * x

    sde = VPSDE()
    guided, hooked, plain = Guided(Network(), sde), ScoreModel(Network(), sde), ScoreModel(Network(), sde)
    hooked.register_forward_hook(lambda module, given, value: value - 2.0 * given[0])
    wanted = DDIM(steps=5)(sde, lambda x, t: plain(x, t) - 2.0 * x, (3, 2)).samples
    for model in (guided, hooked):
        torch.testing.assert_close(DDIM(steps=5)(sde, model, (3, 2)).samples, wanted)
    assert not torch.allclose(DDIM(steps=5)(sde, plain, (3, 2)).samples, wanted)


def test_every_public_sampler_is_a_value():
    made = [type(value) for value in VALUES] + [GridSampler, Predictor, SymmetricSplitting, ReverseDiffusion]
    public = [getattr(package, name) for package in (exponential, predictor_corrector) for name in package.__all__]
    grid = [v for v in public if isinstance(v, type) and issubclass(v, GridSampler)]
    assert {kind.__name__ for kind in grid} - {kind.__name__ for kind in made} <= {
        "DPMSolverSingleStep", "ExponentialMultistep",
    }  # fmt: skip


@pytest.mark.parametrize("kind", [DDIM, EulerMaruyama, ReverseDiffusion, Ancestral, UniPC, EDM, DPMSolverPlusPlus])
def test_steps_is_the_first_argument(kind):
    assert kind(20) == kind(steps=20)
    assert next(iter(inspect.signature(kind).parameters)) == "steps"
