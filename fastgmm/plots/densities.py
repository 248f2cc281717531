"""A density of two features, as contours or as a surface."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from fastgmm.mixture import Mixture
from fastgmm.plots.ellipses import draw_cloud
from fastgmm.plots.given import check_mixture, check_plane, check_rows, name_features
from fastgmm.plots.looks import COLOURS, CONTOUR_MAP, SURFACE_MAP, label_plane, new_axes, place_legend_below

_LINES = 150  # of a regular grid along each feature; a mixture's quantiles join them
_TAIL = 1e-4  # of the probability, left out of sight at each end of a feature
_DRAWS = 20_000  # that tell which level holds a share of the probability


def density(
    target: Mixture | Callable[[np.ndarray], ArrayLike],
    X: ArrayLike | None = None,
    *,
    dims: ArrayLike = (0, 1),
    kind: str = "contours",
    levels: int | ArrayLike = 10,
    shares: ArrayLike | None = None,
    limits: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    title: str = "Density",
    label: str = "density",
    ax: Any = None,
) -> Any:
    """Draw the density of two features, whatever the others are: contours, over points or without, or a surface.

    Parameters
    ----------
    target : Mixture or callable
        The distribution, of two features at least; or any function of two features, called as `target(points)` with
        points (m, 2), which returns m values of at least 0. That needs `limits`.
    X : array-like of shape (n, d), optional
        Points; 20,000 of them are drawn, if there are more. Not for a surface, which would hide them.
    dims : two of int, or mask of shape (d,), default=(0, 1)
        The features drawn, from left to right and upwards. A function has these two alone.
    kind : {"contours", "surface"}, default="contours"
        What is drawn.
    levels : int or array-like, default=10
        About so many contours in equal steps, or those of these densities.
    shares : array-like, optional
        Contours that hold these shares of the probability instead: where a mixture's components have very unequal
        widths, equal steps show but the narrowest. They are found from 20,000 draws.
    limits : ((float, float), (float, float)), optional
        From where to where each of the two features is drawn; by default over all but 1e-4 of the probability at each
        end, and over X.
    names : sequence of str, optional
        Names of all d features; by default X's own where it is a frame.
    title, label : str, optional
        Title of the axes, and what the density is called.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on, for a surface of `projection="3d"`; by default those of a new figure. A bar beside them gives
        the densities of the colours.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    TypeError
        If `target` is neither a Mixture nor a function.
    ValueError
        If `dims` does not name two of its features, X or `names` are not of d, there is no such `kind`, `limits`,
        `levels` or `shares` are none, or the axes are not of the right projection.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgmm import Mixture, plots
    >>> mixture = Mixture([0.5, 0.5], [[0.0, 0.0, 0.0], [3.0, 1.0, 2.0]], [1.0, 2.0], "spherical")
    >>> ax = plots.density(mixture, mixture.rvs(500, random_state=0), dims=(0, 2), shares=[0.5, 0.9])
    >>> ring = lambda points: np.exp(-(np.hypot(*points.T) - 1.0) ** 2 / 0.1)
    >>> plots.density(ring, limits=((-2, 2), (-2, 2)), kind="surface").name
    '3d'
    """
    if kind not in ("contours", "surface"):
        raise ValueError(f'kind must be "contours" or "surface", but got {kind!r}.')
    if ax is not None and (getattr(ax, "name", "") == "3d") != (kind == "surface"):
        needed = 'of projection="3d"' if kind == "surface" else "of the plane"
        raise ValueError(f"{kind} needs axes {needed}, but got {ax!r}.")
    d, plane = 2, np.arange(2)
    if isinstance(target, Mixture) or not callable(target):
        check_mixture(target)
        d, plane = target.n_features, check_plane(dims, target.n_features)
        target = target.marginal(plane)
    rows = None if X is None else check_rows(X, d)[:, plane]
    if kind == "surface" and rows is not None:
        raise ValueError("A surface would hide points: leave X out, or draw contours.")
    all_names = name_features(names, X, d)
    names = [all_names[j] for j in plane]
    x, y = _grid(target, rows, limits)
    height = _evaluate(target, x, y)
    if kind == "surface":
        ax = new_axes((7.2, 5.4), projection="3d") if ax is None else ax
        _draw_surface(ax, x, y, height, names, title, label)
        return ax
    chosen = _choose_levels(levels, height) if shares is None else _levels_that_hold(shares, target)
    ax = new_axes((7.0, 6.0)) if ax is None else ax
    lines = _draw_contours(ax, x, y, height, chosen, label)
    handles = [Line2D([], [], color=lines.colors[len(lines.colors) // 2], label=f"contours of the {label}")]
    if rows is not None:
        handles.insert(0, draw_cloud(ax, rows, COLOURS[1]))
        place_legend_below(ax, handles)
    label_plane(ax, names, title)
    return ax


class _Levels(NamedTuple):
    """Densities where contours are drawn, and what the bar beside them says of each."""

    values: np.ndarray
    texts: list[str] | None  # None: the densities
    label: str


def _choose_levels(levels: Any, height: np.ndarray) -> _Levels:
    if isinstance(levels, (int, np.integer)) and levels >= 1:
        peak = float(height.max())
        ticks = np.asarray(MaxNLocator(int(levels)).tick_values(0.0, peak))
        inside = ticks[(ticks > 0.0) & (ticks < peak)]
        return _Levels(inside if inside.size else np.array([0.5 * peak]), None, "")
    values = np.unique(np.asarray(levels, dtype=np.float64))
    if np.ndim(levels) != 1 or not values.size or not values[0] > 0.0:
        raise ValueError(f"levels must be a number of contours, or densities above 0, but got {levels!r}.")
    return _Levels(values, None, "")


def _levels_that_hold(shares: Any, target: Any) -> _Levels:
    """The densities p with P(p(X) > p) = share."""
    if not isinstance(target, Mixture):
        raise ValueError("Which contours hold shares of the probability is known of a Mixture only; give levels.")
    held = np.unique(np.asarray(shares, dtype=np.float64))[::-1]
    if not held.size or not (held[-1] > 0.0 and held[0] < 1.0):
        raise ValueError(f"shares must be between 0 and 1, but got {shares!r}.")
    values = np.quantile(target.pdf(target.rvs(_DRAWS, random_state=0)), 1.0 - held)
    return _Levels(values, [f"{share:.4g}" for share in held], "share of the probability within")


def _evaluate(target: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The density at every pair, rows along y."""
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    height = np.asarray((target.pdf if isinstance(target, Mixture) else target)(points), dtype=np.float64)
    if height.shape != (len(points),):
        raise ValueError(f"target must return ({len(points)},) values for so many points, but returned {height.shape}.")
    if not (height >= 0.0).all() or not np.isfinite(height).all():
        where = points[np.flatnonzero(~(np.isfinite(height) & (height >= 0.0)))[0]]
        raise ValueError(f"target must be finite and at least 0, but is not at {where}.")
    return height.reshape(len(y), len(x))


def _grid(target: Any, rows: np.ndarray | None, limits: Any) -> list[np.ndarray]:
    """Lines across both features; of a mixture they are the denser, the more of the probability is there."""
    if limits is None and not isinstance(target, Mixture):
        raise ValueError("A function does not say where to look: give limits as ((least, most), (least, most)).")
    if limits is not None:
        ends = np.asarray(limits, dtype=np.float64)
        if ends.shape != (2, 2) or not np.isfinite(ends).all() or (ends[:, 0] >= ends[:, 1]).any():
            raise ValueError(f"limits must be ((least, most), (least, most)), but got {limits!r}.")
    grid = []
    for j in range(2):
        quantiles = np.empty(0)
        if isinstance(target, Mixture):
            quantiles = target.marginal(j).ppf(np.linspace(_TAIL, 1.0 - _TAIL, _LINES))
        low, high = ends[j] if limits is not None else _span(quantiles, None if rows is None else rows[:, j])
        within = quantiles[(low < quantiles) & (quantiles < high)]
        grid.append(np.unique(np.concatenate([np.linspace(low, high, _LINES), within])))
    return grid


def _span(quantiles: np.ndarray, points: np.ndarray | None) -> tuple[float, float]:
    """From where to where a feature is drawn."""
    seen = quantiles if points is None else np.concatenate([quantiles, points])
    low, high = np.nanmin(seen), np.nanmax(seen)
    margin = 0.03 * (high - low)
    return low - margin, high + margin


def _draw_contours(ax: Axes, x: np.ndarray, y: np.ndarray, height: np.ndarray, levels: _Levels, label: str) -> Any:
    """Draw contours with pale fills: points stay visible on all of them, and the lines carry the levels."""
    colours, steps = colormaps[CONTOUR_MAP], np.linspace(0.0, 1.0, len(levels.values))
    peak = max(float(height.max()), np.nextafter(levels.values[-1], np.inf))
    fills = ax.contourf(x, y, height, [*levels.values, peak], colors=colours(0.1 + 0.6 * steps), alpha=0.4)
    lines = ax.contour(x, y, height, levels.values, colors=colours(0.45 + 0.55 * steps), linewidths=1.4, zorder=3)
    bar = ax.figure.colorbar(fills, ax=ax, label=levels.label or label, ticks=levels.values)
    bar.add_lines(lines)
    if levels.texts is not None:
        bar.set_ticklabels(levels.texts)
    return lines


def _draw_surface(
    ax: Any, x: np.ndarray, y: np.ndarray, height: np.ndarray, names: Sequence[str], title: str, label: str
) -> None:
    """Draw a surface with a bar of its colours."""
    surface = ax.plot_surface(
        *np.meshgrid(x, y), height, rcount=220, ccount=220, cmap=SURFACE_MAP, linewidth=0, antialiased=False
    )
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.set_zlabel(label, labelpad=8)
    ax.set_title(title, y=1.0)
    ax.view_init(elev=30, azim=-58)
    ax.set_box_aspect((1, 1, 0.72), zoom=0.93)
    ax.figure.colorbar(surface, ax=ax, shrink=0.7, aspect=18, pad=0.12, label=label)
