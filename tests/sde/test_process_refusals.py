"""Invalid arguments of VP, sub-VP and VE raise errors that name the argument."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde.sde import VESDE, VPSDE, SubVPSDE
from tests.sde.processes import DEFAULTS

T_METHODS = {
    "alpha": lambda sde, t: sde.alpha(t),
    "sigma": lambda sde, t: sde.sigma(t),
    "diffusion": lambda sde, t: sde.diffusion(t),
    "kernel": lambda sde, t: sde.kernel(t),
    "drift": lambda sde, t: sde.drift(torch.ones(3, 2), t),
    "marginal": lambda sde, t: sde.marginal(torch.ones(3, 2), t),
    "perturb": lambda sde, t: sde.perturb(torch.ones(3, 2), t, torch.ones(3, 2)),
    "reverse_drift": lambda sde, t: sde.reverse_drift(torch.ones(3, 2), t, torch.ones(3, 2)),
    "flow_drift": lambda sde, t: sde.flow_drift(torch.ones(3, 2), t, torch.ones(3, 2)),
    "posterior": lambda sde, t: sde.posterior(torch.ones(3, 2), torch.ones(3, 2), 0.5 * t, t),
    "noise_from_score": lambda sde, t: sde.noise_from_score(torch.ones(3, 2), t, torch.ones(3, 2)),
    "score_from_data": lambda sde, t: sde.score_from_data(torch.ones(3, 2), t, torch.ones(3, 2)),
    "transition": lambda sde, t: sde.transition(torch.tensor(0.0), t),
    "chain index": lambda sde, t: sde.discretize(100).index(t),
    "chain step": lambda sde, t: sde.discretize(100).step(t),
}


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("method", T_METHODS)
def test_times_out_of_range_are_refused(method, name):
    """Times outside [0, T] raise ValueError, and so does NaN."""
    call, sde = T_METHODS[method], DEFAULTS[name]
    call(sde, torch.tensor([0.1, 0.2, 1.0]))
    call(sde, torch.tensor([0.1, 0.2, 1.0000001]))  # the end of a grid after rounding to float32
    for bad in (-0.01, 1.001, 999.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="give times in"):
            call(sde, torch.tensor([0.1, bad, 0.2]))


@pytest.mark.parametrize("shape", [(2,), (4,), (1,), (3, 1), (1, 3)])
@pytest.mark.parametrize("method", ["drift", "marginal", "perturb", "reverse_drift", "flow_drift"])
def test_misshapen_times_are_refused(method, shape):
    with pytest.raises(ValueError, match="give shape"):
        T_METHODS[method](VPSDE(), torch.full(shape, 0.5))


def test_just_below_0_nothing_turns_negative():
    """Times slightly below 0 are allowed for rounding, and must not give a negative standard deviation."""
    t = torch.tensor(-5e-7)
    for sde in DEFAULTS.values():
        assert float(sde.sigma(t)) >= 0.0 and float(sde.diffusion(t)) >= 0.0, sde


def test_a_transition_back_in_time_is_refused():
    """s > t has no kernel and raises ValueError; a standard deviation of 0 would be wrong."""
    for sde in DEFAULTS.values():
        with pytest.raises(ValueError):
            sde.transition(torch.tensor(0.9), torch.tensor(0.1))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, "1", None, True])
@pytest.mark.parametrize("field", ["beta_min", "beta_max", "sigma_min", "sigma_max"])
def test_bad_parameters_are_named(field, bad):
    for kind in (VESDE,) if field.startswith("sigma") else (VPSDE, SubVPSDE):
        with pytest.raises(ValueError, match=f"{field}={bad!r} is not allowed"):
            kind(**{field: bad})


def test_a_sigma_max_below_sigma_min_is_refused():
    with pytest.raises(ValueError, match=r"sigma_max=0\.5 is not allowed: give a finite number > 1\.0"):
        VESDE(1.0, 0.5)


@pytest.mark.parametrize("steps", [1, 0, -3, 2.5, True, "10"])
@pytest.mark.parametrize("name", DEFAULTS)
def test_bad_numbers_of_steps_are_named(name, steps):
    with pytest.raises(ValueError, match="steps="):
        DEFAULTS[name].discretize(steps)


@pytest.mark.parametrize("sde", [VPSDE(0.1, 20.0), VPSDE(20.0, 0.1)], ids=repr)
def test_a_chain_whose_beta_reaches_1_is_refused(sde):
    with pytest.raises(ValueError, match="steps=20 is too few"):
        sde.discretize(20)


@pytest.mark.parametrize(("x", "error"), [(torch.ones(3, dtype=torch.int64), TypeError), ([1.0], TypeError)])
def test_data_that_is_no_floating_point_tensor_is_refused(x, error):
    for call in (VPSDE().drift, VPSDE().marginal):
        with pytest.raises(error, match=r"floating-point|torch\.Tensor"):
            call(x, torch.tensor(0.5))
    with pytest.raises(ValueError, match=r"shape \(\)"):
        VPSDE().drift(torch.tensor(1.0), torch.tensor(0.5))
