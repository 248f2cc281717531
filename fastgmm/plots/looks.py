"""How pictures look: colours, axes, points, legends."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import offset_copy

# Okabe and Ito's, then some of Tol's muted ones: twelve that differ in lightness as well as in hue.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"),
    *("#000000", "#882255", "#999933", "#332288", "#7F7F7F", "#661100"),
)
MARKERS = ("o", "^", "s", "D", "v", "P", "X")  # no divisor of twelve: pairs repeat after 84
LINE_STYLES = ("-", "--", "-.", ":")
CONTOUR_MAP = "Blues"
SURFACE_MAP = "cividis"
POINT_COLOUR = "#7F7F7F"
_LISTED = 12  # entries of a legend, at most
_ROOMY = 8  # entries of a legend that has room for large letters
_LETTERS = 105  # small ones, that a row of entries has room for
_DRAWN_POINTS = 20_000  # more would be one blot, and slow
_STRETCH = 4.0  # features whose ranges differ more are not drawn to one scale


def new_axes(size: tuple[float, float], **options: Any) -> Any:
    """Axes of a new figure."""
    from matplotlib import pyplot

    return pyplot.figure(figsize=size, layout="constrained").add_subplot(**options)


def look(index: int) -> tuple[str, str]:
    """Colour and marker of one among many."""
    return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]


def choose_points(n: int) -> np.ndarray:
    """Which of n points are drawn: all, or so many at random, always the same."""
    if n <= _DRAWN_POINTS:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, _DRAWN_POINTS, replace=False))


def draw_points(ax: Axes, points: np.ndarray, n: int, **options: Any) -> Any:
    """Scatter points (m, 2), the paler the more there are of all n."""
    alpha = float(np.clip(20.0 / np.sqrt(n + 1), 0.15, 0.6))
    return ax.scatter(points[:, 0], points[:, 1], alpha=alpha, **{"s": 12.0, "linewidths": 0.0, "zorder": 2} | options)


def count_points(n: int) -> str:
    """Say how many points there are, and how many of them are seen."""
    return f"{n:,} points" if n <= _DRAWN_POINTS else f"{_DRAWN_POINTS:,} of {n:,} points"


def label_plane(ax: Axes, names: Sequence[str], title: str) -> None:
    """Name axes, and draw both to one scale unless that would flatten the picture."""
    ax.set(xlabel=names[0], ylabel=names[1], title=title)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    if 1.0 / _STRETCH < (right - left) / (top - bottom) < _STRETCH:
        ax.set_aspect("equal", adjustable="datalim")
    ax.grid(alpha=0.25)
    ax.set_axisbelow(True)


def shorten(handles: Sequence[Any]) -> list[Any]:
    """A legend's first entries, and how many more there are."""
    if len(handles) <= _LISTED:
        return list(handles)
    more = Line2D([], [], ls="", label=f"and {len(handles) - _LISTED + 1} more")
    return [*handles[: _LISTED - 1], more]


def place_legend_below(ax: Axes, handles: Sequence[Any]) -> None:
    """Put the legend under the axes and their labels, where it hides no point."""
    figure: Any = ax.figure  # or a part of one
    below = offset_copy(ax.transAxes, figure, y=-36.0, units="points")
    longest = max(len(handle.get_label()) for handle in handles)
    size: dict[str, Any] = {"ncols": 2}
    if len(handles) > _ROOMY:
        size = {"ncols": 3 if longest < _LETTERS / 3 else 2, "fontsize": "small"}
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "bbox_transform": below}
    ax.legend(handles=handles, frameon=False, **place, **size)


def place_legend_beside(ax: Axes, handles: Sequence[Any], title: str | None = None) -> None:
    """Put the legend to the right of the axes, where it hides no line."""
    ax.legend(handles=handles, title=title, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
