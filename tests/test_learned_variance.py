"""Score models that also predict the variance of x_0 given x_t, against the formulas of Nichol & Dhariwal."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from scoresde import Quantized, ScoreModel
from scoresde.networks import MLP
from scoresde.score import FreeVariance, GaussianVariance, InterpolatedVariance, LearnedVarianceModel
from scoresde.score.quantized import Levels
from scoresde.sde import VESDE, VPSDE, CosineVPSDE, CriticallyDampedLangevin, SubVPSDE
from tests.experiment.test_objectives import options
from tests.experiment.training import experiment

F64 = torch.float64


class Outputs(nn.Module):
    """A network whose outputs are a function of its input alone, with the variance's after the prediction's."""

    def __init__(self, layout: str = "last") -> None:
        super().__init__()
        self.layout = layout

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        parts = torch.sin(x), torch.cos(3.0 * x)
        return torch.stack(parts, -1) if self.layout == "last" else torch.cat(parts, 1)


def snr(sde, t: Tensor) -> Tensor:
    return (sde.alpha(t) / sde.sigma(t)) ** 2


@pytest.mark.parametrize("chosen", [range(1000), range(0, 1000, 37)], ids=["all", "a sub-sequence"])
@pytest.mark.parametrize("process", [VPSDE(), CosineVPSDE()], ids=repr)
def test_the_reverse_variance_is_the_interpolation_of_the_paper(process, chosen) -> None:
    """Betas of the chosen instants from the products of 1 - beta, as in the reference's respacing."""
    chain = process.discretize(1000)
    instants = torch.tensor(list(chosen))
    t, s = chain.time(instants[1:]), chain.time(instants[:-1])
    kept = (1.0 - chain.step(chain.time(torch.arange(1000))).std ** 2).cumprod(0)[instants]
    beta, tilde = 1.0 - kept[1:] / kept[:-1], (1.0 - kept[1:] / kept[:-1]) * (1.0 - kept[:-1]) / (1.0 - kept[1:])
    output = torch.linspace(-1.3, 1.2, len(t), dtype=F64)
    v = 0.5 * (output + 1.0)
    delta = snr(chain, s) - snr(chain, t)
    found = InterpolatedVariance()(output[:, None], chain.sigma(t) / chain.alpha(t), delta)[:, 0]
    expected = (v * beta.log() + (1.0 - v) * tilde.log()).exp()
    # the last beta of the cosine chain is 0.999, and 1 - beta has lost digits there
    torch.testing.assert_close(tilde * (1.0 + delta * found), expected, rtol=1e-7, atol=0.0)


def test_the_limits_of_the_interpolation_are_those_of_gaussian_data() -> None:
    level, delta = torch.tensor([0.3, 1.0, 7.0], dtype=F64), torch.tensor([2.0, 0.5, 1e-9], dtype=F64)
    for std in (0.5, 1.0, 1e9):
        rule, up = InterpolatedVariance(std), GaussianVariance(std)(level)
        torch.testing.assert_close(rule(torch.ones(3, dtype=F64), level, delta), up)
        assert rule(-torch.ones(3, dtype=F64), level, delta).abs().max() == 0.0
        torch.testing.assert_close(FreeVariance(std)(torch.zeros(3, dtype=F64), level, delta), up)
        to_data = rule(torch.tensor([1.0, -1.0, 0.0], dtype=F64), level, torch.tensor(math.inf))
        torch.testing.assert_close(to_data, up * torch.tensor([1.0, 0.5, 0.5**0.5], dtype=F64))


@pytest.mark.parametrize("rule", [InterpolatedVariance(), FreeVariance()], ids=repr)
def test_gradients_of_the_variance_are_finite_for_all_steps(rule) -> None:
    output = torch.zeros(4, dtype=F64, requires_grad=True)
    delta = torch.tensor([0.0, 1.0, 1e12, math.inf], dtype=F64)
    rule(output, torch.full((4,), 0.1, dtype=F64), delta).sum().backward()
    assert output.grad.isfinite().all() and (output.grad > 0).all()


@pytest.mark.parametrize("event", [(), (3,), (3, 4), (1, 5, 4), (2, 3, 4, 2)], ids=str)
@pytest.mark.parametrize("layout", ["last", "channels"])
def test_the_model_is_the_score_model_of_its_first_outputs(event: tuple[int, ...], layout: str) -> None:
    if layout == "channels" and not event:
        pytest.skip("an event of a single number has no channels")

    class First(nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return torch.sin(x)

    sde, x, t = VPSDE(), torch.randn(5, *event, dtype=F64), torch.linspace(0.1, 1.0, 5, dtype=F64)
    for prediction in ("noise", "data", "velocity"):
        model = LearnedVarianceModel(Outputs(layout), sde, prediction)
        plain = ScoreModel(First(), sde, prediction)
        for name in ("__call__", "noise", "denoised", "velocity"):
            torch.testing.assert_close(getattr(model, name)(x, t), getattr(plain, name)(x, t), rtol=0, atol=0)
        score, variance = model.score_and_variance(x, t, torch.tensor(2.0, dtype=F64))
        torch.testing.assert_close(score, plain(x, t), rtol=0, atol=0)
        outputs = torch.cos(3.0 * sde.kernel(t).standardized(x, 1.0))
        level = sde.sigma(t) / sde.alpha(t)
        torch.testing.assert_close(variance, InterpolatedVariance()(outputs, level, torch.tensor(2.0, dtype=F64)))


def test_one_evaluation_of_the_network_gives_score_and_variance() -> None:
    model, calls = LearnedVarianceModel(MLP((2,), 8, 1, outputs=2), VPSDE()), []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    model.score_and_variance(torch.zeros(3, 2), torch.full((3,), 0.5), torch.ones(3))
    assert len(calls) == 1


def test_a_network_of_half_precision() -> None:
    model = LearnedVarianceModel(MLP((2,), 8, 1, outputs=2), VPSDE()).to(torch.bfloat16)
    x, t = torch.zeros(3, 2, dtype=torch.bfloat16), torch.full((3,), 0.5)
    score, variance = model.score_and_variance(x, t, torch.tensor(1.0))
    assert score.dtype == variance.dtype == torch.float32
    torch.testing.assert_close(score, model(x, t), rtol=0, atol=0)


@pytest.mark.parametrize("network", [MLP((3,), 8, 1), nn.Identity()], ids=["outputs=1", "identity"])
def test_a_network_whose_outputs_do_not_hold_a_variance_is_refused(network) -> None:
    if isinstance(network, MLP):
        with pytest.raises(ValueError, match="MLP with outputs=1, which do not hold a variance: give outputs=2"):
            LearnedVarianceModel(network, VPSDE())
        return

    class Single(nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return x

    model = LearnedVarianceModel(Single(), VPSDE())
    message = r"shape \(4, 3\) for x of shape \(4, 3\), .* a network with output \(4, 3, 2\), or \(4, 6\)"
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(4, 3), torch.ones(4))
    with pytest.raises(ValueError, match=message):
        model.score_and_variance(torch.zeros(4, 3), torch.ones(4), torch.tensor(1.0))


def test_wrong_arguments_are_refused() -> None:
    network = MLP((2, 2), 8, 1, outputs=2)
    with pytest.raises(TypeError, match="does not have scalar coefficients"):
        LearnedVarianceModel(network, CriticallyDampedLangevin())
    with pytest.raises(TypeError, match="its logits already have a variance"):
        LearnedVarianceModel(network, VPSDE(), Levels(Quantized(17)))
    with pytest.raises(TypeError, match=r"variance=GaussianVariance.* give a LearnedVariance"):
        LearnedVarianceModel(network, VPSDE(), variance=GaussianVariance(1.0))
    for value in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="std"):
            InterpolatedVariance(value)


def test_a_chain_is_a_process_of_the_model() -> None:
    for process in (VPSDE(), VESDE(), SubVPSDE()):
        chain = process.discretize(50)
        model = LearnedVarianceModel(MLP((2,), 8, 1, outputs=2), chain)
        t = chain.time(torch.tensor([3, 7])).float()
        variance = model.score_and_variance(torch.zeros(2, 2), t, torch.tensor(1.0))[1]
        assert variance.shape == (2, 2) and variance.isfinite().all()


def test_a_config_names_the_model_and_its_variance(tmp_path) -> None:
    """The network gets two outputs for each coordinate."""
    for rule in (InterpolatedVariance(), FreeVariance(0.5)):
        node = {"name": type(rule).__name__, "std": rule.std}
        model = experiment(**options(tmp_path, "DenoisingScoreMatching") | {
            "model": str({"name": "LearnedVarianceModel", "prediction": "noise", "variance": node}),
        }).model  # fmt: skip
        assert isinstance(model, LearnedVarianceModel) and model.variance == rule and model.network.outputs == 2
