"""GaussianMixture: scikit-learn's estimator over our engine. Validation, a call, attributes; no arithmetic."""

import functools
import inspect
import time
import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions, validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted

from fastgmm import criteria
from fastgmm.covariance import STRUCTURES, Parameters, Prior, count_parameters
from fastgmm.data import check_random, check_rows, check_weights, computes_in_float64, is_dask, validated
from fastgmm.em import engine, online
from fastgmm.em.accelerate import PACES
from fastgmm.em.errors import step_failed, unchanged_on_error
from fastgmm.em.fit import (
    Last,
    check_enough,
    check_observed,
    find_cautions,
    fit,
    open_partitions,
    regularise_as,
    search_rows,
    search_sample,
    seed_of_sample,
)
from fastgmm.em.given import Inits, check_inits, override
from fastgmm.em.initialise import STARTS, Start, sample_rows, start_from_responsibilities
from fastgmm.em.report import FitReport, StartReport
from fastgmm.em.watch import import_tqdm
from fastgmm.exchange import fitted_arrays, fitted_parameters, to_sklearn
from fastgmm.kernels._threads import threads
from fastgmm.mixture import Mixture
from fastgmm.prediction import Predictor, predict_rows, total
from fastgmm.sources import ArrayRows, ChunkRows, Rows, open_blocks, open_rows


class GaussianMixture(DensityMixin, BaseEstimator):
    """Gaussian mixture fitted by expectation-maximisation, a drop-in for scikit-learn's.

    One read of X per iteration, on all threads Numba is set to use, in working memory that does not grow with the
    number of rows. The bits of the answer do not depend on the number of threads.

    Parameters
    ----------
    n_components : int, default=1
        Number of components, k.
    covariance_type : str, default="full"
        "full", a covariance matrix per component; "tied", one for all; "diag", a variance per component and feature;
        "spherical", one per component. These are mclust's "VVV", "EEE", "VVI" and "VII", which mean the same. More of
        mclust's have covariances in one of these shapes: "EII", one variance for all, (k,); "EEI", a variance per
        feature, the same for all components, (k, d); "EVI", diagonal and of one determinant, (k, d); "EEV", matrices
        that differ in orientation only, (k, d, d); "EVV", matrices of one determinant, (k, d, d).
    tol : float, default=1e-3
        EM stops when the mean log-likelihood per row changes by less.
    reg_covar : float or "auto", default=1e-6
        Added to the diagonal of covariances, in squared units of X; "auto" is a millionth of each feature's variance.
        Not added where there is a `prior`.
    max_iter : int, default=100
        Most EM iterations; 0 leaves the start.
    n_init : int, default=1
        Number of starts; the one of largest likelihood is kept. One that fails is skipped. On several threads starts go
        side by side where that keeps more of them busy than sharing each pass does, to the same bits in the same order;
        with `verbose`, `progress`, a `callback` or a function as `init_params` they follow one another.
    init_params : {"kmeans", "kmeans-whitened", "k-means++", "random", "random_from_data"}, callable or array-like, \
default="kmeans"
        How a start is found. "kmeans-whitened" looks at the data in coordinates in which their covariance is the
        identity, for elongated clusters and features of unequal scales. An array is labels (n,), whole numbers from 0
        to k - 1, or responsibilities (n, k), and there is one start. A callable finds those, or means: it is called
        for each start as `init(X, n_components, random_state)` with the checked rows (n, d) and a RandomState, and
        returns labels (n,), responsibilities (n, k) or means (k, d), of which the rows nearest to each give it a
        weight and a covariance. What could be either is responsibilities. Every component needs a row. Starts are the
        same, or the same in distribution, from rows of whole weights and from repeated ones: "random" draws
        responsibilities for each unit of a row's weight and for the fraction that remains, but no more than 1,000 times
        a row, and 10 million times in all if there are not more rows.
    weights_init, means_init, precisions_init : array-like, default=None
        Start with these: shapes (k,), (k, d), and that of `covariances_`: (k, d, d), (d, d), (k, d) or (k,). Precisions
        are inverses of covariances, symmetric and positive-definite; what a structure of mclust's makes all components
        share, theirs must share as well, and "full", "diag" and "spherical" take any of their shape.
    random_state : int, RandomState instance or None, default=None
        Where the starts' randomness comes from.
    warm_start : bool, default=False
        Let a further `fit` go on where the last one stopped.
    verbose : int, default=0
        1 prints the steps, 2 also times and changes.
    verbose_interval : int, default=10
        Iterations between prints.
    n_jobs : int or None, default=None
        Threads for this estimator's calls: None leaves Numba's setting, or takes OMP_NUM_THREADS if that is less and
        NUMBA_NUM_THREADS is not set; -1 is all. What the caller had set is as before afterwards. Calls on several
        Python threads at once share Numba's threads.
    progress : bool, default=False
        Show a bar for each start; needs tqdm.
    callback : callable, default=None
        Called after every EM iteration as `callback(iteration, mixture, log_likelihood)`, with the `Mixture` the
        iteration began with and its mean log-likelihood per row. The fit ends, with the best parameters so far, if it
        returns True or raises StopIteration.
    prior : Prior, "default" or None, default=None
        A conjugate prior, which makes the fit the mode of the posterior: it keeps every covariance positive-definite.
        "default" is `Prior()`, taken from the data as mclust's. None maximises the likelihood.
    missing : {"error", "em"}, default="error"
        What NaN in X is: an error, or an entry that is missing at random and integrated out of the likelihood, in
        fits, predictions and criteria. To starts, and to what is taken from the data for a prior or for
        `reg_covar="auto"`, it is its column's mean; of rows in blocks or in partitions that are more than the sample
        for starts, the sample's.
    acceleration : {"squarem"} or None, default=None
        "squarem" leaps ahead of EM's steps (Varadhan and Roland 2008), to the same optimum with fewer passes where
        components overlap and steps are slow. The likelihood never falls: where a leap would lower it, EM's own step
        is taken. `max_iter` then counts passes.
    learning_decay, learning_offset : float, default=0.7, 1.0
        Step sizes of `partial_fit`, (t + offset)^-decay; the decay is above 0.5 and at most 1, the offset not negative.

    Attributes
    ----------
    weights_ : ndarray of shape (k,)
        Weights of the components. This and the next four are float32 for float32 rows, where that has the range and
        the digits they need.
    means_ : ndarray of shape (k, d)
        Means of the components.
    covariances_, precisions_ : ndarray
        Covariances and their inverses, in the shape of the structure.
    precisions_cholesky_ : ndarray
        Upper triangular U with U Uᵀ the precision; reciprocal standard deviations where covariances are no matrices.
    converged_ : bool
        Whether the best start converged.
    n_iter_ : int
        EM iterations of the best start; of an accelerated one, those that did not lower the likelihood.
    lower_bound_ : float
        Mean log-likelihood per row before the best start's last step; with a prior that of the posterior, its log
        density (but for a constant) included.
    lower_bounds_ : list of float
        The same for each of its steps.
    fit_report_ : FitReport
        How each start ended, and what is to be said of each component; prints as a table.
    n_features_in_ : int
        Number of features, d.
    feature_names_in_ : ndarray of shape (d,)
        Names of the features, where X had them.
    prior_ : Prior or None
        The prior with everything filled in that was left to the data.
    n_seen_ : int or float
        Rows that `fit` and since then `partial_fit` have learned from; where they have weights, the sum of those.
    n_parameters_ : int
        Free parameters: those of means, covariances, and weights, which sum to 1.
    mixture_ : Mixture
        The fitted distribution, made from the arrays above.

    Raises
    ------
    DegenerateFitError
        A ValueError, from `fit`: every start ended in a covariance that is not positive-definite. The estimator is
        left as it was; the exception carries the last mixture.

    References
    ----------
    Dempster, Laird and Rubin (1977), "Maximum likelihood from incomplete data via the EM algorithm", Journal of the
    Royal Statistical Society B 39, 1-38. Varadhan and Roland (2008), "Simple and globally convergent methods for
    accelerating the convergence of any EM algorithm", Scandinavian Journal of Statistics 35, 335-353. McLachlan and
    Peel (2000), "Finite Mixture Models", equations 3.8 to 3.10. Celeux and Govaert (1995), "Gaussian parsimonious
    clustering models", Pattern Recognition 28, 781-793. Scrucca, Fop, Murphy and Raftery (2016), "mclust 5", The R
    Journal 8, 289-317, table 3.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgmm import GaussianMixture
    >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> gm = GaussianMixture(n_components=2, random_state=0).fit(X)
    >>> gm.means_[np.argsort(gm.means_[:, 0])].round(6)
    array([[ 1.,  2.],
           [10.,  2.]])
    >>> bool(gm.predict([[0, 0]])[0] == gm.predict([[1, 3]])[0])
    True
    """

    weights_: np.ndarray
    means_: np.ndarray
    covariances_: np.ndarray
    precisions_: np.ndarray
    precisions_cholesky_: np.ndarray
    n_seen_: float
    prior_: Prior | None
    _stream: online.Stream | None

    _parameter_constraints: dict = {  # noqa: RUF012, the base class reads it so
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions(set(STRUCTURES))],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left"), StrOptions({"auto"})],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions(set(STARTS)), callable, list, HasMethods("__array__")],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "n_jobs": [None, Integral],
        "progress": ["boolean"],
        "callback": [callable, None],
        "prior": [Prior, StrOptions({"default"}), None],
        "missing": [StrOptions({"error", "em"})],
        "acceleration": [StrOptions({name for name in PACES if name}), None],
        "learning_decay": [Interval(Real, 0.5, 1.0, closed="right")],
        "learning_offset": [Interval(Real, 0.0, None, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float | str = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: Any = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        n_jobs: int | None = None,
        progress: bool = False,
        callback: Callable[[int, Mixture, float], Any] | None = None,
        prior: Prior | str | None = None,
        missing: str = "error",
        acceleration: str | None = None,
        learning_decay: float = 0.7,
        learning_offset: float = 1.0,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.n_jobs = n_jobs
        self.progress = progress
        self.callback = callback
        self.prior = prior
        self.missing = missing
        self.acceleration = acceleration
        self.learning_decay = learning_decay
        self.learning_offset = learning_offset

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "em"
        return tags

    def _validate_params(self) -> None:
        """Validate what is not at its default, as scikit-learn does, which takes 75 µs for all."""
        if type(self) is not GaussianMixture:
            super()._validate_params()
            return
        given = vars(self)
        for name, default in _defaults().items():
            value = given[name]
            if value is not default:
                (_validate_plain if type(value) in _PLAIN else _validate)(name, value)

    @validated
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "GaussianMixture":
        """Estimate the mixture by expectation-maximisation.

        Parameters
        ----------
        X : array-like, or Dask array or DataFrame, of shape (n, d)
            Rows. Float64 and float32 of any strides are read in place; other types are cast block by block. Of Dask's,
            each pass is one task per partition, on the scheduler or client that Dask would choose, and computes anew
            what has not been persisted; a first one checks the rows, and starts are sought among a sample of them. From
            the same start the answer is that of the rows in memory but for rounding.
        y : ignored
            For compatibility with pipelines.
        sample_weight : array-like of shape (n,), optional
            Weights of the rows: a row of weight 3 counts as three rows, one of weight 0 as none. Rows of weight above
            zero are copied if there are others. With X from Dask, a Dask array in its row chunks, or for a frame a
            series.

        Returns
        -------
        self : GaussianMixture

        Raises
        ------
        ValueError
            If X, a weight or a parameter is invalid, or (DegenerateFitError) every start failed. Of X from Dask it
            names the partition and the row, or what to call: `X.compute_chunk_sizes()` where chunks have unknown sizes,
            `X.rechunk({1: -1})` where they do not hold whole rows. What a worker raises in mid-fit, as what `callback`
            does, is raised as it is, with the last mixture as its `mixture`.

        Warns
        -----
        ConvergenceWarning
            If the best start did not converge within `max_iter` iterations, or the fit was interrupted from the
            keyboard: then the best parameters so far are kept.
        DegenerateComponentWarning
            If components are empty, hold too few rows, rest on `reg_covar`, or duplicate another; it names them and
            what may help.
        RegularisationWarning
            If `reg_covar` is more than a tenth of the variance of a feature; it names the features.
        """
        self._fit(X, sample_weight)
        return self

    @validated
    def fit_chunks(self, source: Any, *, sample_weight: Any = None) -> "GaussianMixture":
        """Estimate the mixture from rows that come in blocks, in memory that does not grow with their number.

        A first pass over the source counts and checks the rows; each EM iteration is one more. While compiled loops
        work on one block a thread reads the next. From the same start, and if the sample is all rows from any, the fit
        has the bits of `fit` on all rows at once, however they are cut into blocks; where entries are missing it is the
        same but for rounding.

        Parameters
        ----------
        source : callable, path, list of paths, or iterable
            Where blocks of rows come from, the same in every pass: a function without arguments that returns an
            iterator of blocks; the path of a .npy or Parquet file or of a folder of those, or a list of paths; or
            something that can be iterated over again and again, such as a list of arrays. Blocks are arrays (m, d),
            frames, or batches of Arrow's; they may differ in length. Columns of Parquet are features, all of them
            numbers.
        sample_weight : str, callable, path, list of paths, iterable or array-like of shape (n,), optional
            Weights of the rows, as `fit` takes them: the name of a column of Parquet, or a source of blocks (m,) of
            its own, which need not be cut as those of the rows are.

        Returns
        -------
        self : GaussianMixture

        Raises
        ------
        SourceError
            A ValueError: rows could not be read, are not what they should be, or differ from pass to pass; the message
            names the block and the row, counted from 0. The estimator is left as it was; the exception carries the
            last mixture, and what a source raised is its cause.
        TypeError
            If the source can be read only once.
        ValueError
            If a parameter is invalid, or (DegenerateFitError) every start failed.
        ImportError
            If it is Parquet and pyarrow is not installed.

        Notes
        -----
        Starts are sought among a sample of the rows, drawn by weight in the first pass: some 8,192 or more where there
        are many components, all of them if there are fewer; it is what a callable `init_params` gets. The variances
        for `reg_covar="auto"` and for a prior are those of all rows, and take a pass more; where entries are missing
        they are the sample's. With `progress=True` a second bar shows the rows of each pass. Blocks are read ahead, so
        memory holds two of them; kernels read long ones in place and the first pass notices if a source overwrites the
        last block with the next.

        Examples
        --------
        >>> import numpy as np
        >>> from fastgmm import GaussianMixture
        >>> def read():
        ...     for seed in range(10):
        ...         random = np.random.default_rng(seed)
        ...         yield random.normal(size=(500, 2)) + 9 * random.integers(0, 2, size=(500, 1))
        >>> gm = GaussianMixture(2, random_state=0).fit_chunks(read)
        >>> sorted(gm.means_[:, 0].round().astype(int).tolist())
        [0, 9]
        """
        with unchanged_on_error(self):
            opened = ChunkRows(
                *open_blocks(source, sample_weight),
                capacity=lambda d: sample_rows(d, self.n_components, STRUCTURES[self.covariance_type]),
                seed=seed_of_sample(self.random_state),
                bars=import_tqdm() if self.progress else None,
                allow_missing=self.missing == "em",
            )
            self._set_features(opened.n_features, opened.names)
            cautions = self._fit_source(opened, search_sample(self, opened), opened.dtype, warm=self._goes_on)
        for message, category in cautions:
            warnings.warn(message, category, stacklevel=3)
        return self

    def _set_features(self, number: int, names: list[str] | None) -> None:
        """Set what predictions will compare their rows with."""
        self.n_features_in_ = number
        self.__dict__.pop("feature_names_in_", None)
        if names is not None:
            self.feature_names_in_ = np.asarray(names, dtype=object)

    @validated
    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit, and return the most probable component of each row, shape (n,); the same as fit(X).predict(X)."""
        rows, missing = self._fit(X, sample_weight)
        return self.predict(X) if is_dask(X) else Predictor.of(self).evaluate(rows, "labels", missing=missing).labels

    def _fit(self, X: Any, sample_weight: Any) -> tuple[Any, bool]:
        """Fit all starts and set the attributes; on any error the estimator is left as it was."""
        source: Rows
        missing = False
        with unchanged_on_error(self):
            if is_dask(X):
                from fastgmm.sources.dask import open_collection

                rows, parts = open_collection(self, X, sample_weight, fitting=True)
                source = open_partitions(self, rows, parts)
                search = search_sample(self, source)
            else:
                rows, missing = check_rows(self, X, fitting=True)
                source = open_rows(*check_weights(sample_weight, rows), missing=missing)
                search = search_rows(self, rows, sample_weight)
            dtype = np.float64 if computes_in_float64(rows) else np.float32
            cautions = self._fit_source(source, search, dtype, warm=self._goes_on)
        for message, category in cautions:
            warnings.warn(message, category, stacklevel=4)
        return rows, missing

    @validated
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "GaussianMixture":
        """Learn from some more rows of a stream, which are read once: stepwise online EM.

        The statistics of these rows under the current parameters are mixed with those of the rows before, which have
        been forgotten but for them: s ← (1 - γ) s + γ ŝ, with the step size γ = (t + `learning_offset`) to the power
        -`learning_decay`. Here t counts the rows seen so far, these included, in batches of as many as now: it is the
        number of the call where all bring the same number of rows, and a small batch has little say. `learning_decay=1`
        with `learning_offset=0` is the mean over all rows; the nearer to 0.5, the sooner are statistics forgotten
        that were taken under poor parameters, and the noisier is where it settles, by γ p / 4 nats for each row of a
        batch with p free parameters where components are well apart.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Rows in memory. The first call looks for a start among its rows, as `fit` does, and takes what a prior or
            `reg_covar="auto"` needs from them; later ones may bring a single row.
        y : ignored
            For compatibility with pipelines.
        sample_weight : array-like of shape (n,), optional
            Weights of the rows: a row of weight 3 counts as three rows, one of weight 0 as none.

        Returns
        -------
        self : GaussianMixture
            With `n_seen_` rows learned from. `lower_bound_` is the mean log-likelihood of these rows before the step,
            `n_iter_` the number of steps since the last `fit`, and `converged_` False.

        Raises
        ------
        ValueError
            If X, a weight or a parameter is invalid, or the first rows are fewer than components; or
            (DegenerateFitError) if a covariance would not be positive-definite. The estimator is left as it was.

        Notes
        -----
        After `fit` it goes on as if `n_seen_` rows had exactly the fitted weights, means and covariances, and the same
        if one of these has been edited since; `fit` forgets what was learned before.

        References
        ----------
        Cappé and Moulines (2009), "On-line expectation-maximization algorithm for latent data models", Journal of the
        Royal Statistical Society B 71, 593-613. Liang and Klein (2009), "Online EM for unsupervised models",
        Proceedings of NAACL, 611-619, whose step sizes are the default's with a decay of 0.7.

        Examples
        --------
        >>> import numpy as np
        >>> from fastgmm import GaussianMixture
        >>> gm, random = GaussianMixture(2, random_state=0), np.random.default_rng(0)
        >>> for _ in range(20):
        ...     gm = gm.partial_fit(random.normal(size=(100, 1)) + 9 * random.integers(0, 2, size=(100, 1)))
        >>> gm.n_seen_, sorted(gm.means_[:, 0].round().astype(int).tolist())
        (2000, [0, 9])
        """
        if is_dask(X):
            raise ValueError(
                "partial_fit takes rows in memory; give it one partition after the other: "
                "for block in X.partitions: gm.partial_fit(block.compute())."
            )
        with unchanged_on_error(self):
            first = not hasattr(self, "converged_")
            rows, missing = check_rows(self, X, fitting=first, least=1)
            source = open_rows(*check_weights(sample_weight, rows), missing=missing)
            began = time.perf_counter()
            with threads(self.n_jobs):
                stream = self._begin(source, search_rows(self, rows, sample_weight)) if first else self._go_on(source)
                options = STRUCTURES[self.covariance_type], self.learning_decay, self.learning_offset
                taken = online.step(stream, source, *options)
            if taken.fault:
                raise step_failed(taken.fault, Mixture.from_parameters(stream.parameters, self.covariance_type))
            self._set_learned(taken, source, rows.dtype, time.perf_counter() - began)
        return self

    def _begin(self, source: Rows, search: Start) -> online.Stream:
        """A stream that has seen no rows."""
        check_observed(source, self._names)
        check_inits(Inits.of(self), self.covariance_type, self.n_components, source.n_features)
        stream, self.prior_ = online.begin_first(self, source, search)
        self.n_seen_, self.n_iter_ = 0, 0
        return stream

    def _go_on(self, source: Rows) -> online.Stream:
        """The stream as it was left, or one that has the fitted arrays, if they are of a fit or were edited."""
        stream, fitted = self._stream, self._parameters()
        online.check_shapes(self, fitted)
        if stream is not None and online.is_at(stream, fitted, self.means_.dtype):
            return stream
        if stream is None:
            self.n_iter_ = 0
        return online.begin_again(self, source, fitted, self.prior_, float(self.n_seen_))

    def _set_learned(self, taken: online.Step, source: Rows, dtype: Any, seconds: float) -> None:
        """Set the attributes after a step of partial_fit."""
        seen: float = self.n_seen_ + (source.total_weight if source.weighted else source.n_rows)
        fitted, single = hasattr(self, "means_"), dtype == np.float32
        single &= not fitted or self.means_.dtype == np.float32
        parameters, ridge = taken.stream.parameters, taken.stream.prior.ridge
        run = engine.Run(parameters, [taken.log_likelihood], "stepped", log_likelihood=taken.log_likelihood, passes=1)
        steps = self.n_iter_ + 1
        self._set_fitted(run, np.float32 if single else np.float64)
        report = (StartReport.of(run, seconds),)
        self.fit_report_ = FitReport(report, 0, parameters, self.covariance_type, float(seen), float(seen), ridge)
        self.n_seen_, self.n_iter_, self._stream = seen, steps, taken.stream

    @property
    def _goes_on(self) -> bool:
        """Whether a fit begins where the last one stopped."""
        return bool(self.warm_start and hasattr(self, "converged_"))

    def _fit_source(
        self, source: Rows, search: Start, dtype: Any, *, warm: bool = False
    ) -> list[tuple[str, type[Warning]]]:
        """Fit all starts, set the attributes in that type, and return what there is to warn of.

        Starts are sought by `search` among the source's sample, or with `warm` the last fit goes on.
        """
        last = Last(self._parameters(), self.lower_bound_) if warm else None
        check_enough(self, source, last)
        check_observed(source, self._names)
        check_inits(Inits.of(self), self.covariance_type, self.n_components, source.n_features)
        with threads(self.n_jobs):
            fitted = fit(self, source, search, last)
        self._set_fitted(fitted.best, dtype)
        self.prior_, self.fit_report_, self._stream = fitted.prior, fitted.report, None
        self.n_seen_ = source.total_weight if source.weighted else source.n_rows
        return find_cautions(self, source, fitted, self._names)

    @property
    def _names(self) -> np.ndarray | None:
        """The features' names, where X had them."""
        return getattr(self, "feature_names_in_", None)

    def _set_fitted(self, best: engine.Run, dtype: Any) -> None:
        for name, values in fitted_arrays(best.parameters, self.covariance_type, dtype).items():
            setattr(self, name, values)
        self.converged_ = best.outcome == "converged"
        self.n_iter_ = best.n_iter
        self.lower_bound_ = best.lower_bound
        self.lower_bounds_ = best.log_likelihoods

    def _parameters(self) -> Parameters:
        """The fitted arrays as the engine's parameters; they are the only state, so an edited one counts."""
        arrays = self.weights_, self.means_, self.covariances_, self.precisions_cholesky_
        return fitted_parameters(*arrays, self.covariance_type)

    @property
    def mixture_(self) -> Mixture:
        """The fitted distribution, from weights_, means_ and covariances_."""
        return Mixture.from_estimator(self)

    def predict(self, X: Any, *, out: np.ndarray | None = None) -> Any:
        """Most probable component of each row.

        Parameters
        ----------
        X : array-like, or Dask array or DataFrame, of shape (n, d)
            Rows.
        out : ndarray of integers of shape (n,), optional
            Where to write, a mapped file for instance; then no memory grows with n. Not with X from Dask.

        Returns
        -------
        ndarray or Dask array of shape (n,)
            Components, or `out`; lazy and in X's row chunks if X is from Dask.

        Raises
        ------
        ValueError
            If X is invalid, or `out` has another shape or type, cannot be written, or shares memory with X.
        """
        return predict_rows(self, X, "labels", out)

    def predict_proba(self, X: Any, *, top: int | None = None, out: np.ndarray | None = None) -> Any:
        """Probability of each component given each row.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Rows.
        top : int, optional
            Keep only so many of each row's largest probabilities, in memory that grows with n x top instead of n x k;
            of rows in memory.
        out : ndarray of float64 or float32 of shape (n, k), optional
            Where to write, as for `predict`; not with `top`.

        Returns
        -------
        ndarray, Dask array or scipy.sparse.csr_array of shape (n, k)
            A row too far from every component for float64 belongs wholly to the nearest. With `top` it is sparse: each
            row stores min(top, k) entries in the order of the components, the probabilities as they are without it but
            for rounding. So `data` and `indices`, reshaped to (n, -1), are the probabilities and components of the
            rows, and what a row's entries lack of 1 is the share of the components left out.

        Raises
        ------
        ValueError
            If X or `out` is invalid, or `top` is not a whole number of at least 1.
        """
        if top is None:
            return predict_rows(self, X, "responsibilities", out)
        predictor = Predictor.of(self)
        if is_dask(X):
            raise ValueError("top is for rows in memory: Dask's arrays are not sparse.")
        if out is not None:
            raise ValueError("With top the probabilities are sparse, and out has no place for them.")
        rows, missing = check_rows(self, X, fitting=False)
        if not isinstance(top, Integral) or top < 1:
            raise ValueError(f"top must be a whole number of at least 1, but got {top!r}.")
        return predictor.keep_largest(rows, missing, int(top))

    def score_samples(self, X: Any, *, out: np.ndarray | None = None) -> Any:
        """Log-likelihood of each row, shape (n,), in nats; into `out`, of floats, or lazy, as `predict` does."""
        return predict_rows(self, X, "log_likelihoods", out)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean log-likelihood per row, in nats; with weights (n,) the weighted mean."""
        (log_likelihood,), total_weight = total(self, X, sample_weight, "log_likelihoods")
        return log_likelihood / total_weight

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """Bayesian information criterion on X; the lower the better. With weights (n,), n is their sum."""
        (log_likelihood,), total_weight = total(self, X, sample_weight, "log_likelihoods")
        return criteria.bic(log_likelihood, self.n_parameters_, total_weight)

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Akaike information criterion on X, of weights (n,) if given; the lower the better."""
        (log_likelihood,), _ = total(self, X, sample_weight, "log_likelihoods")
        return criteria.aic(log_likelihood, self.n_parameters_)

    def icl(self, X: Any, sample_weight: Any = None) -> float:
        """Integrated completed likelihood criterion on X; the lower the better, and lower where clusters are distinct.

        BIC of the rows with their most probable components (Biernacki, Celeux and Govaert 2000); with weights (n,), n
        is their sum.
        """
        (likelihood, certainty), total_weight = total(self, X, sample_weight, "log_likelihoods", "responsibilities")
        return criteria.icl(likelihood, certainty, self.n_parameters_, total_weight)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Draw points from the fitted mixture.

        Parameters
        ----------
        n_samples : int, default=1
            Number of points.
        random_state : None, int, RandomState or Generator
            Where randomness comes from: None is the estimator's `random_state`, which if it is a number gives the same
            points in every call; a Generator or RandomState goes on from call to call.

        Returns
        -------
        X : ndarray of shape (n_samples, d)
            Points, grouped by component.
        y : ndarray of shape (n_samples,)
            The component of each.
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least one sample.")
        random = check_random(self.random_state if random_state is None else random_state)
        mixture = self.mixture_
        counts = random.multinomial(n_samples, mixture.weights)
        labels = np.repeat(np.arange(self.n_components), counts)
        return mixture.draw(labels, random), labels

    @classmethod
    def from_parameters(
        cls, weights: Any, means: Any, covariances: Any, covariance_type: str = "full", **parameters: Any
    ) -> "GaussianMixture":
        """A fitted estimator of a mixture that is known.

        Parameters
        ----------
        weights, means, covariances, covariance_type
            As for `Mixture`; see `covariance_type` for the shapes of covariances.
        **parameters
            Further parameters of the estimator, such as `random_state`.

        Returns
        -------
        GaussianMixture
            As after a fit that took no step from there: `n_iter_` is 0, `converged_` False and `lower_bound_` -inf.
            With `warm_start=True`, `fit` goes on from these parameters.

        Raises
        ------
        ValueError
            If shapes disagree, weights are negative or do not sum to 1, or a covariance is not symmetric
            positive-definite; the message names the component.

        Examples
        --------
        >>> from fastgmm import GaussianMixture
        >>> gm = GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [9.0]], [1.0, 1.0], "spherical")
        >>> gm.predict([[1.0], [8.0]])
        array([0, 1])
        """
        mixture = Mixture(weights, means, covariances, covariance_type)
        fitted = cls(mixture.n_components, covariance_type=covariance_type, **parameters)
        fitted._set_fitted(engine.Run(mixture.parameters), np.float64)
        fitted.n_features_in_, fitted.n_seen_ = mixture.n_features, 0
        fitted.prior_, fitted._stream = None, None
        return fitted

    def to_sklearn(self) -> Any:
        """The same as scikit-learn's own estimator, for tools that know no other: converters, for instance.

        Returns
        -------
        sklearn.mixture.GaussianMixture
            Fitted, with copies of our attributes and those parameters that it has too; what it would not accept, such
            as `reg_covar="auto"`, stays at its default. mclust's structures become the familiar one of their shape.

        Raises
        ------
        NotFittedError
            If this estimator is not fitted.

        Examples
        --------
        >>> from fastgmm import GaussianMixture
        >>> gm = GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [9.0]], [1.0, 1.0], "spherical")
        >>> type(gm.to_sklearn()).__module__, gm.to_sklearn().predict([[1.0], [8.0]])
        ('sklearn.mixture._gaussian_mixture', array([0, 1]))
        """
        check_is_fitted(self)
        return to_sklearn(self)

    @property
    def n_parameters_(self) -> int:
        """Free parameters: means, covariances, and weights that sum to 1."""
        check_is_fitted(self)
        return count_parameters(self.covariance_type, *self.means_.shape)

    def _n_parameters(self) -> int:
        """The same; scikit-learn's tests call it."""
        return self.n_parameters_

    def _estimate_log_weights(self) -> np.ndarray:
        """Log of the weights; converters to other formats ask for it."""
        return np.log(self.weights_)

    def _initialize(self, X: np.ndarray, resp: np.ndarray) -> None:
        """Set the parameters that `resp` (n, k) and the given inits imply; scikit-learn's tests call it."""
        structure = STRUCTURES[self.covariance_type]
        source = ArrayRows(np.asarray(X))
        prior = regularise_as(self, source)[1]
        found = start_from_responsibilities(source, lambda i, j: resp[i:j], self.n_components, structure, prior)
        start = override(found, Inits.of(self), structure)
        self._set_fitted(engine.Run(start.parameters), np.asarray(X).dtype)

    def _set_parameters(self, params: tuple[Any, ...]) -> None:
        """Set weights, means, covariances and precisions_cholesky_; scikit-learn's tests call it."""
        self.weights_, self.means_, self.covariances_, self.precisions_cholesky_ = params
        structure = STRUCTURES[self.covariance_type]
        self.precisions_ = structure.precisions(structure.transpose_factors(self.precisions_cholesky_))


@functools.cache
def _defaults() -> dict[str, Any]:
    """What parameters are by default, which is valid, in the order in which scikit-learn validates them."""
    parameters = inspect.signature(GaussianMixture).parameters
    return {name: parameters[name].default for name in GaussianMixture._get_param_names()}


def _validate(name: str, value: Any) -> None:
    """Refuse a parameter that is not what it may be, in scikit-learn's words."""
    constraints = GaussianMixture._parameter_constraints
    validate_parameter_constraints(constraints, {name: value}, caller_name=GaussianMixture.__name__)


_PLAIN = frozenset({bool, int, float, str})  # values that stay what they are
_validate_plain = functools.lru_cache(maxsize=256, typed=True)(_validate)
