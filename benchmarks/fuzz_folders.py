"""Work folders whose files are damaged, edited, replaced or forged: how every command reacts.

    python benchmarks/fuzz_folders.py --times 4

Every file of a small finished run is changed, one change at a time, in a copy of the folder. Then report, evaluate,
likelihood, sample and train run on it in this process. The program prints, by kind of change, the number of cases with
these outcomes:

    refused      code 2 and one line that names the problem
    worked       code 0, and every result, sample and weight equals that of the original folder
    said         code 0; a result is left out, or it differs and the report or the log says why
    as asked     code 0 with a config.json whose changed value is a valid request: sampling, samplers, likelihood, ...
    forged       code 0 with the content of a forged file that has a correct checksum and is valid
    silent       code 0 and a different result without a message: must be 0
    traceback    anything else: must be 0
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import re
import shutil
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scoresde._files import SEAL, write_sealed
from scoresde.cli import main
from scoresde.experiment.folder.checkpoint import last_checkpoint
from scoresde.experiment.folder.tensor_file import read_tensors, write_tensors
from scoresde.experiment.folder.workdir import EVALUATION

VERBS = ("report", "evaluate", "likelihood", "sample", "train")
OUTCOMES = ("refused", "worked", "said", "as asked", "forged", "silent", "traceback")
SECONDS = 60
"""Seconds after which a command counts as hanging."""
CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(dict(
        device="cpu", data=dict(name="Arrays", train={points!r}, scale=2.0, shift=0.0), sde=dict(name="VPSDE"),
        network=dict(name="MLP", width=8, depth=1), objective=dict(name="DenoisingScoreMatching"),
        training=dict(steps=4, batch_size=4, preview_every=2, checkpoint_every=2, log_every=1, learning_rate=0.1,
                      warmup=1, posthoc_widths=(0.05, 0.1), posthoc_every=2),
        sampling=dict(count=4, batch_size=2), samplers=dict(pc=dict(name="PredictorCorrector", steps=2)),
        likelihood=dict(limit=4, batch_size=2, grid_events=2, solver=dict(name="Multistep", nodes=4)),
    ))
"""
VALUES: tuple[Any, ...] = (None, -1, 0.5, 7, 1e308, 10**40, True, "x", "", [], [1], {}, {"a": 1})
DEEP = "[" * 100_000


def call(*arguments: object) -> tuple[int | None, str, str]:
    """Run a command in this process. Returns its exit code (None after a traceback) and its output."""
    out, err = io.StringIO(), io.StringIO()

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"hangs for {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code: int | None = main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        code = None
        err.write(traceback.format_exc())
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return code, out.getvalue(), err.getvalue()


def finished(folder: Path) -> Path:
    """A folder in which every command was run."""
    np.save(folder / "points.npy", 2.0 * np.random.default_rng(0).standard_normal((40, 2)))
    (folder / "config.py").write_text(CONFIG.format(points=str(folder / "points.npy")))
    for verb in ("train", "sample", "likelihood", "evaluate", "report"):
        code, out, err = call(verb, "--config", folder / "config.py", "--workdir", folder / "run")
        assert code == 0, out + err
    return folder / "run"


def figures(verb: str, run: Path) -> set[str]:
    """The results of a command, as a set that can be compared; times and devices are left out."""
    if verb == "report":
        page = (run / "report.html").read_text()
        page = re.sub(r"<table id='(timings|environment)'>.*?</table>|<details>.*?</details>", "", page, flags=re.S)
        parts = re.findall(r"<tr.*?</tr>|<figure.*?</figure>", re.sub(r", [\d.]+ s,", "", page), flags=re.S)
        return {f"{part} {parts[:k].count(part)}" for k, part in enumerate(parts)}
    if verb == "sample":
        facts = json.loads((run / "samples/pc.json").read_text())
        raw = np.load(run / "samples/pc.npz")["raw"].tobytes().hex()
        return {raw, f"{facts['count']} {facts['nfe']} {facts['sampler']} {facts['checkpoint']}"}
    if verb == "likelihood":
        facts = json.loads((run / "likelihood/test.json").read_text())
        keys = ("nats", "nats_error", "nats_of_data", "events", "rows", "failed", "mean nfe", "checkpoint", "solver")
        return {*(f"{key} {facts[key]}" for key in keys), (run / "likelihood/test.csv").read_text()}
    if verb == "evaluate":
        facts = json.loads((run / "evaluation/pc.json").read_text())
        return {
            f"{key} {facts[key]}" for key in ("frechet distance", "kernel distance", "precision", "recall", "count")
        }
    last = last_checkpoint(run / "checkpoints")
    assert last is not None
    return {f"{name} {tensor.tolist()}" for name, tensor in last.tensors.items()} | {f"step {last.step}"}


Change = tuple[str, Callable[[], object]]
"""The kind of a change, and the function that makes it."""


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values below a JSON node."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from leaves(value, (*path, key))


def edited(content: Any, rng: random.Random) -> tuple[Any, tuple[Any, ...]]:
    """JSON with one value replaced or removed, and its path."""
    content = json.loads(json.dumps(content))
    path = rng.choice(list(leaves(content)))
    node = content
    for key in path[:-1]:
        node = node[key]
    if rng.random() < 0.2:
        del node[path[-1]]
    else:
        old = node[path[-1]]
        nudged = [old + 1, old * 1.5] if isinstance(old, (int, float)) and not isinstance(old, bool) else [f"{old}x"]
        node[path[-1]] = rng.choice([*VALUES, *nudged])
    return content, path


def changes(run: Path, file: Path, rng: random.Random, times: int, outside: Path) -> Iterator[Change]:
    """Changes of one file."""
    content = file.read_bytes()
    tensors, header = read_tensors(file) if file.suffix == ".safetensors" else ({}, {})

    def flip() -> None:
        place = rng.randrange(len(content))
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :])

    def replace(make: Callable[[], object]) -> Callable[[], None]:
        def act() -> None:
            file.unlink()
            make()

        return act

    yield "missing", file.unlink
    yield "empty", lambda: file.write_bytes(b"")
    yield "cut", lambda: file.write_bytes(content[: rng.randrange(1, max(2, len(content)))])
    yield "longer", lambda: file.write_bytes(content + b"\0garbage\n")
    yield "zeros", lambda: file.write_bytes(bytes(len(content)))
    yield "a folder", replace(file.mkdir)
    yield "a link", replace(lambda: file.symlink_to(outside))
    yield "a link to nothing", replace(lambda: file.symlink_to(outside / "nothing"))
    others = [p for p in file.parent.iterdir() if p.suffix == file.suffix and p != file and p.is_file()]
    if others:
        yield "of another", lambda: file.write_bytes(others[0].read_bytes())
    for _ in range(times):
        yield "a bit", flip
    if file.suffix == ".json":
        whole = json.loads(content)
        yield "brackets", lambda: file.write_text(DEEP)
        yield "a list", lambda: file.write_text("[]")
        for _ in range(2 * times):
            new, path = edited(whole, rng)
            asked = file.name == "config.json" and _is_request(path)
            yield "as asked" if asked else "a value", lambda new=new: file.write_text(json.dumps(new))
        for _ in range(times if SEAL in whole else 0):
            new, _ = edited({k: v for k, v in whole.items() if k != SEAL}, rng)
            yield "forged", lambda new=new: write_sealed(file, new)
    if file.suffix == ".safetensors":
        for _ in range(2 * times):
            new, _ = edited(header, rng)
            yield "forged", lambda new=new: write_tensors(file, tensors, new)
        for _ in range(times):
            yield "forged", lambda: write_tensors(file, forged(tensors, rng), header)
        yield "forged", lambda: write_tensors(file, tensors, {**header, "facts": json.loads("[" * 900 + "]" * 900)})


def forged(tensors: dict[str, torch.Tensor], rng: random.Random) -> dict[str, torch.Tensor]:
    """Tensors of which one is missing or changed."""
    name = rng.choice(sorted(tensors))
    value = tensors[name].clone()
    made = [
        value.double(),
        value.long(),
        value[..., None].clone(),
        -value - 1,
        value * torch.nan,
        value.to(torch.complex64),
    ]
    rest = {k: v for k, v in tensors.items() if k != name}
    return rest if rng.random() < 0.3 else {**rest, name: rng.choice(made)}


def _is_request(path: tuple[Any, ...]) -> bool:
    """Whether a key of config.json is a request to a later command."""
    free = ("keep", "log_every", "checkpoint_every", "preview_every", "posthoc_every", "steps")
    return path[0] in EVALUATION or (path[0] == "training" and len(path) > 1 and path[1] in free)


def outcome(kind: str, verb: str, run: Path, true: set[str]) -> tuple[str, str]:
    """The outcome of a command in a changed folder, and its message."""
    code, out, err = call(verb, "--workdir", run)
    last = (err.splitlines() or [""])[-1]
    if code == 2 and (last.startswith(f"scoresde {verb}:") or "error:" in last) and "Traceback" not in err:
        return "refused", last
    if code != 0:
        return "traceback", f"code {code}: {out[-200:]}{err[-1500:]}"
    try:
        found = figures(verb, run)
    except Exception as problem:
        return "silent", f"{verb} ended with code 0 and no result: {problem!r}"
    if found == true:
        return "worked", ""
    if kind in ("forged", "as asked"):
        return kind, ""
    page = (run / "report.html").read_text() if verb == "report" else ""
    if (found < true and page.count("class='missing'")) or "metrics.csv has changed since" in page:
        return "said", ""
    if "is damaged" in out or f"weights ema of {_last(run)}" in out:
        return "said", ""  # the command names the checkpoint that it took instead
    other = sorted(part[:300] for part in found - true)[:3]
    return "silent", f"{verb} shows {other or 'less than before'}"


def _last(run: Path) -> str:
    """The newest intact checkpoint, if it is not that of the original folder."""
    last = last_checkpoint(run / "checkpoints")
    return "none" if last is None or last.step == 4 else last.path.name


def fuzz(
    folder: Path, times: int, seed: int = 0, only: str = "", verbs: tuple[str, ...] = VERBS
) -> tuple[Counter, list[str]]:
    """Counts by (kind of change, outcome), and a line for each fault.

    ``only`` is a part of the names of the files to change.
    """
    rng, counts, faults = random.Random(seed), Counter[tuple[str, str]](), []
    whole = finished(folder)
    true = {}
    for verb in verbs:
        code, out, err = call(verb, "--workdir", whole)
        assert code == 0, out + err
        true[verb] = figures(verb, whole)
    outside = folder / "outside"
    outside.write_text("{}")
    names = sorted(str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file() and p.name != "report.html")
    for name in (name for name in names if only in name):
        copy = folder / "copy"
        shutil.copytree(whole, copy)
        for kind, change in changes(copy, copy / name, rng, times, outside):
            shutil.rmtree(copy)
            shutil.copytree(whole, copy)
            change()
            for verb in verbs:
                found, said = outcome(kind, verb, copy, true[verb])
                counts[kind, found] += 1
                if found in ("silent", "traceback"):
                    faults.append(f"{name}, {kind}, {verb}: {found}: {said}")
                    print(faults[-1], flush=True)
        shutil.rmtree(copy)
    assert outside.read_text() == "{}", "a link was followed"
    return counts, faults


def table(counts: Counter) -> str:
    """The counts, with a line for each kind of change."""
    kinds = sorted({kind for kind, _ in counts})
    rows = [[kind, *(str(counts[kind, one]) for one in OUTCOMES)] for kind in kinds]
    rows.append(["total", *(str(sum(counts[kind, one] for kind in kinds)) for one in OUTCOMES)])
    head = ["change", *OUTCOMES]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---", *["---:"] * len(OUTCOMES)], *rows])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=4, help="random changes of each kind to each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a part of the names of the files to change")
    parser.add_argument("--verbs", default=",".join(VERBS), help="the commands to run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        print(table(fuzz(Path(place), options.times, options.seed, options.only, tuple(options.verbs.split(",")))[0]))
