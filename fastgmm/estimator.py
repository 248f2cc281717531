"""GaussianMixture: scikit-learn's estimator over our engine. Validation, a call, attributes; no arithmetic."""

import contextlib
import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from types import ModuleType
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, DensityMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    InvalidParameterError,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.validation import check_is_fitted

from fastgmm import criteria
from fastgmm.covariance import STRUCTURES, Hyperparameters, Parameters, Prior, Update
from fastgmm.covariance.update import suits_single
from fastgmm.data import check_out, check_random, check_rows, check_weights, computes_in_float64, is_dask
from fastgmm.em import engine, online
from fastgmm.em.accelerate import PACES
from fastgmm.em.given import start_from_given
from fastgmm.em.initialise import (
    STARTS,
    Start,
    describe_rows,
    regularise,
    sample_rows,
    start_from_responsibilities,
)
from fastgmm.em.report import FitReport, StartReport, describe_degenerate, feature_variances, name_first
from fastgmm.em.starts import follow_starts
from fastgmm.em.watch import Watch, import_tqdm
from fastgmm.kernels._jit import threads
from fastgmm.mixture import Mixture
from fastgmm.mixture.evaluation import keep_largest
from fastgmm.sources import ArrayRows, ChunkRows, IncompleteRows, Rows, SourceError, open_blocks, open_rows

_ILL_DEFINED = (
    "Fitting the mixture model failed because some components have ill-defined empirical covariance (for instance "
    "caused by singleton or collapsed samples). Try to decrease the number of components, increase reg_covar, or "
    "scale the input data."
)
_NOT_CONVERGED = (
    "Best performing initialization did not converge. Try different init parameters, or increase max_iter, tol, or "
    "check for degenerate data."
)
_INTERRUPTED = (
    "Interrupted in initialization {}: the best parameters so far are kept. They may be far from an optimum; "
    "warm_start=True lets a further fit go on from them."
)
_EPS = float(np.finfo(np.float64).eps)
_LARGEST_REGULARISATION = 0.1  # of a feature's variance, before we warn
_COMMON_TOLERANCE = 1e-5  # relative, of what a start's components have in common
_EVALUATED_ROWS = 1 << 18  # rows of a block where only a summary or a cast of each is kept

# What scikit-learn's fitted estimator has.
_FITTED = (
    *("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"),
    *("converged_", "n_iter_", "lower_bound_", "lower_bounds_", "n_features_in_", "feature_names_in_"),
)


class DegenerateFitError(ValueError):
    """No start of a fit reached its end.

    Attributes
    ----------
    mixture : Mixture or None
        The last sound mixture of the start that came furthest.
    """

    def __init__(self, message: str, mixture: Mixture | None = None) -> None:
        super().__init__(message)
        self.mixture = mixture


class DegenerateComponentWarning(UserWarning):
    """A fitted component rests on too few rows, or on `reg_covar` alone."""


class RegularisationWarning(UserWarning):
    """`reg_covar` rivals the variance of the data, so that it shapes the fit."""


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
        same, or the same in distribution, from rows of whole weights and from repeated ones, except that "random" draws
        responsibilities once a row, whatever its weight.
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
        `reg_covar="auto"`, it is its column's mean.
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

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "GaussianMixture":
        """Estimate the mixture by expectation-maximisation.

        Parameters
        ----------
        X : array-like, or Dask array or DataFrame, of shape (n, d)
            Rows. Float64 and float32 of any strides are read in place; other types are cast block by block. Of Dask's,
            each pass is one task per partition, on the scheduler or client that Dask would choose, and computes anew
            what has not been persisted; a first one checks the rows, and starts are sought among a sample of them.
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
            `X.rechunk({1: -1})` where they do not hold whole rows. What a worker raises is raised as it is.

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

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_chunks(self, source: Any, *, sample_weight: Any = None) -> "GaussianMixture":
        """Estimate the mixture from rows that come in blocks, in memory that does not grow with their number.

        A first pass over the source counts and checks the rows; each EM iteration is one more. While compiled loops
        work on one block a thread reads the next. From the same start, and if the sample is all rows from any, the fit
        has the bits of `fit` on all rows at once, however they are cut into blocks.

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
        for `reg_covar="auto"` and for a prior are those of all rows, and take a pass more. With `progress=True` a
        second bar shows the rows of each pass. Blocks are read ahead, so memory holds two of them; kernels read long
        ones in place and the first pass notices if a source overwrites the last block with the next.

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
        if self.missing == "em":
            raise ValueError("fit_chunks takes rows without missing entries; fit with missing='em' has them in memory.")
        with unchanged_on_error(self):
            opened = ChunkRows(
                *open_blocks(source, sample_weight),
                capacity=lambda d: sample_rows(d, self.n_components, STRUCTURES[self.covariance_type]),
                seed=self._seed_of_sample(),
                bars=import_tqdm() if self.progress else None,
            )
            self._set_features(opened.n_features, opened.names)
            cautions = self._fit_source(opened, self._search_sample(opened), opened.dtype, warm=self._goes_on)
        for message, category in cautions:
            warnings.warn(message, category, stacklevel=3)
        return self

    def _set_features(self, number: int, names: list[str] | None) -> None:
        """Set what predictions will compare their rows with."""
        self.n_features_in_ = number
        self.__dict__.pop("feature_names_in_", None)
        if names is not None:
            self.feature_names_in_ = np.asarray(names, dtype=object)

    def _seed_of_sample(self) -> list[int]:
        """Where the sample of rows that lie elsewhere has its randomness from: a RandomState stays as it is."""
        _, words, position, *_ = check_random_state(self.random_state).get_state(legacy=True)
        return [*words.tolist(), position]

    def _search_sample(self, source: Rows) -> Start:
        """What finds a start among the sample of rows that lie elsewhere."""
        init = self.init_params
        if isinstance(init, str):
            return STARTS[init]
        if not callable(init):
            raise ValueError(
                "init_params as an array belongs to rows in memory; give means_init, the name of a start, or a "
                "function, which is called with a sample of the rows."
            )
        sample = source.sample
        return self._search(sample.take(np.arange(sample.n_rows)), None)

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit, and return the most probable component of each row, shape (n,); the same as fit(X).predict(X)."""
        rows, missing = self._fit(X, sample_weight)
        return self.predict(X) if is_dask(X) else self._evaluate(rows, missing, "labels")[0]

    def _fit(self, X: Any, sample_weight: Any) -> tuple[Any, bool]:
        """Fit all starts and set the attributes; on any error the estimator is left as it was."""
        source: Rows
        missing = False
        with unchanged_on_error(self):
            if is_dask(X):
                from fastgmm.sources.dask import open_collection

                rows, parts = open_collection(self, X, sample_weight, fitting=True)
                source = self._open_partitions(rows, parts)
                search = self._search_sample(source)
            else:
                rows, missing = self._check_rows(X, fitting=True)
                source = open_rows(*check_weights(sample_weight, rows), missing=missing)
                self._check_observed(source)
                search = self._search(rows, sample_weight)
            dtype = np.float64 if computes_in_float64(rows) else np.float32
            cautions = self._fit_source(source, search, dtype, warm=self._goes_on)
        for message, category in cautions:
            warnings.warn(message, category, stacklevel=4)
        return rows, missing

    def _open_partitions(self, rows: Any, parts: Any) -> Rows:
        """The source of checked rows in Dask's partitions."""
        from fastgmm.sources.dask import DaskRows

        if self.missing == "em":
            raise ValueError("missing='em' fits rows in memory; with X from Dask, drop or impute what is missing.")
        n_sampled = sample_rows(rows.shape[1], self.n_components, STRUCTURES[self.covariance_type])
        return DaskRows(parts, rows.dtype, rows.shape[1], n_sampled, self._seed_of_sample())

    @_fit_context(prefer_skip_nested_validation=True)
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
            Rows. The first call looks for a start among its rows, as `fit` does, and takes what a prior or
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
        with unchanged_on_error(self):
            first = not hasattr(self, "converged_")
            rows, missing = check_rows(self, X, fitting=first, allow_missing=self.missing == "em", least=1)
            source = open_rows(*check_weights(sample_weight, rows), missing=missing)
            if first:
                self._check_first(source)
            with threads(self.n_jobs):
                began = time.perf_counter()
                stream = self._begin_stream(source, self._search(rows, sample_weight)) if first else self._go_on(source)
                options = STRUCTURES[self.covariance_type], self.learning_decay, self.learning_offset
                taken = online.step(stream, source, *options)
            if taken.fault:
                mixture = Mixture.from_parameters(stream.parameters, self.covariance_type)
                raise DegenerateFitError(f"{_ILL_DEFINED} What failed: {taken.fault}.", mixture)
            self._set_learned(taken, source, rows.dtype, time.perf_counter() - began)
        return self

    def _check_first(self, source: ArrayRows) -> None:
        """Refuse to begin where there is no start."""
        if source.n_rows < self.n_components:
            raise ValueError(
                f"The first call of partial_fit needs at least {self.n_components} rows"
                f"{' of weight above 0' * source.weighted}, one for each component, but got {source.n_rows}; later "
                "calls may bring fewer."
            )
        self._check_observed(source)
        self._check_inits(source.n_features)

    def _begin_stream(self, source: ArrayRows, search: Start) -> online.Stream:
        """A stream that has seen no rows, from a start found among those of the source."""
        self.prior_, prior = self._regularise(source)
        found = self._start(source, prior, search, check_random_state(self.random_state))
        if found.failed >= 0:
            where = STRUCTURES[self.covariance_type].describe(found.failed)
            failed = engine.Run(found.parameters, failure=f"initialisation: {where} is not positive-definite")
            raise self._all_failed([failed])
        self.n_seen_, self.n_iter_ = 0, 0
        return online.begin(found.parameters, prior, STRUCTURES[self.covariance_type], 0.0)

    def _go_on(self, source: ArrayRows) -> online.Stream:
        """The stream as it was left, or one that has the fitted arrays, if they are of a fit or were edited."""
        stream, arrays, structure = self._stream, self._parameters(), STRUCTURES[self.covariance_type]
        k, d = arrays.means.shape
        if k != self.n_components or arrays.covariances.shape != structure.covariances_shape(k, d):
            raise ValueError(
                f"partial_fit goes on from {k} components with covariances of shape {arrays.covariances.shape}, which "
                f"n_components={self.n_components} and covariance_type={self.covariance_type!r} are not; keep both, "
                "or begin anew with fit or a clone."
            )
        if stream is not None:
            both = zip(arrays, stream.parameters, strict=True)
            if all(np.array_equal(mine, theirs.astype(self.means_.dtype)) for mine, theirs in both):
                return stream
        given = Prior() if isinstance(self.prior, str) else self.prior
        prior = None if given is None else self.prior_ or given
        joined = regularise(source, self.n_components, structure, prior, self.reg_covar)[1]
        if stream is None:
            self.n_iter_ = 0
        return online.begin(arrays, joined, structure, float(self.n_seen_))

    def _set_learned(self, taken: online.Step, source: ArrayRows, dtype: Any, seconds: float) -> None:
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
        self._check_against_data(source, warm)
        with threads(self.n_jobs):
            prior, joined = self._regularise(source)
            best, report = self._follow_starts(source, joined, search, warm)
        self._set_fitted(best, dtype)
        self.prior_, self.fit_report_, self._stream = prior, report, None
        self.n_seen_ = source.total_weight if source.weighted else source.n_rows
        if report.interrupted is not None:
            return [(_INTERRUPTED.format(report.interrupted), ConvergenceWarning)]
        cautions: list[tuple[str, type[Warning]]] = []
        if self.max_iter > 0:
            if best.outcome == "max_iter":
                cautions.append((_NOT_CONVERGED, ConvergenceWarning))
            degenerate = describe_degenerate(best, self.covariance_type, source.effective_rows, joined)
            cautions.append((degenerate, DegenerateComponentWarning))
            if self.prior is None and self.reg_covar != "auto":
                cautions.append((self._describe_regularisation(source, best.parameters), RegularisationWarning))
        return [caution for caution in cautions if caution[0]]

    def _check_rows(self, X: Any, *, fitting: bool = False) -> tuple[np.ndarray, bool]:
        """Checked rows, and whether entries are missing."""
        try:
            return check_rows(self, X, fitting=fitting, allow_missing=self.missing == "em")
        except ValueError as error:
            if "contains NaN" in str(error):  # the message itself is scikit-learn's
                error.add_note('With missing="em" such entries are integrated out.')
            raise

    def _check_observed(self, source: Rows) -> None:
        """Refuse features of which nothing is observed."""
        if not isinstance(source, IncompleteRows):
            return
        empty = np.flatnonzero(np.isnan(source.column_means))
        if empty.size:
            names = getattr(self, "feature_names_in_", np.arange(source.n_features))[empty]
            raise ValueError(
                f"X has no observed value of feature{'s' if len(names) > 1 else ''} {name_first(names)}; leave "
                f"{'them' if len(names) > 1 else 'it'} out."
            )

    def _check_against_data(self, source: Rows, warm: bool) -> None:
        n, d = source.n_rows, source.n_features
        if n < self.n_components:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, n_samples = {n}"
                f"{' of weight above 0' * source.weighted}"
            )
        if warm and self.means_.shape != (self.n_components, d):
            k, features = self.means_.shape
            raise ValueError(
                f"With warm_start=True the fit goes on from {k} components in {features} features, but now there are "
                f"{self.n_components} components and X has {d} features; keep both, or set warm_start=False."
            )
        self._check_inits(d)

    def _regularise(self, source: Rows) -> tuple[Prior | None, Hyperparameters]:
        prior = Prior() if isinstance(self.prior, str) else self.prior
        return regularise(source, self.n_components, STRUCTURES[self.covariance_type], prior, self.reg_covar)

    def _search(self, rows: np.ndarray, sample_weight: Any) -> Start:
        """What finds a start; called as those of STARTS are."""
        init = self.init_params
        if isinstance(init, str):
            return STARTS[init]
        kept = np.ones(len(rows), bool) if sample_weight is None else np.broadcast_to(sample_weight, len(rows)) > 0

        def find(
            source: ArrayRows, k: int, structure: ModuleType, prior: Hyperparameters, random: np.random.RandomState
        ) -> Update:
            values = init(rows, k, random) if callable(init) else init
            return start_from_given(values, kept, source, k, structure, prior, returned=callable(init))

        return find

    def _follow_starts(
        self, source: Rows, prior: Hyperparameters, search: Start, warm: bool
    ) -> tuple[engine.Run, FitReport]:
        """Follow every start; the best run and a report on all, or an error if none reached its end."""
        random = check_random_state(self.random_state)
        named = isinstance(self.init_params, str)

        def find() -> Update:
            return Update(self._parameters(), -1, False) if warm else self._start(source, prior, search, random)

        def follow(rows: Rows, start: Update, on_step: engine.OnStep | None) -> engine.Run:
            return self._follow(rows, prior, start, self.lower_bound_ if warm else -math.inf, on_step)

        with Watch(
            self.verbose, self.verbose_interval, self.progress, self.callback, self.covariance_type, self.max_iter
        ) as watch:
            count = self.n_init if (named or callable(self.init_params)) and not warm else 1
            size = count_parameters(self.covariance_type, self.n_components, source.n_features)
            followed = follow_starts(find, follow, source, count, watch, n_parameters=size, in_turn=not named)
        runs = [run for run, _ in followed]
        sound = [index for index, run in enumerate(runs) if run.outcome != "failed"]
        if not sound:
            raise self._all_failed(runs)
        # As scikit-learn chooses; of starts that took no step, the likelier.
        best = max(sound, key=lambda index: (runs[index].lower_bound, runs[index].log_likelihood))
        reports = tuple(StartReport.of(run, seconds) for run, seconds in followed)
        rows = source.effective_rows, source.total_weight
        return runs[best], FitReport(reports, best, runs[best].parameters, self.covariance_type, *rows, prior.ridge)

    def _follow(
        self,
        source: Rows,
        prior: Hyperparameters,
        start: Update,
        before: float,
        on_step: engine.OnStep | None,
    ) -> engine.Run:
        """Follow EM from a start, `before` which the log-likelihood was that."""
        structure = STRUCTURES[self.covariance_type]
        if start.failed >= 0:
            where = structure.describe(start.failed)
            failure = f"initialisation: {where} is not positive-definite"
            return engine.Run(start.parameters, outcome="failed", failure=failure)
        try:
            return engine.run(
                source,
                start.parameters,
                structure,
                tol=self.tol,
                prior=prior,
                max_iter=self.max_iter,
                before=before,
                acceleration=self.acceleration,
                on_step=on_step,
            )
        except SourceError as error:
            error.mixture = Mixture.from_parameters(error.reached, self.covariance_type)
            raise

    def _start(self, source: Rows, prior: Hyperparameters, search: Start, random: np.random.RandomState) -> Update:
        """Initial parameters: what the user gave, and the rest from `init_params`."""
        structure = STRUCTURES[self.covariance_type]
        given = (self.weights_init, self.means_init, self.precisions_init)
        if any(part is None for part in given):
            return self._override(search(source.sample, self.n_components, structure, prior, random))
        placeholder = np.empty(0)
        return self._override(Update(Parameters(placeholder, placeholder, placeholder, placeholder), -1, False))

    def _override(self, found: Update) -> Update:
        """Replace what was found by what the user gave."""
        structure = STRUCTURES[self.covariance_type]
        weights, means, covariances, factors = found.parameters
        failed = found.failed
        if self.weights_init is not None:
            weights = np.array(self.weights_init, dtype=np.float64)
        if self.means_init is not None:
            means = np.array(self.means_init, dtype=np.float64)
        if self.precisions_init is not None:
            factors = structure.factors_from_precisions(np.asarray(self.precisions_init, dtype=np.float64))
            covariances = structure.covariances_from_factors(factors)
            failed = -1
        return Update(Parameters(weights, means, covariances, factors), failed, False)

    def _check_inits(self, n_features: int) -> None:
        k, structure = self.n_components, STRUCTURES[self.covariance_type]
        if self.weights_init is not None:
            _check_weights(self.weights_init, k)
        if self.means_init is not None:
            _check_init(self.means_init, (k, n_features), "means")
        if self.precisions_init is not None:
            name = f"{self.covariance_type} precision"
            precisions = _check_init(self.precisions_init, structure.covariances_shape(k, n_features), name)
            _check_precisions(precisions, name, matrices=structure.MATRICES)
            _check_common(precisions, name, structure)

    def _all_failed(self, failures: list[engine.Run]) -> DegenerateFitError:
        furthest = max(failures, key=lambda run: run.n_iter)
        reasons = "; ".join(f"start {index} at {run.failure}" for index, run in enumerate(failures[:5]))
        more = f"; and {len(failures) - 5} more" if len(failures) > 5 else ""
        mixture = (
            Mixture.from_parameters(furthest.parameters, self.covariance_type)
            if all(np.isfinite(part).all() for part in furthest.parameters)
            else None
        )
        return DegenerateFitError(f"{_ILL_DEFINED} What failed: {reasons}{more}.", mixture)

    def _describe_regularisation(self, source: Rows, parameters: Parameters) -> str:
        """Name the features whose variance `reg_covar` rivals; empty if there are none."""
        reg_covar = float(self.reg_covar)
        variances = _data_variances(parameters, STRUCTURES[self.covariance_type], reg_covar)
        if not variances.all():  # constant, or lost in the rounding of reg_covar
            mean, variances = describe_rows(source, STRUCTURES["diag"])
            variances = np.where(variances > (16 * _EPS * mean) ** 2, variances, 0.0)
        rivalled = np.flatnonzero((variances > 0) & (reg_covar > _LARGEST_REGULARISATION * variances))
        if len(rivalled) == 0:
            return ""
        names = getattr(self, "feature_names_in_", np.arange(self.n_features_in_))[rivalled]
        return (
            f"reg_covar={reg_covar:g} is more than a tenth of the variance of feature"
            f"{'s' if len(names) > 1 else ''} {name_first(names)} (the least is "
            f"{variances[rivalled].min():.3g}) and so shapes the fit. Scale the data, for instance with "
            "sklearn.preprocessing.StandardScaler, or lower reg_covar, or let it be relative: reg_covar='auto'."
        )

    def _set_fitted(self, best: engine.Run, dtype: Any) -> None:
        structure = STRUCTURES[self.covariance_type]
        weights, means, covariances, factors = (np.asarray(part) for part in best.parameters)
        precisions = structure.precisions(factors)
        if dtype == np.float32:
            inverses = feature_variances(best.parameters._replace(covariances=precisions), structure)
            if not suits_single(means, feature_variances(best.parameters, structure), inverses):
                dtype = np.float64
        self.weights_ = weights.astype(dtype)
        self.means_ = means.astype(dtype)
        self.covariances_ = covariances.astype(dtype)
        self.precisions_cholesky_ = structure.transpose_factors(factors).astype(dtype)
        self.precisions_ = precisions.astype(dtype)
        self.converged_ = best.outcome == "converged"
        self.n_iter_ = best.n_iter
        self.lower_bound_ = best.lower_bound
        self.lower_bounds_ = best.log_likelihoods

    def _parameters(self) -> Parameters:
        """The fitted arrays as the engine's parameters; they are the only state, so an edited one counts."""
        factors = STRUCTURES[self.covariance_type].transpose_factors(np.asarray(self.precisions_cholesky_))
        parts = (self.weights_, self.means_, self.covariances_, factors)
        return Parameters(*(np.ascontiguousarray(part, dtype=np.float64) for part in parts))

    @property
    def mixture_(self) -> Mixture:
        """The fitted distribution, from weights_, means_ and covariances_."""
        return Mixture.from_estimator(self)

    def _evaluate(self, rows: np.ndarray, missing: bool, *what: str) -> list[np.ndarray]:
        """One pass over rows that writes each of what is asked: "log_likelihoods", "responsibilities" or "labels"."""
        mixture = Mixture.from_parameters(self._parameters(), self.covariance_type)
        single = "labels" not in what and rows.dtype == np.float32 and self.means_.dtype == np.float32
        wanted = dict.fromkeys(what, True) | {"missing": missing}
        with threads(self.n_jobs):
            if not single:
                out = mixture.evaluate(rows, **wanted)
                return [getattr(out, each) for each in what]
            blocks = (rows[i : i + _EVALUATED_ROWS] for i in range(0, max(1, len(rows)), _EVALUATED_ROWS))
            outs = (mixture.evaluate(block, **wanted, single=True) for block in blocks)
            parts = [[getattr(out, each).astype(np.float32) for each in what] for out in outs]
            return [np.concatenate(each) for each in zip(*parts, strict=True)]

    def _write(self, X: Any, what: str, shape: tuple[int, ...], out: np.ndarray | None) -> Any:
        """What `_evaluate` finds of checked rows, each of this shape, into `out` if it is given."""
        check_is_fitted(self)
        if is_dask(X):
            return self._write_lazily(X, what, out)
        rows, missing = self._check_rows(X)
        if out is None:
            return self._evaluate(rows, missing, what)[0]
        check_out(out, (len(rows), *shape), rows, largest=len(self.means_) - 1 if what == "labels" else None)
        size = max(1, _EVALUATED_ROWS // math.prod(shape))
        for start in range(0, len(rows), size):
            block = slice(start, start + size)
            out[block] = self._evaluate(rows[block], missing, what)[0]
        return out

    def _write_lazily(self, X: Any, what: str, out: Any) -> Any:
        """The same of rows in Dask's partitions, as an array of Dask's."""
        if out is not None:
            raise ValueError("out is for rows in memory; of what is predicted for Dask's, dask.array.store fills it.")
        from fastgmm.sources.dask import map_rows, open_collection

        rows, _ = open_collection(self, X)
        missing, bare = self.missing == "em", self._bare()
        single = rows.dtype == np.float32 and self.means_.dtype == np.float32
        return map_rows(
            rows,
            lambda block: bare._evaluate(block, missing, what)[0],
            width=len(self.means_) if what == "responsibilities" else None,
            dtype=np.int64 if what == "labels" else np.float32 if single else np.float64,
            allow_missing=missing,
        )

    def _bare(self) -> "GaussianMixture":
        """What predictions need of this estimator, to be sent to workers and run there on one thread."""
        bare = GaussianMixture(self.n_components, covariance_type=self.covariance_type, n_jobs=1)
        for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
            setattr(bare, name, getattr(self, name))
        return bare

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
        return self._write(X, "labels", (), out)

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
        check_is_fitted(self)
        if top is None:
            return self._write(X, "responsibilities", (len(self.means_),), out)
        if is_dask(X):
            raise ValueError("top is for rows in memory: Dask's arrays are not sparse.")
        if out is not None:
            raise ValueError("With top the probabilities are sparse, and out has no place for them.")
        rows, missing = self._check_rows(X)
        if not isinstance(top, Integral) or top < 1:
            raise ValueError(f"top must be a whole number of at least 1, but got {top!r}.")
        k = len(self.means_)
        return keep_largest(
            lambda block: self._evaluate(rows[block], missing, "responsibilities")[0], len(rows), k, min(int(top), k)
        )

    def score_samples(self, X: Any, *, out: np.ndarray | None = None) -> Any:
        """Log-likelihood of each row, shape (n,), in nats; into `out`, of floats, or lazy, as `predict` does."""
        return self._write(X, "log_likelihoods", (), out)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean log-likelihood per row, in nats; with weights (n,) the weighted mean."""
        (log_likelihood,), total_weight = self._total(X, sample_weight, "log_likelihoods")
        return log_likelihood / total_weight

    def _total(self, X: Any, sample_weight: Any, *what: str) -> tuple[list[float], float]:
        """The sums that `_sums` takes, and that of the weights."""
        check_is_fitted(self)
        if is_dask(X):
            from fastgmm.sources.dask import open_collection

            return self._total_of_partitions(open_collection(self, X, sample_weight)[1], *what)
        rows, missing = self._check_rows(X)
        rows, weights = check_weights(sample_weight, rows)
        total_weight = float(len(rows) if weights is None else weights.sum())
        return self._sums(rows, weights, missing, *what), total_weight

    def _total_of_partitions(self, parts: Any, *what: str) -> tuple[list[float], float]:
        """The same of rows in Dask's partitions, each summed where it is."""
        from fastgmm.sources.dask import total

        missing, bare = self.missing == "em", self._bare()
        return total(
            parts,
            lambda rows, weights: bare._sums(rows, weights, missing, *what),
            self.means_.shape[1],
            allow_missing=missing,
        )

    def _sums(self, rows: np.ndarray, weights: np.ndarray | None, missing: bool, *what: str) -> list[float]:
        """Sums over rows, a block at a time: log-likelihoods; the logarithms of each row's largest responsibility."""
        size = max(1, _EVALUATED_ROWS // (len(self.weights_) if "responsibilities" in what else 1))
        parts = []
        for start in range(0, len(rows), size):
            block = slice(start, start + size)
            found = self._evaluate(rows[block], missing, *what)
            values = [each if each.ndim == 1 else np.log(each.max(axis=1)) for each in found]
            parts.append([
                len(each) * float(each.mean()) if weights is None else float(weights[block] @ each) for each in values
            ])  # fmt: skip
        return [math.fsum(each) for each in zip(*parts, strict=True)]

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """Bayesian information criterion on X; the lower the better. With weights (n,), n is their sum."""
        (log_likelihood,), total_weight = self._total(X, sample_weight, "log_likelihoods")
        return criteria.bic(log_likelihood, self.n_parameters_, total_weight)

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Akaike information criterion on X, of weights (n,) if given; the lower the better."""
        (log_likelihood,), _ = self._total(X, sample_weight, "log_likelihoods")
        return criteria.aic(log_likelihood, self.n_parameters_)

    def icl(self, X: Any, sample_weight: Any = None) -> float:
        """Integrated completed likelihood criterion on X; the lower the better, and lower where clusters are distinct.

        BIC of the rows with their most probable components (Biernacki, Celeux and Govaert 2000); with weights (n,), n
        is their sum.
        """
        (likelihood, certainty), total_weight = self._total(X, sample_weight, "log_likelihoods", "responsibilities")
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
        from sklearn.mixture import GaussianMixture as Theirs

        check_is_fitted(self)
        theirs = Theirs()
        ours = self.get_params(deep=False) | {"covariance_type": STRUCTURES[self.covariance_type].SHAPE}
        for name in theirs.get_params(deep=False):
            with contextlib.suppress(InvalidParameterError):
                validate_parameter_constraints(Theirs._parameter_constraints, {name: ours[name]}, "GaussianMixture")
                setattr(theirs, name, ours[name])
        for name in _FITTED:
            if hasattr(self, name):
                setattr(theirs, name, copy.copy(getattr(self, name)))
        return theirs

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
        prior = self._regularise(source)[1]
        found = start_from_responsibilities(source, lambda i, j: resp[i:j], self.n_components, structure, prior)
        start = self._override(found)
        self._set_fitted(engine.Run(start.parameters), np.asarray(X).dtype)

    def _set_parameters(self, params: tuple[Any, ...]) -> None:
        """Set weights, means, covariances and precisions_cholesky_; scikit-learn's tests call it."""
        self.weights_, self.means_, self.covariances_, self.precisions_cholesky_ = params
        structure = STRUCTURES[self.covariance_type]
        self.precisions_ = structure.precisions(structure.transpose_factors(self.precisions_cholesky_))


@contextlib.contextmanager
def unchanged_on_error(estimator: Any) -> Iterator[None]:
    """Leave the estimator as it was if the block raises."""
    before = estimator.__dict__.copy()
    try:
        yield
    except BaseException:
        estimator.__dict__ = before
        raise


def count_parameters(covariance_type: str, k: int, d: int) -> int:
    """Free parameters of k components in d features."""
    return int(STRUCTURES[covariance_type].n_covariance_parameters(k, d) + k * d + k - 1)


def _data_variances(parameters: Parameters, structure: ModuleType, reg_covar: float) -> np.ndarray:
    """Variance of each feature under the mixture but for `reg_covar`; 0 where that is rounding alone."""
    weights, means = parameters.weights, parameters.means
    deviations = means - weights @ means
    within = weights @ feature_variances(parameters, structure)
    variances = within - reg_covar + weights @ deviations**2
    rounding = 16 * _EPS * within + (16 * _EPS * np.abs(means).max(axis=0)) ** 2
    return np.where(variances > rounding, variances, 0.0)


def _check_init(values: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    array = check_array(
        values, dtype=[np.float64, np.float32], ensure_2d=False, allow_nd=True, input_name=name, ensure_min_samples=0
    )
    if array.shape != shape:
        raise ValueError(f"The parameter '{name}' should have the shape of {shape}, but got {array.shape}")
    return np.asarray(array)


def _check_weights(values: Any, k: int) -> np.ndarray:
    weights = _check_init(values, (k,), "weights")
    if (weights < 0.0).any() or (weights > 1.0).any():
        # The two labels are the other way round in scikit-learn's message, and its tests pin it so.
        raise ValueError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{weights.min():.5f}, min value {weights.max():.5f}"
        )
    tolerance = 1e-6 if weights.dtype == np.float32 else 1e-8
    if abs(1.0 - float(weights.sum())) > tolerance:
        raise ValueError(f"The parameter 'weights' should be normalized, but got sum(weights) = {weights.sum():.5f}")
    return weights


def _check_precisions(precisions: np.ndarray, name: str, *, matrices: bool) -> None:
    if not matrices:
        if (precisions <= 0.0).any():
            raise ValueError(f"'{name}' should be positive")
        return
    for matrix in precisions.reshape(-1, *precisions.shape[-2:]):
        if not (np.allclose(matrix, matrix.T) and (np.linalg.eigvalsh(matrix) > 0.0).all()):
            raise ValueError(f"'{name}' should be symmetric, positive-definite")


def _check_common(precisions: np.ndarray, name: str, structure: ModuleType) -> None:
    common = structure.common(precisions)
    apart = (np.abs(common - common[:1]) > _COMMON_TOLERANCE * common[:1]).any(axis=1)
    if apart.any():
        raise ValueError(
            f"'{name}' should have the same {structure.COMMON} in all components, but component {apart.argmax()} "
            "differs from component 0"
        )
