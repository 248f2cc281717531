"""All pairs of features at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from fastgmm.mixture import Mixture
from fastgmm.mixture.conditional import check_dims
from fastgmm.plots.ellipses import draw_classes, draw_cloud, draw_components
from fastgmm.plots.given import check_labels, check_mixture, check_rows, name_features
from fastgmm.plots.looks import POINT_COLOUR, look, shorten

_TAIL = 1e-3  # of the probability, left out of a curve at each end
_INCHES = 2.0  # of each picture
_BINS = 40


def pairs(
    mixture: Mixture,
    X: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    *,
    dims: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    title: str = "",
    ax: Any = None,
) -> np.ndarray:
    """Draw each feature's density and, below it, each pair's components: a corner plot.

    Parameters
    ----------
    mixture : Mixture
        The distribution. Components of weight 0 are left out.
    X : array-like of shape (n, d), optional
        Points, as histograms beside the densities and under the ellipses; of these 20,000, if there are more.
    labels : array-like of int of shape (n,), optional
        The component of each point, whose colour it then has.
    dims : array-like of int, or mask of shape (d,), optional
        Which m features are drawn, and in what order; by default all.
    names : sequence of str, optional
        Names of all d features; by default X's own where it is a frame.
    title : str, optional
        Title of the figure that is made where there is no `ax`.
    ax : ndarray of matplotlib.axes.Axes of shape (m, m), optional
        Axes to draw on, such as `pyplot.subplots(m, m)` returns; by default those of a new figure. Those above the
        diagonal are emptied; the last of the first row holds the legend.

    Returns
    -------
    ndarray of matplotlib.axes.Axes of shape (m, m)
        The axes drawn on.

    Raises
    ------
    TypeError
        If `mixture` is none.
    ValueError
        If `dims` names features that are not there, X or `names` are not of d, `labels` are not components of X's rows,
        or there are not as many axes as pictures.

    Examples
    --------
    >>> from fastgmm import Mixture, plots
    >>> mixture = Mixture([0.5, 0.5], [[0.0, 0.0, 0.0], [3.0, 1.0, 2.0]], [1.0, 2.0], "spherical")
    >>> axes = plots.pairs(mixture, mixture.rvs(500, random_state=0), names=["a", "b", "c"])
    >>> axes.shape, axes[2, 0].get_xlabel(), axes[2, 0].get_ylabel()
    ((3, 3), 'a', 'c')
    """
    check_mixture(mixture)
    d = mixture.n_features
    features, names = np.arange(d) if dims is None else check_dims(dims, d), name_features(names, X, d)
    rows = None if X is None else check_rows(X, d)
    if labels is not None:
        if rows is None:
            raise ValueError("labels are of points: give X too.")
        labels = check_labels(labels, len(rows), mixture.n_components)
    axes = _grid(len(features), title) if ax is None else np.asarray(ax, dtype=object)
    if axes.shape != (len(features),) * 2:
        raise ValueError(f"ax must have shape {(len(features),) * 2}, a row and a column for each feature, "
                         f"but got {axes.shape}.")  # fmt: skip
    handles: list[Any] = []
    for i, feature in enumerate(features):
        _draw_margin(axes[i, i], mixture.marginal(feature), None if rows is None else rows[:, feature])
        for j, other in enumerate(features[:i]):
            plane = [other, feature]
            handles = _draw_pair(axes[i, j], mixture.marginal(plane), None if rows is None else rows[:, plane], labels)
    _label(axes, [names[j] for j in features])
    if handles:
        legend = axes[0, -1].legend(handles=handles, loc="upper right", frameon=False, fontsize="small")
        legend.set_in_layout(False)  # what is above the diagonal has room
    return axes if ax is None else ax


def _grid(m: int, title: str) -> np.ndarray:
    """Axes of a new figure."""
    from matplotlib import pyplot

    side = max(6.0, _INCHES * m)
    figure = pyplot.figure(figsize=(side, side), layout="constrained")
    if title:
        figure.suptitle(title)
    return figure.subplots(m, m, squeeze=False)


def _draw_margin(ax: Axes, margin: Mixture, points: np.ndarray | None) -> None:
    """Draw the density of one feature, and in colours what each component has of it, over a histogram."""
    quantiles = margin.ppf(np.linspace(_TAIL, 1.0 - _TAIL, 200))
    x = np.unique(np.concatenate([np.linspace(quantiles[0], quantiles[-1], 200), quantiles]))
    if points is not None:
        ax.hist(points[np.isfinite(points)], bins=_BINS, density=True, color=POINT_COLOUR, alpha=0.35)
    shares = margin.pdf(x)[:, None] * margin.responsibilities(x)
    ax.plot(x, margin.pdf(x), color="black", linewidth=2.0)
    for c in np.flatnonzero(margin.weights).tolist():
        ax.plot(x, shares[:, c], color=look(c)[0], linewidth=1.2)
    ax.set_ylim(bottom=0.0)
    ax.set_yticks([])


def _draw_pair(ax: Axes, plane: Mixture, points: np.ndarray | None, labels: Any) -> list[Any]:
    """Draw the components of two features over points; return the legend's entries."""
    handles = shorten(draw_components(ax, plane, small=True))
    if points is not None and labels is None:
        handles.append(draw_cloud(ax, points))
    elif points is not None:
        draw_classes(ax, points, labels, plane.weights)
    ax.grid(alpha=0.25)
    ax.set_axisbelow(True)
    return handles


def _label(axes: np.ndarray, names: Sequence[str]) -> None:
    """Give every feature one scale, name it at the left and at the bottom, and empty what is above the diagonal."""
    m = len(names)
    for j in range(m):
        spans = [each.get_xlim() for each in axes[j:, j]] + [each.get_ylim() for each in axes[j, :j]]
        span = min(low for low, _ in spans), max(high for _, high in spans)
        for i in range(m):
            if i >= j:
                axes[i, j].set_xlim(span)
                axes[i, j].xaxis.set_major_locator(MaxNLocator(4))
                axes[i, j].tick_params(labelbottom=i == m - 1)
            else:
                axes[i, j].set_axis_off()
                axes[j, i].set_ylim(span)
                axes[j, i].yaxis.set_major_locator(MaxNLocator(4))
                axes[j, i].tick_params(labelleft=i == 0)
        axes[m - 1, j].set_xlabel(names[j])
        if j:
            axes[j, 0].set_ylabel(names[j])
