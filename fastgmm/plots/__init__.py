"""Pictures of mixtures, of the choice among them, and of how their fits went.

The only room that imports matplotlib. Functions take a `Mixture`, arrays and tables, never estimators; an `ax` to draw
on, by default one of a new figure of pyplot's, found as `ax.figure`; and return it. The first colours are told apart by
every kind of colour vision; markers, line styles and numbers repeat what they say.
"""

try:
    import matplotlib  # noqa: F401
except ImportError as missing:  # pragma: no cover - the tests have matplotlib
    raise ImportError('Pictures need matplotlib: python -m pip install "fastgmm[plots]"') from missing

from fastgmm.plots.corner import pairs
from fastgmm.plots.curves import criteria, trace
from fastgmm.plots.densities import density
from fastgmm.plots.ellipses import classes, components
from fastgmm.plots.files import save

__all__ = ["classes", "components", "criteria", "density", "pairs", "save", "trace"]
