"""Linear processes with arbitrary matrix coefficients over the first dimension of the state.

The state has k components: the data and k - 1 auxiliary components. At t = 0 the auxiliary components are
N(0, aux_std^2 I), and are marginalized::

    dx = [F(t) x + c(t)] dt + G(t) dw

F, G and c are the same for all coordinates, or with a basis, there is one of each for every mode. Between two times
x_t | x_s ~ N(Phi(t, s) x_s + m(t, s), C(t, s)) with::

    d Phi(t, r) / dr = -Phi(t, r) F(r),  Phi(t, t) = I        C(t, s) = int_s^t Phi(t, r) G G^T(r) Phi(t, r)^T dr
                                                              m(t, s) = int_s^t Phi(t, r) c(r) dr

For a short interval [s, t] they are computed by Gauss collocation at m = 6 points r_j, an implicit Runge-Kutta method
of order 12. One linear system gives Psi_j = Phi(t, r_j). With weights b_j and h = t - s::

    Phi(t, s) = I + h sum_j b_j Psi_j F(r_j)        C(t, s) = M M^T,   M = [sqrt(h b_j) Psi_j G(r_j)]_j
    m(t, s) = h sum_j b_j Psi_j c(r_j)

The root L of C is the triangular factor of M^T = QR. C itself is never computed, so L L^T is positive semi-definite,
and a component that receives noise only through others keeps its relative accuracy down to the shortest step. [0, T] is
divided into cells once, which are halved until one step over a cell agrees with two steps over its halves. Kernels over
several cells are compositions, Phi = Phi_2 Phi_1, where L is the triangular factor of [Phi_2 L_1, L_2]. Nothing is
subtracted and no Phi is inverted (int_0^t Phi^-1 G G^T Phi^-T needs the inverse, and fails if the decay rates of the
modes differ strongly).

Constant or commuting F are no special cases. F, G and c must be smooth on [0, T], except for jumps at multiples
of T / 2^n, n <= 12.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoresde._validation import check_count, check_number, expand
from scoresde.noise import NoiseSource
from scoresde.sde.linalg.basis import Basis
from scoresde.sde.linalg.kernel import GaussianKernel, MapKernel, ShiftedKernel, standard_normal_log_prob
from scoresde.sde.linalg.maps import BlockMap
from scoresde.sde.linear import LinearSDE

MatrixOfTime = Callable[[Tensor], Tensor]
"""Function of float64 times ``(*t)`` to ``(*t, k, k)``, or ``(*t, *event, k, k)`` with a basis; ``(*t, k)`` for a shift."""

_POINTS = 6
_MOST_CELLS = 4096


class MatrixSDE(LinearSDE):
    r"""Process with matrix coefficients, whose kernels are computed by numerical integration.

    .. math::
        dx = [F(t) x + c(t)]\, dt + G(t)\, dw, \qquad x_t \mid x_s \sim N(\Phi(t, s) x_s + m(t, s), C(t, s))

    The state of an event has the shape ``(k, *event)``. The module docstring has the equations of Phi, m and C.

    Args:
        drift: F, a function of float64 times ``(*t)`` that returns ``(*t, k, k)`` and is smooth on [0, T], or a
            constant ``(k, k)``.
        diffusion: G, of the same kind.
        shift: c, a function of times ``(*t)`` that returns ``(*t, k)``, the same for all coordinates, or a constant
            ``(k,)``. None: 0.
        basis: Orthonormal basis of the event. Then F, G and c are those of its modes, ``(*t, *event, k, k)`` and
            ``(*t, *event, k)``. Dimensions of size 1, or no event dimensions, mean that the modes have the same
            coefficients. A kernel then costs a linear solve with 6 k unknowns for each mode and time.
        aux_std: Standard deviation of the auxiliary components at t = 0, > 0: one number, or k - 1 of them.
        data_component: Index of the component with the data, in 0 .. k - 1.
        prior_covariance: Covariance of the prior, ``(k, k)`` positive definite, or one for each mode. None: that of the
            kernel at T. The mean of the prior is m(T, 0).
        T: The last time, > 0.
        tolerance: Relative error of the kernel over a cell, > 0.

    Raises:
        ValueError: If an argument has a wrong shape or value, or if F, G or c are not smooth enough to reach
            ``tolerance`` with 4096 cells.
    """

    def __init__(
        self,
        drift: MatrixOfTime | Tensor,
        diffusion: MatrixOfTime | Tensor,
        *,
        shift: MatrixOfTime | Tensor | None = None,
        basis: Basis | None = None,
        aux_std: float | Sequence[float] = 1.0,
        data_component: int = 0,
        prior_covariance: Tensor | None = None,
        T: float = 1.0,
        tolerance: float = 1e-11,
    ) -> None:
        check_number("T", T, above=0.0)
        check_number("tolerance", tolerance, above=0.0)
        self.T, self.basis = float(T), basis
        event = () if basis is None else basis.event_shape
        self._f, self._g = _of_time("drift", drift, self.T, event), _of_time("diffusion", diffusion, self.T, event)
        end = torch.tensor(self.T, dtype=torch.float64)
        f, g = self._f(end).shape, self._g(end).shape
        self.size = f[-1]
        if g[-1] != self.size:
            raise ValueError(f"diffusion is {g[-1]} square and drift {self.size} square: give the same size")
        self._shifted = shift is not None
        zero = torch.zeros(self.size, dtype=torch.float64)
        self._c = _of_time("shift", zero if shift is None else shift, self.T, event, (self.size,))
        self._modes = torch.broadcast_shapes(f[:-2], g[:-2], self._c(end).shape[:-1])
        check_count("data_component", data_component, least=0)
        if data_component >= self.size:
            raise ValueError(f"data_component={data_component!r} is not allowed: give one of 0 .. {self.size - 1}")
        self.data_component = data_component
        if isinstance(aux_std, int | float):
            check_number("aux_std", aux_std, above=0.0)
        stds = [aux_std] * (self.size - 1) if isinstance(aux_std, int | float) else list(aux_std)
        if len(stds) != self.size - 1:
            raise ValueError(f"aux_std has {len(stds)} values: give one number, or {self.size - 1}")
        for std in stds:
            check_number("aux_std", std, above=0.0)
        self.aux_std = tuple(float(std) for std in stds)
        self._cells = self._cut(tolerance)
        self._edges = torch.linspace(0.0, self.T, len(self._cells.a) + 1, dtype=torch.float64)
        self._spans = _spans(self._cells)
        self._since_start = self._from_start()
        self._prior = self._since_start.root[-1]
        if prior_covariance is not None:
            self._prior = _root_of("prior_covariance", prior_covariance, self.size, event)

    def state_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        return (self.size, *event_shape)

    def embed_data(self, x0: Tensor) -> Tensor:
        return self._stack(x0, x0.new_zeros(len(x0), self.size - 1, *x0.shape[1:]))

    def extract_data(self, state: Tensor) -> Tensor:
        return state[:, self.data_component]

    def sample_auxiliary(self, x0: Tensor, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        z = noise.normal((self.size - 1, *x0.shape[1:]), step=0, purpose="auxiliary", dtype=x0.dtype)
        std = torch.tensor(self.aux_std, dtype=torch.float64, device=x0.device)
        log_q = standard_normal_log_prob(z.double()) - x0[0].numel() * std.log().sum()
        return self._stack(x0, std.to(x0).reshape(-1, *(1,) * (x0.ndim - 1)) * z), log_q

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        drift = super().drift(x, t)
        return drift + expand(self._place(self._c(t.to(torch.float64))), x).to(x) if self._shifted else drift

    def drift_map(self, t: Tensor) -> BlockMap:
        return BlockMap(self._f(t.to(torch.float64)).to(t), self.basis)

    def diffusion_map(self, t: Tensor) -> BlockMap:
        return BlockMap(self._g(t.to(torch.float64)).to(t), self.basis)

    def kernel(self, t: Tensor) -> GaussianKernel:
        self.check_time(t)
        at = t.to(torch.float64).clamp(0.0, self.T)
        cell = self._cell(at, right=False)
        start = self._since_start.to(t.device).at(cell)
        return self._converted(start.then(self._within(self._edges.to(t.device)[cell], at)), t)

    def _transition(self, s: Tensor, t: Tensor) -> GaussianKernel:
        s, t, like = s.to(torch.float64).clamp(0.0, self.T), t.to(torch.float64).clamp(0.0, self.T), t
        s, t = torch.broadcast_tensors(s, t)
        edges, first, last = self._edges.to(t.device), self._cell(s, right=True), self._cell(t, right=False)
        kernel = self._within(s, torch.minimum(t, edges[first + 1]))
        place, left = first + 1, (last - first - 1).clamp(min=0)
        for level, span in enumerate(self._spans):
            taken = (left >> level) & 1 == 1
            kernel = kernel.then(span.to(t.device).at(place.clamp(max=len(span.a) - 1)).where(taken))
            place = place + torch.where(taken, 1 << level, 0)
        return self._converted(kernel.then(self._within(torch.where(first >= last, t, edges[last]), t)), like)

    def prior_root(self) -> BlockMap:
        return BlockMap(self._prior, self.basis)

    def prior_mean(self) -> Tensor:
        return self._place(self._since_start.b[-1]) if self._shifted else super().prior_mean()

    def _converted(self, own: _Kernel, like: Tensor) -> GaussianKernel:
        """The public kernel object, in the dtype and on the device of ``like``."""
        kernel = MapKernel(BlockMap(own.a.to(like), self.basis), BlockMap(own.root.to(like), self.basis))
        if not self._shifted:
            return kernel
        return ShiftedKernel(kernel, like.new_zeros(1), self._place(own.b).to(like))

    def _place(self, shift: Tensor) -> Tensor:
        """Convert a shift of the modes, ``(*t, *modes, k)``, to states, ``(1, k, ...)`` or ``(B, k, ...)``."""
        if self.basis is None:
            return shift.reshape(-1, self.size)
        event = self.basis.event_shape
        lead = shift.shape[: shift.ndim - len(event) - 1]
        modes = shift.expand(*lead, *event, self.size).reshape(-1, *event, self.size).movedim(-1, 1)
        return self.basis.inverse(modes.flatten(0, 1)).reshape(modes.shape)

    def _stack(self, data: Tensor, others: Tensor) -> Tensor:
        k = self.data_component
        return torch.cat((others[:, :k], data[:, None], others[:, k:]), dim=1)

    def _cell(self, t: Tensor, right: bool) -> Tensor:
        """Index of the cell that contains t. On an edge it is the later cell if ``right``, else the earlier one."""
        above = torch.searchsorted(self._edges.to(t.device), t.detach(), right=right)
        return (above - 1).clamp(0, len(self._edges) - 2)

    def _within(self, s: Tensor, t: Tensor) -> _Kernel:
        """Kernel from s to t, both ``(*t)``, by one step of collocation. Its root is M, ``(*t, k, 6 k)``."""
        c, b, a = (v.to(t.device) for v in _GAUSS)
        h, k, batch = (t - s)[..., None], self.size, (*t.shape, *self._modes)
        times = t[..., None] - h * c
        f, g = (v(times).movedim(t.ndim, -3).expand(*batch, -1, -1, -1) for v in (self._f, self._g))
        push = self._c(times).movedim(t.ndim, -2).expand(*batch, -1, -1)
        h = h.reshape(*t.shape, *(1,) * len(self._modes), 1)
        hf = h[..., None, None] * f
        # Psi_i = I + h sum_j a_ij Psi_j F_j, backward from t; transposed and stacked over i it is one linear system
        system = torch.einsum("ij,...jab->...ibja", a, hf).reshape(*batch, _POINTS * k, _POINTS * k)
        one = torch.eye(k, dtype=torch.float64, device=t.device)
        unit = torch.eye(_POINTS * k, dtype=torch.float64, device=t.device)
        psi = torch.linalg.solve(unit - system, one.repeat(_POINTS, 1).expand(*batch, -1, -1))
        psi = psi.reshape(*batch, _POINTS, k, k).mT
        phi = one + torch.einsum("j,...jab->...ab", b, psi @ hf)
        shift = torch.einsum("...j,...jab,...jb->...a", h * b, psi, push)
        noise = (h * b).sqrt()[..., None, None] * (psi @ g)
        return _Kernel(phi, shift, noise.movedim(-3, -2).flatten(-2))

    def _cut(self, tolerance: float) -> _Kernel:
        """Kernels over equal cells of [0, T], as many as are needed for one step to agree with two steps of half the width."""
        count, error = 8, torch.inf
        while count <= _MOST_CELLS:
            edges = torch.linspace(0.0, self.T, count + 1, dtype=torch.float64)
            middle = 0.5 * (edges[1:] + edges[:-1])
            whole = self._within(edges[:-1], edges[1:])
            halves = self._within(edges[:-1], middle).then(self._within(middle, edges[1:]))
            error = whole.error(halves)
            if error <= tolerance:
                return _Kernel(whole.a, whole.b, _triangle(whole.root))
            count *= 2
        raise ValueError(
            f"drift, diffusion or shift is not smooth enough on [0, {self.T:g}]: the relative error with {_MOST_CELLS} cells is "
            f"{error:.1e}, above tolerance={tolerance:g}: give smooth functions, or a larger tolerance"
        )

    def _from_start(self) -> _Kernel:
        """Kernels x_t | x_0 at the edges of the cells."""
        start = torch.tensor(self.aux_std, dtype=torch.float64)
        start = torch.cat((start[: self.data_component], start.new_zeros(1), start[self.data_component :]))
        still = _Kernel(torch.eye(self.size, dtype=torch.float64), torch.zeros_like(start), torch.diag(start))
        kernels = [_Kernel(*(v.expand(*self._modes, *v.shape) for v in still.parts))]
        for k in range(len(self._cells.a)):
            kernels.append(kernels[-1].then(_Kernel(*(v[k] for v in self._cells.parts))))
        return _Kernel(*(torch.stack(parts) for parts in zip(*(kernel.parts for kernel in kernels), strict=True)))


@dataclass(frozen=True)
class _Kernel:
    """Kernel N(a x + b, root root^T): a ``(*batch, k, k)``, b ``(*batch, k)``, root ``(*batch, k, n)`` with n >= k."""

    a: Tensor
    b: Tensor
    root: Tensor

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.a, self.b, self.root

    def then(self, after: _Kernel) -> _Kernel:
        """Composition: this kernel, then ``after``."""
        root = _triangle(torch.cat((after.a @ self.root, after.root), dim=-1))
        return _Kernel(after.a @ self.a, (after.a @ self.b[..., None])[..., 0] + after.b, root)

    def at(self, index: Tensor | slice) -> _Kernel:
        return _Kernel(*(v[index] for v in self.parts))

    def where(self, taken: Tensor) -> _Kernel:
        """This kernel where ``taken``, the identity elsewhere."""
        one = torch.eye(self.a.shape[-1], dtype=self.a.dtype, device=self.a.device)
        taken = taken.reshape(*taken.shape, *(1,) * (self.a.ndim - taken.ndim))
        return _Kernel(torch.where(taken, self.a, one), self.b * taken[..., 0], self.root * taken)

    def to(self, device: torch.device) -> _Kernel:
        return _Kernel(*(v.to(device) for v in self.parts))

    def error(self, other: _Kernel) -> float:
        """Largest relative difference: of a and b to their largest entry, of the covariance to the standard deviations."""
        here, there = (torch.cat((kernel.a, kernel.b[..., None]), dim=-1) for kernel in (self, other))
        mean = (here - there).abs().amax((-2, -1)) / there.abs().amax((-2, -1))
        std = other.root.square().sum(-1).sqrt().clamp(min=1e-150)
        change = self.root @ self.root.mT - other.root @ other.root.mT
        return float(torch.maximum(mean, (change.abs() / (std[..., :, None] * std[..., None, :])).amax((-2, -1))).max())


def _triangle(m: Tensor) -> Tensor:
    """Lower triangular L with L L^T = m m^T and a diagonal >= 0, for m ``(*batch, k, n)`` with n >= k."""
    lower = torch.linalg.qr(m.mT)[1].mT
    sign = torch.where(lower.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
    out: Tensor = lower * sign[..., None, :]
    return out


def _spans(cells: _Kernel) -> list[_Kernel]:
    """Kernels over 2^n consecutive cells, by n and by the index of the first cell."""
    spans = [cells]
    while len(spans[-1].a) > (width := 1 << (len(spans) - 1)):
        spans.append(spans[-1].at(slice(-width)).then(spans[-1].at(slice(width, None))))
    return spans


def _gauss(points: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gauss collocation on [0, 1]: nodes c, weights b, and a_ij = int_0^c_i l_j, computed with Legendre polynomials."""
    x, w = np.polynomial.legendre.leggauss(points)
    table = np.polynomial.legendre.legvander(x, points)
    order = np.arange(1, points)
    integrals = np.concatenate(
        ((x + 1)[:, None], (table[:, 2:] - table[:, : points - 1]) / (2 * order + 1)), axis=1
    )  # int_-1^x P_n, n < points
    a = 0.25 * (integrals * (2 * np.arange(points) + 1)) @ table[:, :points].T * w
    return torch.from_numpy(0.5 * (x + 1)), torch.from_numpy(0.5 * w), torch.from_numpy(a)


_GAUSS = _gauss(_POINTS)


def _of_time(
    name: str, given: MatrixOfTime | Tensor, end: float, event: tuple[int, ...], block: tuple[int, ...] | None = None
) -> MatrixOfTime:
    """Convert ``given`` to a function of time that returns ``(*t, *modes, *block)``, with as many modes as event dimensions.

    The shape is checked for times ``()`` and ``(2,)``. The default block is (k, k) for any k.
    """
    if isinstance(given, Tensor) and given.ndim < 1:
        raise ValueError(f"{name} has shape (): give a matrix, or a function of time that returns one")
    function = _constant(given.to(torch.float64)) if isinstance(given, Tensor) else given
    rank = 2 if block is None else len(block)
    if not callable(function):
        raise TypeError(f"{name} is a {type(given).__name__}: give a function of time, or a tensor")
    for t in (torch.tensor(end, dtype=torch.float64), torch.tensor([0.0, end], dtype=torch.float64)):
        value = function(t)
        shape = tuple(value.shape)
        if shape[: t.ndim] != t.shape or not _fits(shape[t.ndim :], event, block or shape[-1:] * 2):
            raise ValueError(
                f"{name} gives shape {shape} for times of shape {tuple(t.shape)}: give {_wanted(('*t',), event, block)}"
            )
        if value.dtype != torch.float64 or not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"{name} gives {value.dtype} values at t in {t.tolist()}: give float64, all of them finite"
            )
    return lambda t: _of_modes(function(t), t.ndim, rank, event)


def _constant(matrix: Tensor) -> MatrixOfTime:
    return lambda t: matrix.to(t.device).expand(*t.shape, *matrix.shape)


def _root_of(name: str, covariance: Tensor, size: int, event: tuple[int, ...]) -> Tensor:
    """Cholesky factor of a covariance, ``(*modes, size, size)``."""
    covariance = torch.as_tensor(covariance, dtype=torch.float64)
    block = (size, size)
    if not _fits(tuple(covariance.shape), event, block) or not torch.allclose(covariance, covariance.mT):
        raise ValueError(f"{name} has shape {tuple(covariance.shape)}: give a symmetric {_wanted((), event, block)}")
    factor, info = torch.linalg.cholesky_ex(covariance)
    if int(info.max()) != 0:
        raise ValueError(f"{name} is not positive definite: its smallest eigenvalue is not above 0")
    return _of_modes(factor, 0, 2, event)


def _fits(shape: tuple[int, ...], event: tuple[int, ...], block: tuple[int, ...]) -> bool:
    """Whether a shape is that of the block, or of one block for each mode, where a size of 1 stands for equal modes."""
    modes = shape[: -len(block)]
    if shape[-len(block) :] != block:
        return False
    return not modes or (len(modes) == len(event) and all(m in (1, n) for m, n in zip(modes, event, strict=True)))


def _wanted(lead: tuple[str, ...], event: tuple[int, ...], block: tuple[int, ...] | None) -> str:
    def text(*parts: object) -> str:
        return "(" + ", ".join(map(str, parts)) + ("," if len(parts) == 1 else "") + ")"

    end = block or ("k", "k")
    return text(*lead, *end) + (f" or {text(*lead, *event, *end)}" if event else "")


def _of_modes(value: Tensor, lead: int, rank: int, event: tuple[int, ...]) -> Tensor:
    """Insert sizes of 1 for the modes of the event, ``(*lead, *modes, *block)``, if ``value`` has none."""
    if value.ndim > lead + rank:
        return value
    return value.reshape(*value.shape[:lead], *(1,) * len(event), *value.shape[lead:])
