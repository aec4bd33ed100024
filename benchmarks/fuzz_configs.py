"""Generated configs and command lines: what is refused in one line, what runs, what fails, and what is executed.

    python benchmarks/fuzz_configs.py --cases 3000

Each case calls the command line in this process, in one of four ways:

    folder     a trained folder with a changed config.json: values, nodes, names, nested nodes
    text       a trained folder whose config.json is other text: brackets, changed bytes, truncated text, huge numbers
    override   a Python config, and one to three ``--config.KEY=VALUE``
    python     a Python config with the same changes as a folder's

The values include names of modules, functions and classes that a config must not call. An audit hook counts processes
that are started. A module of canaries records when it is imported and when something in it is called. A folder and a
text must import nothing. Typed names may be imported, but nothing of the wrong kind may be called. The exit code is 1
after a traceback, an execution, a case that took too long, or a refusal of several lines.
"""

from __future__ import annotations

import argparse
import collections.abc
import contextlib
import copy
import inspect
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import typing
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scoresde.cli import main
from scoresde.data import Splits
from scoresde.experiment.config.annotations import accepts_class, hints, union_members
from scoresde.experiment.config.builder import known_names
from scoresde.experiment.config.editing import EditingConfig
from scoresde.experiment.config.sections import EvaluationConfig, LikelihoodConfig, SamplingConfig, TrainingConfig
from scoresde.losses import DenoisingScoreMatching
from scoresde.samplers import Sampler
from scoresde.score import ScoreModel
from scoresde.sde import LinearSDE

CANARY = """
import sys
CALLS = []
class Thing:
    def __init__(self, *args, **kwargs): CALLS.append("Thing")
    def __call__(self, *args, **kwargs): CALLS.append("Thing called")
def function(*args, **kwargs): CALLS.append("function")
"""
DANGEROUS = (
    "fuzz_canary:Thing", "fuzz_canary:function", "fuzz_canary:CALLS", "os:system", "os.path:join",
    "subprocess:Popen", "subprocess:run", "builtins:eval", "builtins:exec", "builtins:open", "math:pi", ".x:y", ":", "x:", ":y",
    "scoresde.__main__:main", "scoresde.cli:main", "scoresde.experiment.config.builder:importlib", "scoresde.data:torch",
    "pickle:loads",
    "torch:load", "torch.nn:Sequential", "torch.nn:Linear", "pathlib:Path", "a b:c", "os:system:x", "os\n:system", "ctypes:CDLL",
)  # fmt: skip
CANARIES = 3
"""The number of names at the beginning that are canaries."""
PLAIN: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 7, 0.5, 2.5, -0.5, True, False, None, "", "x", "1", "ema", "a" * 3000, "\0", "é\n", [], [1, 2], [0.1, 0.2],
    ["a"], [[1, 2], [3]], [None], {}, {"a": 1}, {"a": {"b": [1]}}, {"name": 3}, {"name": None}, {"name": ""}, {"name": {}},
    {"name": ["os:system"]}, 1e-300, 1e30, 1e38, 1e300, 10**6, 10**9, 10**12, 10**18, 2**31, 2**62, -(10**12),
)  # fmt: skip
RIGHT: dict[Any, tuple[Any, ...]] = {
    int: (0, 1, 2, 3, 4, 8, 9, 17, 64, -1, 10**6, 10**12), bool: (True, False), type(None): (None,),
    float: (0, 1, 0.5, 0.01, 2.0, 20.0, -1.0, 1e-12, 1e-3, 0.999, 1e6, 1e38, 1e300),
    str: ("", "rademacher", "gaussian", "likelihood", "variance", "mean", "sum", "RK45", "biggan", "ddpm", "none", "euler", "x"),
    torch.Tensor: ([1.0, 0.5, 0.0], [[1.0, 0.0], [0.0, 1.0]], [0.0]),
}  # fmt: skip
"""Values of the right type."""
PLAUSIBLE: dict[Any, tuple[Any, ...]] = {
    int: (1, 2, 3, 4, 8), bool: (True, False), type(None): (None,), float: (0.5, 0.01, 1e-3, 2.0, 20.0, 1.0), str: RIGHT[str],
    torch.Tensor: ([1.0, 0.5, 0.1],),
}  # fmt: skip
"""Values that are often in range."""
KINDS = {
    "sde": LinearSDE,
    "network": torch.nn.Module,
    "data": Splits,
    "objective": DenoisingScoreMatching,
    "samplers": Sampler,
}
"""Classes of the nodes at the top level."""
NODES = (
    ("sde", "train"), ("sde", "check"), ("network", "train"), ("objective", "train"), ("samplers.heun", "sample"),
    ("model.prediction", "train"), ("model.label", "train"), ("likelihood.solver", "likelihood"),
    ("likelihood.divergence", "likelihood"), ("evaluation.extractor", "evaluate"),
)  # fmt: skip
"""Keys of nodes, and a command that uses what they make."""
SETTINGS = {
    "training": TrainingConfig, "sampling": SamplingConfig, "likelihood": LikelihoodConfig,
    "evaluation": EvaluationConfig, "editing": EditingConfig, "model": ScoreModel,
}  # fmt: skip
"""Classes of the sections that are not nodes."""
HUGE: tuple[Any, ...] = (2**63, 10**400, float("inf"), float("-inf"), float("nan"), -(2**80))
"""Numbers that no config accepts."""
BASE = {
    "seed": 0,
    "device": "cpu",
    "threads": 1,
    "data": {"name": "Digits"},
    "sde": {"name": "VPSDE"},
    "network": {"name": "MLP", "width": 8, "depth": 1},
    "model": {"prediction": "noise"},
    "objective": {"name": "DenoisingScoreMatching"},
    "training": {"steps": 2, "batch_size": 4, "preview_every": 0, "warmup": 1},
    "sampling": {"count": 2, "batch_size": 2},
    "samplers": {"heun": {"name": "EDM", "steps": 2}},
    "likelihood": {"limit": 2, "batch_size": 2, "grid_events": 2},
    "evaluation": {},
    "editing": {},
}
SECONDS = 120
"""Seconds after which a case counts as hanging, unless it shows a progress bar."""


class Hangs(BaseException):
    """A case that takes too long."""


@dataclass(frozen=True)
class Case:
    """A call of the command line, with its config."""

    way: str
    verb: str
    content: Any = None
    text: str = ""
    overrides: tuple[str, ...] = ()


class Generator:
    """Cases by number, as a function of the seed."""

    def __init__(self, seed: int) -> None:
        self.random, self.strict, self.danger = random.Random(seed), False, False
        self.names = sorted(known_names())

    def case(self) -> Case:
        """The next case."""
        self.strict, self.danger = self.random.random() < 0.5, self.random.random() < 0.25
        way = self.random.choices(("folder", "text", "override", "python"), (4, 1, 4, 1))[0]
        verb = self.random.choices(
            ("sample", "train", "likelihood", "report", "evaluate", "check"), (8, 6, 2, 1, 2, 1)
        )[0]
        if way == "override":
            if self.strict and self.random.random() < 0.7:
                return self.node_that_fits()
            keys = self.random.choices((1, 2, 3), (6, 2, 1))[0]
            return Case(way, verb, overrides=tuple(self.override() for _ in range(keys)))
        content = copy.deepcopy(BASE)
        for _ in range(self.random.choices((1, 2), (5, 1))[0]):
            self.change(content)
        if way == "text":
            return Case(way, verb, text=self.text(json.dumps(content)))
        return Case(way, verb, content=content)

    def node_that_fits(self) -> Case:
        """A Python config with one node of the right kind, so that it is built, and often runs."""
        key, verb = self.random.choice(NODES)
        section, _, last = key.partition(".")
        hint = KINDS[section] if section in KINDS else hints(SETTINGS[section])[last]
        return Case("override", verb, overrides=(f"--config.{key}={self.fitting(hint)!r}",))

    def value(self, depth: int = 0) -> Any:
        """Any value, mostly a wrong one."""
        kind = self.random.choices(("plain", "huge", "danger", "node", "list"), (8, 1, 2, 5 if depth < 3 else 0, 1))[0]
        if kind == "plain":
            return copy.deepcopy(self.random.choice(PLAIN))
        if kind == "huge":
            return self.random.choice(HUGE)
        if kind == "danger":
            return self.dangerous()
        if kind == "list":
            return [self.value(depth + 1) for _ in range(self.random.randrange(3))]
        return self.node(depth)

    def dangerous(self) -> Any:
        """A name that must not be called, half of the time a canary: as text, as a node, or in another node."""
        name = self.random.choice(DANGEROUS[: self.random.choice((CANARIES, len(DANGEROUS)))])
        node = self.random.choice(({"name": name}, {"name": name, "command": "true", "args": ["true"], "x": 1}))
        return self.random.choice((name, node, node, {"name": "EDM", "churn": node}, [node], {"a": node}))

    def node(self, depth: int = 0, name: str = "") -> dict[str, Any]:
        """A node of a known class, with arguments that it has."""
        name = name or self.random.choice(self.names)
        node: dict[str, Any] = {"name": name}
        annotated = hints(known_names()[name])
        parameters = list(inspect.signature(known_names()[name]).parameters.values())
        for p in parameters:
            if self.random.random() < (0.8 if p.default is p.empty else 0.2):
                right = self.strict or self.random.random() < 0.85
                node[p.name] = self.fitting(annotated.get(p.name), depth + 1) if right else self.value(depth + 1)
        return node

    def fitting(self, hint: Any, depth: int = 0) -> Any:
        """A value of the annotated type, though it may be out of range."""
        hint = self.random.choice(union_members(hint))
        of, inside = typing.get_origin(hint) or hint, typing.get_args(hint)
        if hint in RIGHT:
            return self.random.choice(PLAUSIBLE[hint] if self.strict else RIGHT[hint])
        if of in (tuple, collections.abc.Sequence) and inside:
            return [self.fitting(inside[0], depth + 1) for _ in range(self.random.randrange(5))]
        names = [name for name in self.names if depth < 4 and accepts_class(known_names()[name], hint)]
        return self.node(depth, self.random.choice(names)) if names else self.value(depth)

    def place(self, content: dict[str, Any]) -> list[str]:
        """A key of a config, mostly an existing one."""
        section = self.random.choice([*content] if self.strict else [*content, "unknown"])
        path, inside = [section], content.get(section)
        while isinstance(inside, dict) and self.random.random() < 0.8:
            known_keys = list(inside)
            cls = known_names().get(inside.get("name", "")) if isinstance(inside.get("name", ""), str) else None
            if cls is not None:
                known_keys += list(inspect.signature(cls).parameters)
            known_keys += list(inspect.signature(SETTINGS[path[-1]]).parameters) if path[-1] in SETTINGS else []
            key = self.random.choice(
                known_keys if self.strict and known_keys else [*known_keys, "unknown", "name", "items", ""]
            )
            path.append(key)
            inside = inside.get(key)
        return path

    def change(self, content: dict[str, Any]) -> None:
        """Put a value somewhere."""
        *parents, last = self.place(content)
        node = content
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                return
        node[last] = self.right_or_wrong([*parents, last])

    def right_or_wrong(self, path: list[str]) -> Any:
        """A value for a key, half of the time of the right type."""
        if self.danger:
            return self.dangerous()
        if not self.strict and self.random.random() < 0.4:
            return self.value()
        *parents, last = path
        if not parents or (parents == ["samplers"] and last == "heun"):
            return self.fitting(KINDS.get(parents[0] if parents else last))
        name = BASE.get(path[0], {}).get("name", "") if isinstance(BASE.get(path[0], {}), dict) else ""
        cls = SETTINGS.get(path[0]) or known_names().get(name) or known_names()["EDM"]
        return self.fitting(hints(cls).get(last))

    def override(self) -> str:
        """An argument of the command line."""
        if self.random.random() < 0.05:
            return self.random.choice(
                ("--config.=1", "--config.a..b=1", "--config.samplers.keys={}", "--config.name=os:system")
            )
        path = self.place(BASE)
        key, value = ".".join(path), self.right_or_wrong(path)
        written = value if isinstance(value, str) else repr(value).replace("inf", "1e999").replace("nan", "1e999-1e999")
        if self.random.random() < 0.03:
            written = self.random.choice(
                ("[" * 100_000, "{'name': " * 5000, "(" * 90 + ")" * 90, "1" * 200_000, "0x" + "f" * 9999)
            )
        return f"--config.{key}={written}"

    def text(self, text: str) -> str:
        """Other text in place of a config.json."""
        n = self.random.randrange(len(text))
        # each a function, since some are long
        return self.random.choice((
            lambda: "[" * self.random.choice((10, 900, 100_000)), lambda: '{"a":' * 100_000, lambda: "[]", lambda: "null",
            lambda: "", lambda: "3", lambda: '"text"', lambda: text[:n],
            lambda: text[:n] + chr(self.random.randrange(1, 0x500)) + text[n + 1 :],
            lambda: text.replace("2", "9" * self.random.choice((30, 400, 9999)), 1), lambda: text.replace("2", "NaN"),
            lambda: text.replace('"seed"', '"seed.x"'), lambda: text.replace('"heun"', '"../../x"'), lambda: "\ufeff" + text,
            lambda: text.replace('"heun"', '"sampler.5"'), lambda: "[" * 20_000 + "]" * 20_000,
            lambda: '{"sde":' * 500 + "1" + "}" * 500,
        ))()  # fmt: skip


class Harness:
    """Runs cases in a folder of its own."""

    def __init__(self, place: Path, seconds: float = SECONDS) -> None:
        self.place, self.seconds, self.started = place, seconds, Counter[str]()
        (place / "fuzz_canary.py").write_text(CANARY)
        self.base = place / "base.py"
        self.base.write_text(_python(BASE))
        sys.path.append(str(place))
        sys.addaudithook(self._hear)
        self.listening = False
        for verb in ("train", "sample"):
            code, said = self.call([verb, "--config", str(self.base), "--workdir", str(place / "trained")])
            assert code == 0, said

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.listening and event in (
            "os.system",
            "subprocess.Popen",
            "os.exec",
            "os.posix_spawn",
            "os.fork",
            "ctypes.dlopen",
        ):
            self.started[event] += 1

    def call(self, arguments: list[str]) -> tuple[int, str]:
        """Run the command line: exit code and standard error. A traceback has code 70, a hanging case 71."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), self._clock():
            try:
                code = main(arguments)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 70
            except Hangs:
                code = 71
            except BaseException:
                traceback.print_exc()
                code = 70
        return code, err.getvalue()

    @contextlib.contextmanager
    def _clock(self) -> Iterator[None]:
        def ring(number: int, frame: object) -> None:
            raise Hangs

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def run(self, case: Case) -> tuple[str, str]:
        """The outcome of a case, and its message."""
        sys.modules.pop("fuzz_canary", None)
        run = self.place / "run"
        shutil.rmtree(run, ignore_errors=True)
        config = self.base
        if case.way in ("folder", "text"):
            shutil.copytree(self.place / "trained", run)
            config = run / "config.json"
            config.write_text(case.text or json.dumps(case.content), encoding="utf-8", errors="surrogatepass")
            arguments = [case.verb, "--workdir", str(run)]
        else:
            if case.way == "python":
                config = self.place / "changed.py"
                config.write_text(_python(case.content))
            if case.verb not in ("train", "check"):
                shutil.copytree(self.place / "trained", run)
            arguments = [case.verb, "--config", str(config), "--workdir", str(run), *case.overrides]
        if case.verb == "check":
            arguments = ["check", "--config", str(config), *case.overrides]
        threads = torch.get_num_threads()
        self.started.clear()
        self.listening = True
        code, said = self.call(arguments)
        self.listening = False
        torch.set_num_threads(threads)
        if executed := self._executed(case):
            return "EXECUTED", f"{executed}: {said}"
        return outcome(code, said), said

    def _executed(self, case: Case) -> str:
        """Forbidden executions of a case."""
        canary = sys.modules.get("fuzz_canary")
        if self.started:
            return f"processes {dict(self.started)}"
        if canary is not None and (case.way in ("folder", "text") or canary.CALLS):
            return f"canary imported, called {canary.CALLS}"
        return ""


def outcome(code: int, said: str) -> str:
    """The outcome of a call in one word."""
    lines = [
        line
        for line in said.splitlines()
        if line.strip() and "it/s]" not in line and "%|" not in line and "WARN" not in line
    ]
    if code == 70 or "Traceback" in said:
        return "TRACEBACK"
    if code == 71:
        return "still at work" if re.search(r"\d+/\d+ \[", said) else "HANGS"
    if code == 2:
        ours = [n for n, line in enumerate(lines) if line.startswith("scoresde ") and ": " in line]
        if "Differences (folder's -> given)" in said or said.startswith("usage:"):
            return "refused, with a list"
        return (
            "refused in one line" if ours and ours[-1] == len(lines) - 1 and len(lines[-1]) < 3000 else "SEVERAL LINES"
        )
    return {0: "accepted and done", 1: "a check failed"}.get(code, f"CODE {code}")


def _python(content: dict[str, Any]) -> str:
    shown = repr(content).replace("inf", "float('inf')").replace("nan", "float('nan')")
    return f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({shown})\n"


def fuzz(
    cases: int, seed: int, place: Path, say: bool = True, seconds: float = SECONDS
) -> tuple[Counter[str], list[str]]:
    """Counts of the outcomes, and a list of faults."""
    harness, generator, counts, wrong = Harness(place, seconds), Generator(seed), Counter[str](), []
    for number in range(cases):
        case = generator.case()
        found, said = harness.run(case)
        counts[found] += 1
        if found.split()[0].isupper():
            wrong.append(f"{found} {number} {case}\n{said[-3000:]}")
            if say:
                print(f"{found} {number}: {str(case)[:400]}\n{said[-1500:]}", flush=True)
        if say and number % 250 == 249:
            print(f"{number + 1}: {dict(counts)}", flush=True)
    return counts, wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--gib", type=int, default=12, help="address space of this process, so that no case exhausts the machine"
    )
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (given.gib * 2**30,) * 2)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        found, wrong = fuzz(given.cases, given.seed, Path(folder))
    for name, count in sorted(found.items()):
        print(f"{count:6d}  {name}")
    sys.exit(1 if wrong else 0)
