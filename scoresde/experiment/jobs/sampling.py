"""Samples of a trained model, batch by batch, with all that is needed to say how they came about. Likelihoods: weigh.py.

Sample i is a function of (weights, sampler, seed, i). Batch b holds samples b B .. (b + 1) B - 1, B the config's
``sampling.batch_size``, and is a shard (shards.py); what is there is not drawn again, so a command that was killed goes on where
it was and ends with the bytes of one that was not. Processes share the batches (sharing.py): their number changes nothing, as
long as each has as many threads; another batch size, or a larger ``sampling.count`` later, changes rounding only
(`ProbabilityFlowODE` shares its steps over a batch: there it changes what the tolerance allows).

    samples/NAME/shards-FINGERPRINT/    the shards: of another checkpoint, sampler or seed in another folder, never mixed
                                        with `Fast`'s fit to the model, sampler.safetensors
    samples/NAME.json                   how they came about, and the index of the shards
    samples/NAME.npz                    x and raw of all of them, where they are few
    samples/NAME.png                    the first ones
    samples/NAME@WEIGHTS...             all of these for other weights than the first average (weights.py)

Memory holds a batch; for ``samples/NAME.npz`` up to `GATHERED_UP_TO` numbers, above which the shards are the result.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count as numbers
from math import prod
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from scoresde._files import bytes_digest, read_sealed, write_atomic, write_sealed
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.weight_names import titled, weights_name
from scoresde.experiment.folder.cache import changes, file_digest
from scoresde.experiment.folder.checkpoint import Checkpoint
from scoresde.experiment.folder.plots import event_picture, pictured
from scoresde.experiment.folder.workdir import Workdir, config_digest
from scoresde.experiment.jobs.job import Job, Progress, Range, local_device, run_job
from scoresde.experiment.results.shards import Samples, SampleStore, compact, gaps
from scoresde.samplers import Fast, Sampler
from scoresde.samplers.fitted import FittedSampler
from scoresde.score import ScoreModel
from scoresde.version import __version__

GATHERED_UP_TO = 2**24
"""Numbers in all samples up to which they are also written as one file: 5461 CIFAR-10 images, 262,144 digits."""


def sample(experiment: Experiment, workdir: Workdir, processes: int = 1) -> dict[str, Path] | None:
    """Draw ``sampling.count`` samples with every sampler of the config, weights ``sampling.weights``; files in samples/.

    processes: local processes that share the work.

    Returns the pictures; None in a launcher's process that is not the last to finish. Raises ConfigError where there is no
    sampler, WorkdirError where another process draws in the folder, WorkerError where a local process died, FloatingPointError
    for a sample that is not finite.
    """
    if not experiment.samplers:
        raise ConfigError("config.samplers names none: give {'a name': {'name': 'PredictorCorrector', arguments}, ...}")
    out: dict[str, Path] | None = run_job(SamplingJob, experiment, workdir, processes)
    return out


@dataclass(frozen=True)
class SamplingJob(Job):
    """All that is needed to draw samples. A part is a range of those of a sampler."""

    kind: ClassVar[str] = "sample"
    unit: ClassVar[str] = "sample"

    model: ScoreModel
    checkpoint: Checkpoint
    stores: dict[str, SampleStore]
    fitted: dict[str, FittedSampler] = field(default_factory=dict)

    @classmethod
    def of(cls, experiment: Experiment, workdir: Workdir, local: int = 0) -> SamplingJob:
        device = local_device(experiment, local)
        weights = weights_name(experiment.sampling.weights)
        model, checkpoint = workdir.model(replace(experiment, device=device), weights)
        nodes = experiment.config.to_dict().get("samplers", {})
        common = {
            "scoresde": __version__, "config digest": config_digest(experiment), "checkpoint digest":
            checkpoint.digest, "weights": weights, "event shape": list(experiment.data.event_shape),
            "seed": experiment.sampling.seed,
        }  # fmt: skip
        stores = {
            name: SampleStore(
                workdir.samples / titled(name, weights),
                {**common, "sampler": json.dumps(node, sort_keys=True, default=str)},
            )
            for name, node in nodes.items()
        }
        return cls(experiment, workdir, device, model, checkpoint, stores)

    @property
    def fingerprint(self) -> str:
        return " ".join(store.fingerprint for store in self.stores.values())

    def left(self) -> list[Range]:
        plan, number, found = self.experiment.sampling, numbers(), []
        for name, store in self.stores.items():
            entries, problems = store.entries(plan.count)
            for problem in problems:
                self.workdir.log(f"{self.workdir.path}: {name}: {problem}: it is drawn again")
            for first in range(0, plan.count, plan.batch_size):
                k, end = next(number), min(first + plan.batch_size, plan.count)
                found += [Range(k, name, *gap) for gap in gaps(entries, first, end)]
        return found

    def work(self, parts: Sequence[Range], progress: Progress) -> None:
        for part in parts:
            self.stores[part.name].write(self.draw(part, progress))
            progress(part.size)

    def draw(self, part: Range, progress: Progress) -> Samples:
        """The samples of a part. Raises KeyboardInterrupt where the sampler was interrupted: its samples are not done."""
        started, plan = time.perf_counter(), self.experiment.sampling
        data = self.experiment.data

        def where(step: int, t: torch.Tensor, x: torch.Tensor) -> None:
            progress.where(lambda: f"{part.name}: step {step}, t = {float(t.max()):.3g}")

        result = self.sampler(part.name)(
            self.model.sde, self.model, (part.size, *data.event_shape), seed=plan.seed, first=part.first, device=self.device,
            callback=where,
        )  # fmt: skip
        if result.interrupted:
            raise KeyboardInterrupt
        x = result.samples.float().cpu()
        raw = compact(data.transform.decode(x), data.transform)
        seconds = time.perf_counter() - started
        return Samples(
            first=part.first, end=part.end, x=x.numpy(), raw=raw, nfe=result.nfe, seconds=seconds, device=str(self.device)
        )  # fmt: skip

    def sampler(self, name: str) -> Sampler:
        """A sampler of the config. One that fits itself to the model does so once, for all processes and later runs."""
        chosen = self.experiment.samplers[name]
        if not isinstance(chosen, Fast):
            return chosen
        if name not in self.fitted:
            file = self.stores[name].path / "sampler.safetensors"
            with self.workdir.lock(f"sampler-{name}", wait=True):
                if not _is_whole(file):
                    event = self.experiment.data.event_shape
                    self.workdir.log(f"{self.workdir.path}: {name}: is fitted to the model, once")
                    made = chosen.prepared(self.model.sde, self.model, event, device=self.device)
                    made.save(file)
                    write_sealed(file.with_suffix(".json"), {"digest": file_digest(file)})
                    self.workdir.log(f"{self.workdir.path}: {name}: {made!r}")
            self.fitted[name] = FittedSampler.load(file)
        return self.fitted[name]

    def announce(self, parts: Sequence[Range]) -> None:
        plan = self.experiment.sampling
        said = self.checkpoint.said(weights_name(plan.weights))
        for name, store in self.stores.items():
            here = sum(part.size for part in parts if part.name == name)
            line = f"{self.workdir.path}: {plan.count} samples by {name}, {here} of them to draw here, {said}"
            others = store.others()
            if others and not store.path.exists():
                changed = changes(others[-1], store.settings)
                line += f"; samples of other settings are not used, this starts anew. {changed}"
            self.workdir.log(line)

    def finish(self, processes: int) -> dict[str, Path]:
        for store in self.stores.values():
            store.sweep()
        return {name: self._result(name, processes) for name in self.stores}

    def _result(self, name: str, processes: int) -> Path:
        """Index, picture, and one file of all samples where they are few. Returns the picture."""
        plan, data, store = self.experiment.sampling, self.experiment.data, self.stores[name]
        base, (entries, _) = self.workdir.samples, store.entries(plan.count)
        weights = weights_name(plan.weights)
        title = titled(name, weights)
        few = plan.count * prod(data.event_shape) <= GATHERED_UP_TO
        if few:
            x = torch.from_numpy(store.front(entries, plan.count))
            file = io.BytesIO()
            np.savez_compressed(file, x=x.numpy(), raw=data.transform.decode(x).numpy())
            write_atomic(base / f"{title}.npz", file.getvalue())
        else:
            (base / f"{title}.npz").unlink(missing_ok=True)  # of fewer samples
        seen = torch.from_numpy(store.front(entries, min(plan.count, pictured(data.event_shape))))
        picture = event_picture(data.transform.decode(seen), data.transform)
        write_atomic(base / f"{title}.png", picture)
        store.write_settings()
        facts = {
            "sampler": repr(self.sampler(name)), "count": plan.count, "seed": plan.seed,
            "nfe": max(entry.nfe for entry in entries),
            "seconds": round(sum(entry.seconds for entry in entries), 2), "processes": processes,
            "devices": sorted({entry.device for entry in entries}),
            "checkpoint": self.checkpoint.path.name, "weights": weights, "picture digest": bytes_digest(picture),
            "config digest": store.settings["config digest"],
            "shards in": f"{title}/{store.path.name}", "shards": [asdict(entry) for entry in entries],
        }  # fmt: skip
        write_sealed(base / f"{title}.json", facts)
        where = f"{title}.npz" if few else f"{len(entries)} shards named in {title}.json"
        self.workdir.log(
            f"{self.workdir.path}: {plan.count} samples by {name} in {where}, {facts['nfe']} evaluations, "
            f"{facts['seconds']:.1f} s"
        )
        return base / f"{title}.png"


def _is_whole(file: Path) -> bool:
    """Whether a fitted sampler's file is there as it was written."""
    try:
        return bool(read_sealed(file.with_suffix(".json")).get("digest") == file_digest(file))
    except (OSError, ValueError):
        return False
