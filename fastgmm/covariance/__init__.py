"""What covariance a mixture may have and how it is maximised: one structure a file, the same names in each.

To add a structure, write its file and add its row to STRUCTURES; estimator, engine and tests find it there.
"""

from types import ModuleType

from fastgmm.covariance import diag, full, spherical, tied
from fastgmm.covariance.prior import Hyperparameters, Prior, flat
from fastgmm.covariance.update import Parameters, Update

STRUCTURES: dict[str, ModuleType] = {"full": full, "tied": tied, "diag": diag, "spherical": spherical}

__all__ = ["STRUCTURES", "Hyperparameters", "Parameters", "Prior", "Update", "flat"]
