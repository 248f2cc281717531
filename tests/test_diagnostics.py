"""What draws are worth: ArviZ is the oracle."""

import warnings

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

from fastgmm.mcmc import autocorrelation_time, effective_sample_size, mcse, rhat

EVERY = {
    "bulk": lambda x: effective_sample_size(x),
    "tail": lambda x: effective_sample_size(x, "tail"),
    "mean": lambda x: effective_sample_size(x, "mean"),
    "sd": lambda x: effective_sample_size(x, "sd"),
    "quantile": lambda x: effective_sample_size(x, "quantile", prob=0.3),
    "error of mean": lambda x: mcse(x),
    "error of sd": lambda x: mcse(x, "sd"),
    "error of quantile": lambda x: mcse(x, "quantile", prob=0.3),
    "time": autocorrelation_time,
    "R-hat": rhat,
}
every_diagnostic = pytest.mark.parametrize("diagnostic", EVERY.values(), ids=EVERY)

SHAPES = {
    "normal": lambda x: x,
    "ties": np.round,
    "two values": lambda x: (x > 1.0).astype(float),
    "balanced signs": np.sign,
    "heavy tails": lambda x: np.sinh(3.0 * x),
    "chains apart": lambda x: x + np.arange(len(x))[:, None],
    "one of other width": lambda x: x * np.where(np.arange(len(x)) == 0, 4.0, 1.0)[:, None],
    "one that never moved": lambda x: np.where(np.arange(len(x))[:, None] == 1, x[:, :1], x),
}


def autoregressive(rng, chains, draws, coefficient):
    return lfilter([1.0], [1.0, -coefficient], rng.normal(size=(chains, draws)), axis=1)


def arviz(name, x, **options):
    array_stats = pytest.importorskip("arviz_stats.base").array_stats
    return float(getattr(array_stats, name)(x, chain_axis=0, draw_axis=1, **options))


def arviz_error_of_sd(x):
    """From ArviZ's effective sample size of squared deviations: its own until 0.8 takes that of the draws."""
    squares = (x - x.mean()) ** 2
    variance = (np.mean(squares**2) - squares.mean() ** 2) / arviz("ess", x, method="sd")
    return np.sqrt(max(variance, 0.0) / squares.mean() / 4.0)


def scores(x):
    return stats.norm.ppf((stats.rankdata(x) - 0.375) / (x.size + 0.25)).reshape(x.shape)


def assert_equals_arviz(x):
    pairs = {kind: (effective_sample_size(x, kind), arviz("ess", x, method=kind)) for kind in ("bulk", "mean", "sd")}
    pairs["tail"] = effective_sample_size(x, "tail"), arviz("ess", x, method="tail", prob=(0.05, 0.95))
    for prob in (0.1, 0.5, 0.99):
        pairs[f"ess {prob}"] = (
            effective_sample_size(x, "quantile", prob=prob),
            arviz("ess", x, method="quantile", prob=prob),
        )
        pairs[f"mcse {prob}"] = mcse(x, "quantile", prob=prob), arviz("mcse", x, method="quantile", prob=prob)
    pairs["mcse mean"] = mcse(x), arviz("mcse", x, method="mean")
    pairs["mcse sd"] = mcse(x, "sd"), arviz_error_of_sd(x)
    if len(x) > 1:
        pairs["rhat"] = rhat(x), arviz("rhat", x)
    for name, (ours, theirs) in pairs.items():
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14, err_msg=f"{name}, shape {x.shape}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("coefficient", [-0.95, 0.3, 0.99])
@pytest.mark.parametrize("chains", [1, 2, 5])
def test_equals_arviz(coefficient, chains, shape):
    rng = np.random.default_rng(chains)
    for draws in [4, 5, 6, 7, 8, 13, 30, 101, 1000]:
        x = SHAPES[shape](autoregressive(rng, chains, draws, coefficient))
        if not np.all(x == x[:, :1]):  # the one deliberate difference
            assert_equals_arviz(x)


def test_one_chain_is_compared_with_itself():
    x = autoregressive(np.random.default_rng(0), 1, 501, 0.9)
    halves = np.concatenate([x[:, :250], x[:, -250:]])
    folded = np.abs(halves - np.median(halves))
    expected = max(arviz("rhat", scores(part), method="identity") for part in (halves, folded))
    np.testing.assert_allclose(rhat(x), expected, rtol=1e-12)
    assert rhat(x + np.linspace(0.0, 20.0, 501)) > 1.5


@every_diagnostic
def test_coordinates_are_estimated_one_by_one(diagnostic):
    x = np.random.default_rng(0).normal(size=(3, 200, 2))
    x[:, :, 1] = np.cumsum(x[:, :, 1], axis=1)
    both = diagnostic(x)
    assert both.shape == (2,)
    assert both[0] == diagnostic(x[:, :, 0]) and both[1] == diagnostic(x[:, :, 1])
    assert both[0] != both[1] and isinstance(diagnostic(x[:, :, 0]), float)


@every_diagnostic
@pytest.mark.parametrize("exponent", [-1000, 900])
def test_units_do_not_matter(diagnostic, exponent):
    """To the bit, also where squares would overflow or vanish; errors are in the units of the draws."""
    x = autoregressive(np.random.default_rng(0), 4, 301, 0.5)
    ours = diagnostic(np.ldexp(x, exponent))
    assert ours in (diagnostic(x), np.ldexp(diagnostic(x), exponent))


@every_diagnostic
def test_a_large_offset_does_not_matter(diagnostic):
    x = np.round(autoregressive(np.random.default_rng(0), 4, 301, 0.5), 4) + 2.0
    near = np.round(x * 2**14) / 2**14  # so that the offset costs no digit
    np.testing.assert_allclose(diagnostic(near + 2.0**36), diagnostic(near), rtol=1e-9)


def test_ranks_see_through_monotone_maps():
    x = autoregressive(np.random.default_rng(0), 4, 301, 0.5)
    assert effective_sample_size(np.exp(x)) == effective_sample_size(x)
    assert effective_sample_size(np.exp(x), "mean") != effective_sample_size(x, "mean")


@pytest.mark.parametrize("coefficient", [-0.6, 0.0, 0.8])
def test_autoregressive_chains_have_the_known_time_and_errors(coefficient):
    """Squares of such a chain have correlations φ^2t: an error of the sd from those of the draws would be off."""
    n = 20_000
    x = autoregressive(np.random.default_rng(0), 4, n, coefficient)
    sd = 1.0 / np.sqrt(1.0 - coefficient**2)
    time = (1.0 + coefficient) / (1.0 - coefficient)
    time_of_squares = (1.0 + coefficient**2) / (1.0 - coefficient**2)
    np.testing.assert_allclose(autocorrelation_time(x), time, rtol=0.15)
    np.testing.assert_allclose(mcse(x), sd * np.sqrt(time / x.size), rtol=0.1)
    np.testing.assert_allclose(mcse(x, "sd"), sd * np.sqrt(time_of_squares / 2.0 / x.size), rtol=0.1)
    if coefficient == 0.0:
        median = sd * np.sqrt(np.pi / 2.0 / x.size)
        np.testing.assert_allclose(mcse(x, "quantile", prob=0.5), median, rtol=0.1)


@every_diagnostic
@pytest.mark.parametrize("values", [[[1.0], [1.0]], [[0.1]]])
def test_what_never_moved_is_unknown(diagnostic, values):
    x = np.repeat(values, 100, axis=1)
    with pytest.warns(RuntimeWarning, match=r"^No chain ever moved: nothing can be estimated") as caught:
        assert np.isnan(diagnostic(x))
    assert len(caught) == 1 and caught[0].filename == __file__


def test_chains_that_never_moved_from_different_places_disagree_infinitely():
    x = np.repeat([[0.1], [0.2], [0.2]], 100, axis=1)
    with pytest.warns(RuntimeWarning, match="No chain ever moved"):
        assert rhat(x) == np.inf
    with pytest.warns(RuntimeWarning, match="No chain ever moved"):
        assert np.isnan(effective_sample_size(x)) and np.isnan(mcse(x, "sd"))


@pytest.mark.parametrize("seed", range(5))
def test_halves_that_never_moved_disagree_infinitely(seed):
    """Not by 1e16, as the rounding of a constant's mean would have it."""
    assert rhat(np.repeat(np.random.default_rng(seed).normal(size=(3, 2)), 51, axis=1)) == np.inf


@pytest.mark.parametrize("seed", range(5))
def test_squares_that_differ_by_rounding_are_the_same(seed):
    rng = np.random.default_rng(seed)
    low, high = rng.normal(size=2)
    x = rng.permutation(np.repeat([low, high], 100)).reshape(4, 50)
    assert effective_sample_size(x, "sd") == x.size
    assert mcse(x, "sd") < 1e-7 * abs(high - low)


def test_one_stuck_chain_shows_wherever_it_is():
    x = np.random.default_rng(0).normal(size=(4, 1000))
    for place in np.linspace(-4.0, 4.0, 33):
        x[2] = place
        with pytest.warns(RuntimeWarning, match=r"^Chain 2 never moved\.$"):
            assert rhat(x) > 1.05


def test_warnings_name_chains_and_dimensions():
    x = np.random.default_rng(0).normal(size=(4, 50, 4))
    x[[0, 3]] = x[[0, 3], :1]
    x[1, :, 2] = 5.0
    x[:, :, 3] = [[1.0], [2.0], [1.0], [2.0]]
    message = (
        "Chains 0, 3 never moved; no chain moved in dimension 3, where nothing is estimated; "
        "chain 1 never moved in dimension 2."
    )
    with pytest.warns(RuntimeWarning) as caught:
        values = effective_sample_size(x)
    assert [str(warning.message) for warning in caught] == [message]
    assert np.isnan(values).tolist() == [False, False, False, True]


@every_diagnostic
def test_warnings_are_rare(diagnostic):
    """Neither ties, nor draws too few to tell, nor any that are not finite warn."""
    x = np.random.default_rng(0).normal(size=(4, 60))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for shape in (SHAPES["normal"], SHAPES["ties"], SHAPES["balanced signs"], SHAPES["heavy tails"]):
            assert np.isfinite(diagnostic(shape(x)))
        for few in range(4):
            assert np.isnan(diagnostic(np.ones((4, few))))
        for value in (np.nan, np.inf, -np.inf):
            x[1, 7] = value
            assert np.isnan(diagnostic(x))


@every_diagnostic
@pytest.mark.parametrize("shape", [(10,), (0, 10), (2, 10, 2, 2)])
def test_other_shapes_are_refused(diagnostic, shape):
    with pytest.raises(ValueError, match=r"\(chain, draw\)"):
        diagnostic(np.zeros(shape))


def test_unknown_kinds_and_probabilities_are_refused():
    x = np.random.default_rng(0).normal(size=(2, 50))
    with pytest.raises(ValueError, match="kind must be one of bulk, tail, mean, sd, quantile, not 'median'"):
        effective_sample_size(x, "median")
    with pytest.raises(ValueError, match="kind must be one of mean, sd, quantile, not 'bulk'"):
        mcse(x, "bulk")
    with pytest.raises(ValueError, match="prob is for tail and quantile, not for 'mean'"):
        effective_sample_size(x, "mean", prob=0.5)
    for prob in (None, 0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match="prob must lie between 0 and 1 for 'quantile'"):
            mcse(x, "quantile", prob=prob)


def test_lower_and_upper_tail_count():
    x = np.random.default_rng(0).normal(size=(4, 500))
    x[0] = np.abs(x[0])
    assert effective_sample_size(x, "tail") == effective_sample_size(x, "tail", prob=0.95)
    assert effective_sample_size(x, "tail") == effective_sample_size(-x, "tail")
