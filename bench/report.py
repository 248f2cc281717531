"""Turn stored measurements into the README's table, so that no number in it is typed."""

import json
from pathlib import Path
from typing import Any

from bench.peers import REFERENCE

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def make_table(results: dict[str, Any]) -> str:
    """Return the measurements as Markdown: a line about the machine, a row for every problem."""
    machine = results["machine"]
    names = [name for name in results["rows"][0]["peers"] if name != REFERENCE]
    installed = {name: number for name, number in machine["versions"].items() if number != "not installed"}
    versions = ", ".join(f"{name} {number}" for name, number in installed.items())
    heads = ["", "rows", "features", "components", "covariance", f"{REFERENCE}, ms", *(f"{n}, ms" for n in names)]
    heads += [f"{name}: times faster" for name in names]
    lines = [_line(heads), _line(["---", "---:", "---:", "---:", "---", *["---:"] * (1 + 2 * len(names))])]
    lines += [_line(_cells(row, names)) for row in results["rows"]]
    threads = results["threads"]
    note = (
        f"Milliseconds per EM iteration on {threads} thread{'' if threads == 1 else 's'}, float64, from the same "
        f"start; medians of {results['rounds']} interleaved rounds, log-likelihoods compared first. "
        f"{machine['processor']}; Python {machine['python']}, {versions}; {machine['date']}."
    )
    return "\n".join(lines) + f"\n\n{note}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: dict[str, Any], names: list[str]) -> list[str]:
    problem, peers = row["problem"], row["peers"]
    numbers = [f"{problem[column]:,}" for column in ("rows", "features", "components")]
    times = [_milliseconds(peers[name]["median_seconds"]) for name in (REFERENCE, *names)]
    ratios = [f"{peers[name]['median_ratio']:.1f}" for name in names]
    return [problem["name"], *numbers, problem["structure"], *times, *ratios]


def _milliseconds(seconds: float) -> str:
    """Write milliseconds with three significant digits."""
    value = 1e3 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def replace_table(text: str, table: str) -> str:
    """Return `text` with the table between its two markers.

    Raises
    ------
    ValueError
        If the text does not have each marker once, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"expected one {BEGIN} and after it one {END}")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def write_report(results_path: Path, readme: Path) -> str:
    """Put the stored measurements into the README and return their table."""
    table = make_table(json.loads(results_path.read_text(encoding="utf-8")))
    readme.write_text(replace_table(readme.read_text(encoding="utf-8"), table), encoding="utf-8")
    return table
