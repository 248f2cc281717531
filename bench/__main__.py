"""The command line of the benchmarks: `python -m bench [--quick]`, `python -m bench report`."""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from bench.measure import ALLOCATOR, Disagreement, describe_machine, measure
from bench.peers import REFERENCE
from bench.problems import PROBLEMS, QUICK_PROBLEMS, Problem
from bench.report import write_report

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
README = FOLDER.parent / "README.md"


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure fastgmm against its peers.")
    parser.add_argument(
        "command", nargs="?", choices=["run", "report"], default="run", help="measure, or write the README's table"
    )
    parser.add_argument("--quick", action="store_true", help="small problems, under two minutes")
    parser.add_argument("--threads", type=_positive, default=1, help="threads that each peer may use (default: 1)")
    parser.add_argument("--rounds", type=_positive, help="turns of each peer (default: 5, quick 3)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names of the problems to measure, such as W1")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder of the stored measurements")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (3 if options.quick else 5)
    known = {problem.name for problem in _problems(options.quick)}
    if options.only and not known.issuperset(options.only):
        parser.error(f"--only: choose from {', '.join(sorted(known))}")
    return options


def _problems(quick: bool) -> tuple[Problem, ...]:
    return QUICK_PROBLEMS if quick else PROBLEMS


def _results_path(options: argparse.Namespace) -> Path:
    kind = "quick" if options.quick else "full"
    return Path(options.out) / f"{kind}-{options.threads}-thread{'' if options.threads == 1 else 's'}.json"


def _restart_with_allocator() -> None:
    """Start this process anew with the allocator's settings, which the C library reads only at its start."""
    if sys.platform == "linux" and any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, "-m", "bench", *sys.argv[1:]], {**os.environ, **ALLOCATOR})


def _run(options: argparse.Namespace) -> int:
    began, rows, failed = time.perf_counter(), [], False
    for problem in _problems(options.quick):
        if options.only and problem.name not in options.only:
            continue
        try:
            row = measure(
                problem, rounds=options.rounds, seconds=0.25 if options.quick else 1.5, threads=options.threads
            )
        except Disagreement as error:
            print(f"{problem}: NO TIME: {error}", flush=True)
            failed = True
            continue
        rows.append(row)
        print(f"{problem}: {_summary(row)}", flush=True)
    if rows and not options.only:
        _store({"machine": describe_machine(), "threads": options.threads, "rounds": options.rounds, "rows": rows},
               _results_path(options))  # fmt: skip
    print(f"{time.perf_counter() - began:.0f} s")
    return int(failed)


def _summary(row: dict[str, Any]) -> str:
    parts = []
    for name, peer in row["peers"].items():
        faster = "" if name == REFERENCE else f" ({peer['median_ratio']:.1f} times faster)"
        parts.append(f"{name} {1e3 * peer['median_seconds']:.3g} ms{faster}")
    return ", ".join(parts)


def _store(results: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Run the command line and return the exit status."""
    options = _parse(sys.argv[1:])
    if options.command == "report":
        try:
            print(write_report(_results_path(options), README))
        except (OSError, ValueError) as error:
            sys.exit(f"cannot write the report: {error}")
        return 0
    _restart_with_allocator()
    return _run(options)


if __name__ == "__main__":
    sys.exit(main())
