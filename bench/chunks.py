"""Measure fits of a file larger than any cache: its rows in memory, mapped, and read block by block."""

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from bench.problems import Array

FEATURES = COMPONENTS = 8
WAYS = {
    "in memory": "`fit` of the rows in memory",
    "mapped": '`fit(np.load(path, mmap_mode="r"))`',
    "in blocks": "`fit_chunks([path])`",
}
_BLOCK = 1 << 20
_FEW, _MORE = 1, 4  # iterations, whose difference counts
_INTERVAL = 0.01  # seconds between looks at memory


def measure_chunks(rows: int, threads: list[int], folder: str | None = None) -> dict[str, Any]:
    """Return seconds per iteration and megabytes of every way to fit a file of so many rows, a process each.

    Raises
    ------
    OSError
        If the folder has not the room for the file.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        size = 8 * FEATURES * rows
        if shutil.disk_usage(place).free < 1.2 * size:
            raise OSError(f"{place} has no room for {size / 1e9:.1f} GB; name another folder with --folder.")
        path = Path(place) / "rows.npy"
        write_rows(path, rows)
        found = {}
        for way in WAYS:
            command = [sys.executable, "-m", "bench.chunks", way, str(path), *map(str, threads)]
            found[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    seen = {way: each.pop("log_likelihood") for way, each in found.items()}
    if len(set(seen.values())) > 1:
        raise RuntimeError(f"The ways lead to different log-likelihoods: {seen}.")
    return {"rows": rows, "features": FEATURES, "components": COMPONENTS, "bytes": size, "ways": found}


def write_rows(path: Path, rows: int) -> None:
    """Write rows around eight centres; so that it does not take long, all blocks differ by no more than a shift."""
    random = np.random.default_rng(0)
    block = random.normal(size=(_BLOCK, FEATURES)) + 4.0 * _centres()[random.integers(0, COMPONENTS, _BLOCK)]
    mapped = np.lib.format.open_memmap(path, "w+", np.float64, (rows, FEATURES))
    for start in range(0, rows, _BLOCK):
        mapped[start : start + _BLOCK] = (block + 1e-3 * random.normal())[: rows - start]
    mapped.flush()


def _centres() -> Array:
    return np.eye(COMPONENTS, FEATURES)


def measure_way(way: str, path: str, threads: list[int]) -> dict[str, Any]:
    """Return seconds per iteration for every number of threads, and what the fits add to anonymous memory at most."""
    rows = np.load(path, mmap_mode=None if way == "in memory" else "r")
    rows[:: 4096 // (8 * FEATURES)].sum()  # the file is cached and, where it is, mapped
    for number in threads:
        _fit(way, path, rows[:500_000], number, 1, few=True)  # what is compiled is loaded
    before, most, done = _anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(_INTERVAL):
            most = max(most, _anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    seconds, log_likelihood = {}, 0.0
    for number in threads:
        times = []
        for iterations in (_FEW, _MORE):
            began = time.perf_counter()
            log_likelihood = _fit(way, path, rows, number, iterations)
            times.append(time.perf_counter() - began)
        seconds[str(number)] = {"iteration": (times[1] - times[0]) / (_MORE - _FEW), "fit": times[1]}
    done.set()
    watcher.join()
    return {"seconds": seconds, "anonymous": max(0, most - before), "log_likelihood": log_likelihood}


def _fit(way: str, path: str, rows: Array, threads: int, iterations: int, few: bool = False) -> float:
    from fastgmm import GaussianMixture

    start = {"weights_init": np.full(COMPONENTS, 1 / COMPONENTS), "means_init": 3.0 * _centres()}
    model = GaussianMixture(
        COMPONENTS, tol=0.0, max_iter=iterations, n_jobs=threads, precisions_init=_identities(), **start
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it did not converge is meant
        if way == "in blocks":
            model.fit_chunks([rows] if few else [path])
        else:
            model.fit(rows)
    return float(model.lower_bound_)


def _identities() -> Array:
    return np.stack([np.eye(FEATURES)] * COMPONENTS)


def _anonymous() -> int:
    """Bytes of memory that no file stands behind, as Linux counts it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise OSError("The system does not tell a process's RssAnon.")


def describe(results: dict[str, Any]) -> str:
    """Return one line about what was measured."""
    return "; ".join(
        f"{way} "
        + ", ".join(
            f"{1e9 * each['iteration'] / results['rows']:.3g} ns a row on {threads}"
            for threads, each in found["seconds"].items()
        )
        + f", {found['anonymous'] / 2**20:.0f} MiB"
        for way, found in results["ways"].items()
    )


if __name__ == "__main__":
    print(json.dumps(measure_way(sys.argv[1], sys.argv[2], [int(each) for each in sys.argv[3:]])))
