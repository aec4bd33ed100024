"""The replacement method with correctors, against a known conditional distribution.

    python benchmarks/replacement.py

Two coordinates with variance 1 and correlation .9 are Gaussian, and the first is 1. The second then has mean .9 and variance
.19. The script prints both for 20000 samples under the VP process, with the exact score.
"""

import torch

from scoresde import VPSDE, GaussianMixture
from scoresde.guidance import TweedieMoments
from scoresde.samplers import Ancestral, AnnealedLangevin, KeepKnown, PredictorCorrector, ReverseDiffusion, UniPC
from scoresde.samplers.predictor_corrector import Resampling

torch.set_num_threads(1)
sde = VPSDE()
score = GaussianMixture([[0.0, 0.0]], covariances=torch.tensor([[[1.0, 0.9], [0.9, 1.0]]])).score(sde)
hooks = [KeepKnown(torch.tensor([[1.0, 0.0]]), torch.tensor([True, False]))]
rows = {"`KeepKnown`": (ReverseDiffusion(60), score, hooks)}
for steps in (5, 20):
    corrected = PredictorCorrector(ReverseDiffusion(), AnnealedLangevin(0.3, steps), 60)
    rows[f"`KeepKnown`, `AnnealedLangevin(0.3, {steps})`"] = (corrected, score, hooks)
for steps in (4, 19):
    rows[f"`KeepKnown`, `Resampling({steps})`"] = (PredictorCorrector(Ancestral(), Resampling(steps), 60), score, hooks)
guided = TweedieMoments(score, lambda x: x[:, :1], torch.ones(1, 1))
rows["`TweedieMoments`, `UniPC(40)`"] = (UniPC(40), guided, [])
print("| method | mean | variance | evaluations |\n|---|---:|---:|---:|")
for name, (sampler, used, changes) in rows.items():
    result = sampler(sde, used, (20_000, 2), hooks=changes)
    x = result.samples[:, 1]
    print(f"| {name} | {float(x.mean()):.3f} | {float(x.var()):.3f} | {result.nfe} |", flush=True)
print("| exact | 0.900 | 0.190 | |")
