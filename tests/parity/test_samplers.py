"""parity/samplers.npz: every single update, the grids, whole predictor-corrector trajectories, the ODE sampler."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from scoresde.noise import NoiseSource
from scoresde.samplers import (
    Ancestral,
    AnnealedLangevin,
    EulerMaruyama,
    PredictorCorrector,
    ProbabilityFlowODE,
    ReferenceDiscretization,
    ReverseDiffusion,
)
from scoresde.samplers.base import CountedScore
from scoresde.samplers.grid_sampler import Model
from scoresde.samplers.instants import Instant, Interval
from scoresde.samplers.predictor_corrector import BatchLangevin
from scoresde.score import ScoreModel, SigmaLabel, TimeLabel

from .common import SDES, arrays, deviation, make_sde, meta, net_rule, tensor

DATA = arrays("samplers")
SHORT = meta()["short_sdes_for_trajectories"]
PREDICTORS = {"euler_maruyama": EulerMaruyama, "reverse_diffusion": ReverseDiffusion, "ancestral_sampling": Ancestral}
CORRECTORS = {"langevin": BatchLangevin, "ald": AnnealedLangevin}


def score(x, t):
    return -x * (1 + t.reshape(-1, 1, 1, 1))


def make_predictor(name, kind, flow=False):
    if name == "ancestral_sampling":
        return Ancestral(variance="lower" if kind == "ve" else "upper")
    return PREDICTORS[name](flow=flow)


def per_example_step(spec, t):
    """The reference's step at a time of its own for each example, as `ReferenceDiscretization` has it for a grid.

    Tensors (B, 1, 1, 1) stand for the numbers of an interval.
    """
    sde = make_sde(**spec)
    chain = sde.discretize(spec["N"])
    step, marginal = chain.step(t), chain.kernel(t.double())

    def column(values):
        return values.reshape(-1, 1, 1, 1).to(t)

    alpha, sigma, a, std = (column(v) for v in (marginal.a, marginal.std, step.a, step.std))
    before = ((column(marginal.std.double() ** 2 - step.std.double() ** 2)).clamp(min=0.0)) ** 0.5 / a
    drift, g = column(sde.drift_coefficient(t)), column(sde.diffusion(t))
    at = Instant(t, alpha, sigma, None, drift, g, t, t)
    to = Instant(t, alpha / a, before, None, drift, g, t, t)
    return sde, Interval(0, at, to, 1.0 / spec["N"], a, std, column(sde.sigma(t)))


SINGLE = sorted({key.rsplit("/", 1)[0] for key in DATA if key.startswith("single/")})


@pytest.mark.parametrize("key", SINGLE)
def test_single_update(key, worst):
    _, name, method, variant = key.split("/")
    x, t = tensor(DATA["x"]), tensor(DATA["t"])
    sde, interval = per_example_step(SDES[name], t)
    model = Model(CountedScore(score), sde)
    if method in PREDICTORS:
        predictor = make_predictor(method, SDES[name]["kind"], flow=variant == "pf1")
        # the reference's probability-flow form of reverse diffusion adds zero times a normal
        z = tensor(DATA["single_noise"]) if predictor.stochastic else None
        x_next, x_mean, _ = predictor.step(model, x, interval, z, None)
    else:
        corrector, x_next = CORRECTORS[method](snr=0.16), x
        for z in tensor(DATA[f"corrector_noise_{variant}"]):
            x_next, x_mean, _ = corrector.step(model, x_next, interval, z, None)
    for found, what in ((x_next, "x_next"), (x_mean, "x_mean")):
        error = deviation(found, DATA[f"{key}/{what}"])
        worst("samplers single updates", error)
        # ve348: the reference takes sigma_i^2 - sigma_(i-1)^2 in float32, which keeps a hundredth of its terms
        assert error < (2e-5 if name == "ve348" else 1e-5), what


def test_every_single_update_of_the_data_is_tested():
    assert len(SINGLE) == sum(key.startswith("single/") and key.endswith("/x_next") for key in DATA) >= 20


@pytest.mark.parametrize("name", ["vp_N1000_eps1e-3", "ve_N1000_eps1e-5", "ve_N2000_eps1e-5"])
def test_grids(name):
    kind, steps, eps = name.split("_")
    steps, eps = int(steps[1:]), float(eps[3:])
    sde = make_sde(**SDES["vp" if kind == "vp" else "ve50"])
    times = ReferenceDiscretization(steps, eps).transitions(sde).times[:-1]
    assert np.allclose(times.numpy(), DATA[f"grid/{name}/t"], atol=1e-7)
    index = sde.discretize(steps).index(times)
    assert np.array_equal(index.numpy(), DATA[f"grid/{name}/index"])
    label = TimeLabel(steps - 1.0, descending=True, whole=True)(sde, times)
    assert np.array_equal(label.long().numpy(), DATA[f"grid/{name}/ve_label"])


class ShortNetwork(torch.nn.Module):
    """The trajectories' networks; keeps the labels that it was given."""

    def __init__(self, kind, continuous):
        super().__init__()
        self.kind, self.continuous, self.labels = kind, continuous, []

    def forward(self, x, label):
        self.labels.append(label.float())
        if self.kind != "ve":
            return net_rule(x, label)
        low, high, n = SHORT["ve"]["p0"], SHORT["ve"]["p1"], SHORT["ve"]["N"]
        s = label if self.continuous else high * (low / high) ** (label / (n - 1))
        s = s.reshape(-1, 1, 1, 1)
        return -x / (1 + s**2) + 0.1 * torch.tanh(x) / (1 + s)


def short_model(kind, continuous):
    spec = SHORT[kind]
    sde, n = make_sde(**spec), spec["N"]
    network = ShortNetwork(kind, continuous)
    process = sde if continuous else sde.discretize(n)
    if kind == "ve":
        label = SigmaLabel() if continuous else TimeLabel(n - 1.0, descending=True, whole=True)
        return ScoreModel(network, process, "score", label=label, data_std=None)
    return ScoreModel(network, process, "noise", label=TimeLabel(999.0 if continuous else n - 1.0), data_std=None)


class Replay(NoiseSource):
    """Hands out the reference's draws in their order."""

    def __init__(self, draws):
        super().__init__(0, torch.arange(draws.shape[1]))
        object.__setattr__(self, "draws", iter(draws))

    def normal(self, event_shape, *, step, purpose, dtype):
        return next(self.draws).to(dtype)


TRAJECTORIES = sorted({key.split("/")[1] for key in DATA if key.startswith("traj/")})


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_trajectory(name, worst):
    key = f"traj/{name}"
    config = json.loads(str(DATA[f"{key}/config"]))
    kind = config["sde"]
    model = short_model(kind, config["continuous"])
    sde = make_sde(**SHORT[kind])
    predictor = None
    if config["predictor"] != "none":
        predictor = make_predictor(config["predictor"], kind, flow=config["probability_flow"])
    corrector = None
    if config["corrector"] != "none":
        corrector = CORRECTORS[config["corrector"]](config["snr"], config["n_steps"])
    draws = tensor(DATA[f"{key}/noise"])
    if config["probability_flow"]:  # the reference draws a normal that it multiplies by zero; we draw none
        draws = draws[:1]
    sampler = PredictorCorrector(
        predictor,
        corrector,
        steps=ReferenceDiscretization(SHORT[kind]["N"], config["eps"]),
        # without a predictor the reference's "mean" is the noisy state
        denoise=config["denoise"] and predictor is not None,
    )
    states = []
    result = sampler(sde, model, (2, 3, 4, 4), noise=Replay(draws), callback=lambda k, t, x: states.append(x.clone()))
    states = states[1:]  # without the start
    for k, state in enumerate(states):
        error = deviation(state, DATA[f"{key}/after_predictor"][k])
        worst("samplers trajectories, every step", error)
        assert error < 2e-5, k
    sample = (result.samples + 1) / 2 if config["centered"] else result.samples
    error = deviation(sample, DATA[f"{key}/sample"])
    worst("samplers trajectories, samples", error)
    assert error < 2e-5
    assert result.nfe == int(DATA[f"{key}/net_calls"])
    labels = torch.stack(model.network.labels).numpy()
    assert np.allclose(labels, DATA[f"{key}/net_labels"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("denoise", "01")
@pytest.mark.parametrize("kind", ["vp", "subvp", "ve"])
def test_probability_flow_ode(kind, denoise, worst):
    key = f"ode/{kind}/denoise{denoise}"
    model, sde = short_model(kind, True), make_sde(**SHORT[kind])
    t_min = 1e-5 if kind == "ve" else 1e-3
    start = tensor(DATA[f"{key}/z"])
    result = ProbabilityFlowODE(t_min=t_min, denoise=False)(sde, model, tuple(start.shape), start=start)
    x = result.samples
    if denoise == "1":  # the reference's way: one step of reverse diffusion from its table, without noise
        step = ReferenceDiscretization(SHORT[kind]["N"], t_min).transitions(sde).steps(x)[-1]
        t = step.t.expand(len(x))
        x = ReverseDiffusion().map_step(sde, step, x, model(x, t), torch.zeros_like(x))[1]
    sample = x if kind == "ve" else (x + 1) / 2
    error = deviation(sample, DATA[f"{key}/sample"])
    worst("samplers probability-flow ODE", error)
    assert error < 1e-4
    assert abs(result.nfe - int(DATA[f"{key}/nfe"])) <= 12
