"""``ScoreModel``: the same score for every prediction, the network's inputs, and refusals. Also EMA.

The network of these tests has the exact score of a mixture and returns it in each of the four parameterizations.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from scoresde.distributions import GaussianMixture
from scoresde.ema import EMA
from scoresde.noise import NoiseSource
from scoresde.score import (
    PREDICTIONS,
    LogNoiseLabel,
    MixedPrediction,
    Prediction,
    ScoreModel,
    SigmaLabel,
    TimeLabel,
)
from scoresde.sde import VESDE, VPSDE, BlurringSDE, CriticallyDampedLangevin, MatrixSDE, Shifted, SubVPSDE
from tests.score_common import F32, F64, SHAPE, TIMES, Zero, normal

SDES = [VPSDE(), SubVPSDE(), VESDE()]


MIXTURE = GaussianMixture(torch.tensor([[[-1.0, 0.5, 2.0]], [[1.0, 1.0, -1.0]]]), torch.tensor([0.3, 0.6]))


class Knowing(nn.Module):
    """The exact posterior means of ``MIXTURE`` in the parameterization ``prediction``. It stores its inputs."""

    def __init__(self, sde, prediction):
        super().__init__()
        self.sde, self.prediction = sde, prediction

    def forward(self, x, label):
        self.x, self.label = x, label
        t = self.sde.time_of_log_noise(label)
        alpha, sigma = (c.reshape(-1, 1, 1) for c in (self.sde.alpha(t), self.sde.sigma(t)))
        score = MIXTURE.score(self.sde)(x, t)
        noise = -sigma * score
        data = (x - sigma * noise) / alpha
        return {"score": score, "noise": noise, "data": data, "velocity": alpha * noise - sigma * data}[self.prediction]


@pytest.mark.parametrize("sde", SDES, ids=repr)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_all_predictions_give_the_same_score(prediction, sde):
    model = ScoreModel(Knowing(sde, prediction), sde, prediction, data_std=None)
    x = normal()
    exact = MIXTURE.score(sde)(x, TIMES)
    # t comes back from its label to about 1e-14, and where sigma is small the data hides in the last digits of x
    assert torch.allclose(model(x, TIMES), exact, rtol=1e-8, atol=1e-10)
    assert torch.allclose(model.noise(x, TIMES), sde.noise_from_score(x, TIMES, exact), rtol=1e-8, atol=1e-10)
    data = sde.data_from_score(x, TIMES, exact)
    # through the score, the data at t = 1 of VP and sub-VP is a difference of terms 150 times its size
    assert torch.allclose(model.denoised(x, TIMES), data, rtol=1e-8, atol=1e-8)
    assert (
        torch.equal(model.denoised(x, TIMES), model.posterior(x, TIMES).mean)
        and model.posterior(x, TIMES).logits is None
    )
    velocity = sde.velocity_from_score(x, TIMES, exact)
    assert torch.allclose(model.velocity(x, TIMES), velocity, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_wrong_prediction_is_detected(prediction):
    """With another prediction for the same network, the score is wrong by far more than the tolerances above."""
    sde, x = VPSDE(), normal()
    for other in set(PREDICTIONS) - {prediction}:
        model = ScoreModel(Knowing(sde, other), sde, prediction, data_std=None)
        assert not torch.allclose(model(x, TIMES), MIXTURE.score(sde)(x, TIMES), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("sde", SDES, ids=repr)
@pytest.mark.parametrize(
    ("label", "wanted"),
    [
        (None, lambda sde, t: (sde.sigma(t) / sde.alpha(t)).log()),
        (LogNoiseLabel(), lambda sde, t: (sde.sigma(t) / sde.alpha(t)).log()),
        (TimeLabel(), lambda sde, t: 999 * t),
        (TimeLabel(10.0), lambda sde, t: 10 * t),
        (TimeLabel(10.0, descending=True), lambda sde, t: 10 * (1 - t)),
        (TimeLabel(10.0, descending=True, whole=True), lambda sde, t: torch.tensor([10, 9, 7, 3, 0], dtype=F64)),
        (SigmaLabel(), lambda sde, t: sde.sigma(t)),
        (lambda sde, t: t**2, lambda sde, t: t**2),
    ],
)
def test_labels(label, wanted, sde):
    model = ScoreModel(Zero(), sde, label=label)
    model(normal(), TIMES)
    assert model.network.label.shape == TIMES.shape
    assert torch.allclose(model.network.label, wanted(sde, TIMES), rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("sde", SDES, ids=repr)
@pytest.mark.parametrize("data_std", [1.0, 0.25, None])
def test_the_input_of_the_network_has_unit_variance(data_std, sde):
    """x / sqrt(alpha^2 data_std^2 + sigma^2); x itself for None, and for VP with data_std = 1."""
    model, x = ScoreModel(Zero(), sde, data_std=data_std), normal()
    model(x, TIMES)
    if data_std is None:
        assert model.network.x is x
        return
    scale = (sde.alpha(TIMES) ** 2 * data_std**2 + sde.sigma(TIMES) ** 2).sqrt().reshape(-1, 1, 1)
    assert torch.allclose(model.network.x, x / scale, rtol=1e-13)
    same = torch.allclose(model.network.x, x, rtol=1e-13)
    assert same == (isinstance(sde, VPSDE) and data_std == 1.0)


@pytest.mark.parametrize(
    "sde",
    [
        Shifted(VPSDE(), torch.full((3,), 30.0, dtype=F64)),
        Shifted(CriticallyDampedLangevin(), lambda t: 30.0 * (1.0 + t[:, None] * torch.ones(3, dtype=F64))),
        MatrixSDE(-torch.eye(1, dtype=F64), torch.eye(1, dtype=F64), shift=torch.tensor([30.0], dtype=F64)),
    ],
    ids=repr,
)
def test_the_input_of_the_network_has_no_shift(sde):
    """Data N(0, 1/4) under processes that move it by 10 to 60: mean 0 and standard deviation 1, within 5 standard errors."""
    model, n = ScoreModel(Zero(), sde, data_std=0.5), 2000
    x0 = 0.5 * NoiseSource.of(0, n).normal((3,), step=0, purpose="x0", dtype=F64)
    t = torch.tensor([0.05, 0.5, 1.0], dtype=F64).repeat(n)[:n]
    model(sde.marginal_sample(x0, t, NoiseSource.of(1, n)), t)
    seen = model.network.x
    assert float(seen.mean(0).abs().max()) < 5.0 * 1.5 * n**-0.5
    assert float(seen.square().mean()) == pytest.approx(1.0, abs=0.1)


def test_a_condition_reaches_the_network():
    model, x = ScoreModel(Zero(), VPSDE()), normal()
    for call in (model, model.noise, model.denoised, model.velocity, model.posterior, model.output):
        model.network.condition = None
        call(x, TIMES, wanted=3)
        assert model.network.condition == {"wanted": 3}


def test_a_custom_prediction():
    class Half(Prediction):
        def score(self, sde, kernel, output, x):
            return 0.5 * output - x

    model, x = ScoreModel(Zero(), VPSDE(), Half()), normal()
    assert torch.equal(model(x, TIMES), -x)
    assert torch.allclose(model.denoised(x, TIMES), VPSDE().data_from_score(x, TIMES, -x))


def test_a_model_of_a_chain_uses_the_tables_of_the_chain():
    chain, x = VPSDE().discretize(1000), normal()
    t = chain.time(torch.tensor([0, 10, 500, 900, 999]))

    class One(nn.Module):
        def forward(self, x, label):
            return torch.ones_like(x)

    model = ScoreModel(One(), chain, "noise", label=TimeLabel(999.0), data_std=None)
    wanted = -1 / chain.sigmas[[0, 10, 500, 900, 999]].reshape(-1, 1, 1)
    assert torch.allclose(model(x, t), wanted.expand(SHAPE), rtol=1e-14)


# --- the mixed score ---------------------------------------------------------------------------------------------

_TURN = torch.tensor([[-1.0, 2.0, 0.0], [-2.0, -1.0, 1.0], [0.0, -1.0, -3.0]], dtype=F64)


LINEAR = {
    "vp": VPSDE(),
    "ve": VESDE(),
    "sub-vp": SubVPSDE(),
    "chain": VPSDE().discretize(1000),
    "langevin": CriticallyDampedLangevin(),
    "three fields, data in the second": MatrixSDE(_TURN, torch.eye(3), aux_std=(0.3, 0.6), data_component=1),
    "blurring": BlurringSDE((1, 3), blur=1.0),
    "shifted langevin": Shifted(CriticallyDampedLangevin(), torch.tensor([[0.5, -1.0, 2.0]], dtype=F64)),
    "shifted fields": MatrixSDE(_TURN, torch.eye(3), shift=torch.tensor([0.5, 1.0, -1.0])),
}


def noisy(sde, data_std, dtype):
    """States of Gaussian data at TIMES, of scales from sigma(t) up."""
    return sde.perturb(data_std * normal(), TIMES, normal((5, *sde.state_shape(SHAPE[1:])), "z")).to(dtype)


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-5), (F64, 1e-10)])
@pytest.mark.parametrize("data_std", [0.5, 1.0])
def test_a_zero_output_is_the_exact_score_of_gaussian_data(data_std, dtype, tolerance, name):
    """Relative to the norm of the score. A reference with another width is wrong by more than a percent."""
    sde, x, t = LINEAR[name], noisy(LINEAR[name], data_std, dtype), TIMES.to(dtype)
    exact = GaussianMixture(torch.zeros(1, *SHAPE[1:]), data_std).score(sde)(x.to(F64), t.to(F64))

    def error(std):
        off = ScoreModel(Zero(), sde, MixedPrediction(std))(x, t).to(F64) - exact
        return (off.flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).max()

    assert error(data_std) < tolerance
    assert error(1.1 * data_std) > 1e-2


@pytest.mark.parametrize("name", LINEAR)
def test_the_output_corrects_the_noise(name):
    """A network that returns the difference between a mixture's noise and the Gaussian's gives the mixture's score."""
    sde, x = LINEAR[name], noisy(LINEAR[name], 1.5, F64)
    exact = MIXTURE.score(sde)(x, TIMES)
    gaussian = ScoreModel(Zero(), sde, MixedPrediction(0.8))

    class Correction(nn.Module):
        def forward(self, scaled, label):
            return sde.noise_from_score(x, TIMES, exact) - gaussian.noise(x, TIMES)

    model = ScoreModel(Correction(), sde, MixedPrediction(0.8))
    assert torch.allclose(model(x, TIMES), exact, rtol=1e-9, atol=1e-9)
    data = sde.data_from_score(x, TIMES, exact)
    # at t = 1 the data is a difference of terms far larger than itself
    assert torch.allclose(model.denoised(x, TIMES)[:4], data[:4], rtol=1e-7, atol=1e-7)


def test_entry_44_the_velocity_is_corrected_in_units_of_l():
    """With v_0 at rest, gamma = 1, and unit data the Gaussian is stationary: s_v = -v / M - l output, l^2 = S_xx / det S."""
    sde = CriticallyDampedLangevin(mass=0.25, gamma=1.0)
    x = noisy(sde, 1.0, F64)

    class One(nn.Module):
        def forward(self, x, label):
            return torch.ones_like(x)

    s = torch.stack([sde.kernel(t).noise.m @ sde.kernel(t).noise.m.mT for t in TIMES])
    scale = (s[:, 0, 0] / (s[:, 0, 0] * s[:, 1, 1] - s[:, 0, 1] ** 2)).sqrt().reshape(-1, 1, 1)
    found = ScoreModel(One(), sde, MixedPrediction(1.0))(x, TIMES)
    assert torch.allclose(found[:, 1], -x[:, 1] / 0.25 - scale, rtol=1e-9)


@pytest.mark.parametrize("data_std", [0.0, -1.0, math.nan, math.inf, "1"])
def test_a_bad_width_of_the_reference_is_named(data_std):
    with pytest.raises(ValueError, match="data_std="):
        MixedPrediction(data_std)


# --- EMA ---------------------------------------------------------------------------------------------------------


class Counted(nn.Module):
    """A module with two weights, a table and a counter."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(2))
        self.register_buffer("table", torch.zeros(2))
        self.register_buffer("count", torch.tensor(0))


def set_all(module, value):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_the_average_by_its_formula(decay):
    """d = min(decay, (1 + n) / (10 + n)), n from 1, over 30 updates; the warm-up binds first, a decay of 0.5 then."""
    module = Counted()
    ema, wanted = EMA(module, decay), 0.0
    for n in range(1, 31):
        value = math.sin(n)
        set_all(module, value)
        ema.update(module)
        d = min(decay, (1 + n) / (10 + n))
        wanted = d * wanted + (1 - d) * value
        assert ema.updates == n
        assert ema.module.weight.tolist() == pytest.approx([wanted] * 3, abs=1e-6)
    assert (module.weight == torch.tensor(value)).all()  # the module itself is not touched


def test_the_average_is_a_copy_that_takes_no_gradient():
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    ema = EMA(module, 0.9)
    before = copy.deepcopy(ema.module.state_dict())
    set_all(module, 5.0)
    assert all(torch.equal(before[k], v) for k, v in ema.module.state_dict().items())
    assert not any(p.requires_grad for p in ema.module.parameters()) and all(
        p.requires_grad for p in module.parameters()
    )
    assert module.training and not ema.module.training
    ema.update(module)
    assert not torch.equal(before["0.weight"], ema.module.state_dict()["0.weight"])


def test_buffers_are_copied():
    module = Counted()
    ema = EMA(module, 0.999)
    module.table.copy_(torch.tensor([3.0, -1.0]))
    module.count.fill_(17)
    ema.update(module)
    assert ema.module.table.tolist() == [3.0, -1.0] and int(ema.module.count) == 17
    assert ema.module.table is not module.table


@pytest.mark.parametrize("decay", [1.0, 1.5, -0.1, math.nan, math.inf, "0.9", True])
def test_bad_decays_are_named(decay):
    with pytest.raises(ValueError, match="decay="):
        EMA(Counted(), decay)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_half_precision_are_averaged_in_float32(dtype):
    """After the warm-up an update changes an average by 1e-4 of the difference, less than the rounding of half precision."""
    module = nn.Linear(2, 1, bias=False).to(dtype)
    set_all(module, 1.0)
    ema = EMA(module, 0.9999)
    ema.updates = 10**6
    set_all(module, 2.0)
    for _ in range(1000):
        ema.update(module)
    wanted = 2.0 - 0.9999**1000
    assert ema.module.weight.dtype == torch.float32
    assert ema.module.weight.flatten().tolist() == pytest.approx([wanted] * 2, abs=1e-4)
    assert module.weight.dtype == dtype and 0.0 < ema.distance(module) < 1.0


def test_another_module_is_refused_and_nothing_changes():
    ema = EMA(Counted(), 0.9)
    before = copy.deepcopy(ema.module.state_dict())
    with pytest.raises(
        ValueError, match=r"parameters differ from the averaged ones in \['bias', 'weight', 'x.weight'\]"
    ):
        other = nn.Module()
        other.x = nn.Linear(2, 2, bias=False)
        ema.update(other)
    assert all(torch.equal(before[k], v) for k, v in ema.module.state_dict().items())
    assert ema.updates == 0


@pytest.mark.parametrize("lacks", ["another width", "a buffer"])
def test_a_module_of_other_shapes_or_buffers_is_refused(lacks):
    """The names of parameters and buffers must agree. An incomplete update must not happen."""
    module = Counted()
    ema = EMA(module, 0.9)
    set_all(module, 4.0)
    if lacks == "a buffer":
        del module.table
    else:
        module.bias = nn.Parameter(torch.full((7,), 4.0))
    before = copy.deepcopy(ema.module.state_dict())
    with pytest.raises(ValueError):
        ema.update(module)
    assert all(torch.equal(before[k], v) for k, v in ema.module.state_dict().items())
