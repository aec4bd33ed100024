"""Linear processes by any k x k matrices of time over the first dimension of the state (data and k - 1 auxiliary components).

    dx = F(t) x dt + G(t) dw        x_0 = data in one component, N(0, aux_std^2 I) in the others, marginalised

Between two times x_t | x_s ~ N(Phi(t, s) x_s, C(t, s)) with

    d Phi(t, r) / dr = -Phi(t, r) F(r),  Phi(t, t) = I        C(t, s) = int_s^t Phi(t, r) G G^T(r) Phi(t, r)^T dr

Over a short [s, t] both come from Gauss's collocation at m = 6 points r_j, an implicit Runge-Kutta method of order 12: one
linear system gives Psi_j = Phi(t, r_j), and with weights b_j and h = t - s

    Phi(t, s) = I + h sum_j b_j Psi_j F(r_j)        C(t, s) = M M^T,   M = [sqrt(h b_j) Psi_j G(r_j)]_j

so that its root L is the triangle of M^T = QR: C is never formed, has no negative direction, and a component that noise reaches
by way of others keeps its relative accuracy down to the shortest step. [0, T] is cut into cells once, halved until halves agree
with the whole. Kernels over several cells are compositions, Phi = Phi_2 Phi_1 and L the triangle of [Phi_2 L_1, L_2]: nothing is
subtracted and no Phi is inverted (int_0^t Phi^-1 G G^T Phi^-T would need it, and fails once modes decay at rates far apart).

Constant or commuting F is the same calculation. F and G must be smooth on [0, T] but for jumps at multiples of T / 2^n, n <= 12.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoresde._validation import check_count, check_number
from scoresde.noise import NoiseSource
from scoresde.sde.kernel import MapKernel, standard_normal_log_prob
from scoresde.sde.linear import LinearSDE
from scoresde.sde.maps import BlockMap

MatrixOfTime = Callable[[Tensor], Tensor]
"""t float64 of any shape (*t) -> (*t, k, k)."""

_POINTS = 6
_MOST_CELLS = 4096


class MatrixSDE(LinearSDE):
    """dx = F(t) x dt + G(t) dw; a state of an event is (k, *event).

    drift, diffusion: F and G, functions of float64 times (*t) to (*t, k, k), smooth on [0, T]; or a constant (k, k) tensor.
    aux_std: standard deviation at t = 0 of the components that are not data, > 0; a number, or k - 1 of them.
    data_component: which component holds the data, in 0 .. k - 1.
    prior_covariance: (k, k) positive definite; the kernel's at T unless given.
    T: end of time, > 0.
    tolerance: relative error of the kernel over a cell, > 0.

    Raises ValueError naming the argument for a shape or value that does not fit, and where F and G are so rough that no 4096
    cells reach ``tolerance``.
    """

    def __init__(
        self,
        drift: MatrixOfTime | Tensor,
        diffusion: MatrixOfTime | Tensor,
        *,
        aux_std: float | Sequence[float] = 1.0,
        data_component: int = 0,
        prior_covariance: Tensor | None = None,
        T: float = 1.0,
        tolerance: float = 1e-11,
    ) -> None:
        check_number("T", T, above=0.0)
        check_number("tolerance", tolerance, above=0.0)
        self.T = float(T)
        self._f, self._g = _of_time("drift", drift, self.T), _of_time("diffusion", diffusion, self.T)
        end = torch.tensor(self.T, dtype=torch.float64)
        self.size = len(self._f(end))
        if len(self._g(end)) != self.size:
            raise ValueError(
                f"diffusion is {len(self._g(end))} square and drift {self.size} square: give the same size"
            )
        check_count("data_component", data_component, least=0)
        if data_component >= self.size:
            raise ValueError(f"data_component={data_component!r} is not allowed: give one of 0 .. {self.size - 1}")
        self.data_component = data_component
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
        self._prior = _root_of("prior_covariance", prior_covariance, self.size)
        if self._prior is None:
            self._prior = self._since_start.root[-1]

    def __repr__(self) -> str:
        data = f", data_component={self.data_component}" if self.data_component else ""
        return f"MatrixSDE({self.size} components, aux_std={self.aux_std}{data}, T={self.T:g})"

    def state_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        return (self.size, *event_shape)

    def augment(self, x0: Tensor) -> Tensor:
        return self._stack(x0, x0.new_zeros(len(x0), self.size - 1, *x0.shape[1:]))

    def project(self, state: Tensor) -> Tensor:
        return state[:, self.data_component]

    def lift(self, x0: Tensor, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        """x_0 with auxiliary components drawn from N(0, aux_std^2 I), and the log-density (B,) of these in nats."""
        z = noise.normal((self.size - 1, *x0.shape[1:]), step=0, purpose="auxiliary", dtype=x0.dtype)
        std = torch.tensor(self.aux_std, dtype=torch.float64, device=x0.device)
        log_q = standard_normal_log_prob(z.double()) - x0[0].numel() * std.log().sum()
        return self._stack(x0, std.to(x0).reshape(-1, *(1,) * (x0.ndim - 1)) * z), log_q

    def drift_map(self, t: Tensor) -> BlockMap:
        return BlockMap(self._f(t.to(torch.float64)).to(t))

    def diffusion_map(self, t: Tensor) -> BlockMap:
        return BlockMap(self._g(t.to(torch.float64)).to(t))

    def kernel(self, t: Tensor) -> MapKernel:
        self.check_time(t)
        at = t.to(torch.float64).clamp(0.0, self.T)
        cell = self._cell(at, right=False)
        start = self._since_start.to(t.device).at(cell)
        return _kernel(start.then(self._within(self._edges.to(t.device)[cell], at)), t)

    def _transition(self, s: Tensor, t: Tensor) -> MapKernel:
        s, t, like = s.to(torch.float64).clamp(0.0, self.T), t.to(torch.float64).clamp(0.0, self.T), t
        s, t = torch.broadcast_tensors(s, t)
        edges, first, last = self._edges.to(t.device), self._cell(s, right=True), self._cell(t, right=False)
        law = self._within(s, torch.minimum(t, edges[first + 1]))
        place, left = first + 1, (last - first - 1).clamp(min=0)
        for level, span in enumerate(self._spans):
            taken = (left >> level) & 1 == 1
            law = law.then(span.to(t.device).at(place.clamp(max=len(span.a) - 1)).where(taken))
            place = place + torch.where(taken, 1 << level, 0)
        return _kernel(law.then(self._within(torch.where(first >= last, t, edges[last]), t)), like)

    def prior_root(self) -> BlockMap:
        assert self._prior is not None
        return BlockMap(self._prior)

    def _stack(self, data: Tensor, others: Tensor) -> Tensor:
        k = self.data_component
        return torch.cat((others[:, :k], data[:, None], others[:, k:]), dim=1)

    def _cell(self, t: Tensor, right: bool) -> Tensor:
        """The number of the cell that t lies in; of two that meet there the later where ``right``."""
        above = torch.searchsorted(self._edges.to(t.device), t.detach(), right=right)
        return (above - 1).clamp(0, len(self._edges) - 2)

    def _within(self, s: Tensor, t: Tensor) -> _Law:
        """The law from s up to t, both (*t), in one step of collocation; its root is M, (*t, k, 6 k)."""
        c, b, a = (v.to(t.device) for v in _GAUSS)
        h, k = (t - s)[..., None], self.size
        times = t[..., None] - h * c
        f, g = self._f(times), self._g(times)
        hf = h[..., None, None] * f
        # Psi_i = I + h sum_j a_ij Psi_j F_j, going down from t; transposed and stacked over i it is one system
        system = torch.einsum("ij,...jab->...ibja", a, hf).reshape(*t.shape, _POINTS * k, _POINTS * k)
        one = torch.eye(k, dtype=torch.float64, device=t.device)
        unit = torch.eye(_POINTS * k, dtype=torch.float64, device=t.device)
        psi = torch.linalg.solve(unit - system, one.repeat(_POINTS, 1).expand(*t.shape, -1, -1))
        psi = psi.reshape(*t.shape, _POINTS, k, k).mT
        phi = one + torch.einsum("j,...jab->...ab", b, psi @ hf)
        noise = (h * b).sqrt()[..., None, None] * (psi @ g)
        return _Law(phi, noise.movedim(-3, -2).flatten(-2))

    def _cut(self, tolerance: float) -> _Law:
        """The laws over equal cells of [0, T], as many as make one step agree with two of half the width."""
        count, error = 8, torch.inf
        while count <= _MOST_CELLS:
            edges = torch.linspace(0.0, self.T, count + 1, dtype=torch.float64)
            middle = 0.5 * (edges[1:] + edges[:-1])
            whole = self._within(edges[:-1], edges[1:])
            halves = self._within(edges[:-1], middle).then(self._within(middle, edges[1:]))
            error = whole.error(halves)
            if error <= tolerance:
                return _Law(whole.a, _triangle(whole.root))
            count *= 2
        raise ValueError(
            f"drift and diffusion are not smooth enough on [0, {self.T:g}]: {_MOST_CELLS} cells give a relative error of "
            f"{error:.1e}, and tolerance={tolerance:g}: give smooth functions, or a larger tolerance"
        )

    def _from_start(self) -> _Law:
        """The laws x_t | x_0 at the edges of the cells."""
        start = torch.tensor(self.aux_std, dtype=torch.float64)
        start = torch.cat((start[: self.data_component], start.new_zeros(1), start[self.data_component :]))
        laws = [_Law(torch.eye(self.size, dtype=torch.float64), torch.diag(start))]
        for k in range(len(self._cells.a)):
            laws.append(laws[-1].then(_Law(self._cells.a[k], self._cells.root[k])))
        return _Law(torch.stack([law.a for law in laws]), torch.stack([law.root for law in laws]))


@dataclass(frozen=True)
class _Law:
    """N(a x, root root^T): a (*batch, k, k), root (*batch, k, n) with n >= k."""

    a: Tensor
    root: Tensor

    def then(self, after: _Law) -> _Law:
        """This law and the other after it."""
        return _Law(after.a @ self.a, _triangle(torch.cat((after.a @ self.root, after.root), dim=-1)))

    def at(self, index: Tensor) -> _Law:
        return _Law(self.a[index], self.root[index])

    def where(self, taken: Tensor) -> _Law:
        """This law, or none where not taken."""
        one = torch.eye(self.a.shape[-1], dtype=self.a.dtype, device=self.a.device)
        taken = taken[..., None, None]
        return _Law(torch.where(taken, self.a, one), self.root * taken)

    def to(self, device: torch.device) -> _Law:
        return _Law(self.a.to(device), self.root.to(device))

    def error(self, other: _Law) -> float:
        """Largest difference: of a to the largest entry, of the covariance to the standard deviations."""
        mean = (self.a - other.a).abs().amax((-2, -1)) / other.a.abs().amax((-2, -1))
        std = other.root.square().sum(-1).sqrt().clamp(min=1e-150)
        change = self.root @ self.root.mT - other.root @ other.root.mT
        return float(torch.maximum(mean, (change.abs() / (std[..., :, None] * std[..., None, :])).amax((-2, -1))).max())


def _triangle(m: Tensor) -> Tensor:
    """The lower triangular L, its diagonal not negative, with L L^T = m m^T; m (*batch, k, n), n >= k."""
    lower = torch.linalg.qr(m.mT)[1].mT
    sign = torch.where(lower.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
    return lower * sign[..., None, :]


def _kernel(law: _Law, like: Tensor) -> MapKernel:
    return MapKernel(BlockMap(law.a.to(like)), BlockMap(law.root.to(like)))


def _spans(cells: _Law) -> list[_Law]:
    """Entry n holds the laws over 2^n cells in a row, by the first of them."""
    spans = [cells]
    while len(spans[-1].a) > (width := 1 << (len(spans) - 1)):
        last = spans[-1]
        spans.append(_Law(last.a[:-width], last.root[:-width]).then(_Law(last.a[width:], last.root[width:])))
    return spans


def _gauss(points: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gauss's collocation on [0, 1]: nodes c, weights b, and a_ij = int_0^c_i l_j, through Legendre's polynomials."""
    x, w = np.polynomial.legendre.leggauss(points)
    table = np.polynomial.legendre.legvander(x, points)
    order = np.arange(1, points)
    integrals = np.concatenate(
        ((x + 1)[:, None], (table[:, 2:] - table[:, : points - 1]) / (2 * order + 1)), axis=1
    )  # int_-1^x P_n, n < points
    a = 0.25 * (integrals * (2 * np.arange(points) + 1)) @ table[:, :points].T * w
    return torch.from_numpy(0.5 * (x + 1)), torch.from_numpy(0.5 * w), torch.from_numpy(a)


_GAUSS = _gauss(_POINTS)


def _of_time(name: str, given: MatrixOfTime | Tensor, end: float) -> MatrixOfTime:
    """``given`` as a function of time, its shape checked at () and (2,)."""
    function = _constant(given.to(torch.float64)) if isinstance(given, Tensor) else given
    if not callable(function):
        raise TypeError(f"{name} is a {type(given).__name__}: give a function of time, or a tensor (k, k)")
    for t in (torch.tensor(end, dtype=torch.float64), torch.tensor([0.0, end], dtype=torch.float64)):
        value = function(t)
        shape = tuple(value.shape)
        if len(shape) != t.ndim + 2 or shape[:-2] != t.shape or shape[-1] != shape[-2]:
            raise ValueError(f"{name} gives shape {shape} for times of shape {tuple(t.shape)}: give (*t, k, k)")
        if value.dtype != torch.float64 or not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"{name} gives {value.dtype} values at t in {t.tolist()}: give float64, all of them finite"
            )
    return function


def _constant(matrix: Tensor) -> MatrixOfTime:
    return lambda t: matrix.to(t.device).expand(*t.shape, *matrix.shape)


def _root_of(name: str, covariance: Tensor | None, size: int) -> Tensor | None:
    """Cholesky's factor of a covariance (size, size)."""
    if covariance is None:
        return None
    covariance = torch.as_tensor(covariance, dtype=torch.float64)
    if covariance.shape != (size, size) or not torch.allclose(covariance, covariance.mT):
        raise ValueError(f"{name} has shape {tuple(covariance.shape)}: give a symmetric ({size}, {size})")
    factor, info = torch.linalg.cholesky_ex(covariance)
    if int(info) != 0:
        raise ValueError(f"{name} is not positive definite: its smallest eigenvalue is not above 0")
    return factor
