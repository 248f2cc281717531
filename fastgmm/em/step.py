"""One EM step: a pass over all rows, and the parameters that maximise what it found."""

import functools
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastgmm.covariance import Hyperparameters, Parameters, Update, diag, full, spherical, tied
from fastgmm.covariance.prior import log_density
from fastgmm.covariance.update import prepare_maximise
from fastgmm.sources import ArrayRows, Rows
from fastgmm.statistics import Statistics

# From parameters to the objective per row there, where EM leads from them, and what is wrong with that.
Step = Callable[[Parameters], tuple[float, Update, str]]


# Structures whose `maximise` is one call of a kernel.
_IN_ONE_CALL = full, tied, diag, spherical
# So many steps repay what it takes to prepare those that follow.
_WORTH_PREPARING = 8


def steps(source: Rows, structure: ModuleType, prior: Hyperparameters, *, kept: bool) -> Step:
    """What takes the steps of a run.

    Unless what it returns is to be `kept`, the arrays of all but the last two updates may be written again.
    """
    general = functools.partial(step, source, structure=structure, prior=prior)
    if kept or structure not in _IN_ONE_CALL or prior.scale is not None or type(source) is not ArrayRows:
        return general
    return StepsOfFew(source, structure, prior, general)


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
    form: Any  # of those
    read: Callable[[], object]  # takes the sums of a pass under it
    lead: Callable[[], tuple[int, bool]]  # from those sums to the parameters in the other place, as `maximise_by`
    renew: Callable[[], object]  # sets it by the parameters here; true if they need another form
    update: Update  # that led here


class StepsOfFew:
    """Steps that, over few rows, make no arrays and tuples: to make them takes longer than the arithmetic.

    They lead from one place to another and back, with the bits of the `general` step. That takes the first few; those
    that need more than a pass and a maximisation, or another form than the first; and all where to share a pass may
    pay, or the form cannot be set anew.
    """

    _here: _Place
    _there: _Place

    def __init__(self, source: ArrayRows, structure: ModuleType, prior: Hyperparameters, general: Step) -> None:
        self._source, self._structure, self._prior, self._general = source, structure, prior, general
        self._left: float = _WORTH_PREPARING  # general steps to come

    def __call__(self, point: Parameters) -> tuple[float, Update, str]:
        if self._left:
            self._left -= 1
            if not self._left and not self._prepare(point):
                self._left = math.inf
            return self._general(point)
        here, there = self._here, self._there
        if point is not here.parameters:
            for own, other in zip(here.parameters, point, strict=True):
                own[:] = other
            if here.renew():
                return self._general(point)
        here.read()
        failed, jumped = here.lead()
        if failed >= 0 or jumped:  # as of rows that are lost, whose moments are NaN
            return self._general(point)
        if not there.renew():
            self._here, self._there = there, here
        return self._sums.item(0) / self._source.total_weight, there.update, ""

    def _prepare(self, point: Parameters) -> bool:
        """Make both places, for parameters like these; False where they would not do."""
        source, structure = self._source, self._structure
        if source.single:  # whether it needs a form in float32 may change
            return False
        parameters, others = (Parameters(*(np.array(part, np.float64, order="C") for part in point)) for _ in range(2))
        places = []
        for own, to in ((parameters, others), (others, parameters)):
            form = source.form(structure, own)
            if not hasattr(form, "prepare_renewal") or (prepared := source.prepare(form)) is None:
                return False
            lead = prepare_maximise(structure.maximise_kernel, prepared.statistics, self._prior, to)
            renew = form.prepare_renewal(prepared.statistics.centres, *own)
            places.append(_Place(own, form, prepared.read, lead, renew, Update(own, -1, False)))
            self._sums = prepared.sums
        self._here, self._there = places
        return True
