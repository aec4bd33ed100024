"""Conditions of a score model: those a network requires, and tensors with one row for each sample."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scoresde._validation import expand
from scoresde.conditions import Classes, Image, Tokens, Vector, check_conditions, given, rows_of
from scoresde.interop.edm import DenoiserScore
from scoresde.likelihood import Exact, Multistep, elbo, fit_grid, known_biases, log_likelihood
from scoresde.networks import MLP
from scoresde.noise import NoiseSource
from scoresde.samplers import DDIM, AdaptiveSDE, EulerMaruyama, Fast, UniPC
from scoresde.score import LogNoiseLabel, ScoreModel, TimeLabel
from scoresde.sde import VESDE, VPSDE
from scoresde.solvers import RungeKutta


class Conditional(nn.Module):
    def forward(self, x, label, y):
        return x - y


class ByKeyword(nn.Module):
    def forward(self, x, label, *, y, mask=None):
        return x - y


X, T = torch.ones(3, 2), torch.full((3,), 0.5)


@pytest.mark.parametrize("network", [Conditional(), ByKeyword()])
def test_a_required_condition_is_passed_by_name(network):
    model, y = ScoreModel(network, VPSDE(), "score", data_std=None), torch.arange(3.0)[:, None]
    assert torch.equal(model(X, T, y=y), X - y)
    with pytest.raises(TypeError, match=r"the network requires y: call model\(x, t, y=\.\.\.\)"):
        model(X, T)
    with pytest.raises(TypeError, match=r"give samplers and likelihoods condition=\{'y': \.\.\.\}"):
        UniPC(2)(VPSDE(), model, (3, 2))
    assert UniPC(2)(VPSDE(), lambda x, t: model(x, t, y=y), (3, 2)).samples.shape == (3, 2)


def test_a_network_that_cannot_be_called_is_refused():
    class One(nn.Module):
        def forward(self, x):
            return x

    class Positional(nn.Module):
        def forward(self, x, label, y, /):
            return x

    for network in (One(), Positional()):
        with pytest.raises(TypeError, match="cannot be called as network"):
            ScoreModel(network, VPSDE())


@pytest.mark.parametrize("shape", [(1, 2), (2,), (1,), (6, 2), (0, 2)])
def test_a_condition_that_would_broadcast_is_refused(shape):
    denoiser = DenoiserScore(Conditional(), VESDE())
    for model in (ScoreModel(Conditional(), VPSDE()), denoiser):
        with pytest.raises(ValueError, match="for a batch of 3: give one row for each sample"):
            model(X, T, y=torch.zeros(shape))
        assert model(X, T, y=torch.tensor(0.5)).shape == (3, 2)
        assert model(X, T, y=0.5).shape == (3, 2)


def test_the_message_for_a_condition_of_all_samples_names_the_batch():
    model = ScoreModel(Conditional(), VPSDE(), "score", data_std=None)
    y = torch.linspace(0.1, 3.0, 8)[:, None]
    with pytest.raises(ValueError, match=r"failed for .* of the 8 samples .*y has shape .*model.given"):
        AdaptiveSDE(0.05, 0.05)(VPSDE(), lambda x, t: -model(x, t, y=y) * y, (8, 2))


def test_the_label_of_a_time_without_noise_is_explained():
    for network in (MLP((2,), width=8, depth=1),):
        model = ScoreModel(network, VPSDE(), label=LogNoiseLabel())
        with pytest.raises(ValueError, match=r"t=0 is not allowed: the label of LogNoiseLabel\(\) is not finite there"):
            model(X, torch.tensor([0.0, 0.5, 1.0]))
        assert torch.isfinite(model(X, T)).all()
    network = MLP((2,), width=8, depth=1)
    with pytest.raises(ValueError, match=r"labels from .* do not suit"):
        ScoreModel(network, VPSDE(), label=TimeLabel(999.0))(X, T)


class Shifted(nn.Module):
    """The exact score of N(y, 1) under any process, as a network that predicts the data's mean."""

    def forward(self, x, label, *, y=None):
        return x - x if y is None else torch.as_tensor(y, dtype=x.dtype).expand_as(x)


def conditional_model():
    return ScoreModel(Shifted(), VPSDE(), "data", data_std=None)


@pytest.mark.parametrize("sampler", [UniPC(5), EulerMaruyama(5), DDIM(5), AdaptiveSDE(0.05, 0.05)], ids=repr)
def test_each_sample_has_its_own_condition(sampler):
    """A batch with different conditions equals the samples that are drawn one by one."""
    model, y = conditional_model(), torch.linspace(-2.0, 2.0, 6)[:, None].expand(6, 2)
    together = sampler(VPSDE(), model, (6, 2), seed=3, condition={"y": y}).samples
    bound = sampler(VPSDE(), model.given(y=y), (6, 2), seed=3).samples
    plain = sampler(VPSDE(), lambda x, t, y: model(x, t, y=y), (6, 2), seed=3, condition={"y": y}).samples
    alone = [sampler(VPSDE(), model, (1, 2), seed=3, first=i, condition={"y": y[i : i + 1]}).samples for i in range(6)]
    assert torch.equal(together, bound)
    torch.testing.assert_close(together, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(together, sampler(VPSDE(), model, (6, 2), seed=3, condition={"y": y.flip(0)}).samples)


STD = 0.3


class GaussianGiven:
    """The exact score of N(y, STD^2) under VP, with the attribute ``sde``."""

    sde = VPSDE()

    def __call__(self, x, t, *, y):
        kernel = self.sde.kernel(t)
        mean, std = kernel.mean(y.to(x)), (kernel.signal() ** 2 * STD**2 + kernel.std**2).sqrt()
        return -(x - mean) / expand(std, x) ** 2


def given_data(n=12):
    y = torch.linspace(-1.0, 1.0, n)[:, None].expand(n, 3).contiguous()
    return y, y + STD * NoiseSource.of(0, n).normal((3,), step=0, purpose="data", dtype=torch.float32)


@pytest.mark.parametrize(
    "solver", [None, Multistep(8, tolerance=1e-4), RungeKutta()], ids=["default", "refined", "adaptive"]
)
def test_the_likelihood_of_each_sample_has_its_own_condition(solver):
    y, x = given_data()
    found = log_likelihood(VPSDE(), GaussianGiven(), x, condition={"y": y}, solver=solver, divergence=Exact())
    exact = torch.distributions.Normal(y.double(), STD).log_prob(x.double()).sum(1)
    torch.testing.assert_close(found.log_prob, exact, rtol=0, atol=0.02)  # the prior neglects 0.0066 of the mean
    wrong = log_likelihood(VPSDE(), GaussianGiven(), x, condition={"y": y.flip(0)}, solver=solver, divergence=Exact())
    assert float((wrong.log_prob - exact).abs().max()) > 1.0


def test_a_solver_that_refines_some_samples_takes_their_conditions():
    """The first nodes do not suffice for the sample that is far away, so that one row is computed again."""
    y, x = given_data()
    x[-1] += 40.0
    score = GaussianGiven()
    found = log_likelihood(
        VPSDE(), score, x, condition={"y": y}, solver=Multistep(6, tolerance=2e-3), divergence=Exact()
    )
    exact = torch.distributions.Normal(y.double(), STD).log_prob(x.double()).sum(1)
    assert found.nfe > 6
    torch.testing.assert_close(found.log_prob, exact, rtol=2e-3, atol=5e-2)


def test_the_bound_of_each_sample_has_its_own_condition():
    y, x = given_data()
    found = elbo(VPSDE(), GaussianGiven(), x, condition={"y": y}, data_std=STD, draws=16, replicates=8)
    exact = torch.distributions.Normal(y.double(), STD).log_prob(x.double()).sum(1)
    assert float(((found.log_prob - exact).abs() / found.standard_error).max()) < 6.0
    assert float(found.standard_error.max()) < 0.2


def test_biases_and_grids_have_conditions():
    y = torch.linspace(-2.0, 2.0, 5)[:, None].expand(5, 3)
    score, x = GaussianGiven(), y + 0.1
    bound = given(score, {"y": y})
    one, two = known_biases(VPSDE(), score, x, condition={"y": y}), known_biases(VPSDE(), bound, x)
    assert torch.equal(one.cutoff, two.cutoff) and torch.equal(one.prior, two.prior)
    assert fit_grid(VPSDE(), score, x, fine=40, condition={"y": y}) == fit_grid(VPSDE(), bound, x, fine=40)


def test_a_sampler_is_fitted_with_conditions():
    """The pilot has more starts than there are samples, and its starts get the samples' conditions in turn."""
    y, _ = given_data(24)
    score = GaussianGiven()
    samples = Fast(4, pilot=16, search=0, held_out=16)(VPSDE(), score, (24, 3), condition={"y": y}).samples
    assert float((samples - y).abs().max()) < 5 * STD
    fitted = Fast(4, pilot=32, search=1, held_out=40).prepared(VPSDE(), given(score, {"y": y[:1].expand(32, 3)}), (3,))
    assert fitted.expected.error < 0.05


def test_conditions_are_bound_one_after_the_other():
    def score(x, t, *, a, b):
        return a * x + b

    x, one, two = torch.ones(3, 2), torch.full((3, 1), 2.0), torch.full((3, 1), 5.0)
    both = given(given(score, {"a": one, "b": one}), {"b": two})
    assert torch.equal(both(x, torch.ones(3)), 2 * x + 5)
    assert torch.equal(rows_of(both, torch.tensor([1]))(x[:1], torch.ones(1)), 2 * x[:1] + 5)


def test_a_compiled_model_stays_compiled():
    model = ScoreModel(MLP((2,), width=8, depth=1, conditions={"label": Classes(3)}), VPSDE())
    compiled, y = torch.compile(model, backend="eager"), torch.tensor([0, 1, 2])
    assert rows_of(compiled, torch.arange(2)) is compiled
    bound = given(compiled, {"label": y})
    assert bound.score is compiled and bound.sde is model.sde
    assert rows_of(bound, torch.arange(2)).score is compiled
    whole = torch.compile(model.given(label=y), backend="eager")
    assert rows_of(whole, torch.tensor([2, 0])).condition["label"].tolist() == [2, 0]


def test_conditions_that_are_no_dictionary_are_refused():
    for wrong in ([1], {1: torch.zeros(3)}):
        with pytest.raises(TypeError, match=r"condition=.* give a dictionary"):
            UniPC(2)(VPSDE(), GaussianGiven(), (3, 3), condition=wrong)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Classes(3), torch.tensor([0, 2]), [torch.tensor([0, 3]), torch.tensor([-1, 0]), torch.zeros(2), torch.zeros(3).long()]),
        (Vector(2), torch.zeros(2, 2), [torch.zeros(2), torch.zeros(2, 3), torch.full((2, 2), torch.nan), torch.zeros(1, 2)]),
        (Image(1), torch.zeros(2, 1, 4, 4), [torch.zeros(2, 2, 4, 4), torch.zeros(2, 1), torch.zeros(2, 1, 4, 4).long()]),
        (Tokens(4), torch.zeros(2, 5, 4), [torch.zeros(2, 4), torch.zeros(2, 5, 4).long(), torch.full((2, 5, 4), torch.inf)]),
    ],
    ids=["Classes", "Vector", "Image", "Tokens"],
)  # fmt: skip
def test_kinds_of_conditions(kind, good, bad):
    check_conditions({"c": kind}, {"c": good}, 2)
    check_conditions({"c": kind}, {"c": None, "dropped": torch.tensor([True, False])}, 2)
    for value in bad:
        with pytest.raises(
            ValueError,
            match=r"c (of shape|is|has values) .* not allowed: give",
        ):
            check_conditions({"c": kind}, {"c": value}, 2)
    with pytest.raises(TypeError, match="the condition d is not known: the network takes c"):
        check_conditions({"c": kind}, {"d": good}, 2)
    with pytest.raises(ValueError, match="dropped="):
        check_conditions({"c": kind}, {"dropped": torch.zeros(2)}, 2)
    with pytest.raises(TypeError, match="c=3 is not a tensor"):
        check_conditions({"c": kind}, {"c": 3}, 2)
    assert torch.equal(kind.parse("c", good[0].tolist()), good[0])
    with pytest.raises(ValueError, match="c='three' is not allowed"):
        kind.parse("c", "three")


def test_a_value_that_is_not_allowed_is_named_with_its_row():
    for kind, rows, message in (
        (
            Classes(3),
            torch.tensor([0, 1, 5, 7]),
            r"y is 5 in row 2, which is not allowed: give a class",
        ),
        (
            Vector(2),
            torch.tensor([[0.0, 1.0], [torch.inf, 0.0]]),
            r"y is \[inf, 0\.0\] in row 1, which is not allowed",
        ),
        (Classes(3), torch.tensor([4]), "y is 4, which is not allowed: give a class"),
        (Classes(3), torch.zeros(2), r"y of shape \(2,\) and torch.float32 is not allowed"),
        (Vector(2), torch.zeros(2, 3), r"y of shape \(2, 3\) and torch.float32 is not allowed"),
    ):
        with pytest.raises(ValueError, match=message):
            kind.check("y", rows, len(rows))
        assert kind.wrong_row(torch.zeros(2, 2) if kind == Vector(2) else torch.zeros(2).long()) is None


def test_a_condition_that_is_not_taken_names_the_argument():
    from scoresde.jump import Absorbing, AncestralSampler

    def model(x, t):
        return x

    with pytest.raises(
        TypeError, match=r"condition has a value for 'y', which model=.* does not take: give a model that does"
    ):
        AncestralSampler(3)(Absorbing(2), model, (2, 8), condition={"y": 1})
    with pytest.raises(TypeError, match=r"which score=.* does not take: give a score that does"):
        given(model, {"y": 1})
