"""The cost of a step besides the network: operations, synchronizations, functions on the call path; devices of tensors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from scoresde.noise import NoiseSource
from scoresde.samplers import PredictorCorrector
from scoresde.samplers.base import CountedScore
from scoresde.sde import VPSDE

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks import hops
from benchmarks.operations import SAMPLERS, of_step
from tests.counting import counted

MOST = {
    "Euler-Maruyama": 8,
    "reverse diffusion": 7,
    "ancestral": 7,
    "predictor-corrector": 24,
    "Langevin": 18,
    "DDIM": 8,
    "DPM-Solver++(2M)": 7,
    "SDE-DPM-Solver++(2M)": 8,
    "UniPC": 10,
    "EDM's Heun": 9,
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_operations(name):
    """Operations of a step without the score, none of which waits for the device, and of the set-up without the generator."""
    step, waits, setup, _ = of_step(name, 16, 20)
    assert step <= MOST[name]
    assert waits == 0
    assert setup <= 300


@pytest.mark.parametrize("name", ["Euler-Maruyama", "predictor-corrector", "DDIM"])
def test_draws_before_the_first_step(name):
    """The generator is evaluated once for the start and once for the noise of all steps, of predictor and corrector together."""
    one = counted(lambda: NoiseSource.of(0, 4).normal((3, 8, 8), step=0, purpose="one", dtype=torch.float32)).operations
    evaluations = (of_step(name, 16, 20, drawn=True)[2] - of_step(name, 16, 20)[2]) / one
    assert abs(evaluations - (1 if name == "DDIM" else 2)) < 0.2


@pytest.mark.parametrize("name", hops.methods(2))
def test_functions_between_the_call_and_the_update(name):
    path = hops.trace(hops.methods(2)[name]).path(hops.trace(hops.methods(4)[name]))
    assert 5 < len(path) <= 20, sorted(path)
    files = 5 if name in ("predictor-corrector", "UniPC") else 4
    assert len({file for file, _ in path}) <= files, sorted(path)


@pytest.mark.parametrize("name", SAMPLERS)
def test_tensors_stay_on_the_device_of_the_state(name):
    """On the device ``meta``, operations with CPU tensors fail, and so does reading a value."""
    x, noise, seen = torch.empty(3, 2, device="meta"), NoiseSource.of(0, 3, device="meta"), []

    def score(x, t):
        assert t.device.type == "meta" and t.shape == (3,)
        return -x * t[:, None]

    sampler, counted = SAMPLERS[name](6), CountedScore(score, 3, torch.float32)
    state, times = sampler.run(VPSDE(), counted, x, noise, lambda k, t, x: seen.extend((t, x)))
    assert all(value.device.type == "meta" for value in (state, *seen))
    assert times.device.type == "cpu" and len(times) == 7


def test_a_step_that_waits_is_detected():
    """Planted error."""

    class Waiting(PredictorCorrector):
        def step(self, model, x, interval, z, past):
            float(x.sum())
            return super().step(model, x, interval, z, past)

    SAMPLERS["planted"] = lambda n: Waiting(steps=n)
    try:
        assert of_step("planted", 4, 8)[1] == 1
    finally:
        del SAMPLERS["planted"]
