"""Refusals of a score model: dtypes, devices, times and shapes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from scoresde.score import (
    PREDICTIONS,
    LogNoiseLabel,
    MixedPrediction,
    ScoreModel,
    TimeLabel,
)
from scoresde.sde import VESDE, VPSDE
from tests.bare import Bare
from tests.score_common import F32, F64, SHAPE, TIMES, Zero, normal


class Linear(nn.Module):
    """A network with weights of a given dtype."""

    def __init__(self, dtype=F32):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3, dtype=dtype)

    def forward(self, x, label):
        return self.layer(x)


CALLS = ["__call__", "noise", "denoised", "velocity", "posterior"]


@pytest.mark.parametrize("call", CALLS)
def test_x_of_another_dtype_is_refused(call):
    model, t = ScoreModel(Linear(), VPSDE()), TIMES.float()
    with pytest.raises(TypeError, match=r"x has dtype torch\.float64, but the network has torch\.float32"):
        getattr(model, call)(normal(), t)
    with pytest.raises(TypeError, match="floating-point"):
        getattr(model, call)(torch.zeros(SHAPE, dtype=torch.int64), t)
    assert torch.isfinite(model(normal(dtype=F32), t)).all()


def test_x_on_another_device_is_refused():
    """The meta device stands for an accelerator."""
    model = ScoreModel(Linear(), VPSDE())
    with pytest.raises(TypeError, match="x is on meta, but the network is on cpu"):
        model(torch.empty(SHAPE, device="meta"), torch.empty(5, device="meta"))


@pytest.mark.parametrize("shape", [(), (1,), (4,), (5, 1), (1, 5)])
@pytest.mark.parametrize("call", CALLS)
def test_misshapen_times_are_refused(call, shape):
    with pytest.raises(ValueError, match=r"t has shape .*: give \(5,\)"):
        getattr(ScoreModel(Zero(), VPSDE()), call)(normal(), torch.full(shape, 0.5, dtype=F64))


@pytest.mark.parametrize("bad", [-0.1, 1.1, 999.0, math.nan])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("label", [LogNoiseLabel(), TimeLabel()])
def test_times_out_of_range_are_refused(label, prediction, bad):
    """Also if neither label nor prediction evaluates the process."""
    model, t = ScoreModel(Zero(), VPSDE(), prediction, label=label, data_std=None), TIMES.clone()
    t[2] = bad
    with pytest.raises(ValueError, match="give times in"):
        model(normal(), t)


class Shaped(nn.Module):
    """Returns ones of a fixed shape."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def forward(self, x, label):
        return torch.ones(self.shape, dtype=x.dtype)


WRONG_SHAPES = [(5, 1, 3, 1), (5, 3), (5, 1, 1), (1, 1, 3), (1, 3), (3,), ()]


@pytest.mark.parametrize("prediction", [*PREDICTIONS, MixedPrediction()])
@pytest.mark.parametrize("call", CALLS)
def test_an_output_of_another_shape_is_refused(call, prediction):
    """Also an output that broadcasts against x, such as one without the batch dimension."""
    passed = []
    for shape in WRONG_SHAPES:
        try:
            getattr(ScoreModel(Shaped(shape), VPSDE(), prediction), call)(normal(), TIMES)
        except ValueError as problem:
            assert str(shape) in str(problem) and str(SHAPE) in str(problem)
        except RuntimeError as problem:
            passed.append((shape, f"torch's own error: {problem}"))
        else:
            passed.append((shape, "no error"))
    assert not passed


def test_an_unknown_prediction_names_the_closest_match():
    with pytest.raises(ValueError, match=r"prediction='nose' is not known: allowed are .*; did you mean 'noise'\?"):
        ScoreModel(Zero(), VPSDE(), "nose")
    with pytest.raises(ValueError, match=r"prediction='qqq' is not known: allowed are \[.*\]$"):
        ScoreModel(Zero(), VPSDE(), "qqq")


@pytest.mark.parametrize("data_std", [0.0, -1.0, math.nan, math.inf, "1"])
def test_a_bad_data_std_is_named(data_std):
    with pytest.raises(ValueError, match="data_std="):
        ScoreModel(Zero(), VPSDE(), data_std=data_std)


def test_a_process_without_a_kernel_is_refused():
    with pytest.raises(TypeError, match="no closed-form kernel"):
        ScoreModel(Zero(), Bare())


def test_the_global_dtype_does_not_matter():
    model, x = ScoreModel(Linear(F64), VESDE()), normal()
    found = [getattr(model, call)(x, TIMES) for call in ("__call__", "noise", "denoised", "velocity")]
    torch.set_default_dtype(F64)
    try:
        again = [getattr(model, call)(x, TIMES) for call in ("__call__", "noise", "denoised", "velocity")]
    finally:
        torch.set_default_dtype(F32)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found, again, strict=True))


def test_the_repr_of_a_model():
    assert "VPSDE" in repr(ScoreModel(Zero(), VPSDE())) and "prediction='noise'" in repr(ScoreModel(Zero(), VPSDE()))
