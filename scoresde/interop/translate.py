"""Translation of settings of score_sde_pytorch to a config of this library.

    source = translate(read_settings("configs/vp/cifar10_ddpmpp.py"), "cifar10_ddpmpp.py")
    experiment = Experiment.from_config(ConfigDict(source.config))

The config contains all arguments of the network, so none of them depends on a default of this library. The process
determines the label and the meaning of the output:

    VP, sub-VP     label 999 t, discrete (N - 1) t           output E[z | x_t]
    VE             label ln sigma for Fourier features,      output the score, or sigma times the score where
                   sigma for sines, discrete the index       ``scale_by_sigma``
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scoresde.interop.errors import ConvertError
from scoresde.interop.source_facts import COUNT, FLAG, NUMBER, PROGRESSIVE, REFINENETS, Facts, Kind, one_of
from scoresde.networks.sides import sides_of_levels

_ACTIVATIONS = {"swish": "silu", "relu": "relu", "elu": "elu", "lrelu": "lrelu"}
_PROCESSES = {"vpsde": "VPSDE", "subvpsde": "SubVPSDE", "vesde": "VESDE"}
_PREDICTORS = {
    "euler_maruyama": "EulerMaruyama",
    "reverse_diffusion": "ReverseDiffusion",
    "ancestral_sampling": "Ancestral",
    "none": None,
}
_CORRECTORS = {"langevin": "Langevin", "ald": "AnnealedLangevin", "none": None}


@dataclass(frozen=True)
class Source:
    """A translated config of score_sde_pytorch.

    Attributes:
        name: The name of the file, for messages.
        config: The content of a config, for ``Experiment.from_config``.
        sigmas: Number, smallest and largest of the noise levels in the table of its checkpoints; None if unknown.
        notes: Missing settings and the values that were used instead.
    """

    name: str
    config: dict[str, Any]
    sigmas: tuple[int, float, float] | None
    notes: tuple[str, ...]


def translate(settings: Mapping[str, Any], name: str) -> Source:
    """Translate settings as returned by `read_settings`.

    Args:
        settings: Sections of values.
        name: The name of the file, for messages.

    Returns:
        The translated config.

    Raises:
        ConvertError: If settings that the network depends on are missing, cannot be read, or have no counterpart. The
            message names all of them.
    """
    settings, notes = _corrected(settings)
    facts = Facts(settings, name)
    discrete = not facts["training.continuous"]
    if facts["model.name"] in REFINENETS and not discrete:
        discrete = True
        notes.append("the network takes the index of a noise level: training.continuous=True was taken for False")
    low = -1.0 if facts["data.centered"] else 0.0
    config = {
        "seed": 42,
        "device": "auto",
        "threads": 0,
        "data": _data(facts, low),
        "sde": _process(facts),
        "network": _network(facts, (low, 1.0)),
        "model": _model(facts, discrete),
        "objective": _objective(facts),
        "training": _training(facts),
        "sampling": {"count": 64, "batch_size": 64, "seed": 0},
        "samplers": _samplers(facts),
        "likelihood": {"split": "test", "draws": 5, "batch_size": 128},
    }
    ends = [settings["model"].get(f"sigma_{end}") for end in ("min", "max")]
    known = all(isinstance(end, int | float) for end in ends)
    sigmas = (facts["model.num_scales"], *map(float, ends)) if known else None
    if facts.notes:
        notes.append(f"not in {name}, taken from the reference's default_cifar10_configs: {', '.join(facts.notes)}")
    return Source(name, config, sigmas, tuple(notes))


def _corrected(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings with corrections for known errors in the files of the reference, and notes about the corrections."""
    found = {k: dict(v) if isinstance(v, Mapping) else v for k, v in settings.items()}
    training, notes = found.get("training"), []
    if isinstance(training, dict) and "sde" not in training and "loss" in training:
        training["sde"] = training["loss"]
        notes.append(f"training.sde is missing: training.loss={training['loss']!r} was taken for it")
    return found, notes


def _data(facts: Facts, low: float) -> dict[str, Any]:
    side, channels = facts["data.image_size"], facts["data.num_channels"]
    flip = facts.usual("data.random_flip", FLAG)
    common = {"low": low, "high": 1.0, "flip": flip}
    if facts.usual("data.dataset", Kind(lambda v: isinstance(v, str), "a name")) == "CIFAR10" and (side, channels) == (
        32,
        3,
    ):
        return {"name": "CIFAR10", **common}
    if channels not in (1, 3):
        return {"name": "Arrays", "train": f"data/images_{channels}x{side}x{side}.npy", "levels": 256, **common}
    return {"name": "ImageFolder", "folder": f"data/images_{side}", "side": side, "channels": channels, **common}


def _process(facts: Facts) -> dict[str, Any]:
    kind = "sigma" if facts["training.sde"] == "vesde" else "beta"
    ends = {f"{kind}_{end}": float(facts[f"model.{kind}_{end}"]) for end in ("min", "max")}
    return {"name": _PROCESSES[facts["training.sde"]], **ends}


def _network(facts: Facts, input_range: tuple[float, float]) -> dict[str, Any]:
    name, nf = facts["model.name"], facts["model.nf"]
    common = {"channels": nf, "input_range": input_range, "activation": _ACTIVATIONS[facts["model.nonlinearity"]]}
    if name in REFINENETS:
        levels = {"levels": facts["model.num_scales"]} if name == "ncsn" else {}
        return {"name": "NCSN" if levels else "NCSNv2", "multipliers": REFINENETS[name], **levels, **common}
    common |= {
        "multipliers": tuple(facts["model.ch_mult"]),
        "blocks": facts["model.num_res_blocks"],
        "attention": _attention(facts),
        "dropout": float(facts["model.dropout"]),
        "convolve": facts["model.resamp_with_conv"],
        "conditional": facts["model.conditional"],
    }
    sines = {"name": "SinusoidalEmbedding", "size": nf}
    if name == "ddpm":
        return {"name": "DDPM", **common, "groups": 32, "embedding": sines}
    scale = facts.usual("model.fourier_scale", NUMBER, 16) if facts["model.embedding_type"] == "fourier" else 0.0
    fir = {"name": "FIR", "kernel": tuple(facts["model.fir_kernel"])} if facts["model.fir"] else {"name": "Averaging"}
    skips = facts["model.progressive_input"] == "input_skip"
    return {
        "name": "NCSNpp",
        **common,
        "group_width": 4,
        "groups": 0,
        "embedding": {"name": "FourierEmbedding", "count": nf, "scale": float(scale)} if scale else sines,
        "resampling": fir,
        "block": facts["model.resblock_type"],
        "progressive_input": PROGRESSIVE[facts["model.progressive_input"]],
        "progressive_output": PROGRESSIVE[facts["model.progressive"]],
        "combine": facts["model.progressive_combine"] if skips else "sum",
        "rescale": facts["model.skip_rescale"],
    }


def _attention(facts: Facts) -> tuple[int, ...]:
    """Sides of levels with attention. The reference ignores sides that no level has; the networks here do not accept them."""
    levels = sides_of_levels((facts["data.image_size"],), len(facts["model.ch_mult"]))
    return tuple(side for side in facts["model.attn_resolutions"] if (side,) in levels)


def _model(facts: Facts, discrete: bool) -> dict[str, Any]:
    """The label and the prediction of the network."""
    name, sde, steps = facts["model.name"], facts["training.sde"], facts["model.num_scales"]
    scaled, label = facts["model.scale_by_sigma"], {"name": "TimeLabel", "scale": 999.0}
    fourier = name == "ncsnpp" and facts["model.embedding_type"] == "fourier"
    chain = {"steps": steps} if discrete else {}
    if name in REFINENETS and sde != "vesde":
        raise ConvertError(
            f"{facts.name}: model.name={name!r} with training.sde={sde!r} is not supported: allowed is 'vesde'"
        )
    if sde != "vesde":
        if fourier or scaled:
            which = "model.embedding_type='fourier'" if fourier else "model.scale_by_sigma=True"
            raise ConvertError(
                f"{facts.name}: {which} with training.sde={sde!r} has no counterpart here: allowed is 'vesde'"
            )
        if sde == "subvpsde" and discrete:
            raise ConvertError(
                f"{facts.name}: training.continuous=False with 'subvpsde' is not supported, and the "
                f"reference does not support it either"
            )
        if discrete:
            label["scale"] = steps - 1.0
        return {"prediction": "noise", "label": label, "data_std": None, **chain}
    if discrete and fourier:
        raise ConvertError(
            f"{facts.name}: model.embedding_type='fourier' with training.continuous=False takes the logarithm of the index 0: "
            "the reference cannot compute it"
        )
    if discrete:
        label |= {"scale": steps - 1.0, "descending": True, "whole": True}
    elif fourier:
        label = {"name": "LogNoiseLabel"}
    elif scaled:
        raise ConvertError(
            f"{facts.name}: model.scale_by_sigma=True divides by the level of an index, and training.continuous=True gives "
            "the network sigma: this combination is not supported"
        )
    else:
        label = {"name": "SigmaLabel"}
    if scaled and name == "ncsn":
        raise ConvertError(f"{facts.name}: model.scale_by_sigma=True with model.name='ncsn' has no counterpart here")
    prediction: Any = {"name": "ScaledScorePrediction"} if scaled else "score"
    return {"prediction": prediction, "label": label, "data_std": None, **chain}


def _objective(facts: Facts) -> dict[str, Any]:
    weighting = "likelihood" if facts.usual("training.likelihood_weighting", FLAG) else "variance"
    reduction = "mean" if facts.usual("training.reduce_mean", FLAG) else "half_sum"
    return {"name": "DenoisingScoreMatching", "weighting": weighting, "reduction": reduction}


def _training(facts: Facts) -> dict[str, Any]:
    clip = facts.usual("optim.grad_clip", NUMBER)
    return {
        "steps": max(1, facts.usual("training.n_iters", COUNT) - 1),
        "batch_size": facts.usual("training.batch_size", COUNT),
        "learning_rate": float(facts.usual("optim.lr", NUMBER)),
        "warmup": int(facts.usual("optim.warmup", NUMBER)),
        "grad_clip": float(clip) if clip > 0 else 1e9,
        "ema_decay": float(facts.usual("model.ema_rate", NUMBER, 0.999)),
        "checkpoint_every": facts.usual("training.snapshot_freq_for_preemption", COUNT),
        "log_every": facts.usual("training.log_freq", COUNT),
    }


def _samplers(facts: Facts) -> dict[str, Any]:
    """The sampler of the config, and the probability flow for networks with a process in continuous time."""
    t_min = 1e-5 if facts["training.sde"] == "vesde" else 1e-3
    predictor = facts.usual("sampling.predictor", one_of(*_PREDICTORS), "euler_maruyama")
    corrector = facts.usual("sampling.corrector", one_of(*_CORRECTORS), "none")
    denoise = facts.usual("sampling.noise_removal", FLAG)
    found: dict[str, Any] = {}
    if facts.usual("sampling.method", one_of("pc", "ode"), "pc") == "pc" and (predictor, corrector) != ("none", "none"):
        steps = {"name": "ReferenceDiscretization", "steps": facts["model.num_scales"], "t_min": t_min}
        found["predictor-corrector"] = {
            "name": "PredictorCorrector",
            "predictor": {"name": _PREDICTORS[predictor]} if _PREDICTORS[predictor] else None,
            "corrector": _corrector(facts, corrector),
            "steps": steps,
            "denoise": denoise,
        }
    if facts["model.name"] not in REFINENETS:
        found["probability-flow"] = {"name": "ProbabilityFlowODE", "t_min": t_min, "denoise": denoise}
    return found


def _corrector(facts: Facts, name: str) -> dict[str, Any] | None:
    if _CORRECTORS[name] is None:
        return None
    snr, steps = facts.usual("sampling.snr", NUMBER), facts.usual("sampling.n_steps_each", COUNT)
    return {"name": _CORRECTORS[name], "snr": float(snr), "steps": steps}
