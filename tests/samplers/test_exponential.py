"""Exponential integrators: coefficients in closed form, strong and weak orders of convergence, all linear processes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from scoresde.distributions import GaussianMixture
from scoresde.noise import NoiseSource
from scoresde.samplers import DEIS, EDM, DPMSolverPlusPlus, ReferenceDiscretization, UniPC, check, grids
from scoresde.samplers.exponential import (
    Churn,
    DataParameterization,
    DPMSolverSingleStep,
    ExponentialMultistep,
    ExponentialRungeKutta,
    NoiseParameterization,
    Whitened,
    noise_to_signal,
)
from scoresde.samplers.exponential.coefficients import Intervals, Nodes
from scoresde.sde import VESDE, VPSDE, BlurringSDE, CriticallyDampedLangevin, MatrixSDE, NonlinearSDE, Shifted, SubVPSDE
from scoresde.sde.linalg.basis import fourier
from tests.params import some_long
from tests.samplers.orders import SDES, STRONG, T_MIN, WEAK, mixture, on, path_errors, quiet, slope, weak_errors

# --- coefficients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("eta", [0.0, 1.0, 0.6])
def test_first_order_weights_are_the_closed_forms(eta, steps):
    """Compare propagator, weight and noise scale with the closed forms for data and noise, over 10 units of u."""
    sde, one = VESDE(1e-3, 50.0), torch.ones(steps, 1, dtype=torch.bool)
    grid = Nodes.at(sde, sde.time_of_log_noise(torch.linspace(3.8, -6.2, steps + 1, dtype=torch.float64)))
    a, b = grid.u[:-1], grid.u[1:]
    h = a - b
    exact = {
        DataParameterization(): (
            torch.exp(-(1 + eta**2) * h), -torch.expm1(-(1 + eta**2) * h), b.exp() * (-torch.expm1(-2 * eta**2 * h)).sqrt()
        ),
        NoiseParameterization(): (1 + 0 * h, (1 + eta**2) * (b.exp() - a.exp()), eta * ((2 * a).exp() - (2 * b).exp()).sqrt()),
    }  # fmt: skip
    for parameterization, wanted in exact.items():
        rule = Intervals.of(sde, parameterization, eta, grid[:-1], grid[1:]).rule([grid[:-1]], one, a)
        found = [rule.propagator, [w[0] for w in rule.weights], rule.noise_scale or [0.0] * steps]
        for value, right in zip(found, wanted, strict=True):
            assert torch.allclose(torch.tensor(value, dtype=torch.float64), right, rtol=1e-10, atol=0.0)


def test_edm_is_heuns_method():
    """Compare with algorithm 1 of Karras et al. on a process with alpha = 1."""
    sde, distribution = VESDE(0.05, 5.0), mixture()
    score = distribution.score(sde)
    times = grids.karras(sde, 9, T_MIN)
    start = sde.prior_sample((4, 2), seed=3, dtype=torch.float64)
    x = start
    for t, s in pairwise(times):
        width = sde.sigma(s) - sde.sigma(t)
        first = -sde.sigma(t) * score(x, t.expand(4))
        second = -sde.sigma(s) * score(x + width * first, s.expand(4))
        x = x + 0.5 * width * (first + second)
    found = EDM(times, denoise=False)(sde, score, (4, 2), start=start)
    assert torch.allclose(found.samples, x, rtol=1e-12, atol=1e-12)
    assert found.nfe == 18


def test_first_order_methods_for_data_and_noise_are_equal():
    sde, score = SDES["subvp"], mixture().score(SDES["subvp"])
    found = [
        ExponentialMultistep(on(10), 1, parameterization)(sde, score, (5, 2), seed=1, dtype=torch.float64).samples
        for parameterization in (
            DataParameterization(),
            NoiseParameterization(),
            NoiseParameterization(noise_to_signal),
        )
    ]
    assert torch.allclose(found[0], found[1], rtol=1e-11) and torch.allclose(found[0], found[2], rtol=1e-11)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_whitened_is_exact_for_gaussian_data_in_one_step(eta):
    for sde in (*SDES.values(), CriticallyDampedLangevin()):
        state = sde.state_shape((1,))
        kernel = sde.kernel(torch.tensor(sde.T, dtype=torch.float64))

        def score(x, t, sde=sde):
            s = Whitened(data_std=0.7).covariance(sde, t[:1].double())
            return -s.inverse()(x)

        start = kernel.scale(torch.ones(1, *state, dtype=torch.float64))
        runs = [
            ExponentialMultistep(on(n), 1, Whitened(data_std=0.7), eta, denoise=False)(
                sde, score, (1, 1), start=start, noise=Silent.of(0, 1)
            ).state
            for n in (1, 4)
        ]
        assert torch.allclose(runs[0], runs[1], rtol=1e-6, atol=1e-9), sde


class Silent(NoiseSource):
    """Zeros in place of noise."""

    def normal(self, event_shape, *, step, purpose, dtype):
        return torch.zeros(1, *event_shape, dtype=dtype)


# --- orders -------------------------------------------------------------------------------------------------------


@pytest.mark.covering
@pytest.mark.parametrize("method", STRONG)
@pytest.mark.parametrize("name", SDES)
def test_strong_order(name, method):
    make, order = STRONG[method]
    found = slope(path_errors(make, SDES[name]))
    assert found > order - 0.35, found


def test_methods_of_lower_order_have_a_lower_slope():
    """Planted error: methods whose order is lower by one."""
    for name, sde in SDES.items():
        assert slope(path_errors(STRONG["DPM-Solver++(2M)"][0], sde)) < 2.75, name
        assert slope(path_errors(STRONG["DDIM"][0], sde)) < 1.75, name


def test_half_a_second_difference_is_second_order(monkeypatch):
    """Planted error: a third-order method with half of its second-difference term has order 2."""
    rule = Intervals.rule

    def halved(self, nodes, used, like):
        made = rule(self, nodes, used, like)
        if len(nodes) < 3:
            return made
        weights = [[a - 0.5 * c, b + c, 0.5 * c] for a, b, c in made.weights]
        return replace(made, weights=weights)

    monkeypatch.setattr(Intervals, "rule", halved)
    assert 1.6 < slope(path_errors(STRONG["DPM-Solver++(3M)"][0], SDES["ve"])) < 2.5


@pytest.mark.covering
@pytest.mark.parametrize("method", WEAK)
@pytest.mark.parametrize("name", SDES)
def test_weak_order(name, method):
    make, order = WEAK[method]
    found = slope(weak_errors(make, SDES[name]))
    assert found > order - 0.35, found
    assert method != "SDE-DPM-Solver++(1)" or found < 1.5


@pytest.mark.covering
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("parameterization", [DataParameterization(), NoiseParameterization(), Whitened()], ids=repr)
@pytest.mark.parametrize(
    "name", ["langevin", "blurring", pytest.param("modes", marks=pytest.mark.long), "shifted", "moving"]
)
def test_any_linear_process(name, parameterization, eta):
    """Second-order convergence for blocks, modes, both together, and shifted processes."""
    basis = fourier((2,))
    rate = (3.0 + basis.frequencies().square().sum(0))[..., None, None]
    f, g = torch.tensor([[0.0, 4.0], [-1.0, -4.0]]).double(), torch.tensor([[0.0, 0.0], [0.0, 2.0**0.5]]).double()
    spread = torch.tensor([1.0, 0.25]).diag()
    sde, event = {
        "langevin": (CriticallyDampedLangevin(), (1,)),
        "blurring": (BlurringSDE((3,)), (3,)),
        "modes": (MatrixSDE(f * rate, g * rate.sqrt(), basis=basis, aux_std=0.1, prior_covariance=spread), (2,)),
        "shifted": (Shifted(SDES["vp"], torch.full((2,), 3.0)), (2,)),
        "moving": (Shifted(SDES["vp"], lambda t: torch.stack((t, 1.0 + t**2), -1)), (2,)),
    }[name]
    errors = weak_errors(quiet(ExponentialMultistep, 2, parameterization, eta), sde, (80, 160), event)
    assert errors[1] < 0.1 and slope(errors, (80, 160)) > 1.6, errors


# --- contract -----------------------------------------------------------------------------------------------------

CHECKED = {
    "2M": (DPMSolverPlusPlus, 2),
    "SDE 2M": (lambda n: DPMSolverPlusPlus(n, eta=1.0), 2),
    "UniPC": (UniPC, 3),
    "DEIS": (DEIS, 3),
    "2S": (DPMSolverSingleStep, 2),
    "EDM": (EDM, 2),
    "EDM, churned": (lambda n: EDM(n, churn=Churn(10.0)), 2),
}


@pytest.mark.parametrize("sampler", some_long(CHECKED, ["SDE 2M", "UniPC", "DEIS", "2S", "EDM"]))
def test_the_selfcheck_passes(sampler):
    make, order = CHECKED[sampler]
    report = check(make, VPSDE(), order=order, denoised=True, samples=500, counts=(10, 20, 40, 80, 160))
    assert report.passed, f"\n{report}"


@pytest.mark.long
@pytest.mark.parametrize("sampler", CHECKED)
@pytest.mark.parametrize("sde", [SubVPSDE(), VESDE(0.01, 10.0)], ids=repr)
def test_the_selfcheck_passes_elsewhere(sde, sampler):
    make, order = CHECKED[sampler]
    report = check(make, sde, order=order, denoised=True, samples=500, counts=(10, 20, 40, 80, 160))
    assert report.passed, f"\n{report}"


def test_number_of_evaluations():
    score = mixture().score(VPSDE())
    counts = {
        DPMSolverPlusPlus(7): 8,
        DPMSolverPlusPlus(7, denoise=False): 7,
        DPMSolverPlusPlus(7, 3): 9,
        UniPC(7): 8,
        EDM(7): 15,
        DPMSolverSingleStep(7, 3): 22,
    }
    for sampler, nfe in counts.items():
        assert sampler(VPSDE(), score, (2, 2)).nfe == nfe, sampler


def test_fixed_brownian_path():
    """On a fixed Brownian path, runs of 5, 10, 20 and 40 steps converge to one another; with independent noise they do not."""
    sde = SDES["vp"]
    score = mixture().score(sde)

    def apart(cell):
        runs = [
            ExponentialMultistep(on(n), 2, DataParameterization(), 1.0, cell=cell)(
                sde, score, (16, 2), seed=2, dtype=torch.float64
            ).samples
            for n in (5, 10, 20, 40)
        ]
        return [float((a - b).square().mean().sqrt()) for a, b in pairwise(runs)]

    coupled, free = apart(0.002), apart(None)
    assert coupled[2] < 0.5 * coupled[0] and coupled[2] < 0.2 * free[2]
    assert free[2] > 0.7 * free[0]


class TestRefusals:
    score = staticmethod(lambda x, t: -x)

    def test_no_noise_at_the_end(self):
        times = torch.linspace(1.0, 0.0, 5, dtype=torch.float64)
        with pytest.raises(ValueError, match="give a grid that ends at t_min > 0"):
            DPMSolverPlusPlus(times)(VPSDE(), self.score, (2, 2))

    def test_maps_that_do_not_commute(self):
        with pytest.raises(ValueError, match=r"eta=0\.5 .* do not commute: give 0 or 1"):
            DPMSolverPlusPlus(5, eta=0.5)(CriticallyDampedLangevin(), self.score, (2, 2))

    def test_churned_noise_that_would_grow(self):
        """Langevin diffusion: samples were 40 to 1e5 times too wide with noise prediction, and are right with ``Whitened``."""
        sde, distribution = CriticallyDampedLangevin(), GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), 0.5)
        for sampler in (
            EDM(18, churn=Churn(10.0)),
            ExponentialRungeKutta(30, parameterization=NoiseParameterization(), churn=Churn(2.0)),
        ):
            with pytest.raises(ValueError, match="do not commute: it is unstable, give ExponentialRungeKutta"):
                sampler(sde, self.score, (2, 2))
        right = ExponentialRungeKutta(18, 2, Whitened(data_std=0.4), heun=True, churn=Churn(10.0))
        samples = right(sde, distribution.score(sde), (500, 2), dtype=torch.float64).samples
        assert float(samples.std()) == pytest.approx(0.5, rel=0.1)  # known to 2 %
        assert (
            float(EDM(18)(sde, distribution.score(sde), (500, 2), dtype=torch.float64).samples.std()) > 5.0
        )  # as the docs say

    def test_process_without_kernel(self):
        sde = NonlinearSDE(VPSDE().drift, VPSDE().diffusion, steps=10)
        for sampler in (UniPC(5), EDM(5)):
            with pytest.raises(TypeError, match=f"no closed-form kernel, which {type(sampler).__name__} needs"):
                sampler(sde, self.score, (2, 2))

    def test_arguments(self):
        for make, words in (
            (lambda: ExponentialMultistep(5, order=5), "order=5"),
            (lambda: ExponentialMultistep(5, parameterization="data"), "give a Parameterization"),
            (lambda: ExponentialMultistep(5, eta=1.0, start_order=2), "start_order=2"),
            (lambda: ExponentialRungeKutta(5, 3, heun=True), "heun=True"),
            (lambda: UniPC(ReferenceDiscretization(5)), "give a whole number, a torch.Tensor"),
            (lambda: Churn(low=2.0, high=1.0), "high=1"),
        ):
            with pytest.raises((ValueError, TypeError), match=words):
                make()
