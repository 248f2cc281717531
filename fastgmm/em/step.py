"""One EM step: a pass over all rows, and the parameters that maximise what it found."""

import functools
import math
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import numpy as np

from fastgmm.covariance import Hyperparameters, Parameters, Update, full
from fastgmm.covariance.prior import log_density
from fastgmm.kernels.triangular import SMALL_SIZES
from fastgmm.sources import ArrayRows, Rows
from fastgmm.statistics import Statistics

# From parameters to the objective per row there, where EM leads from them, and what is wrong with that.
Step = Callable[[Parameters], tuple[float, Update, str]]


def steps(source: Rows, start: Parameters, structure: ModuleType, prior: Hyperparameters, *, kept: bool) -> Step:
    """What takes the steps of a run from `start`.

    Unless what it returns is to be `kept`, the arrays of all but the last two updates may be written again.
    """
    general = functools.partial(step, source, structure=structure, prior=prior)
    if kept or structure is not full or prior.scale is not None or type(source) is not ArrayRows:
        return general
    return StepsOfFew.prepare(source, start, prior, general) or general


def step(
    source: Rows, parameters: Parameters, structure: ModuleType, prior: Hyperparameters
) -> tuple[float, Update, str]:
    """The objective per row at `parameters`, where EM leads from there, and what is wrong with that."""
    statistics = expect(source, parameters, structure)
    if statistics.lost:
        fault = f"squared distances of {statistics.lost} rows to every component overflow"
        return -math.inf, Update(parameters, -1, False), fault
    update = maximise(source, statistics, parameters, structure, prior)
    log_posterior = statistics.log_likelihood + log_density(prior, parameters, structure)
    fault = "" if update.failed < 0 else f"{structure.describe(update.failed)} is not positive-definite"
    return log_posterior / source.total_weight, update, fault


def expect(source: Rows, parameters: Parameters, structure: ModuleType) -> Statistics:
    """Read all rows once, by the form that is good for any data if another loses some."""
    statistics = source.reduce(source.form(structure, parameters))
    if statistics.lost:
        statistics = source.reduce(source.centred_form(structure, parameters))
    return statistics


def maximise(
    source: Rows, statistics: Statistics, parameters: Parameters, structure: ModuleType, prior: Hyperparameters
) -> Update:
    """Maximise, with the moments taken again about the new means if they lost digits where they were taken."""
    update: Update = structure.maximise(statistics, prior)
    if update.jumped or update.failed >= 0:
        means = update.parameters.means
        centres = means if np.isfinite(means).all() else parameters.means
        again = source.reduce(source.centred_form(structure, parameters), centres=centres)
        update = structure.maximise(again, prior)
    return update


class _Place(NamedTuple):
    """Parameters in arrays that are written again and again, and what is done with them."""

    parameters: Parameters
    read: Callable[[], object]  # takes the sums of a pass under them
    lead: Callable[[], tuple[int, bool]]  # from those sums to the parameters in the other place, as `maximise_by`
    renew: Callable[[], object]  # sets what passes under the parameters here need beside them
    update: Update  # that led here


class StepsOfFew:
    """Steps over rows so few that to make arrays and tuples for each would take longer than the arithmetic.

    They lead from one place to another and back, with the bits of `step`, which takes those that need more than a pass
    and a maximisation.
    """

    def __init__(self, sums: np.ndarray, total_weight: float, places: list[_Place], general: Step) -> None:
        self._sums, self._total_weight, self._general = sums, total_weight, general
        self._here, self._there = places

    @classmethod
    def prepare(
        cls, source: ArrayRows, start: Parameters, prior: Hyperparameters, general: Step
    ) -> "StepsOfFew | None":
        """Steps under full covariances; None where a pass is no single call, or needs more than the parameters."""
        if start.means.shape[1] > SMALL_SIZES[-1]:
            return None
        parameters, others = (Parameters(*(np.array(part, np.float64, order="C") for part in start)) for _ in range(2))
        places = []
        for own, to in ((parameters, others), (others, parameters)):
            form = full.form(own)
            if (each := source.prepare(form)) is None:
                return None
            lead = full.prepare_maximise(each.statistics, prior, to)
            places.append(_Place(own, each.read, lead, form.prepare_renewal(own.weights), Update(own, -1, False)))
            sums = each.sums
        return cls(sums, source.total_weight, places, general)

    def __call__(self, point: Parameters) -> tuple[float, Update, str]:
        here, there = self._here, self._there
        if point is not here.parameters:
            for own, other in zip(here.parameters, point, strict=True):
                own[:] = other
            here.renew()
        here.read()
        failed, jumped = here.lead()
        if failed >= 0 or jumped:  # as of rows that are lost, whose moments are NaN
            return self._general(point)
        there.renew()
        self._here, self._there = there, here
        return self._sums.item(0) / self._total_weight, there.update, ""
