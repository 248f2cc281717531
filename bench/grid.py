"""What choosing costs: a whole grid of sizes and structures, beside a loop over scikit-learn's fits."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.mixture import GaussianMixture as Reference
from threadpoolctl import threadpool_limits

from bench.measure import log_likelihood, summarise
from bench.panel import Kind, draw_rows
from bench.peers import OURS, REFERENCE
from bench.problems import Array, Problem
from bench.workers import Run
from fastgmm import GaussianMixtureIC, Mixture

FOUR = ["full", "tied", "diag", "spherical"]
LOOP = f"loop over {REFERENCE}"
STARTS, EVERY = f"{OURS}, best of 3 starts", f"{OURS}, all nine structures"


@dataclass(frozen=True)
class Grid:
    """Rows, and the largest of the numbers of components that are tried on them."""

    kind: Kind
    most: int


GRID = Grid(Kind(Problem("grid", 100_000, 8, 6, "full"), 2.0, elongation=0.5, weights=0.5), 10)
QUICK_GRID = Grid(replace(GRID.kind, problem=Problem("quick grid", 2_000, 4, 3, "full")), 4)


def measure_grid(grid: Grid, seeds: int) -> dict[str, Any]:
    """Choose with each seed, all ways in turn; what it took, and the chosen models with their BIC.

    That is computed anew from their parameters, by NumPy alone.
    """
    rows = draw_rows(grid.kind)
    ways: dict[str, Callable[[int], tuple[int, Any]]] = {
        LOOP: lambda seed: _loop(rows, grid.most, seed),
        OURS: lambda seed: _choose(rows, grid.most, FOUR, random_state=seed),
        STARTS: lambda seed: _choose(rows, grid.most, FOUR, random_state=seed, n_init=3),
        EVERY: lambda seed: _choose(rows, grid.most, "all", random_state=seed),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    chosen: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    models = dict.fromkeys(ways, 0)
    ways[EVERY](0)  # compiles what it needs
    for seed in range(seeds):
        for name, way in ways.items():
            began = time.perf_counter()
            models[name], best = way(seed)
            seconds[name].append(time.perf_counter() - began)
            chosen[name].append(_describe_best(best, rows))
    found = {
        name: {"models": models[name], "chosen": chosen[name], **summarise(seconds[LOOP], seconds[name])}
        for name in ways
    }
    return {"problem": vars(grid.kind.problem), "most": grid.most, "ways": found}


def _loop(rows: Array, most: int, seed: int) -> tuple[int, Any]:
    """What a user of scikit-learn writes."""
    fits = []
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # of fits that do not converge: ours end there as well
        for k in range(1, most + 1):
            for structure in FOUR:
                model = Reference(k, covariance_type=structure, random_state=seed).fit(rows)
                fits.append((model.bic(rows), len(fits), model))
    return len(fits), min(fits)[-1]


def _choose(rows: Array, most: int, structures: Any, **options: Any) -> tuple[int, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = GaussianMixtureIC((1, most), covariance_type=structures, n_jobs=1, **options).fit(rows)
    return len(found.criterion_), found.best_estimator_


def _describe_best(model: Any, rows: Array) -> dict[str, Any]:
    mixture = Mixture.from_estimator(model)
    run = Run(0.0, 1, mixture.weights, mixture.means, mixture.covariances_dense)
    bic = -2.0 * log_likelihood(rows, run) + model._n_parameters() * np.log(len(rows))
    return {"n_components": model.n_components, "structure": model.covariance_type, "bic": float(bic)}


def describe_grid(row: dict[str, Any]) -> str:
    """Say what each way took and chose, a line each."""
    return "\n".join(
        f"{name}: {way['models']} models in {way['median_seconds']:.3g} s ({way['median_ratio']:.2g} times faster); "
        + ", ".join(f"{best['n_components']} {best['structure']} {best['bic']:.1f}" for best in way["chosen"])
        for name, way in row["ways"].items()
    )
