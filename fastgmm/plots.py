"""Every picture: a density as a surface, draws over contours, classes with ellipses, criteria against components.

The only place that imports matplotlib. Functions take arrays (and a `Mixture` where they draw one), an optional
`ax`, and return the axes; without `ax` they make a figure of their own, found as `axes.figure`, that belongs to no
window. Colours are Okabe and Ito's, told apart by every kind of colour vision; markers and line styles repeat what
the colours say.
"""

import contextlib
import itertools
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Ellipse
    from matplotlib.ticker import MaxNLocator
except ImportError as missing:  # pragma: no cover - the tests have matplotlib
    raise ImportError('Pictures need matplotlib: python -m pip install "fastgmm[plots]"') from missing

if TYPE_CHECKING:
    from fastgmm.mixture import Mixture

DOTS_PER_INCH = 150
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<")  # one more than colours: pairs repeat after 56 classes only
LINE_STYLES = ("-", "--", "-.", ":")
COLOUR_MAP = "cividis"
CONTOUR_MAP = "Blues"
COORDINATES = ("x₁", "x₂")

# Share of a bivariate Gaussian within one and two standard deviations (Mahalanobis distance): 1 - exp(-s²/2).
ELLIPSES = {1: ("-", "1 standard deviation (holds 39 %)"), 2: ("--", "2 standard deviations (hold 86 %)")}


def plot_surface(
    x: ArrayLike, y: ArrayLike, density: ArrayLike, *, ax: Any = None, title: str = "Density", label: str = "density"
) -> Any:
    """Draw a density of two coordinates as a surface with a colour bar.

    Parameters
    ----------
    x : array_like of shape (m,)
        Values of the first coordinate.
    y : array_like of shape (n,)
        Values of the second coordinate.
    density : array_like of shape (n, m)
        The density at every pair, rows along `y` (as `numpy.meshgrid` makes them).
    ax : mpl_toolkits.mplot3d.axes3d.Axes3D, optional
        Axes to draw on; by default those of a new figure.
    title : str, optional
        Title of the axes.
    label : str, optional
        What the height is.

    Returns
    -------
    mpl_toolkits.mplot3d.axes3d.Axes3D
        The axes drawn on.
    """
    if ax is None:
        ax = _new_axes((7.2, 5.4), projection="3d")
    grid_x, grid_y = np.meshgrid(x, y)
    surface = ax.plot_surface(
        grid_x, grid_y, np.asarray(density), rcount=220, ccount=220, cmap=COLOUR_MAP, linewidth=0, antialiased=False
    )
    ax.set(xlabel=COORDINATES[0], ylabel=COORDINATES[1])
    ax.set_zlabel(label, labelpad=8)
    ax.set_title(title, y=1.0)
    ax.view_init(elev=30, azim=-58)
    ax.set_box_aspect((1, 1, 0.72), zoom=0.93)
    ax.figure.colorbar(surface, ax=ax, shrink=0.7, aspect=18, pad=0.12, label=label)
    return ax


def plot_samples(
    draws: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    density: ArrayLike,
    *,
    ax: Axes | None = None,
    title: str = "Draws and their target",
    label: str = "density",
) -> Axes:
    """Draw points over the contours of the density they were sampled from.

    Parameters
    ----------
    draws : array_like of shape (n_draws, 2)
        The points.
    x : array_like of shape (m,)
        Values of the first coordinate where the density is known.
    y : array_like of shape (n,)
        Values of the second coordinate where the density is known.
    density : array_like of shape (n, m)
        The density at every pair, rows along `y`.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default those of a new figure.
    title : str, optional
        Title of the axes.
    label : str, optional
        What the contours are levels of.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.
    """
    ax = ax or _new_axes((7.0, 6.0))
    draws = np.asarray(draws)
    density = np.asarray(density)
    levels = MaxNLocator(10).tick_values(0.0, float(density.max()))[1:]
    # Pale fills: points stay visible on all of them, and the lines carry the levels.
    fills = ax.contourf(x, y, density, levels=levels, cmap=CONTOUR_MAP, vmin=0.0, alpha=0.35)
    contours = ax.contour(x, y, density, levels=levels[:-1], cmap=CONTOUR_MAP, vmin=-0.5 * levels[-1], linewidths=1.4)
    ax.figure.colorbar(fills, ax=ax, label=label).add_lines(contours)
    count = f"{len(draws):,} draws"
    ax.scatter(draws[:, 0], draws[:, 1], s=10, color=COLOURS[1], alpha=0.6, linewidths=0, zorder=3, label=count)
    _label_plane(ax, title)
    handles, _ = ax.get_legend_handles_labels()
    line = Line2D([], [], color=contours.get_cmap()(0.7), linewidth=1.4, label="contours of the target")
    _place_legend_below(ax, [*handles, line])
    return ax


def plot_classes(
    draws: ArrayLike,
    labels: ArrayLike,
    mixture: "Mixture",
    *,
    ax: Axes | None = None,
    title: str = "Draws by their most probable component",
) -> Axes:
    """Draw points coloured by class over the covariance ellipses of a mixture's components.

    Parameters
    ----------
    draws : array_like of shape (n_draws, 2)
        The points.
    labels : array_like of shape (n_draws,)
        The component of each point, as `predict` returns it.
    mixture : Mixture
        The distribution whose components are drawn; of two features.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default those of a new figure.
    title : str, optional
        Title of the axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.
    """
    ax = ax or _new_axes((7.0, 6.0))
    draws, labels = np.asarray(draws), np.asarray(labels)
    components = zip(mixture.weights, mixture.means, mixture.covariances_dense, strict=True)
    for component, (weight, mean, covariance) in enumerate(components):
        colour, marker = COLOURS[component % len(COLOURS)], MARKERS[component % len(MARKERS)]
        members = draws[labels == component]
        ax.scatter(
            members[:, 0],
            members[:, 1],
            s=14,
            marker=marker,
            color=colour,
            alpha=0.5,
            linewidths=0,
            label=f"component {component}: weight {weight:.2f}, {len(members):,} draws",
        )
        for deviations, (style, _) in ELLIPSES.items():
            _draw_ellipse(ax, mean, covariance, deviations, colour, style)
        ax.plot(*mean, marker="+", color="white", markersize=15, markeredgewidth=5, zorder=4)
        ax.plot(*mean, marker="+", color="black", markersize=13, markeredgewidth=2, zorder=4)
    _label_plane(ax, title)
    handles, _ = ax.get_legend_handles_labels()
    handles.append(Line2D([], [], color="black", marker="+", markersize=10, markeredgewidth=2, ls="", label="mean"))
    handles += [Line2D([], [], color="black", ls=style, label=label) for style, label in ELLIPSES.values()]
    _place_legend_below(ax, handles)
    return ax


def plot_criterion(
    n_components: ArrayLike,
    values: Mapping[str, ArrayLike],
    *,
    name: str = "BIC",
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw one criterion against the number of components, a line for every covariance structure.

    Parameters
    ----------
    n_components : array_like of shape (m,)
        The numbers of components.
    values : mapping of str to array_like of shape (m,)
        The criterion for each structure; lower is better, NaN is left out.
    name : str, optional
        Name of the criterion.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default those of a new figure.
    title : str, optional
        Title of the axes; by default it names the lowest point.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.
    """
    ax = ax or _new_axes((6.4, 4.8))
    counts = np.asarray(n_components)
    looks = zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), itertools.cycle(LINE_STYLES), strict=False)
    for size, (structure, column) in zip(itertools.count(10, -1.5), values.items(), strict=False):
        # Shrinking markers: where lines meet (one component is tied and full at once) all stay visible.
        colour, marker, style = next(looks)
        ax.plot(counts, column, color=colour, marker=marker, ls=style, markersize=max(size, 4), label=structure)
    structure, row = _lowest(values)
    best = float(np.asarray(values[structure])[row])
    ring: dict[str, Any] = {"markersize": 17, "markerfacecolor": "none", "markeredgewidth": 1.6}
    ax.plot(counts[row], best, marker="o", color="black", linestyle="", label="lowest", **ring)
    plural = "" if counts[row] == 1 else "s"
    ax.set_title(title or f"{name}: lowest with {counts[row]} component{plural}, {structure}")
    ax.set(xlabel="number of components", ylabel=f"{name} (lower is better)")
    ax.set_xticks(counts)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.margins(0.06)
    ax.grid(alpha=0.3)
    ax.legend(title="covariance")
    return ax


def plot_criteria(
    n_components: ArrayLike,
    criteria: Mapping[str, Mapping[str, ArrayLike]],
    *,
    ax: Sequence[Axes] | None = None,
) -> Sequence[Axes]:
    """Draw several criteria against the number of components, side by side on one scale.

    Parameters
    ----------
    n_components : array_like of shape (m,)
        The numbers of components.
    criteria : mapping of str to mapping of str to array_like of shape (m,)
        For every criterion's name, its values for each covariance structure.
    ax : sequence of matplotlib.axes.Axes, optional
        Axes to draw on, one for each criterion; by default those of a new figure.

    Returns
    -------
    sequence of matplotlib.axes.Axes
        The axes drawn on.
    """
    if ax is None:
        figure = Figure(figsize=(5.4 * len(criteria), 4.8), layout="constrained")
        ax = list(np.atleast_1d(figure.subplots(1, len(criteria), sharey=True)))
    for axes, (name, values) in zip(ax, criteria.items(), strict=True):
        plot_criterion(n_components, values, name=name, ax=axes)
        axes.yaxis.set_tick_params(labelleft=True)
    return ax


def save(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Write a figure to a file, whole or not at all.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure.
    path : path-like
        Where to write; the suffix chooses the format. Its folder must exist.

    Returns
    -------
    pathlib.Path
        The path written.
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


def _new_axes(size: tuple[float, float], **options: Any) -> Any:
    """Return the axes of a new figure outside pyplot: nothing to close, and no window system needed."""
    return Figure(figsize=size, layout="constrained").add_subplot(**options)


def _label_plane(ax: Axes, title: str) -> None:
    ax.set(xlabel=COORDINATES[0], ylabel=COORDINATES[1], title=title)
    ax.set_aspect("equal", adjustable="datalim")
    ax.grid(alpha=0.25)
    ax.set_axisbelow(True)


def _place_legend_below(ax: Axes, handles: Sequence[Any]) -> None:
    """Put the legend under the axes, where it hides no point."""
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False)


def _draw_ellipse(
    ax: Axes,
    mean: NDArray[np.float64],
    covariance: NDArray[np.float64],
    deviations: float,
    colour: str,
    style: str,
) -> None:
    """Draw the points at a Mahalanobis distance of `deviations` from the mean."""
    variances, directions = np.linalg.eigh(covariance)
    # eigh sorts upwards: the last direction is the long axis.
    angle = float(np.degrees(np.arctan2(directions[1, -1], directions[0, -1])))
    width, height = 2.0 * deviations * np.sqrt(variances[::-1])
    for line_width, line_colour, line_style in ((4.0, "white", "-"), (2.0, colour, style)):
        ax.add_patch(
            Ellipse(
                (float(mean[0]), float(mean[1])), width, height, angle=angle,
                fill=False, edgecolor=line_colour, linestyle=line_style, linewidth=line_width, zorder=3,
            )
        )  # fmt: skip


def _lowest(values: Mapping[str, ArrayLike]) -> tuple[str, int]:
    """Return the structure and the position of the lowest value."""
    lowest = {structure: float(np.nanmin(np.asarray(column))) for structure, column in values.items()}
    structure = min(lowest, key=lowest.__getitem__)
    return structure, int(np.nanargmin(np.asarray(values[structure])))
