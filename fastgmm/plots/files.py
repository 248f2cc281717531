"""Pictures as files."""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

DOTS_PER_INCH = 150


def save(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Write a figure to a file, whole or not at all.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure, such as `ax.figure`.
    path : path-like
        Where to write; the suffix chooses the format. Its folder must exist.

    Returns
    -------
    pathlib.Path
        The path written.

    Examples
    --------
    >>> from fastgmm import Mixture, plots
    >>> ax = plots.components(Mixture([1.0], [[0.0, 0.0]], [1.0], "spherical"))
    >>> plots.save(ax.figure, "components.png").stat().st_size > 10_000
    True
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    try:
        figure.savefig(name, dpi=DOTS_PER_INCH)
        os.chmod(name, 0o666 & ~_file_mode_mask())  # mkstemp's files are the owner's alone
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    return path


def _file_mode_mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
