"""The method of Dormand and Prince: order, step size control, independence of samples, and failing samples."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde.solvers import RungeKutta, ScipyODE, SolverError

F64 = torch.float64
START = torch.tensor([[1.0, 0.0], [0.3, -2.0], [-1.5, 0.5], [4.0, 4.0]], dtype=F64)


def spiral(t, y):
    """A nonlinear, nonautonomous right-hand side. t has the shape (B,) or is a number."""
    t = torch.as_tensor(t, dtype=y.dtype).expand(len(y))[:, None]
    turned = torch.stack((-y[:, 1], y[:, 0]), 1)
    return turned * (1.0 + t) - 0.2 * y * (y**2).sum(1, keepdim=True).tanh() + torch.cos(3.0 * t)


class Counted:
    def __init__(self, f):
        self.f, self.calls, self.shapes = f, 0, set()

    def __call__(self, t, y):
        self.calls += 1
        self.shapes.add(tuple(t.shape))
        return self.f(t, y)


@pytest.mark.parametrize(("t_start", "t_end"), [(0.0, 3.0), (3.0, 0.0)])
@pytest.mark.parametrize("per_sample", [True, False])
def test_against_scipy(t_start, t_end, per_sample):
    exact = ScipyODE("DOP853", 1e-12, 1e-12).solve(spiral, START, t_start, t_end).y
    f = Counted(spiral)
    found = RungeKutta(1e-8, 1e-8, per_sample=per_sample).solve(f, START, t_start, t_end)
    assert torch.allclose(found.y, exact, atol=1e-6)
    assert found.nfe == f.calls
    assert f.shapes == {(4,)}
    assert not bool(found.failed.any())
    assert int(found.evaluations.max()) == found.nfe


def test_order_five():
    """Five tolerances: the error against the number of steps has slope -5, within 0.4."""
    exact = ScipyODE("DOP853", 1e-13, 1e-13).solve(spiral, START[:1], 0.0, 3.0).y
    rows = []
    for k in (6, 7, 8, 9, 10):
        found = RungeKutta(10.0**-k, 10.0**-k).solve(spiral, START[:1], 0.0, 3.0)
        rows.append((math.log(found.accepted), math.log(float((found.y - exact).abs().max()))))
    (x0, y0), (x1, y1) = rows[0], rows[-1]
    assert (y1 - y0) / (x1 - x0) == pytest.approx(-5.0, abs=0.4), rows


def test_a_wrong_weight_is_detected(monkeypatch):
    """Planted: part of one weight of the last row is moved to the next one, and the order is lost."""
    from scoresde.solvers import runge_kutta

    exact = ScipyODE("DOP853", 1e-13, 1e-13).solve(spiral, START[:1], 0.0, 3.0).y
    last = list(runge_kutta._A[-1])
    last[2], last[3] = last[2] + 0.01, last[3] - 0.01
    monkeypatch.setattr(runge_kutta, "_A", (*runge_kutta._A[:-1], tuple(last)))
    found = RungeKutta(1e-8, 1e-8).solve(spiral, START[:1], 0.0, 3.0)
    assert float((found.y - exact).abs().max()) > 1e-5


def test_the_number_of_steps_agrees_with_scipy():
    """With the same method and control, one sample needs the evaluations of RK45, within 10 %."""
    for k in (4, 6, 8):
        ours = RungeKutta(10.0**-k, 10.0**-k).solve(spiral, START[:1], 0.0, 3.0)
        theirs = ScipyODE("RK45", 10.0**-k, 10.0**-k).solve(spiral, START[:1], 0.0, 3.0)
        assert ours.nfe == pytest.approx(theirs.nfe, rel=0.1)


@pytest.mark.parametrize("shape", [(), (1,), (2, 1, 3)])
def test_any_shape(shape):
    y = torch.linspace(0.5, 1.5, 3 * math.prod(shape), dtype=F64).reshape(3, *shape)
    found = RungeKutta(1e-9, 1e-9).solve(lambda t, y: -y, y, 0.0, 1.0)
    assert torch.allclose(found.y, y / math.e, atol=1e-8)


def test_an_empty_interval():
    found = RungeKutta().solve(spiral, START, 1.0, 1.0)
    assert torch.equal(found.y, START)


def test_a_sample_has_its_own_steps():
    """A sample is bit for bit the same alone and together with one that is 100 times as fast."""

    def rates(t, y):
        return -y * y.new_tensor([1.0, 100.0])[: len(y), None] + torch.sin(t)[:, None]

    solver = RungeKutta(1e-7, 1e-7)
    alone = solver.solve(rates, START[:1], 0.0, 2.0)
    both = solver.solve(rates, START[:2], 0.0, 2.0)
    assert torch.equal(alone.y[0], both.y[0])
    assert int(both.evaluations[0]) == int(alone.evaluations[0]) == alone.nfe
    assert int(both.evaluations[1]) == both.nfe > alone.nfe
    shared = RungeKutta(1e-7, 1e-7, per_sample=False).solve(rates, START[:2], 0.0, 2.0)
    assert not torch.equal(shared.y[0], alone.y[0])
    assert shared.evaluations.tolist() == [shared.nfe, shared.nfe]
    assert torch.allclose(shared.y, both.y, atol=1e-6)


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("when", [0.0, 1.0])
def test_other_samples_continue_if_one_fails(per_sample, when):
    def breaking(t, y):
        broken = (t[:, None] >= when) & (torch.arange(len(y))[:, None] == 2)
        return torch.where(broken, torch.nan, spiral(t, y))

    solver = RungeKutta(1e-6, 1e-6, per_sample=per_sample)
    found = solver.solve(breaking, START, 0.0, 3.0)
    assert found.failed.tolist() == [False, False, True, False]
    assert bool(found.y[2].isnan().all())
    exact = ScipyODE("DOP853", 1e-12, 1e-12).solve(spiral, START, 0.0, 3.0).y
    others = [0, 1, 3]
    assert torch.allclose(found.y[others], exact[others], atol=1e-4)
    clean = solver.solve(spiral, START, 0.0, 3.0)
    assert found.nfe < 2 * clean.nfe + 200
    if per_sample:
        assert torch.equal(found.y[others], clean.y[others])
    elif when == 0.0:  # the other samples have their own first step
        assert found.nfe <= clean.nfe


def test_float32_with_a_failing_sample_and_shared_steps():
    """A common first step that depends on the failed sample would vanish in float32 rounding."""
    f = lambda t, y: torch.where(torch.arange(len(y))[:, None] == 0, torch.nan, -y)  # noqa: E731
    found = RungeKutta(per_sample=False).solve(f, torch.ones(3, 2), 1.0, 2.0)
    assert found.failed.tolist() == [True, False, False]
    assert torch.allclose(found.y[1:], torch.full((2, 2), math.exp(-1.0)), atol=1e-4)


def test_all_fail():
    with pytest.raises(SolverError, match=r"stopped at t=.*not finite, or too stiff"):
        RungeKutta().solve(lambda t, y: y * torch.nan, START, 0.0, 1.0)


def test_too_stiff_or_too_long():
    """y' = -10^5 (y - cos t) needs tens of thousands of steps. The solver cannot pass a pole."""
    stiff = lambda t, y: -1e5 * (y - torch.cos(t)[:, None])  # noqa: E731
    with pytest.raises(SolverError, match="max_steps=50"):
        RungeKutta(max_steps=50).solve(stiff, START, 0.0, 1.0)
    rates = torch.tensor([[1.0], [1e5]], dtype=F64)
    found = RungeKutta(max_steps=50).solve(lambda t, y: -rates * (y - 1.0), START[:2], 0.0, 1.0)
    assert found.failed.tolist() == [False, True]
    pole = RungeKutta().solve(lambda t, y: y**2, torch.tensor([[0.1], [2.0]], dtype=F64), 0.0, 1.0)
    assert pole.failed.tolist() == [False, True]
    assert float(pole.y[0, 0]) == pytest.approx(1 / 9, abs=1e-5)


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize(("t_start", "t_end"), [(0.0, 2.0), (2.0, 0.0)])
def test_the_callback(per_sample, t_start, t_end):
    """Calls have numbers from 1 and times that all samples reached, although one failed. The last state is the result."""
    seen = []
    f = lambda t, y: torch.where(torch.arange(len(y))[:, None] == 1, torch.nan, spiral(t, y))  # noqa: E731
    found = RungeKutta(per_sample=per_sample).solve(f, START, t_start, t_end, lambda *a: seen.append(a))
    assert [a[0] for a in seen] == list(range(1, found.accepted + 1))
    times = [a[1] for a in seen]
    assert times == sorted(times, reverse=t_end < t_start)
    assert times[-1] == t_end
    assert torch.equal(seen[-1][2][[0, 2, 3]], found.y[[0, 2, 3]])


def test_a_slope_in_another_dtype():
    found = RungeKutta(1e-6, 1e-6).solve(lambda t, y: -y.float(), START, 0.0, 1.0)
    assert found.y.dtype == F64
    assert torch.allclose(found.y, START / math.e, atol=1e-5)


@pytest.mark.parametrize("name", ["rtol", "atol", "max_steps"])
def test_parameters_are_named(name):
    with pytest.raises(ValueError, match=f"{name}=0"):
        RungeKutta(**{name: 0})
