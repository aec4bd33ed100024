"""What training promises for every kind of run of benchmarks/kinds.py. A check raises AssertionError."""

from __future__ import annotations

import shutil
import signal
import time
from dataclasses import replace

import numpy as np
import torch

from benchmarks.bench import Bench
from benchmarks.kinds import Kind
from scoresde.experiment import Workdir, sample
from scoresde.experiment import train as train_here
from scoresde.experiment.config.families import process_of
from scoresde.experiment.config.trained import with_modules
from scoresde.experiment.folder.checkpoint import last_checkpoint
from tests.experiment.training import advance, everything, experiment, same, trainer

SHORT = {"training.steps": 12}
STEADY = {"network.dropout": 0.0, "training.condition_dropout": 0.0, "training.warmup": 0}
"""Without dropout, which depends on the division of the batch, and with full steps from the first one on."""


def short(kind: Kind) -> Kind:
    """The kind, with a run of 12 steps."""
    return replace(kind, options={**kind.options, **SHORT})


def run_of(kind: Kind, **more):
    """A trainer of a run of this kind."""
    return trainer(**{**kind.options, "training.preview_every": 0, **more})


def tensors_of(found: dict, kind: Kind, prefix: str = "model.") -> dict[str, torch.Tensor]:
    """The floating-point tensors of each module, flat."""
    parts = {}
    for module in kind.modules:
        names = sorted(n for n, v in found.items() if n.startswith(prefix + module) and v.is_floating_point())
        parts[module] = torch.cat([found[name].double().flatten() for name in names])
    return parts


def same_gradients(run, other, largest: float) -> list[float]:
    """Distances of the gradients of each objective whose modules are updated. Raises AssertionError for a larger one."""
    found = []
    for one, two in zip(run.parts, other.parts, strict=True):
        pairs = [(p.grad, q.grad) for p, q in zip(one.parameters, two.parameters, strict=True) if p.grad is not None]
        if pairs:
            found.append(apart(*(torch.cat([g.flatten() for g in column]) for column in zip(*pairs, strict=True))))
            assert found[-1] < largest, f"the gradient of {one.name}: {found[-1]:.1e} apart"
    return found


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """||a - b|| / ||a||."""
    return float((a - b).norm() / a.norm())


def killed_and_resumed(kind: Kind, bench: Bench) -> None:
    """SIGKILL at a random moment: weights, averages, moments and metrics of an undisturbed run."""
    bench = replace(bench, kind=short(kind))
    folder = bench.folder / "killed"
    shutil.rmtree(folder, ignore_errors=True)
    child, after = bench.child(folder), bench.random.randint(1, 4)
    child.until(lambda: len(child.checkpoints) >= after, "checkpoints")
    time.sleep(bench.random.uniform(0.0, 0.05))
    child.signal(signal.SIGKILL)
    child.end()
    bench.resume(folder)


def two_as_one(kind: Kind, bench: Bench) -> None:
    """Two processes and one: losses and gradient norms of each objective, and the way that each module has come."""
    options = {**kind.options, **STEADY, "training.steps": 4, "training.log_every": 1, "training.checkpoint_every": 4}
    bench = replace(bench, kind=replace(kind, options=options))
    two = bench.folder / "two"
    ranks = bench.together(two, 2)
    assert [rank.end() for rank in ranks] == [0, 0], [rank.output() for rank in ranks]
    start = {f"model.{k}": v.clone() for k, v in run_of(kind, **STEADY).trained.state_dict().items()}
    one = bench.whole(1)
    both = [last_checkpoint(place / "checkpoints").tensors for place in (one, two)]
    counts = [
        {n: v for n, v in found.items() if n.startswith("times.") and not v.is_floating_point()} for found in both
    ]
    assert same(*counts), "the history is another"
    a, b = (tensors_of(found, kind) for found in both)
    for module, at in tensors_of(start, kind).items():
        far = float((a[module] - b[module]).norm() / (a[module] - at).norm())
        assert far < 5e-3, f"{module or 'network'}: {far:.1e} of the way apart"


def micro_batches(kind: Kind, _: Bench) -> None:
    """Micro-batches of 3 of 8 and the whole batch: losses and gradients."""
    whole, cut = run_of(kind, **STEADY), run_of(kind, **STEADY, **{"training.micro_batch": 3})
    for _ in range(2):
        a, b = advance(whole), advance(cut)
        for name, losses in a.losses.items():
            assert torch.allclose(losses.values, b.losses[name].values, rtol=1e-4), f"the losses of {name} are apart"
        same_gradients(whole, cut, 1e-4)


def near_in_bfloat16(kind: Kind, _: Bench) -> None:
    """bfloat16 and float32: losses and gradients are near, and not equal."""
    full, half = run_of(kind, **STEADY), run_of(kind, **STEADY, **{"training.precision": "bfloat16"})
    a, b = advance(full, 3), advance(half, 3)  # in the first step, some networks return zeros
    for name, losses in a.losses.items():
        off = apart(losses.values, b.losses[name].values)
        assert 0 < off < 0.05, f"the losses of {name}: {off:.1e} apart"
    far = same_gradients(full, half, 0.1)
    assert len(far) == len(kind.modules) and min(far) > 0, far


def bad_steps_change_nothing(kind: Kind, _: Bench) -> None:
    """NaN in the loss of any objective: no weight, average or moment changes, and the next step is taken."""
    planted = [kind.bad_steps(2)]
    if len(kind.modules) > 1:
        bad = {"name": f"benchmarks.bad_losses:{kind.bad_schedule}", "steps": (2,)}
        planted.append({"objectives": str({"schedule": bad})})
    for options in planted:
        run = run_of(kind, **options)
        advance(run, 2)
        before = everything(run)
        bad = advance(run)
        assert bad.skipped and "is not finite for 2 of 8 examples" in bad.problem, bad.problem
        assert same(before, everything(run)), "a bad step changed something"
        assert not advance(run).skipped
        after = tensors_of(everything(run), kind)
        moved = {module for module, old in tensors_of(before, kind).items() if not torch.equal(old, after[module])}
        assert kind.modules[0] in moved, "the next step was not taken"


def averages(kind: Kind, bench: Bench) -> None:
    """The averages of each module follow their recursion, and samples use all of them."""
    options = {"training.ema_decay": 0.5, "training.warmup": 0, "training.steps": 3}
    run = run_of(kind, **options)
    ours = tensors_of(everything(run), kind)
    for n in range(1, 4):
        advance(run)
        decay = min(0.5, (1 + n) / (10 + n))
        weights = tensors_of(everything(run), kind)
        ours = {module: decay * old + (1 - decay) * weights[module] for module, old in ours.items()}
    theirs = tensors_of(everything(run), kind, "average 0.")
    for module, wanted in ours.items():
        far = float((theirs[module] - wanted).norm() / (weights[module] - wanted).norm())
        assert far < 1e-3, f"{module or 'network'}: the average is {far:.1e} off"
    if kind.samples:
        drawn = {**options, "sampling.count": 2, "samplers": f"{{'d': {kind.sampler}}}"}
        made = experiment(**{**kind.options, **drawn, "training.preview_every": 0})
        workdir = Workdir(bench.folder / "averages")
        shutil.rmtree(workdir.path, ignore_errors=True)
        train_here(made, workdir)
        sample(experiment(**{**kind.options, **drawn, "training.preview_every": 0}), workdir)
        x = torch.from_numpy(np.load(workdir.samples / "d.npz")["x"]).float()
        average = run.averages[0].module
        model = with_modules(run.model, run.trained, average).eval().requires_grad_(False)
        given = {"label": made.data.test.conditions(slice(0, 2))["label"]} if made.data.kinds else {}
        by_hand = made.samplers["d"](process_of(model), model, (2, 1, 8, 8), seed=0, condition=given).samples
        assert torch.allclose(x, by_hand.float(), atol=1e-5), "samples of other weights"


CHECKS = (killed_and_resumed, two_as_one, micro_batches, near_in_bfloat16, bad_steps_change_nothing, averages)
