r"""Jump processes given by a rate matrix R: any matrix, and those of ordinal data.

Ordinal data are levels 0, ..., K - 1, such as the brightness of a pixel, and a jump prefers near levels. R is
symmetric, so the prior is uniform, and it is scaled so that its slowest mode decays like alpha(t):

.. math::
    \text{nearest neighbor: } R_{xy} = c\, [|x - y| = 1], \qquad
    \text{discretized Gaussian: } R_{xy} = c\, e^{-(x - y)^2 / 2 w^2}, \quad x \ne y

A path with equal rates has the eigenvalues 2 c (cos(pi k / K) - 1), so c = 1 / (2 - 2 cos(pi / K)).

The exponential. If R is reversible, pi_x R_xy = pi_y R_yx for its stationary distribution pi, then one decomposition
into eigenvalues lambda and vectors V serves all times:

.. math::
    S = D R D^{-1} = V \Lambda V^T, \qquad D = \mathrm{diag}(\sqrt{\pi}), \qquad e^{b R} = D^{-1} V e^{b \Lambda} V^T D

Its rounding errors are of the order 1e-16, and probabilities below 1e-12 count as 0. The ordinal processes are of this
kind. For any other matrix with c >= |R_xx|, R + c I has no negative entry, so that no digits cancel in

.. math::
    e^{b R} = \left[e^{-c h} \sum_n \frac{h^n (R + c I)^n}{n!}\right]^{2^k}, \qquad h = b / 2^k, \quad c h \le 1

which costs about 20 + k products of matrices for each distinct time. All entries are accurate relative to their own
size. The rows are divided by their sums. For b = infinity, b is taken so large that the rows no longer change. One
matrix is computed for each distinct time of a batch, and one row or column of it is read for each coordinate.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor

from scoresde._validation import Numbers, as_numbers, check_count, check_number
from scoresde.jump.base import JumpProcess
from scoresde.jump.keep import KeepSchedule, PolynomialKeep
from scoresde.jump.states import LOG_ZERO
from scoresde.sde import ScalarSDE

_TERMS = 20
"""Terms of the series: 1 / 20! is below the rounding error."""
_LARGEST = 1e9
"""c b in place of an infinite one."""
_SMALLEST = 1e-12
"""Smallest probability of a spectral form, far above its rounding errors."""


def rate_exponential(matrix: Tensor, b: Tensor) -> Tensor:
    """exp(b R) with entries that are accurate relative to their own size.

    Args:
        matrix: R, ``(S, S)`` float64: rates >= 0 off the diagonal, and rows that sum to 0.
        b: Factors >= 0, possibly infinite, ``(n,)`` float64.

    Returns:
        The matrices, ``(n, S, S)``. Their rows sum to 1.
    """
    c = float(-matrix.diagonal().min())
    size = (b * c).clamp(max=_LARGEST)
    squarings = max(0, math.ceil(math.log2(max(float(size.max()), 1e-300))))
    h = (size / c / 2.0**squarings)[:, None, None]
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    step = h * (matrix - torch.diag(matrix.diagonal()) + torch.diag((matrix.diagonal() + c).clamp(min=0.0)))
    term = found = eye.expand(len(b), -1, -1)
    for n in range(1, _TERMS + 1):
        term = term @ step / n
        found = found + term
    for k in range(squarings + 1):
        found = found @ found if k else found
        found = found / found.sum(-1, keepdim=True)
    return found


class Spectrum:
    """The eigenvalues and vectors of a reversible rate matrix.

    Args:
        values: The eigenvalues, <= 0, ``(S,)`` float64.
        left: D^-1 V, ``(S, S)``.
        right: V^T D, ``(S, S)``.
    """

    def __init__(self, values: Tensor, left: Tensor, right: Tensor) -> None:
        self.values, self.left, self.right = values, left, right

    @classmethod
    def of(cls, matrix: Tensor) -> Spectrum | None:
        """The spectrum of a rate matrix, or None if it is not reversible.

        Args:
            matrix: R, ``(S, S)`` float64, with one closed class.

        Returns:
            The spectrum. It is None too if stationary probabilities differ by a factor above 1e6.
        """
        scale = matrix.abs().max()
        if torch.equal(matrix, matrix.mT):
            root = torch.ones(len(matrix), dtype=torch.float64)
        else:
            system = torch.cat((matrix.mT / scale, torch.ones(1, len(matrix), dtype=torch.float64)))
            target = torch.zeros(len(matrix) + 1, 1, dtype=torch.float64)
            target[-1] = 1.0
            stationary = torch.linalg.lstsq(system, target).solution[:, 0]
            flow = stationary[:, None] * matrix
            if not float(stationary.min()) > 1e-6 * float(stationary.max()):
                return None
            if float((flow - flow.mT).abs().max()) > 1e-12 * float(flow.abs().max()):
                return None
            root = stationary.sqrt()
        symmetric = root[:, None] * matrix / root
        values, vectors = torch.linalg.eigh(0.5 * (symmetric + symmetric.mT))
        values[-1] = 0.0
        return cls(values.clamp(max=0.0), vectors / root[:, None], vectors.mT * root)

    def exponential(self, b: Tensor) -> Tensor:
        """exp(b R), where probabilities below 1e-12 are 0.

        Args:
            b: Factors >= 0, possibly infinite, ``(n,)`` float64.

        Returns:
            The matrices, ``(n, S, S)``. Their rows sum to 1.
        """
        values, left, right = (v.to(b.device) for v in (self.values, self.left, self.right))
        b = b.clamp(max=_LARGEST / -float(values[0]))
        scaled = left * (b[:, None, None] * values).exp()
        product = (scaled.reshape(-1, len(values)) @ right).reshape(scaled.shape)
        found: Tensor = nnf.threshold(product, _SMALLEST, 0.0, inplace=True)
        return found.div_(found.sum(-1, keepdim=True))


def check_rates(name: str, matrix: Tensor, rounding: float = 1e-9) -> None:
    """Check that a matrix is a rate matrix.

    Args:
        name: Its name, for the message.
        matrix: The matrix, ``(S, S)`` float64.
        rounding: Largest sum of a row, in units of the largest rate.

    Raises:
        ValueError: If a rate is negative, or the sum of a row is not 0. The message has the place and the value.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"{name} has shape {tuple(matrix.shape)}: give a square matrix (S, S) with S >= 2")
    bad = (matrix < 0) & ~torch.eye(len(matrix), dtype=torch.bool)
    if bool(bad.any()):
        x, y = (int(k) for k in bad.nonzero()[0])
        raise ValueError(f"{name} has the rate {float(matrix[x, y]):g} at ({x}, {y}): give rates >= 0 off the diagonal")
    sums, scale = matrix.sum(1), matrix.abs().max()
    if not bool(scale > 0):
        raise ValueError(f"{name} is 0: give at least one rate > 0")
    off = sums.abs() > rounding * scale
    if bool(off.any()):
        x = int(off.nonzero()[0])
        raise ValueError(
            f"{name} has the sum {float(sums[x]):g} in row {x}: give rows that sum to 0, with minus the sum of the rates on the "
            "diagonal"
        )


def check_one_prior(name: str, matrix: Tensor, tokens: int) -> None:
    """Check that the distribution of x_t for large t does not depend on x_0.

    Args:
        name: The name of the matrix, for the message.
        matrix: The rate matrix, ``(S, S)``.
        tokens: Number of the first states that are values of the data.

    Raises:
        ValueError: If data can end in two classes of states that no jump connects.
    """
    from scipy.sparse.csgraph import connected_components  # slow to load

    count, label = connected_components((matrix > 0).numpy(), directed=True, connection="strong")
    labels = torch.as_tensor(label).long()
    x, y = (matrix > 0).nonzero().unbind(1)
    closed = torch.ones(count, dtype=torch.bool)
    closed[labels[x][labels[x] != labels[y]]] = False
    reached = torch.arange(len(matrix)) < tokens
    while bool((more := reached | (matrix > 0)[reached].any(0)).ne(reached).any()):
        reached = more
    ends = labels[reached & closed[labels]].unique()
    if len(ends) > 1:
        first, second = (int((labels == k).nonzero()[0]) for k in ends[:2])
        raise ValueError(
            f"{name} has no path of jumps from the state {first} to the state {second} or back, and both are final: x_T would "
            "depend on x_0, and no prior could be drawn. Give rates that connect them"
        )


class RateMatrix(JumpProcess):
    r"""Jump process with any rate matrix: R(t) = beta(t) R, where alpha(t) = exp(-B(t)) and B is the integral of beta.

    Args:
        matrix: R, ``(S, S)``. Entry (x, y) is the rate of the jumps from x to y, >= 0 for x != y. Rows sum to 0.
        schedule: alpha(t): a schedule, or an SDE that has it. R is used as it is, so that alpha(t) is the probability
            that a state of unit exit rate is kept.
        tokens: Number of the first states that are values of the data. None for all.
        ordered: Whether the difference of two states has a meaning.

    Raises:
        ValueError: If a rate is negative, a row does not sum to 0, or data can end in two classes of states that no jump
            connects. x_T would then depend on x_0, so that no prior has its distribution.

    Example:
        >>> import torch
        >>> from scoresde.jump import RateMatrix
        >>> process = RateMatrix([[-1.0, 1.0], [3.0, -3.0]])
        >>> process.prior_log_probs().exp()  # all of these are 0.75 and 0.25 at the end
        tensor([0.7500, 0.2500], dtype=torch.float64)
    """

    def __init__(
        self,
        matrix: Numbers,
        schedule: KeepSchedule | ScalarSDE = PolynomialKeep(),  # noqa: B008  (frozen)
        tokens: int | None = None,
        ordered: bool = False,
    ) -> None:
        rates = as_numbers("matrix", matrix).cpu()
        single = isinstance(matrix, Tensor) and matrix.dtype != torch.float64
        check_rates("matrix", rates, 1e-5 if single else 1e-9)  # the diagonal is computed again below
        if tokens is not None:
            check_count("tokens", tokens, least=2)
            if tokens > len(rates):
                raise ValueError(
                    f"tokens={tokens!r} is not allowed: matrix has {len(rates)} states, give at most so many"
                )
        super().__init__(len(rates) if tokens is None else tokens, len(rates), schedule)
        self.matrix, self.ordered = rates - torch.diag(rates.sum(1)), ordered
        check_one_prior("matrix", self.matrix, self.tokens)
        self._spectrum, self._symmetric = Spectrum.of(self.matrix), torch.equal(self.matrix, self.matrix.mT)
        self._recent: tuple[tuple[Tensor, Tensor], ...] = ()

    def _matrices(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """exp(b R) for the distinct values of b, (n, S, S), and the number of each b among them, in the shape of b."""
        values, place = torch.unique(b.to(torch.float64), return_inverse=True)
        for known, made in self._recent:
            if known.device == values.device and torch.equal(known, values):
                return made, place
        if self._spectrum is None:
            made = rate_exponential(self.matrix.to(b.device), values)
        else:
            made = self._spectrum.exponential(values)
        self._recent = ((values, made), *self._recent[:1])  # a step needs the same matrices several times
        return made, place

    def rows(self, x: Tensor, b: Tensor) -> Tensor:
        made, place = self._matrices(b)
        return _logarithm(made[place.expand(x.shape), x])

    def columns(self, x: Tensor, b: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        made, place = self._matrices(b)
        turned = made if self._symmetric else made.mT
        return _logarithm(turned[place.expand(x.shape), x].to(dtype))

    def push(self, log_w: Tensor, b: Tensor) -> Tensor:
        made, place = self._matrices(b)
        best = log_w.amax(-1, keepdim=True)
        flat = (log_w - best).exp().reshape(len(log_w), -1, self.tokens)
        found = flat @ made.to(log_w.dtype)[place.reshape(-1), : self.tokens]
        return _logarithm(found).reshape(*log_w.shape[:-1], self.states) + best

    def pull(self, log_r: Tensor, b: Tensor) -> Tensor:
        made, place = self._matrices(b)
        best = log_r.amax(-1, keepdim=True)
        flat = (log_r - best).exp().to(torch.float64).reshape(len(log_r), -1, self.states)
        rows = made[place.reshape(-1), : self.tokens].mT.expand(len(flat), -1, -1)
        found = torch.linalg.lstsq(rows, flat.mT).solution.mT
        return _logarithm(found).reshape(*log_r.shape[:-1], self.tokens).to(log_r.dtype) + best

    def generator_rows(self, x: Tensor) -> Tensor:
        return self.matrix.to(x.device)[x]

    def generator_columns(self, x: Tensor) -> Tensor:
        return self.matrix.mT.to(x.device)[x]


class NearestNeighbor(RateMatrix):
    """Ordinal process whose jumps go to a neighboring level, with equal rates.

    The slowest mode, a cosine over the levels, decays like alpha(t). The prior is uniform.

    Args:
        tokens: Number of levels K, >= 2.
        schedule: alpha(t): a schedule, or an SDE that has it.

    References:
        Austin et al. 2021, arXiv:2107.03006, appendix A.2.5 (band-diagonal matrices).
    """

    def __init__(self, tokens: int, schedule: KeepSchedule | ScalarSDE = PolynomialKeep()) -> None:  # noqa: B008  (frozen)
        check_count("tokens", tokens, least=2)
        near = torch.ones(tokens - 1, dtype=torch.float64) / (2.0 - 2.0 * math.cos(math.pi / tokens))
        rates = torch.diag(near, 1) + torch.diag(near, -1)
        super().__init__(rates - torch.diag(rates.sum(1)), schedule, ordered=True)


class DiscretizedGaussian(RateMatrix):
    """Ordinal process whose jumps have Gaussian rates of the distance between the levels.

    The slowest mode decays like alpha(t). The prior is uniform. For a large width it is close to ``Uniform``, for a
    small one to ``NearestNeighbor``.

    Args:
        tokens: Number of levels K, >= 2.
        width: Standard deviation w of a jump, in levels, > 0.3.
        schedule: alpha(t): a schedule, or an SDE that has it.

    References:
        Austin et al. 2021, arXiv:2107.03006, appendix A.2.4. Campbell et al. 2022, arXiv:2205.14987, appendix E.
    """

    def __init__(
        self,
        tokens: int,
        width: float = 2.0,
        schedule: KeepSchedule | ScalarSDE = PolynomialKeep(),  # noqa: B008  (frozen)
    ) -> None:
        check_count("tokens", tokens, least=2)
        check_number("width", width, above=0.3)
        levels = torch.arange(tokens, dtype=torch.float64)
        rates = torch.exp(-0.5 * ((levels[:, None] - levels) / width) ** 2)
        rates -= torch.diag(rates.sum(1))
        gap = -float(torch.linalg.eigvalsh(rates)[-2])
        super().__init__(rates / gap, schedule, ordered=True)
        self.width = float(width)


def _logarithm(p: Tensor) -> Tensor:
    """ln p, with ``LOG_ZERO`` where p is not positive."""
    positive = p > 0
    return torch.where(positive, p, 1.0).log().masked_fill(~positive, LOG_ZERO)
