"""Self-check of a linear process: ``check(process)`` compares its methods with each other and with the mathematics.

The result is a table of errors and limits. The process is evaluated through its public methods, in float64, on zero and
unit vectors: F x + c from ``drift``, G from ``apply_diffusion``, the mean A x + b and C = L L^T from ``kernel``. c and
b are 0 unless the process is shifted. Data is N(m, P_0), whose distribution at time t is N(A m + b, A P_0 A^T + C). The
checks::

    kernel mean         dA/dt = F A                             integrated from t_0 = T/100
    kernel shift        db/dt = F b + c,  and b near 0 at t = 0
    kernel covariance   dC/dt = F C + C F^T + G G^T
    transition          A_t = A_(t|s) A_s,  b_t = A_(t|s) b_s + b_(t|s),  C_t = A_(t|s) C_s A_(t|s)^T + C_(t|s)
                        and the composition of s -> u -> t
    posterior           mean and covariance of q(x_s | x_t, x_0), by Bayes' rule from kernel and transition
    prior               E KL(q(x_T | x_0) || prior) in nats per coordinate, for data of standard deviation data_std;
                        512 samples of the prior, whitened
    conversions         score -> noise -> score, score -> data -> score, and the score of the kernel at A x_0 + L z
    probability flow    Gaussian data, integrated back from T by the probability flow and by the moments of the
                        reverse SDE
    log-likelihood      log p_0 = log p_T + integral of the divergence of the flow, for Gaussian data
    monotonicity        log_noise increases with t
    shapes and types    the output has the dtype of the input, for any event shape that the process allows
    edge times          finite at t_0 and T, ValueError outside [0, T]

If a kernel and its SDE disagree, common mistakes are tried one after the other. The report names the one that explains
the error.
"""

from scoresde.sde.checks.dense import DenseProcess
from scoresde.sde.checks.report import PRIOR_LIMIT, TOLERANCE, CheckReport, CheckRow
from scoresde.sde.checks.run import check

__all__ = ["PRIOR_LIMIT", "TOLERANCE", "CheckReport", "CheckRow", "DenseProcess", "check"]
