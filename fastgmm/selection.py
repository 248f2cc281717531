"""GaussianMixtureIC: mixtures of several sizes and structures fitted to the same rows, and the best of them chosen."""

import copy
import time
import warnings
from collections.abc import Iterator
from functools import cached_property
from numbers import Integral, Real
from typing import Any, NamedTuple, Protocol

import numpy as np
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from fastgmm import criteria
from fastgmm.covariance import ALIASES, STRUCTURES, Prior, count_parameters
from fastgmm.data import check_rows, check_weights, computes_in_float64, is_dask, validated
from fastgmm.em.errors import DegenerateFitError, unchanged_on_error
from fastgmm.em.fit import check_observed, open_partitions, search_rows, search_sample
from fastgmm.em.initialise import STARTS, Start
from fastgmm.em.watch import import_tqdm
from fastgmm.estimator import GaussianMixture
from fastgmm.mixture import Mixture
from fastgmm.prediction import Predictor, Wanted
from fastgmm.sources import ArrayRows, Rows, open_rows

# What models take as it is; attributes that the best one lends.
_HANDED_ON = ("tol", "reg_covar", "max_iter", "n_init", "init_params", "n_jobs", "prior", "missing", "acceleration")
_LENT = (
    "weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "converged_", "n_iter_", "lower_bound_"
)  # fmt: skip
# Criteria that differ by less, beside their size and the number of rows, differ by rounding: the model that has fewer
# parameters is chosen, of equals the first. (With one component several structures are the same.)
_ROUNDING = 1e-9
# A row of the table before its model is fitted.
_EMPTY = {
    "n_components": 0,
    "covariance_type": "",
    "n_parameters": 0,
    "log_likelihood": np.nan,
    "bic": np.nan,
    "aic": np.nan,
    "icl": np.nan,
    "heldout": np.nan,
    "converged": False,
    "n_iter": 0,
    "seconds": 0.0,
    "failure": "",
}
_INTERRUPTED = "Interrupted: {} of {} models were fitted, and the best of those is kept."


class GaussianMixtureIC(DensityMixin, BaseEstimator):
    """Gaussian mixture whose number of components and covariance structure are chosen by a criterion.

    Names and attributes follow scikit-learn's proposal of that name (pull request 26735). Each model is the
    `GaussianMixture` with the same `random_state`, to the bit; k-means is done once for all structures. One that cannot
    be fitted is marked in `results_` and skipped. Only of Dask's rows, where they are too many for all of them to be
    looked at for starts, may a model alone start elsewhere: here all models seek in one sample.

    Parameters
    ----------
    n_components : (int, int), array-like of int or int, default=(1, 10)
        Numbers of components to try: a tuple is the least and the most, anything else, such as a range, all of them.
    covariance_type : str or list of str, default="all"
        Structures to try, as `GaussianMixture` takes them; "all" is all of them, by one name each.
    criterion : {"bic", "aic", "icl", "heldout"}, default="bic"
        What decides; the lower the better. "icl" asks also for clusters that are distinct. "heldout" is the deviance,
        -2 log L, of rows that models are not fitted to; the best is then fitted further to all rows.
    validation_fraction : float, default=0.2
        Share of the rows, drawn at random, that are held out for "heldout".
    tol, reg_covar, max_iter, n_init, init_params, prior, missing, acceleration
        As `GaussianMixture` has them; `init_params` is a name or a function.
    random_state : int, RandomState instance or None, default=None
        Where the randomness of all models comes from, the same for each.
    n_jobs : int or None, default=None
        Threads for fits, one model after the other, and for predictions: None leaves Numba's setting, -1 is all.
    progress : bool, default=False
        Show a bar over the models; needs tqdm.

    Attributes
    ----------
    best_estimator_ : GaussianMixture
        The best model, fitted.
    n_components_ : int
        Its number of components.
    covariance_type_ : str
        Its structure.
    criterion_ : ndarray of shape (n_models,)
        The criterion for every model; NaN for one that could not be fitted.
    results_ : dict of ndarray of shape (n_models,)
        Columns of a table, a row for every model, which `pandas.DataFrame` takes: n_components, covariance_type,
        n_parameters, log_likelihood (mean per row), bic, aic, icl, heldout (NaN if no rows are held out), converged,
        n_iter, seconds, failure (what went wrong, or empty). All but heldout are of the rows that models are fitted to.
    estimators_ : list of GaussianMixture or None
        The models in the same order; None for one that could not be fitted.
    weights_, means_, covariances_, precisions_, precisions_cholesky_, converged_, n_iter_, lower_bound_
        Those of the best model.
    n_features_in_ : int
        Number of features, d.
    feature_names_in_ : ndarray of shape (d,)
        Names of the features, where X had them.

    Raises
    ------
    DegenerateFitError
        A ValueError, from `fit`: no model could be fitted. The estimator is left as it was.

    References
    ----------
    Schwarz (1978), "Estimating the dimension of a model", Annals of Statistics 6, 461-464. Biernacki, Celeux and
    Govaert (2000), "Assessing a mixture model for clustering with the integrated completed likelihood", IEEE
    Transactions on Pattern Analysis and Machine Intelligence 22, 719-725. Smyth (2000), "Model selection for
    probabilistic clustering using cross-validated likelihood", Statistics and Computing 10, 63-72.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgmm import GaussianMixtureIC
    >>> random = np.random.default_rng(0)
    >>> X = np.concatenate([random.normal(size=(200, 2)), random.normal(size=(100, 2)) * [1, 3] + [9, 0]])
    >>> chosen = GaussianMixtureIC((1, 4), random_state=0).fit(X)
    >>> chosen.n_components_, chosen.covariance_type_
    (2, 'diag')
    """

    _parameter_constraints: dict = {  # noqa: RUF012, the base class reads it so
        "n_components": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "covariance_type": [StrOptions({"all", *STRUCTURES}), "array-like"],
        "criterion": [StrOptions(set(criteria.CRITERIA))],
        "validation_fraction": [Interval(Real, 0.0, 1.0, closed="neither")],
        **{name: GaussianMixture._parameter_constraints[name] for name in (*_HANDED_ON, "random_state", "progress")},
        "init_params": [StrOptions(set(STARTS)), callable],  # labels would be of one number of components
    }

    def __init__(
        self,
        n_components: Any = (1, 10),
        *,
        covariance_type: Any = "all",
        criterion: str = "bic",
        validation_fraction: float = 0.2,
        tol: float = 1e-3,
        reg_covar: float | str = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: Any = "kmeans",
        random_state: Any = None,
        n_jobs: int | None = None,
        progress: bool = False,
        prior: Prior | str | None = None,
        missing: str = "error",
        acceleration: str | None = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.criterion = criterion
        self.validation_fraction = validation_fraction
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.progress = progress
        self.prior = prior
        self.missing = missing
        self.acceleration = acceleration

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "em"
        return tags

    @validated
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "GaussianMixtureIC":
        """Fit all models and choose the best.

        Parameters
        ----------
        X : array-like, or Dask array or DataFrame, of shape (n, d)
            Rows; Dask's as `GaussianMixture.fit` takes them, all models from one sample, and of "heldout" a share of
            each partition.
        y : ignored
            For compatibility with pipelines.
        sample_weight : array-like of shape (n,), optional
            Weights of the rows, in fits and criteria.

        Returns
        -------
        self : GaussianMixtureIC

        Raises
        ------
        ValueError
            If X, a weight or a parameter is invalid, or (DegenerateFitError) no model could be fitted.

        Warns
        -----
        ConvergenceWarning, DegenerateComponentWarning, RegularisationWarning
            What the best model alone would warn of; the first also if an interrupt from the keyboard left models out.
        """
        self._fit(X, sample_weight)
        return self

    @validated
    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """Fit, and return the best model's most probable component of each row, shape (n,)."""
        self._fit(X, sample_weight)
        return self.predict(X)

    def _fit(self, X: Any, sample_weight: Any) -> None:
        """Fit all models and set the attributes; on any error the estimator is left as it was."""
        with unchanged_on_error(self):
            cautions = self._fit_all(X, sample_weight)
        for message, category in cautions:
            warnings.warn(message, category, stacklevel=4)

    def _fit_all(self, X: Any, sample_weight: Any) -> list[tuple[str, type[Warning]]]:
        """Fit all models, set the attributes, and return what there is to warn of."""
        sizes, structures = self._sizes(), self._structures()
        given = self.random_state
        seed = int(given if isinstance(given, Integral) else check_random_state(given).randint(np.iinfo(np.int32).max))
        every = self._open(X, sample_weight, seed, max(sizes))
        fitted, held = every.hold_out(self.validation_fraction, seed) if self.criterion == "heldout" else (every, None)
        source = fitted.source
        dtype = np.float64 if computes_in_float64(every.rows) else np.float32
        check_observed(source, getattr(self, "feature_names_in_", None))
        runs: list[_Run] = []
        for k, name in self._shown([(k, name) for k in sizes for name in structures]):
            if name == structures[0]:
                source.sample.memory = {}  # all structures of this size will ask for the same k-means
            try:
                runs.append(self._fit_one(self._model(k, name, seed), fitted, source, held, dtype))
            except KeyboardInterrupt:  # before there was a start
                if all(run.model is None for run in runs):
                    raise
                break
            if runs[-1].interrupted:
                break
        return self._choose(runs, every, dtype, len(sizes) * len(structures))

    def _sizes(self) -> list[int]:
        """The numbers of components to try."""
        given = self.n_components
        if isinstance(given, tuple) and len(given) != 2:
            raise ValueError(
                f"n_components as a tuple is (least, most), but got {given}; several numbers may be a list or a range."
            )
        numbers = [given] if isinstance(given, Integral) else list(given)
        if not numbers or not all(isinstance(k, Integral) and not isinstance(k, bool) and int(k) >= 1 for k in numbers):
            raise ValueError(f"n_components must be whole numbers of at least 1, but got {given}.")
        if isinstance(given, tuple):
            numbers = list(range(given[0], given[1] + 1))
            if not numbers:
                raise ValueError(f"n_components is (least, most), but the least is more than the most: {given}.")
        return [int(k) for k in dict.fromkeys(numbers)]

    def _structures(self) -> list[str]:
        """The names of the structures to try."""
        given = self.covariance_type
        if isinstance(given, str):
            return [name for name in STRUCTURES if name not in ALIASES] if given == "all" else [given]
        names = list(given)
        unknown = [name for name in names if not (isinstance(name, str) and name in STRUCTURES)]
        if unknown or not names:
            what = repr(unknown[0]) if unknown else "none"
            raise ValueError(f"covariance_type must be 'all' or some of {', '.join(STRUCTURES)}, but got {what}.")
        return [str(name) for name in dict.fromkeys(names)]

    def _open(self, X: Any, sample_weight: Any, seed: int, most_components: int) -> "_Part":
        """The checked rows, wherever they lie."""
        if is_dask(X):
            from fastgmm.sources.dask import open_collection

            rows, parts = open_collection(self, X, sample_weight, fitting=True)
            return _DaskPart(rows, parts, self._model(most_components, "full", seed))
        rows, missing = check_rows(self, X, fitting=True)
        return _ArrayPart(*check_weights(sample_weight, rows), missing)

    def _model(self, k: int, name: str, seed: int) -> GaussianMixture:
        """One model, which knows the features that this estimator has seen."""
        options = {option: getattr(self, option) for option in _HANDED_ON}
        model = GaussianMixture(k, covariance_type=name, random_state=seed, **options)
        for seen in ("n_features_in_", "feature_names_in_"):
            if hasattr(self, seen):
                setattr(model, seen, getattr(self, seen))
        return model

    def _shown(self, grid: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        """The models, behind a bar if that is wanted."""
        if not self.progress:
            yield from grid
            return
        with import_tqdm()(grid, unit="model") as bar:
            for k, name in bar:
                bar.set_description(f"{k} {name}")
                yield k, name

    def _fit_one(
        self, model: GaussianMixture, fitted: "_Part", source: Rows, held: "_Part | None", dtype: Any
    ) -> "_Run":
        k, name = model.n_components, model.covariance_type
        row = _EMPTY | {"n_components": k, "covariance_type": name}
        row["n_parameters"] = p = count_parameters(name, k, source.n_features)
        began = time.perf_counter()
        try:
            cautions = model._fit_source(source, fitted.search(model), dtype)
        except ValueError as error:
            if hasattr(error, "reached") and not isinstance(source, ArrayRows):  # of the rows, not of the model
                raise
            failure = {"failure": str(error), "seconds": time.perf_counter() - began}
            return _Run(row | failure, None, [], False)
        start = model.fit_report_.starts[model.fit_report_.best]
        likelihood, weight = start.log_likelihood * source.total_weight, source.total_weight
        row |= {
            "log_likelihood": start.log_likelihood,
            "bic": criteria.bic(likelihood, p, weight),
            "aic": criteria.aic(likelihood, p),
            "icl": criteria.icl(likelihood, fitted.sum(model, "responsibilities"), p, weight),
            "heldout": np.nan if held is None else criteria.heldout(held.sum(model, "log_likelihoods")),
            "converged": model.converged_,
            "n_iter": model.n_iter_,
            "seconds": time.perf_counter() - began,
        }
        return _Run(row, model, cautions, model.fit_report_.interrupted is not None)

    def _choose(self, runs: list["_Run"], every: "_Part", dtype: Any, wanted: int) -> list[tuple[str, type[Warning]]]:
        """Set the attributes from the models that were fitted, and return what there is to warn of."""
        results = {name: np.array([run.row[name] for run in runs]) for name in _EMPTY}
        values = results[self.criterion]
        sound = np.flatnonzero(np.isfinite(values))
        if not sound.size:
            raise _all_failed(runs)
        least = values[sound].min()
        equal = sound[values[sound] <= least + _ROUNDING * (abs(least) + every.source.n_rows)]
        best = runs[equal[results["n_parameters"][equal].argmin()]]
        model, cautions = best.model, best.cautions
        assert model is not None
        if self.criterion == "heldout":
            model = copy.copy(model)
            model.lower_bound_ = -np.inf  # that of other rows
            cautions = model._fit_source(every.source, every.search(model), dtype, warm=True)
        self.results_, self.criterion_ = results, values
        self.estimators_ = [run.model for run in runs]
        self.best_estimator_ = model
        self.n_components_, self.covariance_type_ = model.n_components, model.covariance_type
        for name in _LENT:
            setattr(self, name, getattr(model, name))
        if len(runs) < wanted or runs[-1].interrupted:
            return [(_INTERRUPTED.format(len(runs), wanted), ConvergenceWarning)]
        return cautions

    @property
    def mixture_(self) -> Mixture:
        """The best model's distribution."""
        return self._best().mixture_

    @property
    def n_parameters_(self) -> int:
        """Free parameters of the best model."""
        return self._best().n_parameters_

    def _best(self) -> GaussianMixture:
        check_is_fitted(self)
        return self.best_estimator_

    def predict(self, X: Any, *, out: np.ndarray | None = None) -> np.ndarray:
        """Most probable component of each row, shape (n,), by the best model."""
        return self._best().predict(X, out=out)

    def predict_proba(self, X: Any, *, top: int | None = None, out: np.ndarray | None = None) -> Any:
        """Probability of each component given each row, (n, k); see `GaussianMixture.predict_proba`."""
        return self._best().predict_proba(X, top=top, out=out)

    def score_samples(self, X: Any, *, out: np.ndarray | None = None) -> np.ndarray:
        """Log-likelihood of each row, shape (n,), in nats, by the best model."""
        return self._best().score_samples(X, out=out)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean log-likelihood per row, in nats, by the best model; with weights (n,) the weighted mean."""
        return self._best().score(X, sample_weight=sample_weight)

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """Bayesian information criterion of the best model on X."""
        return self._best().bic(X, sample_weight)

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Akaike information criterion of the best model on X."""
        return self._best().aic(X, sample_weight)

    def icl(self, X: Any, sample_weight: Any = None) -> float:
        """Integrated completed likelihood criterion of the best model on X."""
        return self._best().icl(X, sample_weight)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Draw points from the best model, and the component of each; see `GaussianMixture.sample`."""
        return self._best().sample(n_samples, random_state)

    def plot(self, criterion: Any = None, *, ax: Any = None) -> Any:
        """Draw a criterion against the number of components, a line for every structure; see `plots.criteria`.

        Parameters
        ----------
        criterion : {"bic", "aic", "icl", "heldout"} or sequence of these, optional
            Which; by default the one that decided.
        ax : matplotlib.axes.Axes, optional
            Axes to draw on, of several criteria a sequence of as many; by default those of a new figure.

        Returns
        -------
        matplotlib.axes.Axes
            The axes drawn on; of several criteria a sequence.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there is no such criterion, or no value of it.
        """
        from fastgmm import plots

        check_is_fitted(self)
        return plots.criteria(self.results_, criterion or self.criterion, ax=ax)


class _Part(Protocol):
    """Some rows and what is asked of them."""

    rows: Any

    @property
    def source(self) -> Rows:
        """What models are fitted to."""

    def search(self, model: GaussianMixture) -> Start:
        """What finds a model's starts."""

    def sum(self, model: GaussianMixture, what: Wanted) -> float:
        """What `Predictor.sums` finds."""

    def hold_out(self, share: float, seed: int) -> tuple["_Part", "_Part"]:
        """The rows that models are fitted to, and those that are held out."""


class _ArrayPart:
    """Rows in memory, their weights, and whether entries may be missing."""

    def __init__(self, rows: np.ndarray, weights: np.ndarray | None, missing: bool) -> None:
        self.rows, self._weights, self._missing = rows, weights, missing

    @cached_property
    def source(self) -> Rows:
        return open_rows(self.rows, self._weights, missing=self._missing)

    def search(self, model: GaussianMixture) -> Start:
        return search_rows(model, self.rows, self._weights)

    def sum(self, model: GaussianMixture, what: Wanted) -> float:
        return Predictor.of(model).sums(self.rows, self._weights, self._missing, what)[0]

    def hold_out(self, share: float, seed: int) -> tuple[_Part, _Part]:
        n = len(self.rows)
        out = np.zeros(n, dtype=bool)
        out[np.random.RandomState(seed).permutation(n)[: round(share * n)]] = True
        if not out.any() or n - out.sum() < 2:
            raise ValueError(
                f"Of {n} rows, validation_fraction={share} holds {out.sum()} out: 1 at least must be, and 2 must be "
                "left."
            )
        return self._some(~out), self._some(out)

    def _some(self, which: np.ndarray) -> "_ArrayPart":
        weights = None if self._weights is None else self._weights[which]
        return _ArrayPart(self.rows[which], weights, self._missing)


class _DaskPart:
    """Rows in Dask's partitions, and the model that needs the largest sample of them."""

    def __init__(self, rows: Any, parts: Any, model: GaussianMixture) -> None:
        self.rows, self._parts, self._model = rows, parts, model

    @cached_property
    def source(self) -> Rows:
        return open_partitions(self._model, self.rows, self._parts)

    def search(self, model: GaussianMixture) -> Start:
        return search_sample(model, self.source)

    def sum(self, model: GaussianMixture, what: Wanted) -> float:
        return Predictor.of(model).sums_of_partitions(self._parts, model.missing == "em", what)[0][0]

    def hold_out(self, share: float, seed: int) -> tuple[_Part, _Part]:
        from fastgmm.sources.dask import split

        left, held = (_DaskPart(self.rows, parts, self._model) for parts in split(self._parts, share, seed))
        return left, held


class _Run(NamedTuple):
    """What became of one model: its row of the table, itself, what it would warn of."""

    row: dict[str, Any]
    model: GaussianMixture | None
    cautions: list[tuple[str, type[Warning]]]
    interrupted: bool


def _all_failed(runs: list[_Run]) -> DegenerateFitError:
    reasons: dict[str, str] = {}
    for run in runs:
        where = f"{run.row['n_components']} {run.row['covariance_type']}"
        reasons.setdefault(run.row["failure"] or "the criterion is infinite", where)
    listed = "; ".join(f"{where}: {reason}" for reason, where in list(reasons.items())[:3])
    more = f"; and {len(reasons) - 3} more reasons" if len(reasons) > 3 else ""
    return DegenerateFitError(f"None of {len(runs)} models could be fitted. {listed}{more}")
