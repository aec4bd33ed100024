"""The Fokker-Planck equation of dx = -x^3 dt + dw from two modes, solved on a grid: a reference for paths and scores."""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal

from scoresde.distributions import GaussianMixture

START = GaussianMixture(torch.tensor([[-1.2], [0.8]]), torch.tensor([0.2, 0.3]), torch.tensor([0.4, 0.6]))
GRID = np.linspace(-3.0, 3.0, 1201)
WIDTH = GRID[1] - GRID[0]


def density(t):
    """p_t on the grid for p' = (x^3 p)' + p'' / 2.

    Finite volumes conserve mass and the stationary distribution exp(-x^4 / 2). The operator is symmetric after
    multiplication with the root of the latter, so the solution is exact in time by its eigenvectors.
    """
    start = START.log_prob(torch.from_numpy(GRID)[:, None]).exp().numpy()
    u = 0.5 * GRID**4
    middle = 0.5 * (u[1:] + u[:-1])
    up, down = (0.5 / WIDTH**2 * np.exp(v - middle) for v in (u[:-1], u[1:]))
    diagonal = np.zeros(len(GRID))
    diagonal[:-1] -= up
    diagonal[1:] -= down
    rates, modes = eigh_tridiagonal(diagonal, np.sqrt(up * down))
    root = np.exp(-0.5 * u)
    return root * (modes @ (np.exp(rates * t) * (modes.T @ (start / root))))


def score(p):
    """d ln p / dx on the grid, by central differences."""
    return np.gradient(np.log(np.maximum(p, 1e-300)), GRID)
