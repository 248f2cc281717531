"""Serve one library: `python -m bench.workers MODULE`, a JSON request and a JSON answer a line."""

import importlib
import json
import os
import sys
import traceback
from typing import Any

import numpy as np

from bench.problems import Problem, Start
from bench.workers import Run


class Server:
    """Turns requests into calls of a library; arrays go over as files."""

    def __init__(self, module: str) -> None:
        self._library = importlib.import_module(f"bench.workers.{module}").Library()

    def setup(self, problem: dict[str, Any], rows: str, start: str, threads: int, dtype: str) -> dict[str, Any]:
        """Load rows and start into memory of the library's own process."""
        with np.load(start) as arrays:
            begin = Start(**arrays)
        # Copied out of the file: rows mapped from it would be read through small pages.
        self._library.setup(Problem(**problem), np.load(rows).astype(dtype, copy=False), begin, threads)
        return {"version": self._library.version}

    def iterate(self, n_iter: int, out: str = "") -> dict[str, Any]:
        """Run iterations and leave the parameters in the file `out`, if it is named."""
        return _describe(self._library.iterate(n_iter), out)

    def fit(self, seed: int, out: str = "") -> dict[str, Any]:
        """Fit with the library's defaults."""
        return _describe(self._library.fit(seed), out)

    def tell_version(self) -> str:
        """Return the library's version."""
        return str(self._library.version)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)


def _describe(run: Run, out: str) -> dict[str, Any]:
    if out:
        np.savez(out, weights=run.weights, means=run.means, covariances=run.covariances)
    return {"seconds": run.seconds, "n_iter": run.n_iter}


def main() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    server: Server | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            server = server or Server(sys.argv[1])
            answer = {"answer": getattr(server, request["call"])(**request["arguments"])}
        except Exception as error:  # whatever a library raises is for the other side to report
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
