"""Do our starts lead where scikit-learn's do? Ten problems, and as many seeds; and how far leaps shorten slow fits."""

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.mixture import GaussianMixture as Reference

from bench.measure import summarise
from bench.peers import OURS, REFERENCE
from bench.problems import Array, Problem
from fastgmm import GaussianMixture

WHITENED = f"{OURS}, whitened"
PLAIN, LEAPING = "plain", "squarem"
# Fits go on until what they reach is their start's doing, not that of when they stop.
_ENDLESS = {"tol": 1e-6, "max_iter": 500}
_TO_THE_END = {"tol": 1e-9, "max_iter": 10_000}
NEAR = 1e-6  # nats a row below the final log-likelihood


@dataclass(frozen=True)
class Kind:
    """A mixture that rows are drawn from: standard deviations, most of logarithms, of what differs in it."""

    problem: Problem
    spread: float  # of the means
    elongation: float = 0.0  # of a component's widths along its axes
    widths: float = 0.0  # of the components' widths
    weights: float = 0.0  # of the weights
    units: float = 0.0  # of the features' units


PANEL = (
    Kind(Problem("well separated", 2_000, 2, 5, "full"), 8.0),
    Kind(Problem("well separated, tied", 2_000, 8, 10, "tied"), 4.0),
    Kind(Problem("overlapping", 2_000, 2, 3, "full"), 1.5),
    Kind(Problem("overlapping, more features", 3_000, 8, 6, "full"), 1.0),
    Kind(Problem("elongated", 2_000, 2, 4, "full"), 3.0, elongation=1.5),
    Kind(Problem("elongated, more features", 3_000, 10, 5, "full"), 2.0, elongation=1.0),
    Kind(Problem("unequal widths", 3_000, 4, 6, "full"), 3.0, widths=1.5),
    Kind(Problem("unequal weights and units", 3_000, 4, 5, "diag"), 3.0, weights=1.5, units=2.0),
    Kind(Problem("many components", 3_000, 2, 30, "full"), 8.0),
    Kind(Problem("many components, spherical", 3_000, 8, 50, "spherical"), 3.0),
)
SLOW = (
    Kind(Problem("two overlapping", 5_000, 1, 2, "full"), 0.8),
    Kind(Problem("three overlapping", 5_000, 2, 3, "full"), 1.0),
    Kind(Problem("six overlapping", 5_000, 8, 6, "diag"), 0.9),
    Kind(Problem("four where there is one", 5_000, 3, 4, "full"), 0.0),
    Kind(Problem("many overlapping", 5_000, 4, 16, "full"), 1.5),
    Kind(Problem("many overlapping, tied", 5_000, 4, 16, "tied"), 1.5),
)


def draw_rows(kind: Kind, seed: int = 0) -> Array:
    """Draw the rows of a problem; they are the same in every run."""
    problem = kind.problem
    n, d, k = problem.rows, problem.features, problem.components
    random = np.random.default_rng([seed, *problem.name.encode()])
    weights = np.exp(kind.weights * random.standard_normal(k))
    means = kind.spread * random.standard_normal((k, d))
    axes = np.linalg.qr(random.standard_normal((k, d, d)))[0]
    along, each = random.standard_normal((k, 1, d)), random.standard_normal((k, 1, 1))
    widths = np.exp(kind.elongation * along + kind.widths * each)
    labels = random.choice(k, size=n, p=weights / weights.sum())
    rows = means[labels] + np.einsum("nij,nj->ni", (axes * widths)[labels], random.standard_normal((n, d)))
    return rows * np.exp(kind.units * random.standard_normal(d))


def measure_starts(kind: Kind, seeds: int) -> dict[str, Any]:
    """Fit from the default start of both, and from ours in whitened coordinates, with each seed."""
    rows, problem = draw_rows(kind), kind.problem
    fits = {
        REFERENCE: (Reference, "kmeans"),
        OURS: (GaussianMixture, "kmeans"),
        WHITENED: (GaussianMixture, "kmeans-whitened"),
    }
    scores: dict[str, list[float]] = {name: [] for name in fits}
    for seed in range(seeds):
        for name, (estimator, init) in fits.items():
            options = {"covariance_type": problem.structure, "init_params": init, "random_state": seed, **_ENDLESS}
            scores[name].append(float(_fit(estimator(problem.components, **options), rows).score(rows)))
    return {"problem": vars(problem), "scores": scores}


def measure_acceleration(kind: Kind, rounds: int) -> dict[str, Any]:
    """Passes and seconds that plain and accelerated fits take, from one start, to the log-likelihood both reach."""
    rows, problem = draw_rows(kind), kind.problem
    options = {"covariance_type": problem.structure}
    start = _fit(GaussianMixture(problem.components, **options, random_state=0, max_iter=0), rows)
    options |= {"weights_init": start.weights_, "means_init": start.means_, "precisions_init": start.precisions_}
    paces = {PLAIN: None, LEAPING: "squarem"}
    climbs: dict[str, list[tuple[int, float]]] = {name: [] for name in paces}
    for name, pace in paces.items():
        note = _noting(climbs[name])
        _fit(GaussianMixture(problem.components, **options, **_TO_THE_END, acceleration=pace, callback=note), rows)
    final = {name: seen[-1][1] for name, seen in climbs.items()}
    goal = min(final.values()) - NEAR
    passes = {name: next(iteration for iteration, height in seen if height >= goal) for name, seen in climbs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in paces}
    for _ in range(rounds):
        for name, pace in paces.items():
            limits = {"tol": 0.0, "max_iter": passes[name], "n_jobs": 1}
            model = GaussianMixture(problem.components, **options, **limits, acceleration=pace)
            began = time.perf_counter()
            _fit(model, rows)
            seconds[name].append(time.perf_counter() - began)
    measured = {name: summarise(seconds[PLAIN], seconds[name]) for name in paces}
    return {"problem": vars(problem), "passes": passes, "final": final, "times": measured}


def _noting(seen: list[tuple[int, float]]) -> Any:
    return lambda iteration, mixture, log_likelihood: seen.append((iteration, log_likelihood))


def _fit(model: Any, rows: Array) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what does not converge, or is degenerate: results are compared
        return model.fit(rows)


def describe_starts(row: dict[str, Any]) -> str:
    """Say what one problem gave, in a line."""
    return ", ".join(f"{name} {np.mean(scores):.5f}" for name, scores in row["scores"].items())


def describe_acceleration(row: dict[str, Any]) -> str:
    """Say what one problem took, in a line."""
    return ", ".join(
        f"{name} {row['passes'][name]:,} passes, {1e3 * times['median_seconds']:.3g} ms"
        for name, times in row["times"].items()
    )
