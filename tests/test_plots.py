"""Every picture, by its artists: where ellipses, contours, lines and points are, and what legends say of them."""

import warnings

import numpy as np
import pandas as pd
import pytest
from reference import FAMILIAR
from scipy import stats
from test_mixture import dense, make_mixture

from fastgmm import GaussianMixture, GaussianMixtureIC, Mixture

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402
from matplotlib.collections import PathCollection  # noqa: E402
from matplotlib.colors import to_hex  # noqa: E402
from matplotlib.contour import QuadContourSet  # noqa: E402
from matplotlib.patches import Ellipse  # noqa: E402

from fastgmm import plots  # noqa: E402
from fastgmm.em.report import FitReport, StartReport  # noqa: E402
from fastgmm.plots import densities  # noqa: E402
from fastgmm.plots.densities import _draw_contours as draw_contours  # noqa: E402
from fastgmm.plots.looks import COLOURS, MARKERS, choose_points, look  # noqa: E402


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def ellipses(ax):
    return [patch for patch in ax.patches if isinstance(patch, Ellipse)]


def clouds(ax):
    return [found for found in ax.collections if isinstance(found, PathCollection)]


def contours(ax):
    return [found for found in ax.collections if isinstance(found, QuadContourSet)]


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def many(k, d=2):
    """k components of full covariance whose weights differ."""
    random = np.random.default_rng(k)
    roots = random.normal(size=(k, d, d))
    weights = np.arange(1.0, k + 1)
    return Mixture(
        weights / weights.sum(), 5 * random.normal(size=(k, d)), roots @ roots.swapaxes(1, 2) + 0.1 * np.eye(d)
    )


def fits_its_page(figure):
    """Whether nothing would be cut off if the figure were saved, legends included."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    boxes = [figure.get_tightbbox(renderer).transformed(figure.dpi_scale_trans)]
    boxes += [ax.get_legend().get_window_extent(renderer) for ax in figure.axes if ax.get_legend()]
    page = figure.bbox.padded(2.0)
    return all(page.contains(*corner) for box in boxes for corner in (box.min, box.max))


@pytest.mark.parametrize("covariance_type", FAMILIAR)
@pytest.mark.parametrize("dims", [(0, 1), (3, 1)])
def test_ellipses_are_where_the_distance_is_one_and_two(covariance_type, dims):
    mixture = make_mixture(covariance_type, d=4)
    ax = plots.components(mixture, dims=dims)
    found = ellipses(ax)
    assert len(found) == 2 * mixture.n_components
    for c, (mean, covariance) in enumerate(zip(mixture.means, dense(mixture), strict=True)):
        part = covariance[np.ix_(dims, dims)]
        for deviations, drawn in zip((1, 2), found[2 * c : 2 * c + 2], strict=True):
            assert drawn.center == pytest.approx(mean[list(dims)])
            variances, axes = np.linalg.eigh(part)
            assert (drawn.width, drawn.height) == pytest.approx(tuple(2 * deviations * np.sqrt(variances[::-1])))
            turned = np.array([np.cos(np.radians(drawn.angle)), np.sin(np.radians(drawn.angle))])
            assert abs(turned @ axes[:, -1]) == pytest.approx(1.0)
            points = drawn.get_patch_transform().transform(drawn.get_path().interpolated(3).vertices)
            shifts = points[::3] - mean[list(dims)]
            distances = np.sqrt(np.einsum("ni,ij,nj->n", shifts, np.linalg.inv(part), shifts))
            np.testing.assert_allclose(distances[:1], deviations, rtol=1e-9)
            assert to_hex(drawn.get_edgecolor()).upper() == COLOURS[c] and not drawn.get_fill()
            assert drawn.get_linestyle() == {1: "-", 2: "--"}[deviations]
    assert ax.get_xlabel() == f"feature {dims[0]}" and ax.get_ylabel() == f"feature {dims[1]}"


def test_components_lie_over_their_points():
    mixture = many(3, d=5)
    frame = pd.DataFrame(mixture.rvs(50, 0), columns=list("abcde"))
    frame.iloc[0, 4] = np.nan
    figure, ax = pyplot.subplots()
    assert plots.components(mixture, frame, dims=(4, 0), title="Three", ax=ax) is ax and ax.figure is figure
    (cloud,) = clouds(ax)
    np.testing.assert_array_equal(cloud.get_offsets(), frame[["e", "a"]])
    assert cloud.get_zorder() < min(drawn.get_zorder() for drawn in ellipses(ax))
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("e", "a", "Three")
    assert texts(ax.get_legend()) == [
        "component 0: weight 0.17",
        "component 1: weight 0.33",
        "component 2: weight 0.50",
        "50 points",
        "1 standard deviation (holds 39 %)",
        "2 standard deviations (hold 86 %)",
    ]
    assert [note.get_text() for note in ax.texts] == ["0", "1", "2"]
    np.testing.assert_allclose([note.xy for note in ax.texts], mixture.means[:, [4, 0]])


def test_the_shares_of_ellipses_are_what_the_legend_says():
    from fastgmm.plots.ellipses import DEVIATIONS

    for deviations, (_, label) in DEVIATIONS.items():
        assert f"{100 * (1 - np.exp(-(deviations**2) / 2)):.0f} %" in label


@pytest.mark.parametrize("k", [1, 2, 12, 30])
def test_every_component_has_its_look_and_legends_end(k):
    mixture = many(k)
    ax = plots.components(mixture, mixture.rvs(200, 0))
    assert len(ellipses(ax)) == 2 * k
    listed = [text for text in texts(ax.get_legend()) if text.startswith("component") or "more" in text]
    assert len(listed) == min(k, 12) and listed[-1] == ("and 19 more" if k == 30 else listed[-1])
    assert fits_its_page(ax.figure)


def test_looks_repeat_late():
    assert len({look(i) for i in range(84)}) == 84 and look(84) == look(0)
    assert len(set(COLOURS)) == 12 and np.gcd(len(COLOURS), len(MARKERS)) == 1
    colours = np.array([matplotlib.colors.to_rgb(colour) for colour in COLOURS])
    distances = np.linalg.norm(colours[:, None] - colours, axis=2)
    assert distances[~np.eye(12, dtype=bool)].min() > 0.25


def test_components_of_no_weight_are_left_out():
    mixture = Mixture([0.5, 0.0, 0.5], [[0, 0], [1e6, 0], [3, 3]], [1.0, 1.0, 1.0], "spherical")
    for ax in (plots.components(mixture), plots.classes(mixture, mixture.rvs(20, 0))):
        assert len(ellipses(ax)) == 4 and max(ax.get_xlim()) < 100
        assert [note.get_text() for note in ax.texts] == ["0", "2"]
    assert max(plots.pairs(mixture)[0, 0].get_xlim()) < 100


def test_classes_have_the_colours_of_their_components():
    mixture = make_mixture("full")
    points, labels = mixture.rvs(300, 0, return_labels=True)
    ax = plots.classes(mixture, points, labels)
    assert len(clouds(ax)) == 3 and len(ellipses(ax)) == 6
    for c, cloud in enumerate(clouds(ax)):
        np.testing.assert_array_equal(cloud.get_offsets(), points[labels == c])
        assert to_hex(cloud.get_facecolor()[0]).upper() == COLOURS[c]
        said = f"component {c}: weight {mixture.weights[c]:.2f}, {(labels == c).sum()} points"
        assert texts(ax.get_legend())[c] == said
    assert len({cloud.get_paths()[0].vertices.tobytes() for cloud in clouds(ax)}) == 3  # markers too


def test_a_legend_of_many_classes_ends():
    mixture = many(14)
    labels = texts(plots.classes(mixture, mixture.rvs(300, 0)).get_legend())
    assert [label for label in labels if "more" in label] == ["and 3 more"]


def test_classes_are_by_default_the_most_probable():
    mixture = make_mixture("diag", d=3)
    points = mixture.rvs(300, 0)
    expected = mixture.responsibilities(points).argmax(axis=1)
    points[0, 1], points[1, 2] = np.nan, np.nan
    for c, cloud in enumerate(clouds(plots.classes(mixture, points, dims=(2, 0)))[2:], 2):
        seen = cloud.get_offsets().filled(np.nan)[:, 1]
        assert set(points[2:, 0][expected[2:] == c]) <= set(seen)


def test_of_many_points_some_are_drawn_always_the_same():
    chosen = choose_points(50_000)
    assert len(chosen) == 20_000 and (np.diff(chosen) > 0).all() and 20_000 < chosen.mean() < 30_000
    np.testing.assert_array_equal(chosen, choose_points(50_000))
    np.testing.assert_array_equal(choose_points(20_000), np.arange(20_000))
    mixture = make_mixture("full")
    points, labels = mixture.rvs(30_000, 0, return_labels=True)
    ax = plots.components(mixture, points)
    np.testing.assert_array_equal(clouds(ax)[0].get_offsets(), points[choose_points(30_000)])
    assert "20,000 of 30,000 points" in texts(ax.get_legend())
    ax = plots.classes(mixture, points, labels)
    assert sum(len(cloud.get_offsets()) for cloud in clouds(ax)) == 20_000
    said = texts(ax.get_legend())[:3]
    assert sum(int(text.split(", ")[1].split()[0].replace(",", "")) for text in said) == 30_000


def test_one_scale_unless_it_would_flatten():
    near = Mixture([1.0], [[0.0, 0.0]], [[1.0, 2.0]], "diag")
    far = Mixture([1.0], [[0.0, 0.0]], [[1.0, 1e6]], "diag")
    assert plots.components(near).get_aspect() == 1.0 and plots.components(far).get_aspect() == "auto"


@pytest.mark.compiled  # densities on fine grids are long for plain Python
@pytest.mark.parametrize("dims", [(0, 1), (2, 0)])
def test_contours_are_levels_of_the_marginal(dims):
    mixture = many(3, d=3)
    _, ax = pyplot.subplots()
    assert plots.density(mixture, dims=dims, levels=[1e-3, 5e-3, 1e-2], ax=ax) is ax
    fills, lines = contours(ax)
    assert fills.filled and not lines.filled
    np.testing.assert_array_equal(lines.levels, [1e-3, 5e-3, 1e-2])
    np.testing.assert_array_equal(fills.levels[:-1], lines.levels)
    marginal = mixture.marginal(list(dims))
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        np.testing.assert_allclose(marginal.pdf(path.vertices), level, rtol=0.1)
    assert len({to_hex(colour) for colour in lines.get_edgecolor()}) == 3
    assert (ax.get_xlabel(), ax.get_ylabel()) == (f"feature {dims[0]}", f"feature {dims[1]}")
    for j, (low, high) in enumerate((ax.get_xlim(), ax.get_ylim())):
        assert marginal.marginal(j).cdf(low) < 1e-3 and marginal.marginal(j).cdf(high) > 1 - 1e-3


@pytest.mark.compiled  # densities on fine grids are long for plain Python
def test_levels_are_equal_steps():
    lines = contours(plots.density(make_mixture("full")))[1]
    steps = np.diff(lines.levels)
    assert (
        4 <= len(lines.levels) <= 10 and steps == pytest.approx(steps[0]) and lines.levels[0] == pytest.approx(steps[0])
    )
    assert len(contours(plots.density(make_mixture("full"), levels=1))[1].levels) == 1


@pytest.mark.compiled  # densities on fine grids are long for plain Python
def test_contours_hold_shares_of_the_probability():
    mixture = Mixture([0.5, 0.5], [[0.0, 0.0], [9.0, 0.0]], [1.0, 1e-6], "spherical")
    ax = plots.density(mixture, shares=[0.5, 0.9, 0.99])
    levels = contours(ax)[1].levels
    within = [(mixture.pdf(mixture.rvs(50_000, 1)) > level).mean() for level in levels]
    np.testing.assert_allclose(within, [0.99, 0.9, 0.5], atol=0.01)
    bar = ax.figure.axes[-1]
    assert [text.get_text() for text in bar.get_yticklabels()] == ["0.99", "0.9", "0.5"]
    assert bar.get_ylabel() == "share of the probability within"
    # The narrow component is a thousandth of the wide one, and seen.
    innermost = contours(ax)[1].get_paths()[0].vertices
    assert (np.abs(innermost - [9.0, 0.0]).max(axis=1) < 0.01).any()


@pytest.mark.compiled  # densities on fine grids are long for plain Python
def test_contours_lie_over_points_and_show_them_all():
    mixture = make_mixture("full")
    points = np.concatenate([mixture.rvs(100, 0), [[60.0, -50.0]]])
    ax = plots.density(mixture, points, label="p")
    (cloud,) = clouds(ax)
    np.testing.assert_array_equal(cloud.get_offsets(), points)
    assert cloud.get_zorder() < contours(ax)[1].get_zorder()
    assert ax.get_xlim()[1] > 60 and ax.get_ylim()[0] < -50
    reached = densities._grid(mixture, points, None)
    assert reached[0][-1] > 60 and reached[1][0] < -50  # contours, not the scatter alone, go so far
    assert texts(ax.get_legend()) == ["101 points", "contours of the p"] and ax.figure.axes[-1].get_ylabel() == "p"
    assert fits_its_page(ax.figure)


def test_a_grid_is_dense_where_the_probability_is(monkeypatch):
    monkeypatch.setattr(densities, "_LINES", 20)
    mixture = Mixture([0.5, 0.5], [[0.0, 0.0], [9.0, 0.0]], [1.0, 1e-6], "spherical")
    drawn = []
    monkeypatch.setattr(
        densities, "_draw_contours", lambda ax, *grids: drawn.append(grids) or draw_contours(ax, *grids)
    )
    ax = plots.density(mixture, mixture.rvs(30, 0), levels=[0.01, 0.1, 100.0])
    x, y, height = drawn[0][:3]
    assert len(contours(ax)) == 2 and (np.diff(x) > 0).all() and (np.abs(x - 9.0) < 0.004).sum() >= 8
    np.testing.assert_allclose(height[5], mixture.pdf(np.stack([x, np.full_like(x, y[5])], axis=1)))


def test_a_function_is_drawn_where_it_is_said():
    ax = plots.density(lambda points: points[:, 0] ** 2 + points[:, 1], limits=((1, 3), (0, 2)), levels=[4.0])
    for vertex in contours(ax)[1].get_paths()[0].vertices:
        assert vertex[0] ** 2 + vertex[1] == pytest.approx(4.0, abs=1e-3)
    assert ax.get_ylim() == (0, 2)


@pytest.mark.compiled  # densities on fine grids are long for plain Python
def test_a_surface_has_the_heights_of_the_density():
    mixture = many(2, d=3)
    given = pyplot.figure().add_subplot(projection="3d")
    drawn, plot_surface = [], given.plot_surface
    given.plot_surface = lambda *grids, **options: drawn.append(grids) or plot_surface(*grids, **options)
    ax = plots.density(mixture, dims=(2, 1), kind="surface", names=["a", "b", "c"], label="height", ax=given)
    assert ax is given and (ax.get_xlabel(), ax.get_ylabel(), ax.get_zlabel()) == ("c", "b", "height")
    ((x, y, z),) = drawn
    np.testing.assert_allclose(z, mixture.marginal([2, 1]).pdf(np.stack([x, y], axis=-1)), rtol=1e-12)
    assert len(ax.collections) == 1
    assert ax.get_zlim()[1] >= z.max() and ax.figure.axes[-1].get_ylabel() == "height"
    assert plots.density(mixture, kind="surface").name == "3d"


def test_a_corner_plot_has_margins_and_pairs():
    mixture = many(3, d=4)
    points = mixture.rvs(500, 0)
    axes = plots.pairs(mixture, points, dims=[3, 0, 1], names=list("abcd"), title="Corner")
    assert axes.shape == (3, 3) and axes[0, 0].figure.get_suptitle() == "Corner"
    features = [3, 0, 1]
    for (i, j), ax in np.ndenumerate(axes):
        assert ax.axison == (i >= j)
        if i == j:
            margin = mixture.marginal(features[i])
            curve, *parts = ax.get_lines()
            np.testing.assert_allclose(curve.get_ydata(), margin.pdf(curve.get_xdata()), rtol=1e-12)
            for part, weight, mean, covariance in zip(
                parts, mixture.weights, mixture.means, mixture.covariances_dense, strict=True
            ):
                at = features[i]
                share = weight * stats.norm.pdf(part.get_xdata(), mean[at], np.sqrt(covariance[at, at]))
                np.testing.assert_allclose(part.get_ydata(), share, rtol=1e-9, atol=1e-300)
            heights = [bar.get_height() * bar.get_width() for bar in ax.patches]
            assert sum(heights) == pytest.approx(1.0) and len(heights) == 40
        elif i > j:
            np.testing.assert_array_equal(clouds(ax)[0].get_offsets(), points[:, [features[j], features[i]]])
            np.testing.assert_allclose(
                [e.center for e in ellipses(ax)[::2]], mixture.means[:, [features[j], features[i]]]
            )
            assert ax.get_xlim() == axes[j, j].get_xlim() and ax.get_ylim() == axes[i, i].get_xlim()
    assert [ax.get_xlabel() for ax in axes[2]] == ["d", "a", "b"]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["", "a", "b"]
    assert texts(axes[0, 2].get_legend())[-1] == "500 points"
    assert fits_its_page(axes[0, 0].figure)


def test_a_corner_plot_colours_labelled_points_and_takes_axes():
    mixture = many(2, d=2)
    points, labels = mixture.rvs(60, 0, return_labels=True)
    _, axes = pyplot.subplots(2, 2)
    assert plots.pairs(mixture, points, labels, ax=axes) is axes
    for c, cloud in enumerate(clouds(axes[1, 0])):
        np.testing.assert_array_equal(cloud.get_offsets(), points[labels == c])
    one = plots.pairs(mixture, dims=1)
    assert one.shape == (1, 1) and not one[0, 0].patches and one[0, 0].get_legend() is None
    assert one[0, 0].get_xlabel() == "feature 1"
    assert fits_its_page(plots.pairs(many(12, d=2))[0, 0].figure)


TABLE = {
    "n_components": [1, 2, 3, 1, 2, 3, 1, 2, 3],
    "covariance_type": ["full"] * 3 + ["tied"] * 3 + ["EII"] * 3,
    "bic": [30.0, 10.0, np.nan, 29.0, 12.0, 11.0, np.nan, np.nan, np.nan],
    "aic": [28.0, np.inf, 5.0, 27.0, 11.0, 10.0, np.nan, np.nan, np.nan],
    "converged": [True, True, False, True, False, True, False, False, False],
}


def lines_of(ax):
    return {line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")}


@pytest.mark.parametrize("wrap", [dict, pd.DataFrame])
def test_criteria_are_lines_by_structure(wrap):
    _, ax = pyplot.subplots()
    assert plots.criteria(wrap(TABLE), ax=ax) is ax
    lines = lines_of(ax)
    assert list(lines) == ["full", "tied", "lowest", "not converged"]
    np.testing.assert_array_equal(lines["full"].get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(lines["full"].get_ydata(), [30, 10, np.nan])
    assert (lines["lowest"].get_xdata()[0], lines["lowest"].get_ydata()[0]) == (2, 10)
    assert ax.get_title() == "BIC: lowest with 2 components, full" and ax.get_ylabel() == "BIC (lower is better)"
    hollow = [line for line in ax.get_lines() if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
    assert [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in hollow] == [([2], [12.0])]
    assert lines["full"].get_color() == COLOURS[0] and lines["tied"].get_color() == COLOURS[1]


def test_several_criteria_stand_side_by_side():
    axes = plots.criteria(TABLE, ["bic", "aic"])
    assert [ax.get_title() for ax in axes] == [
        "BIC: lowest with 2 components, full",
        "AIC: lowest with 3 components, full",
    ]
    assert axes[0].get_legend() is None and texts(axes[1].get_legend())[:2] == ["full", "tied"]
    np.testing.assert_array_equal(lines_of(axes[1])["full"].get_ydata(), [28, np.nan, 5])  # left out, as it is infinite
    assert axes[0].get_ylim() == axes[1].get_ylim()
    given = pyplot.subplots(1, 2)[1]
    assert plots.criteria(TABLE, ("aic", "bic"), ax=given) is given and given[1].get_title().startswith("BIC")
    assert fits_its_page(axes[0].figure)


def test_of_equal_models_the_first_is_named():
    table = {"n_components": [1, 1], "covariance_type": ["full", "tied"], "bic": [7.0, 7.0 - 1e-12]}
    assert plots.criteria(table).get_title() == "BIC: lowest with 1 component, full"
    assert plots.criteria(table, title="mine").get_title() == "mine"


def test_criteria_of_an_estimator():
    found = GaussianMixtureIC((1, 3), covariance_type=["full", "EEI"], random_state=0).fit(
        make_mixture("full").rvs(200, 0)
    )
    lines = lines_of(plots.criteria(found.results_, "icl"))
    for name in ("full", "EEI"):
        expected = found.results_["icl"][found.results_["covariance_type"] == name]
        np.testing.assert_array_equal(lines[name].get_ydata(), expected)
    assert [ax.get_title()[:3] for ax in found.plot(["bic", "aic"])] == ["BIC", "AIC"]


def climb(*heights, outcome="converged"):
    return StartReport(heights[-1] if heights else -np.inf, heights, len(heights), len(heights), 0.0, 0.1, outcome, "")


def report_of(starts, best):
    return FitReport(tuple(starts), best, None, "full", 1.0, 1.0, np.zeros(1))


def test_a_trace_is_every_starts_log_likelihoods():
    rows = make_mixture("full").rvs(200, 0)
    options = {"n_init": 3, "init_params": "random_from_data", "random_state": 0, "tol": 1e-5}
    gm = GaussianMixture(3, max_iter=500, **options).fit(rows)
    _, ax = pyplot.subplots()
    assert plots.trace(gm.fit_report_, ax=ax) is ax
    assert len(ax.get_lines()) == 3
    for index, (line, start) in enumerate(zip(ax.get_lines(), gm.fit_report_.starts, strict=True)):
        assert len(start.log_likelihoods) == start.iterations > 1
        np.testing.assert_array_equal(line.get_ydata(), start.log_likelihoods)
        np.testing.assert_array_equal(line.get_xdata(), np.arange(start.iterations) + 1)
        assert start.log_likelihoods[-1] == pytest.approx(start.log_likelihood, abs=1e-4)
        assert line.get_label() == f"start {index}{', kept' * (index == gm.fit_report_.best)}"
    best = ax.get_lines()[gm.fit_report_.best]
    assert list(best.get_ydata()) == gm.lower_bounds_
    assert best.get_linewidth() > ax.get_lines()[gm.fit_report_.best - 1].get_linewidth()
    assert texts(ax.get_legend())[0] == best.get_label()


def test_a_trace_tells_how_starts_ended():
    ends = [
        climb(-9.0, -5.0),
        climb(-8.0, outcome="failed"),
        climb(outcome="failed"),
        climb(-7.0, -3.0, outcome="max_iter"),
    ]
    ax = plots.trace(report_of(ends, 0))
    assert [line.get_label() for line in ax.get_lines()] == [
        "start 0, kept",
        "start 1, failed",
        "start 2, failed",
        "start 3, max_iter",
    ]
    assert [line.get_marker() for line in ax.get_lines()] == ["o", "x", "x", "o"]
    logs = plots.trace(report_of(ends, 0), scale="log")
    assert logs.get_yscale() == "log" and logs.get_ylabel() == "nats below the highest, -3"
    np.testing.assert_array_equal(logs.get_lines()[3].get_ydata(), [4.0, np.nan])
    np.testing.assert_array_equal(logs.get_lines()[0].get_ydata(), [6.0, 2.0])
    logs.figure.canvas.draw()
    long = plots.trace(report_of([climb(-1.0)] * 40, 17))
    assert len(texts(long.get_legend())) == 12 and texts(long.get_legend())[0] == "start 17, kept"
    assert fits_its_page(long.figure)


def test_starts_that_took_no_step_have_a_picture():
    rows = make_mixture("full").rvs(50, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gm = GaussianMixture(2, max_iter=0, n_init=2, random_state=0).fit(rows)
    for scale in ("linear", "log"):
        plots.trace(gm.fit_report_, scale=scale).figure.canvas.draw()


THREE = make_mixture("full", d=3)
BAD = {
    "dims must be from 0 to 2": lambda: plots.components(THREE, dims=(0, 3)),
    "dims must name two features, but got (0, 1, 2).": lambda: plots.classes(THREE, THREE.rvs(3), dims=(0, 1, 2)),
    "dims must name two features, but got 1.": lambda: plots.density(THREE, dims=1),
    "dims must name each feature once": lambda: plots.density(THREE, dims=(1, 1)),
    "dims must be from 0 to 0": lambda: plots.components(Mixture([1.0], [[0.0]], [1.0], "spherical")),
    "X must have shape (..., 3), features last, but got (5, 2).": lambda: plots.components(THREE, np.zeros((5, 2))),
    "X must have shape (n, 3), but got (3,).": lambda: plots.pairs(THREE, np.zeros(3)),
    "Input X contains infinity": lambda: plots.classes(THREE, np.full((2, 3), np.inf)),
    "names must name all 3 features, but there are 2.": lambda: plots.pairs(THREE, names=["a", "b"]),
    "labels must be whole numbers of shape (4,)": lambda: plots.classes(THREE, np.zeros((4, 3)), [0, 1]),
    "labels must be whole numbers of shape (2,)": lambda: plots.classes(THREE, np.zeros((2, 3)), [0.0, 1.0]),
    "labels must be from 0 to 2, the mixture's components, but one is 3.": lambda: plots.classes(
        THREE, np.zeros((2, 3)), [0, 3]
    ),
    "labels must be from 0 to 2, the mixture's components, but one is -1.": lambda: plots.pairs(
        THREE, np.zeros((2, 3)), [-1, 0]
    ),
    "labels are of points: give X too.": lambda: plots.pairs(THREE, labels=[0]),
    'kind must be "contours" or "surface"': lambda: plots.density(THREE, kind="bars"),
    'surface needs axes of projection="3d"': lambda: plots.density(THREE, kind="surface", ax=pyplot.subplots()[1]),
    "contours needs axes of the plane": lambda: plots.density(THREE, ax=pyplot.figure().add_subplot(projection="3d")),
    "A surface would hide points": lambda: plots.density(THREE, THREE.rvs(3), kind="surface"),
    "levels must be a number of contours": lambda: plots.density(THREE, levels=[0.0, 0.1]),
    "levels must be a number of contours, or densities above 0, but got 0.": lambda: plots.density(THREE, levels=0),
    "shares must be between 0 and 1": lambda: plots.density(THREE, shares=[0.5, 1.0]),
    "limits must be ((least, most), (least, most))": lambda: plots.density(THREE, limits=((0, 1), (1, 0))),
    "A function does not say where to look": lambda: plots.density(lambda points: points[:, 0]),
    "Which contours hold shares": lambda: plots.density(
        lambda points: points[:, 0], limits=((0, 1), (0, 1)), shares=[0.5]
    ),
    "target must return": lambda: plots.density(lambda points: points, limits=((0, 1), (0, 1))),
    "target must be finite and at least 0": lambda: plots.density(
        lambda points: -points[:, 0], limits=((0, 1), (0, 1))
    ),
    "ax must have shape (3, 3)": lambda: plots.pairs(THREE, ax=pyplot.subplots(2, 2)[1]),
    "criterion must be one of bic, aic, icl, heldout, but got 'bits'.": lambda: plots.criteria(TABLE, "bits"),
    "results has no column 'icl'": lambda: plots.criteria(TABLE, "icl"),
    "There is no value of 'heldout': rows are held out only": lambda: plots.criteria(
        TABLE | {"heldout": [np.nan] * 9}, "heldout"
    ),
    "ax must hold 2 axes, one for each criterion, but holds 3.": lambda: plots.criteria(
        TABLE, ["bic", "aic"], ax=pyplot.subplots(1, 3)[1]
    ),
    'scale must be "linear" or "log"': lambda: plots.trace(report_of([climb(-1.0)], 0), scale="square"),
}


@pytest.mark.slow
@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_drawn(message):
    with pytest.raises(ValueError) as caught:
        BAD[message]()
    assert str(caught.value).startswith(message)


def test_an_estimator_is_not_a_mixture():
    gm = GaussianMixture(2, random_state=0).fit(THREE.rvs(50, 0))
    for draw in (plots.components, plots.pairs, plots.density):
        with pytest.raises(TypeError, match="a GaussianMixture; pass its mixture_"):
            draw(gm)
    with pytest.raises(TypeError, match="a Mixture, but got a int"):
        plots.density(3)


def test_files_are_written_whole_or_not_at_all(tmp_path):
    ax = plots.components(THREE)
    path = plots.save(ax.figure, tmp_path / "a.png")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_mode & 0o444
    path.write_bytes(b"old")
    with pytest.raises(ValueError):
        plots.save(ax.figure, tmp_path / "a.nothing")
    ax.figure.savefig = lambda *_, **__: 1 / 0
    with pytest.raises(ZeroDivisionError):
        plots.save(ax.figure, path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"] and path.read_bytes() == b"old"


def test_public_names():
    assert plots.__all__ == ["classes", "components", "criteria", "density", "pairs", "save", "trace"]
    assert all(getattr(plots, name).__doc__.count(">>>") for name in plots.__all__)
