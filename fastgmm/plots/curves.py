"""Numbers against numbers: criteria against components, log-likelihoods against iterations."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from fastgmm.criteria import CRITERIA
from fastgmm.plots.looks import COLOURS, LINE_STYLES, look, new_axes, place_legend_beside, shorten

_SIZE = (7.4, 4.8)
_ROUNDING = 1e-9


def criteria(
    results: Mapping[str, ArrayLike],
    criterion: str | Sequence[str] = "bic",
    *,
    title: str | None = None,
    ax: Any = None,
) -> Any:
    """Draw a criterion against the number of components, a line for every covariance structure.

    Parameters
    ----------
    results : mapping of str to array-like of shape (n_models,)
        Columns of a table: `results_` of a `GaussianMixtureIC`, or a frame of it. Needed are "n_components",
        "covariance_type" and the criterion, of which the lower is the better and NaN left out. Where there is
        "converged", models that did not are hollow.
    criterion : {"bic", "aic", "icl", "heldout"} or sequence of these, default="bic"
        What is drawn; several are, side by side on one scale.
    title : str, optional
        Title of the axes; by default it names the lowest point.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on, of several criteria a sequence of as many, the last of which gets the legend; by default those
        of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on; of several criteria a sequence.

    Raises
    ------
    ValueError
        If there is no such criterion, a column is missing, there is no value, or not as many axes as criteria.

    Examples
    --------
    >>> from fastgmm import plots
    >>> table = {"n_components": [1, 2, 1, 2], "covariance_type": ["full", "full", "diag", "diag"]}
    >>> ax = plots.criteria(table | {"bic": [180.0, 130.0, 170.0, 140.0]})
    >>> ax.get_title()
    'BIC: lowest with 2 components, full'
    """
    if isinstance(criterion, str):
        table = _read(results, criterion)
        ax = new_axes(_SIZE) if ax is None else ax
        _draw_criterion(ax, table, CRITERIA[criterion], title)
        place_legend_beside(ax, ax.get_legend_handles_labels()[0], title="covariance")
        return ax
    tables = [_read(results, name) for name in criterion]
    axes = _side_by_side(len(tables)) if ax is None else ax
    if len(axes) != len(tables):
        raise ValueError(f"ax must hold {len(tables)} axes, one for each criterion, but holds {len(axes)}.")
    for each, name, table in zip(axes, criterion, tables, strict=True):
        _draw_criterion(each, table, CRITERIA[name], title)
    place_legend_beside(axes[-1], axes[-1].get_legend_handles_labels()[0], title="covariance")
    return axes


def _side_by_side(m: int) -> Any:
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(5.0 * m + 1.2, 4.8), layout="constrained")
    axes = figure.subplots(1, m, sharey=True, squeeze=False)[0]
    for each in axes:
        each.yaxis.set_tick_params(labelleft=True)
    return axes


class _Table(NamedTuple):
    """Columns, a row for every model; the value of one that failed is NaN."""

    sizes: np.ndarray
    structures: np.ndarray
    values: np.ndarray
    converged: np.ndarray


def _read(results: Mapping[str, ArrayLike], criterion: str) -> _Table:
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, but got {criterion!r}.")
    for name in ("n_components", "covariance_type", criterion):
        if name not in results:
            raise ValueError(f"results has no column {name!r}; GaussianMixtureIC's results_ is such a table.")
    values = np.asarray(results[criterion], dtype=np.float64)
    known = np.isfinite(values)
    if not known.any():
        hint = ": rows are held out only where criterion='heldout'" if criterion == "heldout" else ""
        raise ValueError(f"There is no value of {criterion!r}{hint}.")
    converged = np.asarray(results.get("converged", known), dtype=bool)
    columns = np.asarray(results["n_components"]), np.asarray(results["covariance_type"])
    return _Table(*columns, np.where(known, values, np.nan), converged | ~known)


def _draw_criterion(ax: Axes, table: _Table, name: str, title: str | None) -> None:
    sizes, structures, values, converged = table
    for index, structure in enumerate(dict.fromkeys(structures.tolist())):
        colour, marker = look(index)
        mine = np.flatnonzero(structures == structure)
        mine = mine[np.argsort(sizes[mine], kind="stable")]
        if np.isnan(values[mine]).all():
            continue
        # Shrinking markers: where lines meet (one component is tied and full at once) all stay visible.
        shape: dict[str, Any] = {"color": colour, "marker": marker, "markersize": max(10.0 - 1.5 * index, 4.0)}
        ax.plot(sizes[mine], values[mine], ls=LINE_STYLES[index % len(LINE_STYLES)], label=structure, **shape)
        short = mine[~converged[mine]]
        ax.plot(sizes[short], values[short], ls="", markerfacecolor="white", zorder=3, **shape)
    # Of equals, but for rounding, the first.
    least = float(np.nanmin(values))
    best = int(np.flatnonzero(values <= least + _ROUNDING * abs(least))[0])
    ring: dict[str, Any] = {"markersize": 17, "markerfacecolor": "none", "markeredgewidth": 1.6}
    ax.plot(sizes[best], values[best], marker="o", color="black", ls="", label="lowest", zorder=4, **ring)
    if not converged.all():
        ax.plot([], [], marker="o", color="black", ls="", markerfacecolor="white", label="not converged")
    plural = "" if sizes[best] == 1 else "s"
    ax.set_title(title or f"{name}: lowest with {sizes[best]} component{plural}, {structures[best]}")
    ax.set(xlabel="number of components", ylabel=f"{name} (lower is better)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter("{x:,.10g}")
    ax.margins(0.06)
    ax.grid(alpha=0.3)


def trace(report: Any, *, scale: str = "linear", title: str = "Starts", ax: Axes | None = None) -> Axes:
    """Draw the log-likelihood of each iteration, a line for every start.

    Parameters
    ----------
    report : FitReport
        `fit_report_` of a fitted `GaussianMixture`. The start that was kept is thick; the end of one that failed has a
        cross.
    scale : {"linear", "log"}, default="linear"
        "log" draws how far each is below the highest that any start reached, on a logarithmic scale: where the first
        iterations dwarf what starts differ in at the end.
    title : str, optional
        Title of the axes.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on. With a prior it is the log posterior that they show.

    Raises
    ------
    ValueError
        If there is no such `scale`.

    Examples
    --------
    >>> from fastgmm import GaussianMixture, Mixture, plots
    >>> X = Mixture([0.5, 0.5], [[0.0], [3.0]], [1.0, 1.0], "spherical").rvs(200, random_state=0)
    >>> gm = GaussianMixture(2, n_init=3, init_params="random_from_data", random_state=0).fit(X)
    >>> ax = plots.trace(gm.fit_report_)
    >>> len(ax.get_lines()[0].get_xdata()) == gm.fit_report_.starts[0].iterations
    True
    """
    if scale not in ("linear", "log"):
        raise ValueError(f'scale must be "linear" or "log", but got {scale!r}.')
    ax = new_axes(_SIZE) if ax is None else ax
    climbs = [np.array(start.log_likelihoods, dtype=np.float64) for start in report.starts]
    highest = max((climb.max() for climb in climbs if climb.size), default=0.0)
    lines: list[Any] = []
    for index, (start, climb) in enumerate(zip(report.starts, climbs, strict=True)):
        heights = np.where(climb < highest, highest - climb, np.nan) if scale == "log" else climb
        kept, failed = index == report.best, start.outcome == "failed"
        ending = ", kept" if kept else "" if start.outcome == "converged" else f", {start.outcome}"
        lines += ax.plot(
            np.arange(1, len(climb) + 1),
            heights,
            color=COLOURS[index % len(COLOURS)],
            linewidth=2.5 if kept else 1.2,
            zorder=3 if kept else 2,
            marker="x" if failed else "o",
            markersize=8 if failed else 4,
            markevery=np.flatnonzero(np.isfinite(heights))[-1:].tolist(),
            label=f"start {index}{ending}",
        )
    if scale == "log":
        ax.set_yscale("log")
    below = f"nats below the highest, {highest:.6g}"
    ax.set(xlabel="iteration", ylabel=below if scale == "log" else "log-likelihood per row", title=title)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.3)
    place_legend_beside(ax, shorten(sorted(lines, key=lambda line: line.get_zorder(), reverse=True)))
    return ax
