"""scikit-learn's own tests of its mixtures, run against our class; what is left out is listed with its reason."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from sklearn.mixture.tests import test_gaussian_mixture as suite
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastgmm import GaussianMixture

pytestmark = [pytest.mark.compiled, pytest.mark.slow]

MODULES = ("sklearn.mixture.tests.test_gaussian_mixture", "sklearn.mixture.tests.test_mixture")

_PRIVATE = "calls private functions of scikit-learn and never our class"
_ARRAY_API = "is about the array API, which we do not offer"
LEFT_OUT = {
    "test_suffstat_sk_full": _PRIVATE,
    "test_suffstat_sk_tied": _PRIVATE,
    "test_suffstat_sk_diag": _PRIVATE,
    "test_gaussian_suffstat_sk_spherical": _PRIVATE,
    "test_compute_log_det_cholesky": _PRIVATE,
    "test_gaussian_mixture_log_probabilities": _PRIVATE,
    "test_gaussian_mixture_all_init_does_not_estimate_gaussian_parameters": (
        "replaces a private function of scikit-learn and counts its calls"
    ),
    "test_gaussian_mixture_setting_best_params": (
        "needs a component of one row to keep a positive variance at reg_covar=0: the rounding error of E[x²] - μ² "
        "in scikit-learn, exactly zero here, and so the documented error for collapsed components"
    ),
    "test_gaussian_mixture_precisions_init_diag": (
        "gives precisions in the order in which scikit-learn's KMeans numbers two clusters; ours numbers them otherwise"
    ),
    "test_gaussian_mixture_array_api_compliance": _ARRAY_API,
    "test_gaussian_mixture_raises_where_array_api_not_implemented": _ARRAY_API,
}

# The second estimator of test_mixture is BayesianGaussianMixture, scikit-learn's own.
NOT_OURS = "[estimator1]"

# 67 of the 71 cases that exercise the class with NumPy arrays; the other four are of the last two named above before
# the array API ones. A release of scikit-learn may add to them.
CASES = 67
FLOAT32_CASES = 16


def run_suite(folder, plugin, modules, *options):
    """Run modules of scikit-learn's tests in their own process and folder."""
    here = Path(__file__).parent
    search = [str(folder), str(here), str(Path(sys.modules["fastgmm"].__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(search), "SKLEARN_RUN_FLOAT32_TESTS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "-p", plugin, "-p", "no:cacheprovider"]
    command += ["--rootdir", str(folder), *options, "--pyargs", *modules]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Run the suite; the outcome of each case that meets our class, and what the run printed."""
    folder = tmp_path_factory.mktemp("sklearn_suite")
    left_out = " and ".join(f"not {name}" for name in LEFT_OUT)
    run = run_suite(folder, "sklearn_plugin", MODULES, "-k", left_out, f"--junitxml={folder / 'report.xml'}")
    assert (folder / "report.xml").exists(), run.stdout + run.stderr
    found = {}
    for case in ElementTree.parse(folder / "report.xml").iter("testcase"):
        bad = {child.tag for child in case} & {"failure", "error", "skipped"}
        found[case.get("name")] = bad.pop() if bad else "passed"
    return {name: outcome for name, outcome in found.items() if NOT_OURS not in name}, run.stdout


def test_every_case_that_exercises_the_class_passes(outcomes):
    found, output = outcomes
    assert {name: outcome for name, outcome in found.items() if outcome != "passed"} == {}, output
    assert len(found) >= CASES


def test_float32_cases_are_among_them(outcomes):
    assert sum("float32" in name for name in outcomes[0]) >= FLOAT32_CASES


def test_what_is_left_out_exists():
    """A name that scikit-learn dropped or renamed must leave the table too."""
    assert [name for name in LEFT_OUT if not hasattr(suite, name)] == []


def test_plugin_swaps_the_class(tmp_path):
    """With a class that cannot fit, the same run fails, but for the other estimator's cases."""
    (tmp_path / "broken_plugin.py").write_text(
        "import sklearn_plugin, sklearn.mixture\n"
        "def fit(self, X, y=None): raise AssertionError('this fit was called')\n"
        "sklearn.mixture.GaussianMixture.fit = fit\n"
    )
    run = run_suite(tmp_path, "broken_plugin", MODULES[1:])
    assert "this fit was called" in run.stdout, run.stdout + run.stderr
    assert "2 failed, 2 passed" in run.stdout


@parametrize_with_checks(
    [
        GaussianMixture(),
        GaussianMixture(n_components=2, covariance_type="diag"),
        GaussianMixture(missing="em"),
    ]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
