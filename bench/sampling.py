"""Measure samplers beside each other: the same random walk on the same densities, in one run.

The walk being the same, a step is worth as many independent draws in every library; how many is estimated once for each
density, from chains of ours, and turns steps per second into effective draws per second. That the walk is the same is
seen in the share of candidates that are accepted, and that the target is, in where the chains end.

A step takes what a longer walk takes more than a shorter one, in every library: what a call costs besides its steps,
such as a look at the density at every start, is left out.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.client import ROOT, Worker, WorkerError
from bench.densities import DENSITIES, Density
from bench.measure import Disagreement
from bench.peers import Peer, find_interpreter
from bench.problems import Array

CHAINS = (1, 16, 1_024)
_SECONDS = 0.3  # that a turn should take
_SHORT = 10  # of which the shorter walk takes the tenth part
_ACCEPTANCE = 0.03  # by which rates may differ: chance, as turns are short
_STANDARD_ERRORS = 6.0  # by which the means of the chains' last positions may differ from the density's


class Sampler(NamedTuple):
    """A way to sample: a worker and what it is told."""

    name: str
    peer: Peer
    options: dict[str, str]


_OURS = Peer("fastgmm's sampler", "chains_fastgmm", "fastgmm")
SAMPLERS = (
    *(Sampler(f"fastgmm, {kind}", _OURS, {"kind": kind}) for kind in ("Mixture", "batch", "scalar")),
    Sampler("C++", Peer("C++ loop", "chains_cpp", "numpy", note="-O3, one chain after another"), {}),
    Sampler("BlackJAX", Peer("BlackJAX", "chains_blackjax", "blackjax"), {}),
    Sampler("emcee", Peer("emcee", "chains_emcee", "emcee"), {}),
    Sampler("Python loop", Peer("Python loop", "chains_python", "numpy"), {}),
)
REFERENCE = "C++"


def is_offered(sampler: Sampler, density: str, chains: int) -> bool:
    """Whether this combination is measured: batch densities are written for the plane."""
    if sampler.options.get("kind") == "batch":
        return density == next(iter(DENSITIES))
    if sampler.peer.module == "chains_python":
        return chains == 1
    return True


def measure_sampling(name: str, chains: int, threads: int, rounds: int) -> dict[str, Any]:
    """Return nanoseconds per step and chain of every sampler on one density, round by round.

    Raises
    ------
    Disagreement
        If a sampler accepts another share of the candidates than the others, so does not take the same walk; or if
        its chains, which began at exact draws, end about another mean than the density's.
    """
    density = DENSITIES[name]()
    found: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    versions: dict[str, str] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fastgmm-bench-"))
        path = str(Path(folder) / "density.npz")
        np.savez(path, **density._asdict())
        workers: dict[str, tuple[Worker, int]] = {}
        for sampler in SAMPLERS:
            if not is_offered(sampler, name, chains):
                continue
            python = find_interpreter(sampler.peer, {})
            if python is None:
                skipped[sampler.name] = f"no interpreter found that has {sampler.peer.imports}"
                continue
            worker = stack.enter_context(Worker(sampler.peer, python, threads))
            try:
                worker.ask("prepare", density=path, chains=chains, threads=threads, **sampler.options)
                versions[sampler.name] = worker.ask("tell_version")
                workers[sampler.name] = worker, _steps_for(worker)
            except WorkerError as error:
                skipped[sampler.name] = str(error).splitlines()[0]
        for _ in range(rounds):
            for sampler_name, (worker, steps) in workers.items():
                short = steps // _SHORT
                seconds = worker.ask("walk", steps=short)["seconds"]
                answer = worker.ask("walk", steps=steps)
                entry = found.setdefault(sampler_name, {"nanoseconds": [], "accepted": [], "steps": steps})
                entry["nanoseconds"].append(1e9 * (answer["seconds"] - seconds) / (steps - short) / chains)
                entry["accepted"].append(answer["accepted"])
                _check_mean(sampler_name, np.array(answer["mean"]), density, chains)
    _compare(found)
    return {
        "density": name,
        "chains": chains,
        "samplers": found,
        "versions": versions,
        "skipped": skipped,
        "effective_per_step": effective_draws_per_step(density),
    }


def _steps_for(worker: Worker) -> int:
    """How many steps fill a turn, by doubling."""
    steps = 10
    while True:
        seconds = worker.ask("walk", steps=steps)["seconds"]
        if seconds > 0.2 * _SECONDS:
            return max(_SHORT, round(steps * _SECONDS / seconds))
        steps *= 4


def _compare(found: dict[str, dict[str, Any]]) -> None:
    rates = {name: float(np.mean(entry["accepted"])) for name, entry in found.items()}
    known = {name: rate for name, rate in rates.items() if np.isfinite(rate)}
    middle = float(np.median(list(known.values())))
    wrong = [f"{name} {rate:.3f}" for name, rate in known.items() if abs(rate - middle) > _tolerance(found[name])]
    if wrong:
        raise Disagreement(f"the share of accepted candidates is {middle:.3f}, but {', '.join(wrong)}")


def _check_mean(name: str, mean: Array, density: Density, chains: int) -> None:
    """Compare the mean of all chains' positions, exact draws one of each chain, with the density's."""
    expected = density.weights @ density.means
    deviations = density.means - expected
    variances = np.einsum("cjj->cj", density.covariances) + deviations**2
    error = np.sqrt(density.weights @ variances / chains)
    if not np.all(np.abs(mean - expected) <= _STANDARD_ERRORS * error):
        raise Disagreement(f"{name}: the chains' mean is {mean}, the density's {expected}, with an error of {error}")


def _tolerance(entry: dict[str, Any]) -> float:
    """Short single chains have seen little of the density."""
    return _ACCEPTANCE if entry["steps"] * len(entry["accepted"]) > 10_000 else 5 * _ACCEPTANCE


def effective_draws_per_step(density: Density) -> float:
    """How many independent draws a step is worth, for the coordinate that mixes worst."""
    from fastgmm import Mixture, sample
    from fastgmm.mcmc import RandomWalk

    chains = sample(
        Mixture(density.weights, density.means, density.covariances),
        draws=5_000,
        chains=8,
        thin=4,
        warmup=1_000,
        seed=0,
        kernel=RandomWalk(cov=density.step, adapt=None),
    )
    return float(np.min(chains.effective_sample_size()) / (8 * 5_000 * 4))


def first_draws(rounds: int) -> dict[str, list[float]]:
    """Return seconds of importing and of the first draws, each time in a new process; the first fills the cache."""
    found = []
    for _ in range(rounds + 1):
        command = [sys.executable, "-m", "bench.workers.first_draw"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        found.append(json.loads(done.stdout))
    return {name: [each[name] for each in found[1:]] for name in found[0]}


def describe(row: dict[str, Any]) -> Iterator[str]:
    """Say in a line what was found."""
    for name, entry in row["samplers"].items():
        yield f"{name} {np.median(entry['nanoseconds']):.3g} ns"
    for name, reason in row["skipped"].items():
        yield f"{name} left out: {reason}"
