"""Gradients of log p: against finite differences, with bounded memory, and against the score itself."""

from __future__ import annotations

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from scoresde import GaussianMixture, ScoreModel, log_likelihood
from scoresde.likelihood import Exact, Hadamard, Hutchinson, HutchPlusPlus, Multistep
from scoresde.noise import NoiseSource
from scoresde.sde import VESDE, VPSDE, CriticallyDampedLangevin, LearnedSNRSDE

F64 = torch.float64
WIDTH = 24


class Net(torch.nn.Module):
    """A small network."""

    def __init__(self, dtype=F64):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = torch.nn.Parameter(torch.randn(4, WIDTH, generator=generator).to(dtype))
        self.last = torch.nn.Parameter(0.3 * torch.randn(WIDTH, 3, generator=generator).to(dtype))

    def forward(self, x, label):
        shape = x.shape
        flat = x.reshape(-1, 3)
        label = label.repeat_interleave(len(flat) // len(label))[:, None]
        hidden = torch.tanh(torch.cat((flat, label.to(flat)), 1) @ self.first)
        self.note(hidden)
        return (hidden @ self.last).reshape(shape) + x

    def note(self, hidden):
        """Called with the activations of each layer."""


class Watched(Net):
    """A network that records its activations by weak references."""

    def __init__(self):
        super().__init__()
        self.calls, self.seen, self.most_alive = 0, [], 0

    def note(self, hidden):
        self.calls += 1
        self.seen.append(StorageWeakRef(hidden.untyped_storage()))
        self.most_alive = max(self.most_alive, self.alive())

    def alive(self):
        """Activations that are still referenced."""
        return sum(not ref.expired() for ref in self.seen)


def example(sde, network=None, dtype=F64):
    model = ScoreModel(network or Net(dtype), sde)
    return model, NoiseSource.of(0, 4).normal((3,), step=0, purpose="x", dtype=dtype)


def difference(f, value, where, h=1e-5):
    """Central difference of f with respect to one entry of the tensor ``value``, which is changed in place."""
    with torch.no_grad():
        kept = value[where].item()
        value[where] = kept + h
        up = f()
        value[where] = kept - h
        down = f()
        value[where] = kept
    return (up - down) / (2 * h)


@pytest.mark.parametrize(
    ("sde", "divergence"),
    [
        (VPSDE(), Exact()),
        pytest.param(VPSDE(), Hadamard(count=2), marks=pytest.mark.long),
        (VPSDE(), Hutchinson(forward=True)),
        (VESDE(0.01, 30.0), Hadamard()),
        pytest.param(CriticallyDampedLangevin(), Hadamard(), marks=pytest.mark.long),
        pytest.param(CriticallyDampedLangevin(), Exact(), marks=pytest.mark.long),
    ],
    ids=repr,
)
def test_against_finite_differences(sde, divergence):
    """With respect to x and the network's weights. The probes, keyed by the seed, do not change."""
    model, x = example(sde)
    x.requires_grad_(True)
    net = model.network

    def run(differentiable=False):
        return log_likelihood(
            sde, model, x, solver=Multistep(nodes=12), divergence=divergence, differentiable=differentiable
        ).log_prob

    found = run(True)
    assert torch.equal(found, run(True))
    assert torch.allclose(found, run(), rtol=1e-12)
    slopes = torch.autograd.grad(found.sum(), (x, net.first, net.last))
    scale = float(slopes[0].abs().max())
    for value, slope, wheres in zip(
        (x, net.first, net.last), slopes, ([(0, 1), (3, 2)], [(1, 5), (3, 0)], [(7, 2)]), strict=True
    ):
        for where in wheres:
            wanted = float(difference(lambda: run().sum(), value, where))
            assert float(slope[where]) == pytest.approx(wanted, rel=1e-5, abs=1e-6 * scale)


def test_a_learned_schedule_against_finite_differences():
    """With respect to its parameters, including the end points.

    log p hardly depends on the shape between the end points; what appears as a dependence is the grid's error. A graph that
    follows the kernels and not the clock is wrong by half in log_rise, by 0.06 in w and by 1 in a.
    """
    sde = LearnedSNRSDE(6.0, -4.0, hidden=2, train_ends=True).double()
    with torch.no_grad():
        sde.b -= 5.0  # away from 20, where torch's softplus becomes the identity
    model, x = example(sde)

    def run(differentiable=False):
        return log_likelihood(
            sde, model, x, solver=Multistep(nodes=32), divergence=Exact(), t_min=1e-3, differentiable=differentiable
        ).log_prob.sum()

    parameters = [sde.log_rise, sde.w, sde.a]
    for p, slope in zip(parameters, torch.autograd.grad(run(True), parameters), strict=True):
        wanted = float(difference(run, p.view(-1), 0, h=1e-4))
        assert float(slope.reshape(-1)[0]) == pytest.approx(wanted, rel=1e-2, abs=1e-2)


def test_a_basis_without_gradient_leaves_the_gradient_unbiased():
    """Hutch++ does not differentiate its basis. In three dimensions its sketch is complete and the rest zero, so it is exact."""
    sde = VPSDE()
    model, x = example(sde)
    slopes = []
    for divergence in (Exact(), HutchPlusPlus(count=9)):
        found = log_likelihood(sde, model, x, solver=Multistep(8), divergence=divergence, differentiable=True)
        slopes.append(torch.autograd.grad(found.log_prob.sum(), model.network.first)[0])
    assert torch.allclose(*slopes, rtol=1e-8, atol=1e-8 * float(slopes[0].abs().max()))


def test_backward_gives_a_training_step():
    """``loss.backward()`` in float32, as in training: every parameter has a gradient, and a step improves the loss."""
    sde = VPSDE()
    model, x = example(sde, dtype=torch.float32)

    def loss(differentiable=False):
        return -log_likelihood(
            sde, model, x, solver=Multistep(16), t_min=1e-2, differentiable=differentiable
        ).log_prob.mean()

    before = loss(True)
    before.backward()
    with torch.no_grad():
        for p in model.parameters():
            assert bool(p.grad.isfinite().all())
            p -= 1e-3 * p.grad / p.grad.norm()
    assert float(loss()) < float(before.detach())


def test_memory_does_not_grow_with_the_nodes():
    """No activation is kept after its node; only states of the path are, the same number for each node.

    The activations of one evaluation bound those that are alive at any time, also in the backward pass.
    """
    sde, most, kept = VPSDE(), [], []
    for nodes in (8, 16, 32):
        model, x = example(sde, Watched())
        sizes = []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            found = log_likelihood(sde, model, x.requires_grad_(True), solver=Multistep(nodes), differentiable=True)
        assert model.network.alive() == 0
        found.log_prob.sum().backward()
        most.append(model.network.most_alive)
        kept.append(sum(sizes) / nodes)
        assert model.network.calls == 3 * nodes
        assert found.nfe == nodes
    assert max(most) == min(most) <= 4
    states = kept[-1] / x.numel()
    assert kept[-1] <= kept[0]
    assert states < 12


def test_an_evaluation_that_keeps_its_graph_is_detected():
    """Planted error: the same without recomputation."""
    from scoresde.likelihood import path

    model, x = example(VPSDE(), Watched())
    whole = path.checkpoint
    path.checkpoint = lambda f, *args, use_reentrant: f(*args)
    try:
        found = log_likelihood(VPSDE(), model, x.requires_grad_(True), solver=Multistep(16), differentiable=True)
        assert model.network.alive() == 16
        assert found.log_prob.requires_grad
    finally:
        path.checkpoint = whole


def test_the_gradient_by_x_is_the_score():
    """For an exact score, the gradient is grad log p(x) at t_min to a thousandth. A planted factor 1/2 is detected."""
    distribution = GaussianMixture(torch.tensor([[-0.6, 0.3], [0.4, -0.2]], dtype=F64), 0.4)
    sde = VESDE(0.01, 300.0)
    x = distribution.sample(5, seed=2, dtype=F64).requires_grad_(True)
    score = distribution.score(sde)
    wanted = score(x.detach(), torch.full((5,), 1e-3, dtype=F64))
    for factor, near in ((1.0, True), (0.5, False)):
        found = log_likelihood(
            sde,
            lambda y, t, k=factor: k * score(y, t),
            x,
            solver=Multistep(96),
            divergence=Exact(),
            t_min=1e-3,
            differentiable=True,
        )
        (slope,) = torch.autograd.grad(found.log_prob.sum(), x)
        assert (float((slope - wanted).abs().max()) < 1e-3 * float(wanted.abs().max())) == near
