"""parity/sdes.npz: drifts, diffusions, marginals, priors, reverse processes and discretized steps."""

from __future__ import annotations

import pytest
import torch

from scoresde.noise import NoiseSource

from .common import SDES, arrays, deviation, make_sde, tensor

DATA = arrays("sdes")
QUANTITIES = ["drift", "diffusion", "marginal_mean", "marginal_std", "prior_logp", "reverse_drift", "pflow_drift"]


def score(x, t):
    return -x * (1 + t.reshape(-1, 1, 1, 1))


def quantities(sde, x, t):
    mean, std = sde.marginal(x, t)
    return {
        "drift": sde.drift(x, t),
        "diffusion": sde.diffusion(t),
        "marginal_mean": mean,
        "marginal_std": std,
        "prior_logp": sde.prior_log_prob(x),
        "reverse_drift": sde.reverse_drift(x, t, score(x, t)),
        "reverse_diffusion": sde.diffusion(t),
        "pflow_drift": sde.flow_drift(x, t, score(x, t)),
    }


@pytest.mark.parametrize("name", SDES)
def test_float64_agrees_to_1e11(name, worst):
    x, t = tensor(DATA["x"], torch.float64), tensor(DATA["t_float64"])
    for key, ours in quantities(make_sde(**SDES[name]), x, t).items():
        assert ours.dtype == torch.float64
        # relative to the largest: at t = 1e-5 the reference's 1 - exp(.) cancels in float64 too, by 2e-11 of the value;
        # tests/sde/test_processes.py holds small t against 50 digits
        error = deviation(ours, DATA[f"{name}/{key}_f64"])
        worst("sdes float64", error)
        assert error < 1e-11, key


@pytest.mark.parametrize("name", SDES)
def test_float32_agrees_to_1e6_of_the_float64_truth(name, worst):
    """Against the float64 values at the same float32 times: where the reference's float32 cancels, ours must not."""
    x, t = tensor(DATA["x"]), tensor(DATA["t"])
    sde = make_sde(**SDES[name])
    exact = quantities(sde, x.double(), t.double())
    for key, ours in quantities(sde, x, t).items():
        assert ours.dtype == torch.float32
        if key.endswith("drift"):  # a difference of two terms: relative to the largest
            error = deviation(ours, exact[key].numpy())
        else:  # element by element, the smallest times too
            error = float(((ours - exact[key]).abs() / exact[key].abs().clamp(min=1e-30)).max())
        worst("sdes float32 against float64", error)
        # VE raises a ratio of 34800 to the power t: ln(34800) = 10 times the rounding of t
        assert error < (2e-6 if name.startswith("ve") else 1e-6), key


@pytest.mark.parametrize("name", SDES)
def test_float32_agrees_with_the_reference_where_it_does_not_cancel(name, worst):
    x, t = tensor(DATA["x"]), tensor(DATA["t"])
    late = t >= 0.01
    for key, ours in quantities(make_sde(**SDES[name]), x, t).items():
        theirs = DATA[f"{name}/{key}"]
        if theirs.ndim:
            error = deviation(ours[late], theirs[late.numpy()])
            worst("sdes float32 against the reference, t >= 0.01", error)
            assert error < 1e-5, key


@pytest.mark.parametrize("name", SDES)
def test_discretised_steps(name, worst):
    spec = SDES[name]
    sde = make_sde(**spec)
    chain = sde.discretize(spec["N"])
    x, t = tensor(DATA["x"]), tensor(DATA["t"])
    kernel = chain.step(t).to(x)
    f, g = kernel.mean(x) - x, kernel.std
    s = score(x, t)
    found = {
        "disc_f": f,
        "disc_G": g,
        "reverse_disc_f": f - kernel.covariance(s),
        "reverse_disc_G": g,
        "pflow_disc_f": f - 0.5 * kernel.covariance(s),
    }
    assert torch.equal(chain.index(t), tensor(DATA[f"{name}/disc_index"]))
    for key, ours in found.items():
        if key == "disc_G" and name == "subvp":
            # the reference's g cancels at t = 1e-5: compare with its float64 value there
            exact = tensor(DATA[f"{name}/diffusion_f64"]) / spec["N"] ** 0.5
            assert torch.allclose(ours.double(), exact, rtol=1e-6)
            continue
        if DATA[f"{name}/disc_f"].any() or key != "disc_f":
            error = deviation(ours, DATA[f"{name}/{key}"])
            worst("sdes discretized steps", error)
            # in float32 the reference's sigma_i^2 - sigma_(i-1)^2 keeps a hundredth of its terms for ve348
            assert error < (2e-5 if name == "ve348" else 1e-5), key


@pytest.mark.parametrize("name", ["vp", "ve50", "ve348"])
def test_tables(name, worst):
    spec = SDES[name]
    chain = make_sde(**spec).discretize(spec["N"])
    if spec["kind"] == "vp":
        found = {
            "discrete_betas": chain.step_std**2,
            "alphas": chain.step_a**2,
            "alphas_cumprod": chain.alphas**2,
            "sqrt_alphas_cumprod": chain.alphas,
            "sqrt_1m_alphas_cumprod": chain.sigmas,
        }
    else:
        found = {"discrete_sigmas": chain.sigmas}
    for key, ours in found.items():
        error = deviation(ours, DATA[f"{name}/{key}"])
        worst("sdes tables", error)
        assert error < 1e-6 * (10 if key == "sqrt_1m_alphas_cumprod" else 1), key


class Replay(NoiseSource):
    """A noise source that hands out one given array."""

    def normal(self, event_shape, *, step, purpose, dtype):
        return tensor(DATA["prior_noise"], dtype)


@pytest.mark.parametrize("name", SDES)
def test_prior_sample(name):
    sde = make_sde(**SDES[name])
    ours = sde.prior_sample((2, 3, 4, 4), noise=Replay(0, torch.arange(2)))
    assert torch.equal(ours, tensor(DATA[f"{name}/prior_sample"]))
