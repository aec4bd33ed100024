"""Models of diffusers: networks compared with those of diffusers, tables as processes, and what raises errors.

tests/data/diffusers/unets.npz holds outputs of diffusers' UNet2DModel with weights by the rule of the parity data, and tables of
its DDPMScheduler. Made, where diffusers is installed, by ``python -m tests.interop.test_diffusers``.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from scoresde import VPSDE, Exact, GaussianMixture, log_likelihood
from scoresde.interop.diffusers import IndexLabel, in_continuous_time, load, process_of
from scoresde.interop.unet2d import UNet2D, network_of
from scoresde.noise import NoiseSource
from scoresde.samplers import Ancestral, PredictorCorrector, ReferenceDiscretization
from scoresde.sde import CosineVPSDE, check
from scoresde.solvers import ScipyODE

from ..parity.test_networks import ruled

FILE = Path(__file__).resolve().parents[1] / "data" / "diffusers" / "unets.npz"
SMALL = {"sample_size": 8, "block_out_channels": [8, 16], "norm_num_groups": 4, "layers_per_block": 1}
NAMES = ["DownBlock2D", "AttnDownBlock2D"], ["AttnUpBlock2D", "UpBlock2D"]
UNETS = {
    "ddpm": {
        "down_block_types": NAMES[0], "up_block_types": NAMES[1], "attention_head_dim": None, "freq_shift": 1,
        "flip_sin_to_cos": False, "downsample_padding": 0, "norm_eps": 1e-6,
    },
    "classes": {
        "down_block_types": ["AttnDownBlock2D"] * 2, "up_block_types": ["AttnUpBlock2D"] * 2, "attention_head_dim": 4,
        "num_class_embeds": 5, "layers_per_block": 2, "mid_block_scale_factor": 1.4, "center_input_sample": True,
    },
    "plain": {
        "block_out_channels": [7, 12, 16], "norm_num_groups": 1, "down_block_types": ["DownBlock2D"] * 3,
        "up_block_types": ["UpBlock2D"] * 3, "add_attention": False, "time_embedding_dim": 20, "in_channels": 1,
        "out_channels": 1,
    },
    "groups": {"down_block_types": NAMES[0], "up_block_types": NAMES[1], "attn_norm_num_groups": 2},
}  # fmt: skip
SCHEDULES = {
    "linear": {"beta_schedule": "linear", "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02},
    "scaled": {"beta_schedule": "scaled_linear", "num_train_timesteps": 100, "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 50},
    "trained": {"trained_betas": [0.1, 0.2, 0.05], "num_train_timesteps": 3},
}
BEYOND = {
    "down_block_types": ["SkipDownBlock2D", "AttnSkipDownBlock2D"], "up_block_types": ["AttnSkipUpBlock2D", "SkipUpBlock2D"],
    "time_embedding_type": "fourier", "block_out_channels": [32, 32],
}  # fmt: skip


def data():
    with np.load(FILE) as file:
        return {key: torch.from_numpy(file[key]) if file[key].ndim else str(file[key]) for key in file.files}


def with_rule(network):
    network.load_state_dict({n: ruled(n, tuple(w.shape), 1.0) for n, w in network.state_dict().items()})
    return network.eval()


def given(config):
    """Input, labels and condition."""
    shape = (3, config.get("in_channels", 3), 8, 8)
    x = NoiseSource.of(5, 3).normal(shape[1:], step=0, purpose="x", dtype=torch.float32)
    classes = {"class_labels": torch.tensor([0, 4, 2])} if "num_class_embeds" in config else {}
    return x, torch.tensor([0.0, 10.0, 999.0]), classes


@pytest.mark.parametrize("name", UNETS)
def test_outputs_agree_with_diffusers(name, worst):
    config, found = SMALL | UNETS[name], data()
    network = network_of(config)
    assert type(network) is UNet2D
    shapes = [[n, list(w.shape)] for n, w in network.state_dict().items()]
    assert sorted(shapes) == sorted(json.loads(found[f"{name}/shapes"]))
    x, labels, classes = given(config)
    with torch.no_grad():
        off = float((with_rule(network)(x, labels, **classes) - found[f"{name}/out"]).abs().max())
    worst("UNet2DModel", off)
    assert off < 2e-5 < 1e-3 * float(found[f"{name}/out"].std())


@pytest.mark.parametrize("name", SCHEDULES)
def test_tables_are_diffusers(name):
    """alpha^2 of chain and process against diffusers' alphas_cumprod, which is float32."""
    process, wanted = process_of(SCHEDULES[name]), data()[f"{name}/alphas_cumprod"].double()
    n = len(wanted)
    chain = process.chain()
    assert process.steps == chain.steps == n and torch.equal(
        chain.time(torch.tensor(n - 1)), torch.tensor(1.0).double()
    )
    i = torch.arange(n)
    for found in (chain.alpha(chain.time(i)), process.alpha((i + 1).double() / n)):
        assert torch.allclose(found**2, wanted, rtol=1e-4, atol=1e-7)
    t = chain.time(i)
    assert torch.allclose(chain.alpha(t) ** 2 + chain.sigma(t) ** 2, torch.ones(n).double(), atol=1e-12)
    kernel = chain.step(t)
    assert torch.allclose(kernel.a.cumprod(0), chain.alpha(t), rtol=1e-10)
    assert torch.allclose(kernel.a**2 + kernel.std**2, torch.ones(n).double(), atol=1e-12)


def test_processes_that_have_these_schedules():
    """VP for the linear one and the cosine process, to the order 1/N of the table; refined, twice as near."""
    t = torch.linspace(0.01, 0.98, 50, dtype=torch.float64)
    errors = []
    for n in (500, 1000):
        linear = process_of(
            {"beta_schedule": "linear", "num_train_timesteps": n, "beta_start": 0.1 / n, "beta_end": 20 / n}
        )
        errors.append(float((linear.log_alpha(t) - VPSDE().alpha(t).log()).abs().max()))
    assert errors[1] < 0.06 and 1.8 < errors[0] / errors[1] < 2.2
    cosine = process_of({"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000})
    assert torch.allclose(cosine.alpha(t), CosineVPSDE().alpha(t), atol=1e-5)


def test_a_tabulated_process_is_a_process():
    """Drift and diffusion are those of its kernels; transitions compose; a density comes back under its flow."""
    process = process_of(SCHEDULES["scaled"])
    t = torch.tensor([0.003, 0.1049, 0.505, 0.9999], dtype=torch.float64)
    h = 1e-5
    slope = (process.log_alpha(t + h) - process.log_alpha(t - h)) / (2 * h)
    assert torch.allclose(process.drift_coefficient(t), slope, rtol=1e-6)
    assert torch.allclose(process.diffusion(t) ** 2, -2.0 * slope, rtol=1e-6)
    assert float(process.alpha(t[:0].new_zeros(()))) == 1.0 and float(process.sigma(t[:0].new_zeros(()))) == 0.0
    first, second = process.transition(t[:-1], t[1:]), process.kernel(t[:-1])
    assert torch.allclose(first.a * second.a, process.alpha(t[1:]), rtol=1e-12)
    assert torch.allclose((first.a * second.std).hypot(first.std), process.sigma(t[1:]), rtol=1e-10)
    assert torch.allclose(process.discretize(10).alphas, process.alpha(torch.arange(1, 11).double() / 10), rtol=1e-12)
    # data N(m, I): the flow moves every point by (alpha(1) - 1) m, and volumes not at all
    mean = torch.tensor([[0.5, -0.3]], dtype=torch.float64)
    mixture, x = GaussianMixture(mean, torch.tensor(1.0)), torch.tensor([[0.0, 0.0], [1.0, -2.0]], dtype=torch.float64)
    found = log_likelihood(
        process, mixture.score(process), x, divergence=Exact(), solver=ScipyODE(rtol=1e-7, atol=1e-7), t_min=0.0
    )
    end = x + (float(process.alpha(t.new_ones(()))) - 1.0) * mean
    assert torch.allclose(found.log_prob, process.prior_log_prob(end), atol=1e-5)
    assert float((process.prior_log_prob(x) - process.prior_log_prob(end)).abs().max()) > 0.05


@pytest.mark.long
def test_a_tabulated_process_passes_the_self_check():
    assert check(process_of(SCHEDULES["linear"])).passed


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        ({"beta_schedule": "sigmoid"}, r"beta_schedule='sigmoid' is not known"),
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_max": 1348.0}, "beta_schedule=None is not known"),
        ({"beta_schedule": "linear", "num_train_timesteps": 1}, "num_train_timesteps=1"),
        ({"beta_schedule": "linear", "beta_end": 1.0}, r"betas from 0.0001 to 1: give two or more in \(0, 1\)"),
        ({"beta_schedule": "linear", "rescale_betas_zero_snr": True}, "the last step contains no data"),
        ({"trained_betas": [0.1, math.nan]}, "betas holds non-finite values"),
    ],
)
def test_schedules_that_are_none_are_refused(schedule, why):
    with pytest.raises(ValueError, match=why):
        process_of(schedule)


def written(place, name="ddpm", inside=True, rename=lambda n: n, **schedule):
    """A folder as diffusers writes it."""
    config = SMALL | UNETS[name]
    parts = {p: place / p if inside else place for p in ("unet", "scheduler")}
    for part in parts.values():
        part.mkdir(parents=True, exist_ok=True)
    network = with_rule(UNet2D(config))
    state = {rename(n): w.contiguous() for n, w in network.state_dict().items()}
    save_file(state, parts["unet"] / "diffusion_pytorch_model.safetensors")
    (parts["unet"] / "config.json").write_text(
        json.dumps({"_class_name": "UNet2DModel", "_diffusers_version": "0"} | config)
    )
    (parts["scheduler"] / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "DDPMScheduler"} | SCHEDULES["linear"] | schedule)
    )
    return network


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_a_folder_is_a_model(tmp_path, kind, inside):
    """The score by hand at steps of the chain, and at the same noise in continuous time; then samples."""
    network = written(tmp_path, inside=inside, prediction_type=kind)
    model = load(tmp_path)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    x, _, _ = given(SMALL)
    i, n = torch.tensor([0, 400, 999]), 1000
    alpha, sigma = (v.float().reshape(3, 1, 1, 1) for v in (model.sde.alphas[i], model.sde.sigmas[i]))
    with torch.no_grad():
        out = network(x, i.float())
        score = {
            "epsilon": -out / sigma,
            "sample": (alpha * out - x) / sigma**2,
            "v_prediction": -(alpha * out + sigma * x) / sigma,
        }[kind]
        on_chain = model(x, model.sde.time(i).float())
        between = in_continuous_time(model)(x, (i + 1).float() / n)
    assert torch.allclose(on_chain, score, rtol=1e-4, atol=1e-4)
    # float32 times: the label is known to 1e-4 of a step
    assert float((between - score).abs().max()) < 2e-3 * float(score.abs().max())
    sampler = PredictorCorrector(Ancestral(), steps=ReferenceDiscretization(5))
    assert torch.isfinite(sampler(model.sde, model, (2, 3, 8, 8), seed=0).samples).all()
    later = in_continuous_time(model)
    sampler = PredictorCorrector(steps=5)
    assert torch.isfinite(sampler(later.sde, later, (2, 3, 8, 8), seed=0).samples).all()


def test_labels():
    """The index of the table, on its chain, on a thinned chain, and on the process at the times of the table."""
    process, label = process_of(SCHEDULES["scaled"]), IndexLabel()
    i = torch.arange(100)
    assert torch.equal(label(process.chain(), process.chain().time(i)), i.double())
    assert torch.allclose(label(process, (i + 1).double() / 100), i.double())
    assert float(label(process, torch.tensor(0.0))) == 0.0
    thin = process.discretize(10)
    assert label(thin, thin.time(torch.arange(10))).tolist() == list(range(9, 100, 10))


def test_classes_and_old_names(tmp_path):
    """Files from before 2023 call attention's layers otherwise."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(name):
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        return name

    network = written(tmp_path, "classes", rename=rename)
    model = load(tmp_path)
    x, _, classes = given(SMALL | UNETS["classes"])
    t = model.sde.time(torch.tensor([3, 3, 3])).float()
    with torch.no_grad():
        wanted = -network(x, torch.full((3,), 3.0), **classes) / float(model.sde.sigmas[3])
        assert torch.allclose(model(x, t, **classes), wanted, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(model(x, t, class_labels=torch.zeros(3, dtype=torch.int64)), wanted, atol=1e-3)
    with pytest.raises(ValueError, match="class_labels are required if the network has classes"):
        model(x, t)


def test_what_is_missing_or_does_not_fit_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no diffusion_pytorch_model\.safetensors .*which contain no files"):
        load(tmp_path)
    written(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"does not fit its config\.json"):
        load(tmp_path)
    save_file({"conv_in.weight": torch.ones(3)}, weights)
    with pytest.raises(ValueError, match=r"does not fit its config\.json"):
        load(tmp_path)
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(FileNotFoundError, match=r"'diffusion_pytorch_model\.bin', .* may execute code"):
        load(tmp_path)
    with pytest.raises(ValueError, match="describes a UNet2DConditionModel"):
        network_of({"_class_name": "UNet2DConditionModel"})
    with pytest.raises(ValueError, match="learn a variance"):
        network_of({"in_channels": 3, "out_channels": 6})
    with pytest.raises(ValueError, match=r"H and W multiples of 2"):
        UNet2D(SMALL | UNETS["ddpm"])(torch.zeros(1, 3, 7, 8), torch.zeros(1))


def test_other_networks_ask_for_diffusers(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(
        ImportError, match=r"down_block_types=\['SkipDownBlock2D'.* needs diffusers itself: pip install"
    ):
        network_of(SMALL | BEYOND)


def test_keys_that_are_not_known_ask_for_diffusers(monkeypatch):
    """A setting of a later version may change what the network computes."""
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"heads_of_a_later_version=3 needs diffusers itself"):
        network_of(SMALL | UNETS["ddpm"] | {"heads_of_a_later_version": 3})
    network_of(SMALL | UNETS["ddpm"] | {"later": None, "_diffusers_version": "0.42.1", "num_train_timesteps": 9})


def test_other_networks_are_diffusers():
    theirs = pytest.importorskip("diffusers").UNet2DModel(**SMALL | BEYOND).eval()
    network = network_of(SMALL | BEYOND)
    network.load_state_dict(theirs.state_dict(), strict=True)
    x, _, _ = given({})
    with torch.no_grad():
        label = torch.tensor([0.1, 1.0, 9.0])
        assert torch.equal(network(x, label), theirs(x, label, return_dict=False)[0])


def remake():
    from diffusers import DDPMScheduler, UNet2DModel

    found = {}
    for name, config in UNETS.items():
        network = with_rule(UNet2DModel(**SMALL | config))
        x, labels, classes = given(config)
        with torch.no_grad():
            found[f"{name}/out"] = network(x, labels, return_dict=False, **classes)[0].numpy()
        found[f"{name}/shapes"] = json.dumps([[n, list(w.shape)] for n, w in network.state_dict().items()])
    for name, schedule in SCHEDULES.items():
        found[f"{name}/alphas_cumprod"] = DDPMScheduler(**schedule).alphas_cumprod.numpy()
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    remake()
