"""Elementary functions for log-densities: `numba.njit` functions that call these run in SIMD lanes.

The C library's, which `math.exp` and the like become in compiled code, are calls that handle one number after the
other. These are put into the caller and vectorised with it, take any argument, raise nothing, and have the same bits
in any loop and without compiling. Errors are in units of the last place of the result (ulp).
"""

from fastgmm.kernels.elementary import exp, expm1, log, log1p, logaddexp, sqrt

__all__ = ["exp", "expm1", "log", "log1p", "logaddexp", "sqrt"]
