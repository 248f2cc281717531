"""Turn stored measurements into the README's tables and chart, so that no number in them is typed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import tables
from bench.chart import draw_chart
from bench.grid import LOOP
from bench.peers import EARLIER, FLOAT64_AGREEMENT, OURS, REFERENCE

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


Stored = dict[str, dict[str, Any]]


def load_results(folder: Path) -> Stored:
    """Return every measurement of the full problems in a folder by its name, such as `1-thread` or `memory`."""
    return {
        path.stem.removeprefix("full-"): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("full-*.json"))
    }


def load_all(folder: Path) -> list[Stored]:
    """What is stored in the folder, and in folders within it what other processors gave."""
    return [load_results(folder), *(load_results(each) for each in sorted(folder.iterdir()) if each.is_dir())]


def make_report(results: Stored, *others: Stored, chart: str | None = None) -> str:
    """Return all measurements as Markdown, the EM iterations on one thread first, the rest folded away.

    Of `others`, from other processors, it is EM iterations, fits and predictions.

    Raises
    ------
    ValueError
        If the EM iterations on one thread are missing.
    """
    if "1-thread" not in results:
        raise ValueError("there are no EM iterations on one thread; run `python -m bench` first")
    single = results["1-thread"]
    parts = [f"![Times faster than {REFERENCE}, by problem and library]({chart})"] if chart else []
    parts += [
        _iterations_part(single),
        _fold("All libraries: times faster than " + REFERENCE, _peers_part(single)),
        *_threads_parts(results),
        *_fits_parts(results),
    ]
    if "fits" in results:
        text = (
            f"How many times as long {OURS}'s EM iteration takes with weights, all 1, the default prior, or a tenth of "
            "the entries missing; one without pays for none of these."
        )
        parts.append(_fold("Weights, priors and missing entries", f"{tables.options_table(results['fits'])}\n\n{text}"))
    for other in others:
        there = f", {_processor(other['1-thread']['machine'])}"
        parts.append(_fold(f"EM iterations{there}", _iterations_part(other["1-thread"])))
        parts += [*_threads_parts(other, there), *_fits_parts(other, there)]
    if EARLIER in results:
        parts.append(_fold("Plain fits, beside an earlier version", _earlier_part(results[EARLIER])))
    if "panel" in results:
        parts.append(_fold("Starts", _starts_part(results["panel"])))
    if "leaps" in results:
        parts.append(_fold("Acceleration", _leaps_part(results["leaps"])))
    if "grid" in results:
        parts.append(_fold("Choosing", _grid_part(results["grid"])))
    if "cluster" in results:
        parts.append(_fold("Workers of Dask", _cluster_part(results["cluster"])))
    if "memory" in results:
        parts.append(_fold("Memory", _memory_part(results["memory"])))
    if "chunks" in results:
        parts.append(_fold("Data larger than memory", _chunks_part(results["chunks"])))
    parts += _sampling_parts({name: each for name, each in results.items() if name.startswith("sampling")})
    return "\n\n".join(parts)


def _iterations_part(results: dict[str, Any]) -> str:
    return f"{tables.iterations_table(results)}\n\n{describe_run(results)}"


def _threads_parts(results: Stored, where: str = "") -> Iterator[str]:
    for name, each in results.items():
        if name.endswith("-threads") and not name.startswith("sampling"):
            text = f"{tables.threads_table(each, results.get('fits'))}\n\n{describe_run(each)}"
            yield _fold(f"EM iterations on {each['threads']} threads{where}", text)


def _fits_parts(results: Stored, where: str = "") -> Iterator[str]:
    if fits := results.get("fits"):
        text = "Initialisation included, defaults throughout; medians over seeds, one thread each. " + _machine(fits)
        yield _fold(f"Whole fits{where}", f"{tables.fits_table(fits)}\n\n{text}")
        text = (
            f"How many times faster than {REFERENCE}, one thread each; last, how much faster {OURS}'s EM reads "
            "float32, of rows so wide in every direction that float32 can hold a component's covariance."
        )
        yield _fold(f"Predictions, and float32 rows{where}", f"{tables.predictions_table(fits)}\n\n{text}")


def describe_run(results: dict[str, Any]) -> str:
    """Say how EM iterations were measured, on what, and what the limit is."""
    rates = [row["limit"] for row in results["rows"]]
    dgemm = tables.median(rate for each in rates for rate in each["dgemm"])
    exponential = tables.median(rate for each in rates for rate in each["exp"])
    return (
        f"Milliseconds per EM iteration on {_threads(results)}, float64, from the same start; interleaved rounds, "
        f"medians of {results['rounds']}; log-likelihoods compared first (to {FLOAT64_AGREEMENT:g}). The limit is the "
        f"least arithmetic of an iteration at the rate of dgemm, {dgemm / 1e9:.1f} GFLOP/s here, and one exponential a "
        f"row and component, {1e9 / exponential:.2f} ns (`bench/limits.py`). {_machine(results)}"
    )


def _machine(results: dict[str, Any]) -> str:
    machine = results["machine"]
    installed = {name: number for name, number in machine["versions"].items() if number != "not installed"}
    versions = ", ".join(f"{name} {number}" for name, number in installed.items())
    days = " to ".join(sorted({results.get("since", machine["date"]), machine["date"]}))
    return f"{_processor(machine)}; Python {machine['python']}, {versions}; {days}."


def _processor(machine: dict[str, Any]) -> str:
    bits = machine.get("vector_bits")
    return f"{machine['processor']} with vectors of {bits} bits" if bits else str(machine["processor"])


def _peers_part(results: dict[str, Any]) -> str:
    versions = {name: peer["version"] for row in results["rows"] for name, peer in row["peers"].items()}
    notes = [
        f"- {name} {versions[name]}{_notes(results, name)}"
        for name in tables.peers_in(results)
        if versions[name] != "not installed"
    ]
    parts = [tables.peers_table(results), "\n".join(notes)]
    skipped = tables.skipped_list(results)
    if skipped:
        parts.append(f"Not measured:\n\n{skipped}")
    return "\n\n".join(parts)


def _notes(results: dict[str, Any], name: str) -> str:
    notes = [note for note in (results["notes"].get(name),) if note]
    agreement = results["agreements"].get(name)
    if agreement is not None and agreement != results["agreements"][REFERENCE]:
        notes.append(f"log-likelihoods agreeing to {agreement:g}")
    return f": {'; '.join(notes)}" if notes else ""


def _earlier_part(results: dict[str, Any]) -> str:
    return (
        f"{tables.earlier_table(results)}\n\nMilliseconds per EM iteration without weights, prior or missing entries, "
        f"on {_threads(results)}, beside a version that knew none of the three: interleaved rounds, medians of "
        f"{results['rounds']}; log-likelihoods compared first. {_machine(results)}"
    )


def _starts_part(results: dict[str, Any]) -> str:
    below = tables.below_reference(results)
    verdict = (
        f"{OURS}'s default start leads lower on {', '.join(below)}."
        if below
        else f"On none does {OURS}'s default start lead lower, by more than {REFERENCE}'s standard error."
    )
    return (
        f"{tables.starts_table(results)}\n\nLog-likelihood per row that fits reach, in nats: means and standard errors "
        f"over {results['seeds']} seeds, ended by a tolerance of 1e-6 so that starts decide. Last, from k-means in "
        f"whitened coordinates. {verdict} {_machine(results)}"
    )


def _leaps_part(results: dict[str, Any]) -> str:
    return (
        f'{tables.leaps_table(results)}\n\nPasses and time of `acceleration="squarem"` beside plain EM, from the same '
        "start to within 1e-6 nats a row of the log-likelihood that both reach, where components overlap; one thread, "
        f"medians of {results['rounds']} interleaved rounds. {_machine(results)}"
    )


def _grid_part(results: dict[str, Any]) -> str:
    (row,) = results["rows"]
    problem, ways = tables.problem_of(row), row["ways"]
    worse = [name for name, way in ways.items() if tables.mean_bic(way) > tables.mean_bic(ways[LOOP])]
    verdict = f"Higher than the loop's: {', '.join(worse)}." if worse else "None is higher than the loop's."
    return (
        f"{tables.grid_table(results)}\n\nFits of 1 to {row['most']} components to {problem.rows:,} rows that "
        f"{problem.components} components of {problem.features} features drew, in the structures full, tied, diag and "
        f"spherical, or all; one thread, medians over {results['seeds']} seeds, the ways in turn. What was chosen with "
        "each seed, which is where the starts lead; last, the mean BIC of that, computed anew from the parameters. "
        f"{verdict} {_machine(results)}"
    )


def _cluster_part(results: dict[str, Any]) -> str:
    row = results["rows"][0]
    problem, partitions = row["problem"], row["partitions"]
    return (
        f"{tables.cluster_table(results)}\n\nMilliseconds per EM iteration on worker processes of one thread each, and "
        f"in memory on as many threads: {problem['rows']:,} rows of {problem['features']} features and "
        f"{problem['components']} components, {problem['structure']}, in {partitions} partitions of "
        f"{problem['rows'] // partitions:,} rows, persisted on the workers. Scheduling is an iteration over as many "
        f"partitions of next to no rows. Medians over the iterations of {results['rounds']} interleaved rounds; means "
        f"compared first, to 1e-10. {_machine(results)}"
    )


def _memory_part(results: dict[str, Any]) -> str:
    most = max(number for row in results["rows"] for number in row["bytes"][OURS].values())
    return (
        f"{tables.memory_table(results)}\n\nPeak resident memory above the rows and the output, MiB, one fresh process "
        f"each; {OURS}'s largest is {tables.mebibytes(most)} MiB. {_machine(results)}"
    )


def _chunks_part(results: dict[str, Any]) -> str:
    return (
        f"{tables.chunks_table(results)}\n\nNanoseconds per row and EM iteration on a file of {results['rows']:,} "
        f"rows, {results['features']} features and {results['bytes'] / 1e9:.1f} GB, which the system has cached, full "
        f"covariance and {results['components']} components, from the same start to the same bits, and how many times "
        "as long as in memory; MiB that the fits add to anonymous memory (`RssAnon`) at most, the rows in memory "
        f"aside. {_machine(results)}"
    )


def _sampling_parts(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The samplers on one thread in sight, what else was measured of them folded away."""
    single = results.get("sampling-1-thread")
    if single:
        yield f"{_sampling_sentence(single)}\n\n{tables.sampling_table(single)}\n\n{_sampling_notes(single)}"
    for each in results.values():
        threads = _threads(each)
        if each is not single:
            yield _fold(f"Samplers on {threads}", f"{tables.sampling_table(each)}\n\n{_sampling_notes(each)}")
        text = f"{tables.effective_table(each)}\n\nOf the coordinate that mixes worst, of all chains together."
        yield _fold(f"Effective draws a second, on {threads}", text)


def _sampling_sentence(results: dict[str, Any]) -> str:
    """Say what the table shows: many chains of the first density, and how long one waits for the first draws."""
    row = max((row for row in results["rows"] if row["density"] == results["rows"][0]["density"]), key=_chains)
    found = {name: tables.nanoseconds(row, name) for name in row["samplers"]}
    ours = {name: each for name, each in found.items() if name.startswith(OURS)}
    others = {name: each for name, each in found.items() if name not in ours}
    ways = ", ".join(f"{tables.three_digits(each)} ns ({name.split(', ')[1]})" for name, each in ours.items())
    rivals = ", ".join(f"{name} {tables.three_digits(each)} ns" for name, each in others.items())
    text = (
        f"Samplers beside each other, on the same random walk: with {row['chains']:,} chains on {_threads(results)}, a "
        f"step of a chain on {row['density']}, takes {ways}" + (f"; {rivals}." if rivals else ".")
    )
    if "first_draw" in results:
        seconds = tables.median(results["first_draw"]["first_draw"])
        text += (
            f" In a new process, the first 1,000 draws of a density that it has never seen are there {seconds:.2f} s "
            "after the import, compiling it included, where the kernels are in the cache."
        )
    return text


def _chains(row: dict[str, Any]) -> int:
    return int(row["chains"])


def _sampling_notes(results: dict[str, Any]) -> str:
    versions = {name: number for row in results["rows"] for name, number in row["versions"].items()}
    others = ", ".join(f"{name} {number}" for name, number in versions.items() if not name.startswith(OURS))
    # What was stored before does not say how it was measured.
    calls = "what a long walk takes more than a short one" if results.get("of_steps_alone") else "calls included"
    return (
        f"Nanoseconds per step and chain on {_threads(results)}, {calls}, medians of {results['rounds']} interleaved "
        f"rounds; shares of accepted candidates and means of positions compared first. {OURS} is given the "
        "density as a `Mixture`, as a function of many points, and of one, which users write. The C++ loop uses the "
        f"standard library's generator and one thread, emcee a vectorised density. {others}. {_machine(results)}"
    )


def _threads(results: dict[str, Any]) -> str:
    return f"{results['threads']} thread{'' if results['threads'] == 1 else 's'}"


def _fold(title: str, text: str) -> str:
    return f"<details>\n<summary>{title}</summary>\n\n{text}\n\n</details>"


def replace_report(text: str, report: str) -> str:
    """Return `text` with the report between its two markers.

    Raises
    ------
    ValueError
        If the text does not have each marker once, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"expected one {BEGIN} and after it one {END}")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{report}\n{END}{after}"


def write_report(folder: Path, readme: Path, chart: Path) -> str:
    """Put what is stored in `folder` into the README, draw the chart, and return the text."""
    results, *others = load_all(folder)
    report = make_report(results, *others, chart=chart.relative_to(readme.parent).as_posix())
    text = replace_report(readme.read_text(encoding="utf-8"), report)
    draw_chart(results["1-thread"], chart)
    readme.write_text(text, encoding="utf-8")
    return report
