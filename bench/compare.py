"""Compare kernels' times with a baseline kept in the repository, and name those that got slower.

A time is written as its ratio to a reference measured beside it, a matrix product, so that a baseline means something
on another machine, and on one that is busy.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BASELINE = Path(__file__).resolve().parent / "kernels.json"


def ratios_to_reference(measured: dict[str, Any]) -> dict[str, float]:
    """Return every benchmark's least time over the reference's, from what pytest-benchmark wrote.

    The least is what other work on the machine disturbs least.

    Raises
    ------
    ValueError
        If a benchmark has no reference beside it.
    """
    found = {}
    for each in measured["benchmarks"]:
        reference = each["extra_info"].get("reference")
        if reference is None:
            raise ValueError(f"{each['name']} has no reference beside it; measure by `python -m pytest bench`")
        found[each["name"]] = each["stats"]["min"] / reference
    return dict(sorted(found.items()))


def find_slower(now: dict[str, float], baseline: dict[str, float], tolerance: float) -> dict[str, float]:
    """Return how many times slower each kernel is that is slower than the baseline by more than `tolerance`."""
    changes = {name: now[name] / baseline[name] for name in now if name in baseline}
    return {name: change for name, change in changes.items() if change > tolerance}


def describe(now: dict[str, float], baseline: dict[str, float], tolerance: float) -> str:
    """Say what got slower, what got faster, and what only one side has."""
    slower = find_slower(now, baseline, tolerance)
    faster = find_slower(baseline, now, tolerance)
    lines = [f"slower: {name}: {change:.2f} times the baseline's time" for name, change in slower.items()]
    lines += [f"faster: {name}: {change:.2f} times as fast" for name, change in faster.items()]
    lines += [f"new: {name}" for name in now if name not in baseline]
    lines += [f"not measured: {name}" for name in baseline if name not in now]
    same = sum(name in baseline for name in now) - len(slower) - len(faster)
    lines.append(f"{len(slower)} slower, {len(faster)} faster, {same} within {tolerance:g} times of the baseline")
    return "\n".join(lines)


def read_ratios(measured: Sequence[Path]) -> dict[str, float]:
    """Return the least ratio of every kernel over several runs: slow in all of them is slow."""
    runs = [ratios_to_reference(json.loads(path.read_text(encoding="utf-8"))) for path in measured]
    names = sorted({name for run in runs for name in run})
    return {name: min(run[name] for run in runs if name in run) for name in names}


def compare_kernels(
    measured: Sequence[Path], baseline: Path, tolerance: float, *, save: bool
) -> tuple[str, dict[str, float]]:
    """Compare files of pytest-benchmark with the baseline; return what to say and what got slower.

    With `save` the measurements become the baseline, and nothing counts as slower.
    """
    now = read_ratios(measured)
    if save:
        rounded = {name: float(f"{ratio:.4g}") for name, ratio in now.items()}
        baseline.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
        return f"{len(now)} kernels saved as the baseline", {}
    before = json.loads(baseline.read_text(encoding="utf-8"))
    return describe(now, before, tolerance), find_slower(now, before, tolerance)
