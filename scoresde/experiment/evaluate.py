"""What is done with a trained model: samples and likelihoods, each with all that is needed to say how they came about."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from scoresde.experiment.checkpoint import write_atomic
from scoresde.experiment.experiment import Experiment
from scoresde.experiment.pictures import event_picture
from scoresde.experiment.workdir import Workdir
from scoresde.likelihood import bits_per_dim, bits_per_dim_error, log_likelihood
from scoresde.noise import NoiseSource

ROW = ("index", "draw", "nats", "bits_per_dim", "trace_error", "nfe", "seed")


def sample(experiment: Experiment, workdir: Workdir) -> dict[str, Path]:
    """Draw ``sampling.count`` samples with every sampler of the config, EMA weights; files in samples/. Returns the pictures."""
    experiment.use_threads()
    model, checkpoint = workdir.model(experiment)
    plan, pictures = experiment.sampling, {}
    for name, sampler in experiment.samplers.items():
        started, parts, nfe = time.perf_counter(), [], 0
        for first in tqdm(
            range(0, plan.count, plan.batch_size), desc=f"sample {name}", unit="batch", dynamic_ncols=True
        ):
            size = min(plan.batch_size, plan.count - first)
            result = sampler(
                model.sde, model, (size, *experiment.data.event_shape), seed=plan.seed, first=first,
                device=experiment.device,
            )  # fmt: skip
            parts.append(result.samples.cpu())
            nfe = max(nfe, result.nfe)
        x = torch.cat(parts)
        seconds = time.perf_counter() - started
        raw = experiment.data.transform.decode(x)
        file = io.BytesIO()
        np.savez_compressed(file, x=x.numpy(), raw=raw.numpy())
        write_atomic(workdir.samples / f"{name}.npz", file.getvalue())
        pictures[name] = workdir.samples / f"{name}.png"
        write_atomic(pictures[name], event_picture(raw, experiment.data.transform))
        facts = {
            "sampler": repr(sampler), "count": plan.count, "seed": plan.seed, "nfe": nfe, "seconds": round(seconds, 2),
            "checkpoint": checkpoint.path.name, "weights": "ema",
        }  # fmt: skip
        _write_json(workdir.samples / f"{name}.json", facts)
        workdir.log(f"{workdir.path}: {plan.count} samples by {name}, {nfe} evaluations, {seconds:.1f} s")
    return pictures


def likelihood(experiment: Experiment, workdir: Workdir) -> dict[str, Any]:
    """Log-likelihood of a split with EMA weights: a row for each event and draw, and a summary. Returns the summary."""
    experiment.use_threads()
    model, checkpoint = workdir.model(experiment)
    plan, data = experiment.likelihood, getattr(experiment.data, experiment.likelihood.split)
    count = min(plan.limit, len(data)) if plan.limit else len(data)
    started, rows, nfe_sum = time.perf_counter(), [], 0
    batches = [(d, i) for d in range(plan.draws) for i in range(0, count, plan.batch_size)]
    for draw, first in tqdm(batches, desc=f"likelihood {plan.split}", unit="batch", dynamic_ncols=True):
        index = torch.arange(first, min(first + plan.batch_size, count))
        x = data.encode(index, seed=plan.seed, draw=draw).to(experiment.device)
        # probes are keyed like the dequantisation, by event; each draw has its own
        noise = NoiseSource((plan.seed + draw) % 2**64, index.to(experiment.device))
        result = log_likelihood(
            model.sde, model, x, solver=plan.solver, divergence=plan.divergence, t_min=plan.t_min, noise=noise
        )
        nfe_sum += result.nfe
        rows += _rows(index, draw, result.log_prob, result.standard_error, data, result.nfe, plan.seed)
    seconds = time.perf_counter() - started
    summary = {
        **_statistics(rows, count, plan.draws, discrete=data.transform.discrete),
        "split": plan.split, "events": count, "draws": plan.draws, "seed": plan.seed,
        "data": data.name, "data digest": data.digest(), "transform": repr(data.transform),
        "solver": repr(plan.solver), "divergence": repr(plan.divergence), "t_min": plan.t_min,
        "mean nfe": nfe_sum / len(batches), "seconds": round(seconds, 2),
        "checkpoint": checkpoint.path.name, "weights": "ema",
    }  # fmt: skip
    text = io.StringIO()
    writer = csv.DictWriter(text, ROW)
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(workdir.likelihood / f"{plan.split}.csv", text.getvalue().encode())
    _write_json(workdir.likelihood / f"{plan.split}.json", summary)
    workdir.log(f"{workdir.path}: {describe(summary)}, {summary['mean nfe']:.0f} evaluations, {seconds:.1f} s")
    return summary


def describe(summary: dict[str, Any]) -> str:
    """One line: the figure with its standard error and unit."""
    unit = "bits/dim" if "bits_per_dim" in summary else "nats"
    value, error = (
        summary[k] for k in (("bits_per_dim", "standard_error") if unit != "nats" else ("nats", "nats_error"))
    )
    return f"{value:.4f} +- {error:.4f} {unit} on {summary['events']} {summary['split']} events"


def _rows(
    index: Tensor, draw: int, nats: Tensor, error: Tensor, data: Any, nfe: int, seed: int
) -> list[dict[str, Any]]:
    shape = data.event_shape
    bits = bits_per_dim(nats, shape, data.transform) if data.transform.discrete else torch.full_like(nats, math.nan)
    trace = bits_per_dim_error(error, shape) if data.transform.discrete else error
    columns = zip(index.tolist(), nats.tolist(), bits.tolist(), trace.tolist(), strict=True)
    return [dict(zip(ROW, (i, draw, n, b, e, nfe, seed), strict=True)) for i, n, b, e in columns]


def _statistics(rows: list[dict[str, Any]], count: int, draws: int, discrete: bool) -> dict[str, float]:
    """Means over events, and the standard error of the mean over events (their draws averaged first).

    It holds everything that varies from event to event: the events themselves, dequantisation and trace noise.
    """

    def mean_and_error(key: str) -> tuple[float, float]:
        values = np.array([row[key] for row in rows]).reshape(draws, count).mean(0)
        return float(values.mean()), float(values.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan

    nats, nats_error = mean_and_error("nats")
    found = {"nats": nats, "nats_error": nats_error}
    if discrete:
        found["bits_per_dim"], found["standard_error"] = mean_and_error("bits_per_dim")
    return found


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())
