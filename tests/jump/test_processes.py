"""Jump processes: closed forms against matrix exponentials, the self-check with planted errors, and refusals."""

from __future__ import annotations

import itertools
import math
import sys

import pytest
import torch

from scoresde import VESDE, VPSDE, CosineVPSDE
from scoresde.cli import main
from scoresde.jump import (
    Absorbing,
    CosineKeep,
    DiscretizedGaussian,
    MaskAndReplace,
    NearestNeighbor,
    PolynomialKeep,
    RateMatrix,
    SDEKeep,
    Uniform,
    check,
)
from scoresde.jump.matrix import rate_exponential
from scoresde.jump.states import draw_states, log_odds_of_others, quantiles
from scoresde.noise import NoiseSource
from tests.jump.problems import processes


def at(t):
    return torch.tensor(t, dtype=torch.float64)


@pytest.mark.parametrize("process", processes(4), ids=lambda v: type(v).__name__)
def test_transitions_are_matrix_exponentials(process):
    x = torch.arange(process.states)[:, None]
    rates = process.generator_rows(x)[:, 0]
    for s, t in ((0.0, 0.3), (0.2, 0.9), (0.5, 0.5)):
        b = math.log((1.0 - s) / (1.0 - t))
        wanted = torch.linalg.matrix_exp(b * rates)
        assert torch.allclose(process.transition(x, at(s), at(t)).exp()[:, 0], wanted, rtol=0, atol=1e-12)


def test_cumulative_matrices_of_mask_and_replace_are_the_product_of_the_steps():
    process, x = MaskAndReplace(5, 0.2), torch.arange(6)[:, None]
    times = torch.linspace(0.0, 0.9, 11, dtype=torch.float64)
    product = torch.eye(6, dtype=torch.float64)
    for s, t in itertools.pairwise(times):
        product = product @ process.transition(x, s, t).exp()[:, 0]
    keep, masked = 0.1, 1.0 - 0.1**0.8
    wanted = torch.full((6, 6), (1.0 - keep - masked) / 5, dtype=torch.float64) + keep * torch.eye(
        6, dtype=torch.float64
    )
    wanted[:, 5], wanted[5] = masked, torch.eye(6)[5]
    assert torch.allclose(product, wanted, rtol=0, atol=1e-12)


def test_bits_are_replaced_as_in_the_binomial_process():
    """Entry of Sohl-Dickstein et al.: x is kept with 1 - beta, and else a fair coin."""
    t, beta = at(0.36), 0.36
    p = Uniform(2).marginal(torch.tensor([[0, 1]]), t).exp()
    assert torch.allclose(p[0], torch.tensor([[1 - beta / 2, beta / 2], [beta / 2, 1 - beta / 2]]).double())


def test_small_probabilities_are_accurate_relative_to_their_size():
    rates = NearestNeighbor(40).matrix
    b = torch.tensor([1e-3], dtype=torch.float64)
    c = float(rates[0, 1])
    found = rate_exponential(rates, b)[0, 0, 20]
    # 20 jumps to the right: (b c)^20 / 20! exp(-2 b c) up to paths with more jumps
    leading = 20 * math.log(1e-3 * c) - math.lgamma(21.0) - 2e-3 * c
    assert abs(float(found.log()) - leading) < 0.1 and 0 < float(found) < 1e-20


def reversible(size):
    """Rates with pi_x R_xy = pi_y R_yx for a pi that is not uniform."""
    made = torch.Generator().manual_seed(size)
    flow = torch.rand(size, size, generator=made, dtype=torch.float64)
    flow, pi = flow + flow.mT, 0.1 + torch.rand(size, generator=made, dtype=torch.float64)
    rates = (flow / pi[:, None]).fill_diagonal_(0.0)
    return RateMatrix(rates - torch.diag(rates.sum(1)))


@pytest.mark.parametrize(
    "process",
    [NearestNeighbor(40), DiscretizedGaussian(40), RateMatrix([[-1.0, 1.0], [3.0, -3.0]]), reversible(6)],
    ids=repr,
)
def test_the_spectral_form_is_the_exponential(process):
    b = torch.tensor([0.0, 1e-6, 1e-3, 0.5, 30.0, math.inf], dtype=torch.float64)
    wanted, found = rate_exponential(process.matrix, b), process._spectrum.exponential(b)
    assert float((found - wanted).abs().max()) < 2e-12 and float(found.min()) >= 0.0
    large = wanted > 1e-6
    assert float((found[large] / wanted[large] - 1.0).abs().max()) < 1e-9
    assert check(reversible(6)).passed
    assert processes(4)[-1]._spectrum is None  # not reversible


def test_rates_with_two_final_classes_are_refused():
    apart = torch.block_diag(*[torch.tensor([[-1.0, 1.0], [1.0, -1.0]])] * 2)
    with pytest.raises(ValueError, match="no path of jumps from the state 0 to the state 2 or back"):
        RateMatrix(apart)
    assert check(RateMatrix(apart, tokens=2)).rows[0].passed  # data never gets to the other class
    mask = RateMatrix([[-1.0, 0.0, 1.0], [0.0, -1.0, 1.0], [0.0, 0.0, 0.0]], tokens=2)
    x = torch.tensor([[0, 1, 2]])
    assert torch.allclose(mask.transition(x, at(0.1), at(0.5)), Absorbing(2).transition(x, at(0.1), at(0.5)))


def test_the_slowest_mode_of_ordinal_processes_decays_like_alpha():
    for process in (NearestNeighbor(9), DiscretizedGaussian(9, 1.5), DiscretizedGaussian(9, 30.0)):
        q = process.transition(torch.arange(9)[:, None], at(0.0), at(0.4)).exp()[:, 0]
        assert math.isclose(float(torch.linalg.eigvalsh(q)[-2]), 0.6, rel_tol=1e-9)
    wide = DiscretizedGaussian(4, 1e3).transition(torch.arange(4)[:, None], at(0.0), at(0.4))
    assert torch.allclose(wide, Uniform(4).transition(torch.arange(4)[:, None], at(0.0), at(0.4)), atol=1e-5)


@pytest.mark.parametrize(
    "schedule", [PolynomialKeep(2.0, T=3.0), CosineKeep(), CosineVPSDE()], ids=lambda v: type(v).__name__
)
@pytest.mark.parametrize("kind", [Absorbing, Uniform, NearestNeighbor])
def test_every_process_passes_its_check_under_every_schedule(kind, schedule):
    report = check(kind(4, schedule))
    assert report.passed, str(report)


@pytest.mark.parametrize("process", processes(5), ids=lambda v: type(v).__name__)
def test_every_process_passes_its_check(process):
    report = check(process)
    assert report.passed, str(report)


def test_schedules_of_sdes():
    t = torch.linspace(0.0, 1.0, 5, dtype=torch.float64)
    schedule = SDEKeep(VPSDE())
    assert torch.allclose(schedule.alpha(t), VPSDE().alpha(t))
    assert torch.allclose(schedule.rate(t), -VPSDE().drift_coefficient(t))
    assert torch.allclose(schedule.time_of_log_alpha(schedule.log_alpha(t)), t, atol=1e-9)
    assert Uniform(3, VPSDE()) == Uniform(3, VPSDE()) != Uniform(3, CosineVPSDE())
    with pytest.raises(ValueError, match="alpha from 1 to 1"):
        Uniform(3, VESDE())


# planted errors: each class has one wrong method, and the check names it


class WrongRate(PolynomialKeep):
    def rate(self, t):
        return 1.1 * super().rate(t)


class Restored(PolynomialKeep):
    """alpha increases again after t = 0.6."""

    def log_alpha(self, t):
        return super().log_alpha(torch.minimum(t, 1.2 - t).clamp(min=0.0))


class UnnormalizedRows(Uniform):
    def rows(self, x, b):
        return super().rows(x, b) + 0.01


class NotMarkov(Absorbing):
    """The mask returns to a token, but the rates do not."""

    def rows(self, x, b):
        return super().rows(x, b + 0.1 * b**2)


class SwappedColumns(RateMatrix):
    def columns(self, x, b, dtype=torch.float64):
        return super().rows(x, b).to(dtype)


class WrongGenerator(MaskAndReplace):
    def generator_rows(self, x):
        return 2.0 * super().generator_rows(x)


class WrongColumnsOfRates(RateMatrix):
    def generator_columns(self, x):
        return self.generator_rows(x)


class NoBayes(Uniform):
    """The posterior without the likelihood of x_t."""

    def posterior(self, x_t, x0, s, t):
        return self.marginal(x0, s)


class D3PMParameterization(Uniform):
    """The sum of q(x_s, x_t | x_0) p(x_0 | x_t), without the division by q(x_t | x_0)."""

    def _weights(self, x, logits, t):
        return logits.log_softmax(-1)


class WrongPrior(RateMatrix):
    def prior_log_probs(self):
        return torch.full((self.states,), -math.log(self.states), dtype=torch.float64)


class BiasedDraws(Absorbing):
    def marginal_sample(self, x0, t, noise, *, step=0):
        return super().marginal_sample(x0, 0.8 * t, noise, step=step)


class DrawsOfTheBatch(Uniform):
    def marginal_sample(self, x0, t, noise, *, step=0):
        return super().marginal_sample(x0, t, NoiseSource.of(0, len(x0)), step=step)


class DrawsOfTheData(MaskAndReplace):
    """x_s is drawn without the condition that x_t follows."""

    def reverse_sample(self, x_t, logits, s, t, noise, *, step, purpose="reverse"):
        return self.marginal_sample(
            quantiles(logits, noise.uniform(x_t.shape[1:], step=step, purpose=purpose, dtype=torch.float64)), s, noise
        )


class FastLeaps(Absorbing):
    def reverse_leap(self, x, logits, t, duration, noise, *, step, purpose="leap"):
        return super().reverse_leap(x, logits, t, 1.2 * duration, noise, step=step, purpose=purpose)


class AnyTime(Uniform):
    def marginal(self, x0, t):
        return super().marginal(x0, t.clamp(0.0, 1.0))


ASYMMETRIC = [[-1.0, 1.0, 0.0], [0.5, -2.0, 1.5], [2.0, 0.0, -2.0]]
PLANTED = [
    (Uniform(4, WrongRate()), "rate of the schedule"),
    (Uniform(4, Restored()), "alpha does not increase"),
    (UnnormalizedRows(4), "rows of Q sum to 1"),
    (NotMarkov(4), "Chapman-Kolmogorov"),
    (SwappedColumns(ASYMMETRIC), "likelihood"),
    (WrongGenerator(4), "rates"),
    (WrongColumnsOfRates(ASYMMETRIC), "columns of rates"),
    (NoBayes(4), "posterior"),
    (D3PMParameterization(4), "reverse transition"),
    (WrongPrior(ASYMMETRIC), "prior, nats per coordinate"),
    (BiasedDraws(4), "draws, standard errors"),
    (DrawsOfTheBatch(4), "draws by seed and index"),
    (DrawsOfTheData(4), "reverse draws"),
    (FastLeaps(4), "draws of leaps"),
    (AnyTime(4), "wrong input is refused"),
    (Uniform(4, PolynomialKeep(0.5, T=0.25)), None),
]


@pytest.mark.parametrize(("process", "row"), PLANTED, ids=lambda v: type(v).__name__ if not isinstance(v, str) else v)
def test_the_check_finds_planted_errors(process, row):
    report = check(process)
    failed = [r.name for r in report.rows if not r.passed]
    assert (failed == []) if row is None else row in failed, str(report)


@pytest.mark.parametrize(
    ("name", "code", "text"), [("right", 0, "Absorbing(tokens=3"), ("wrong", 1, "generator_columns")]
)
def test_the_command_checks_a_jump_process(tmp_path, monkeypatch, capsys, name, code, text):
    source = (
        "from scoresde.jump import Absorbing\nfrom tests.jump.test_processes import WrongGenerator\n"
        "right = Absorbing(3)\ndef wrong():\n    return WrongGenerator(4)\n"
    )
    (tmp_path / "their_jumps.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    assert main(["check", "--process", f"their_jumps:{name}"]) == code
    assert text in capsys.readouterr().out
    sys.modules.pop("their_jumps")


def test_a_schedule_that_ends_early_fails_the_check_of_the_prior():
    report = check(Uniform(4, VPSDE(beta_max=4.0)))
    assert [r.name for r in report.rows if not r.passed] == ["prior, nats per coordinate"]


def test_draws_depend_on_seed_and_index_only():
    process, x0 = MaskAndReplace(3000, 0.3), torch.arange(600).reshape(6, 100)  # more states than are drawn at once
    whole = process.marginal_sample(x0, at(0.5), NoiseSource.of(1, 6))
    part = process.marginal_sample(x0[2:4], at(0.5), NoiseSource.of(1, 2, first=2))
    assert torch.equal(whole[2:4], part)
    kept = (whole == x0).double().mean()
    assert abs(float(kept) - 0.5) < 4 * 0.5 / 600**0.5
    assert len(whole[(whole != x0) & (whole != 3000)].unique()) > 30


@pytest.mark.parametrize("size", [2, 255, 256, 257, 3000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_quantiles_are_the_inverse_of_the_cumulative_distribution(size, dtype):
    made = torch.Generator().manual_seed(size)
    log_p = (3.0 * torch.randn(50, 7, size, generator=made)).to(dtype)
    log_p[:, :, ::3] = -torch.inf
    u = torch.rand(50, 7, generator=made, dtype=torch.float64)
    u[0], u[1] = 2.0**-33, 1.0 - 2.0**-33
    ends = log_p.double().softmax(-1).cumsum(-1)
    found = quantiles(log_p, u)
    at, rounding = found[..., None], 1e-13 if dtype == torch.float64 else 1e-6
    assert bool((ends.gather(-1, at)[..., 0] > u - rounding).all())
    assert bool((torch.where(at > 0, ends.gather(-1, (at - 1).clamp(min=0)), 0.0)[..., 0] <= u + rounding).all())
    assert bool(log_p.gather(-1, at).isfinite().all())
    some = torch.arange(350).reshape(50, 7) % 3 == 1
    assert torch.equal(quantiles(log_p, u, at=some), torch.where(some, found, 0))
    if size > 2:
        assert torch.equal(quantiles(log_p, u, without=found), quantiles(log_p.scatter(-1, at, -torch.inf), u))


def test_frequencies_of_a_large_vocabulary():
    log_p = -1.1 * torch.arange(1.0, 50_001.0).log()  # Zipf's law
    noise = NoiseSource.of(2, 200)
    x = torch.cat([draw_states(log_p.expand(200, 4, -1), noise, step=k, purpose="test") for k in range(3)], 1)
    p, edges = log_p.double().softmax(0), [0, 1, 3, 10, 50, 300, 3000, 50_000]
    for low, high in itertools.pairwise(edges):
        share = float(p[low:high].sum())
        found = float(((x >= low) & (x < high)).double().mean())
        assert abs(found - share) < 4.5 * (share * (1 - share) / x.numel()) ** 0.5


def test_odds_of_the_other_states_are_accurate_for_probabilities_close_to_1():
    logits = torch.tensor([[[30.0, 0.0, 1.0], [0.1, 0.2, 0.3]]])
    odds = log_odds_of_others(logits, torch.tensor([[0, 1]]), at=torch.tensor([[True, False]]))
    assert math.isclose(float(odds[0, 0]), math.log(1 + math.e) - 30.0, rel_tol=1e-6) and float(odds[0, 1]) == 0.0


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        ([[-1.0, 1.0], [1.0, -0.9]], r"matrix has the sum 0.1 in row 1"),
        ([[1.0, -1.0], [1.0, -1.0]], r"matrix has the rate -1 at \(0, 1\)"),
        ([[0.0, 0.0], [0.0, 0.0]], "matrix is 0"),
        ([[-1.0, 1.0]], "square"),
        ([[-1.0, math.nan], [1.0, -1.0]], "non-finite"),
    ],
)
def test_wrong_rate_matrices_are_refused_with_place_and_value(matrix, words):
    with pytest.raises(ValueError, match=words):
        RateMatrix(matrix)


def test_wrong_states_are_refused_with_place_and_value():
    process, t = Absorbing(5), at(0.5)
    with pytest.raises(ValueError, match=r"x0 has the value 5, which is the mask token in sample 1 at \(2,\)"):
        process.marginal(torch.tensor([[0, 1, 2], [3, 4, 5]]), t)
    with pytest.raises(ValueError, match=r"x0 has the value 7 in sample 0 at \(1,\): allowed are the tokens 0 to 4"):
        process.marginal(torch.tensor([[0, 7]]), t)
    with pytest.raises(ValueError, match=r"x_t has the value -1 in sample 0 at \(\): allowed are the states 0 to 5"):
        process.likelihood(torch.tensor([-1]), t)
    with pytest.raises(TypeError, match="float32"):
        process.marginal(torch.zeros(2, 3), t)
    with pytest.raises(ValueError, match="later than"):
        process.transition(torch.zeros(1, 1, dtype=torch.long), at(0.6), at(0.5))
    with pytest.raises(ValueError, match=r"logits has shape \(1, 2, 6\)"):
        process.reverse_transition(torch.tensor([[5, 5]]), torch.zeros(1, 2, 6), at(0.1), at(0.2))
    with pytest.raises(ValueError, match="at most 64"):
        check(Uniform(100))


def test_no_tensor_has_the_size_of_two_vocabularies():
    """A vocabulary of 50,000 would need 20 GB for a matrix of float64."""
    process, x = MaskAndReplace(50_000), torch.tensor([[3, 50_000]])
    p = process.reverse_transition(x, torch.zeros(1, 2, 50_000), at(0.3), at(0.6))
    assert p.shape == (1, 2, 50_001) and torch.allclose(p.exp().sum(-1), torch.ones(1, 2), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_tokens_of_any_integer_type(dtype):
    x, t, s = torch.tensor([[0, 2, 1]]), at(0.5), at(0.2)
    for process in processes(3):
        small, logits = x.to(dtype), torch.zeros(1, 3, 3)
        assert torch.equal(process.marginal(small, t), process.marginal(x, t))
        assert torch.equal(process.posterior(small, small, s, t), process.posterior(x, x, s, t))
        assert torch.equal(process.reverse_rates(small, logits, t), process.reverse_rates(x, logits, t))
        back = process.logits_from_ratios(small, process.ratios(small, logits, t), t)
        assert torch.equal(back, process.logits_from_ratios(x, process.ratios(x, logits, t), t))
        assert torch.equal(process.rates(small, t), process.rates(x, t))
        assert torch.equal(process.prior_log_prob(small), process.prior_log_prob(x))
        assert torch.equal(process.reverse_transition(small, logits, s, t), process.reverse_transition(x, logits, s, t))


def test_rates_in_float32_have_rows_that_sum_to_0_up_to_rounding():
    rates = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)).fill_diagonal_(0.0)
    process = RateMatrix(rates - torch.diag(rates.sum(1)))
    assert float(process.matrix.sum(1).abs().max()) < 1e-14 and check(process).passed
    with pytest.raises(ValueError, match=r"matrix has the sum .* in row 0: give rows that sum to 0"):
        RateMatrix(rates - torch.diag(rates.sum(1) - 1e-3))
