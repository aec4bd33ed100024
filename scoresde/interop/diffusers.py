"""Models of diffusers (huggingface/diffusers): an unconditional or class-conditional ``UNet2DModel`` and its noise schedule.

    config.json, diffusion_pytorch_model.safetensors, scheduler_config.json, or the same in unet/ and scheduler/

The schedule is a table beta_0 ... beta_(N-1) with alpha_i^2 = prod_(j <= i) (1 - beta_j). The label of the network is the
index i:

    linear               beta_i evenly spaced from beta_start to beta_end
    scaled_linear        sqrt beta_i evenly spaced from sqrt beta_start to sqrt beta_end
    squaredcos_cap_v2    Nichol and Dhariwal's, clipped at 0.999

`load` returns a model on the chain of this table. The chain is a discretization of the process `TabulatedVP`, which has the
values of the table at the times (i + 1) / N. `in_continuous_time` returns the model on this process.

Only some networks need the package diffusers, see ``unet2d``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from scoresde._representation import prints_as_call
from scoresde._validation import check_choice, check_count, check_finite
from scoresde.interop.unet2d import network_of
from scoresde.score import ScoreModel
from scoresde.sde import Chain, CosineVPSDE, LinearSDE, ScalarKernel, ScalarSDE, TableChain

PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "velocity"}
SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def load(folder: str | Path) -> ScoreModel:
    """Load a model on its own chain, in evaluation mode.

    Events are usually images in [-1, 1]. Call a class-conditional model as ``model(x, t, class_labels=...)``.

    Args:
        folder: A folder with ``config.json``, ``diffusion_pytorch_model.safetensors`` and ``scheduler_config.json``, or with the
            sub-folders ``unet`` and ``scheduler`` that contain them.

    Returns:
        The score model.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the files do not match, or a setting is not supported.
        ImportError: If the package diffusers is needed and not installed.
    """
    weights = _file(folder, "unet", "diffusion_pytorch_model.safetensors")
    network = network_of(json.loads(_file(folder, "unet", "config.json").read_text()))
    try:
        state = load_file(weights)
        network.load_state_dict({_current(name): tensor for name, tensor in state.items()}, strict=True)
    except (SafetensorError, RuntimeError) as problem:
        raise ValueError(f"{weights} does not fit its config.json: {problem}") from problem
    schedule = json.loads(_file(folder, "scheduler", "scheduler_config.json").read_text())
    kind = schedule.get("prediction_type", "epsilon")
    check_choice("prediction_type", kind, PREDICTIONS)
    chain = process_of(schedule).chain()
    model = ScoreModel(network, chain, PREDICTIONS[kind], label=IndexLabel(), data_std=None)
    return model.eval().requires_grad_(False)


def in_continuous_time(model: ScoreModel) -> ScoreModel:
    """A model from `load` on the process of its chain, for likelihoods and for samplers on any grid."""
    return ScoreModel(model.network, model.sde.continuous, model.prediction, label=IndexLabel(), data_std=None)


def process_of(schedule: Mapping[str, Any]) -> TabulatedVP:
    """The process of a scheduler_config.json. Raises ValueError for a schedule that is not supported."""
    if schedule.get("rescale_betas_zero_snr"):
        raise ValueError(
            "rescale_betas_zero_snr=True is not supported: the last step contains no data, and no score is defined for it"
        )
    if (given := schedule.get("trained_betas")) is not None:
        return TabulatedVP(torch.tensor(given, dtype=torch.float64))
    check_choice("beta_schedule", schedule.get("beta_schedule"), SCHEDULES)
    steps, ends = (
        schedule.get("num_train_timesteps", 1000),
        (schedule.get("beta_start", 1e-4), schedule.get("beta_end", 0.02)),
    )
    check_count("num_train_timesteps", steps, least=2)
    if schedule["beta_schedule"] == "squaredcos_cap_v2":
        chain = CosineVPSDE().discretize(steps)
        assert isinstance(chain, TableChain)
        return TabulatedVP(chain.step_std**2)
    if schedule["beta_schedule"] == "linear":
        return TabulatedVP(torch.linspace(*ends, steps, dtype=torch.float64))
    return TabulatedVP(torch.linspace(ends[0] ** 0.5, ends[1] ** 0.5, steps, dtype=torch.float64) ** 2)


@prints_as_call
class TabulatedVP(ScalarSDE):
    """The variance-preserving process that interpolates a table.

    It satisfies alpha((i + 1) / N)^2 = prod_(j <= i) (1 - beta_j) and alpha(0) = 1. Between these times, ln alpha is a
    monotone cubic interpolation (Fritsch and Carlson 1980), whose slope, the drift coefficient, is continuous.

    Args:
        betas: The table, of shape (N,) with N >= 2 and values in (0, 1).
    """

    T = 1.0

    def __init__(self, betas: Tensor) -> None:
        check_finite("betas", betas[:, None])
        if len(betas) < 2 or not bool(((betas > 0.0) & (betas < 1.0)).all()):
            raise ValueError(f"betas from {float(betas.min()):g} to {float(betas.max()):g}: give two or more in (0, 1)")
        self.steps = len(betas)
        log_alphas = 0.5 * torch.log1p(-betas.to(torch.float64)).cumsum(0)
        knots = torch.linspace(0.0, 1.0, self.steps + 1, dtype=torch.float64)
        values = torch.cat((torch.zeros(1, dtype=torch.float64), log_alphas))
        self.cubics = torch.from_numpy(PchipInterpolator(knots.numpy(), values.numpy()).c)

    def _cubic(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients (4, ...) of the cubic at t, highest order first, and the position of t in its interval."""
        self.check_time(t)
        t = t.to(torch.float64).clamp(0.0, 1.0)
        k = (t * self.steps).floor().clamp(max=self.steps - 1)
        return self.cubics.to(t.device)[:, k.long()], t - k / self.steps

    def log_alpha(self, t: Tensor) -> Tensor:
        """ln alpha(t), float64."""
        (a, b, c, d), u = self._cubic(t)
        out: Tensor = ((a * u + b) * u + c) * u + d
        return out

    def alpha(self, t: Tensor) -> Tensor:
        return self.log_alpha(t).exp().to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        return _root_of_rest(self.log_alpha(t)).to(t.dtype)

    def drift_coefficient(self, t: Tensor) -> Tensor:
        (a, b, c, _), u = self._cubic(t)
        out: Tensor = ((3.0 * a * u + 2.0 * b) * u + c).to(t.dtype)
        return out

    def diffusion(self, t: Tensor) -> Tensor:
        return (-2.0 * self.drift_coefficient(t)).clamp(min=0.0).sqrt()

    def _transition(self, s: Tensor, t: Tensor) -> ScalarKernel:
        change = self.log_alpha(t) - self.log_alpha(s)
        return ScalarKernel(change.exp().to(t.dtype), _root_of_rest(change).to(t.dtype))

    def prior_std(self) -> float:
        """1: the limit of a longer table."""
        return 1.0

    def chain(self) -> Chain:
        """The chain of the table itself."""
        return self.discretize(self.steps)

    def discretize(self, steps: int) -> Chain:
        """The exact transitions between the times i / steps: the table for N steps, and a thinned table for fewer."""
        check_count("steps", steps, least=2)
        logs = self.log_alpha(torch.arange(steps + 1, dtype=torch.float64) / steps)
        change = logs.diff()
        return TableChain(
            self, steps, alpha=logs[1:].exp(), sigma=_root_of_rest(logs[1:]), step_a=change.exp(),
            step_std=_root_of_rest(change),
        )  # fmt: skip


def _root_of_rest(log_a: Tensor) -> Tensor:
    """sqrt(1 - a^2)."""
    return (-torch.expm1(2.0 * log_a)).clamp(min=0.0).sqrt()


@dataclass(frozen=True)
class IndexLabel:
    """The index in the table: that of the chain, or N t - 1 for its process, at least 0."""

    def __call__(self, sde: LinearSDE, t: Tensor) -> Tensor:
        """The label of t."""
        if isinstance(sde, Chain):
            assert isinstance(sde.sde, TabulatedVP)
            # for a chain with fewer steps, the position of its step in the table
            return ((sde.index(t) + 1) * (sde.sde.steps / sde.steps) - 1.0).to(t.dtype)
        assert isinstance(sde, TabulatedVP)
        return (t * sde.steps - 1.0).clamp(min=0.0)


def _current(name: str) -> str:
    """The current name of a weight. Attention layers had other names until 2023."""
    *path, layer, kind = name.split(".")
    return ".".join((*path, _OLD_NAMES.get(layer, layer) if "attentions" in path else layer, kind))


def _file(folder: str | Path, part: str, name: str) -> Path:
    places = [Path(folder) / name, Path(folder) / part / name]
    for place in places:
        if place.is_file():
            return place
    there = sorted(p.name for place in {p.parent for p in places} if place.is_dir() for p in place.iterdir())
    raise FileNotFoundError(
        f"no {name} in {str(folder)!r} or its folder {part}, which contain {there or 'no files'}; only weights in safetensors "
        "files are read, because other formats may execute code"
    )
