"""Markdown tables of stored measurements. Nothing here measures, and nothing in a table is typed."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bench.chunks import WAYS as CHUNK_WAYS
from bench.limits import is_bound_by_products, least_operations
from bench.peers import EARLIER, ONEDAL, OURS, REFERENCE
from bench.problems import Problem
from bench.workers.estimator import OPTIONS

Results = Mapping[str, Any]
NOTHING = "–"
_COLUMNS = {"": "---", "rows": "---:", "features": "---:", "components": "---:", "covariance": "---"}


def table(heads: Iterable[str], rows: Iterable[tuple[Problem, list[str]]]) -> str:
    """Return a table whose first columns are the problem's and whose others, numbers, have the given heads."""
    heads = list(heads)
    lines = [_line([*_COLUMNS, *heads]), _line([*_COLUMNS.values(), *["---:"] * len(heads)])]
    lines += [_line([*_problem_cells(problem), *cells]) for problem, cells in rows]
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _problem_cells(problem: Problem) -> list[str]:
    numbers = [f"{number:,}" for number in (problem.rows, problem.features, problem.components)]
    return [problem.name, *numbers, problem.structure]


def problem_of(row: Results) -> Problem:
    """Return the problem that a stored row is about."""
    return Problem(**row["problem"])


def three_digits(value: float) -> str:
    """Write three significant digits, or all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def milliseconds(seconds: float) -> str:
    """Write milliseconds with three significant digits."""
    return three_digits(1e3 * seconds)


def times(ratio: float | None) -> str:
    """Write how many times faster something is."""
    if ratio is None:
        return NOTHING
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2f}"


def percent(share: float | None) -> str:
    """Write a share."""
    return NOTHING if share is None else f"{100 * share:.0f} %"


def mebibytes(number: int) -> str:
    """Write an amount of memory."""
    value = number / 2**20
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def median(values: Iterable[float]) -> float:
    """Return the middle value."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else 0.5 * (ordered[half - 1] + ordered[half])


def ratio_between(row: Results, name: str, other: str) -> float | None:
    """Return how many times faster `name` is than `other`, the median over rounds, or None where one is missing."""
    peers = row["peers"]
    if name not in peers or other not in peers:
        return None
    pairs = zip(peers[other]["seconds"], peers[name]["seconds"], strict=True)
    return median(before / after for before, after in pairs)


def share_of_limit(row: Results, name: str = OURS) -> float:
    """Return the limit's time over a peer's, the median over rounds."""
    pairs = zip(row["limit"]["seconds"], row["peers"][name]["seconds"], strict=True)
    return median(floor / seconds for floor, seconds in pairs)


def share_of_dgemm(row: Results, name: str = OURS) -> float | None:
    """Return 2 n k d² / time over dgemm's rate, the median over rounds; None where other work than products counts."""
    problem = problem_of(row)
    if not is_bound_by_products(problem):
        return None
    pairs = zip(row["limit"]["dgemm"], row["peers"][name]["seconds"], strict=True)
    return median(least_operations(problem) / seconds / dgemm for dgemm, seconds in pairs)


def iterations_table(results: Results) -> str:
    """EM iterations: the reference, fastgmm, and how near it is to the limit."""
    heads = [f"{REFERENCE}, ms", f"{OURS}, ms", f"times faster than {REFERENCE}", f"times faster than {ONEDAL}"]
    heads += ["share of the limit", "share of dgemm"]
    rows = []
    for row in results["rows"]:
        peers = row["peers"]
        rows.append((problem_of(row), [
            milliseconds(peers[REFERENCE]["median_seconds"]),
            milliseconds(peers[OURS]["median_seconds"]),
            times(ratio_between(row, OURS, REFERENCE)),
            times(ratio_between(row, OURS, ONEDAL)),
            percent(share_of_limit(row)),
            percent(share_of_dgemm(row)),
        ]))  # fmt: skip
    return table(heads, rows)


def peers_in(results: Results) -> list[str]:
    """Return every peer that has a time in some row, the reference first."""
    found: dict[str, None] = {}
    for row in results["rows"]:
        found.update(dict.fromkeys(row["peers"]))
    return list(found)


def title(results: Results, name: str) -> str:
    """Return a peer's name, with the precision it is alone in using."""
    coarse = results["agreements"].get(name, 0.0) > results["agreements"][REFERENCE]
    return f"{name} (float32)" if coarse else name


def peers_table(results: Results) -> str:
    """How many times faster than the reference every peer is."""
    names = [name for name in peers_in(results) if name != REFERENCE]
    rows = [
        (problem_of(row), [times(ratio_between(row, name, REFERENCE)) for name in names]) for row in results["rows"]
    ]
    return table([title(results, name) for name in names], rows)


def skipped_list(results: Results) -> str:
    """Why peers have no time, problem by problem; what they do not offer first."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in results["rows"]:
        for name, reason in row["skipped"].items():
            reasons.setdefault((name, reason), []).append(row["problem"]["name"])
    lines = [f"- {name}, {', '.join(problems)}: {reason}" for (name, reason), problems in sorted(reasons.items())]
    lines += [f"- {name}: {reason}" for name, reason in sorted(results["skipped"].items())]
    return "\n".join(lines)


def threads_table(results: Results, fits: Results | None) -> str:
    """EM iterations on more threads; beside them, where measured, fastgmm's gain over one thread in the same run."""
    threads = f"{results['threads']} threads"
    gains = {row["problem"]["name"]: row["variants"].get(threads) for row in fits["rows"]} if fits else {}
    heads = [f"{REFERENCE}, ms", f"{OURS}, ms", f"times faster than {REFERENCE}", f"times faster than {ONEDAL}"]
    heads += [f"{OURS}: times its speed on one thread"]
    rows = []
    for row in results["rows"]:
        peers, gain = row["peers"], gains.get(row["problem"]["name"])
        rows.append((problem_of(row), [
            milliseconds(peers[REFERENCE]["median_seconds"]),
            milliseconds(peers[OURS]["median_seconds"]),
            times(ratio_between(row, OURS, REFERENCE)),
            times(ratio_between(row, OURS, ONEDAL)),
            times(gain["median_ratio"] if gain else None),
        ]))  # fmt: skip
    return table(heads, rows)


def fits_table(results: Results) -> str:
    """Whole default fits: seconds, and the log-likelihood per row that each reached."""
    heads = [f"{REFERENCE}, s", f"{OURS}, s", "times faster", f"log-likelihood a row: {OURS} − {REFERENCE}"]
    rows = []
    for row in results["rows"]:
        theirs, ours = row["fit"][REFERENCE], row["fit"][OURS]
        gains = [a - b for a, b in zip(ours["scores"], theirs["scores"], strict=True)]
        low, high = (f"{value:+.4f}" for value in (min(gains), max(gains)))
        rows.append((problem_of(row), [
            f"{theirs['median_seconds']:.3g}",
            f"{ours['median_seconds']:.3g}",
            times(ours["median_ratio"]),
            low if low == high else f"{low} to {high}",
        ]))  # fmt: skip
    return table(heads, rows)


def predictions_table(results: Results) -> str:
    """How many times faster than the reference predictions are, and what float32 rows bring."""
    methods = list(results["rows"][0]["predictions"])
    rows = []
    for row in results["rows"]:
        cells = [times(row["predictions"][method][OURS]["median_ratio"]) for method in methods]
        types = row.get("types")
        rows.append((problem_of(row), [*cells, times(types["float32"]["median_ratio"] if types else None)]))
    return table([*(f"`{method}`" for method in methods), "EM, float32 over float64 rows"], rows)


def options_table(results: Results) -> str:
    """How many times as long an EM iteration takes with weights of one, the default prior, or a tenth missing."""
    rows = []
    for row in results["rows"]:
        found = [row["variants"].get(option) for option in OPTIONS]
        rows.append((problem_of(row), [f"{1 / each['median_ratio']:.2f}" if each else NOTHING for each in found]))
    return table([f"with {option}" for option in OPTIONS], rows)


def earlier_table(results: Results) -> str:
    """EM iterations beside those of an earlier version."""
    rows = []
    for row in results["rows"]:
        cells = [milliseconds(row["peers"][name]["median_seconds"]) for name in (EARLIER, OURS)]
        ratio = ratio_between(row, EARLIER, OURS)
        rows.append((problem_of(row), [*cells, NOTHING if ratio is None else f"{ratio:.2f}"]))
    return table([f"{EARLIER}, ms", f"{OURS}, ms", "times as long"], rows)


def memory_table(results: Results) -> str:
    """Peak memory above rows and output, in MiB."""
    operations = list(results["rows"][0]["bytes"][OURS])
    heads = [f"{REFERENCE} `fit`", *(f"{OURS} `{operation}`" for operation in operations)]
    rows = []
    for row in results["rows"]:
        found = row["bytes"]
        cells = [mebibytes(found[OURS][operation]) for operation in operations]
        rows.append((problem_of(row), [mebibytes(found[REFERENCE]["fit"]), *cells]))
    return table(heads, rows)


def chunks_table(results: Results) -> str:
    """Time per row of fits in memory and of a file, and their memory."""
    ways = results["ways"]
    reference = ways["in memory"]["seconds"]
    heads = [""]
    for threads in reference:
        heads += [f"{threads} thread{'s' * (threads != '1')}, ns", "times in memory"]
    lines = [_line([*heads, "memory"]), _line(["---", *["---:"] * len(heads)])]
    for way, found in ways.items():
        cells = []
        for threads, each in found["seconds"].items():
            cells.append(three_digits(1e9 * each["iteration"] / results["rows"]))
            cells.append(f"{each['iteration'] / reference[threads]['iteration']:.2f}")
        lines.append(_line([CHUNK_WAYS[way], *cells, mebibytes(found["anonymous"])]))
    return "\n".join(lines)


def samplers_in(results: Results) -> list[str]:
    """Return every sampler that has a time in some row."""
    found: dict[str, None] = {}
    for row in results["rows"]:
        found.update(dict.fromkeys(row["samplers"]))
    return list(found)


def nanoseconds(row: Results, name: str) -> float | None:
    """Return what a step of a chain takes a sampler, the median over rounds, or None where it is missing."""
    entry = row["samplers"].get(name)
    return median(entry["nanoseconds"]) if entry else None


def sampling_table(results: Results) -> str:
    """Nanoseconds per step and chain."""
    return _samplers_table(results, lambda row, each: each)


def effective_table(results: Results) -> str:
    """Effective draws a second, of all chains together."""
    return _samplers_table(results, lambda row, each: 1e9 / each * row["effective_per_step"])


def _samplers_table(results: Results, number: Callable[[Results, float], float]) -> str:
    names = samplers_in(results)
    heads = ["density", "chains", *names]
    lines = [_line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]
    for row in results["rows"]:
        found = [nanoseconds(row, name) for name in names]
        cells = [NOTHING if each is None else three_digits(number(row, each)) for each in found]
        lines.append(_line([row["density"], f"{row['chains']:,}", *cells]))
    return "\n".join(lines)


def starts_table(results: Results) -> str:
    """Mean log-likelihoods a row that starts lead to, with their standard errors, of ours above the reference's."""
    heads = [REFERENCE, *(f"{name} − {REFERENCE}" for name in list(results["rows"][0]["scores"])[1:])]
    rows = []
    for row in results["rows"]:
        reference, *ours = ((mean(scores), standard_error(scores)) for scores in row["scores"].values())
        cells = [f"{reference[0]:.4f} ± {reference[1]:.4f}"]
        cells += [f"{value - reference[0]:+.4f} ± {error:.4f}" for value, error in ours]
        rows.append((problem_of(row), cells))
    return table(heads, rows)


def below_reference(results: Results) -> list[str]:
    """Problems where our default start leads lower than the reference's, by more than the standard error of its mean.

    Less than half the last digit of the table is no difference: fits end a little before their optimum.
    """
    names = []
    for row in results["rows"]:
        theirs, ours = row["scores"][REFERENCE], row["scores"][OURS]
        if mean(ours) < mean(theirs) - standard_error(theirs) - 0.5e-4:
            names.append(problem_of(row).name)
    return names


def leaps_table(results: Results) -> str:
    """Passes and milliseconds to within a distance of the final log-likelihood, plain and accelerated."""
    names = list(results["rows"][0]["passes"])
    heads = [*(f"{name}: passes" for name in names), *(f"{name}, ms" for name in names), "times faster"]
    rows = []
    for row in results["rows"]:
        cells = [f"{row['passes'][name]:,}" for name in names]
        cells += [milliseconds(row["times"][name]["median_seconds"]) for name in names]
        rows.append((problem_of(row), [*cells, times(row["times"][names[-1]]["median_ratio"])]))
    return table(heads, rows)


def grid_table(results: Results) -> str:
    """What choosing took, and what was chosen."""
    heads = ["", "models", "seconds", "times faster", "components chosen", "BIC"]
    lines = [_line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]
    for name, way in results["rows"][0]["ways"].items():
        sizes = ", ".join(f"{best['n_components']}" for best in way["chosen"])
        cells = [name, str(way["models"]), three_digits(way["median_seconds"]), times(way["median_ratio"]), sizes]
        lines.append(_line([*cells, f"{mean_bic(way):,.0f}"]))
    return "\n".join(lines)


def cluster_table(results: Results) -> str:
    """Milliseconds per iteration on workers and in memory, and what of it is scheduling."""
    heads = ["workers", "ms", "in memory, ms", "efficiency", "scheduling, ms", "of an iteration"]
    lines = [_line(heads), _line(["---:"] * len(heads))]
    for row in results["rows"]:
        cluster, memory, scheduling = (
            milliseconds(median(row["seconds"][name])) for name in ("cluster", "memory", "scheduling")
        )
        efficiency, overhead = percent(row["efficiency"]), percent(row["overhead"])
        lines.append(_line([str(row["workers"]), cluster, memory, efficiency, scheduling, overhead]))
    return "\n".join(lines)


def mean_bic(way: Results) -> float:
    """Return the mean over seeds of what was chosen."""
    return mean([best["bic"] for best in way["chosen"]])


def mean(values: list[float]) -> float:
    """Return the arithmetic mean."""
    return math.fsum(values) / len(values)


def standard_error(values: list[float]) -> float:
    """Return the standard error of the mean."""
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1) / len(values))
