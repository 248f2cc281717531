"""The chart of EM iterations: times faster than the reference, by problem and peer, with the limit marked."""

from pathlib import Path
from typing import Any

from bench.peers import OURS, REFERENCE
from bench.problems import Problem
from bench.tables import peers_in, problem_of, ratio_between, title

_OURS_COLOUR = "#d1495b"
_PEER_COLOURS = ("#00798c", "#edae49", "#66a182", "#8d6a9f", "#8d99ae", "#30638e")
_LIMIT_COLOUR = "#222222"
_GROUP_WIDTH = 0.84
_LABEL_HEIGHT = 1.3  # of a number over a bar, as a ratio on the axis


def draw_chart(results: dict[str, Any], path: Path) -> None:
    """Draw grouped bars on a logarithmic scale; bars below the line of 1 are slower than the reference."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    rows = results["rows"]
    names = [name for name in peers_in(results) if name != REFERENCE]
    colours = dict(zip((name for name in names if name != OURS), _PEER_COLOURS, strict=False)) | {OURS: _OURS_COLOUR}
    figure, axes = plt.subplots(figsize=(12, 6.2), dpi=150, layout="constrained")
    for name in names:
        found = [(at, ratio) for at, row in enumerate(rows) if (ratio := ratio_between(row, name, REFERENCE))]
        places = [_place(rows[at], names, name, at) for at, _ in found]
        heights = [ratio - 1.0 for _, ratio in found]
        widths = [0.92 * _width(rows[at], names) for at, _ in found]
        axes.bar(places, heights, widths, bottom=1.0, color=colours[name], label=title(results, name), zorder=3)
        if name == OURS:
            _write_values(axes, places, [ratio for _, ratio in found], [row["limit"]["median_ratio"] for row in rows])
    limits = [row["limit"]["median_ratio"] for row in rows]
    half = 0.5 * _GROUP_WIDTH
    axes.hlines(limits, [at - half for at in range(len(rows))], [at + half for at in range(len(rows))],
                colors=_LIMIT_COLOUR, linewidth=2, label="the limit", zorder=4)  # fmt: skip
    axes.axhline(1.0, color=_LIMIT_COLOUR, linewidth=0.8, zorder=5)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", which="major", color="#dddddd", zorder=0)
    axes.set_xticks(range(len(rows)), [_label(problem_of(row)) for row in rows], fontsize=9)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_ylabel(f"times faster than {REFERENCE}, logarithmic")
    threads = f"{results['threads']} thread{'' if results['threads'] == 1 else 's'}"
    axes.set_title(f"One EM iteration on {threads}, beside {REFERENCE}'s", loc="left", fontsize=12, pad=28)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
    handles, labels = axes.get_legend_handles_labels()
    handles, labels = handles[1:] + handles[:1], labels[1:] + labels[:1]  # the limit, not a container, comes first
    axes.legend(
        handles,
        labels,
        ncols=len(names) + 1,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        frameon=False,
        borderaxespad=0.2,
        fontsize=9,
        handlelength=1.2,
        columnspacing=1.4,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def _present(row: dict[str, Any], names: list[str]) -> list[str]:
    return [name for name in names if name in row["peers"]]


def _width(row: dict[str, Any], names: list[str]) -> float:
    """Bars are as wide as if every peer were there, at most; a lone one is not as wide as its group."""
    return min(_GROUP_WIDTH / len(_present(row, names)), 0.28)


def _place(row: dict[str, Any], names: list[str], name: str, at: int) -> float:
    present = _present(row, names)
    return at + (present.index(name) - 0.5 * (len(present) - 1)) * _width(row, names)


def _write_values(axes: Any, places: list[float], ratios: list[float], limits: list[float]) -> None:
    for place, ratio, limit in zip(places, ratios, limits, strict=True):
        top = limit if ratio < limit < _LABEL_HEIGHT * ratio else ratio  # the limit's line would cross the number
        axes.annotate(
            f"{ratio:.1f}" if ratio >= 1.0 else f"{ratio:.2f}",
            (place, max(top, 1.0)),
            (0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8.5,
            fontweight="bold",
            color=_OURS_COLOUR,
            zorder=6,
        )


def _label(problem: Problem) -> str:
    rows = f"{problem.rows // 1_000_000}M" if problem.rows >= 1_000_000 else f"{problem.rows // 1_000}k"
    return f"{problem.name}\n{rows} × {problem.features}\nk = {problem.components}\n{problem.structure}"
