"""Samples of a trained model, batch by batch, with a record of everything that they depend on.

Sample i is a function of (weights, sampler, seed, i). Batch b contains the samples b B .. (b + 1) B - 1, with B the
config's ``sampling.batch_size``, and is saved as a shard (``shards.py``). Finished samples are not drawn again: a
command that was killed continues, and ends with the same bytes as an uninterrupted one. Processes share the batches
(``job.py``). Their number changes nothing as long as each has as many threads. Another batch size, or a larger
``sampling.count`` later, changes rounding only. (`ProbabilityFlowODE` shares its steps over a batch: its samples change
within its tolerance.)

    samples/NAME/shards-FINGERPRINT/    the shards; each checkpoint, sampler and seed has its own folder
                                        with sampler.safetensors, the fit of an `UnfittedSampler`
    samples/NAME.json                   their origin, and the index of the shards
    samples/NAME.npz                    x and raw of all samples, if they are few, the acceptance of Metropolis steps, and the
                                        evidence of particles
    samples/NAME.csv or .parquet        the same for tables, with the names of the columns, in the format of the data
    samples/NAME.png or .txt            the first ones, as text for data that is text. If they are few, it has all of them
    samples/NAME@WEIGHTS...             the same for other weights than the first average (``weight_names.py``)

One batch is in memory at a time. ``samples/NAME.npz`` is written up to `GATHERED_UP_TO` numbers; above, the shards are
the result.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count as numbers
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from scoresde._files import bytes_digest, read_sealed, write_atomic, write_sealed
from scoresde.conditions import given
from scoresde.experiment.config.builder import ConfigError, config_errors
from scoresde.experiment.config.condition_values import condition_facts, sample_conditions
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.families import AnySampler, SampledModel, process_of
from scoresde.experiment.config.targets import as_sampled, as_score
from scoresde.experiment.config.weight_names import titled, weights_name
from scoresde.experiment.folder.cache import changes, file_digest
from scoresde.experiment.folder.checkpoint import Checkpoint
from scoresde.experiment.folder.plots import events_shown
from scoresde.experiment.folder.shown_events import is_text, shown_events
from scoresde.experiment.folder.workdir import Workdir, config_digest, provenance
from scoresde.experiment.jobs.guided import FACTS as GUIDANCE_FACTS
from scoresde.experiment.jobs.guided import guided
from scoresde.experiment.jobs.job import Job, Progress, Range, local_device, run_job
from scoresde.experiment.jobs.noise_filter import FACTS as FILTER_FACTS
from scoresde.experiment.jobs.noise_filter import noise_filter
from scoresde.experiment.results.sample_index import (
    acceptance_facts,
    describe_acceptance,
    describe_evidence,
    evidence_columns,
    evidence_facts,
)
from scoresde.experiment.results.shards import Samples, SampleStore, gaps
from scoresde.filters import Filter, FilteredNoise
from scoresde.samplers import Sampler
from scoresde.samplers.base import SampleResult
from scoresde.samplers.fitted import UnfittedSampler
from scoresde.sde import LinearSDE
from scoresde.version import __version__

TABLES = (".csv", ".parquet", ".txt", ".mid")
"""Endings of files that ``Splits.sample_file`` makes."""
GATHERED_UP_TO = 2**24
"""Largest number of values in all samples for which they are also written to one file: 5461 CIFAR-10 images, 262,144 digits."""


def sample(experiment: Experiment, workdir: Workdir, processes: int = 1) -> dict[str, Path] | None:
    """Draw ``sampling.count`` samples with every sampler of the config and the weights ``sampling.weights``.

    The files are written to samples/.

    Args:
        experiment: The experiment.
        workdir: The work folder of the trained model.
        processes: Number of local processes that share the work.

    Returns:
        The pictures by sampler, or text files for data that is text. None in a launcher's process that is not the last to finish.

    Raises:
        ConfigError: If the config has no sampler, or its model has no samples.
        WorkdirError: If another process draws samples in the folder.
        WorkerError: If a local process died.
        FloatingPointError: For a sample that is not finite.
    """
    as_sampled(experiment.model)
    if not experiment.samplers:
        raise ConfigError("config.samplers is empty: give {'a name': {'name': 'PredictorCorrector', arguments}, ...}")
    out: dict[str, Path] | None = run_job(SamplingJob, experiment, workdir, processes)
    return out


@dataclass(frozen=True)
class SamplingJob(Job):
    """Everything that is needed to draw samples. A part is a range of the samples of a sampler."""

    kind: ClassVar[str] = "sample"
    unit: ClassVar[str] = "sample"

    model: SampledModel
    score: Callable[..., torch.Tensor]
    checkpoint: Checkpoint
    stores: dict[str, SampleStore]
    filter: Filter | None = None
    fitted: dict[str, Sampler] = field(default_factory=dict)

    @classmethod
    def create(cls, experiment: Experiment, workdir: Workdir, local: int = 0) -> SamplingJob:
        device = local_device(experiment, local)
        weights = weights_name(experiment.sampling.weights)
        model, checkpoint = workdir.model(replace(experiment, device=device), weights)
        score, guidance = guided(experiment, model, device)
        for name, sampler in experiment.samplers.items():
            if isinstance(sampler, Sampler):
                with config_errors(f"samplers.{name}"):
                    sampler.check_score(as_score(model).sde, score)
        filter, filtering = noise_filter(experiment, workdir)
        nodes = experiment.config.to_dict().get("samplers", {})
        common = {
            "scoresde": __version__, "config digest": config_digest(experiment), "checkpoint digest":
            checkpoint.digest, "weights": weights, "event shape": list(experiment.data.event_shape),
            "seed": experiment.sampling.seed, **condition_facts(experiment), **guidance, **filtering,
        }  # fmt: skip
        stores = {
            name: SampleStore(
                workdir.samples / titled(name, weights),
                {**common, "sampler": json.dumps(node, sort_keys=True, default=str)},
            )
            for name, node in nodes.items()
        }
        return cls(experiment, workdir, device, as_sampled(model), score, checkpoint, stores, filter)

    @property
    def fingerprint(self) -> str:
        return " ".join(store.fingerprint for store in self.stores.values())

    def remaining(self) -> list[Range]:
        config, number, found = self.experiment.sampling, numbers(), []
        for name, store in self.stores.items():
            entries, problems = store.entries(config.count)
            for problem in problems:
                self.workdir.log(f"{self.workdir.path}: {name}: {problem}: drawn again")
            for first in range(0, config.count, config.batch_size):
                k, end = next(number), min(first + config.batch_size, config.count)
                found += [Range(k, name, *gap) for gap in gaps(entries, first, end)]
        return found

    def work(self, parts: Sequence[Range], progress: Progress) -> None:
        for part in parts:
            self.stores[part.name].write(self.draw(part, progress))
            progress(part.size)

    def draw(self, part: Range, progress: Progress) -> Samples:
        """Draw the samples of a part.

        Raises KeyboardInterrupt if the sampler was interrupted, because its samples are not finished.
        """
        started, config = time.perf_counter(), self.experiment.sampling
        data = self.experiment.data

        def where(step: int, t: torch.Tensor, x: torch.Tensor) -> None:
            progress.show(lambda: f"{part.name}: step {step}, t = {float(t.max()):.3g}")

        noise = None
        if self.filter is not None:
            noise = FilteredNoise.of(config.seed, part.size, part.first, self.device, filter=self.filter)
        draw: Callable[..., SampleResult] = self.sampler(part.name)
        result = draw(
            process_of(self.model), self.score, (part.size, *data.event_shape), seed=config.seed, first=part.first,
            device=self.device, callback=where, condition=self.conditions(part.first, part.size), noise=noise,
        )  # fmt: skip
        if result.interrupted:
            raise KeyboardInterrupt
        seconds = time.perf_counter() - started
        return Samples.of(part.first, part.end, result, data.transform, seconds=seconds, device=self.device)

    def conditions(self, first: int, count: int) -> dict[str, torch.Tensor]:
        """The conditions of samples, on the device of this process."""
        found = sample_conditions(self.experiment, first, count)
        return {name: rows.to(self.device) for name, rows in found.items()}

    def sampler(self, name: str) -> AnySampler:
        """A sampler of the config.

        A sampler that is fitted to the model is fitted once, for all processes and later runs.
        """
        chosen = self.experiment.samplers[name]
        if not isinstance(chosen, UnfittedSampler):
            return chosen
        if name not in self.fitted:
            file = self.stores[name].path / "sampler.safetensors"
            with self.workdir.lock(f"sampler-{name}", wait=True):
                if not _is_whole(file):
                    self.workdir.log(f"{self.workdir.path}: {name}: fitting the sampler to the model, once")
                    made = self.fit(chosen)
                    chosen.save(made, file)
                    write_sealed(file.with_suffix(".json"), {"digest": file_digest(file)})
                    self.workdir.log(f"{self.workdir.path}: {name}: {made!r}")
            self.fitted[name] = chosen.load(file)
        return self.fitted[name]

    def fit(self, chosen: UnfittedSampler) -> Sampler:
        """A sampler of the config, fitted to the model."""
        sde, data = process_of(self.model), self.experiment.data
        assert isinstance(sde, LinearSDE)  # checked when the experiment was built
        index = torch.arange(min(chosen.events, len(data.train)))
        events = data.train.encode(index, seed=chosen.seed).to(self.device) if chosen.events else None
        condition = self.conditions(0, max(chosen.fit_rows, 1))
        if chosen.conditions_of == "events":
            rows = data.train.conditions(index)
            condition = {name: rows[name].to(self.device) for name in condition}
        score = given(self.score, condition)
        return chosen.prepared(sde, score, data.event_shape, data=events, device=self.device)

    def announce(self, parts: Sequence[Range]) -> None:
        config = self.experiment.sampling
        weights_text = self.checkpoint.describe(weights_name(config.weights))
        for name, store in self.stores.items():
            here = sum(part.size for part in parts if part.name == name)
            line = f"{self.workdir.path}: samples by {name}: drawing {here} of {config.count}, {weights_text}"
            others = store.others()
            if others and not store.path.exists():
                changed = changes(others[-1], store.settings)
                line += f"; existing samples have other settings and are not used. Changes: {changed}"
            self.workdir.log(line)

    def finish(self, processes: int) -> dict[str, Path]:
        for store in self.stores.values():
            store.remove_leftovers()
        return {name: self._result(name, processes) for name in self.stores}

    def _result(self, name: str, processes: int) -> Path:
        """Write the index, the first samples to look at, and one file of all samples if they are few. Returns the second."""
        config, data, store = self.experiment.sampling, self.experiment.data, self.stores[name]
        base, (entries, _) = self.workdir.samples, store.entries(config.count)
        weights = weights_name(config.weights)
        title = titled(name, weights)
        acceptance, evidence = store.acceptance(entries, config.count), store.evidence(entries, config.count)
        few = config.count * prod(data.event_shape) <= GATHERED_UP_TO
        if few:
            x = torch.from_numpy(store.front(entries, config.count))
            file = io.BytesIO()
            raw = data.transform.decode(x)
            conditions = sample_conditions(self.experiment, 0, config.count)
            arrays: dict[str, Any] = {f"condition_{key}": value.numpy() for key, value in conditions.items()}
            if acceptance.size:
                arrays["acceptance"] = acceptance
            arrays |= evidence_columns(evidence)
            np.savez_compressed(file, **{"x": x.numpy(), "raw": raw.numpy()} | arrays)
            write_atomic(base / f"{title}.npz", file.getvalue())
            if table := data.sample_file(raw, conditions) if conditions else data.sample_file(raw):
                write_atomic(base / f"{title}{table[0]}", table[1])
        else:
            for suffix in (".npz", *TABLES):
                (base / f"{title}{suffix}").unlink(missing_ok=True)  # a file of an earlier, smaller count
        first = config.count if few and is_text(data) else events_shown(data.event_shape, data.transform)
        seen = torch.from_numpy(store.front(entries, min(config.count, first)))
        ending, shown = shown_events(data, data.transform.decode(seen))
        place = base / f"{title}{ending}"
        write_atomic(place, shown)
        store.write_settings()
        facts = {
            "sampler": repr(self.sampler(name)), "count": config.count, "seed": config.seed,
            "nfe": max(entry.nfe for entry in entries),
            "seconds": round(sum(entry.seconds for entry in entries), 2), "processes": processes,
            "devices": sorted({entry.device for entry in entries}),
            "checkpoint": self.checkpoint.path.name, "weights": weights, "shown in": place.name,
            "picture digest": bytes_digest(shown),
            "config digest": store.settings["config digest"], "scoresde": __version__, **condition_facts(self.experiment),
            **{key: store.settings[key] for key in (*GUIDANCE_FACTS, *FILTER_FACTS) if key in store.settings}, **provenance(),
            **acceptance_facts(acceptance), **evidence_facts(evidence),
            "shards in": f"{title}/{store.path.name}", "shards": [asdict(entry) for entry in entries],
        }  # fmt: skip
        write_sealed(base / f"{title}.json", facts)
        files = [f"{title}{suffix}" for suffix in (".npz", *TABLES) if (base / f"{title}{suffix}").exists()]
        where = " and ".join(files) if few else f"{len(entries)} shards named in {title}.json"
        self.workdir.log(
            f"{self.workdir.path}: {config.count} samples by {name} in {where}, {facts['nfe']} evaluations, "
            + ", ".join(
                filter(None, (f"{facts['seconds']:.1f} s", describe_acceptance(facts), describe_evidence(facts)))
            )
        )
        return place


def _is_whole(file: Path) -> bool:
    """Whether the file of a fitted sampler is complete."""
    try:
        return bool(read_sealed(file.with_suffix(".json")).get("digest") == file_digest(file))
    except (OSError, ValueError):
        return False
