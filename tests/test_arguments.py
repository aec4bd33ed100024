"""Every public class and function refuses wrong arguments with a message that names the parameter."""

import copy
import inspect
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NoReturn

import numpy as np
import pytest
import torch

import scoresde.samplers as samplers
from scoresde import VPSDE, GaussianMixture, Hutchinson, Quantized, ScoreModel, SmoothedEmpirical, bits_per_dim
from scoresde._arguments import checked_arguments
from scoresde.data import Affine, Dataset
from scoresde.metrics import crps, sliced_wasserstein
from scoresde.networks import MLP, NCSNpp
from scoresde.samplers import (
    DDIM,
    EDM,
    DPMSolverPlusPlus,
    EulerMaruyama,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
    fit,
)
from scoresde.sde import VESDE
from scoresde.solvers import RungeKutta
from tests.argument_calls import ALLOWED, WRONG, cases, count, hints, some
from tests.argument_recipes import NOT_CALLED, public, recipe

EACH = 1
"""Wrong calls for every parameter by default; all of them under ``make test-all``."""


def _faults(chosen):
    found = []
    numbers = count(chosen, lambda case, kind, said: kind != "clear" and found.append(f"{kind}: {case}  {said[:200]}"))
    return numbers, found


def test_every_public_name_has_a_valid_call():
    """A new class or function needs a recipe in tests/argument_recipes.py."""
    for name, thing in public().items():
        if name not in NOT_CALLED and not inspect.isabstract(thing):
            made = thing(**recipe(name, thing))
            if inspect.isclass(thing):
                assert isinstance(made, thing), name
            elif hints(thing).get("return") not in (type(None), NoReturn, None):
                assert made is not None, name


def test_every_public_name_with_arguments_is_checked():
    for name, thing in public().items():
        call = thing.__init__ if inspect.isclass(thing) else thing
        if name in NOT_CALLED:
            continue
        parameters = inspect.signature(thing).parameters.values()
        if any(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
            assert hasattr(call, "__checked__"), f"{name}: add @checked_arguments, or check_constructors to its package"


@pytest.mark.parametrize("part", range(4))
def test_some_wrong_calls(part):
    numbers, found = _faults(some(EACH)[part::4])
    assert not found, "\n".join(found)
    assert numbers["calls"] > 100


@pytest.mark.long
def test_all_wrong_calls():
    numbers, found = _faults(list(cases()))
    assert not found, "\n".join(found)
    assert numbers["calls"] > 9000


def test_allowed_values_have_a_reason_and_a_use():
    everything = list(cases())
    for allowed in ALLOWED:
        assert allowed.reason and all(value.strip() in WRONG for value in allowed.values.split(","))
        assert any(allowed.covers(case.call, case.parameter, case.label) for case in everything), allowed


SDE = VPSDE()
SCORE = GaussianMixture(torch.tensor([[1.0, 0.5]]), torch.tensor([0.3])).score(SDE)
NAMED = {
    "eta by its place": (lambda: DDIM(50, 0.5), "positional"),
    "number for a flag": (lambda: EulerMaruyama(flow=500), "flow=500 is not allowed: give True or False"),
    "flag by its place": (lambda: DPMSolverPlusPlus(10, 2, 0.0, False), "positional"),
    "T by its place": (lambda: VPSDE(0.1, 20.0, 2.0), "the positional argument 2.0 needs a keyword, one of T"),
    "predictor a number": (lambda: PredictorCorrector(500), "predictor=500"),
    "denoise a tensor": (lambda: EDM(5, denoise=torch.ones(2)), r"denoise=<Tensor of shape \(2,\)>"),
    "order a tensor": (lambda: DPMSolverPlusPlus(5, order=torch.tensor(2)), "order=tensor"),
    "transform a number": (lambda: Dataset(torch.ones(4, 2), transform=3), "transform=3"),
    "churn a number": (lambda: EDM(churn=-1), "churn=-1 is not allowed: give a Churn or None"),
    "heun a class": (lambda: EDM(heun=VPSDE), "heun=<class"),
    "score a number": (lambda: fit(SDE, 0.5, pilot=(16, 2)), "score=0.5"),
    "metric of a list": (lambda: sliced_wasserstein([[1.0]], torch.ones(4, 2)), "x="),
    "metric of an array": (lambda: crps(np.ones((3, 2)), torch.ones(2)), "samples=<ndarray"),
    "huge ratio": (lambda: Langevin(snr=10**30), "snr=1000"),
    "fixed a list": (lambda: Hutchinson(fixed=[1, 2]), r"fixed=\[1, 2\]"),
    "likelihoods in a matrix": (lambda: bits_per_dim(torch.ones(2, 2), (2,), Quantized(4)), "log_prob"),
    "tolerance below any": (lambda: RungeKutta(rtol=1e-40), "rtol=1e-40"),
    "event of nothing": (lambda: NCSNpp(()), r"event_shape=\(\)"),
    "process a class": (lambda: ScoreModel(MLP((2,)), VPSDE), "sde=<class .*not an instance: VPSDE"),
    "function of one argument": (lambda: samplers.DEIS(5, variable=lambda t: t), "variable=.* called with 2 arguments"),
    "function that returns a class": (lambda: samplers.DEIS(5, variable=VESDE), "variable=<class"),
}


@pytest.mark.parametrize("wrong", NAMED)
def test_named_mistakes(wrong):
    mistake, message = NAMED[wrong]
    with pytest.raises((TypeError, ValueError), match=message):
        mistake()


def test_a_mixture_with_a_point_mass_has_no_density_at_zero():
    x = torch.zeros(3, 1)
    for distribution in (GaussianMixture(torch.zeros(2, 1), stds=(4, 0)), SmoothedEmpirical(torch.randn(4, 1), std=0)):
        with pytest.raises(ValueError, match="no density at t = 0"):
            distribution.log_prob(x)
        assert bool(distribution.log_prob_at(SDE, x, torch.tensor(0.5)).isfinite().all())


@checked_arguments
def _example(
    count: int, ratio: float = 0.5, *, flag: bool = False, sizes: Sequence[int] = (), act: Callable | None = None
) -> int:
    """A docstring."""
    return count


def test_a_wrapped_function_keeps_its_signature_and_docstring():
    assert _example.__name__ == "_example" and _example.__doc__ == "A docstring."
    assert list(inspect.signature(_example).parameters) == ["count", "ratio", "flag", "sizes", "act"]
    assert "steps" in inspect.signature(EDM).parameters
    for right in (3, np.int64(3)):
        assert _example(right, np.float32(0.5), flag=True, sizes=[1, 2], act=torch.tanh) == 3
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'count'"):
        _example()
    with pytest.raises(TypeError, match="unexpected keyword argument 'rate'"):
        _example(1, rate=2)


@pytest.mark.parametrize(
    "wrong",
    [{"count": True}, {"count": 2.0}, {"ratio": "1"}, {"ratio": float("nan")}, {"flag": 1}, {"sizes": "12"},
     {"sizes": (1, 2.5)}, {"act": 3}, {"count": 2**70}, {"flag": np.bool_(True)}],
    ids=str,
)  # fmt: skip
def test_kinds(wrong):
    name = next(iter(wrong))
    with pytest.raises(TypeError, match=f"{name}=.* is not allowed: ") as said:
        _example(**{"count": 1, **wrong})
    assert isinstance(said.value, ValueError)


def test_objects_are_copied_pickled_and_replaced():
    """None of these calls a constructor in another way."""
    for thing in (VPSDE(0.2, 10.0), RungeKutta(1e-4), ReverseDiffusion(flow=True), Affine(1.0, 2.0)):
        assert pickle.loads(pickle.dumps(thing)) == copy.deepcopy(thing) == replace(thing) == thing
    with pytest.raises(TypeError, match="rtol='1'"):
        replace(RungeKutta(), rtol="1")
    model = copy.deepcopy(ScoreModel(MLP((2,), width=8, depth=1), SDE))
    assert pickle.loads(pickle.dumps(model))(torch.ones(2, 2), torch.ones(2)).shape == (2, 2)


def test_a_compiled_model_is_traced_whole():
    model = ScoreModel(MLP((2,), width=8, depth=1), SDE)
    x, t = torch.ones(2, 2), torch.full((2,), 0.5)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, t), model(x, t))
