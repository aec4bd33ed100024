"""Pictures of samples during training, with the raw and with the averaged weights, or texts for data that is text.

    previews/step-000000500-raw.png, -ema.png, and .npz with the numbers and the picture's digest; .txt in place of .png for text

A broken average is visible within minutes. The samples are drawn with the config's first sampler, with `STEPS` steps if
it has a number of steps, with keyed noise and a copy of the weights. They do not change the run.
"""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from scoresde._files import bytes_digest, write_atomic
from scoresde.experiment.config.condition_values import sample_conditions
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.families import AnySampler, SampledModel, process_of
from scoresde.experiment.config.targets import as_sampled
from scoresde.experiment.config.trained import with_modules
from scoresde.experiment.folder.shown_events import PICTURE, TEXT, is_text, shown_events
from scoresde.experiment.folder.workdir import Workdir
from scoresde.experiment.training.trainer import Trainer
from scoresde.jump import GridJumpSampler
from scoresde.product import ProductSampler
from scoresde.samplers import ParticleSampler, ReferenceDiscretization, UniPC
from scoresde.samplers.base import SampleResult
from scoresde.samplers.fitted import UnfittedSampler
from scoresde.samplers.grid_sampler import GridSampler
from scoresde.solvers import SolverError

COUNT, STEPS = 16, 20


def is_due(step: int, every: int) -> bool:
    """Whether a preview is drawn after ``step`` steps: at multiples of ``every``, and at 1/25 and 1/5 of it."""
    return bool(every) and (step % every == 0 or step in (every // 25, every // 5))


def is_missing(experiment: Experiment, workdir: Workdir, step: int) -> bool:
    """Whether files of a preview that is due after ``step`` steps are missing."""
    if not step or not _has_samples(experiment) or not is_due(step, experiment.training.preview_every):
        return False
    places = [workdir.previews / f"step-{step:09d}-{name}" for name in ("raw", "ema")]
    kinds = (".npz", TEXT if is_text(experiment.data) else PICTURE)
    return not all(place.with_suffix(kind).is_file() for place in places for kind in kinds)


def _has_samples(experiment: Experiment) -> bool:
    """Whether there are samples to show: the model has samples, and the config has a sampler."""
    return isinstance(experiment.model, SampledModel) and bool(experiment.samplers)


def write_preview(experiment: Experiment, workdir: Workdir, trainer: Trainer) -> dict[str, Path]:
    """Draw samples and write the pictures or texts of a step. Returns them by name, for loggers.

    If samples cannot be drawn yet, this is logged and training continues.
    """
    if not _has_samples(experiment):
        return {}
    pictures: dict[str, Path] = {}
    sampler = next(iter(experiment.samplers.values()))
    for name, modules in (("raw", trainer.trained), ("ema", trainer.averages[0].module)):
        try:
            x = _draw(experiment, trainer, sampler, modules)
            raw = experiment.data.transform.decode(x)
        except (FloatingPointError, SolverError, ValueError, torch.OutOfMemoryError) as problem:
            workdir.log(f"{workdir.path}: no {name} preview at step {trainer.step}: {problem}")
            continue
        file, (ending, picture) = io.BytesIO(), shown_events(experiment.data, raw)
        place = workdir.previews / f"step-{trainer.step:09d}-{name}{ending}"
        np.savez_compressed(file, x=x.numpy(), raw=raw.numpy(), picture=bytes_digest(picture))
        write_atomic(place.with_suffix(".npz"), file.getvalue())
        write_atomic(place, picture)
        pictures[f"samples/{name}"] = place
        if name == "ema":
            workdir.log(f"{workdir.path}: samples at step {trainer.step} in {place.relative_to(workdir.path)}")
    return pictures


def _draw(experiment: Experiment, trainer: Trainer, sampler: AnySampler, modules: nn.Module) -> torch.Tensor:
    model = with_modules(as_sampled(trainer.model), trainer.trained, copy.deepcopy(modules))
    model.eval().requires_grad_(False)
    shape, config = (COUNT, *experiment.data.event_shape), experiment.sampling
    given = {k: v.to(trainer.group.device) for k, v in sample_conditions(experiment, 0, COUNT).items()}
    for made in (with_steps(sampler, STEPS), sampler):
        try:
            draw: Callable[..., SampleResult] = made
            result = draw(
                process_of(model), model, shape, condition=given, seed=config.seed, device=trainer.group.device
            )
        except ValueError:  # a grid with a fixed number of steps
            if made is sampler:
                raise
            continue
        if result.interrupted:  # the sampler caught the second signal, which must end the run at once
            raise KeyboardInterrupt
        return result.samples.cpu()
    raise AssertionError("unreachable")


def with_steps(sampler: AnySampler, steps: int) -> AnySampler:
    """The sampler with at most ``steps`` steps, if it has a number of steps.

    A sampler that would be fitted first is replaced by UniPC, and one of particles by its predictor: previews are not guided.
    """
    if isinstance(sampler, UnfittedSampler):
        return UniPC(steps, t_min=sampler.t_min)
    if isinstance(sampler, ParticleSampler):
        return with_steps(sampler.prior, steps)
    own = sampler.steps if isinstance(sampler, GridSampler | GridJumpSampler | ProductSampler) else ()
    fewer: int | ReferenceDiscretization = steps
    if isinstance(own, ReferenceDiscretization) and own.steps > steps:
        fewer = dataclasses.replace(own, steps=steps)
    elif not isinstance(own, int) or own <= steps:
        return sampler
    made = copy.copy(sampler)
    object.__setattr__(made, "steps", fewer)
    return made
