"""Markov chains of DDPM and SMLD, and their continuous-time limit."""

from __future__ import annotations

import mpmath as mp
import pytest
import torch

from scoresde.sde import VESDE, VPSDE, EulerChain, SubVPSDE
from tests.sde.processes import DEFAULTS, composed, near, relative, scalar


def test_ddpm_tables_by_their_definition():
    """Ho et al. 2020, section 2: beta_i linear, alpha_bar their product, in 50 digits."""
    chain = VPSDE().discretize(1000)
    with mp.workdps(50):
        product = mp.mpf(1)
        for i in range(1000):
            beta = (mp.mpf("0.1") + (mp.mpf(20) - mp.mpf("0.1")) * i / 999) / 1000
            product *= 1 - beta
            wanted = (mp.sqrt(1 - beta), mp.sqrt(beta), mp.sqrt(product), mp.sqrt(1 - product))
            found = (chain.step_a[i], chain.step_std[i], chain.alphas[i], chain.sigmas[i])
            # each beta is rounded, and the product has a thousand factors
            assert max(map(relative, found, wanted)) < 1e-13


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_a_chain_s_marginals_are_its_steps_composed(name):
    chain = DEFAULTS[name].discretize(1000)
    t = chain.time(torch.arange(1000))
    alpha, sigma = composed(chain)
    assert near(chain.alpha(t), alpha, 1e-11) and near(chain.sigma(t), sigma, 1e-11)


@pytest.mark.parametrize("name", DEFAULTS)
def test_chains_converge_to_their_process_as_1_over_n(name):
    """Twice the steps give half the error, at t in [1/2, 1]. The marginals of VE agree for every N, its steps do not."""
    sde = DEFAULTS[name]
    errors = []
    for steps in (1001, 2001, 4001):
        chain = sde.discretize(steps)
        t = chain.time(torch.arange(steps))
        alpha, sigma = composed(chain)
        late = t >= 0.5
        if name == "ve":
            assert near(sigma, sde.sigma(t), 1e-12)
            rate = chain.step(t).std[late] ** 2 * steps
            errors.append(float((rate / sde.diffusion(t[late]) ** 2 - 1).abs().max()))
        else:
            off = (alpha / sde.alpha(t) - 1).abs() + (sigma / sde.sigma(t) - 1).abs()
            errors.append(float(off[late].max()))
    assert errors[0] < 0.1
    assert errors[0] / errors[1] == pytest.approx(2.0, abs=0.15)
    assert errors[1] / errors[2] == pytest.approx(2.0, abs=0.08)


def test_drift_diffusion_and_prior_of_a_chain_are_those_of_its_process():
    for sde in DEFAULTS.values():
        chain, t = sde.discretize(100), scalar([0.2, 0.7])
        assert chain.continuous is sde and chain.steps == 100 and sde.continuous is sde
        assert chain.discretize(100) is chain and chain.discretize(50).steps == 50
        assert torch.equal(chain.drift_coefficient(t), sde.drift_coefficient(t))
        assert torch.equal(chain.diffusion(t), sde.diffusion(t))
        assert chain.prior_std() == sde.prior_std()
    assert isinstance(SubVPSDE().discretize(10), EulerChain)


@pytest.mark.parametrize("steps", [2, 3, 1000, 2000])
def test_index_and_time_of_a_chain(steps):
    chain = VESDE().discretize(steps)
    index = torch.arange(steps)
    assert torch.equal(chain.index(chain.time(index)), index)
    assert torch.equal(chain.index(chain.time(index).float()), index)
    # between two instants the index is that of the earlier one
    assert torch.equal(chain.index((index[:-1] + 0.99) / (steps - 1)), index[:-1])


@pytest.mark.parametrize("steps", [4000, 10000])
def test_index_of_a_long_chain_in_float32(steps):
    """t (N - 1) of a float32 t has an error of up to 3e-8 N. The index must be right for these N too."""
    chain = VESDE().discretize(steps)
    index = torch.arange(steps)
    assert torch.equal(chain.index(chain.time(index).float()), index)
