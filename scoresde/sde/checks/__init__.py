"""Any linear process held to its own mathematics: `check(process)` is a table of what agrees and what does not, with figures.

Everything is read through the public methods, in float64, on zero and unit vectors: F x + c from `drift`, G from
`apply_diffusion`, the mean A x + b and C = L L^T from `kernel`; c and b are 0 unless the process is shifted. Data is N(m, P_0),
whose law at every time is N(A m + b, A P_0 A^T + C). The checks:

    kernel mean         dA/dt = F A                             integrated from t_0 = T/100
    kernel shift        db/dt = F b + c,  and b near 0 at t = 0
    kernel covariance   dC/dt = F C + C F^T + G G^T
    transition          A_t = A_(t|s) A_s,  b_t = A_(t|s) b_s + b_(t|s),  C_t = A_(t|s) C_s A_(t|s)^T + C_(t|s)
                        and s < u < t composed
    posterior           covariance of x_s given x_t and x_0, by Bayes from kernel and transition
    prior               E KL(q(x_T | x_0) || prior), nats per coordinate, for data of standard deviation ``data_std``; 512 draws
                        whitened by it
    conversions         score -> noise -> score, score -> data -> score, and the kernel's own score at A x_0 + L z
    flow and back       Gaussian data carried back from T by the probability flow and by the reverse SDE's moments
    log-likelihood      log p_0 = log p_T + integral of the flow's divergence, for Gaussian data
    noise rises         log_noise increases with t
    shapes and types    float32 and float64 in, the same out; any event rank where the process takes any
    edge times          finite at t_0 and T, refused outside [0, T]

Where a kernel and its SDE disagree, common slips are tried one after the other, and the one that explains the figures is named.
"""

from scoresde.sde.checks.report import PRIOR_LIMIT, TOLERANCE, CheckReport, CheckRow
from scoresde.sde.checks.run import check
from scoresde.sde.checks.subject import Subject

__all__ = ["PRIOR_LIMIT", "TOLERANCE", "CheckReport", "CheckRow", "Subject", "check"]
