r"""Particles: samples of a posterior that are exact in the limit of many particles (twisted sequential Monte Carlo).

A stochastic predictor has the reverse kernels p(x_s | x_t) = N(m(x_t), L L^T). The target is their path measure, times the
likelihood of the data:

.. math::
    \pi(x_{T:0}) \propto p(x_T) \prod_{t} p(x_s \mid x_t) \; p(y \mid x_0)

Guidance gives potentials psi_t(x_t), which approximate p(y | x_t), and directions g(x_t), which approximate their gradients.
The proposal is the reverse kernel times exp(w g^T x_s), which is N(m + L L^T w g, L L^T). K particles start with the weights
psi_T(x_T). A step from t to s multiplies them by

.. math::
    \frac{\psi_s(x_s)}{\psi_t(x_t)} \exp(-z^T u - \tfrac{1}{2} u^T u), \qquad u = w L^T g, \qquad x_s = m + L (z + u)

and the last step has p(y | x_0) in place of psi_s. The exponential is the ratio of reverse kernel and proposal. So the product
of all factors is the target, whatever potentials and directions are: they change the number of particles that a given accuracy
needs, and not the limit. Particles are resampled where their weights are uneven. For `ReverseDiffusion` and `EulerMaruyama` the
proposal is the step with the guided score. (Wu et al. 2023, "Practical and asymptotically exact conditional sampling in
diffusion models", arXiv:2306.17775.)

The limit is the posterior under the distribution of samples that the predictor draws without guidance with the same steps. This
differs from the data by the errors of the steps and of the score, which are smaller with more steps and a better score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_count, check_number, expand, shown
from scoresde.conditions import given, rows_of
from scoresde.noise import NoiseSource
from scoresde.operators.linear_systems import dot
from scoresde.samplers.arguments import check_start, whole_shape
from scoresde.samplers.base import Callback, CountedScore, SampleResult
from scoresde.samplers.discretization import Grid, Steps
from scoresde.samplers.grid_sampler import Model
from scoresde.samplers.grids import uniform
from scoresde.samplers.instants import Interval
from scoresde.samplers.populations import Weights
from scoresde.samplers.predictor_corrector.predictors import Ancestral, Predictor, ReverseSteps
from scoresde.samplers.reverse_kernels import ReverseKernel, check_predictor, reverse_kernels
from scoresde.sde import SDE, LinearSDE
from scoresde.sde.scores import evaluation_mode

LogLikelihood = Callable[[Tensor], Tensor]


class ParticleSampler(ReverseSteps):
    """Twisted sequential Monte Carlo: samples of a posterior, exact in the limit of many particles.

    Each of B samples has its own population of K particles, so a run evaluates the score for B K rows. The result has one
    particle of each population, drawn by weight. ``result.particles`` has them all, with their weights and an estimate of
    log p(y) (:class:`~scoresde.samplers.populations.Particles`). Conditions and measurements are repeated for the particles.
    Callback and trajectory get the states of all particles, (B K, *state). Sample i depends only on ``(seed, first + i)``,
    up to rounding: where a difference of rounding decides which particle is drawn, another one may be returned.

    The score is a guidance with a log potential: ``ClassifierGuidance``, ``TaskGuidance``, a guidance by a measurement, or a
    subclass of yours. With its weight w and interval the target stays p(x_0) p(y | x_0): they change the proposal only. A
    score that is not guided needs ``log_likelihood``. Then all weights are equal until the last step, and many more particles
    are needed.

    Args:
        particles: Number K of particles of a sample.
        steps: Number of steps N, each with one evaluation of the score; N + 1 descending times; or a
            ``ReferenceDiscretization``.
        predictor: A predictor that adds noise, with the default grid: ``Ancestral``, ``ReverseDiffusion``,
            ``EulerMaruyama``, or ``DDIM(eta=1.0)``. For processes without scalar coefficients ``Ancestral`` or
            ``ReverseDiffusion``.
        log_likelihood: A function x_0 -> (rows,) that returns log p(y | x_0) in nats. None for that of the guidance,
            ``guidance.data_log_likelihood``.
        threshold: Particles are resampled where their effective number is below ``threshold`` K. 0 never resamples.
        grid: Function of ``scoresde.samplers.grids`` that makes the times.
        t_min: Last time. None takes the process's own ``t_min`` if it has one, else 1e-3.
        denoise: Whether x_0 is the mean of the last step instead of a state with its noise.

    Raises:
        TypeError: If the predictor does not add noise; when called, if the score has no potential and there is no
            ``log_likelihood``.
        FloatingPointError: When called, if all particles of a sample have the weight 0, or one that is not a number.

    References:
        Wu et al. 2023, "Practical and asymptotically exact conditional sampling in diffusion models", arXiv:2306.17775.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, VPSDE
        >>> from scoresde.guidance import TweedieMoments
        >>> prior = GaussianMixture([[0.0, 0.0], [1.0, 2.0]], 0.5).score(VPSDE())
        >>> guided = TweedieMoments(prior, lambda x: x[:, :1], torch.tensor([[0.5]]), noise_std=0.2)
        >>> result = ParticleSampler(particles=50, steps=20)(VPSDE(), guided, (3, 2))
        >>> result.samples.shape, result.particles.log_weights.shape
        (torch.Size([3, 2]), torch.Size([3, 50]))
    """

    def __init__(
        self,
        particles: int = 64,
        steps: Steps = 100,
        predictor: Predictor = Ancestral(),  # noqa: B008  (frozen)
        *,
        log_likelihood: LogLikelihood | None = None,
        threshold: float = 0.5,
        grid: Grid = uniform,
        t_min: float | None = None,
        denoise: bool = True,
    ) -> None:
        check_count("particles", particles)
        check_number("threshold", threshold, least=0.0, most=1.0)
        check_predictor(predictor)
        if log_likelihood is not None and not callable(log_likelihood):
            raise TypeError(f"log_likelihood={shown(log_likelihood)} cannot be called: give a function x_0 -> (B,)")
        self.particles, self.predictor, self.threshold = particles, predictor, threshold
        self.log_likelihood = log_likelihood
        self.set_grid(steps, grid, t_min, denoise=denoise)

    differentiable = False  # resampling has no derivative
    takes_hooks = False  # a hook would change the distribution that the weights correct
    needs_standard_normals = True  # the weights have their density

    @property
    def prior(self) -> Predictor:
        """The predictor with the same steps. Its samples, for the score without guidance, are the prior of the target."""
        changes = {"steps": self.steps, "grid": self.grid, "t_min": self.t_min, "denoise": self.denoise}
        return replace(self.predictor, **changes)  # type: ignore[arg-type]

    @property
    def parts(self) -> tuple[Predictor, None]:
        """The predictor, and no corrector."""
        return self.predictor, None

    @property
    def stochastic(self) -> bool:
        """True."""
        return True

    def __call__(
        self,
        sde: SDE,
        score: Callable[..., Tensor],
        shape: Sequence[int],
        *,
        condition: Mapping[str, Any] | None = None,
        seed: int = 0,
        first: int = 0,
        noise: NoiseSource | None = None,
        start: Tensor | None = None,
        device: torch.device | str | None = None,
        allow_failed: bool = False,
        **options: Any,
    ) -> SampleResult:
        """Draw samples of the posterior. Arguments and result are those of every sampler; ``result.particles`` is set.

        All particles of a sample begin at its ``start``, if it is given.
        """
        shape = whole_shape(shape)
        batch, event = shape[0], shape[1:]
        process = self.process(sde)
        if start is not None:
            check_start(sde, start, shape)
        device = device if start is None else start.device
        noise = NoiseSource.for_batch(noise, batch, seed, first, device)
        if not noise.standard_normals:
            raise ValueError(
                f"noise is a {type(noise).__name__}, and the weights of particles need standard normals: give a NoiseSource"
            )
        rows = torch.arange(batch, device=device).repeat_interleave(self.particles)
        places = torch.arange(self.particles, device=noise.indices.device)
        own = replace(noise, indices=(noise.indices[:, None] * self.particles + places).flatten())
        score = given(score, condition)
        self.check_score(sde, score)
        check_rows(process, score, batch, event, noise)
        result = super().__call__(
            sde, rows_of(score, rows), (len(rows), *event), noise=own, start=None if start is None else start[rows],
            device=device, allow_failed=True, **options,
        )  # fmt: skip
        found = result.particles
        assert found is not None
        u = noise.uniform((), step=0, purpose="particle of the sample", dtype=torch.float64).to(found.log_weights)
        chosen = torch.searchsorted(found.log_weights.exp().cumsum(1), u[:, None])[:, 0].clamp(max=self.particles - 1)
        chosen = chosen + self.particles * torch.arange(batch, device=chosen.device)
        lost = result.failed.reshape(batch, -1).any(1) | torch.isnan(found.log_weights.sum(1))
        if not allow_failed:
            check_weights(lost, noise)
        return replace(
            result, samples=result.samples[chosen], state=result.state[chosen], first=int(noise.indices[0]), failed=lost,
            spent=result.spent[:batch],
        )  # fmt: skip

    def check_score(self, sde: SDE, score: Callable[..., Tensor]) -> None:
        """Check that there is something to weight particles with.

        Args:
            sde: The process of the score.
            score: The score of a call.

        Raises:
            TypeError: If the score is a guidance without a log potential, or not a guidance, and there is no ``log_likelihood``.
            ValueError: If the variance of the predictor was measured with another process or other weights.
        """
        super().check_score(sde, score)
        guided = hasattr(score, "terms")
        if not getattr(score, "has_log_potential", guided) and (guided or self.log_likelihood is None):
            other = "" if guided else ", or log_likelihood= to ParticleSampler"
            raise TypeError(
                f"score={shown(score)} has no log potential to weight particles with: give a guidance that has one, such as "
                f"ClassifierGuidance, TaskGuidance or TweedieMoments{other}"
            )

    def run(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        weights = Weights(len(x) // self.particles, self.particles, x.device)
        populations = replace(noise, indices=noise.indices[:: self.particles])
        times, kernels = reverse_kernels(self.predictor, sde, self.discretization, x)
        draws = noise.normals(x.shape[1:], steps=range(len(kernels)), purpose="particles", dtype=x.dtype)
        likelihood = self._data_log_likelihood(sde, score, kernels[-1])
        likelihood(x)  # what cannot be computed is an error before the first step
        before, ended = x.new_zeros(len(x)), False
        try:
            for k, (kernel, z) in enumerate(zip(kernels, draws, strict=True)):
                value, direction, potential = _terms(score, x, kernel.time)
                weights.multiply(potential - before)
                before = potential
                if self.denoise and k + 1 == len(kernels):
                    weights.measure()
                    x = kernel.mean(x, value)
                else:
                    rows = weights.resample(self.threshold, populations, k)
                    if rows is not None:
                        x, value, direction, before = (each[rows] for each in (x, value, direction, before))
                    x = kernel.mean(x, value)
                    u = kernel.transposed(direction)
                    x = x + kernel.scale(z + u)
                    weights.multiply(-inner(z + 0.5 * u, u))
                callback(k + 1, kernel.end, x)
            weights.multiply(likelihood(x) - before)
            weights.measure()
            ended = True
        finally:
            score.particles = weights.record(x, complete=ended)
        return x, times

    def run_maps(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        return self.run(sde, score, x, noise, callback)

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        """The step of the predictor, without weights."""
        return self.predictor.step(model, x, interval, z, past)

    def _data_log_likelihood(self, sde: LinearSDE, score: CountedScore, last: ReverseKernel) -> LogLikelihood:
        """The function of states x at the last time that returns log p(y | x_0)."""
        end = last.end.expand(last.time.shape)
        if self.log_likelihood is None:
            own = score.score.data_log_likelihood  # type: ignore[attr-defined]
            found: LogLikelihood = lambda x: own(x, end)  # noqa: E731
        else:
            rows = torch.arange(len(end) // self.particles, device=end.device).repeat_interleave(self.particles)
            found = rows_of(self.log_likelihood, rows)

        def value(x: Tensor) -> Tensor:
            return checked_log("log_likelihood", found(sde.extract_data(x)), x)

        return value


def _terms(score: CountedScore, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The score, what guidance adds to it, and the log potential: zeros for a score that is not guided."""
    guided: Any = score.score
    if not hasattr(guided, "terms"):
        return score(x, t), torch.zeros_like(x), x.new_zeros(len(x))
    found: list[list[Tensor]] = []

    def function(x: Tensor, t: Tensor) -> Tensor:
        value: Tensor
        value, *others = guided.terms(x, t)
        found.append(others)
        return value

    value = score.evaluate(function, x, t, "score")
    direction, potential = found[0]
    return value, (expand(guided.weight_at(t), x) * direction).to(x.dtype), checked_log("log_potential", potential, x)


def checked_log(name: str, value: object, x: Tensor) -> Tensor:
    """A logarithm for each row of x, in float64. Raises ValueError for another shape."""
    if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
        raise ValueError(f"{name} returned {shown(value)} for a batch of {len(x)}: return a tensor ({len(x)},)")
    return value.double()


def inner(a: Tensor, b: Tensor) -> Tensor:
    """a^T b for each row, in float64."""
    return dot(a.double(), b.double())


def check_weights(lost: Tensor, noise: NoiseSource) -> None:
    """Raise FloatingPointError with the indices of the samples whose particles have no weights, (B,)."""
    if bool(lost.any()):
        bad = noise.indices[lost.to(noise.indices.device)].tolist()
        raise FloatingPointError(
            f"the particles of {len(bad)} of {len(lost)} samples, with indices {bad[:8]}, have no weights: the likelihood of all "
            "of them is 0, or the score or a potential is not finite. Give more particles, more steps or a wider likelihood; "
            "allow_failed=True returns the others"
        )


def check_rows(
    sde: LinearSDE, score: Callable[..., Tensor], batch: int, event: Sequence[int], like: NoiseSource
) -> None:
    """Raise an error if the conditions of a score do not have one row for each of B samples."""
    if rows_of(score, torch.zeros(1, dtype=torch.int64)) is score:
        return  # no rows
    x = torch.zeros(batch, *sde.state_shape(event), device=like.indices.device)
    with evaluation_mode(score):
        getattr(score, "terms", score)(x, torch.full((batch,), sde.T, device=x.device))
