"""Checkpoints of improved-diffusion and guided-diffusion (openai): a state dict, and the flags of their scripts.

A file holds weights by name and nothing else. The names and shapes determine the channels, the levels, the blocks, the attention,
the classes, whether the network learns a variance, and how the embedded label and the resampling work. The flags determine
the side, the heads, the steps and the schedule of the chain, and the label: the index i of an instant, or 1000 i / N of N
instants with ``rescale_timesteps``.

    linear    beta from .1 / N to 20 / N, that is, from 1e-4 to .02 for 1000 steps:  VPSDE(0.1, 20)
    cosine    Nichol & Dhariwal's, clipped at .999:                                  CosineVPSDE()

Data are levels k / 127.5 - 1 without dequantization, the middles of intervals of the width 2 / 255.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scoresde._validation import check_choice, shown, suggestion
from scoresde.ema import EMA
from scoresde.interop.errors import ConvertError
from scoresde.interop.reference_file import read_content, weight_of
from scoresde.networks import ImprovedUNet

RESCALED = {"improved_diffusion": True, "guided_diffusion": False}
"""The default of ``rescale_timesteps`` of each project."""
_IDLE = (
    "use_checkpoint", "use_fp16", "use_kl", "rescale_learned_sigmas", "timestep_respacing", "use_ddim", "lr", "batch_size",
    "schedule_sampler", "microbatch", "weight_decay", "data_dir",
)  # fmt: skip
"""Flags that do not change the network or its process."""
_LABELS = "label_emb.weight"
HALF_LEVEL = 1.0 / 255.0
"""Half of the distance of two levels: the intervals of the levels -1 and 1 end this far outside of [-1, 1]."""


def _boolean(text: str) -> bool:
    if (low := text.lower()) not in ("true", "false", "1", "0"):
        raise ValueError("True or False")
    return low in ("true", "1")


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) == 0:
        raise ValueError("a whole number of at least 1")
    return int(text)


def _optional(text: str) -> int:
    return 0 if text == "-1" else _count(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_count(part.strip()) for part in text.split(","))


def _share(text: str) -> float:
    if not re.fullmatch(r"0?\.[0-9]+|0(\.0*)?", text):
        raise ValueError("a number in [0, 1)")
    return float(text)


def _schedule(text: str) -> str:
    if text not in ("linear", "cosine"):
        raise ValueError("linear or cosine")
    return text


_READERS: dict[str, Callable[[str], Any]] = {
    "image_size": _count, "num_heads": _count, "num_heads_upsample": _optional, "num_head_channels": _optional,
    "use_new_attention_order": _boolean, "dropout": _share, "diffusion_steps": _count, "noise_schedule": _schedule,
    "rescale_timesteps": _boolean, "predict_xstart": _boolean, "sigma_small": _boolean,
    "num_channels": _count, "num_res_blocks": _count, "channel_mult": _counts, "attention_resolutions": _counts,
    "learn_sigma": _boolean, "class_cond": _boolean, "use_scale_shift_norm": _boolean, "resblock_updown": _boolean,
}  # fmt: skip
"""The flags and how their values are read. The flags of the last two lines are compared with the file."""
_DEFAULTS: dict[str, Any] = {
    "num_heads": 4, "num_heads_upsample": 0, "num_head_channels": 0, "use_new_attention_order": False, "dropout": 0.0,
    "diffusion_steps": 1000, "noise_schedule": "linear", "predict_xstart": False, "sigma_small": False,
}  # fmt: skip
"""The defaults of the projects' scripts for what a file does not show."""


def read_weights(file: str | Path) -> tuple[dict[str, Tensor], bool]:
    """Read a state dict without executing anything in the file.

    Args:
        file: The file.

    Returns:
        The float32 weights by name, and whether the file has checksums, which were compared.

    Raises:
        ConvertError: If the file is damaged, or is not a state dict of finite float32 tensors.
        OSError: If the file does not exist.
    """
    content, checked = read_content(file, "improved-diffusion")
    if not isinstance(content, Mapping) or not content:
        raise ConvertError(f"{file} holds {type(content).__name__}: a state dict, weights by name, is wanted")
    try:
        return {
            str(name).removeprefix("module."): weight_of(str(name), value) for name, value in content.items()
        }, checked
    except (TypeError, ValueError) as problem:
        raise ConvertError(f"{file} is not a state dict of improved-diffusion: {problem}") from problem


def facts_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the names and the shapes of the weights determine, by the names of the flags, and ``images``, ``classes``, ``levels``.

    Args:
        weights: Weights by name.

    Raises:
        ConvertError: If a weight that shows it is missing, or the network is of an unsupported kind.
    """

    def shape(name: str, dims: int) -> tuple[int, ...]:
        if name not in weights or weights[name].ndim != dims:
            there = f"has the shape {tuple(weights[name].shape)}" if name in weights else "is missing"
            raise ConvertError(f"{name} {there}: a tensor of {dims} dimensions is wanted")
        return tuple(weights[name].shape)

    width, images = shape("time_embed.0.weight", 2)[1], shape("input_blocks.0.0.weight", 4)[1]
    out = shape("out.2.weight", 4)[0]
    if images == 6 or out not in (images, 2 * images):
        raise ConvertError(
            f"the network has {images} channels of input and {out} of output: the output must have as many as the input, or "
            "twice as many with learn_sigma; super-resolution networks are not supported"
        )
    numbers = [int(found[1]) for name in weights if (found := re.match(r"output_blocks\.([0-9]{1,4})\.0\.", name))]
    total = 1 + max(numbers, default=-1)
    convolved = [j for j in range(total) if any(f"output_blocks.{j}.{k}.conv.weight" in weights for k in (1, 2))]
    residual = [j for j in range(total) if any(f"output_blocks.{j}.{k}.in_layers.0.weight" in weights for k in (1, 2))]
    levels = 1 + len(convolved or residual)
    per_level = total // levels
    if (convolved and residual) or per_level < 2 or total != levels * per_level:
        raise ConvertError(
            f"the decoder has {total} stages, {len(convolved)} of which upsample by a convolution and {len(residual)} by a "
            "residual block: every level must have as many stages, at least 2, and all but one upsample in one way"
        )
    starts = [f"output_blocks.{level * per_level}" for level in reversed(range(levels))]  # of level 0, 1, ...
    widths = [shape(f"{start}.0.out_layers.3.weight", 4)[0] for start in starts]
    if any(w % width for w in widths):
        raise ConvertError(f"the levels have {widths} channels: multiples of {width} are wanted")
    return {
        "images": images, "num_channels": width, "channel_mult": tuple(w // width for w in widths),
        "num_res_blocks": per_level - 1, "learn_sigma": out == 2 * images,
        "levels": tuple(k for k, start in enumerate(starts) if f"{start}.1.qkv.weight" in weights),
        "use_scale_shift_norm": shape("middle_block.0.emb_layers.1.weight", 2)[0] == 2 * widths[-1],
        "resblock_updown": bool(residual), "class_cond": _LABELS in weights,
        "classes": shape(_LABELS, 2)[0] if _LABELS in weights else 0,
    }  # fmt: skip


def settings_of(project: str, facts: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """The settings that a file does not show: those of the flags, and the defaults of the project.

    Args:
        project: A key of ``RESCALED``.
        facts: The result of `facts_of`.
        values: Flags of the scripts of the project.

    Raises:
        ConvertError: If a flag is unknown, has a bad value, contradicts the file, or image_size is missing.
    """
    check_choice("--from", project, RESCALED)
    found: dict[str, Any] = {**_DEFAULTS, "rescale_timesteps": RESCALED[project]}
    for name, text in values.items():
        if name in _IDLE:
            continue
        if name not in _READERS:
            raise ConvertError(f"--source.{name} is not a flag of {project}{suggestion(name, _READERS)}")
        try:
            found[name] = _READERS[name](str(text))
        except ValueError as problem:
            raise ConvertError(f"--source.{name}={shown(text)} is not allowed: give {problem}") from None
    if "image_size" not in found:
        raise ConvertError(
            "--source.image_size is required, because the weights do not depend on the side of the images"
        )
    side = found["image_size"]
    shows = {**facts, "attention_resolutions": tuple(side // 2**level for level in facts["levels"])}
    if "attention_resolutions" in found:  # sides that no level has have no effect
        sides = [side // 2**level for level in range(len(facts["channel_mult"]))]
        found["attention_resolutions"] = tuple(s for s in sides if s in found["attention_resolutions"])
    for name, value in found.items():
        if name in shows and value != shows[name]:
            raise ConvertError(f"--source.{name}={value} contradicts the file, whose weights show {shows[name]}")
    return found


def config_of(facts: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a config, for ``Experiment.from_config``.

    Args:
        facts: The result of `facts_of`.
        settings: The result of `settings_of`.
    """
    side, steps, learned = settings["image_size"], settings["diffusion_steps"], facts["learn_sigma"]
    if steps < 2:
        raise ConvertError(f"--source.diffusion_steps={steps} is not allowed: give at least 2")
    scale = (steps - 1.0) * (1000.0 / steps if settings["rescale_timesteps"] else 1.0)
    cosine, classes = settings["noise_schedule"] == "cosine", facts["classes"]
    data: dict[str, Any] = {
        "name": "ImageFolder",
        "folder": f"data/images_{side}",
        "side": side,
        "channels": facts["images"],
    }
    if (side, facts["images"], classes) == (32, 3, 0):
        data = {"name": "CIFAR10"}
    data |= {"low": -1.0 - HALF_LEVEL, "high": 1.0 + HALF_LEVEL, **({"classes": classes} if classes else {})}
    return {
        "seed": 42, "device": "auto", "threads": 0,
        "data": {"name": "WithoutDequantization", "data": data},
        "sde": {"name": "CosineVPSDE"} if cosine else {"name": "VPSDE", "beta_min": 0.1, "beta_max": 20.0},
        "network": {
            "name": "ImprovedUNet", "channels": facts["num_channels"], "multipliers": facts["channel_mult"],
            "blocks": facts["num_res_blocks"], "attention": facts["levels"], "heads": settings["num_heads"],
            "decoder_heads": settings["num_heads_upsample"], "head_channels": settings["num_head_channels"],
            "grouped_heads": not settings["use_new_attention_order"], "scale_shift": facts["use_scale_shift_norm"],
            "resample_blocks": facts["resblock_updown"], "dropout": settings["dropout"],
        },
        "model": {
            **({"name": "LearnedVarianceModel"} if learned else {}), "steps": steps, "data_std": None,
            "prediction": "data" if settings["predict_xstart"] else "noise", "label": {"name": "TimeLabel", "scale": scale},
        },
        "objective": {"name": "HybridLoss" if learned else "DenoisingScoreMatching"},
        "training": {
            "steps": 500_000, "batch_size": 128, "learning_rate": 1e-4, "ema_decay": 0.9999, "checkpoint_every": 10_000,
            "log_every": 50,
        },
        "sampling": {"count": 64, "batch_size": 64, "seed": 0, **({"condition": {"label": "balanced"}} if classes else {})},
        "samplers": {
            "ancestral": {
                "name": "Ancestral", "steps": steps,
                "variance": "model" if learned else "lower" if settings["sigma_small"] else "upper",
            },
        },
        "likelihood": {"split": "test", "draws": 1, "batch_size": 128, "method": {"name": "ChainBound"}},
    }  # fmt: skip


def fill(network: nn.Module, weights: Mapping[str, Tensor], file: str | Path) -> tuple[EMA, torch.optim.Optimizer]:
    """Load weights into a network, and make averages that equal them and an optimizer without moments.

    Raises:
        ConvertError: If a weight is missing, unknown or of another shape. All are named, up to four of a kind.
    """
    if not isinstance(network, ImprovedUNet):
        raise ConvertError(f"config.network is {type(network).__name__}: ImprovedUNet is wanted")
    wanted = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(_NULL)}
    given = {_ours(name, wanted): tensor for name, tensor in weights.items()}
    shapes = {name: (tuple(given[name].shape), tuple(wanted[name].shape)) for name in given.keys() & wanted.keys()}
    problems = {
        "missing": sorted(wanted.keys() - given.keys()),
        "not in the network": sorted(given.keys() - wanted.keys()),
        "of another shape": [f"{name} {a} in place of {b}" for name, (a, b) in sorted(shapes.items()) if a != b],
    }
    if texts := [f"{len(names)} {kind}: {', '.join(names[:4])}" for kind, names in problems.items() if names]:
        raise ConvertError(
            f"{file} does not have the weights of the network of {len(wanted)} tensors: {'; '.join(texts)}"
        )
    network.load_state_dict(
        {**network.state_dict(), **given}
    )  # without a class, the label of a network with classes gives 0
    return EMA(network, 0.9999), torch.optim.Adam(network.parameters())


def published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an ``ImprovedUNet`` by the names of the file."""
    return {_LABELS if n.startswith(_TABLE) else n: w for n, w in state.items() if not n.startswith(_NULL)}


def step_of(file: str | Path) -> int:
    """The step in the name of a file, such as ema_0.9999_200000.pt or cifar10_uncond_50M_500K.pt; 0 if there is none."""
    found = re.search(r"(?:model|_)([0-9]{1,9})(K?)(?:_bs[0-9]+)?$", Path(file).stem)
    return int(found[1]) * (1000 if found[2] else 1) if found else 0


_NULL, _TABLE = "conditioning.null.", "conditioning.encoders."


def _ours(name: str, wanted: Mapping[str, Tensor]) -> str:
    """Our name of a weight of the file."""
    return next((n for n in wanted if n.startswith(_TABLE)), name) if name == _LABELS else name
