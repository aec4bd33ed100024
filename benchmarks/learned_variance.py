"""Learned variances: the cost of a hybrid step, the variance of gradients with importance sampling, and digits at equal time.

    python benchmarks/learned_variance.py cost
    python benchmarks/learned_variance.py gradient
    python benchmarks/learned_variance.py digits --seconds 180

``cost`` takes turns with training steps by the simple and the hybrid loss, on the networks of configs/vp/digits_improved.py and
of configs/vp/ddpm/cifar10_improved.py with ``--channels`` channels, and prints the medians of the processor time and their ratio.

``gradient`` trains the digits network on L_vlb, fills the history of ``ImportanceTimes``, and prints the mean square of the
gradient's deviation from its mean over batches, for uniform instants and for importance sampling, and their ratio.

``digits`` trains the models of configs/vp/digits.py and configs/vp/digits_improved.py in turns, each for the given seconds of
processor time, and prints the bits/dim of test digits: of the dequantized density by the flow for the first, and of the levels by
the variational bound for the second, with all instants and with 50, for its own variance, a measured one, and beta. A change of
``--seconds`` changes the number of steps, to which the learning rate falls to 0.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from scoresde.experiment import Experiment, load_config
from scoresde.experiment.config.builder import build
from scoresde.experiment.config.experiment import build_model
from scoresde.experiment.config.loader import apply_overrides
from scoresde.experiment.config.trained import with_modules
from scoresde.experiment.training.distributed import Group
from scoresde.experiment.training.trainer import Trainer
from scoresde.likelihood import Hutchinson, Multistep, bits_per_dim, log_likelihood, variational_bound
from scoresde.losses import DenoisingScoreMatching, HybridLoss, ImportanceTimes, VariationalLoss
from scoresde.score import AnalyticVariance, GaussianVariance, LearnedVarianceModel, denoising_errors
from scoresde.sde import SDE

CONFIGS = Path(__file__).parents[1] / "configs" / "vp"


def trainer(name: str, **values: object) -> Trainer:
    """A trainer of a config with other values."""
    config = load_config(CONFIGS / f"{name}.py")
    apply_overrides(config, {key: str(value) for key, value in {"device": "cpu", **values}.items()})
    made = Experiment.from_config(config)
    return Trainer(made, Group(0, 1, made.device))


def advance(run: Trainer) -> float:
    """Run a step and return its processor time in seconds."""
    started = time.process_time()
    run.update(*run.experiment.data.train.batch(run.step, run.config.batch_size, seed=0))
    return time.process_time() - started


def networks(channels: int) -> dict[str, tuple[LearnedVarianceModel, Tensor]]:
    """The model of each config and a batch of random data."""
    found = {}
    for name, batch, event in (("digits_improved", 64, (1, 8, 8)), ("ddpm/cifar10_improved", 8, (3, 32, 32))):
        content = load_config(CONFIGS / f"{name}.py").to_dict()
        if channels and name != "digits_improved":
            content["network"]["channels"] = channels

        class Data:
            event_shape, transform, kinds = event, None, {}

        model = build_model(content, Data(), build(content["sde"], "sde", SDE), 0)  # type: ignore[arg-type]
        assert isinstance(model, LearnedVarianceModel)
        found[name] = model.train(), torch.rand(batch, *event) * 2.0 - 1.0
    return found


def cost(options: argparse.Namespace) -> None:
    """Medians of the processor time of a step with each loss."""
    for name, (model, x) in networks(options.channels).items():
        losses = {"simple": DenoisingScoreMatching(model.sde), "hybrid": HybridLoss(model.sde)}
        optimizer, spent = torch.optim.Adam(model.parameters(), lr=1e-4), {key: list[float]() for key in losses}
        for round_ in range(options.rounds + 1):
            for key, loss in losses.items():
                started = time.process_time()
                optimizer.zero_grad(set_to_none=True)
                loss(model, x, step=round_).mean().backward()
                optimizer.step()
                if round_:
                    spent[key].append(time.process_time() - started)
        simple, hybrid = (statistics.median(spent[key]) for key in losses)
        ratio = statistics.median(b / a for a, b in zip(spent["simple"], spent["hybrid"], strict=True))
        print(
            f"{name}: simple {1e3 * simple:.1f} ms, hybrid {1e3 * hybrid:.1f} ms, ratio of medians {hybrid / simple:.3f}, median "
            f"of ratios {ratio:.3f}",
            flush=True,
        )


def gradient(options: argparse.Namespace) -> None:
    """Variance of the gradient of L_vlb over batches, with uniform instants and with importance sampling."""
    steps = options.instants
    run = trainer(
        "digits_improved",
        **{"objective.name": "VariationalLoss", "training.steps": options.steps, "model.steps": steps},
    )
    for _ in range(options.steps):
        advance(run)
    model, chain, data = run.model, run.model.sde, run.experiment.data
    times = ImportanceTimes()
    loss = VariationalLoss(chain, data.transform, seed=1)
    with torch.no_grad():
        for step in range(times.history):  # one loss of each instant
            t = chain.time(torch.arange(steps)).float()
            x = data.train.encode(torch.arange(steps) % len(data.train), seed=step)
            pairs = zip(x.split(250), t.split(250), strict=True)
            times.observe(chain, t, torch.cat([loss(model, a, t=b, step=step) for a, b in pairs]))
    parameters = [p for p in model.network.parameters() if p.requires_grad]

    def variance(objective: VariationalLoss) -> tuple[float, float]:
        rows = []
        for step in range(options.batches):
            x = data.train.batch(10_000 + step, 64, seed=0)[0]
            slopes = torch.autograd.grad(objective(model, x, step=step).mean(), parameters)
            rows.append(torch.cat([slope.flatten() for slope in slopes]))
        found = torch.stack(rows)
        return float(found.var(0).sum()), float(found.mean(0).norm())

    uniform = variance(VariationalLoss(chain, data.transform, seed=2))
    drawn = variance(VariationalLoss(chain, data.transform, times=times, seed=2))
    print(
        f"L_vlb after {options.steps} steps, {steps} instants: variance of the gradient over {options.batches} batches"
    )
    print(
        f"uniform {uniform[0]:.4g}, importance {drawn[0]:.4g}, ratio {uniform[0] / drawn[0]:.2f}; norms of the means "
        f"{uniform[1]:.4g}, {drawn[1]:.4g}"
    )


def digits(options: argparse.Namespace) -> None:
    """Bits/dim of test digits after equal processor time."""
    names = ("digits", "digits_improved")
    probes = {name: trainer(name) for name in names}
    each = dict.fromkeys(names, 0.0)
    for k in range(4):
        for name in names:
            each[name] += advance(probes[name]) / 3 * bool(k)
    runs = {
        name: trainer(
            name, **{"training.steps": max(20, round(options.seconds / each[name])), "training.ema_decay": 0.98}
        )
        for name in names
    }
    spent = dict.fromkeys(names, 0.0)
    while any(run.step < run.config.steps for run in runs.values()):
        for name, run in runs.items():
            if run.step < run.config.steps:
                spent[name] += advance(run)
    models = {}
    for name, run in runs.items():
        print(f"{name}: {run.step} steps in {spent[name]:.0f} s of processor time", flush=True)
        models[name] = with_modules(run.model, run.trained, run.averages[0].module).eval().requires_grad_(False)
    data = runs["digits"].experiment.data
    x, event = data.test.encode(torch.arange(options.events), seed=0), data.event_shape
    flow = log_likelihood(
        models["digits"].sde, models["digits"], x, solver=Multistep(nodes=32), divergence=Hutchinson(), t_min=1e-4
    )
    _print("flow, dequantized", bits_per_dim(flow.log_prob, event, data.transform))
    model = models["digits_improved"]
    chain = model.sde
    assert isinstance(model, LearnedVarianceModel)
    instants = torch.linspace(0, chain.steps - 1, 24).round().long()
    errors = denoising_errors(chain, model, data.train.encode(torch.arange(64), seed=0), chain.time(instants))
    measured = AnalyticVariance.of(chain, errors)
    few = chain.time(torch.linspace(0, chain.steps - 1, 51).round().long())
    for label, variance in (("own variance", "model"), ("measured", measured), ("beta", GaussianVariance(1.0))):
        for times, draws in ((None, 40), (few, None)):
            bound = variational_bound(
                chain, model, x, times, variance=variance, transform=data.transform, draws=draws, replicates=1
            )
            _print(f"bound, {label}, {chain.steps - 1 if times is None else 50} steps", bound.bits_per_dim)


def _print(label: str, bits: Tensor | None) -> None:
    """Print a mean and its standard error over the events."""
    assert bits is not None
    print(f"{label}: {float(bits.mean()):.3f} +- {float(bits.std() / len(bits) ** 0.5):.3f} bits/dim", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("cost", "gradient", "digits"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--instants", type=int, default=1000)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--events", type=int, default=48)
    options = parser.parse_args()
    torch.set_num_threads(1)
    {"cost": cost, "gradient": gradient, "digits": digits}[options.part](options)


if __name__ == "__main__":
    main()
