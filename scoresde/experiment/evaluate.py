"""Samples of a trained model, with all that is needed to say how they came about. Likelihoods: weigh.py."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from scoresde._files import write_atomic
from scoresde.experiment.experiment import Experiment
from scoresde.experiment.pictures import event_picture
from scoresde.experiment.workdir import Workdir


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


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())
