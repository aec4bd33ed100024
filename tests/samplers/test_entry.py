"""Checks of a sampler's arguments: the start of the grid and the prior, shapes, precision."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from scoresde.distributions import GaussianMixture
from scoresde.noise import NoiseSource
from scoresde.samplers import (
    DDIM,
    DEIS,
    EDM,
    AdaptiveSDE,
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
    grids,
)
from scoresde.samplers.discretization import ExactTransitions
from scoresde.samplers.exponential import AdamsBashforth, DPMSolverSingleStep
from scoresde.samplers.predictor_corrector import BatchLangevin, ConsistentAnnealed
from scoresde.score import ScoreModel
from scoresde.sde import VESDE, VPSDE
from scoresde.solvers import RungeKutta

VE = VESDE(0.01, 50.0)
DATA = GaussianMixture(torch.tensor([[1.0, 1.0]]), 0.2)
BELOW = torch.linspace(0.5, 1e-3, 81, dtype=torch.float64)
GRIDDED = {
    "UniPC": UniPC,
    "2M": DPMSolverPlusPlus,
    "2M SDE": partial(DPMSolverPlusPlus, eta=1.0),
    "2S": DPMSolverSingleStep,
    "DEIS": DEIS,
    "EDM": EDM,
    "Adams": AdamsBashforth,
    "reverse diffusion": lambda steps: PredictorCorrector(ReverseDiffusion(), None, steps),
    "Euler, Langevin": lambda steps: PredictorCorrector(EulerMaruyama(), Langevin(snr=0.05), steps),
    "DDIM": lambda steps: PredictorCorrector(DDIM(), None, steps),
}


@pytest.mark.parametrize("name", GRIDDED)
def test_a_grid_that_starts_below_T_needs_a_start_at_its_first_time(name):
    sampler, score, shape = GRIDDED[name](BELOW), DATA.score(VE), (500, 2)
    with pytest.raises(
        ValueError, match=r"grid begins at t=0\.5, and the prior is the distribution at T=1: give start="
    ):
        sampler(VE, score, shape)
    start = VE.marginal_sample(DATA.sample(500, seed=1), torch.tensor(0.5), NoiseSource.of(2, 500))
    seen: list[float] = []
    result = sampler(VE, score, shape, start=start, keep_every=40, callback=lambda k, t, x: seen.append(float(t)))
    assert float(result.times[0]) == seen[0] == float(result.trajectory.times[0]) == 0.5
    assert torch.equal(result.trajectory.states[0], start)
    assert abs(float(result.samples.mean()) - 1.0) < 0.05
    assert abs(float(result.samples.std()) - 0.2) < 0.03


def test_a_grid_function_that_starts_below_T_needs_a_start():
    def below(sde, steps):
        return torch.linspace(0.9, 1e-3, steps + 1)

    for sampler in (DPMSolverPlusPlus(4, grid=below), PredictorCorrector(steps=4, grid=partial(below))):
        with pytest.raises(ValueError, match=r"begins at t=0\.9"):
            sampler(VE, DATA.score(VE), (3, 2))


class Short(VPSDE):
    T = 0.7


@pytest.mark.parametrize("grid", [*grids.FROM_T, partial(grids.karras, rho=3.0)])
def test_grids_that_are_known_to_start_at_T_do(grid):
    for sde in (VE, Short()):
        assert float(grid(sde, 4)[0]) == sde.T == ExactTransitions(4, grid).start_time(sde)


def test_T_rounded_to_float32_counts_as_T():
    result = UniPC(torch.linspace(1.0 - 6e-8, 1e-3, 5))(VE, DATA.score(VE), (3, 2))
    exact = UniPC(torch.linspace(1.0, 1e-3, 5))(VE, DATA.score(VE), (3, 2))
    assert torch.allclose(result.times, exact.times, rtol=0.0, atol=1e-7)
    assert torch.allclose(result.samples, exact.samples, rtol=1e-4)


@pytest.mark.parametrize(
    "steps", [[1.0, 0.5, 0.1], (1, 0.5, 0.1), np.array([1.0, 0.5, 0.1]), np.array([1.0, 0.5, 0.1], np.float32)]
)
def test_times_may_be_a_list_or_an_array(steps):
    for make in (UniPC, partial(PredictorCorrector, ReverseDiffusion(), None)):
        wanted = make(torch.tensor([1.0, 0.5, 0.1]))(VE, DATA.score(VE), (3, 2))
        assert torch.allclose(make(steps)(VE, DATA.score(VE), (3, 2)).samples, wanted.samples, rtol=1e-4)
    listed = ExactTransitions(2, lambda sde, n: steps)
    assert torch.allclose(UniPC(listed)(VE, DATA.score(VE), (3, 2)).times, wanted.times, atol=1e-7)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([0.1, 0.5, 1.0], "do not decrease, 0.1, 0.5, 1"),
        ([1.0], "shape"),
        ([[1.0, 0.5]], "a tuple or list of numbers"),
        (torch.tensor(10), "shape"),
        ([1.0, math.nan], "for each item, give a finite number"),
        (["a", "b"], "a tuple or list of numbers"),
        (torch.tensor([1j, 0.5]), "complex"),
        (True, "steps=True"),
        (2.5, r"steps=2\.5"),
        ("10", "steps='10'"),
        (None, "steps=None"),
        ([2.0, 0.5], r"give times in \[0, 1\]"),
    ],
)
def test_other_times_are_refused(steps, message):
    for make in (UniPC, EDM, partial(PredictorCorrector, ReverseDiffusion(), None)):
        with pytest.raises(ValueError, match=message):
            make(steps)(VE, DATA.score(VE), (3, 2))


@pytest.mark.parametrize(
    "sampler",
    [
        AdaptiveSDE(t_min=1.0),
        ReverseSDESampler(t_min=2.0),
        ProbabilityFlowODE(t_min=1.0),
        PredictorCorrector(steps=ReferenceDiscretization(100, t_min=1.0)),
        UniPC(4, grid=grids.log_noise, t_min=1.5),
        PredictorCorrector(steps=4, grid=grids.uniform, t_min=1.0),
        Fast(2, pilot=16, t_min=1.0),
    ],
)
def test_a_last_time_above_T_is_refused(sampler):
    with pytest.raises(ValueError, match=r"t_min=\d\.\d"):
        sampler(VE, DATA.score(VE), (3, 2))


STARTS = {
    "one row": (torch.zeros(1, 2), ValueError, "start has shape"),
    "a vector": (torch.zeros(2), ValueError, "start has shape"),
    "complex": (torch.zeros(3, 2, dtype=torch.complex64), TypeError, "give real numbers"),
    "integers": (torch.zeros(3, 2, dtype=torch.int64), TypeError, "floating-point"),
    "an array": (np.zeros((3, 2)), TypeError, "start is a ndarray"),
    "not finite": (torch.full((3, 2), math.nan), ValueError, "start holds non-finite values in 3 of 3"),
}


@pytest.mark.parametrize("name", STARTS)
def test_starts_of_another_shape_are_refused(name):
    start, error, message = STARTS[name]
    with pytest.raises(error, match=message):
        UniPC(2)(VE, DATA.score(VE), (3, 2), start=start)


def test_noise_that_would_broadcast_is_refused():
    with pytest.raises(TypeError, match="noise is a Tensor"):
        UniPC(2)(VE, DATA.score(VE), (3, 2), noise=torch.zeros(3, 2))
    with pytest.raises(ValueError, match="noise has 1 indices for a batch of 3"):
        UniPC(2)(VE, DATA.score(VE), (3, 2), noise=NoiseSource.of(0, 1))

    class One(NoiseSource):
        def normal(self, event_shape, **key):
            return super().normal(event_shape, **key)[:1]

    with pytest.raises(ValueError, match=r"start drawn by prior_sample has shape \(1, 2\)"):
        UniPC(2)(VE, DATA.score(VE), (3, 2), noise=One.of(0, 3))
    with pytest.raises(ValueError, match=r"One\.normal returned shape \(1, 2\)"):
        PredictorCorrector(steps=2)(VE, DATA.score(VE), (3, 2), noise=One.of(0, 3), start=torch.zeros(3, 2))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.float8_e5m2, "float32"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match="dtype="):
        UniPC(2)(VE, DATA.score(VE), (3, 2), dtype=dtype)
    with pytest.raises(TypeError, match="give real numbers"):
        ProbabilityFlowODE().encode(VE, DATA.score(VE), torch.zeros(3, 2, dtype=torch.complex64))


WIDE = VESDE(0.01, 378.0)
ALL = {
    "UniPC": UniPC(20),
    "2M": DPMSolverPlusPlus(20),
    "2M SDE": DPMSolverPlusPlus(20, eta=1.0),
    "2S": DPMSolverSingleStep(10),
    "DEIS": DEIS(20),
    "EDM": EDM(18),
    "Adams": AdamsBashforth(20),
    "predictor-corrector": PredictorCorrector(ReverseDiffusion(), BatchLangevin(snr=0.1), 100),
    "consistent annealed": PredictorCorrector(ConsistentAnnealed(eta=0.5), None, 100),
    "DDIM": PredictorCorrector(DDIM(), None, 100),
    "flow": ProbabilityFlowODE(RungeKutta(rtol=1e-2, atol=1e-2)),
    "reverse SDE": ReverseSDESampler(steps=100),
    "adaptive": AdaptiveSDE(0.1, 0.1),
}


@pytest.mark.covering
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_only_the_score_gets_half_precision(name, dtype):
    """sigma^2 = 142,884 exceeds the range of float16, and bfloat16 has no time between 0.996 and 1."""
    exact, seen = DATA.score(WIDE), set()

    def score(x, t):
        seen.add((x.dtype, t.dtype))
        return exact(x, t)

    plain = ALL[name](WIDE, exact, (8, 2))
    found = ALL[name](WIDE, score, (8, 2), dtype=dtype)
    assert seen == {(dtype, torch.float32)}
    assert found.samples.dtype == found.state.dtype == dtype
    assert torch.isfinite(found.samples).all()
    # an adaptive method may take other steps
    assert float((found.samples - plain.samples).abs().max()) < (0.5 if name == "adaptive" else 0.1)


def test_a_start_of_half_precision_is_encoded_and_decoded():
    exact, flow = DATA.score(VE), ProbabilityFlowODE(RungeKutta(rtol=1e-4, atol=1e-4), denoise=False)
    x = DATA.sample(4).half()
    latent = flow.encode(VE, exact, x)
    assert latent.dtype == torch.float16
    back = flow(VE, exact, (4, 2), start=latent)
    assert back.samples.dtype == torch.float16
    assert torch.allclose(back.samples, x, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("prediction", ["noise", "score", "data", "velocity"])
def test_a_network_of_half_precision_is_sampled(prediction, dtype):
    torch.manual_seed(0)
    model = ScoreModel(Half(), VPSDE(), prediction)
    found = UniPC(5)(VPSDE(), model.to(dtype), (3, 2), dtype=dtype)
    plain = UniPC(5)(VPSDE(), model.float(), (3, 2))
    # at T the data's mean is a difference of nearly equal numbers over alpha = 0.0066, and bfloat16 has three digits of x
    assert torch.allclose(found.samples.float(), plain.samples, rtol=0.01, atol=0.2 if dtype == torch.float16 else 0.7)


class Half(torch.nn.Module):
    """A linear map of x and the label."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x, label):
        return 0.1 * self.layer(torch.cat((x, label[:, None]), 1))


def test_fast_takes_half_precision():
    exact, dtype = DATA.score(VE), torch.float16
    found = Fast(4, pilot=16, search=0, held_out=16)(VE, exact, (8, 2), dtype=dtype)
    assert found.samples.dtype == dtype
    assert torch.allclose(
        found.samples.float(), Fast(4, pilot=16, search=0, held_out=16)(VE, exact, (8, 2)).samples, atol=0.1
    )


@pytest.mark.parametrize("snr", [10**30, 1e4, math.inf, 2 * 10**308])
def test_a_step_size_that_is_too_large_is_refused(snr):
    with pytest.raises(ValueError, match="snr="):
        Langevin(snr=snr)


@pytest.mark.parametrize("bad", [torch.tensor([True, False]), torch.tensor(True), None, "yes", 2])
def test_denoise_is_a_boolean(bad):
    for make in (UniPC, EDM, PredictorCorrector, ProbabilityFlowODE, ReverseSDESampler, AdaptiveSDE):
        with pytest.raises((ValueError, TypeError), match="denoise"):
            make(denoise=bad)


@pytest.mark.parametrize("bad", [torch.tensor([1, 2]), torch.tensor(2), True, 2.5, "2"])
def test_order_is_a_whole_number(bad):
    for make in (UniPC, DPMSolverPlusPlus, DPMSolverSingleStep, DEIS):
        with pytest.raises((ValueError, TypeError), match="order"):
            make(order=bad)


OPTIONS = {
    "first": [-1, 2.5, "a", None, torch.tensor(2), True],
    "seed": [-1, 2.5, None],
    "callback": [3, "a"],
    "allow_failed": ["no", torch.tensor([1, 2]), 2],
    "progress": ["no", torch.tensor([True, False])],
    "keep_every": [1.5, -1, torch.tensor(1)],
    "device": ["foo", 3],
    "dtype": [None, 3],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in OPTIONS.items() for value in values])
def test_options_are_named(name, value):
    with pytest.raises((ValueError, TypeError), match=f"{name}="):
        UniPC(2)(VE, DATA.score(VE), (3, 2), **{name: value})


@pytest.mark.parametrize("shape", [(True, 2), "32", 3, (3.0, 2), None, ()])
def test_shapes_are_named(shape):
    with pytest.raises(ValueError, match="shape="):
        UniPC(2)(VE, DATA.score(VE), shape)


def test_samples_outside_the_range_of_float16_raise_an_error():
    far = GaussianMixture(torch.tensor([[1e5, 0.0]]), 1.0)
    with pytest.raises(FloatingPointError, match="3 of 3 samples are not finite"):
        UniPC(20)(VE, lambda x, t: far.score(VE)(x.double(), t.double()), (3, 2), dtype=torch.float16)
