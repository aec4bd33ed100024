"""parity/likelihood.npz: log-densities and bits/dim of two known distributions under three processes, by SciPy's RK45."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from scoresde.data import Quantized
from scoresde.distributions import GaussianMixture
from scoresde.likelihood import Hutchinson, bits_per_dim, log_likelihood
from scoresde.noise import NoiseSource
from scoresde.solvers import ScipyODE

from .common import arrays, make_sde, tensor

DATA = arrays("likelihood")
SDES = json.loads(str(DATA["sde_params"]))
DISTRIBUTIONS = ("gauss", "mix3")


class GivenProbe(NoiseSource):
    """Hands out the reference's Hutchinson noise."""

    def __init__(self, probe):
        super().__init__(0, torch.arange(len(probe)))
        object.__setattr__(self, "probe", probe)

    def rademacher(self, event_shape, *, step, purpose, dtype):
        return self.probe.to(dtype)

    normal = rademacher


def distribution(name):
    means, stds = tensor(DATA[f"{name}/means"]), tensor(DATA[f"{name}/stds"])
    return GaussianMixture(means.reshape(-1, 3, 4, 4), stds, tensor(DATA[f"{name}/weights"]))


@pytest.mark.covering
@pytest.mark.parametrize("probe", ["Rademacher", "Gaussian"])
@pytest.mark.parametrize("sde_name", SDES)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_likelihood(name, sde_name, probe, worst):
    key = f"{name}/{sde_name}/{probe}"
    sde, x = make_sde(**SDES[sde_name]), tensor(DATA[f"{name}/x"])
    noise = GivenProbe(tensor(DATA[f"hutchinson/{probe}"]))
    result = log_likelihood(
        sde, distribution(name).score(sde), x, solver=ScipyODE(), divergence=Hutchinson(probe.lower()), noise=noise
    )
    # the reference's Rademacher runs are of centered data ([-1, 1]), its Gaussian ones of data in [0, 1]
    transform = Quantized(256, -1.0, 1.0) if probe == "Rademacher" else Quantized(256, 0.0, 1.0)
    bpd = bits_per_dim(result.log_prob, x.shape[1:], transform)
    error = float((bpd / tensor(DATA[f"{key}/bpd"]) - 1).abs().max())
    worst("likelihood bits/dim", error)
    assert error < 5e-6
    error = float((result.log_prob - tensor(DATA[f"{key}/log_prob"])).abs().max())
    worst("likelihood log_prob, nats", error)
    assert error < 1e-3
    latent = tensor(DATA[f"{key}/z"])
    error = float((result.latent - latent).abs().max() / latent.abs().max())
    worst("likelihood latent", error)
    assert error < 1e-4
    assert torch.allclose(result.prior_log_prob, tensor(DATA[f"{key}/prior_logp_z"]).double(), rtol=1e-4)
    if (name, sde_name) != ("gauss", "vp"):  # there the drift is zero up to rounding
        assert abs(result.nfe - int(DATA[f"{key}/nfe"])) <= 12


@pytest.mark.parametrize("sde_name", SDES)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_closed_forms_agree(name, sde_name, worst):
    sde, x, mixture = make_sde(**SDES[sde_name]), tensor(DATA[f"{name}/x"], torch.float64), distribution(name)
    found = {
        "logp_t0_exact": mixture.log_prob(x),
        "logp_eps_exact": mixture.log_prob_at(sde, x, torch.tensor(1e-5, dtype=torch.float64)),
    }
    for key, ours in found.items():
        theirs = DATA[f"{name}/{sde_name}/{key}"]
        worst("likelihood closed forms", float(np.abs(ours.numpy() - theirs).max()))
        assert np.allclose(ours.numpy(), theirs, rtol=1e-9)
