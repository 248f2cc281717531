"""What covariance a mixture may have and how it is maximised: one structure a file, the same names in each.

To add a structure, write its file and add its row to STRUCTURES; estimator, engine and tests find it there. Those that
have three letters are mclust's: whether volume, shape and orientation (I: along the axes) are equal or vary between
components. The five that are not here, VEI, VEE, EVE, VVE and VEV, join in the same way: their `maximise` iterates on
the statistics it is given until it stands still.
"""

from types import ModuleType

from fastgmm.covariance import diag, eei, eev, eii, evi, evv, full, spherical, tied
from fastgmm.covariance.prior import Hyperparameters, Prior, flat
from fastgmm.covariance.update import Parameters, Update

STRUCTURES: dict[str, ModuleType] = {
    "full": full,
    "tied": tied,
    "diag": diag,
    "spherical": spherical,
    "EII": eii,
    "EEI": eei,
    "EVI": evi,
    "EEV": eev,
    "EVV": evv,
}
# mclust's names of the first four.
ALIASES = {"VVV": "full", "EEE": "tied", "VVI": "diag", "VII": "spherical"}
STRUCTURES |= {alias: STRUCTURES[name] for alias, name in ALIASES.items()}


def count_parameters(covariance_type: str, k: int, d: int) -> int:
    """Free parameters of k components in d features: means, covariances, and weights that sum to 1."""
    return int(STRUCTURES[covariance_type].n_covariance_parameters(k, d) + k * d + k - 1)


__all__ = ["ALIASES", "STRUCTURES", "Hyperparameters", "Parameters", "Prior", "Update", "count_parameters", "flat"]
