"""One valid call for each public class and function; tests/argument_calls.py replaces its arguments one by one."""

from __future__ import annotations

import atexit
import importlib
import inspect
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scoresde import VPSDE, GaussianMixture, Quantized, ScoreModel, likelihood, metrics, samplers
from scoresde import sde as processes
from scoresde.data import Affine, CategoryColumn, Dataset, LevelMiddles, RealColumn, Splits, Table
from scoresde.filters import MatrixFilter
from scoresde.jump import Absorbing, AncestralSampler, MarkovChain
from scoresde.networks import MLP
from scoresde.noise import NoiseSource
from scoresde.noise_distributions import Gaussian, NormalMixture
from scoresde.operators import SuperResolution
from scoresde.product import LabeledMixture, ProductProcess
from scoresde.samplers.fitted import AdaptiveGrid, Expectation, LevelNetwork, Pilot, fit_level_network
from scoresde.schedules import ChainBound, StepNetwork, fit_step_network
from scoresde.score import Classifier, DenoisingErrors, GaussianVariance
from scoresde.score.subspace import Subspace, SubspaceScore
from scoresde.sde.linalg.basis import Axes
from tests.interop.stand_ins import Cosine, Diffusion, Estimator, Matcher, Scheduler, straight

PACKAGES = (
    "scoresde", "sde", "score", "score.predictions", "losses", "samplers", "samplers.adaptive", "samplers.base",
    "samplers.discretization", "samplers.exponential", "samplers.fitted", "samplers.grids", "samplers.hooks",
    "samplers.predictor_corrector", "samplers.populations", "likelihood", "metrics", "data",
    "guidance", "filters", "operators", "schedules", "tasks",
    "networks", "noise", "distributions", "ema", "loggers", "noise_distributions", "score.quantized", "solvers", "score.subspace",
    "conditions", "jump", "jump.confidences", "jump.grids", "product",
    "schedules.costs", "schedules.dynamic_programming", "schedules.levels", "schedules.step_grid", "schedules.step_network",
    "interop",
)  # fmt: skip


@cache
def public() -> dict[str, Any]:
    """Every public class and function by its full name: those in ``__all__``, or defined in a module without one."""
    found: dict[str, Any] = {}
    for package in PACKAGES:
        module = importlib.import_module("scoresde" if package == "scoresde" else f"scoresde.{package}")
        listed = getattr(module, "__all__", None)
        for name, thing in vars(module).items():
            if name.startswith("_") or not callable(thing) or (listed is not None and name not in listed):
                continue
            home = getattr(thing, "__module__", "")
            if home.startswith("scoresde") and (listed is not None or home == module.__name__):
                found[f"{home.removeprefix('scoresde.')}.{name}"] = thing
    return dict(sorted(found.items()))


SDE = VPSDE()
MIXTURE = GaussianMixture(torch.tensor([[1.0, 0.5]]), stds=torch.tensor([0.3]))
SCORE = MIXTURE.score(SDE)
X = torch.linspace(-1.0, 1.0, 8).reshape(4, 2)
Y = X.flip(0) * 0.9
T = torch.full((4,), 0.5)
ONE = torch.tensor(1.0)
TIMES = torch.linspace(1.0, 0.1, 4, dtype=torch.float64)
NET = MLP((2,), width=8, depth=1)
MODEL = ScoreModel(NET, SDE)
CLASSIFIER = Classifier(MLP((2,), width=8, depth=1, outputs=3), SDE, 3)
KERNEL = SDE.kernel(ONE)
BASIS = Axes([torch.eye(2)])
SUBSPACE = Subspace(BASIS, torch.tensor([True, False]))
SPLIT = Dataset(X, Affine())
EIGHT = (1, 8, 8)
JUMPS = Absorbing(2)
BITS = MarkovChain([[0.9, 0.1], [0.2, 0.8]])
PRODUCT = ProductProcess(SDE, (None, Absorbing(2)))
LABELED = LabeledMixture([[-1.0], [1.0]], [0.3, 0.3], [[0], [1]])
BIT_ROWS = torch.tensor([[0, 1], [1, 0], [1, 1], [0, 0]])
ERRORS = DenoisingErrors(TIMES.flip(0), T, T)


@cache
def _pilot() -> Pilot:
    return Pilot.of(SDE, SCORE, (16, 2), fine=40)


@cache
def _step_network() -> StepNetwork:
    return fit_step_network(SDE, SCORE, X, MLP((2,), width=8, depth=1), updates=1, batch_size=4)


@cache
def _level_network() -> LevelNetwork:
    return fit_level_network(SDE, X, MLP((2,), width=8, depth=1), updates=1, batch_size=4)


def _grid() -> AdaptiveGrid:
    return AdaptiveGrid(1e-3, (-5.0, 0.0, 5.0), (0.0, 0.5, 1.0), "VPSDE()", (2,), (0.5, 0.1))


def _images() -> Splits:
    images = Dataset(torch.zeros(3, 1, 4, 4), Affine())
    return Splits(images, images)


class _TableData:
    """A data set in torch's format."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.full((2,), float(i))


# (name of the parameter) -> a valid value; what a name means differs between few calls, and RECIPES has those
COMMON: dict[str, Any] = {
    "sde": SDE,
    "process": SDE,
    "score": SCORE,
    "x": X,
    "y": Y,
    "t": T,
    "u": T,
    "samples": X,
    "data": X,
    "train": X,
    "test": Y,
    "steps": 4,
    "shape": (4, 2),
    "event_shape": (2,),
    "log_prob": T,
    **dict.fromkeys(("probabilities", "predicted", "margin", "margin_error"), T),
    "standard_error": T,
    "transform": Affine(),
    "std": 0.2,
    "seed": 0,
    "basis": BASIS,
    "network": NET,
    "module": NET,
    "kernel": KERNEL,
    "betas": torch.linspace(0.01, 0.2, 5),
}

GRID = {"u": (-5.0, 0.0, 5.0), "share": (0.0, 0.5, 1.0), "spread": (1.0, 1.0, 1.0)}
BYTES = Quantized(256)
LABELS = torch.tensor([0, 1, 0, 1])
LEVELS = torch.tensor([[0, 255], [3, 4]], dtype=torch.uint8)
CHAIN = {name: torch.linspace(0.9, 0.1, 4, dtype=torch.float64) for name in ("alpha", "sigma", "step_a", "step_std")}
MOMENTS = metrics.Moments.of(X)
ROW = processes.CheckRow("a row", 0.1, 0.2)
RECORD = {
    **dict.fromkeys(
        ("log_prob", "standard_error", "reconstruction", "prior", "diffusion", "single", "jackknife", "log_weight"), T
    ),
    **dict.fromkeys(
        ("effective_draws", "trace_error", "solver_error", "prior_log_prob", "cutoff", "sigma", "width"), T
    ),
    **dict.fromkeys(("latent", "states", "state", "y", "x_t", "x0", "directions", "noise", "decoder_noise", "mean"), X),
    **dict.fromkeys(("nfe", "vjps", "calls", "accepted", "first", "starts", "evaluations", "index"), 1),
    **dict.fromkeys(("error", "limit", "bits_per_dim", "value", "precision", "recall", "plain_error"), 0.5),
    **dict.fromkeys(("times", "spent", "widths", "sigmas", "t", "s"), T),
    **dict.fromkeys(
        ("log_weights", "log_evidence", "log_evidence_error", "effective_sizes", "resampled", "ancestors"), T
    ),
    **dict.fromkeys(("kernels", "posteriors", "posterior", "marginals", "kernel"), KERNEL),
    "failed": torch.zeros(4, dtype=torch.bool),
    "settings": {},
    "name": "a name",
    "plain": "a name",
    "process": "a name",
    "rows": (ROW,),
}
"""Fields of the classes that functions return, by name."""

RECORDS = {
    "likelihood.bounds.BoundResult", "likelihood.variational.VariationalBound", "likelihood.classification.Classification",
    "likelihood.dequantization.DequantizedResult", "likelihood.flow.KnownBiases",
    "loggers.base.RunStart",
    "likelihood.flow.LikelihoodResult", "losses.noisy.Draw", "losses.sliced.SlicedDraw", "metrics.baselines.Baseline",
    "losses.variational.VariationalDraw", "losses.variational.VariationalTerms", "likelihood.levels.NoisyLevels",
    "metrics.classifiers.Accuracy", "metrics.classifiers.SampleAccuracies",
    "metrics.kernel.KernelDistance", "metrics.precision.PrecisionRecall", "metrics.yardstick.RelativeDistance",
    "samplers.base.SampleResult",
    "samplers.base.Trajectory", "samplers.fitted.expectation.Expectation", "samplers.discretization.Step",
    "samplers.fitted.expectation.KernelExpectation",
    "samplers.discretization.Transitions", "samplers.hooks.Moment", "samplers.populations.Particles",
    "score.predictions.DataPosterior", "metrics.moments.MomentAccumulator",
    "schedules.dynamic_programming.OptimalGrids",
    "jump.bounds.JumpBound", "jump.objectives.JumpDraw",
    "product.bounds.ProductBound", "product.objectives.ProductDraw",
    "sde.checks.report.CheckReport", "sde.checks.report.CheckRow", "solvers.ode.ODESolution",
}  # fmt: skip
"""Classes that functions return: their kinds are checked, their values are findings."""


@cache
def _numbers() -> str:
    folder = Path(tempfile.mkdtemp(prefix="arguments"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    np.save(folder / "train.npy", np.linspace(-1.0, 1.0, 40).reshape(20, 2))
    return str(folder / "train.npy")


@cache
def _table() -> str:
    file = Path(tempfile.mkdtemp(prefix="arguments")) / "table.csv"
    atexit.register(shutil.rmtree, file.parent, ignore_errors=True)
    file.write_text("a,b\n" + "".join(f"{k},{k / 3}\n" for k in range(20)))
    return str(file)


@cache
def _tokenizer() -> str:
    """A file of the package tokenizers, with a token for each of three words."""
    file = Path(tempfile.mkdtemp(prefix="arguments")) / "tokenizer.json"
    atexit.register(shutil.rmtree, file.parent, ignore_errors=True)
    model = {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2}, "unk_token": "a"}
    file.write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    return str(file)


def _a_file() -> str:
    return str(Path(__file__).parent / "data" / "README.md")


MIDDLES = LevelMiddles(4)
MIXED = (RealColumn("a"), CategoryColumn("b", ("red", "white")))
IMAGES = {"event_shape": EIGHT, "channels": 8, "multipliers": (1, 2), "attention": (4,), "blocks": 1}
RECIPES: dict[str, dict[str, Any] | Callable[[], dict[str, Any]]] = {
    "data.columns.CategoryColumn": {"column": "color", "values": ("red", "white")},
    "data.columns.Columns": {"columns": (RealColumn("a"), RealColumn("b"))},
    "data.columns.RealColumn": {"column": "degree"},
    "data.columns.WholeColumn": {"column": "count", "low": 0, "high": 5},
    "data.dataset.Dataset": {"raw": X},
    "data.dataset.permutation": {"n": 5, "epoch": 1},
    "data.images.ImageFolder": {"folder": "pictures", "side": 8},
    "data.degraded.Degraded": lambda: {"data": _images(), "operator": SuperResolution(2)},
    "data.middles.WithoutDequantization": lambda: {"data": Splits(*[Dataset(torch.eye(4).long(), Quantized(4))] * 2)},
    "data.as_tokens.AsTokens": lambda: {"data": Splits(*[Dataset(torch.eye(4).long(), BYTES)] * 2), "threshold": 2},
    "data.chorales.BachChorales": {},
    "data.mixed_columns.MixedColumns": {"columns": MIXED},
    "data.mixed_columns.MixedTable": lambda: {"data": Table("table.csv", MIXED)},
    "data.text.TextFile": {"train": "text.txt", "length": 8},
    "data.text.PythonTopics": {"length": 8},
    "data.text.Text8": {"file": "text8"},
    "data.text.Enwik8": {"file": "enwik8"},
    "data.vocabularies.Characters": {"alphabet": "ab"},
    "data.vocabularies.TokenizerFile": lambda: {"file": _tokenizer()},
    "data.tokens.Tokens": {"tokens": 2, "names": ("a", "b")},
    "data.torch_data.TorchDataset": lambda: {"train": _TableData(), "test": _TableData(), "levels": 0},
    "data.table.Table": {"file": "table.csv", "columns": (RealColumn("a"),)},
    "data.table.measure_columns": lambda: {"file": _table()},
    "data.sources.Arrays": lambda: {"train": _numbers()},
    "data.sources.Splits": {"train": SPLIT, "test": SPLIT},
    "distributions.mixture.GaussianMixture": {"means": X, "stds": 0.3},
    "conditions.Classes": {"count": 3},
    "conditions.Conditioned": {"score": SCORE, "condition": {}},
    "conditions.Image": {"channels": 2},
    "conditions.Tokens": {"size": 2},
    "conditions.Vector": {"size": 2},
    "conditions.given": {"score": SCORE, "condition": {}},
    "conditions.rows_of": {"score": SCORE, "index": torch.arange(2)},
    "ema.gathered": {"value": X},
    "ema.posthoc_coefficients": {"stored": [(10.0, 0.05), (20.0, 0.1)], "updates": 20.0, "std": 0.07},
    "ema.profile_error": {"stored": [(10.0, 0.05), (20.0, 0.1)], "updates": 20.0, "std": 0.07},
    "metrics.classifiers.classifier_accuracy": {"labels": LABELS, "test_labels": LABELS},
    "metrics.classifiers.sample_accuracies": {"sample_labels": LABELS, "labels": LABELS, "test_labels": LABELS},
    "metrics.codecs.codec_bits_per_dim": {"images": torch.arange(64).reshape(1, 1, 8, 8)},
    "noise_distributions.base.NoiseSum": {"noise": Gaussian(), "b": torch.tensor([0.1, 0.2])},
    "noise_distributions.gamma.CenteredGamma": {"k": 2.0, "theta": 0.5},
    "noise_distributions.generalized.GeneralizedNormal": {"beta": 1.5},
    "noise_distributions.generalized.overlapping_scales": {"beta": 1.5, "largest": 10.0, "smallest": 0.1},
    "noise_distributions.mixture.MixtureSum": {
        "noise": NormalMixture((0.5, 0.5), (-0.8, 0.8), (0.6, 0.6)),
        "b": torch.tensor([0.1, 0.2]),
    },
    "noise_distributions.mixture.NormalMixture": {"weights": (0.5, 0.5), "means": (-0.8, 0.8), "stds": (0.6, 0.6)},
    "interop.processes.azula.AzulaSDE": {"schedule": straight},
    "interop.processes.choice.from_library": {"process": type("Own", (Diffusion,), {"__module__": "deepinv.own"})()},
    "interop.processes.deepinv.DeepinvSDE": {"process": Diffusion()},
    "interop.processes.diffusers.DiffusersSDE": {"scheduler": Scheduler(), "knots": 4},
    "interop.processes.flow_matching.FlowMatchingSDE": {"scheduler": Cosine()},
    "interop.processes.sbi.SbiSDE": {"estimator": Estimator()},
    "interop.processes.torchcfm.TorchCFMSDE": {"matcher": Matcher()},
    "jump.bounds.jump_bound": {"process": JUMPS, "model": BITS.model(JUMPS), "x": BIT_ROWS},
    **{f"jump.replacing.{name}": {"tokens": 3} for name in ("Absorbing", "MaskAndReplace", "Uniform")},
    **{f"jump.matrix.{name}": {"tokens": 3} for name in ("DiscretizedGaussian", "NearestNeighbor")},
    "jump.matrix.RateMatrix": {"matrix": ((-1.0, 1.0), (3.0, -3.0))},
    **{
        f"jump.models.{name}": {"network": NET, "process": JUMPS}
        for name in ("CategoricalModel", "LeaveOneOutModel", "RatioModel")
    },
    "jump.likelihood.JumpLikelihood": {"steps": 10, "draws": 2},
    **{f"jump.objectives.{name}": {"process": JUMPS} for name in ("ContinuousBound", "DiscreteBound")},
    "jump.importance.AdaptiveTimes": {},
    "jump.score_entropy.ScoreEntropy": {"process": JUMPS},
    **{f"jump.grids.{name}": {"process": JUMPS, "steps": 4} for name in ("equal_alpha", "equal_times")},
    "product.process.ProductProcess": {"sde": SDE, "jumps": (None, JUMPS)},
    "product.mixture.LabeledMixture": {"means": ((-1.0,), (1.0,)), "stds": (0.3, 0.3), "categories": ((0.0,), (1.0,))},
    "product.mixture.LabeledMixtureModel": {"mixture": LABELED, "process": PRODUCT},
    "product.models.ProductModel": {"network": MLP((4,), width=8, depth=1), "process": PRODUCT},
    "product.objectives.ProductObjective": {"process": PRODUCT},
    "product.checks.check": {"process": PRODUCT},
    "product.sampler.ProductSampler": {"steps": 4},
    "product.likelihood.ProductLikelihood": {"draws": 2},
    "product.bounds.product_bound": {"process": PRODUCT, "model": LABELED.model(PRODUCT), "x": LABELED.sample(4)},
    "jump.checks.check": {"process": JUMPS},
    **{f"jump.confidences.{name}": {"log_p": torch.zeros(4, 3), "drawn": BIT_ROWS[:, 0]}
       for name in ("drawn_probability", "margin", "negative_entropy")},
    "jump.guidance.JumpClassifierGuidance": {"score": BITS.model(JUMPS), "classifier": CLASSIFIER},
    "jump.guidance.Sharpened": {"score": BITS.model(JUMPS)},
    "jump.corrected.CorrectedSampler": {"predictor": AncestralSampler(3)},
    "jump.known.KnownTokens": {"y": BIT_ROWS, "known": torch.tensor(True)},
    "jump.oracles.EnumeratedJoint": {"probabilities": ((0.5, 0.25), (0.25, 0.0))},
    "jump.markov.MarkovChain": {"transition": ((0.9, 0.1), (0.2, 0.8))},
    "jump.oracles.ExactModel": {"data": BITS, "process": JUMPS},
    "likelihood.bits.bits_per_dim": {"transform": BYTES},
    "likelihood.variational.variational_bound": {"times": torch.tensor([0.1, 0.5, 1.0])},
    "score.data_variance.AnalyticVariance": {"levels": torch.tensor([0.1, 1.0]), "shares": torch.tensor([0.9, 0.5])},
    "score.learned_variance.LearnedVarianceModel": {"network": MLP((2,), 4, 1, outputs=2)},
    "likelihood.bounds.elbo": {"draws": 1, "replicates": 2},
    "likelihood.classification.classify": {
        "score": lambda x, t, label=None: SCORE(x, t), "classes": 2, "solver": likelihood.Multistep(nodes=4),
    },
    "likelihood.dequantization.FlowDequantizer": {"transform": BYTES, "width": 4, "layers": 2},
    "likelihood.dequantization.importance_weighted_bound": {
        "log_prob": lambda x, indices=None: x.sum(1), "levels": LEVELS, "transform": BYTES, "draws": 2,
    },
    "likelihood.flow.log_likelihood": {"solver": likelihood.Multistep(nodes=4)},
    "likelihood.grid.FlowGrid": {"t_min": 1e-3, "data_std": 0.5, **GRID},
    "likelihood.grid.standard_grid": {"t_min": 1e-3},
    "likelihood.multistep.Multistep": {"nodes": 8},
    "likelihood.multistep.fit_grid": {"fine": 40},
    "metrics.baselines.gaussian_mixtures": {
        "train": torch.randn(24, 2, generator=torch.Generator().manual_seed(0)), "width": 0.01,
        "candidates": ((1, "full", 1e-3),),
    },
    "metrics.baselines.pixel_histogram": {"train": LEVELS, "test": LEVELS, "levels": 256},
    "metrics.ranked_probability.crps": {"samples": X, "observed": X[0]},
    "metrics.ranked_probability.fair_crps": {"samples": X, "observed": X[0]},
    "metrics.extractors.Network": {"label": "features"},
    "metrics.extractors.TorchScript": lambda: {"file": _a_file()},
    "metrics.frechet.frechet_distance": {"a": MOMENTS, "b": MOMENTS},
    "metrics.baselines.gaussian_log_prob": {"train": X, "test": Y},
    "metrics.yardstick.halves": {"count": 10},
    "metrics.yardstick.relative_distance": {
        "samples": X, "data": torch.cat([X, Y]), "distance": lambda x, y: metrics.kernel_distance(x, y).biased, "halvings": 1,
    },
    "metrics.moments.MomentAccumulator": {},
    "metrics.moments.Moments": {"mean": MOMENTS.mean, "covariance": MOMENTS.covariance},
    "metrics.sliced.sliced_wasserstein": {"directions": 4},
    "networks.multifield.MultifieldUNet": {"event_shape": (2, 1, 8, 8), "channels": 8, "blocks": 1},
    "networks.mlp.MLP": {"width": 8, "depth": 1},
    "networks.ncsnpp.DDPM": IMAGES,
    "networks.ncsnpp.DDPMpp": IMAGES,
    "networks.ncsnpp.NCSNpp": IMAGES,
    "networks.refinenet.NCSN": {**IMAGES, "multipliers": (1, 1, 1)},
    "networks.refinenet.NCSNv2": {**IMAGES, "multipliers": (1, 1, 1)},
    "networks.improved_unet.ImprovedUNet": {
        "event_shape": EIGHT, "channels": 32, "multipliers": (1,), "blocks": 1, "attention": ()
    },
    "networks.ordinal_network.OrdinalNetwork": {
        "event_shape": (6,), "tokens": 3, "states": 4, "body": partial(MLP, width=8, depth=1),
    },
    "networks.token_transformer.TokenTransformer": {
        "event_shape": (6,), "tokens": 3, "states": 4, "width": 8, "depth": 1, "heads": 2,
    },
    "networks.unet.SmallUNet": {"event_shape": EIGHT, "channels": 8, "blocks": 1},
    "filters.FilteredNoise": {"indices": torch.arange(4), "filter": MatrixFilter(torch.eye(2))},
    "samplers.predictor_corrector.preconditioned.Preconditioned": {
        "corrector": samplers.Langevin(), "filter": MatrixFilter(torch.eye(2)),
    },
    "filters.MatrixFilter": {"matrix": torch.tensor([[2.0, 1.0], [0.0, 1.0]])},
    "filters.SpectralFilter": {"space": torch.tensor([1.0, 0.5])},
    "noise.NoiseSource": {"indices": torch.arange(4)},
    "noise.philox": {"counter": (torch.arange(4),) * 4, "key": (1, 2)},
    "samplers.fitted.sampler.FittedMultistep": {
        "times": TIMES, "t_min": 0.05, "a": torch.ones(4), "b": torch.ones(4, 2), "mean": X[0], "data_std": 0.5,
    },
    "samplers.fitted.sampler.FittedSampler": lambda: {
        "sampler": samplers.UniPC(4), "expected": Expectation(0.1, 0.1, 0.2, "2M", 4, 20), "process": "VPSDE()",
        "fingerprint": [0.5, 0.1],
    },
    "samplers.fitted.pilot.Pilot": lambda: {
        "grid": _grid(), "mean": X[0], "data_std": 0.5, "u": TIMES, "states": torch.ones(4, 4, 2), "ends": X,
        "evaluations": 3,
    },
    "samplers.fitted.fit_method.fit": lambda: {"pilot": _pilot(), "steps": 2, "search": 0, "held_out": 16},
    "samplers.fitted.grid.AdaptiveGrid": {
        "t_min": 1e-3, "u": GRID["u"], "share": GRID["share"], "process": "VPSDE()", "event_shape": (2,),
        "fingerprint": (0.5, 0.1),
    },
    "samplers.fitted.grid.adaptive_grid": {"fine": 40},
    "samplers.fitted.ggdm.GGDM": {
        "times": torch.linspace(1.0, 0.1, 4), "c": torch.ones(3), "d": torch.eye(3), "s": torch.zeros(3),
    },
    "samplers.fitted.level_adjusted.LevelAdjustedDDIM": lambda: {"network": _level_network()},
    "samplers.fitted.level_network.LevelNetwork": {
        "lowest": -4.0, "highest": 4.0, "process": "VPSDE()", "event_shape": (2,), "fingerprint": (0.5,) * 5,
    },
    "samplers.fitted.level_network.fit_level_network": lambda: {
        "network": MLP((2,), width=8, depth=1), "updates": 1, "batch_size": 4,
    },
    "samplers.fitted.kernel_fit.fit_ggdm": {"steps": 2, "updates": 1, "batch_size": 2},
    "samplers.fitted.ddss.DDSS": {"batch_size": 2, "events": 4},
    "samplers.fitted.noise_estimation.NoiseEstimation": lambda: {"network": MLP((2,), width=8, depth=1), "events": 4},
    "samplers.checks.report.check": {
        "make_sampler": samplers.UniPC, "order": 3.0, "counts": (4, 6, 8, 12, 16), "samples": 64,
    },
    "samplers.discretization.Transitions": RECORD,
    "score.denoising.DenoisingErrors": {"times": TIMES.flip(0), "data_error": T, "noise_square": T},
    "score.denoising.denoising_errors": {"times": TIMES.flip(0)},
    "data.distances.largest_distance": {},
    "metrics.texts.compressor_bits_per_byte": {"text": b"to be or not to be"},
    "metrics.texts.markov_bits": {"train": b"to be or not", "text": b"to be"},
    "schedules.chain_bound.ChainBound": {},
    "schedules.chain_bound.FittedBound": {
        "method": ChainBound((1.0, 0.5, 0.1)), "times": torch.tensor([0.1, 0.5, 1.0]), "variance": GaussianVariance(0.5),
    },
    "schedules.costs.analytic_costs": {"errors": ERRORS},
    "schedules.costs.analytic_grids": {"errors": ERRORS, "steps": 2},
    "schedules.costs.bound_costs": {"errors": ERRORS},
    "schedules.costs.decoder_costs": {"errors": ERRORS},
    "schedules.dynamic_programming.grid_cost": {"times": TIMES.flip(0), "costs": torch.ones(4, 4), "grid": TIMES[::3]},
    "schedules.dynamic_programming.optimal_grids": {"times": TIMES.flip(0), "costs": torch.ones(4, 4), "steps": 2},
    "schedules.step_grid.NetworkGrid": {
        "given": (1.0, 0.1), "process": "VPSDE()", "event_shape": (2,), "fingerprint": (0.5, 0.1),
    },
    "schedules.step_network.StepNetwork": {"process": "VPSDE()", "event_shape": (2,), "fingerprint": (0.5,) * 5},
    "schedules.step_network.fit_step_network": lambda: {
        "network": MLP((2,), width=8, depth=1), "updates": 1, "batch_size": 4,
    },
    "schedules.step_grid.network_grid": lambda: {"network": _step_network(), "steps": 2, "batch_size": 4},
    "schedules.bddm.BDDM": lambda: {"network": MLP((2,), width=8, depth=1), "events": 4},
    "schedules.levels.langevin_step_size": {"ratio": 1.1},
    "schedules.levels.level_ratio": {"dimension": 12},
    "schedules.levels.noise_levels": {"largest": 10.0, "smallest": 0.1, "dimension": 12},
    "score.classifier.Classifier": {"classes": 3},
    "score.energy.ProductOfExperts": {"experts": (SCORE, SCORE)},
    "score.features.ScoreFeatures": {"model": MODEL, "t": 0.5},
    "score.features.network_features": {"model": MODEL},
    "score.features.pixel_features": {"features": {"a": torch.zeros(4, 2, 3)}, "sides": (6,)},
    "score.features.pooled_features": {"features": {"a": torch.zeros(4, 2, 3)}},
    "score.predictions.like": {"output": X},
    "sde.scalar.TableChain": CHAIN,
    "sde.linalg.kernel.MapKernel": {"a": processes.ScalarMap(ONE), "noise": processes.ScalarMap(ONE)},
    "sde.linalg.kernel.ScalarKernel": {"a": ONE, "std": ONE},
    "sde.linalg.kernel.ShiftedKernel": {"before": X[0], "after": X[0]},
    "sde.linalg.maps.BlockMap": {"m": torch.eye(2)},
    "sde.linalg.maps.DiagonalMap": {"c": torch.ones(2)},
    "sde.linalg.maps.ScalarMap": {"c": ONE},
    "sde.processes.matrix.MatrixSDE": {
        "drift": -torch.eye(1, dtype=torch.float64),
        "diffusion": torch.eye(1, dtype=torch.float64),
    },
    "guidance.composition.ComposedConditions": {"conditions": ({"label": 1},)},
    "guidance.composition.MixtureOfExperts": {"experts": (SCORE,), "log_probs": (SCORE,)},
    "guidance.likelihoods.ClassifierGuidance": {"classifier": CLASSIFIER},
    "guidance.measurements.IsotropicMoments": {"operator": torch.tanh, "measurement": X},
    "guidance.posterior_sampling.DiffusionPosteriorSampling": {"operator": torch.tanh, "measurement": X},
    "guidance.measurements.TweedieMoments": {"operator": torch.tanh, "measurement": X},
    "operators.blur.Blur": {"std": 1.0},
    "operators.fourier.FourierMask": {"known": [[1, 0], [1, 1]]},
    "operators.functions.LinearFunction": {"function": torch.neg, "event_shape": (2,)},
    "operators.functions.MatrixOperator": {"matrix": X, "event_shape": (1, 2)},
    "operators.masks.Mask": {"known": torch.tensor([True, False])},
    "operators.pixels.SuperResolution": {"factor": 2},
    "guidance.thresholds.DynamicThreshold": {"quantile": 0.9, "low": -1.0, "high": 1.0},
    "guidance.thresholds.StaticThreshold": {"low": -1.0, "high": 1.0},
    "guidance.likelihoods.TaskGuidance": {"log_likelihood": SCORE},
    "tasks.editing.edit": {"sampler": samplers.UniPC(3), "score": lambda x, t: -x, "guide": X, "t": 0.5},
    "tasks.editing.purify": {"sampler": samplers.UniPC(3), "score": lambda x, t: -x, "t": 0.5},
    "tasks.encoding.anomaly_map": {"sampler": samplers.UniPC(3), "score": lambda x, t: -x, "t": 0.5},
    "tasks.encoding.interpolate": {
        "sampler": samplers.UniPC(3), "score": lambda x, t: -x, "begin": X, "end": X, "weights": (0.0, 0.5),
    },
    "tasks.restoration.inpaint": {"sampler": samplers.UniPC(3), "y": X, "known": X > 0},
    "tasks.restoration.super_resolve": {
        "sampler": samplers.UniPC(3), "score": GaussianMixture(torch.zeros(1, 1, 4, 4), 1.0).score(SDE),
        "y": torch.zeros(1, 1, 2, 2), "factor": 2,
    },
    "tasks.restoration.colorize": {
        "sampler": samplers.UniPC(3), "score": GaussianMixture(torch.zeros(1, 3, 4, 4), 1.0).score(SDE),
        "y": torch.zeros(1, 1, 4, 4),
    },
    "samplers.particles.ParticleSampler": {"particles": 4, "steps": 3},
    "samplers.hooks.KeepKnown": {"y": X, "known": torch.ones(2)},
    "losses.reverse_steps.VariationalLoss": {"sde": SDE.discretize(30), "transform": BYTES},
    "losses.reverse_steps.HybridLoss": {"sde": SDE.discretize(30), "transform": BYTES},
    "losses.schedule.ScheduleVariance": {"sde": processes.LearnedSNRSDE(hidden=2)},
    "losses.schedule.VariationalSchedule": {"sde": processes.LearnedSNRSDE(hidden=2, train_ends=True), "transform": MIDDLES},
    "losses.variational.VariationalDiffusionLoss": {"transform": MIDDLES},
    "likelihood.levels.noisy_levels": {"x": MIDDLES.encode([[0, 1]] * 4, None, dtype=torch.float32), "transform": MIDDLES},
    "sde.nonlinear.NonlinearSDE": {"f": lambda x, t: -x, "g": lambda t: t * 0 + 1, "steps": 4},
    "sde.processes.schedule.Schedule": {"alpha": lambda t: (-2 * t).exp(), "sigma": lambda t: (1 - (-4 * t).exp()).sqrt()},
    "sde.checks.run.check": {},
    "sde.processes.shifted.Shifted": {"mean": X[0]},
    "sde.processes.non_gaussian.LevelNoise": {"noise": Gaussian()},
    "sde.processes.non_gaussian.StepNoise": {"noise": Gaussian()},
    "sde.processes.non_gaussian.NonGaussianSDE": {"sde": processes.VPSDE(), "noise": processes.GammaNoise(0.5)},
    "sde.processes.non_gaussian.NonGaussianChain": {
        "sde": processes.NonGaussianSDE(processes.VPSDE(), processes.GammaNoise(0.5)), "steps": 30,
    },
    "solvers.ode.SolverError": {},
    "score.quantized.Levels": {"transform": BYTES},
    "score.subspace.Subspace": {"kept": torch.tensor([True, False])},
    "score.subspace.SubspaceScore": {
        "score_low": SCORE, "score_full": SCORE, "subspace": SUBSPACE, "complement_std": 0.1, "t_split": 0.5,
    },
    "score.subspace.orthogonal_divergence": lambda: {
        "wrapped": SubspaceScore(SCORE, SCORE, SDE, SUBSPACE, 0.1, 0.5), "x0": X, "times": (0.6, 0.8),
    },
    "score.subspace.SubspaceScore.sde": {},
}  # fmt: skip
for _name in RECORDS:
    RECIPES[_name] = dict(RECORD)
RECIPES["schedules.dynamic_programming.OptimalGrids"] = {"grids": (T,), "totals": T}
RECIPES["jump.bounds.JumpBound"] = {**RECORD, "steps": torch.ones(2, 4), "bits_per_token": T}
RECIPES["product.bounds.ProductBound"] = {**RECORD, "real": T, "categories": T}
RECIPES["product.objectives.ProductDraw"] = {"x0": X, "x": X, "z": X, "t": T}
RECIPES["jump.objectives.JumpDraw"] = {"x0": BIT_ROWS, "x": BIT_ROWS, "t": T, "s": T, "density": T}
RECIPES["loggers.base.RunStart"] = {"folder": Path("run")}
RECIPES["likelihood.variational.VariationalBound"] = {**RECORD, "steps": torch.ones(2, 4), "bits_per_dim": T}
RECIPES["samplers.hooks.Moment"] = {**RECORD, "step": 0, "noise": NoiseSource.of(0, 4)}
RECIPES["samplers.fitted.expectation.KernelExpectation"] = {
    "distance": 0.1, "standard_error": 0.1, "plain_distance": 0.2, "samples": 4, "updates": 1,
}  # fmt: skip
RECIPES["solvers.ode.ODESolution"] = {**RECORD, "evaluations": T}
for _name in ("metrics.baselines.Baseline", "metrics.kernel.KernelDistance", "samplers.fitted.expectation.Expectation"):
    RECIPES[_name] = {**RECORD, "standard_error": 0.1, "biased": 0.5}
_ACCURACY = metrics.Accuracy(0.5, 0.1, 4, 4)
RECIPES["metrics.classifiers.Accuracy"] = {"value": 0.5, "standard_error": 0.1, "trained_on": 4, "count": 4}
RECIPES["metrics.classifiers.SampleAccuracies"] = dict.fromkeys(("real", "samples", "both"), _ACCURACY)
RECIPES["metrics.yardstick.RelativeDistance"] = {
    "value": 0.2, "yardstick": 0.1, "count": 4, "reference_count": 4, "halvings": 2,
}  # fmt: skip
del RECIPES["score.subspace.SubspaceScore.sde"]

NOT_CALLED = {
    "solvers.ode.SolverError": "an exception: whatever it says",
    "solvers.ode.ODESolver": "a protocol",
    "samplers.grids.check_t_min": "a check of its own",
    "jump.grids.check_grid": "a check of its own",
    "sde.nonlinear.Prior": "a protocol",
}
if not find_spec("pyarrow"):
    NOT_CALLED["data.table.measure_columns"] = "needs the extra 'tables'"
if not find_spec("tokenizers"):
    NOT_CALLED["data.vocabularies.TokenizerFile"] = "needs the extra 'text'"


def recipe(name: str, thing: Any) -> dict[str, Any]:
    """Valid values of the parameters without a default."""
    own = RECIPES.get(name, {})
    own = own() if callable(own) else own
    given = {}
    for parameter in inspect.signature(thing).parameters.values():
        if parameter.name in own:
            given[parameter.name] = own[parameter.name]
        elif parameter.default is inspect.Parameter.empty and parameter.name in COMMON:
            given[parameter.name] = COMMON[parameter.name]
    return given
