"""The command line and the tour, from its options to its pictures."""

import contextlib
import io
import sys

import numpy as np
import pytest
from PIL import Image

from fastgmm import GaussianMixture, tour
from fastgmm.__main__ import main

PICTURES = ["3dgauss.png", "samples.png", "class.png", "bic.png"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short tour: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("tour") / "new" / "pictures"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["tour", "--out", str(folder), "--steps", "600", "--thin", "5", "--components", "2"]) == 0
    return folder, printed.getvalue()


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_pictures(finished, name):
    with Image.open(finished[0] / name) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert min(pixels.shape[:2]) > 400
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 300


def test_no_other_file_is_left(finished):
    assert sorted(path.name for path in finished[0].iterdir()) == sorted(PICTURES)


def test_what_was_found_stands_beside_the_truth(finished):
    printed = finished[1]
    assert "Sampled 600 steps from (0, 0), every 5 kept: 120 draws" in printed
    assert "acceptance rate" in printed and "effective sample size" in printed
    for structure in tour.STRUCTURES:
        assert printed.count(f"  {structure} ") >= 2
    assert printed.count("<- lowest BIC") == 1 and "Chosen: " in printed
    assert "0.380" in printed and "0.620" in printed


def test_density_is_the_articles():
    def normal(x, y, sigma_x, sigma_y, mean_x, mean_y, covariance):
        matrix = np.array([[sigma_x**2, covariance], [covariance, sigma_y**2]])
        deviation = np.array([x - mean_x, y - mean_y])
        square = deviation @ np.linalg.solve(matrix, deviation)
        return np.exp(-square / 2) / (2 * np.pi * np.sqrt(np.linalg.det(matrix)))

    for x, y in [(0.0, 0.0), (-1.0, -1.0), (2.5, 1.0), (-4.0, 3.0)]:
        first = normal(x, y, 1.0, 1.0, -1, -1, -0.8)
        second = normal(x, y, 1.5, 0.8, 1, 2, 0.6)
        expected = 0.6 * first + 28.4 * second / (0.6 + 28.4)
        assert np.exp(tour.log_density(np.array([x, y]))) == pytest.approx(expected, rel=1e-12)
        assert tour.TARGET.pdf([x, y]) * tour.FACTORS.sum() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--thin", "0"], "'0' is not a whole number of at least 1"),
        (["--steps", "many"], "'many' is not a whole number of at least 1"),
        (["--seed", "-1"], "'-1' is not a whole number from 0"),
        (["--seed", "x"], "'x' is not a whole number from 0"),
        (["--steps", "10", "--thin", "20"], "no draw would be kept"),
        (["--steps", "30", "--thin", "10", "--components", "6"], "needs at least 6"),
        (["--out", __file__], "is a file, not a folder"),
    ],
)
def test_bad_options_are_explained(options, complaint, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["tour", *options])
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err


def test_without_matplotlib_the_tour_says_what_to_install(monkeypatch, capsys, tmp_path):
    for name in ["matplotlib", *sys.modules]:
        if name.partition(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, name, None)
        if name.startswith("fastgmm.plots"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("fastgmm.plots", raising=False)
    with pytest.raises(SystemExit) as stopped:
        main(["tour", "--out", str(tmp_path)])
    assert stopped.value.code == 1
    assert "fastgmm[plots]" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_one_component_is_described_too():
    draws = np.random.default_rng(0).normal(size=(50, 2))
    model = GaussianMixture(1, random_state=0).fit(draws)
    text = tour.describe_mixture(model.mixture_)
    assert text.count("component") == 1 and "1.000" in text
