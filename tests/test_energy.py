"""Energies: conservative scores, their derivatives, and their place in samplers, likelihoods and losses."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from scoresde import VPSDE, Exact, GaussianMixture, ScoreModel, log_likelihood
from scoresde.likelihood import Multistep
from scoresde.losses import DenoisingScoreMatching, ExplicitScoreMatching
from scoresde.networks import MLP, NCSNpp, SmallUNet
from scoresde.noise import NoiseSource
from scoresde.samplers import DDIM, EulerMaruyama, PredictorCorrector, UniPC
from scoresde.samplers.predictor_corrector import MALA
from scoresde.score import EnergyModel, ProductOfExperts
from scoresde.score.energy import energy_and_gradient
from scoresde.sde import VESDE, BlurringSDE, CriticallyDampedLangevin, Shifted

F64 = torch.float64


def normal(shape, purpose="x", dtype=F64):
    return NoiseSource.of(2, shape[0]).normal(shape[1:], step=0, purpose=purpose, dtype=dtype)


class Wave(nn.Module):
    """A smooth network with a Jacobian that is not symmetric, for any event shape and label."""

    def __init__(self, size: int, scale: float = 0.7) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.into = nn.Parameter(scale * torch.randn(size, 16, generator=generator, dtype=F64))
        self.out = nn.Parameter(scale * torch.randn(16, size, generator=generator, dtype=F64))

    def forward(self, x, label, shift=None):
        hidden = x.reshape(len(x), -1) @ self.into + label[:, None]
        hidden = hidden if shift is None else hidden + shift[:, None]
        return (hidden.sin() @ self.out).reshape(x.shape)


def jacobian(score, x, t):
    """(B, d, d)."""
    d = x[0].numel()
    rows = [
        torch.autograd.functional.jacobian(lambda y, i=i: score(y, t[i : i + 1]), x[i : i + 1]).reshape(d, d)
        for i in range(len(x))
    ]
    return torch.stack(rows)


def curl(score, x, t) -> float:
    """Largest difference of ds_i/dx_j and ds_j/dx_i, relative to the largest derivative."""
    j = jacobian(score, x, t)
    return float((j - j.mT).abs().max() / j.abs().max())


def test_an_energy_is_conservative_and_a_free_network_is_not():
    x, t = normal((3, 4)), torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    network = Wave(4)
    assert curl(EnergyModel(network, VPSDE()), x, t) < 1e-12
    assert curl(ScoreModel(network, VPSDE(), "noise"), x, t) > 1e-2


def test_in_single_precision_the_curl_is_rounding():
    torch.manual_seed(0)
    x, t = normal((3, 6), dtype=torch.float32), torch.tensor([0.1, 0.5, 0.9])
    network = MLP((6,), width=32, depth=2)
    for p in network.parameters():
        nn.init.normal_(p, std=0.3)
    assert curl(EnergyModel(network, VPSDE()), x, t) < 1e-5
    assert curl(ScoreModel(network, VPSDE(), "noise"), x, t) > 1e-2


SDES = [VPSDE(), VESDE(0.1, 5.0), BlurringSDE((2, 3)), Shifted(VPSDE(), torch.full((2, 3), 0.3, dtype=F64))]


@pytest.mark.parametrize("data_std", [0.5, None])
@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_the_score_is_the_negative_gradient(sde, data_std):
    """Against central differences of the energy, for matrix processes and shifts too, with and without a graph."""
    model = EnergyModel(Wave(6), sde, data_std=data_std)
    x, t, v, h = normal((3, 2, 3)), torch.tensor([0.2, 0.5, 0.9], dtype=F64), normal((3, 2, 3), "v"), 1e-5
    with torch.no_grad():
        score = model(x, t)
        slope = (model.energy(x + h * v, t) - model.energy(x - h * v, t)) / (2 * h)
    assert not score.requires_grad and model.energy(x, t).shape == (3,)
    assert torch.allclose((score * v).sum((1, 2)), -slope, rtol=1e-7)
    assert torch.allclose(model(x, t), score, rtol=1e-12) and model(x, t).requires_grad
    value, gradient = energy_and_gradient(model.energy, x, t)
    assert torch.allclose(gradient, -score, rtol=1e-12) and torch.equal(value, model.energy(x, t).detach())
    kernel = sde.kernel(t)
    assert torch.allclose(model.noise(x, t), kernel.noise_from_score(model(x, t)), rtol=1e-12)
    assert torch.allclose(model.denoised(x, t), kernel.data_from_score(x, model(x, t)), rtol=1e-12)


class Zero(nn.Module):
    def forward(self, x, label):
        return 0.0 * x


@pytest.mark.parametrize("event", [(), (3,), (1, 2, 2)])
def test_a_network_that_returns_zero_is_exact_for_gaussian_data(event):
    """Score, energy differences and log-likelihood of N(0, std^2)."""
    sde, std = VPSDE(), 0.4
    mixture = GaussianMixture(torch.zeros(1, max(1, math.prod(event))), std)
    model, exact = EnergyModel(Zero(), sde, data_std=std), mixture.score(sde)
    x, t = normal((4, *event)), torch.linspace(0.2, 0.9, 4, dtype=F64)
    flat = x.reshape(4, -1)
    assert torch.allclose(model(x, t).reshape(4, -1), exact(flat, t), rtol=1e-9)
    other = x.flip(0)
    difference = model.energy(x, t) - model.energy(other, t)
    assert torch.allclose(difference, exact.energy(flat, t) - exact.energy(other.reshape(4, -1), t), rtol=1e-9)
    found = log_likelihood(sde, model, std * x, divergence=Exact(), t_min=1e-4)
    assert torch.allclose(found.log_prob, mixture.log_prob(std * flat), atol=1e-3)


def test_the_output_that_is_exact_for_a_single_point():
    """x^ - (x - alpha x_0) / sigma, as the docstring says."""
    sde, point = VPSDE(), torch.tensor([0.3, -0.8], dtype=F64)

    class Exactly(nn.Module):
        def forward(self, x, label):
            alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
            return x - (x - alpha * point) / sigma

    x, t = normal((3, 2)), torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    model = EnergyModel(Exactly(), sde, data_std=1.0)  # for VP and data_std = 1, x^ = x
    wanted = -(x - sde.alpha(t)[:, None] * point) / sde.sigma(t)[:, None] ** 2
    assert torch.allclose(model(x, t), wanted, rtol=1e-9)


@pytest.mark.parametrize("objective", [DenoisingScoreMatching, ExplicitScoreMatching])
def test_training_differentiates_twice(objective):
    """The gradient of the loss in the parameters against central differences."""
    model, loss, x0 = EnergyModel(Wave(3), VPSDE()), objective(VPSDE()), normal((6, 3))
    loss(model, x0, step=0).mean().backward()
    h = 1e-5
    for p in model.parameters():
        v, ends = torch.sin(torch.arange(p.numel(), dtype=F64)).reshape(p.shape), []
        with torch.no_grad():
            for k in (1, -2, 1):
                p.add_(k * h * v)
                ends.append(float(loss(model, x0, step=0).mean()))
        assert float((p.grad * v).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5)


SMALL = {"channels": 8, "multipliers": (1, 2), "attention": (4,), "blocks": 1}
IMAGES = {
    "SmallUNet": lambda: SmallUNet((1, 8, 8), channels=16),
    "NCSNpp": lambda: NCSNpp((1, 8, 8), **SMALL),
    "NCSNpp, recomputed": lambda: NCSNpp((1, 8, 8), **SMALL, checkpoint=True),
}


@pytest.mark.parametrize("name", IMAGES)
def test_networks_with_attention_and_norms(name):
    """Second derivatives of a whole network: the gradient of the loss against central differences."""
    torch.manual_seed(0)
    model = EnergyModel(IMAGES[name](), VPSDE()).double()
    for p in model.parameters():
        p.data += 0.05 * torch.randn_like(p)
    loss, x0, t = DenoisingScoreMatching(VPSDE()), normal((2, 1, 8, 8)), torch.tensor([0.3, 0.6], dtype=F64)
    loss(model, x0, t=t, step=0).mean().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.requires_grad)
    p = max((p for p in model.parameters() if p.grad is not None), key=lambda p: float(p.grad.abs().max()))
    ends, h, v = [], 1e-6, p.grad.sign()
    with torch.no_grad():
        score = model(x0, t)
        for k in (1, -2, 1):
            p.add_(k * h * v)
            ends.append(float(loss(model, x0, t=t, step=0).mean()))
    assert float((p.grad * v).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-4)
    assert torch.allclose(model(x0, t), score, rtol=1e-9, atol=1e-12)


def test_the_likelihood_of_a_network_with_attention():
    """The default method for 64 coordinates, from second derivatives."""
    torch.manual_seed(0)
    model = EnergyModel(SmallUNet((1, 8, 8), channels=16), VPSDE())
    found = log_likelihood(VPSDE(), model, normal((2, 1, 8, 8), dtype=torch.float32), solver=Multistep(nodes=4))
    assert bool(torch.isfinite(found.log_prob).all())


@pytest.mark.parametrize("sampler", [DDIM(steps=6), EulerMaruyama(steps=6), UniPC(6)], ids=lambda s: type(s).__name__)
def test_samplers_use_it_as_any_score(sampler):
    """The same samples as from its score as a plain function."""
    model = EnergyModel(Wave(3, 0.3), VPSDE())
    one = sampler(VPSDE(), model, (4, 3), dtype=F64)
    two = sampler(VPSDE(), lambda x, t: model(x, t), (4, 3), dtype=F64)
    assert torch.allclose(one.samples, two.samples, rtol=1e-9, atol=1e-12) and not one.samples.requires_grad


def test_mala_uses_its_energy():
    """Detailed balance is tested in tests/samplers/test_correctors.py; here, that no evaluation is spent twice."""
    model, evaluations = EnergyModel(Wave(3, 0.3), VPSDE()), list[int]()
    model.network.register_forward_hook(lambda *_: evaluations.append(1))
    result = PredictorCorrector(None, MALA(0.1, steps=3), steps=4)(VPSDE(), model, (5, 3), dtype=F64)
    assert len(evaluations) == result.nfe == 4 * (3 + 1) and result.acceptance.shape == (12, 5)


def test_half_precision():
    """x in bfloat16: the score is float32 for a float32 t, near that of the float32 network."""
    torch.manual_seed(0)
    network = MLP((4,), width=16, depth=2)
    model = EnergyModel(network, VPSDE())
    x, t = normal((5, 4), dtype=torch.float32).bfloat16(), torch.linspace(0.2, 0.9, 5)
    wanted = model(x.float(), t)
    half = copy.deepcopy(model).to(torch.bfloat16)
    found = half(x, t)
    assert found.dtype == torch.float32 and torch.allclose(found, wanted, rtol=0.05, atol=0.05)


def test_weights_are_those_of_a_score_model():
    """A state dict moves between the two, so files of weights do too."""
    one, two = EnergyModel(Wave(3), VPSDE()), ScoreModel(Wave(3, 0.2), VPSDE())
    two.load_state_dict(one.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    again = copy.deepcopy(one)
    x, t = normal((2, 3)), torch.full((2,), 0.5, dtype=F64)
    assert torch.equal(again(x, t), one(x, t))


def test_conditions_reach_the_network():
    model = EnergyModel(Wave(3), VPSDE())
    x, t, shift = normal((2, 3)), torch.full((2,), 0.5, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    assert torch.allclose(model(x, t, shift=shift)[0], model(x, t)[0]) and not torch.allclose(
        model(x, t, shift=shift)[1], model(x, t)[1]
    )
    bound = model.given(shift=shift)
    assert isinstance(bound, EnergyModel)
    assert torch.equal(bound(x, t), model(x, t, shift=shift))
    assert torch.equal(bound.energy(x, t), model.energy(x, t, shift=shift))


def test_inference_mode_is_refused():
    model = EnergyModel(Wave(3), VPSDE())
    with torch.inference_mode(), pytest.raises(RuntimeError, match="no_grad"):
        model(torch.zeros(2, 3, dtype=F64), torch.full((2,), 0.5, dtype=F64))


def test_forward_mode_is_refused():
    with pytest.raises(RuntimeError, match="use forward=False"):
        log_likelihood(VPSDE(), EnergyModel(Wave(3), VPSDE()), normal((2, 3)), divergence=Exact(forward=True))


def test_a_network_of_another_output_is_refused():
    class Scalar(nn.Module):
        def forward(self, x, label):
            return x.sum(1, keepdim=True)

    with pytest.raises(ValueError, match=r"the network's output has shape \(2, 1\) for x of shape \(2, 3\)"):
        EnergyModel(Scalar(), VPSDE())(torch.zeros(2, 3), torch.full((2,), 0.5))


def test_a_state_with_velocities():
    """The energy of data and velocity."""
    sde = CriticallyDampedLangevin()
    model = EnergyModel(Wave(2), sde)
    x, t = normal((4, 2)), torch.full((4,), 0.5, dtype=F64)
    assert curl(model, x, t) < 1e-12 and model.energy(x, t).shape == (4,)


# --- products ------------------------------------------------------------------------------------------------------


def two_experts(sde):
    return [GaussianMixture([[mean]], std).score(sde) for mean, std in ((-1.0, 1.0), (1.0, 0.5))]


def test_a_product_of_gaussians():
    """N(-1, 1 + s^2)^w N(1, 1/4 + s^2) at the noise level s: precisions add, and its score is the gradient of its energy."""
    sde, x = VESDE(0.01, 5.0), normal((6, 1))
    t = torch.linspace(0.1, 0.9, 6, dtype=F64)
    product = ProductOfExperts(two_experts(sde), [2.0, 1.0])
    p, q = 2.0 / (1.0 + sde.sigma(t) ** 2), 1.0 / (0.25 + sde.sigma(t) ** 2)
    assert torch.allclose(product(x, t), (q - p - (p + q) * x[:, 0])[:, None], rtol=1e-12)
    assert torch.allclose(energy_and_gradient(product.energy, x, t)[1], -product(x, t), rtol=1e-9)


def test_mala_samples_the_product():
    """Mean and variance at sigma = 0.1, from a wide start; 20,000 samples, three standard errors."""
    sde, n, s2 = VESDE(0.01, 5.0), 20_000, 0.01
    t = math.log(10.0) / math.log(500.0)
    variance = 1.0 / (1.0 / (1.0 + s2) + 1.0 / (0.25 + s2))
    mean = variance * (1.0 / (0.25 + s2) - 1.0 / (1.0 + s2))
    sampler = PredictorCorrector(None, MALA(3.0, steps=40), steps=torch.tensor([t, t - 1e-6], dtype=F64))
    x = sampler(sde, ProductOfExperts(two_experts(sde)), (n, 1), start=2.0 * normal((n, 1)), seed=1).samples
    assert float(x.mean()) == pytest.approx(mean, abs=3 * math.sqrt(variance / n))
    assert float(x.var()) == pytest.approx(variance, rel=3 * math.sqrt(2 / n))


def test_a_product_with_conditions_is_divided_by_rows():
    model = EnergyModel(Wave(3), VPSDE())
    x, t, shift = normal((4, 3)), torch.full((4,), 0.5, dtype=F64), torch.arange(4, dtype=F64)
    product = ProductOfExperts([model.given(shift=shift), model])
    index = torch.tensor([2, 0])
    assert torch.allclose(product.select_rows(index)(x[index], t[index]), product(x, t)[index], rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "experts is empty"),
        (([lambda x, t: x], [1.0, 2.0]), "weights has 2 entries for 1 experts"),
        (([*two_experts(VPSDE()), *two_experts(VESDE())],), "the score was made for VESDE"),
    ],
)
def test_wrong_products_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ProductOfExperts(*arguments)


def test_a_product_without_energies_is_refused_by_mala():
    product = ProductOfExperts([lambda x, t: -x, *two_experts(VPSDE())])
    with pytest.raises(TypeError, match=r"experts\[0\]=.* has no energy\(x, t\)"):
        PredictorCorrector(None, MALA(), steps=3)(VPSDE(), product, (2, 1))


def test_conditions_of_a_sampler_reach_the_energy():
    """``condition=`` for a function with an energy."""

    class Shifted:
        def __call__(self, x, t, shift):
            return shift[:, None] - x

        def energy(self, x, t, shift):
            return 0.5 * ((x - shift[:, None]) ** 2).sum(1)

    shift = torch.tensor([0.0, 100.0])
    sampler = PredictorCorrector(None, MALA(0.3, steps=30), steps=20)
    x = sampler(VPSDE(), Shifted(), (2, 3), condition={"shift": shift}).samples
    assert (x - shift[:, None]).abs().max() < 6.0
