"""Components as covariance ellipses over points."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike

from fastgmm.mixture import Mixture
from fastgmm.plots.given import check_labels, check_mixture, check_plane, check_rows, name_features
from fastgmm.plots.looks import (
    POINT_COLOUR,
    choose_points,
    count_points,
    draw_points,
    label_plane,
    look,
    new_axes,
    place_legend_below,
    shorten,
)

# Share of a bivariate Gaussian within one and two standard deviations (Mahalanobis distance): 1 - exp(-s²/2).
DEVIATIONS = {1: ("-", "1 standard deviation (holds 39 %)"), 2: ("--", "2 standard deviations (hold 86 %)")}
_SIZE = (7.0, 6.0)
_HALO = (withStroke(linewidth=3.5, foreground="white"),)


def components(
    mixture: Mixture,
    X: ArrayLike | None = None,
    *,
    dims: ArrayLike = (0, 1),
    names: Sequence[str] | None = None,
    title: str = "Components",
    ax: Axes | None = None,
) -> Axes:
    """Draw a mixture's components as covariance ellipses, over points if there are any.

    Parameters
    ----------
    mixture : Mixture
        The distribution, of two features at least. Components of weight 0 are left out.
    X : array-like of shape (n, d), optional
        Points; 20,000 of them, if there are more. One of which an entry is missing is not seen.
    dims : two of int, or mask of shape (d,), default=(0, 1)
        The features drawn, from left to right and upwards.
    names : sequence of str, optional
        Names of all d features; by default X's own where it is a frame.
    title : str, optional
        Title of the axes.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    TypeError
        If `mixture` is none.
    ValueError
        If `dims` does not name two of its features, or X or `names` are not of d.

    Examples
    --------
    >>> from fastgmm import Mixture, plots
    >>> mixture = Mixture([0.5, 0.5], [[0.0, 0.0, 0.0], [3.0, 1.0, 2.0]], [1.0, 2.0], "spherical")
    >>> ax = plots.components(mixture, mixture.rvs(500, random_state=0), dims=(0, 2))
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('feature 0', 'feature 2')
    """
    check_mixture(mixture)
    plane, names = check_plane(dims, mixture.n_features), name_features(names, X, mixture.n_features)
    rows = None if X is None else check_rows(X, mixture.n_features)
    ax = new_axes(_SIZE) if ax is None else ax
    handles = shorten(draw_components(ax, mixture.marginal(plane)))
    if rows is not None:
        handles.append(draw_cloud(ax, rows[:, plane]))
    label_plane(ax, [names[j] for j in plane], title)
    place_legend_below(ax, [*handles, *_explain_ellipses()])
    return ax


def classes(
    mixture: Mixture,
    X: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    dims: ArrayLike = (0, 1),
    names: Sequence[str] | None = None,
    title: str = "Points by their most probable component",
    ax: Axes | None = None,
) -> Axes:
    """Draw points in the colours of their components, and these as covariance ellipses.

    Parameters
    ----------
    mixture : Mixture
        The distribution, of two features at least. Components of weight 0 are left out.
    X : array-like of shape (n, d)
        Points; 20,000 of them are drawn, if there are more. One of which an entry is missing is not seen.
    labels : array-like of int of shape (n,), optional
        The component of each point, as `predict` returns it; by default the most probable one.
    dims, names, title, ax
        As `components` has them.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    TypeError
        If `mixture` is none.
    ValueError
        If `dims` does not name two of its features, X or `names` are not of d, or `labels` are not components of X's
        rows.

    Examples
    --------
    >>> from fastgmm import Mixture, plots
    >>> mixture = Mixture([0.5, 0.5], [[0.0, 0.0], [9.0, 0.0]], [1.0, 2.0], "spherical")
    >>> points, labels = mixture.rvs(500, random_state=0, return_labels=True)
    >>> ax = plots.classes(mixture, points, labels)
    >>> ax.get_legend().get_texts()[0].get_text()
    'component 0: weight 0.50, 254 points'
    """
    check_mixture(mixture)
    plane, names = check_plane(dims, mixture.n_features), name_features(names, X, mixture.n_features)
    rows = check_rows(X, mixture.n_features)
    if labels is None:
        labels = mixture.evaluate(rows, "labels", missing=True).labels
    found = check_labels(labels, len(rows), mixture.n_components)
    ax = new_axes(_SIZE) if ax is None else ax
    handles = draw_classes(ax, rows[:, plane], found, mixture.weights)
    draw_components(ax, mixture.marginal(plane))
    label_plane(ax, [names[j] for j in plane], title)
    place_legend_below(ax, [*shorten(handles), *_explain_ellipses()])
    return ax


def draw_cloud(ax: Axes, points: np.ndarray, colour: str = POINT_COLOUR) -> Any:
    """Scatter points (n, 2) that are all alike; return the legend's entry."""
    drawn = points[choose_points(len(points))]
    draw_points(ax, drawn, len(drawn), color=colour)
    return Line2D([], [], color=colour, ls="", marker="o", markersize=4, label=count_points(len(points)))


def draw_classes(ax: Axes, points: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> list[Any]:
    """Scatter points (n, 2) in the colours of their components; return the legend's entries."""
    drawn, handles = choose_points(len(points)), []
    for c, weight in enumerate(weights):
        colour, marker = look(c)
        members = points[drawn[labels[drawn] == c]]
        draw_points(ax, members, len(drawn), color=colour, marker=marker)
        label = f"component {c}: weight {weight:.2f}, {(labels == c).sum():,} points"
        handles.append(Line2D([], [], color=colour, ls="", marker=marker, markersize=5, label=label))
    return handles


def draw_components(ax: Axes, plane: Mixture, small: bool = False) -> list[Any]:
    """Draw ellipses and means of a mixture of two features, numbered unless `small`; return the legend's entries."""
    handles = []
    width = 1.2 if small else 2.0
    for c in np.flatnonzero(plane.weights).tolist():
        colour, _ = look(c)
        mean = plane.means[c]
        for deviations, (style, _) in DEVIATIONS.items():
            ax.add_patch(make_ellipse(mean, plane.covariances_dense[c], deviations, colour, style, width))
        cross: dict[str, Any] = {"marker": "+", "markersize": 4.5 * width, "markeredgewidth": width}
        ax.plot(*mean, ls="", color=colour, path_effects=_HALO, zorder=4, **cross)
        if not small:
            text: dict[str, Any] = {"color": colour, "weight": "bold", "path_effects": _HALO, "zorder": 5}
            ax.annotate(str(c), mean, (4, 4), textcoords="offset points", **text)
        handles.append(Line2D([], [], color=colour, label=f"component {c}: weight {plane.weights[c]:.2f}"))
    return handles


def make_ellipse(
    mean: np.ndarray, covariance: np.ndarray, deviations: float, colour: str, style: str, width: float
) -> Ellipse:
    """The points at a Mahalanobis distance of `deviations` from the mean."""
    variances, directions = np.linalg.eigh(covariance)
    # eigh sorts upwards: the last direction is the long axis.
    angle = float(np.degrees(np.arctan2(directions[1, -1], directions[0, -1])))
    long, short = 2.0 * deviations * np.sqrt(variances[::-1])
    look_of_line: dict[str, Any] = {"edgecolor": colour, "linestyle": style, "linewidth": width}
    return Ellipse(tuple(mean), long, short, angle=angle, fill=False, path_effects=_HALO, zorder=3, **look_of_line)


def _explain_ellipses() -> list[Any]:
    return [Line2D([], [], color="black", ls=style, label=label) for style, label in DEVIATIONS.values()]
