"""Adapters of other libraries' processes: closed forms through stand-ins with their methods, and planted errors.

tests/interop/test_peer_processes.py uses the libraries themselves.
"""

from __future__ import annotations

import math

import pytest
import torch

from scoresde import VPSDE
from scoresde.cli import main
from scoresde.interop import (
    AzulaSDE,
    DeepinvSDE,
    DiffusersSDE,
    FlowMatchingSDE,
    SbiSDE,
    TorchCFMSDE,
    from_library,
)
from scoresde.sde import CheckReport, LinearInterpolantSDE, check
from scoresde.sde.checks.contract import noise_rises
from scoresde.sde.checks.dense import DenseProcess
from scoresde.sde.checks.distributions import prior
from scoresde.sde.checks.kernels import kernel

from ..params import some_long
from .stand_ins import Cosine, Diffusion, Estimator, Flow, Matcher, Scheduler, straight

T = torch.linspace(0.02, 0.98, 9, dtype=torch.float64)
RIGHT = {
    "azula": lambda: AzulaSDE(straight),
    "deepinv": lambda: DeepinvSDE(Diffusion()),
    "sbi": lambda: SbiSDE(Estimator()),
    "sbi flow": lambda: SbiSDE(Flow()),
    "flow_matching": lambda: FlowMatchingSDE(Cosine()),
    "torchcfm": lambda: TorchCFMSDE(Matcher()),
    "diffusers": lambda: DiffusersSDE(Scheduler(), knots=4),
    "diffusers, alpha = 1": lambda: DiffusersSDE(Scheduler(variance_preserving=False), knots=4),
}


QUICK = ("deepinv", "sbi flow", "prior", "ratio")
"""Words in the names of the cases that run by default. The others take seconds each."""


def failed(report):
    return {row.name: row for row in report.rows if not row.passed}


@pytest.mark.parametrize("name", some_long(RIGHT, lambda name: name not in QUICK))
def test_a_right_process_passes(name):
    report = check(RIGHT[name]())
    assert report.passed, report


@pytest.mark.parametrize("made", [lambda: DeepinvSDE(Diffusion()), lambda: SbiSDE(Estimator())])
def test_the_coefficients_are_those_of_the_closed_form(made):
    sde, wanted, x = made(), VPSDE(0.1, 20.0), torch.ones(9, 2, 3, dtype=torch.float64)
    for name in ("alpha", "sigma", "drift_coefficient", "diffusion"):
        assert torch.allclose(getattr(sde, name)(T), getattr(wanted, name)(T), rtol=1e-12), name
    assert torch.allclose(sde.drift(x, T), wanted.drift(x, T), rtol=1e-12)


def test_time_runs_from_data_to_noise():
    """flow_matching and torchcfm count time from noise to data."""
    half = 0.5 * math.pi
    sde = FlowMatchingSDE(Cosine())
    assert torch.allclose(sde.alpha(T), (half * (1.0 - T)).sin()) and torch.allclose(
        sde.sigma(T), (half * (1.0 - T)).cos()
    )
    sde, wanted = TorchCFMSDE(Matcher(sigma=0.0)), LinearInterpolantSDE()
    for name in ("alpha", "sigma", "drift_coefficient", "diffusion"):
        assert torch.allclose(getattr(sde, name)(T), getattr(wanted, name)(T)), name


def test_the_independent_matcher_adds_the_variances_of_source_and_path():
    assert torch.allclose(TorchCFMSDE(Matcher(sigma=0.3)).sigma(T), (T**2 + 0.09).sqrt())


@pytest.mark.parametrize("preserving", [True, False])
def test_a_scheduler_has_its_marginals_at_its_steps(preserving):
    scheduler = Scheduler(variance_preserving=preserving)
    sde = DiffusersSDE(scheduler, knots=20)
    i = torch.arange(4, 100, 5)
    t, square = (i + 1.0) / 100.0, scheduler.squares[i]
    alpha = square.sqrt() if preserving else torch.ones_like(square)
    sigma = (1.0 - square).sqrt() if preserving else (1.0 / square - 1.0).sqrt()
    assert torch.allclose(sde.alpha(t.double()), alpha) and torch.allclose(sde.sigma(t.double()), sigma)
    assert sde.prior_std() == scheduler.init_noise_sigma


def test_a_scheduler_without_data_in_its_last_step_ends_before_it():
    scheduler = Scheduler()
    scheduler.squares[-1], scheduler.betas[-1] = 0.0, 1.0  # zero terminal signal-to-noise ratio
    sde = DiffusersSDE(scheduler)
    assert float(sde.alpha(torch.tensor(1.0))) == pytest.approx(float(scheduler.squares[-2].sqrt()), rel=1e-5)


WRONG = {
    "deepinv, g^2 twice": (lambda: DeepinvSDE(Diffusion(factor=2.0)), "kernel covariance from the SDE", "factor 2 in g^2"),
    "deepinv, prior": (lambda: DeepinvSDE(Diffusion(prior=1.3)), "prior, nats per coordinate", "prior_std"),
    "sbi, variance for std": (lambda: SbiSDE(Estimator(root=False)), "kernel covariance from the SDE", "square"),
    "sbi, prior": (lambda: SbiSDE(Estimator(std_base=0.7)), "prior, nats per coordinate", "prior_std"),
    "sbi, mean of the prior": (lambda: SbiSDE(Estimator(mean_base=0.5)), "prior, nats per coordinate", "mean"),
    "sbi, g^2 of the flow": (lambda: SbiSDE(Flow(noise_scale=0.01)), "kernel covariance from the SDE", ""),
    "flow_matching, velocity": (lambda: FlowMatchingSDE(Cosine(factor=1.01)), "kernel mean from the drift", ""),
    "torchcfm, velocity": (lambda: TorchCFMSDE(Matcher(factor=1.01)), "kernel mean from the drift", ""),
    "diffusers, add_noise": (lambda: DiffusersSDE(Scheduler(factor=0.98), knots=4), "kernel mean from the drift", ""),
    "diffusers, prior": (
        lambda: DiffusersSDE(Scheduler(variance_preserving=False, init_noise_sigma=1.0), knots=4),
        "prior, nats per coordinate", "",
    ),
    "azula, prior": (lambda: AzulaSDE(lambda t: (1.0 - 0.3 * t, t + 1e-3)), "prior, nats per coordinate", "depends on the data"),
    "azula, ratio": (
        lambda: AzulaSDE(lambda t: (1.0 - 0.999 * t, 0.5 + 0.4 * (12.0 * t).sin())),
        "noise-to-signal ratio increases", "decrease",
    ),
}  # fmt: skip


PARTS = {"kernel": kernel, "prior": prior, "noise-to-signal": noise_rises}


def part(sde, one):
    """A part of the check."""
    return CheckReport("", tuple(one(DenseProcess(sde, (2,)))))


@pytest.mark.parametrize("name", some_long(WRONG, lambda name: not any(word in name for word in QUICK)))
def test_a_planted_error_fails_its_line(name):
    made, line, hint = WRONG[name]
    found = failed(part(made(), PARTS[line.split()[0].rstrip(",")]))
    assert line in found and hint in found[line].hint, found


def test_the_deviation_of_a_noise_scale_is_its_size(monkeypatch):
    """Flow matching with sigma = t + e and the diffusion of e = 0: g^2 is too small by the factor 1 + e."""
    monkeypatch.setattr("scoresde.sde.checks.kernels._explain", lambda process: "")  # it takes seconds
    row = failed(part(SbiSDE(Flow(noise_scale=1e-3)), kernel))["kernel covariance from the SDE"]
    assert row.error == pytest.approx(1e-3, rel=0.05)
    assert part(SbiSDE(Flow(noise_scale=1e-3, factor=1.001)), kernel).passed


def test_noise_in_the_reverse_order_is_refused():
    with pytest.raises(ValueError, match=r"add_noise gives alpha = .* at time step 0 and .* at 1"):
        DiffusersSDE(Scheduler(reverse=True))


def test_a_shortened_scheduler_is_refused():
    scheduler = Scheduler()
    scheduler.num_inference_steps = 10
    with pytest.raises(ValueError, match="scheduler has 10 time steps, set by set_timesteps"):
        DiffusersSDE(scheduler)


def test_base_distributions_that_differ_between_coordinates():
    estimator = Estimator(std_base=torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="give prior_std"):
        SbiSDE(estimator)
    assert SbiSDE(estimator, prior_std=1.5).prior_std() == 1.5
    assert SbiSDE(Estimator(mean_base=torch.tensor([0.0, 1.0]))).prior_mean().tolist() == [[0.0, 1.0]]


def test_the_last_time_of_sbi():
    assert SbiSDE(Flow()).T == 0.99 and SbiSDE(Estimator()).T == 1.0 and SbiSDE(Estimator(), T=0.5).T == 0.5


@pytest.mark.parametrize("adapter", [AzulaSDE, DeepinvSDE, DiffusersSDE, FlowMatchingSDE, SbiSDE, TorchCFMSDE])
@pytest.mark.parametrize("wrong", [3.0, "VP", VPSDE])
def test_another_object_is_refused(adapter, wrong):
    with pytest.raises(TypeError, match=r"has no|is a class: give an object"):
        adapter(wrong)


def test_the_library_is_found_by_the_class():
    class Own(Diffusion):
        """A user's subclass of a class of deepinv."""

    for kind, home, adapter in ((Diffusion, "deepinv.sampling", DeepinvSDE), (Matcher, "torchcfm", TorchCFMSDE)):
        made = type(kind.__name__, (kind,), {"__module__": home})
        assert type(from_library(made())) is adapter
    Own.__bases__[0].__module__, before = "deepinv.sampling", Own.__bases__[0].__module__
    try:
        assert type(from_library(Own())) is DeepinvSDE
    finally:
        Diffusion.__module__ = before
    with pytest.raises(TypeError, match="not of a known library: give an object of azula, deepinv, diffusers"):
        from_library(Matcher())


MODULE = """
from scoresde import VPSDE
from scoresde.interop import SbiSDE
from tests.interop.stand_ins import Estimator

def right():
    return SbiSDE(Estimator())

wrong = SbiSDE(Estimator(std_base=0.7))

def needs(a):
    return a

other = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "their_processes.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield "their_processes"
    import sys

    sys.modules.pop("their_processes", None)


@pytest.mark.parametrize(("name", "code", "text"), [("right", 0, "SbiSDE("), ("wrong", 1, "prior_std")])
def test_the_command_checks_a_named_process(module, capsys, name, code, text):
    assert main(["check", "--process", f"{module}:{name}"]) == code
    assert text in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("{}:needs", "needs arguments"), ("{}:other", "not of a known library"), ("{}:none", "cannot be imported"),
        ("no_such_module:x", "cannot be imported"), ("{}", "give MODULE:NAME"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_one_line(module, capsys, name, text):
    assert main(["check", "--process", name.format(module)]) == 2
    said = capsys.readouterr().err
    assert text in said and said.count("\n") == 1


def test_process_and_config_exclude_each_other(capsys):
    for flags in ([], ["--process", "a:b", "--config", "c"], ["--process", "a:b", "--config.sde.T=2.0"]):
        with pytest.raises(SystemExit):
            main(["check", *flags])
        assert "--config" in capsys.readouterr().err
