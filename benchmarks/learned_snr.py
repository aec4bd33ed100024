"""The variance of the likelihood-weighted loss under the learned schedule of a run, and under the schedule that it started from.

    scoresde train --config configs/vp/digits_learned_snr.py --workdir runs/learned_snr
    python benchmarks/learned_snr.py runs/learned_snr

Both use the same trained network, whose label is ln(sigma / alpha), so that only the schedule differs. The loss is that of test
digits, the mean over coordinates in nats. Its mean is taken at stratified times, its variance at independent ones.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from scoresde.experiment import Experiment, Workdir, load_config
from scoresde.losses import DenoisingScoreMatching
from scoresde.score import ScoreModel
from scoresde.sde import LearnedSNRSDE, LinearSDE

DRAWS = 40
"""Draws of time and noise for each digit."""
BATCHES, SIZE = 5, 70
"""Number of batches and digits in a batch."""


def losses(model: ScoreModel, sde: LinearSDE, x0: Tensor, stratified: bool) -> Tensor:
    """The loss of each digit and draw, (DRAWS, B)."""
    made = ScoreModel(model.network, sde, model.prediction, label=model.label, data_std=model.data_std)
    objective, n = DenoisingScoreMatching(sde, "likelihood", seed=7), len(x0) * DRAWS
    t = (torch.randperm(n, generator=torch.Generator().manual_seed(0)) + 0.5).reshape(DRAWS, -1) / n
    with torch.no_grad():
        found = [objective(made, x0, t=t[k].clamp(min=1e-5) if stratified else None, step=k) for k in range(DRAWS)]
    return torch.stack(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", help="the work folder of the run")
    workdir = Workdir(parser.parse_args().workdir)
    experiment = Experiment.from_config(load_config(workdir.config_file))
    experiment.use_threads()
    model, _ = workdir.model(experiment)
    learned = model.sde
    assert isinstance(learned, LearnedSNRSDE)
    ends = (-learned.gamma(torch.tensor([0.0, 1.0]))).tolist()
    start = LearnedSNRSDE(*ends).requires_grad_(False)
    x0 = experiment.data.test.encode(slice(BATCHES * SIZE), seed=0)
    rows = {}
    for name, sde in (("start", start), ("learned", learned)):
        mean = losses(model, sde, x0, stratified=True)
        one = losses(model, sde, x0, stratified=False)
        rows[name] = (float(mean.mean()), float(one.var()), float(one.reshape(-1, SIZE).mean(1).var()))
        error = float(mean.mean(1).std()) / DRAWS**0.5
        average, each, batch = rows[name]
        print(f"{name:8} mean {average:.4f} +- {error:.4f}, variance {each:.4f}, of means of {SIZE} {batch:.5f}")
    (mean, variance, of_means), (new_mean, new_variance, new_of_means) = rows["start"], rows["learned"]
    print(
        f"variance {variance / new_variance:.2f} times smaller, of means of {SIZE} {of_means / new_of_means:.2f} times;"
    )
    print(f"mean changed by {100 * (new_mean / mean - 1):+.2f} %")
    t = torch.linspace(0, 1, 6)
    print("ln SNR at t = 0, .2, ..., 1:", [round(v, 2) for v in learned.log_snr(t).tolist()])


if __name__ == "__main__":
    main()
