"""Measurements of photograph patches, estimates without a network, and figures of merit, for photo_restoration.py.

Images are (n, 3, 32, 32) with values in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from scoresde.operators import Blur, Mask, SuperResolution

SIDE, NOISE, BLUR = 32, 0.05, 1.5


@dataclass(frozen=True)
class Task:
    """A measurement y = A x + noise: its name, the function A, and the known pixels (SIDE, SIDE) if it is inpainting."""

    name: str
    operator: Callable[[Tensor], Tensor]
    known: Tensor | None = None

    def measure(self, x: Tensor, seed: int) -> Tensor:
        """Measurements of images, with noise. Missing pixels are 0."""
        y = self.operator(x)
        noise = NOISE * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))
        return y + (noise if self.known is None else noise * self.known)


def tasks() -> dict[str, Task]:
    """All tasks by the name on the command line."""
    box, pixels = torch.ones(SIDE, SIDE), torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(0)) < 0.5
    box[8:24, 8:24] = 0.0
    return {
        "sr2": Task("super-resolution x2", SuperResolution(2)),
        "sr4": Task("super-resolution x4", SuperResolution(4)),
        "box": Task("inpainting, box 16x16", Mask(box), box),
        "pixels": Task("inpainting, 50 % of the pixels", Mask(pixels), pixels.float()),
        "blur": Task("deblurring", Blur(BLUR)),
    }


def kernel() -> np.ndarray:
    """The kernel of the blur, 13 x 13 pixels."""
    along = np.exp(-0.5 * (np.arange(-6.0, 7.0) / BLUR) ** 2)
    weights = along[:, None] * along
    return np.asarray(weights / weights.sum())


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (*event) and the covariance (d, d) of images and their mirror images, in float64."""
    flat = torch.cat((x, x.flip(-1))).flatten(1)
    return flat.mean(0).double().reshape(x.shape[1:]), torch.cov(flat.T).double()


class Linear:
    """The best linear estimate from a measurement, for data of a mean and covariance."""

    def __init__(self, mean: Tensor, covariance: Tensor, task: Task) -> None:
        self.task, self.mean, event = task, mean, mean.shape

        def measured(rows: Tensor) -> Tensor:
            """A applied to each row, in pieces that need little memory."""
            return torch.cat([task.operator(part.reshape(-1, *event)).flatten(1) for part in rows.split(256)])

        cross = measured(covariance)  # C A^T
        seen = measured(cross.T)  # A C A^T
        self.gain = torch.linalg.solve(seen + NOISE**2 * torch.eye(len(seen), dtype=torch.float64), cross.T).T
        self.std = (covariance.diagonal() - (self.gain * cross).sum(1)).clamp(min=0.0).sqrt().reshape(event)

    def __call__(self, y: Tensor) -> Tensor:
        """The estimate, which is the posterior mean of Gaussian data."""
        off = y.double() - self.task.operator(self.mean[None])
        return self.mean + (off.flatten(1) @ self.gain.T).reshape(-1, *self.mean.shape)


def classical(task: Task, truth: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Usual methods without a model. The parameters of the deconvolutions are the best ones for training patches ``truth``."""
    from skimage.restoration import inpaint_biharmonic, richardson_lucy, wiener

    if task.name.startswith("super"):
        return {
            mode: lambda y, mode=mode: nnf.interpolate(y, size=(SIDE, SIDE), mode=mode)  # type: ignore[misc]
            for mode in ("nearest", "bicubic")
        }
    if task.known is not None:
        missing = (task.known == 0).numpy()
        return {"biharmonic": lambda y: each(y, lambda channel: inpaint_biharmonic(channel, missing))}
    psf, y = kernel(), task.measure(truth, seed=1)
    wieners = [
        lambda y, b=b: each(y, lambda channel: wiener(channel, psf, b, clip=False)) for b in (0.01, 0.03, 0.1, 0.3, 1.0)
    ]
    richardsons = [
        lambda y, n=n: each(y, lambda channel: richardson_lucy(np.clip(channel, 1e-3, 1), psf, n))
        for n in (3, 5, 10, 20)
    ]
    best = [max(family, key=lambda f: float(psnr(f(y), truth).mean())) for family in (wieners, richardsons)]
    return dict(zip(("Wiener", "Richardson-Lucy"), best, strict=True))


def each(y: Tensor, function: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """A function of gray images in [0, 1], applied to each channel of images in [-1, 1]."""
    channels = (0.5 * (y.double() + 1.0)).flatten(0, 1).numpy()
    return 2.0 * torch.from_numpy(np.stack([function(channel) for channel in channels])).reshape(y.shape) - 1.0


def psnr(x: Tensor, truth: Tensor, task: Task | None = None) -> Tensor:
    """PSNR in dB of each image, after pixels outside of the range are set to its ends; of the missing pixels in inpainting."""
    square = (x.double().clamp(-1.0, 1.0) - truth.double()).square()
    if task is not None and task.known is not None:
        square = square[..., task.known == 0]
    return 10.0 * torch.log10(4.0 / square.flatten(1).mean(1))


def ssim(x: Tensor, truth: Tensor) -> float:
    """The mean structural similarity of images, after pixels outside of the range are set to its ends."""
    from skimage.metrics import structural_similarity

    pairs = zip(x.double().clamp(-1.0, 1.0).numpy(), truth.double().numpy(), strict=True)
    return float(
        np.mean(
            [
                structural_similarity(
                    a, b, channel_axis=0, data_range=2.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
                )
                for a, b in pairs
            ]
        )
    )


def coverage(samples: Tensor, truth: Tensor, nominal: int) -> float:
    """The share (%) of truths inside the central interval of nominal coverage (%) between two order statistics of samples.

    With S samples, the interval from x(k) to x(S + 1 - k) has the coverage (S + 1 - 2k) / (S + 1) for exchangeable values.

    Args:
        samples: (S, ...).
        truth: (...).
        nominal: A coverage for which k is a whole number.
    """
    k = (len(samples) + 1) * (100 - nominal) / 200
    if k != int(k) or k < 1:
        raise ValueError(f"{len(samples)} samples have no interval of coverage {nominal} %: use 19 samples, or 39, ...")
    ordered = samples.sort(0).values
    inside = (truth >= ordered[int(k) - 1]) & (truth <= ordered[-int(k)])
    return 100.0 * float(inside.double().mean())
