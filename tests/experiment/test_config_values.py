"""Invalid values of a config: each is an error in one line with the key, the value and what is allowed."""

from __future__ import annotations

import json
import sys

import pytest
from ml_collections import ConfigDict

from benchmarks.fuzz_configs import BASE, fuzz
from scoresde.experiment import ConfigError, Experiment, apply_overrides, build, load_config
from scoresde.experiment.config.annotations import accepts_class, accepts_value, describe
from scoresde.experiment.config.loader import check_values, read_config
from scoresde.experiment.config.weight_names import weights_name
from scoresde.samplers import DEIS, EDM, Sampler
from scoresde.samplers.discretization import ExactTransitions
from scoresde.samplers.grids import karras
from scoresde.sde import VPSDE, LinearSDE
from tests.params import some_long

from .conftest import ROOT, called

WRONG = {
    # an argument of the wrong type
    "data={'name': 'Arrays', 'train': 1}": "config.data.train=1 is not allowed: give a string",
    "data={'name': 'TorchDataset', 'train': 3}": "config.data.train=3 is not allowed: give an object with __len__ and",
    "network.embedding=3": "config.network.embedding=3 is not allowed: give an Embedding or None",
    "network.width=[1]": "config.network.width=(1,) is not allowed",
    "sde.beta_max=big": "config.sde.beta_max='big' is not allowed: give a number",
    "sde.beta_max=True": "config.sde.beta_max=True is not allowed: give a number",
    "samplers.a={'name': 'EDM', 'churn': 3}": "config.samplers.a.churn=3 is not allowed: give a Churn or None",
    "samplers.a={'name': 'DEIS', 'variable': 3}": "config.samplers.a.variable=3 is not allowed: give a function",
    "samplers.a={'name': 'EDM', 'heun': 'no'}": "config.samplers.a.heun='no' is not allowed: give True or False",
    "samplers.a=3": "config.samplers.a=3: give a node",
    "likelihood.solver=3": "config.likelihood.solver=3 is not",
    "evaluation.extractor=Coordinates": "config.evaluation.extractor='Coordinates' is not",
    "model.label=3": "config.model.label=3 is not allowed: give a function",
    "objective.times=3": "config.objective.times=3 is not",
    "training.compile=2": "config.training.compile=2 is not",
    "seed=[1]": "config.seed=[1] is not allowed",
    "device=3": "config.device=3 cannot be used",
    "device=meta": "config.device='meta' cannot be used",
    # a name of the wrong kind
    "sde.name=karras": "config.sde: karras is not allowed here: give SDE, allowed are BlurringSDE",
    "sde.name=os.path:join": "config.sde: os.path:join is not allowed here: give SDE",
    "sde.name=os:system": "config.sde.name='os:system' is a builtin_function_or_method: give a class",
    "sde.name=math:pi": "config.sde.name='math:pi' is a float: give a class",
    "sde.name=.x:y": "config.sde.name='.x:y' is not allowed: give 'package.module:Name'",
    "sde.name=:": "config.sde.name=':' is not allowed: give 'package.module:Name'",
    "sde.name=3": "config.sde.name=3 is not allowed: give the name of a class",
    "sde={'name': ['VPSDE']}": "config.sde.name=['VPSDE'] is not allowed: give the name of a class",
    "sde={'name': 'subprocess:Popen', 'args': 'true'}": "config.sde: subprocess:Popen is not allowed here",
    "data={'name': 'TorchDataset', 'train': {'name': 'subprocess:Popen', 'args': 'true'}}": "is not allowed here",
    "network.embedding={'name': 'VPSDE'}": "config.network.embedding: VPSDE is not allowed here: give Embedding",
    "samplers.a={'name': 'DEIS', 'variable': {'name': 'karras'}}": "variable: karras is not allowed here: give a function",
    "samplers.a={'name': 'EDM', 'steps': {'name': 'ReferenceDiscretization'}}": "ReferenceDiscretization is not allowed here",
    "likelihood.solver={'name': 'TorchSDE'}": "give Engine, or ODESolver, or None, allowed are Multistep, RungeKutta, Sc",
    "likelihood.divergence={'name': 'Divergence'}": "Divergence is not allowed here",
    "objective.times={'name': 'ChainTimes'}": "config.objective.times: ChainTimes needs a chain",
    "network={'name': 'FlowDequantizer', 'transform': {'name': 'Quantized'}, 'event_shape': [1, 2, 1, 1]}":
    "config.model: network: FlowDequantizer has no forward(input, label)",
    "model.name=os:system": "config.model.name='os:system' is a builtin_function_or_method: give a class",
    "training.name=os:system": "config.training.name is not known",
    "model.network={'name': 'MLP'}": "config.model.network is not known",
    "objective.sde={'name': 'VESDE'}": "config.objective.sde is not allowed: it is config.sde",
    # sizes and numbers
    "sampling.count=10**12": "config.sampling.count='10**12' is not allowed",
    "sampling.count=1000000000000": "config.sampling.count=1000000000000 is not allowed with batch_size=2",
    "sampling.batch_size=1000000000000": "config.sampling.batch_size=1000000000000 is not allowed",
    "likelihood.draws=1000000000000": "config.likelihood.draws=1000000000000 is not allowed",
    "training.batch_size=1000000000000": "config.training.batch_size=1000000000000 is not allowed",
    "training.learning_rate=1e38": "config.training.learning_rate=1e+38 is not allowed",
    "training.grad_clip=1e300": "config.training.grad_clip=1e+300 is not allowed",
    "training.posthoc_widths=[0.1, 'x']": "config.training",
    "network.width=1000000000000": "config.network.width=1000000000000 is not allowed: give whole numbers up to 1048576",
    "network.width=200": "config.network: MLP cannot be built: its parameters need more than this machine's",
    "network.depth=1000000": "config.network: MLP cannot be built: it has more than 200 modules",
    "threads=100000": "config.threads=100000 is not allowed",
    "model.steps=1000000000000": "config.model.steps=1000000000000 is not allowed",
    "samplers.a={'name': 'EDM', 'steps': 10000000000}": "config.samplers.a.steps=10000000000 is not allowed",
    "seed=9223372036854775808": "config.seed=9223372036854775808 is not allowed",
    "sde.beta_max=1e999": "config.sde.beta_max=inf is not allowed: give finite numbers",
    "sde.beta_max=[[1e999]]": "config.sde.beta_max=inf is not allowed",
    "sampling.weights=1e400": "config.sampling.weights=inf is not allowed",
    # names of samplers
    "samplers={'dpm.5': {'name': 'EDM'}}": "give it a name without dots",
    "samplers={'a/b': {'name': 'EDM'}}": "config.samplers: 'a/b' is not allowed as a name",
    "samplers={'a@b': {'name': 'EDM'}}": "config.samplers: 'a@b' is not allowed as a name",
    "samplers={'a\\nb': {'name': 'EDM'}}": "config.samplers: 'a\\nb' is not allowed as a name",
    "samplers={'items': {'name': 'EDM'}}": "",
    # keys
    "samplers.heun.steps.a=1": "config.samplers.heun.steps",
    "=1": "config. is not known",
    "a..b=1": "config.a is not known",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _a_small_machine(monkeypatch):
    monkeypatch.setattr("scoresde.experiment.config.limits.machine_memory", lambda: 2**17)
    monkeypatch.setattr("scoresde.experiment.config.limits.MODULES", 200)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.parametrize("override", WRONG)
def test_a_wrong_value_is_named(override):
    config = ConfigDict(BASE)
    key, _, value = override.partition("=")
    if not WRONG[override]:
        apply_overrides(config, {key: value})
        return
    with pytest.raises(ValueError) as said:
        apply_overrides(config, {key: value})
        Experiment.from_config(config)
    assert WRONG[override] in str(said.value)
    assert "\n" not in str(said.value) and len(str(said.value)) < 700


@pytest.mark.parametrize("override", ["model=3", "model.data_std=x", "model.data_std=-1", "sde=3", "sde.name=karras"])
def test_check_refuses_too(override):
    done = called("check", "--config", ROOT / "configs" / "vp" / "digits.py", f"--config.{override}")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "config." in done.stderr


def test_what_nests_too_deep():
    with pytest.raises(ConfigError, match="is nested too deeply"):
        apply_overrides(ConfigDict(BASE), {"seed": "[" * 60 + "]" * 60})
    for text in ("[" * 99_000, "{'a':" * 5000):
        done = called("check", "--config", ROOT / "configs" / "vp" / "digits.py", f"--config.sde.beta_max={text}")
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and len(done.stderr) < 2000
    with pytest.raises(ConfigError, match=r"a value of 200000 characters: give at most 100000"):
        apply_overrides(ConfigDict(BASE), {"seed": "1" * 200_000})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "its content is a list"), ("[" * 100_000, "recursion"), ('{"a":' * 100_000, "recursion"), ("", "Expecting value"),
        ("3", "its content is a int"), ('{"seed": NaN}', "config.seed=nan is not allowed"), ('{"a": {"b.c": 1}}', "without dots"),
        ('{"seed": %s}' % ("9" * 5000), "digits"), ('{"a": [%s]}' % ("9" * 400), "config.a of 1329 bits"),
        ('{"a": ' + "[" * 40 + "]" * 40 + "}", "config.a is nested too deeply"), ("\udcff", "decode"),
    ],
)  # fmt: skip
def test_a_config_that_is_none(tmp_path, text, said):
    file = tmp_path / "config.json"
    file.write_text(text, errors="surrogateescape")
    with pytest.raises(ConfigError, match=said) as problem:
        load_config(file)
    assert "\n" not in str(problem.value) and len(str(problem.value)) < 700


def test_the_folders_config_is_compared_as_data(tmp_path):
    """With --config, the config of the folder is read too."""
    config = tmp_path / "mine.py"
    config.write_text(f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({BASE!r})\n")
    (tmp_path / "run").mkdir()
    for text in ("[" * 100_000, "[]", "{", '{"sde": {"name": "os:system"}}'):
        (tmp_path / "run" / "config.json").write_text(text)
        for verb in ("train", "sample"):
            done = called(verb, "--config", config, "--workdir", tmp_path / "run")
            assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr


class TestWhatAConstructorRaises:
    """The error of a user's class is shown in one line with its file and line."""

    def build(self, raised, monkeypatch):
        class Own(VPSDE):
            def __init__(self) -> None:
                raise raised

        monkeypatch.setitem(sys.modules, "own_process", type(sys)("own_process"))
        sys.modules["own_process"].Own = Own
        build({"name": "own_process:Own"}, "sde", LinearSDE)

    @pytest.mark.parametrize(
        "raised", [ZeroDivisionError("by\nzero"), SystemExit(3), AttributeError("x"), RecursionError("deep")]
    )
    def test_anything(self, raised, monkeypatch):
        with pytest.raises(
            ConfigError,
            match=r"^config\.sde: own_process:Own cannot be built: \w+: .* \(test_config_values\.py, line \d+\)$",
        ):
            self.build(raised, monkeypatch)

    def test_memory(self, monkeypatch):
        for raised in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")):
            with pytest.raises(ConfigError, match="does not fit into memory: give smaller sizes"):
                self.build(raised, monkeypatch)

    def test_not_an_interrupt(self, monkeypatch):
        with pytest.raises(KeyboardInterrupt):
            self.build(KeyboardInterrupt(), monkeypatch)


def test_an_own_module_that_cannot_be_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for number, (text, said) in enumerate(
        [("1 / 0", "ZeroDivisionError"), ("raise SystemExit", "SystemExit"), ("x = (", "SyntaxError")]
    ):
        (tmp_path / f"broken{number}.py").write_text(text + "\n")
        with pytest.raises(ConfigError, match=f"cannot be imported: {said}"):
            build({"name": f"broken{number}:X"}, "sde", LinearSDE)


def test_kinds():
    sampler, grid = Sampler, ExactTransitions.__init__.__annotations__["grid"]
    assert accepts_class(EDM, sampler) and not accepts_class(VPSDE, sampler) and not accepts_class(karras, sampler)
    from collections.abc import Callable, Sequence

    from torch import Tensor

    of_grid = Callable[[LinearSDE, int], Tensor]
    assert accepts_class(karras, of_grid) and accepts_class(karras, of_grid, {"rho": 3.0})
    assert not accepts_class(karras, of_grid, {"steps": 3})
    assert not accepts_class(karras, Callable[[Tensor, Tensor], Tensor]) and grid is not None
    assert accepts_value(1, float) and not accepts_value(True, float)
    assert not accepts_value(float("nan"), float) and not accepts_value(10**400, float)
    assert accepts_value((1, 2), Sequence[int]) and not accepts_value((1, "a"), Sequence[int])
    assert not accepts_value("ab", Sequence[str])
    assert accepts_value(None, int | None) and not accepts_value(1.0, int) and not accepts_value(1, bool)
    assert describe(int | None) == "a whole number, or None" and describe(Sequence[float]) == "a list of finite numbers"
    assert describe(sampler) == "a node of Sampler" and DEIS


def test_weights_of_any_value():
    for which in (10**400, float("nan"), [], None, True, "1e999", -1.0):
        with pytest.raises(ValueError, match="weights="):
            weights_name(which)


def test_values_of_any_config():
    check_values({"a": [1, 2.5, None, "x", {"b": True}]})
    assert read_config(json.dumps(BASE)) == BASE


@pytest.mark.parametrize("seed", some_long([8, 5], [5]))
def test_a_small_fuzz(tmp_path, seed):
    """Thousands of cases: python benchmarks/fuzz_configs.py. Seed 5 checks a process of 96 numbers, which takes ten seconds."""
    counts, wrong = fuzz(25, seed, tmp_path, say=False)
    assert wrong == []
    assert counts["refused in one line"] >= 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{'name': 'DDIM', 'steps': nan}", r"config\.samplers\.a\.steps=nan is not allowed: give finite numbers"),
        ("{'name': 'DDIM', 'steps': (1.0, -inf)}", r"config\.samplers\.a\.steps=-inf is not allowed"),
        ("{'name': DDIM}", r"--config\.samplers\.a=.*is not allowed: DDIM is not a value; give a Python value"),
        ("{'name': 'DDIM', 'denoise': true}", "true is not a value"),
        ("{'name': 'DDIM', 'steps': 1 + 1}", "it holds an expression"),
        ("{'name': 'DDIM'", "never closed at character 1"),
    ],
)
def test_a_value_of_a_flag_that_is_no_literal_says_why(text, message):
    with pytest.raises(ConfigError, match=message):
        apply_overrides(load_config(ROOT / "configs" / "vp" / "digits.py"), {"samplers.a": text})
