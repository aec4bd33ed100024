"""parity/training.npz: six steps of training, network, objective, clipping, Adam and averaged weights together.

The rates are the data's: the reference's first update has rate 0, ours rises from the first step on. The project's own copy of
the data has the norms of all weights after each step, without the weights.
"""

from __future__ import annotations

import json

import pytest
import torch

from scoresde.ema import EMA
from scoresde.interop.score_sde import from_reference, layout, to_reference
from scoresde.losses import DenoisingScoreMatching, UniformTime
from scoresde.score import LogNoiseLabel, ScoreModel, TimeLabel
from scoresde.score.predictions import ScaledScorePrediction
from scoresde.sde import VESDE, VPSDE

from .common import arrays, tensor
from .test_networks import network_of, ruled

DATA = arrays("training")


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_six_steps(kind, worst):
    settings = json.loads(str(DATA[f"{kind}/config"]))
    m, plan = settings["model"], settings["optim"]
    network = network_of(settings)
    theirs = {n: ruled(n, tuple(w.shape), m["fourier_scale"]) for n, w in to_reference(network).items()}
    network.load_state_dict(from_reference(network, theirs))
    if kind == "vp":
        model = ScoreModel(network, VPSDE(m["beta_min"], m["beta_max"]), label=TimeLabel(), data_std=None)
    else:
        sde = VESDE(m["sigma_min"], m["sigma_max"])
        model = ScoreModel(network, sde, ScaledScorePrediction(), label=LogNoiseLabel(), data_std=None)
    reduction = "mean" if settings["training"]["reduce_mean"] else "half_sum"
    objective = DenoisingScoreMatching(model.sde, times=UniformTime(1e-5), reduction=reduction)
    optimizer = torch.optim.Adam(network.parameters(), betas=(plan["beta1"], 0.999), eps=plan["eps"])
    ema = EMA(network, m["ema_rate"])
    # a key's bias has a gradient of rounding noise, which Adam blows up to steps of the full rate
    steady = [(o, w) for o, w in layout(network).items() if not w.name.endswith("NIN_1.b")]
    norms = torch.tensor([not w.name.endswith("NIN_1.b") for w in layout(network).values()])
    trained = torch.tensor([w.trained for w in layout(network).values()])

    def compare(found, wanted, what, bound):
        off = float(((found - wanted).abs() / wanted.abs().clamp(min=1e-3)).max())
        worst("training " + what, off)
        assert off < bound, what

    for k in range(6):
        t = objective.times.times(model.sde, tensor(DATA[f"{kind}/u"][k]))
        losses = objective(model, tensor(DATA[f"{kind}/batch"][k]), t=t, noise=tensor(DATA[f"{kind}/z"][k]))
        optimizer.zero_grad()
        losses.mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), plan["grad_clip"])
        optimizer.param_groups[0]["lr"] = float(DATA[f"{kind}/lr_used"][k])
        optimizer.step()
        ema.update(network)
        compare(losses.detach().mean(), tensor(DATA[f"{kind}/loss"][k]), "losses", 1e-5)
        compare(norm, tensor(DATA[f"{kind}/grad_norm_before_clip"][k]), "gradients", 5e-5)
        state, average = network.state_dict(), ema.module.state_dict()
        ours = torch.stack([state[o].norm() for o, _ in steady]).double()
        compare(ours, tensor(DATA[f"{kind}/param_norms_after_step{k}"])[norms], "weights", 1e-5)
        ours = torch.stack([average[o].norm() for o, w in steady if w.trained]).double()
        compare(ours, tensor(DATA[f"{kind}/ema_norms_after_step{k}"])[norms[trained]], "averages", 1e-5)
    t = objective.times.times(model.sde, tensor(DATA[f"{kind}/eval_u"]))
    model.network = ema.module
    with torch.no_grad():
        last = objective(model, tensor(DATA[f"{kind}/batch"][5]), t=t, noise=tensor(DATA[f"{kind}/eval_z"])).mean()
    compare(last, tensor(DATA[f"{kind}/eval_loss_ema"]), "last loss", 1e-5)
    if f"{kind}/param_flat_final" in DATA:
        flat = torch.cat([w.flatten() for n, w in to_reference(network).items() if not n.endswith("NIN_1.b")])
        ends = tensor(DATA[f"{kind}/param_flat_final"]).split([w.numel() for w in to_reference(network).values()])
        wanted = torch.cat([v for v, n in zip(ends, to_reference(network), strict=True) if not n.endswith("NIN_1.b")])
        off = float((flat - wanted).abs().max())
        worst("training, every weight", off)
        assert off < 1e-5
