"""Group normalization with SiLU: values, gradients, second derivatives and transforms equal those of the two layers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from scoresde.networks.norm_silu import norm_silu

from .common import normal


@pytest.fixture
def norm():
    out = nn.GroupNorm(4, 16, eps=1e-6)
    with torch.no_grad():
        out.weight.copy_(1.0 + 0.5 * normal((16,), "1"))
        out.bias.copy_(normal((16,), "2"))
    return out


def separate(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    return F.silu(norm(x))


def gradients(function, x: Tensor, norm: nn.GroupNorm, twice: bool) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = function(x, norm)
    found = torch.autograd.grad(y, [x, norm.weight, norm.bias], torch.cos(y.detach()), create_graph=twice)
    if twice:
        found = torch.autograd.grad(found[0].square().sum(), [x, norm.weight])
    return [y.detach(), *found]


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("shape", [(3, 16, 5), (2, 16, 4, 6), (2, 16, 2, 3, 4)])
def test_values_and_gradients_equal_those_of_the_two_layers(norm, shape, twice):
    x = normal(shape)
    for x_ in (x, x.transpose(0, -1).contiguous().transpose(0, -1)):
        for a, b in zip(gradients(norm_silu, x_, norm, twice), gradients(separate, x_, norm, twice), strict=True):
            assert torch.allclose(a, b, rtol=1e-6, atol=1e-6)
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(len(shape))
    if layout is not None and not twice:
        x_ = x.contiguous(memory_format=layout)
        for a, b in zip(gradients(norm_silu, x_, norm, twice), gradients(separate, x_, norm, twice), strict=True):
            assert torch.equal(a, b)


def test_derivatives_agree_with_finite_differences(norm):
    norm, x = norm.double(), normal((1, 16, 2), "3").double().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: norm_silu(a, norm), (x,))
    assert torch.autograd.gradgradcheck(lambda a: norm_silu(a, norm), (x,))


def test_transforms_of_torch_func_work(norm):
    x, v = normal((2, 16, 4), "4"), normal((2, 16, 4), "5")
    found, wanted = (partial(function, norm=norm) for function in (norm_silu, separate))
    assert torch.equal(torch.func.jvp(found, (x,), (v,))[1], torch.func.jvp(wanted, (x,), (v,))[1])
    assert torch.equal(torch.func.vjp(found, x)[1](v)[0], torch.func.vjp(wanted, x)[1](v)[0])
    assert torch.equal(torch.func.vmap(found)(x[:, None]), torch.func.vmap(wanted)(x[:, None]))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, v)
        assert torch.equal(forward_ad.unpack_dual(found(dual)).tangent, forward_ad.unpack_dual(wanted(dual)).tangent)


def test_only_the_input_is_saved(norm):
    x, saved = normal((2, 16, 4, 4), "6").requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda a: saved.append(a) or a, lambda a: a):
        norm_silu(x, norm)
    assert {a.data_ptr() for a in saved if a.shape == x.shape} == {x.data_ptr()}


def test_autocast_and_frozen_parameters(norm):
    x = normal((2, 16, 4), "7").requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(norm_silu(x.bfloat16(), norm), separate(x.bfloat16(), norm))
    norm.requires_grad_(False)
    found, wanted = (torch.autograd.grad(f(x, norm).sum(), x)[0] for f in (norm_silu, separate))
    assert torch.equal(found, wanted)
