"""Evaluation of scores: the networks that they use, their mode and their process."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from scoresde.data.transforms import Quantized
from scoresde.likelihood import (
    Exact,
    FlowDequantizer,
    Multistep,
    UniformDequantizer,
    elbo,
    fit_grid,
    importance_weighted_bound,
    known_biases,
    log_likelihood,
)
from scoresde.samplers import AdaptiveSDE, DPMSolverPlusPlus, PredictorCorrector, ProbabilityFlowODE, UniPC, fit
from scoresde.samplers.fitted import adaptive_grid
from scoresde.samplers.fitted.pilot import Pilot
from scoresde.score import ScoreModel
from scoresde.sde import VESDE, VPSDE, check_same_process, evaluation_mode
from scoresde.sde.base import process_of
from scoresde.sde.scores import CheckedScore, modules_of
from scoresde.solvers import RungeKutta


class Dropping(nn.Module):
    """A network with dropout and batch statistics, which counts its calls in training mode."""

    def __init__(self):
        super().__init__()
        self.drop, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(2, affine=False)
        self.in_training = 0

    def forward(self, x, label):
        self.in_training += self.training or self.drop.training
        return 0.3 * self.drop(self.norm(x))


def model() -> ScoreModel:
    made = ScoreModel(Dropping(), VPSDE())
    made.network.norm.eval()  # another mode, which must be restored
    return made


@dataclass
class Holder:
    """A score that has a model as an attribute and is no module."""

    inner: object

    def __call__(self, x, t):
        return self.inner(x, t)

    def method(self, x, t):
        return self.inner(x, t)


GLOBAL = model()


def through_a_global(x, t):
    return GLOBAL(x, t)


def with_default(x, t, inner=GLOBAL):
    return inner(x, t)


WRAPPED = {
    "model": lambda m: m,
    "data parallel": nn.DataParallel,
    "compiled": functools.partial(torch.compile, backend="eager"),
    "partial": functools.partial,
    "method": lambda m: m.forward,
    "object": Holder,
    "method of an object": lambda m: Holder(m).method,
    "closure": lambda m: lambda x, t: m(x, t),
    "closure over a list": lambda m: lambda x, t, both=[m]: both[0](x, t),
    "wrappers in wrappers": lambda m: functools.partial(Holder(nn.DataParallel(m))),
}
X = torch.linspace(-1, 1, 6).reshape(3, 2)
SDE = VPSDE()
FEW = Multistep(nodes=4)
ENTRIES = {
    "sampler": lambda s: DPMSolverPlusPlus(2)(SDE, s, (3, 2)).samples,
    "predictor-corrector": lambda s: PredictorCorrector(steps=2)(SDE, s, (3, 2)).samples,
    "adaptive": lambda s: AdaptiveSDE(0.5, 0.5)(SDE, s, (3, 2)).samples,
    "encode": lambda s: ProbabilityFlowODE(RungeKutta(rtol=0.1, atol=0.1)).encode(SDE, s, X),
    "likelihood": lambda s: log_likelihood(SDE, s, X, solver=FEW).log_prob,
    "differentiable": lambda s: log_likelihood(SDE, s, X, solver=FEW, differentiable=True).log_prob,
    "biases": lambda s: known_biases(SDE, s, X).cutoff,
    "bound": lambda s: elbo(SDE, s, X, draws=2, replicates=2).log_prob,
    "likelihood grid": lambda s: torch.tensor(fit_grid(SDE, s, X, fine=40).share),
    "adaptive grid": lambda s: torch.tensor(adaptive_grid(SDE, s, (16, 2), fine=40).share),
    "fit": lambda s: (
        fit(SDE, s, 2, pilot=Pilot.of(SDE, s, (16, 2), fine=40), search=0, held_out=16)(SDE, s, (3, 2)).samples
    ),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_evaluates_in_evaluation_mode_and_restores_the_mode(entry):
    trained = model()
    modes = [part.training for part in trained.modules()]
    state = torch.random.get_rng_state()
    found = ENTRIES[entry](trained)
    assert trained.network.in_training == 0
    assert [part.training for part in trained.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(found, ENTRIES[entry](model().eval()))
    assert not trained.network.norm.training and trained.network.drop.training


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_a_network_is_found_in_its_wrapper(wrapper):
    trained = model()
    score = WRAPPED[wrapper](trained)
    found = DPMSolverPlusPlus(2)(SDE, score, (3, 2)).samples
    assert trained.network.in_training == 0
    assert trained.training
    assert torch.allclose(found, DPMSolverPlusPlus(2)(SDE, trained.eval(), (3, 2)).samples)


@pytest.mark.parametrize("score", [through_a_global, with_default])
def test_a_network_is_found_by_a_global_name(score):
    DPMSolverPlusPlus(2)(SDE, score, (3, 2))
    assert GLOBAL.network.in_training == 0
    assert GLOBAL.training


def test_a_score_can_enable_dropout():
    trained = model()

    def dropping(x, t):
        trained.train()
        return trained(x, t)

    DPMSolverPlusPlus(2, denoise=False)(SDE, dropping, (3, 2))
    assert trained.network.in_training == 2


def test_the_mode_is_restored_after_an_error_and_by_the_module_s_own_train():
    class Merging(nn.Module):
        merged = False

        def train(self, mode=True):
            self.merged = not mode
            return super().train(mode)

    part = Merging()
    with pytest.raises(RuntimeError), evaluation_mode(part):
        assert part.merged and not part.training
        raise RuntimeError
    assert part.training and not part.merged


def test_gradients_of_a_likelihood_are_those_of_evaluation_mode():
    """The nodes of the graph are evaluated again in the backward pass, after the call."""
    found = []
    for mode in (True, False):
        one = model().train(mode)
        x = X.clone().requires_grad_(True)
        log_likelihood(SDE, one, x, solver=FEW, differentiable=True).log_prob.sum().backward()
        assert one.network.in_training == 0
        found.append(x.grad)
    assert torch.equal(*found)


def test_dequantizers_and_densities_of_bounds_are_in_evaluation_mode_too():
    transform, trained = Quantized(4), model()
    flow = FlowDequantizer(transform, (2,), network=lambda: nn.Sequential(nn.Dropout(0.5), nn.Identity()))
    nn.init.ones_(flow.gates)
    levels = torch.tensor([[0, 3], [1, 2]])

    def log_prob(x):
        return log_likelihood(SDE, trained, x, solver=FEW, divergence=Exact()).log_prob

    first = importance_weighted_bound(log_prob, levels, transform, draws=2, dequantizer=flow).log_prob
    assert torch.equal(
        first, importance_weighted_bound(log_prob, levels, transform, draws=2, dequantizer=flow).log_prob
    )
    assert flow.training and trained.training and trained.network.in_training == 0


def test_modules_inside_modules_are_not_searched_twice():
    trained = model()
    assert modules_of(trained.forward, functools.partial(trained), lambda x, t: trained) == [trained]


PROCESS_KEPT = [
    name for name in WRAPPED if "object" not in name and "closure" not in name and name != "wrappers in wrappers"
]


@pytest.mark.parametrize("wrapper", PROCESS_KEPT)
def test_a_wrapper_does_not_hide_the_process(wrapper):
    score = WRAPPED[wrapper](model())
    assert process_of(score) is score.sde if wrapper == "model" else process_of(score) == process_of(score)
    check_same_process(VPSDE(), score)
    with pytest.raises(ValueError, match="not the same process"):
        check_same_process(VESDE(), score)
    with pytest.raises(ValueError, match="not the same process"):
        UniPC(2)(VESDE(), score, (3, 2))


def test_compiled_functions_and_nested_wrappers_do_not_hide_the_process():
    inner = nn.DataParallel(nn.DataParallel(model()))
    for score in (inner, functools.partial(functools.partial(inner)), torch.compile(inner.forward, backend="eager")):
        with pytest.raises(ValueError, match="not the same process"):
            check_same_process(VESDE(), score)


def per_sample(n):
    y = torch.arange(n)[:, None] / n
    return lambda x, t: -x - (4.0 * x).sin() * y


PARTS = {
    "adaptive": lambda s: AdaptiveSDE(0.05, 0.1)(SDE, s, (8, 2)),
    "likelihood": lambda s: log_likelihood(SDE, s, torch.ones(8, 2), solver=Multistep(4, tolerance=100.0, max_nodes=8)),
    "fit": lambda s: fit(SDE, s, 2, pilot=(16, 2), held_out=16),
}


@pytest.mark.parametrize("entry", PARTS)
def test_the_error_explains_conditions_for_all_samples(entry):
    count = 16 if entry == "fit" else 8
    with pytest.raises(ValueError, match=rf"failed for \d+ of the {count} samples .*give conditions by condition="):
        PARTS[entry](per_sample(count))


def test_an_error_for_the_whole_batch_is_that_of_the_score():
    def score(x, t):
        raise IndexError("my own")

    with pytest.raises(IndexError, match=r"^my own$"):
        CheckedScore(score, 2)(torch.zeros(2, 1), torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool])
def test_a_score_with_other_parameters_is_refused(dtype):
    with pytest.raises(TypeError, match=rf"score returned dtype {dtype}"):
        CheckedScore(lambda x, t: x.to(dtype))(torch.zeros(2, 1), torch.ones(2))


@pytest.mark.parametrize("score", [lambda x: x, nn.Linear(2, 2), lambda x, t, y: x, ScoreModel, None, 3])
def test_a_score_that_cannot_be_called_with_x_and_t_is_refused_before_the_first_step(score):
    for entry in ("sampler", "likelihood", "bound"):
        with pytest.raises(
            TypeError, match=r"score=.* (cannot be called as score\(x, t\)|called with 2 arg|cannot be called|give a f)"
        ):
            ENTRIES[entry](score)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_likelihood_in_half_precision(dtype):
    """States and coefficients are float32, so the only error is the rounding of x for the score."""
    wide_range, x, seen = VESDE(0.01, 378.0), X.to(dtype), set()

    def score(x, t):
        seen.add((x.dtype, t.dtype))
        return (-x / (1.0 + wide_range.sigma(t)[:, None] ** 2)).to(dtype)

    def exact(x, t):
        return -x / (1.0 + wide_range.sigma(t)[:, None] ** 2)

    for compute in (
        lambda s, x: log_likelihood(wide_range, s, x, solver=Multistep(32)).log_prob,
        lambda s, x: elbo(wide_range, s, x, draws=2, replicates=2).log_prob,
        lambda s, x: known_biases(wide_range, s, x, t_min=1e-3).cutoff,
    ):
        assert torch.allclose(compute(score, x).float(), compute(exact, x.float()).float(), atol=0.05)
    assert seen == {(dtype, torch.float32)}


def test_noise_that_would_broadcast_in_a_perturbation_is_refused():
    for shape in ((1, 2), (2,), (3, 1)):
        with pytest.raises(ValueError, match=r"noise has shape .*: give \(3, 2\)"):
            SDE.perturb(X, torch.tensor(0.5), torch.zeros(shape))
    with pytest.raises(ValueError, match="dequantizer returned"):
        importance_weighted_bound(
            lambda x: x.sum(1), torch.ones(3, 2, dtype=torch.int64), Quantized(4), dequantizer=One()
        )


class One(UniformDequantizer):
    def sample(self, levels, noise, *, step=0):
        u, log_q = super().sample(levels, noise, step=step)
        return u[:1], log_q


@pytest.mark.parametrize("solver", [Multistep(16), RungeKutta(rtol=1e-2, atol=1e-2)])
def test_a_warning_of_a_likelihood_points_at_the_caller(solver):
    def broken(x, t):
        return torch.where((torch.arange(len(x)) == 0)[:, None] & (len(x) == 3), torch.nan, -x)

    with pytest.warns(RuntimeWarning, match="NaN") as caught:
        log_likelihood(SDE, broken, X, solver=solver)
    assert caught[0].filename == __file__
