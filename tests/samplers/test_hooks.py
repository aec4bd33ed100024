"""Hooks of samplers: what they see, what they change, and the replacement method against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scoresde import GaussianMixture
from scoresde.samplers import (
    DDIM,
    DEIS,
    EDM,
    AdaptiveSDE,
    Ancestral,
    AnnealedLangevin,
    DPMSolverPlusPlus,
    EulerMaruyama,
    Langevin,
    ParticleSampler,
    PredictorCorrector,
    ProbabilityFlowODE,
    ReverseDiffusion,
    ReverseSDESampler,
    UniPC,
)
from scoresde.samplers.exponential import ExponentialMultistep, ExponentialRungeKutta, Whitened
from scoresde.samplers.hooks import KeepKnown, Moment, ZeroMean
from scoresde.samplers.predictor_corrector import MALA, Resampling, SymmetricSplitting, UnderdampedLangevin
from scoresde.sde import VESDE, VPSDE, CriticallyDampedLangevin, SubVPSDE

COVARIANCE = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
DATA = GaussianMixture([[0.0, 0.0]], covariances=COVARIANCE[None])
SAMPLERS = {
    "Euler-Maruyama": EulerMaruyama(6),
    "ancestral": Ancestral(6),
    "correctors": PredictorCorrector(ReverseDiffusion(), Langevin(steps=2), 5),
    "Langevin alone": PredictorCorrector(None, AnnealedLangevin(), 5),
    "MALA": PredictorCorrector(ReverseDiffusion(), MALA(0.5, 2), 4),
    "momentum": PredictorCorrector(ReverseDiffusion(), UnderdampedLangevin(0.3, 2), 4),
    "resampling": PredictorCorrector(Ancestral(), Resampling(2), 4),
    "splitting": SymmetricSplitting(4),
    "DDIM": DDIM(steps=5),
    "UniPC": UniPC(6),
    "multistep with maps": ExponentialMultistep(5, 3, Whitened(), corrector=True),
    "multistep with noise": ExponentialMultistep(5, 2, Whitened(), eta=1.0, corrector=True),
    "single step": ExponentialRungeKutta(4),
    "DPM-Solver++": DPMSolverPlusPlus(5),
    "DEIS": DEIS(5),
    "EDM": EDM(4),
    "adaptive": AdaptiveSDE(0.2, 0.1),
}


def draw(sampler, hooks=(), sde=VPSDE(), batch=3, **options):  # noqa: B008  (frozen)
    return sampler(sde, DATA.score(sde), (batch, 2), hooks=hooks, **options)


class Same:
    """Returns the state as it is, or as a copy, and stores what it sees."""

    def __init__(self, copy: bool = False) -> None:
        self.seen: list[Moment] = []
        self.copy = copy

    def __call__(self, moment: Moment) -> Tensor:
        self.seen.append(moment)
        return moment.x.clone() if self.copy else moment.x


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_hook_that_changes_nothing_leaves_the_samples_as_they_are(name: str, copy: bool) -> None:
    plain, same = draw(SAMPLERS[name]), Same(copy)
    hooked = draw(SAMPLERS[name], [same])
    assert torch.equal(hooked.samples, plain.samples) and len(same.seen) >= 5
    extra = 0 if not copy or name not in ("MALA", "momentum") else 4  # a new state is evaluated again
    assert hooked.nfe == plain.nfe + extra


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_a_hook_sees(name: str) -> None:
    same, called = Same(), []
    draw(SAMPLERS[name], [same], callback=lambda k, t, x: called.append((k, float(t), x)))
    first, last = same.seen[0], same.seen[-1]
    assert first.step == 0 and first.data is None and bool((first.t == 1.0).all())
    assert not bool(last.t.any()), "the estimate of x_0"
    assert all(m.t.shape == (3,) and m.x.shape == (3, 2) and m.sde == VPSDE() for m in same.seen)
    assert all(bool((a.t >= b.t).all()) for a, b in zip(same.seen, same.seen[1:], strict=False))
    assert len({m.noise.seed for m in same.seen}) == len(same.seen)
    if name != "adaptive":
        assert all(m.data is not None and m.data.shape == (3, 2) for m in same.seen[1:])
        at = {(m.step, round(float(m.t[0]), 6)) for m in same.seen}
        assert {(k, round(t, 6)) for k, t, _ in called} <= at


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_change_of_a_hook_lasts(name: str) -> None:
    """Every sampler continues from the state that the hook returned. Its first coordinate would not be 3 otherwise."""
    hook = KeepKnown(torch.tensor([[3.0, 0.0]]), torch.tensor([True, False]))
    states = []
    result = draw(SAMPLERS[name], [hook], batch=2000, callback=lambda k, t, x: states.append((float(t), x)))
    assert bool((result.samples[:, 0] == 3.0).all())
    assert name == "Langevin alone" or result.samples[:, 1].mean() > 0.5, "the second coordinate follows the first"
    if name != "adaptive":
        sde = VPSDE()
        for t, x in states:
            t = torch.tensor(t, dtype=torch.float64)
            assert abs(float(x[:, 0].mean() - 3.0 * sde.alpha(t))) < 5.0 * float(sde.sigma(t)) / 2000**0.5 + 1e-3
            assert float(x[:, 0].std()) == pytest.approx(float(sde.sigma(t)), rel=0.08)


@pytest.mark.parametrize("name", ["UniPC", "multistep with noise", "EDM", "DPM-Solver++", "correctors"])
def test_steps_and_maps_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, hook = SAMPLERS[name], KeepKnown(torch.tensor([[1.0, 0.0]]), torch.tensor([True, False]))
    hooks = [hook, lambda m: m.x * 1.01]
    by_steps = draw(sampler, hooks).samples
    monkeypatch.setattr(type(sampler), "has_step", lambda self, process: False)
    torch.testing.assert_close(draw(sampler, hooks).samples, by_steps, rtol=1e-4, atol=1e-5)


def test_samples_do_not_depend_on_their_batch() -> None:
    y, known = torch.tensor([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]]), torch.tensor([True, False])
    together = draw(UniPC(8), [KeepKnown(y, known)]).samples
    for i in range(3):
        alone = draw(UniPC(8), [KeepKnown(y[i : i + 1], known)], batch=1, first=i).samples
        torch.testing.assert_close(alone, together[i : i + 1])


def test_replacement_needs_correctors_and_reaches_the_conditional_distribution_with_them() -> None:
    """For x_1 = 1 and correlation .9, the second coordinate has mean .9 and variance .19."""
    hook, found = KeepKnown(torch.tensor([[1.0, 0.0]]), torch.tensor([True, False])), {}
    for name, sampler in {
        "plain": ReverseDiffusion(60),
        "20 correctors": PredictorCorrector(ReverseDiffusion(), AnnealedLangevin(0.3, 20), 60),
        "9 resamplings": PredictorCorrector(Ancestral(), Resampling(9), 60),
    }.items():
        x = draw(sampler, [hook], batch=2000).samples[:, 1]
        found[name] = (float(x.mean()), float(x.var()))
    print(found)
    assert found["plain"][0] < 0.75 and found["plain"][1] > 0.25
    for name in ("20 correctors", "9 resamplings"):
        assert abs(found[name][0] - 0.9) < 0.06 and abs(found[name][1] - 0.19) < 0.06, name


def test_replacement_is_exact_for_independent_coordinates() -> None:
    for sde in (VPSDE(), SubVPSDE(), VESDE(0.01, 10.0)):
        score = GaussianMixture([[0.0, 0.5]], 0.8).score(sde)
        hook = KeepKnown(torch.tensor([[1.0, 0.0]]), torch.tensor([True, False]))
        x = DPMSolverPlusPlus(30)(sde, score, (4000, 2), hooks=[hook]).samples
        assert bool((x[:, 0] == 1.0).all())
        assert abs(float(x[:, 1].mean()) - 0.5) < 0.06 and abs(float(x[:, 1].std()) - 0.8) < 0.05


def test_resampling_leaves_a_standard_normal_distribution_as_it_is() -> None:
    score = GaussianMixture([[0.0, 0.0]], 1.0).score(VPSDE())
    x = PredictorCorrector(Ancestral(), Resampling(5), 20)(VPSDE(), score, (4000, 2)).samples
    assert abs(float(x.mean())) < 0.05 and abs(float(x.std()) - 1.0) < 0.03


def test_a_mask_of_t_and_a_blend() -> None:
    y = torch.tensor([[2.0, 2.0]])
    late = KeepKnown(y, lambda t: (t < 0.5).float()[:, None].expand(-1, 2))
    assert bool((draw(UniPC(8), [late]).samples == 2.0).all())
    early = KeepKnown(y, lambda t: (t > 0.9).float()[:, None].expand(-1, 2))
    assert not bool((draw(UniPC(8), [early]).samples == 2.0).any())
    half = draw(UniPC(8), [KeepKnown(y, torch.tensor([0.5, 1.0]))]).samples
    assert bool((half[:, 1] == 2.0).all()) and not bool((half[:, 0] == 2.0).any())


def test_images_and_masks_that_broadcast() -> None:
    data = GaussianMixture(torch.zeros(1, 16), 1.0)
    score = lambda x, t: data.score(VPSDE())(x.flatten(1), t).reshape(x.shape)  # noqa: E731
    y = torch.linspace(-1.0, 1.0, 16).reshape(1, 1, 4, 4)
    known = torch.zeros(4, 4, dtype=torch.bool)
    known[:, 2:] = True
    x = UniPC(6)(VPSDE(), score, (3, 1, 4, 4), hooks=[KeepKnown(y, known)]).samples
    assert torch.equal(x[..., 2:], y[..., 2:].expand(3, -1, -1, -1))


def test_zero_mean() -> None:
    data = GaussianMixture(torch.zeros(1, 12), 1.0)
    score = lambda x, t: data.score(VPSDE())(x.flatten(1), t).reshape(x.shape)  # noqa: E731
    seen = []
    x = DPMSolverPlusPlus(40, eta=1.0)(
        VPSDE(), score, (500, 4, 3), hooks=[ZeroMean()], callback=lambda k, t, x: seen.append(x.mean(1))
    ).samples
    assert float(torch.stack(seen).abs().max()) < 1e-5 and float(x.mean(1).abs().max()) < 1e-5
    assert float(x.var()) == pytest.approx(0.75, rel=0.05), "4 atoms without a common position: 3/4 of the variance"


def test_without_an_estimate_of_the_data_the_last_call_is_at_the_last_time() -> None:
    same = Same()
    draw(UniPC(4, denoise=False), [same])
    assert len(same.seen) == 5 and float(same.seen[-1].t[0]) > 0.0


def test_half_precision() -> None:
    hook = KeepKnown(torch.tensor([[1.0, 0.0]]), torch.tensor([True, False]))
    result = draw(UniPC(6), [hook], dtype=torch.bfloat16)
    assert result.samples.dtype == torch.bfloat16 and bool((result.samples[:, 0] == 1.0).all())


@pytest.mark.parametrize(
    ("hooks", "error", "message"),
    [
        (KeepKnown(torch.zeros(1, 2), torch.ones(2)), TypeError, r"hooks=.* is not allowed: give a list of hooks"),
        ([3], TypeError, r"hooks has 3, which cannot be called"),
        ([lambda m: None], TypeError, r"hook .* returned None: return the state"),
        ([lambda m: m.x[:, :1]], ValueError, r"of shape \(3, 1\): return torch.float32 of shape \(3, 2\)"),
        ([lambda m: m.x.double()], ValueError, r"returned torch.float64"),
        (
            [KeepKnown(torch.zeros(1, 3), torch.ones(3))],
            ValueError,
            r"y has shape \(1, 3\) for states of shape \(3, 2\)",
        ),
        (
            [KeepKnown(torch.zeros(2, 2), torch.ones(2))],
            ValueError,
            r"y has shape \(2, 2\) for states of shape \(3, 2\)",
        ),
        ([KeepKnown(torch.zeros(1, 2), lambda t: t)], ValueError, r"known has shape \(3,\)"),
        ([ZeroMean()], ValueError, r"dims=\(-2,\) is not allowed for events \(2,\)"),
        ([lambda m: m.x.clamp_(-1.0, 1.0)], ValueError, r"hook .* changed moment.x or moment.data in place"),
        ([lambda m: m.x if m.data is None else m.x + m.data.zero_()], ValueError, r"moment.data in place"),
    ],
)
def test_wrong_hooks(hooks, error, message: str) -> None:
    with pytest.raises(error, match=message):
        draw(UniPC(4), hooks)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: KeepKnown(torch.zeros(1, 2), torch.ones(3)),
            ValueError,
            r"known has shape \(3,\) and y has shape \(1, 2\)",
        ),
        (
            lambda: KeepKnown(torch.zeros(1, 2), torch.tensor([0.0, 2.0])),
            ValueError,
            r"known has values outside of \[0, 1\]",
        ),
        (lambda: KeepKnown(torch.full((1, 2), torch.nan), torch.ones(2)), ValueError, r"y "),
        (lambda: KeepKnown(torch.zeros(1, 2), 1.0), TypeError, r"known=1.0 is not allowed: give a torch.Tensor"),
        (lambda: ZeroMean((0,)), ValueError, r"dims=\(0,\) is not allowed"),
        (lambda: ZeroMean(()), ValueError, r"dims=\(\) is not allowed"),
        (lambda: ZeroMean((-1, -1)), ValueError, r"dims=\(-1, -1\) is not allowed: give each dimension once"),
    ],
)
def test_wrong_arguments(call, error, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_samplers_without_steps_of_their_own_refuse_hooks() -> None:
    for sampler in (ProbabilityFlowODE(), ReverseSDESampler(), ParticleSampler(4, 3, log_likelihood=lambda x: x[:, 0])):
        with pytest.raises(TypeError, match=r"does not take hooks: use a sampler with a grid"):
            draw(sampler, [ZeroMean((-1,))])


def test_processes_that_do_not_fit() -> None:
    sde = CriticallyDampedLangevin()
    score = lambda x, t: -x  # noqa: E731
    with pytest.raises(ValueError, match="auxiliary components"):
        EulerMaruyama(3)(sde, score, (2, 2), hooks=[KeepKnown(torch.zeros(1, 2), torch.ones(2))])
    with pytest.raises(TypeError, match=r"Resampling\(steps=1\) does not fit"):
        PredictorCorrector(EulerMaruyama(), Resampling(), 3)(sde, score, (2, 2))
