"""The cost of a likelihood on a GPU in addition to the score: tensor operations at each node, and waits for the device."""

from __future__ import annotations

import pytest
import torch

from scoresde import VPSDE, log_likelihood
from scoresde.likelihood import Exact, FlowGrid, Hadamard, Hutchinson, Multistep, standard_grid
from scoresde.noise import NoiseSource
from scoresde.sde import VESDE, SubVPSDE
from tests.counting import counted

NODE = 60
"""Operations at a node, with a score of one operation and its product."""
SETUP = 1600
WAITS = 8


def score(x, t):
    return -x


def events(dtype=torch.float32):
    return NoiseSource.of(0, 4).normal((8,), step=0, purpose="test", dtype=dtype)


def cost(sde, **arguments):
    """Operations and waits of a node, and of everything else."""
    few, many = (
        counted(lambda n=n: log_likelihood(sde, score, events(), solver=Multistep(n), **arguments)) for n in (16, 32)
    )
    node = (many.operations - few.operations) / 16
    return node, (many.waits - few.waits) / 16, few.operations - 16 * node, few.waits


@pytest.mark.parametrize(
    ("sde", "divergence"),
    [
        (VPSDE(), Hadamard()),
        (VESDE(), Hadamard()),
        (SubVPSDE(), Hutchinson()),
        (VPSDE(), Hutchinson(count=3)),
        (VPSDE(), Hadamard(2, fixed=True)),
        (VPSDE(), Exact()),
    ],
    ids=repr,
)
def test_a_node_and_what_comes_before(sde, divergence):
    node, waits, rest, others = cost(sde, divergence=divergence)
    assert node <= NODE, "operations at a node"
    assert waits == 0, "waits at a node"
    assert rest <= SETUP, "operations before and after"
    assert others <= WAITS, "waits before and after"


def test_the_default_call():
    """64 nodes, with no point above the tolerance."""
    found = counted(lambda: log_likelihood(VPSDE(), score, events()))
    assert found.operations <= 64 * NODE + SETUP
    assert found.waits <= WAITS


def test_points_that_are_refined_cost_one_wait_more_each_time():
    one, two = (
        counted(lambda n=n: log_likelihood(VPSDE(), score, events(), solver=Multistep(8, tolerance=1e-9, max_nodes=n)))
        for n in (8, 16)
    )
    assert two.waits - one.waits <= 4


def test_nodes_with_different_numbers_of_probes():
    """For a fitted grid the estimates are combined in groups. The number of these operations does not depend on the nodes."""
    plain = standard_grid(VPSDE(), 1e-5)
    grid = FlowGrid(plain.t_min, plain.u, plain.share, tuple(0.2 + k / 200 for k in range(401)), 0.5)
    found = {}
    for n in (16, 32):
        x, solver = events(), Multistep(n, grid)
        found[n] = counted(lambda x=x, solver=solver: log_likelihood(VPSDE(), score, x, solver=solver, probes=3))
    assert (found[32].operations - found[16].operations) / 16 <= NODE
    assert found[32].waits <= WAITS + 12
