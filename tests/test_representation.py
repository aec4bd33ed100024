"""Every public object prints the call that makes it, and the object made by that call is equal to it."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle

import numpy
import pytest
import torch
from torch import nn

import scoresde
import scoresde.jump
from scoresde import VESDE, VPSDE, data, losses, networks, samplers
from scoresde._representation import LARGEST, same_value, text_of
from scoresde.losses import DenoisingScoreMatching
from scoresde.sde.linalg.basis import dct, fourier
from tests.argument_recipes import NOT_CALLED, RECORDS, public, recipe

FITTED = {
    "samplers.fitted.pilot.Pilot",
    "samplers.fitted.sampler.FittedMultistep",
    "samplers.fitted.sampler.FittedSampler",
    "samplers.fitted.ggdm.GGDM",
    "samplers.fitted.level_adjusted.LevelAdjustedDDIM",
    "samplers.fitted.level_network.LevelNetwork",
    "schedules.step_network.StepNetwork",
    "samplers.fitted.grid.AdaptiveGrid",
}
"""Made by a fit, and kept in files; their reprs say how good they are."""
ABSTRACT = {name: thing for name, thing in public().items() if inspect.isclass(thing) and inspect.isabstract(thing)}
CLASSES = {
    name: thing
    for name, thing in public().items()
    if inspect.isclass(thing) and name not in {*RECORDS, *NOT_CALLED, *ABSTRACT, *FITTED}
}
OUTSIDE = {
    "distributions.empirical.SmoothedEmpirical", "data.torch_data.TorchDataset", "metrics.extractors.Network",
    "score.features.ScoreFeatures", "operators.functions.LinearFunction",
    "schedules.bddm.BDDM", "samplers.fitted.noise_estimation.NoiseEstimation",
    "sde.nonlinear.NonlinearSDE", "sde.processes.schedule.Schedule",
    *(name for name in CLASSES if name.startswith(("interop.processes.", "guidance.measurements.", "guidance.posterior"))),
}  # fmt: skip
"""Made of what has no text: a function without a name, a module or data set of the user, weights, objects of another library."""


def names():
    """Names that a repr may contain: the public classes, functions of samplers and bases, torch and numpy."""
    found = {name.rpartition(".")[2]: thing for name, thing in public().items() if inspect.isclass(thing)}
    found |= {name: thing for name, thing in vars(samplers.grids).items() if inspect.isfunction(thing)}
    for module in (scoresde.jump.grids, scoresde.jump.confidences):
        found |= {name: thing for name, thing in vars(module).items() if inspect.isfunction(thing)}
    found |= {
        name: getattr(samplers.exponential, name)
        for name in ("diffusion_time", "noise_to_signal", "log_noise_to_signal")
    }
    found |= {name: getattr(samplers.fitted, name) for name in ("distance_kernel", "cubic_kernel")}
    return found | vars(scoresde.sde.linalg.basis) | {"torch": torch, "numpy": numpy, "partial": functools.partial}


def pull(x, t):
    return -x


def rate(t):
    return torch.ones_like(t)


def remade(x):
    """The object that its text makes. Its own class comes first: tokens of data and of conditions have one name."""
    return eval(repr(x), names() | {type(x).__name__: type(x)})


@pytest.mark.parametrize("name", CLASSES)
def test_an_object_prints_the_call_that_makes_it(name):
    x = CLASSES[name](**recipe(name, CLASSES[name]))
    text = repr(x)
    assert text.startswith(f"{type(x).__name__}(") and (name in OUTSIDE or " at 0x" not in text)
    if name not in OUTSIDE:
        again = remade(x)
        assert type(again) is type(x) and repr(again) == text
        of_module = isinstance(x, nn.Module) or any(isinstance(v, nn.Module) for v in vars(x).values())
        if not of_module:  # modules are equal where they are one
            assert again == x and hash(again) == hash(x)


@pytest.mark.parametrize(
    "x",
    [
        dct((2, 3)), fourier((4,)), VPSDE(T=2.0), VPSDE().discretize(50), VPSDE(0.5).discretize(50), VESDE().discretize(7),
        losses.TargetLikelihood(VPSDE(), "size", times=losses.UniformTime(1e-3)),
        DenoisingScoreMatching(VESDE(T=0.5), "likelihood", times=losses.UniformTime(1e-3), seed=3),
        scoresde.sde.Shifted(VPSDE(), torch.tensor([0.1, 1 / 3])),
        scoresde.GaussianMixture([[0.1, 0.2]], covariances=torch.eye(2)[None]),
        scoresde.likelihood.Multistep(8, scoresde.likelihood.standard_grid(VPSDE(), 1e-3)),
        scoresde.sde.NonlinearSDE(pull, rate, steps=3),
        scoresde.ScoreModel(networks.MLP((2,), 8, 1, embedding=networks.FourierEmbedding(4)), VPSDE()).sde,
    ],
    ids=lambda x: type(x).__name__,
)  # fmt: skip
def test_an_object_of_other_objects_prints_them_too(x):
    space = names() | {"pull": pull, "rate": rate}
    again = eval(repr(x), space)
    assert again == x and hash(again) == hash(x) and repr(again) == repr(x)
    for copied in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert copied == x and repr(copied) == repr(x)


def test_stored_texts_stay_as_they_are():
    """Stored rows of likelihoods are found again by these texts."""
    assert (
        repr(VPSDE()) == "VPSDE(beta_min=0.1, beta_max=20.0)"
        and repr(VESDE()) == "VESDE(sigma_min=0.01, sigma_max=50.0)"
    )
    assert repr(VPSDE(T=1.5)) == "VPSDE(beta_min=0.1, beta_max=20.0, T=1.5)"
    assert repr(scoresde.Quantized(17)) == "Quantized(levels=17, low=-1.0, high=1.0)"
    assert repr(scoresde.Hutchinson()) == "Hutchinson(forward=False, fixed=False, distribution='rademacher', count=1)"
    solvers = scoresde.solvers
    assert repr(solvers.ScipyODE()) == "ScipyODE(method='RK45', rtol=1e-05, atol=1e-05, max_nfe=100000)"
    assert repr(solvers.RungeKutta()) == "RungeKutta(rtol=1e-05, atol=1e-05, per_sample=True, max_steps=10000)"
    grid = scoresde.likelihood.standard_grid(VPSDE(), 1e-3)
    assert scoresde.likelihood.Multistep(8).summary == "Multistep(nodes=8, grid=None, tolerance=None, max_nodes=1024)"
    assert scoresde.likelihood.Multistep(8, grid).summary == (
        "Multistep(nodes=8, grid=FlowGrid(standard, t_min=0.001, data_std=0.5), tolerance=None, max_nodes=1024)"
    )


def test_arguments_that_differ_make_objects_that_differ():
    x = scoresde.sde.Shifted(VPSDE(), torch.tensor([0.1, 0.2]))
    assert x != scoresde.sde.Shifted(VPSDE(), torch.tensor([0.1, 0.3])) and x != VPSDE()
    assert DenoisingScoreMatching(VPSDE()) == DenoisingScoreMatching(sde=VPSDE(), weighting="variance")
    assert DenoisingScoreMatching(VPSDE()) != DenoisingScoreMatching(VPSDE(), seed=1)
    assert scoresde.score.NoisePrediction() == scoresde.score.NoisePrediction() != scoresde.score.DataPrediction()
    changed = DenoisingScoreMatching(VPSDE())
    changed.seed = 5
    assert "seed=5" in repr(changed) and changed != DenoisingScoreMatching(VPSDE())


def test_modules_print_one_line_and_are_equal_only_to_themselves():
    network = networks.MLP((2,), width=8, depth=1)
    model = scoresde.ScoreModel(network, VPSDE(), "velocity")
    text = (
        "MLP(event_shape=(2,), width=8, depth=1, outputs=1, embedding=RadialEmbedding(count=48, low=-15.0, high=8.0), "
        "conditions=None, input_features=None)"
    )
    assert repr(network) == text and f"network={text}, sde=VPSDE(" in repr(model) and "'velocity'" in repr(model)
    again = remade(model)
    assert again != model and {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    average = scoresde.EMA(network, 0.9)
    assert repr(average) == f"EMA(module={text}, decay=0.9)" and average == average
    assert average != scoresde.EMA(network, 0.9) and all(value is not network for value in vars(average).values())
    assert "std=0.1" in repr(scoresde.ema.PowerEMA(network, 0.1))


class Mine(scoresde.ScalarSDE):
    """A user's process whose arguments are known only from the names of its attributes."""

    def __init__(self, rate, T=None):
        super().__init__(T)
        self.rate = rate

    def alpha(self, t):
        return (-self.rate * t).exp()

    def sigma(self, t):
        return (1 - self.alpha(t) ** 2).sqrt()

    def drift_coefficient(self, t):
        return -self.rate + 0 * t

    def diffusion(self, t):
        return (2 * self.rate) ** 0.5 + 0 * t

    def prior_sample(self, shape, **options):
        raise NotImplementedError

    def prior_log_prob(self, x):
        raise NotImplementedError


class Opaque(Mine):
    def __init__(self, *numbers):
        super().__init__(sum(numbers))


def test_user_classes_print_their_known_values():
    space = {"Mine": Mine}
    for x in (Mine(3.0), Mine(3.0, T=2.0)):
        assert eval(repr(x), space) == x
    assert repr(Mine(3.0)) == "Mine(rate=3.0)" and repr(Mine(3.0, T=2.0)) == "Mine(rate=3.0, T=2.0)"
    assert Mine(3.0) != Mine(2.0) and repr(Opaque(1.0, 2.0)) == "Opaque(rate=3.0)" and Opaque(1.0) != Opaque(1.0)


@pytest.mark.parametrize(
    "value",
    [
        0.1, float("inf"), (1,), (), [1, (2.0, None)], {"a": (1,)}, torch.tensor(0.1), torch.tensor([[1, 2], [3, 4]]),
        torch.tensor([0.1, 1 / 3], dtype=torch.float64), torch.tensor([0.1, 1 / 3]), torch.zeros(0, 3),
        torch.tensor([0.1], dtype=torch.bfloat16), torch.tensor([True]), torch.tensor([float("nan"), float("inf")]),
        numpy.array([0.1, 0.2], dtype=numpy.float32), torch.float64, torch.device("cpu"), True, "a'b",
        torch.randn(LARGEST, generator=torch.Generator().manual_seed(0)),
    ],
    ids=str,
)  # fmt: skip
def test_values_are_printed_in_full(value):
    again = eval(text_of(value), names())
    assert same_value(again, value) and type(again) is type(value)


def test_a_large_tensor_is_printed_by_its_shape():
    mixture = scoresde.SmoothedEmpirical(torch.zeros(60, 2), std=0.1)
    assert repr(mixture) == "SmoothedEmpirical(data=<torch.Tensor of shape (60, 2), torch.float32>, std=0.1)"
    part = data.Dataset(torch.zeros(60, 2), data.Affine(), "mine").part(torch.arange(3), "few")
    assert len(part) == 3 and "name='few'" in repr(part) and "[0.0, 0.0]" in repr(part)
    assert not any(getattr(value, "shape", ()) == (60, 2) for value in vars(part).values())
