"""The command line of the benchmarks: `python -m bench --help`."""

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.chunks import describe as describe_chunks
from bench.chunks import measure_chunks
from bench.client import Pool, WorkerError
from bench.compare import BASELINE, compare_kernels
from bench.densities import DENSITIES
from bench.fits import REFERENCES, measure_fits
from bench.grid import GRID, QUICK_GRID, describe_grid, measure_grid
from bench.measure import Disagreement, Effort, describe_machine, measure
from bench.memory import measure_memory
from bench.panel import (
    PANEL,
    SLOW,
    Kind,
    describe_acceleration,
    describe_starts,
    measure_acceleration,
    measure_starts,
)
from bench.peers import EARLIER, MACHINE, OURS, PEERS, REFERENCE, WITHOUT_EXTRAS, choose_peers, parse_interpreters
from bench.problems import PROBLEMS, QUICK_PROBLEMS, Problem
from bench.report import write_report
from bench.sampling import CHAINS, first_draws, measure_sampling
from bench.sampling import describe as describe_sampling
from bench.tables import median

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
CHART = FOLDER / "charts" / "speed.png"
README = FOLDER.parent / "README.md"
COMMANDS = ("run", "fits", "memory", "sample", "panel", "leaps", "grid", "chunks", "cluster", "report", "compare")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure fastgmm against its peers.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", help="`run` where none is given")
    run = commands.add_parser("run", help="seconds per EM iteration, beside every peer that is found")
    fits = commands.add_parser("fits", help="whole default fits, predictions, float32 rows and more threads")
    memory = commands.add_parser("memory", help="peak memory of fits and predictions")
    sampling = commands.add_parser("sample", help="nanoseconds per step of samplers, beside every peer that is found")
    panel = commands.add_parser("panel", help="log-likelihoods that starts lead to, on ten problems of different kinds")
    leaps = commands.add_parser("leaps", help="passes and seconds of accelerated fits where components overlap")
    grid = commands.add_parser("grid", help="seconds that choosing takes, beside a loop over scikit-learn's fits")
    chunks = commands.add_parser("chunks", help="time and memory of fits to a file of 4 GB, beside its rows in memory")
    cluster = commands.add_parser("cluster", help="EM iterations on worker processes of Dask, beside those in memory")
    report = commands.add_parser("report", help="write the README's tables and the chart from what is stored")
    compare = commands.add_parser("compare", help="name the kernels that got slower than the baseline")
    for command in (run, fits, memory):
        command.add_argument("--quick", action="store_true", help="small problems")
        command.add_argument(
            "--only", nargs="+", metavar="NAME",
            help="names of problems, such as W1; stored, if --out, beside what was measured of others in the same way",
        )  # fmt: skip
        command.add_argument("--out", type=Path, metavar="DIR", help="folder of what is measured")
    sampling.add_argument("--quick", action="store_true", help="one density")
    sampling.add_argument(
        "--only", nargs="+", metavar="NAME", choices=list(DENSITIES), help="densities; stored if --out"
    )
    sampling.add_argument("--out", type=Path, metavar="DIR", help="folder of what is measured")
    for command in (panel, leaps, grid, cluster):
        command.add_argument("--quick", action="store_true", help="two problems, or a small one")
        command.add_argument("--out", type=Path, metavar="DIR", help="folder of what is measured")
    chunks.add_argument("--quick", action="store_true", help="a small file")
    chunks.add_argument("--out", type=Path, metavar="DIR", help="folder of what is measured")
    chunks.add_argument("--threads", type=_positive, nargs="+", default=[1, 2], help="threads to fit on (default: 1 2)")
    chunks.add_argument("--folder", metavar="DIR", help="where the file may lie meanwhile (default: the system's)")
    panel.add_argument("--seeds", type=_positive, default=10, help="fits from each kind of start (default: 10)")
    for command in (run, fits, sampling, leaps, cluster):
        command.add_argument("--rounds", type=_positive, help="turns of each peer (default: 5, quick 2)")
    grid.add_argument("--seeds", type=_positive, default=5, help="grids that each way fits (default: 5)")
    for command in (run, memory, sampling):
        command.add_argument("--threads", type=_positive, default=1, help="threads each may use (default: 1)")
    run.add_argument(
        "--peers", nargs="*", metavar="NAME", type=str.lower,
        help="peers to measure besides scikit-learn and fastgmm (default: all that are found; quick: none)",
    )  # fmt: skip
    run.add_argument(
        "--peer-python", action="append", default=[], metavar="NAME=PATH",
        help="the interpreter that has a peer; or set BENCH_PYTHON_NAME",
    )  # fmt: skip
    run.add_argument("--slowest", type=float, default=20.0, help="leave out peers so many times slower (default: 20)")
    fits.add_argument(
        "--seeds", type=_positive, default=3, help="whole fits of each problem, more of short ones (default: 3)"
    )
    fits.add_argument(
        "--patience",
        type=float,
        default=60.0,
        help="seconds of a reference fit after which one seed does (default: 60)",
    )
    report.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIR",
        help="folder of what was measured, and in folders within it what was on other processors",
    )  # fmt: skip
    compare.add_argument(
        "measured", type=Path, nargs="+", metavar="FILE",
        help="what `python -m pytest bench --benchmark-json FILE` wrote; of several runs the best counts",
    )  # fmt: skip
    compare.add_argument("--tolerance", type=float, default=1.25, help="ratio that counts as slower (default: 1.25)")
    compare.add_argument("--save", action="store_true", help="make this the baseline")
    options = parser.parse_args(arguments)
    if options.command in ("run", "fits", "memory"):
        _check(options, parser)
    return options


def _check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Complete the options of a measuring command, or end the program saying which is wrong."""
    known = {problem.name for problem in _problems(options)}
    if options.only and not known.issuperset(options.only):
        parser.error(f"--only: choose from {', '.join(sorted(known))}")
    if options.command == "memory":
        return
    options.rounds = options.rounds or (2 if options.quick else 5)
    if options.command == "run":
        try:
            options.interpreters = parse_interpreters(options.peer_python)
        except ValueError as error:
            parser.error(f"--peer-python: {error}")
        if options.peers is None and options.quick:
            options.peers = []
        names = {peer.name.lower() for peer in PEERS if peer.name not in WITHOUT_EXTRAS}
        if options.peers and not names.issuperset(options.peers):
            parser.error(f"--peers: choose from {', '.join(sorted(names))}")


def _problems(options: argparse.Namespace) -> tuple[Problem, ...]:
    problems = QUICK_PROBLEMS if options.quick else PROBLEMS
    return tuple(problem for problem in problems if not options.only or problem.name in options.only) or problems


def _measure_all(
    options: argparse.Namespace, name: str, header: dict[str, Any], one: Callable[[Problem], dict[str, Any]],
    describe: Callable[[dict[str, Any]], str],
) -> int:  # fmt: skip
    """Measure problem after problem, storing after each what there is; a part of them only where a folder is named."""
    path = (options.out or RESULTS) / f"{'quick' if options.quick else 'full'}-{name}.json"
    results = {"machine": describe_machine(), **header, "rows": []}
    others = _measured_before(results, path, options.only) if options.only else []
    began, failed = time.perf_counter(), False
    for problem in _problems(options):
        try:
            row = one(problem)
        except (Disagreement, WorkerError) as error:
            print(f"{problem}: NOT MEASURED: {error}", flush=True)
            failed = True
            continue
        results["rows"].append(row)
        print(f"{problem}: {describe(row)}", flush=True)
        if options.out or not options.only:
            rows = sorted([*others, *results["rows"]], key=_place_in_table)
            _store({**results, "rows": rows}, path)
    print(f"{time.perf_counter() - began:.0f} s")
    return int(failed)


def _measured_before(results: dict[str, Any], path: Path, again: list[str]) -> list[dict[str, Any]]:
    """Rows of problems not measured again, of the same machine, versions and ways; also take their notes and date."""
    if not path.exists():
        return []
    stored = json.loads(path.read_text(encoding="utf-8"))
    if any(_conditions(stored, key) != _conditions(results, key) for key in ("machine", "threads", "rounds")):
        return []
    for key in ("notes", "agreements"):
        if key in results:
            results[key] = {**stored[key], **results[key]}
    kept = [row for row in stored["rows"] if row["problem"]["name"] not in again]
    if kept:
        results["since"] = stored.get("since", stored["machine"]["date"])
    return kept


def _conditions(results: dict[str, Any], key: str) -> Any:
    found = results.get(key)
    return {name: value for name, value in found.items() if name != "date"} if isinstance(found, dict) else found


def _place_in_table(row: dict[str, Any]) -> int:
    return [problem.name for problem in (*PROBLEMS, *QUICK_PROBLEMS)].index(row["problem"]["name"])


def _store(results: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _run(options: argparse.Namespace) -> int:
    peers, skipped = choose_peers(options.peers, options.interpreters)
    for name, reason in skipped.items():
        print(f"{name}: left out: {reason}")
    effort = Effort(options.rounds, 0.15 if options.quick else 1.5, options.slowest)
    header = {
        "threads": options.threads,
        "rounds": options.rounds,
        "notes": {peer.name: peer.note for peer in peers},
        "agreements": {peer.name: peer.agreement for peer in peers},
        "skipped": skipped,
    }
    # Beside an earlier version alone other questions are asked, and other tables answer.
    name = EARLIER if options.peers == [EARLIER] else f"{options.threads}-thread{'' if options.threads == 1 else 's'}"
    with Pool({**peers, MACHINE: sys.executable}, options.threads) as pool:
        return _measure_all(options, name, header, lambda problem: measure(problem, pool, effort), _describe_run)


def _describe_run(row: dict[str, Any]) -> str:
    def parts() -> Iterator[str]:
        for name, peer in row["peers"].items():
            faster = "" if name == REFERENCE else f" ({peer['median_ratio']:.2g} times faster)"
            yield f"{name} {1e3 * peer['median_seconds']:.3g} ms{faster}"
        yield f"limit {1e3 * row['limit']['median_seconds']:.3g} ms"
        for name, reason in row["skipped"].items():
            yield f"{name} left out: {reason}"

    return ", ".join(parts())


def _fits(options: argparse.Namespace) -> int:
    seeds = 1 if options.quick else options.seeds
    most = os.cpu_count() or 1
    return _measure_all(
        options, "fits", {"rounds": options.rounds, "threads": [1, min(2, most)]},
        lambda problem: measure_fits(
            problem, seeds=seeds, patience=options.patience, rounds=options.rounds,
            seconds=0.15 if options.quick else 1.0, more_threads=min(2, most),
        ),
        _describe_fits,
    )  # fmt: skip


def _describe_fits(row: dict[str, Any]) -> str:
    theirs, ours = row["fit"][REFERENCE], row["fit"][OURS]
    seconds = " and ".join(f"{fit['median_seconds']:.3g}" for fit in (theirs, ours))
    parts = [f"fit {seconds} s ({ours['median_ratio']:.2g} times faster)"]
    parts += [f"{method} {found[OURS]['median_ratio']:.2g}" for method, found in row["predictions"].items()]
    variants = {**row["variants"], **row.get("types", {})}
    parts += [f"{name} {found['median_ratio']:.2g}" for name, found in variants.items() if name not in REFERENCES]
    return ", ".join(parts)


def _memory(options: argparse.Namespace) -> int:
    return _measure_all(
        options, "memory", {"threads": options.threads}, lambda problem: measure_memory(problem, options.threads),
        lambda row: ", ".join(
            f"{name} {' '.join(f'{operation} {bytes_ / 2**20:.0f}' for operation, bytes_ in found.items())} MiB"
            for name, found in row["bytes"].items()
        ),
    )  # fmt: skip


def _sample(options: argparse.Namespace) -> int:
    threads = f"{options.threads}-thread{'' if options.threads == 1 else 's'}"
    path = (options.out or RESULTS) / f"{'quick' if options.quick else 'full'}-sampling-{threads}.json"
    rounds = options.rounds or (2 if options.quick else 5)
    densities = options.only or list(DENSITIES)[: 1 if options.quick else None]
    results = {"machine": describe_machine(), "threads": options.threads, "rounds": rounds, "rows": []}
    results["of_steps_alone"] = True  # what a call costs besides them is left out
    began, failed = time.perf_counter(), False
    if options.threads == 1:
        results["first_draw"] = first_draws(rounds)
        print(f"first draws after {median(results['first_draw']['first_draw']):.3g} s", flush=True)
    for density, chains in itertools.product(densities, CHAINS):
        try:
            row = measure_sampling(density, chains, options.threads, rounds)
        except (Disagreement, WorkerError) as error:
            print(f"{density}, {chains} chains: NOT MEASURED: {error}", flush=True)
            failed = True
            continue
        results["rows"].append(row)
        print(f"{density}, {chains} chains: {', '.join(describe_sampling(row))}", flush=True)
        if options.out or not options.only:
            _store(results, path)
    print(f"{time.perf_counter() - began:.0f} s")
    return int(failed)


def _panel(options: argparse.Namespace) -> int:
    def one(kind: Kind) -> dict[str, Any]:
        return measure_starts(kind, options.seeds)

    return _measure_kinds(options, "panel", PANEL, {"seeds": options.seeds}, one, describe_starts)


def _leaps(options: argparse.Namespace) -> int:
    rounds = options.rounds or (2 if options.quick else 5)

    def one(kind: Kind) -> dict[str, Any]:
        return measure_acceleration(kind, rounds)

    return _measure_kinds(options, "leaps", SLOW, {"rounds": rounds}, one, describe_acceleration)


def _measure_kinds(
    options: argparse.Namespace, name: str, kinds: tuple[Kind, ...], header: dict[str, Any],
    one: Callable[[Kind], dict[str, Any]], describe: Callable[[dict[str, Any]], str],
) -> int:  # fmt: skip
    path = (options.out or RESULTS) / f"{'quick' if options.quick else 'full'}-{name}.json"
    results = {"machine": describe_machine(), **header, "rows": []}
    for kind in kinds[: 2 if options.quick else None]:
        row = one(kind)
        results["rows"].append(row)
        print(f"{kind.problem}: {describe(row)}", flush=True)
        _store(results, path)
    return 0


def _grid(options: argparse.Namespace) -> int:
    row = measure_grid(QUICK_GRID if options.quick else GRID, options.seeds)
    print(describe_grid(row))
    results = {"machine": describe_machine(), "seeds": options.seeds, "rows": [row]}
    _store(results, (options.out or RESULTS) / f"{'quick' if options.quick else 'full'}-grid.json")
    return 0


def _chunks(options: argparse.Namespace) -> int:
    path = (options.out or RESULTS) / f"{'quick' if options.quick else 'full'}-chunks.json"
    found = measure_chunks(500_000 if options.quick else 64_000_000, options.threads, options.folder)
    print(describe_chunks(found))
    _store({"machine": describe_machine(), **found}, path)
    return 0


def _cluster(options: argparse.Namespace) -> int:
    from bench.cluster import PROBLEM, QUICK_PROBLEM, WORKERS, describe, measure_cluster

    rounds, iterations = options.rounds or (1 if options.quick else 3), 3 if options.quick else 6
    results: dict[str, Any] = {"machine": describe_machine(), "rounds": rounds, "rows": []}
    for workers in WORKERS:
        row = measure_cluster(QUICK_PROBLEM if options.quick else PROBLEM, workers, rounds, iterations)
        results["rows"].append(row)
        print(describe(row), flush=True)
    _store(results, (options.out or RESULTS) / f"{'quick' if options.quick else 'full'}-cluster.json")
    return 0


def _report(options: argparse.Namespace) -> int:
    print(write_report(options.results, README, CHART))
    return 0


def _compare(options: argparse.Namespace) -> int:
    text, slower = compare_kernels(options.measured, BASELINE, options.tolerance, save=options.save)
    print(text)
    return int(bool(slower))


def main() -> int:
    """Run the command line and return the exit status."""
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["run", *arguments]
    options = _parse(arguments)
    commands = {
        "run": _run,
        "fits": _fits,
        "memory": _memory,
        "sample": _sample,
        "panel": _panel,
        "leaps": _leaps,
        "grid": _grid,
        "chunks": _chunks,
        "cluster": _cluster,
        "report": _report,
        "compare": _compare,
    }
    try:
        return commands[options.command](options)
    except (OSError, ValueError) as error:
        if options.command in ("report", "compare"):
            sys.exit(f"cannot {options.command}: {error}")
        raise


if __name__ == "__main__":
    sys.exit(main())
