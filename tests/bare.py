"""A process that states no kernel, for what refuses it; its draws and its prior are never to be asked for."""

from __future__ import annotations

import torch

from scoresde.sde import SDE


class Bare(SDE):
    """dx = -x^3 dt + dw."""

    def drift(self, x, t):
        return -(x**3)

    def diffusion(self, t):
        return torch.ones_like(t)

    def prior_sample(self, shape, **_):
        raise AssertionError("a draw of the prior was asked for")

    def prior_log_prob(self, x):
        raise AssertionError("the prior's density was asked for")

    def marginal_sample(self, x0, t, noise, *, step=0):
        raise AssertionError("a draw of x_t was asked for")
