"""Estimators of a trace: unbiased, with the variance that theory predicts, for all events, modes and networks."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde.likelihood import Exact, Hadamard, Hutchinson, HutchPlusPlus
from scoresde.noise import NoiseSource

F64 = torch.float64
ESTIMATORS = [
    Hutchinson(),
    Hutchinson("gaussian"),
    Hutchinson(count=3),
    Hadamard(),
    Hadamard(count=3),
    HutchPlusPlus(count=6),
]


def matrix(d, seed=0, symmetric=True, decay=None):
    """A random Jacobian. With ``decay`` its entries decrease with the distance of the coordinates, as for images."""
    j = NoiseSource.of(seed, d).normal((d,), step=0, purpose="j", dtype=F64)
    if decay is not None:
        i = torch.arange(d)
        j = j * torch.exp(-(i[:, None] - i).abs() / decay)
    return 0.5 * (j + j.mT) if symmetric else j


def estimates(divergence, j, count=4000, seed=0, field=None):
    """(E, count): the estimates of ``count`` samples with independent probes."""
    x = torch.zeros(count, len(j), dtype=F64)
    probes = divergence.stream(x, NoiseSource.of(seed, count))(0, divergence.products)
    y, found = divergence(field or (lambda v: v @ j.mT + 1.0), x, probes)
    assert torch.allclose(y, torch.ones_like(x))
    return found


def z_of(found, trace):
    means = found.mean(0)
    return float((means.mean() - trace) / (means.std() / math.sqrt(len(means))).clamp(min=1e-12))


@pytest.mark.parametrize("d", [5, 8])
@pytest.mark.parametrize("divergence", ESTIMATORS, ids=repr)
def test_unbiased_for_any_jacobian(divergence, d):
    """|z| < 4 over 4000 samples (false-alarm rate 1 in 16,000). Probes that are 10 % too long are detected."""
    j = matrix(d, symmetric=False) + torch.eye(d, dtype=F64)
    found = estimates(divergence, j)
    assert found.shape == (divergence.estimates, 4000)
    assert abs(z_of(found, j.trace())) < 4
    if not isinstance(divergence, HutchPlusPlus):  # whose length of probes cancels in its basis
        assert abs(z_of(1.1**2 * found, j.trace())) > 4


@pytest.mark.parametrize("d", [6, 8])
def test_variances(d):
    """Rademacher: 2 sum_(i != k) S_ik^2 for the symmetric part S. Gaussian: plus the diagonal. Within 15 % over 4000 samples."""
    j = matrix(d, symmetric=False)
    s = 0.5 * (j + j.mT)
    off = 2.0 * float((s - s.diag().diag()).square().sum())
    diagonal = 2.0 * float(s.diag().square().sum())
    for divergence, wanted in (
        (Hutchinson(), off),
        (Hadamard(), off),
        (Hutchinson("gaussian"), off + diagonal),
        (Hutchinson(count=4), off / 4),
    ):
        assert float(estimates(divergence, j).mean(0).var()) == pytest.approx(wanted, rel=0.15)


@pytest.mark.parametrize(
    "divergence", [Hutchinson(count=4), Hutchinson("gaussian", 3), HutchPlusPlus(count=12)], ids=repr
)
def test_the_stated_variance_is_the_variance(divergence):
    """Within 15 % on average."""
    found = estimates(divergence, matrix(12))
    assert float(divergence.variance(found, 12).mean()) == pytest.approx(float(found.mean(0).var()), rel=0.15)


class TestHadamard:
    @pytest.mark.parametrize("d", [1, 2, 5, 8, 12, 16])
    def test_a_complete_set_is_orthogonal_and_exact(self, d):
        size = 1 << (d - 1).bit_length()
        x = torch.zeros(3, d, dtype=F64)
        rows = Hadamard().stream(x, NoiseSource.of(0, 3))(0, size)
        for b in range(3):
            assert torch.equal(rows[:, b].mT @ rows[:, b], size * torch.eye(d, dtype=F64))
            if d == size:
                assert torch.equal(rows[:, b] @ rows[:, b].mT, size * torch.eye(d, dtype=F64))
        j = matrix(d, symmetric=False)
        found = estimates(Hadamard(count=size), j, count=5)
        assert torch.allclose(found.mean(0), j.trace().expand(5))
        assert bool((Hadamard(count=size).variance(found, d) == 0).all())

    @pytest.mark.covering
    @pytest.mark.parametrize("d", [12, 24, 64])
    @pytest.mark.parametrize("count", [2, 4, 8])
    def test_the_variance_without_replacement(self, d, count):
        """For 60 Jacobians without order in their coordinates, the stated variance is right within 15 % in the mean.

        d may be a power of two or not. For a single Jacobian the order of the rows may increase or decrease the variance.
        """
        stated, true, independent = 0.0, 0.0, 0.0
        for seed in range(60):
            j = matrix(d, seed)
            found = estimates(Hadamard(count=count), j, count=200)
            stated += float(Hadamard().variance(found, d).mean())
            true += float(found.mean(0).var())
            independent += 2.0 * float((j - j.diag().diag()).square().sum()) / count
        assert stated == pytest.approx(true, rel=0.15)
        assert true < independent

    def test_more_probes_than_a_set_have_the_error_of_the_remainder(self):
        """6 probes in 3 dimensions, where a set has 4: two probes are used twice, so the trace is not exact."""
        stated = true = 0.0
        for seed in range(60):
            found = estimates(Hadamard(count=6), matrix(3, seed), count=200)
            stated += float(Hadamard().variance(found, 3).mean())
            true += float(found.mean(0).var())
        assert true > 0.1
        assert stated == pytest.approx(true, rel=0.25)

    @pytest.mark.parametrize("d", [12, 64])
    @pytest.mark.parametrize("count", [2, 4, 8])
    def test_neighbors_cancel_first(self, d, count):
        """If near coordinates are correlated, the variance is well below that of independent probes, and the stated variance
        is larger.

        Consecutive rows differ in their low bits.
        """
        i = torch.arange(d)
        j = torch.exp(-0.7 * (i[:, None] - i).abs().double())
        found = estimates(Hadamard(count=count), j)
        true = float(found.mean(0).var())
        assert true < 0.75 * 2.0 * float((j - j.diag().diag()).square().sum()) / count
        assert float(Hadamard().variance(found, d).mean()) > true

    @pytest.mark.parametrize("divergence", [Hadamard(), Hutchinson(), Hutchinson("gaussian")], ids=repr)
    @pytest.mark.parametrize("shape", [(), (1,), (2, 3), (1, 2, 2)])
    @pytest.mark.parametrize("dtype", [torch.float32, F64])
    def test_a_stream_depends_only_on_the_sample(self, divergence, shape, dtype):
        """The probes of a sample do not depend on its batch, or on how the stream is divided into calls."""
        x = torch.zeros(4, *shape, dtype=dtype)
        noise = NoiseSource.of(1, 4)
        whole = divergence.stream(x, noise)(0, 9)
        assert whole.shape == (9, *x.shape)
        assert whole.dtype == dtype
        assert torch.equal(divergence.stream(x, noise)(3, 4), whole[3:7])
        assert torch.equal(divergence.stream(x[2:3], NoiseSource.of(1, 1, 2))(0, 9), whole[:, 2:3])
        if divergence != Hutchinson("gaussian"):
            assert torch.equal(whole.abs(), torch.ones_like(whole))
        if shape:
            assert not torch.equal(divergence.stream(x, NoiseSource.of(2, 4))(0, 9), whole)


class TestHutchPlusPlus:
    def test_exact_if_the_sketch_is_complete(self):
        """12 products are exact for a Jacobian of rank 4, also if it is not symmetric.

        They are exact for any matrix in at most a third as many dimensions.
        """
        left, right = matrix(10, 1)[:, :4], matrix(10, 2)[:4]
        j = left @ right
        assert torch.allclose(estimates(HutchPlusPlus(count=12), j, count=20), j.trace().expand(4, 20), atol=1e-9)
        j = matrix(3, symmetric=False)
        assert torch.allclose(estimates(HutchPlusPlus(count=12), j, count=20), j.trace().expand(4, 20), atol=1e-9)

    def test_better_than_hutchinson_at_equal_products_if_few_directions_matter(self):
        q = torch.linalg.qr(matrix(24))[0]
        j = q @ (10.0 * 0.5 ** torch.arange(24, dtype=F64)).diag() @ q.mT
        plus = float(estimates(HutchPlusPlus(count=12), j, count=400).mean(0).var())
        plain = float(estimates(Hutchinson(count=12), j, count=400).mean(0).var())
        assert plus < 0.1 * plain

    def test_events_that_are_scalars(self):
        x = torch.linspace(0.0, 1.0, 4, dtype=F64)
        divergence = HutchPlusPlus(count=6)
        found = divergence(torch.sin, x, divergence.stream(x, NoiseSource.of(0, 4))(0, 6))[1]
        assert torch.allclose(found, x.cos().expand(2, 4))

    def test_other_counts_are_refused(self):
        with pytest.raises(ValueError, match="count=4 is not allowed: give a multiple of 3"):
            HutchPlusPlus(count=4)


def curved(x):
    """A field for any event shape, whose Jacobian is dense and not symmetric."""
    flat = x.flatten(1)
    a = matrix(flat.shape[1], symmetric=False).to(x)
    return ((flat @ a).tanh() + flat**2).reshape(x.shape)


@pytest.mark.covering
@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3)])
@pytest.mark.parametrize(
    "divergence", [Exact, *(lambda forward, e=e: e.__class__(forward=forward, count=e.count) for e in ESTIMATORS[2:])]
)
def test_forward_mode_is_reverse_mode(shape, divergence):
    """v^T J v is equal in both modes. Hutch++ has another estimate, because its sketch uses the other side of J."""
    x = NoiseSource.of(0, 3).normal(shape, step=0, purpose="x", dtype=F64)
    reverse, forward = divergence(forward=False), divergence(forward=True)
    probes = reverse.stream(x, NoiseSource.of(0, 3))(0, reverse.products)
    y, found = reverse(curved, x, probes)
    y2, found2 = forward(curved, x, probes)
    assert torch.allclose(y, y2)
    assert torch.allclose(y, curved(x))
    if not isinstance(reverse, HutchPlusPlus) or x[0].numel() == 1:
        assert torch.allclose(found, found2)
    else:
        assert found.shape == found2.shape
    assert not (found.requires_grad or found2.requires_grad or y.requires_grad)


def test_exact_in_blocks(monkeypatch):
    from scoresde.likelihood import divergence

    x = NoiseSource.of(0, 4).normal((7,), step=0, purpose="x", dtype=F64)
    probes = Exact().stream(x, NoiseSource.of(0, 4))(0, 0)
    whole = Exact()(curved, x, probes)[1]
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: curved(v[None])[0]))(x)
    assert torch.allclose(whole[0], jacobian.diagonal(dim1=1, dim2=2).sum(1))
    for elements in (1, 28, 60, 10_000):
        monkeypatch.setattr(divergence, "_CPU_CHUNK", elements)
        assert torch.allclose(Exact()(curved, x, probes)[1], whole, rtol=1e-12)


@pytest.mark.parametrize(
    "divergence", [Exact(), Hadamard(), Hadamard(count=3), HutchPlusPlus(count=6), Hutchinson(forward=True)], ids=repr
)
@pytest.mark.parametrize("differentiable", [False, True])
def test_a_field_that_does_not_depend_on_x(divergence, differentiable):
    """A constant, and a field with a graph to a parameter only."""
    x = torch.ones(2, 3, dtype=F64)
    probes = divergence.stream(x, NoiseSource.of(0, 2))(0, divergence.products)
    for constant in (torch.ones(3, dtype=F64), torch.ones(3, dtype=F64, requires_grad=True)):
        y, found = divergence(lambda v, c=constant: c.expand(len(v), 3), x, probes, differentiable)
        assert torch.equal(y, torch.ones_like(x))
        assert torch.equal(found, torch.zeros_like(found))


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.qkv = torch.nn.Parameter(torch.randn(4, 12, generator=generator))

    def forward(self, x):
        q, k, v = (x @ self.qkv.to(x)).chunk(3, -1)
        return torch.nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0] - x


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_attention_in_every_mode(dtype):
    """Fused kernels have no forward mode and no second derivative, so plain matrix products are selected automatically."""
    net = Attention()
    x = NoiseSource.of(0, 2).normal((5, 4), step=0, purpose="x", dtype=dtype)
    jacobian = torch.autograd.functional.jacobian(net, x)
    exact = torch.stack([jacobian[b, :, :, b].reshape(20, 20).trace() for b in range(2)])
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
    for forward in (False, True):
        divergence = Exact(forward=forward)
        probes = divergence.stream(x, NoiseSource.of(0, 2))(0, 0)
        assert torch.allclose(divergence(net, x, probes)[1][0], exact, **tolerance)
        found = divergence(net, x, probes, differentiable=True)[1]
        assert torch.allclose(found[0].detach(), exact, **tolerance)
        (slope,) = torch.autograd.grad(found.sum(), net.qkv)
        assert float(slope.abs().sum()) > 0
        if dtype == F64 and not forward:
            with torch.no_grad():
                h = 1e-3
                net.qkv[1, 2] += h
                up = divergence(net, x, probes)[1].sum()
                net.qkv[1, 2] -= 2 * h
                down = divergence(net, x, probes)[1].sum()
                net.qkv[1, 2] += h
            assert float(slope[1, 2]) == pytest.approx(float((up - down) / (2 * h)), rel=1e-3)
