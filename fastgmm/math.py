"""Elementary functions for log-densities: `numba.njit` functions that call these run in SIMD lanes.

The C library's, which `math.exp` and the like become in compiled code, are calls that handle one number after the
other. These are put into the caller and vectorised with it, take any argument, raise nothing, and have the same bits
in any loop and without compiling. Errors are in units of the last place of the result (ulp).

Examples
--------
>>> import numba
>>> import numpy as np
>>> from fastgmm import math, sample
>>> @numba.njit
... def logistic(X, out):
...     for w in range(X.shape[1]):
...         out[w] = -X[0, w] - 2.0 * math.log1p(math.exp(-X[0, w]))
>>> sample(logistic, start=np.zeros(1), draws=50, chains=100, vectorized=True, seed=0).draws.shape
(100, 50, 1)
"""

from fastgmm.kernels.elementary import exp, expm1, log, log1p, logaddexp, sqrt

__all__ = ["exp", "expm1", "log", "log1p", "logaddexp", "sqrt"]
