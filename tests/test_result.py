"""What a run leaves: its summary, its modes, its file, its way to ArviZ."""

import dataclasses
import os
import sys
import warnings

import numpy as np
import pytest

from fastgmm import Mixture, sample
from fastgmm.mcmc import Chains, effective_sample_size, mcse, occupancy, rhat
from fastgmm.mcmc.files import load_fields, save_fields

TRIANGLE = Mixture([0.2, 0.5, 0.3], [[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]], [1.0, 1.0, 1.0], "spherical")


def chains_of(draws):
    """A result with draws of our own, whatever else it holds."""
    draws = np.asarray(draws, dtype=np.float64)
    short = sample(TRIANGLE, draws=4, warmup=0, chains=2, seed=0)
    return dataclasses.replace(short, draws=draws, log_density=np.zeros(draws.shape[:2]))


def exact_chains(chains, draws, seed=0):
    return chains_of(TRIANGLE.rvs(chains * draws, random_state=seed).reshape(chains, draws, 2))


def chains_at(*paths):
    """Chains that sit on the means of these components, one after the other."""
    return chains_of(TRIANGLE.means[np.array(paths)])


# Summary


def test_summary_holds_the_diagnostics():
    rng = np.random.default_rng(0)
    chains = chains_of(np.cumsum(rng.normal(size=(4, 501, 3)), axis=1) * [1.0, 1e-5, 1e7] + [0.0, 1.0, 1e9])
    summary = chains.summary(probs=(0.1, 0.5))
    draws = chains.draws
    np.testing.assert_allclose(summary.mean, draws.mean(axis=(0, 1)), rtol=1e-12)
    np.testing.assert_allclose(summary.sd, draws.std(axis=(0, 1), ddof=1), rtol=1e-9)
    np.testing.assert_array_equal(summary.quantiles, np.quantile(draws, [0.1, 0.5], axis=(0, 1)))
    np.testing.assert_array_equal(summary.mcse_mean, mcse(draws))
    np.testing.assert_array_equal(summary.mcse_sd, mcse(draws, "sd"))
    np.testing.assert_array_equal(summary.ess_bulk, effective_sample_size(draws))
    np.testing.assert_array_equal(summary.ess_tail, effective_sample_size(draws, "tail"))
    np.testing.assert_array_equal(summary.rhat, rhat(draws))
    np.testing.assert_array_equal(chains.effective_sample_size("sd"), effective_sample_size(draws, "sd"))


def test_summary_becomes_a_frame():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(exact_chains(2, 50).summary(probs=(0.025, 0.5, 0.9)).to_dict())
    assert frame.shape == (2, 10)
    assert list(frame)[:7] == ["mean", "sd", "mcse_mean", "mcse_sd", "q2.5", "q50", "q90"]


def test_summary_prints_a_table():
    """Means have the decimals that their standard deviations call for, whatever the units."""
    rng = np.random.default_rng(0)
    numbers = rng.permutation(np.arange(1000.0)).reshape(2, 500) + 0.3
    summary = chains_of(np.stack([numbers, numbers / 1e3, numbers * 1e9], axis=2)).summary()
    lines = str(summary).splitlines()
    assert lines[0].split()[:3] == ["dim", "mean", "sd"] and len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    means = [line.split()[:3] for line in lines[1:]]
    assert means == [["0", "500", "289"], ["1", "0.500", "0.289"], ["2", "4.998e+11", "2.888e+11"]]
    assert repr(summary) == str(summary)


def test_long_tables_leave_out_the_middle():
    lines = str(chains_of(np.random.default_rng(0).normal(size=(2, 10, 200))).summary()).splitlines()
    assert len(lines) == 42 and lines[21].strip() == "..." and lines[-1].split()[0] == "199"


def test_summary_warns_once_of_what_never_moved():
    draws = np.random.default_rng(0).normal(size=(3, 50, 2))
    draws[1] = draws[1, 0]
    draws[:, :, 1] = 7.0
    with pytest.warns(RuntimeWarning) as caught:
        summary = chains_of(draws).summary()
    assert [str(warning.message) for warning in caught] == [
        "Chain 1 never moved; no chain moved in dimension 1, where nothing is estimated."
    ]
    assert caught[0].filename == __file__
    assert summary.mean[1] == 7.0 and summary.sd[1] == 0.0
    for name in ("mcse_mean", "mcse_sd", "ess_bulk", "ess_tail", "rhat"):
        values = getattr(summary, name)
        assert np.isnan(values[1]) and np.isfinite(values[0]), name
    assert "nan" in str(summary)


def test_effective_sample_sizes_of_what_never_moved_warn_the_caller():
    with pytest.warns(RuntimeWarning, match="No chain ever moved") as caught:
        assert np.isnan(chains_of(np.ones((2, 50, 1))).effective_sample_size()).all()
    assert [warning.filename for warning in caught] == [__file__]


def test_summary_of_few_draws_prints():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for draws in (1, 2, 3):
            assert len(str(chains_of(np.ones((1, draws, 2))).summary()).splitlines()) == 3


def test_probabilities_are_checked():
    with pytest.raises(ValueError, match=r"probs must lie between 0 and 1, but hold 5\.0"):
        exact_chains(2, 50).summary(probs=(0.5, 5.0))


# Mode occupancy


def test_occupancy_counts_the_likeliest_component():
    chains = exact_chains(3, 500)
    seen = chains.mode_occupancy(TRIANGLE)
    labels = TRIANGLE.responsibilities(chains.draws).argmax(axis=2)
    for component in range(3):
        visits = (labels == component).astype(float)
        np.testing.assert_allclose(seen.share[:, component], visits.mean(axis=1), rtol=1e-15)
        np.testing.assert_allclose(seen.ess[component], effective_sample_size(visits), rtol=1e-12)
        np.testing.assert_allclose(seen.rhat[component], rhat(visits), rtol=1e-12)
    np.testing.assert_array_equal(seen.switches, (np.diff(labels, axis=1) != 0).sum(axis=1))
    np.testing.assert_array_equal(seen.weights, TRIANGLE.weights)


def test_exact_draws_visit_by_weight_and_give_no_problem():
    seen = exact_chains(4, 2000).mode_occupancy(TRIANGLE)
    errors = np.sqrt(TRIANGLE.weights * (1.0 - TRIANGLE.weights) / seen.ess)
    assert np.all(np.abs(seen.share.mean(axis=0) - TRIANGLE.weights) < 5.0 * errors)
    assert np.all((seen.ess > 6000) & (seen.ess < 10000))
    assert seen.problems == ()


def test_blocks_do_not_show(monkeypatch):
    chains = exact_chains(3, 100)
    whole = chains.mode_occupancy(TRIANGLE)
    monkeypatch.setattr(occupancy, "_BLOCK_DRAWS", 7)
    np.testing.assert_array_equal(chains.mode_occupancy(TRIANGLE).share, whole.share)


def test_chains_that_never_leave_are_named():
    seen = chains_at([0] * 8, [1] * 8, [0] * 8).mode_occupancy(TRIANGLE)
    assert seen.problems == (
        "Chains 0, 2 never left component 0.",
        "Chain 1 never left component 1.",
        "No chain visited component 2, of weight 0.3.",
        "The chains disagree on the share of components 0, 1: R-hat up to inf.",
    )
    np.testing.assert_array_equal(seen.rhat, [np.inf, np.inf, np.nan])
    assert np.isnan(seen.ess).all() and (seen.switches == 0).all()


def test_chains_that_disagree_are_told():
    often = [0, 1, 1, 2] * 25
    seen = chains_at(often, often, [0, 1, 2, 2] * 25).mode_occupancy(TRIANGLE)
    assert len(seen.problems) == 1
    assert seen.problems[0].startswith("The chains disagree on the share of components 1, 2: R-hat up to 1.")
    alone = chains_at([0, 1, 2, 1] * 25 + [0, 1, 0, 2] * 25).mode_occupancy(TRIANGLE)
    assert alone.problems[0].startswith("The chain's halves disagree on the share of components 0, 1: R-hat up to 1.")


def test_components_of_no_weight_are_not_missed():
    empty = Mixture([0.0, 1.0], [[0.0, 0.0], [9.0, 0.0]], [1.0, 1.0], "spherical")
    assert chains_at([1] * 8).mode_occupancy(empty).problems == ("Chain 0 never left component 1.",)
    single = Mixture([1.0], [[0.0, 0.0]], [1.0], "spherical")
    assert chains_at([1] * 8).mode_occupancy(single).problems == ()


def test_occupancy_prints_a_table_and_its_problems():
    lines = str(chains_at([0] * 8, [1, 2] * 4).mode_occupancy(TRIANGLE)).splitlines()
    assert lines[0].split() == ["component", "weight", "all", "chain", "0", "chain", "1", "ess", "rhat"]
    assert lines[1].split()[:5] == ["0", "0.2", "0.500", "1.000", "0.000"]
    assert lines[4].split() == ["switches", "0", "7"]
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[5] == "Chain 0 never left component 0."
    many = str(chains_at(*[[0, 1, 2]] * 9, [0, 0, 0]).mode_occupancy(TRIANGLE)).splitlines()
    assert many[0].split() == ["component", "weight", "all", "least", "median", "most", "ess", "rhat"]
    assert many[1].split()[2:6] == ["0.400", "0.333", "0.333", "1.000"] and many[4].split()[1:] == ["0", "2", "2"]


def test_occupancy_refuses_what_is_no_mixture_of_that_space():
    chains = exact_chains(2, 10)
    with pytest.raises(TypeError, match="mixture must be a Mixture, such as `mixture_` of a fit, not ndarray"):
        chains.mode_occupancy(TRIANGLE.means)
    with pytest.raises(ValueError, match="draws have 2 dimensions but the mixture has 1"):
        chains.mode_occupancy(Mixture([1.0], [[0.0]], [1.0], "spherical"))


# ArviZ


def test_arviz_gets_posterior_and_log_densities():
    pytest.importorskip("arviz_base")
    chains = sample(TRIANGLE, draws=20, warmup=0, chains=3, seed=0)
    tree = chains.to_arviz()
    assert tree.posterior["x"].dims == ("chain", "draw", "x_dim_0")
    np.testing.assert_array_equal(tree.posterior["x"].values, chains.draws)
    assert tree.sample_stats["lp"].dims == ("chain", "draw")
    np.testing.assert_array_equal(tree.sample_stats["lp"].values, chains.log_density)


def test_without_arviz_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    with pytest.raises(ImportError, match=r"pip install 'fastgmm\[arviz\]'"):
        exact_chains(2, 10).to_arviz()


# Files


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Extended(Chains):
    """Fields of every kind that a result may grow."""

    rates: np.ndarray = dataclasses.field(default_factory=lambda: np.array([[0.5, 0.25]], dtype=np.float32))
    labels: tuple[str, ...] = ("jump", "walk Δ")
    none_yet: tuple[str, ...] = ()
    flagged: bool = True
    evidence: float = 0.1
    note: str = "note"
    warmup_draws: np.ndarray | None = None
    later: int | None = 3


def assert_same(loaded, saved):
    for field in dataclasses.fields(saved):
        mine, theirs = getattr(loaded, field.name), getattr(saved, field.name)
        if field.name == "origin":  # which is not saved
            assert mine is None
            continue
        if field.name == "state" and theirs is not None:
            assert all(np.array_equal(*pair) for pair in zip(mine, theirs, strict=True))
            continue
        assert type(mine) is type(theirs), field.name
        if isinstance(theirs, np.ndarray):
            assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs, err_msg=field.name)


@pytest.mark.parametrize("warmup_draws", [None, np.empty((2, 0, 3)), np.asfortranarray(np.ones((2, 3, 4), np.int32))])
def test_fields_of_every_kind_survive_a_file(tmp_path, warmup_draws):
    plain = exact_chains(2, 10)
    fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
    chains = Extended(**{**fields, "warmup_draws": warmup_draws, "later": None})
    path = tmp_path / "chains"
    chains.save(path)
    assert os.listdir(tmp_path) == ["chains"]
    assert_same(Extended.load(path), chains)


def test_fields_that_joined_later_take_their_defaults(tmp_path):
    plain = exact_chains(2, 10)
    plain.save(tmp_path / "old")
    loaded = Extended.load(tmp_path / "old")
    assert loaded.labels == ("jump", "walk Δ") and loaded.warmup_draws is None
    np.testing.assert_array_equal(loaded.draws, plain.draws)


def test_a_failed_save_leaves_the_former_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "chains"
    chains = exact_chains(2, 10)
    chains.save(path)

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", fail)
        with pytest.raises(OSError, match="disk full"):
            exact_chains(2, 20).save(path)
    assert os.listdir(tmp_path) == ["chains"]
    assert_same(Chains.load(path), chains)
    exact_chains(2, 20).save(path)
    assert Chains.load(path).draws.shape == (2, 20, 2)


@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="links need rights there")
def test_saving_to_a_link_writes_where_it_leads(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "chains")
    exact_chains(2, 10).save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and Chains.load(tmp_path / "folder" / "chains").draws.shape == (2, 10, 2)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "chains"
    exact_chains(2, 100).save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"draws.npy") + 400] ^= 1
    for content in (b"", b"text", whole[:-50], whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"was not written by Chains\.save, or is damaged"):
            Chains.load(path)
    np.savez(tmp_path / "other.npz", a=1)
    np.savez(tmp_path / "pickled.npz", a=np.array([{}], dtype=object))
    np.save(tmp_path / "other.npy", np.zeros(3))
    for name in ("other.npz", "pickled.npz", "other.npy"):
        with pytest.raises(ValueError, match=r"was not written by Chains\.save"):
            Chains.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Chains.load(tmp_path / "missing")


def test_other_versions_and_missing_values_are_named(tmp_path):
    path = tmp_path / "chains"
    save_fields(path, "fastgmm.Chains.99", {"draws": np.zeros(3)})
    with pytest.raises(ValueError, match=r"has version 99 of its format, but this fastgmm reads version 1"):
        Chains.load(path)
    save_fields(path, "fastgmm.Chains.1", {"draws": np.zeros(3), "thin": 2})
    with pytest.raises(ValueError, match=r"has no log_density, .*, which Chains\.save writes"):
        Chains.load(path)


@pytest.mark.parametrize("value", [{}, [1], object(), ("a", 1), np.array([{}]), 2**70, np.array(["a"])])
def test_values_that_would_need_pickle_are_refused(tmp_path, value):
    with pytest.raises(TypeError, match="state cannot be saved"):
        save_fields(tmp_path / "chains", "fastgmm.Chains.1", {"state": value})
    assert not os.listdir(tmp_path)


def test_numbers_come_back_as_python_numbers(tmp_path):
    values = {"one": np.int32(3), "two": np.float64(0.5), "three": np.bool_(False), "four": np.zeros((0, 2))}
    save_fields(tmp_path / "values", "fastgmm.Chains.1", values)
    loaded = load_fields(tmp_path / "values", "fastgmm.Chains.1")
    assert [type(loaded[name]) for name in values] == [int, float, bool, np.ndarray]
    assert loaded["one"] == 3 and loaded["two"] == 0.5 and loaded["three"] is False
