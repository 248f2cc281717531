"""A mixture's parameters in an npz file."""

from pathlib import Path

import numpy as np

from fastgmm.covariance import STRUCTURES, Parameters
from fastgmm.mixture.parameters import check_parameters


def write(path: str | Path, parameters: Parameters, covariance_type: str) -> None:
    """Write to a NumPy .npz file, without pickle."""
    arrays = parameters._asdict() | {"covariance_type": np.array(covariance_type)}
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def read(path: str | Path) -> tuple[Parameters, str]:
    """Read what `write` wrote, factors to the bit.

    Raises
    ------
    ValueError
        If the file is no .npz archive, lacks an array, or holds parameters that are not a mixture's.
    """
    arrays = _read_arrays(path)
    missing = {*Parameters._fields, "covariance_type"} - set(arrays)
    if missing:
        raise ValueError(f"{path} is not a saved Mixture: it has no {', '.join(sorted(missing))}.")
    parameters = Parameters(*(arrays[name] for name in Parameters._fields))
    covariance_type = str(arrays["covariance_type"])
    checked = check_parameters(*parameters[:3], covariance_type)
    if parameters.factors.shape != checked.factors.shape or not _factors_fit(parameters, covariance_type):
        raise ValueError(f"{path} is damaged: its factors are not those of its covariances.")
    return parameters, covariance_type


def _factors_fit(parameters: Parameters, covariance_type: str) -> bool:
    """Whether F Σ Fᵀ = 1 but for rounding, which F of a large condition magnifies."""
    structure, (k, d) = STRUCTURES[covariance_type], parameters.means.shape
    covariances, factors = (structure.dense(part, k, d) for part in parameters[2:])
    if not np.isfinite(factors).all():
        return False
    scale = (factors**2).sum(axis=(1, 2)) * np.einsum("cjj->c", covariances)
    errors = np.abs(factors @ covariances @ factors.swapaxes(1, 2) - np.eye(d)).max(axis=(1, 2))
    return bool((errors <= 1e-8 + 1e-13 * scale).all())


def _read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        try:
            with np.lib.npyio.NpzFile(file, allow_pickle=False) as saved:
                return {name: saved[name] for name in saved.files}
        except Exception as error:  # damaged bytes make zipfile and NumPy raise errors of a dozen kinds
            raise ValueError(f"{path} is not a saved Mixture: {error}.") from None
