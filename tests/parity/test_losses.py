"""parity/losses.npz: the continuous objectives and DDPM's and SMLD's."""

from __future__ import annotations

import pytest
import torch

from scoresde.losses import DenoisingScoreMatching, UniformTime
from scoresde.score import ScoreModel, SigmaLabel, TimeLabel

from .common import SDES, arrays, make_sde, net_rule, tensor

DATA = arrays("losses")
REDUCTION = {"0": "half_sum", "1": "mean"}
WEIGHTING = {"0": "variance", "1": "likelihood"}


class Rule(torch.nn.Module):
    """The stand-in network."""

    def forward(self, x, label):
        self.label = label
        return net_rule(x, label)


def data(name, dtype):
    return tensor(DATA["x0_uncentered" if name.startswith("ve") else "x0_centered"], dtype)


def paper_model(sde, ve, discrete=False, steps=1000):
    if ve:
        label = TimeLabel(steps - 1.0, descending=True, whole=True) if discrete else SigmaLabel()
        return ScoreModel(Rule(), sde, "score", label=label, data_std=None)
    return ScoreModel(Rule(), sde, "noise", label=TimeLabel(steps - 1.0), data_std=None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduce", "01")
@pytest.mark.parametrize("weight", "01")
@pytest.mark.parametrize("name", SDES)
def test_continuous(name, weight, reduce, dtype, worst):
    key = f"{name}/continuous"
    sde = make_sde(**SDES[name])
    loss = DenoisingScoreMatching(sde, WEIGHTING[weight], times=UniformTime(1e-5), reduction=REDUCTION[reduce])
    t = loss.times.times(sde, tensor(DATA[f"{key}/u"], dtype))
    # labels are 999 t for VP and sub-VP whatever the number of steps
    model = paper_model(sde, name.startswith("ve"))
    ours = loss(model, data(name, dtype), t=t, noise=tensor(DATA[f"{key}/z"], dtype))
    suffix = "_f64" if dtype == torch.float64 else ""
    theirs = tensor(DATA[f"{key}/mean{reduce}_lw{weight}/per_example{suffix}"])
    error = float(((ours - theirs) / theirs).abs().max())
    worst(f"losses continuous {dtype}", error)
    # float32: README section 10, note 14: where 1 - exp cancels, ours is the better value
    assert error < (1e-12 if dtype == torch.float64 else 5e-6)
    assert torch.allclose(ours.mean(), tensor(DATA[f"{key}/mean{reduce}_lw{weight}/loss{suffix}"]).to(dtype), rtol=5e-6)


@pytest.mark.parametrize("name", [n for n in SDES if f"{n}/ddpm/labels" in DATA or f"{n}/smld/labels" in DATA])
@pytest.mark.parametrize("reduce", "01")
def test_discrete(name, reduce, worst):
    spec, ve = SDES[name], name.startswith("ve")
    key = f"{name}/{'smld' if ve else 'ddpm'}"
    chain = make_sde(**spec).discretize(spec["N"])
    labels = tensor(DATA[f"{key}/labels"])
    # SMLD counts from the largest sigma, the chain from the smallest
    t = chain.time(chain.steps - 1 - labels if ve else labels).float()
    loss = DenoisingScoreMatching(chain, reduction=REDUCTION[reduce])
    model = paper_model(chain, ve, discrete=True, steps=spec["N"])
    ours = loss(model, data(name, torch.float32), t=t, noise=tensor(DATA[f"{key}/z"]))
    assert torch.allclose(model.network.label, tensor(DATA[f"{key}/net_label"]).float(), atol=1e-3)
    theirs = tensor(DATA[f"{key}/mean{reduce}/per_example"])
    error = float(((ours - theirs) / theirs).abs().max())
    worst("losses discrete", error)
    assert error < 5e-6
