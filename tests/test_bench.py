"""The benchmark's parts that measure nothing: tables, report, peers left out, limits, comparison with a baseline."""

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
if not (ROOT / "bench").is_dir():
    pytest.skip("there is no bench beside the tests", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from bench import chunks, compare, grid, limits, measure, panel, peers, report, sampling, tables  # noqa: E402
from bench.__main__ import _measured_before, _parse  # noqa: E402
from bench.client import Pool, Task, Worker, WorkerError  # noqa: E402
from bench.densities import DENSITIES  # noqa: E402
from bench.problems import PROBLEMS, Problem, dense_covariances, make_rows, make_start  # noqa: E402
from bench.workers import Run  # noqa: E402

pytestmark = pytest.mark.compiled  # workers are measured, and interpreted ones take long to say nothing

STRUCTURES = peers.ALL_STRUCTURES
SMALL = Problem("S", 400, 3, 2, "full")


def peer_times(seconds, version="1.0"):
    reference = [0.2, 0.4]
    return {"version": version, "log_likelihood": -1.0, "iterations": 3, **measure.summarise(reference, seconds)}


def stored_row(name="W", features=16, with_onedal=True):
    found = {"scikit-learn": peer_times([0.2, 0.4]), "fastgmm": peer_times([0.02, 0.02])}
    skipped = {}
    if with_onedal:
        found["oneDAL"] = peer_times([0.08, 0.1])
    else:
        skipped["oneDAL"] = "offers full and diag only"
    return {
        "problem": vars(Problem(name, 1_000_000, features, 4, "full")),
        "threads": 1,
        "peers": found,
        "limit": {"dgemm": [256e9, 256e9], "exp": [1e9, 1e9], **measure.summarise([0.2, 0.4], [0.01, 0.015])},
        "skipped": skipped,
    }


@pytest.fixture
def results():
    machine = {
        "processor": "P",
        "vector_bits": 256,
        "python": "3.11",
        "versions": {"numpy": "2", "fastgmm": "not installed"},
        "date": "D",
    }
    return {
        "machine": machine,
        "threads": 1,
        "rounds": 2,
        "notes": {"scikit-learn": "", "fastgmm": "", "oneDAL": "through daal4py"},
        "agreements": {"scikit-learn": 1e-9, "fastgmm": 1e-9, "oneDAL": 1e-4},
        "skipped": {"gmmx": "no interpreter found"},
        "rows": [stored_row("W1"), stored_row("W2", features=8, with_onedal=False)],
    }


def cells(text, line):
    return [cell.strip() for cell in text.splitlines()[line].strip("|").split("|")]


def test_iterations_table(results):
    text = tables.iterations_table(results)
    assert len({line.count("|") for line in text.splitlines()}) == 1
    # Medians of the rounds' ratios: 10 and 20 times scikit-learn, 4 and 5 times oneDAL, 1/2 and 3/4 of the limit;
    # 2 n k d² / time is 102.4 GFLOP/s, two fifths of dgemm's 256.
    assert cells(text, 2)[5:] == ["300", "20", "15.0", "4.5", "62 %", "40 %"]
    assert cells(text, 3)[5:] == ["300", "20", "15.0", tables.NOTHING, "62 %", tables.NOTHING]


def test_peers_table_and_reasons(results):
    text = tables.peers_table(results)
    assert cells(text, 0)[5:] == ["fastgmm", "oneDAL (float32)"]  # by its coarser agreement
    assert cells(text, 2)[5:] == ["15.0", "3.2"] and cells(text, 3)[5:] == ["15.0", tables.NOTHING]
    assert tables.skipped_list(results).splitlines() == [
        "- oneDAL, W2: offers full and diag only",
        "- gmmx: no interpreter found",
    ]


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (tables.milliseconds, 0.0009741, "0.974"),
        (tables.milliseconds, 1.2345, "1,234"),
        (tables.times, 0.456, "0.46"),
        (tables.times, 123.4, "123"),
        (tables.times, None, tables.NOTHING),
        (tables.percent, 0.605, "60 %"),
        (tables.mebibytes, 64 * 2**20, "64"),
        (tables.mebibytes, 2**19, "0.5"),
    ],
)
def test_numbers(write, value, text):
    assert write(value) == text


def fits_results(results):
    times = {
        "scikit-learn": measure.summarise([2.0, 4.0], [2.0, 4.0]),
        "fastgmm": measure.summarise([2, 4], [0.2, 0.2]),
    }
    rows = []
    for row in results["rows"]:
        fit = copy.deepcopy(times)
        fit["scikit-learn"]["scores"], fit["fastgmm"]["scores"] = [-3.0, -3.0], [-3.0, -2.5]
        variants = {"plain": times["scikit-learn"], "2 threads": times["fastgmm"], "prior": times["scikit-learn"]}
        rows.append(
            {
                "problem": row["problem"],
                "fit": fit,
                "predictions": {"predict": times},
                "variants": variants,
                "types": {"float64": times["scikit-learn"], "float32": times["fastgmm"]},
            },
        )
    return {"machine": results["machine"], "rounds": 2, "rows": rows}


def memory_results(results):
    taken = {"scikit-learn": {"fit": 500 * 2**20}, "fastgmm": {"fit": 9 * 2**20}}
    rows = [{"problem": row["problem"], "bytes": taken} for row in results["rows"]]
    return {"machine": results["machine"], "threads": 1, "rows": rows}


def test_report_has_every_part(results):
    two = copy.deepcopy(results) | {"threads": 2}
    other = copy.deepcopy(results) | {"machine": results["machine"] | {"processor": "Q"}}
    stored = {
        "1-thread": results,
        "2-threads": two,
        "fits": fits_results(results),
        "memory": memory_results(results),
    }
    elsewhere = {"1-thread": other, "2-threads": other | {"threads": 2}, "fits": fits_results(other)}
    text = report.make_report(stored, elsewhere, chart="bench/charts/speed.png")
    for part in (
        "(bench/charts/speed.png)",
        "256.0 GFLOP/s",
        "1.00 ns",
        "oneDAL 1.0: through daal4py; log-likelihoods agreeing to 0.0001",
        "EM iterations on 2 threads<",
        "EM iterations, Q with vectors of 256 bits<",
        "EM iterations on 2 threads, Q with vectors of 256 bits<",
        "Whole fits, Q with vectors of 256 bits<",
        "Predictions, and float32 rows, Q with vectors of 256 bits<",
        "ns (`bench/limits.py`). Q with vectors of 256 bits; Python",
        "+0.0000 to +0.5000",
        "largest is 9.0 MiB",
    ):
        assert part in text, part
    gain = cells(tables.threads_table(two, fits_results(results)), 2)[-1]
    assert gain == "15.0"
    assert cells(tables.options_table(fits_results(results)), 2)[-3:] == ["–", "1.00", "–"]
    assert "not installed" not in text


def sampling_results(results, threads):
    def row(chains, **samplers):
        found = {name: {"nanoseconds": times} for name, times in samplers.items()}
        entry = {"density": "the plane", "chains": chains, "samplers": found, "effective_per_step": 0.25}
        return entry | {"versions": dict.fromkeys(found, "1.0")}

    many = {"fastgmm, Mixture": [10.0, 5.0, 6.0], "emcee": [400.0]}
    rows = [row(1, **{"fastgmm, Mixture": [50.0]}), row(1_024, **many)]
    first = {"first_draw": {"first_draw": [0.3, 0.1, 0.2]}} if threads == 1 else {}
    return {"machine": results["machine"], "threads": threads, "rounds": 3, "rows": rows, **first}


def test_samplers_are_reported(results):
    stored = {f"sampling-{n}": sampling_results(results, t) for n, t in (("1-thread", 1), ("2-threads", 2))}
    text = report.make_report({"1-thread": results, **stored})
    sentence = "with 1,024 chains on 1 thread, a step of a chain on the plane, takes 6 ns (Mixture); emcee 400 ns."
    for part in (
        sentence,
        "0.20 s",
        "Samplers on 2 threads",
        "emcee 1.0. P with vectors of 256 bits; Python 3.11, numpy 2; D.",
    ):
        assert part in text, part
    assert "calls included, medians of 3" in text
    stored["sampling-1-thread"]["of_steps_alone"] = True
    text = report.make_report({"1-thread": results, **stored})
    assert "what a long walk takes more than a short one, medians of 3" in text
    single = stored["sampling-1-thread"]
    assert [cells(tables.sampling_table(single), line)[2:] for line in (2, 3)] == [["50", "–"], ["6", "400"]]
    assert cells(tables.effective_table(single), 3)[2:] == ["41,666,667", "625,000"]


def test_chains_about_another_mean_are_refused():
    density = DENSITIES["the article's, 2-D"]()
    mean = density.weights @ density.means
    sampling._check_mean("a sampler", mean + 0.1, density, 1_024)
    with pytest.raises(measure.Disagreement, match="a sampler: the chains' mean"):
        sampling._check_mean("a sampler", mean + 0.5, density, 1_024)


def test_what_a_walk_costs_besides_its_steps_is_left_out(monkeypatch):
    density = DENSITIES["the article's, 2-D"]()

    class Clockwork:
        """A library whose calls take 50 ms and whose steps take 1 µs."""

        def __init__(self, peer, python, threads):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            pass

        def ask(self, question, steps=0, **options):
            return {"seconds": 0.05 + 4e-6 * steps, "accepted": 0.5, "mean": density.weights @ density.means}

    monkeypatch.setattr(sampling, "Worker", Clockwork)
    monkeypatch.setattr(sampling, "find_interpreter", lambda peer, given: "python")
    monkeypatch.setattr(sampling, "effective_draws_per_step", lambda density: 0.01)
    row = sampling.measure_sampling("the article's, 2-D", 4, 1, 2)
    assert len(row["samplers"]) == len(sampling.SAMPLERS) - 1  # the loop in Python walks one chain
    for entry in row["samplers"].values():
        np.testing.assert_allclose(entry["nanoseconds"], 1_000.0)


def panel_results(results, theirs, ours):
    row = {"problem": vars(PROBLEMS[0]), "scores": {"scikit-learn": theirs, "fastgmm": ours, "fastgmm, whitened": ours}}
    return {"machine": results["machine"], "seeds": len(theirs), "rows": [row]}


def leaps_results(results):
    times = {"plain": measure.summarise([2.0, 4.0], [2.0, 4.0]), "squarem": measure.summarise([2.0, 4.0], [0.5, 1.0])}
    row = {"problem": vars(PROBLEMS[0]), "passes": {"plain": 1000, "squarem": 100}, "times": times}
    return {"machine": results["machine"], "rounds": 2, "rows": [row]}


def test_report_has_an_earlier_version(results):
    beside = copy.deepcopy(results) | {"rounds": 3}
    for row in beside["rows"]:
        row["peers"] = {name: row["peers"][name] for name in ("scikit-learn", "fastgmm")}
        row["peers"]["earlier"] = peer_times([0.02, 0.05])
    text = report.make_report({"1-thread": results, "earlier": beside})
    assert "Plain fits, beside an earlier version" in text and "medians of 3" in text
    assert "35 | 20 | 0.70 |" in text and "earlier" not in report.make_report({"1-thread": results})


def test_report_has_starts_and_leaps(results):
    level = panel_results(results, [-3.0, -3.2], [-3.0, -3.0])
    text = report.make_report({"1-thread": results, "panel": level, "leaps": leaps_results(results)})
    assert "-3.1000 ± 0.1000 | +0.1000 ± 0.0000" in text and "On none does" in text
    assert "1,000 | 100 | 3,000 | 750 | 4.0 |" in text


@pytest.mark.parametrize("ours, below", [(-3.1, False), (-3.19, False), (-3.21, True)])
def test_lower_is_by_more_than_the_standard_error(results, ours, below):
    found = tables.below_reference(panel_results(results, [-3.0, -3.2], [ours, ours]))
    assert found == ["W1"] * below


def test_problems_of_the_panel_are_ten_and_the_same_in_every_run():
    assert len({kind.problem.name for kind in panel.PANEL}) == 10
    small = dataclasses.replace(panel.PANEL[7], problem=Problem("p", 40, 3, 4, "diag"))
    np.testing.assert_array_equal(panel.draw_rows(small), panel.draw_rows(small))
    assert panel.draw_rows(small).shape == (40, 3)
    assert not np.array_equal(panel.draw_rows(small, 1), panel.draw_rows(small))


def test_report_has_workers(results):
    seconds = {"cluster": [0.25, 0.2, 0.3], "memory": [0.2] * 3, "scheduling": [0.01] * 3}
    row = {"problem": vars(PROBLEMS[0]), "workers": 2, "partitions": 20, "seconds": seconds}
    found = {"machine": results["machine"], "rounds": 3, "rows": [row | {"efficiency": 0.8, "overhead": 0.04}]}
    text = report.make_report({"1-thread": results, "cluster": found})
    assert "| 2 | 250 | 200 | 80 % | 10 | 4 % |" in text and "in 20 partitions of" in text


@pytest.mark.compiled
@pytest.mark.slow
def test_workers_are_measured():
    pytest.importorskip("distributed")
    from bench import cluster

    row = cluster.measure_cluster(Problem("p", 20_000, 2, 2, "full"), 1, 1, 3)
    assert [len(row["seconds"][name]) for name in ("cluster", "memory", "scheduling")] == [2, 2, 2]
    assert row["efficiency"] > 0 and row["overhead"] > 0 and cluster.describe(row)


def test_starts_and_leaps_are_measured():
    small = dataclasses.replace(panel.SLOW[1], problem=Problem("p", 200, 2, 2, "full"))
    scores = panel.measure_starts(small, 2)["scores"]
    assert [len(each) for each in scores.values()] == [2, 2, 2] and np.ptp(list(scores.values())) < 0.1
    found = panel.measure_acceleration(small, 1)
    assert 0 < found["passes"]["squarem"] < found["passes"]["plain"]


def grid_results(results, ours):
    ways = {}
    for name, bics, seconds in ((grid.LOOP, [1_000.0, 1_002.0], [20.0, 30.0]), ("fastgmm", ours, [2.0, 2.0])):
        chosen = [{"n_components": 6 + at, "structure": "full", "bic": bic} for at, bic in enumerate(bics)]
        ways[name] = {"models": 40, "chosen": chosen, **measure.summarise([20.0, 30.0], seconds)}
    row = {"problem": vars(PROBLEMS[0]), "most": 10, "ways": ways}
    return {"machine": results["machine"], "seeds": 2, "rows": [row]}


@pytest.mark.parametrize("ours, verdict", [([1_003, 998], "None is higher"), ([1_003, 1_000], "loop's: fastgmm.")])
def test_report_has_the_grid(results, ours, verdict):
    text = report.make_report({"1-thread": results, "grid": grid_results(results, ours)})
    assert "| 40 | 25 | 1.0 | 6, 7 | 1,001 |" in text and "| fastgmm | 40 | 2 | 12.5 | 6, 7 | 1,00" in text
    assert verdict in text and "1 to 10 components to 1,000,000 rows" in text


def test_a_grid_is_measured():
    kind = dataclasses.replace(panel.PANEL[0], problem=Problem("g", 300, 2, 2, "full"))
    row = grid.measure_grid(grid.Grid(kind, 2), 2)
    ways = row["ways"]
    assert [way["models"] for way in ways.values()] == [8, 8, 8, 18]
    assert {len(way["chosen"]) for way in ways.values()} == {len(way["seconds"]) for way in ways.values()} == {2}
    assert {(best["n_components"]) for way in ways.values() for best in way["chosen"]} == {2}
    assert tables.mean_bic(ways["fastgmm"]) == pytest.approx(tables.mean_bic(ways[grid.LOOP]), abs=0.2)
    assert "18 models in" in grid.describe_grid(row)


def test_report_needs_iterations(results):
    with pytest.raises(ValueError, match="no EM iterations on one thread"):
        report.make_report({"memory": memory_results(results)})


def test_replace_report():
    text = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    assert report.replace_report(text, "new") == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    for wrong in ("", report.BEGIN, report.END + report.BEGIN, text + text):
        with pytest.raises(ValueError, match="expected one"):
            report.replace_report(wrong, "new")


def test_report_is_written(results, tmp_path):
    pytest.importorskip("matplotlib").use("agg")
    folder, readme, chart = tmp_path / "results", tmp_path / "README.md", tmp_path / "charts" / "speed.png"
    folder.mkdir()
    (folder / "full-1-thread.json").write_text(json.dumps(results))
    (folder / "quick-1-thread.json").write_text("not read")
    other = folder / "other"
    other.mkdir()
    (other / "full-1-thread.json").write_text(json.dumps(results))
    readme.write_text(f"{report.BEGIN}\n{report.END}\n")
    report.write_report(folder, readme, chart)
    assert "(charts/speed.png)" in readme.read_text()
    assert "EM iterations, P with vectors of 256 bits" in readme.read_text()
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_readme_holds_what_is_stored():
    """Nothing in the README's report is typed: what is stored makes the same text."""
    stored = report.load_all(ROOT / "bench" / "results")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert report.replace_report(text, report.make_report(*stored, chart="bench/charts/speed.png")) == text


def test_operations_and_floor():
    full, tied, diag, spherical = (limits.least_operations(Problem("", 10, 4, 3, kind)) for kind in STRUCTURES)
    assert (full, tied, diag, spherical) == (2 * 10 * 3 * 16, 2 * 10 * 16 + 480, 960, 480)
    assert limits.floor_seconds(Problem("", 10, 4, 3, "full"), {"dgemm": 96.0, "exp": 3.0}) == 20.0


def test_interpreters_are_parsed(monkeypatch):
    found = peers.parse_interpreters(["onedal=/a/python", "gmmx=/b=c/python"])
    assert found == {"oneDAL": "/a/python", "gmmx": "/b=c/python"}
    for wrong in ("onedal", "nobody=/a"):
        with pytest.raises(ValueError, match="is not NAME=PATH"):
            peers.parse_interpreters([wrong])
    peer = peers.Peer("some-peer", "m", "no_such_module_anywhere")
    assert peers.find_interpreter(peer, {}) is None
    assert peers.find_interpreter(peer, {"some-peer": "/p"}) == "/p"
    monkeypatch.setenv(peers.environment_variable("some-peer"), "/q")
    assert peers.find_interpreter(peer, {}) == "/q"


def test_peers_are_chosen(monkeypatch):
    monkeypatch.setattr(peers, "find_interpreter", lambda peer, _: None if peer.name == "gmmx" else "python")
    everyone, skipped = peers.choose_peers(None, {})
    assert len(everyone) == len(peers.PEERS) - 1 and list(skipped) == ["gmmx"]
    few, skipped = peers.choose_peers(["onedal"], {})
    assert [peer.name for peer in few] == ["scikit-learn", "fastgmm", "oneDAL"] and not skipped


def test_an_earlier_version_is_measured_where_its_interpreter_is_named(monkeypatch):
    monkeypatch.delenv("BENCH_PYTHON_EARLIER", raising=False)
    found, skipped = peers.choose_peers(None, {})
    assert peers.EARLIER not in [peer.name for peer in found] and peers.EARLIER not in skipped
    assert peers.EARLIER in peers.choose_peers([peers.EARLIER], {})[1]
    monkeypatch.setenv("BENCH_PYTHON_EARLIER", "/q")
    assert {peer.name: python for peer, python in peers.choose_peers([peers.EARLIER], {})[0].items()}["earlier"] == "/q"


@pytest.mark.parametrize("installed", [True, False])
def test_the_worker_of_an_earlier_version_takes_the_one_that_is_installed(tmp_path, installed):
    if installed:
        (tmp_path / "fastgmm").mkdir()
        (tmp_path / "fastgmm" / "__init__.py").write_text("class GaussianMixture: pass\n", encoding="utf-8")
    program = f"""
import sysconfig
sysconfig.get_path = lambda name: {str(tmp_path)!r}
from bench.workers import earlier
print(earlier.fastgmm.__file__)
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    if installed:
        assert run.stdout.strip() == str(tmp_path / "fastgmm" / "__init__.py")
    else:
        assert "has no fastgmm of its own" in run.stderr


def test_command_line_says_what_is_wrong(capsys):
    assert _parse(["run", "--quick"]).peers == []
    assert _parse(["run"]).rounds == 5 and _parse(["fits", "--quick"]).rounds == 2
    for arguments, words in [
        (["run", "--only", "W99"], "choose from W1"),
        (["run", "--peers", "nobody"], "armadillo"),
        (["run", "--peer-python", "nobody"], "NAME=PATH"),
        (["run", "--threads", "0"], "at least 1"),
    ]:
        with pytest.raises(SystemExit):
            _parse(arguments)
        assert words in capsys.readouterr().err


def test_every_peer_has_its_worker():
    for peer in (*peers.PEERS, peers.MACHINE):
        assert (ROOT / "bench" / "workers" / f"{peer.module}.py").is_file()


@pytest.mark.parametrize("structure", STRUCTURES)
def test_start_is_consistent(structure):
    problem = Problem("S", 60, 3, 2, structure)
    start = make_start(problem, make_rows(problem))
    covariances, precisions = (dense_covariances(v, problem) for v in (start.covariances, start.precisions))
    np.testing.assert_allclose(covariances @ precisions, np.broadcast_to(np.eye(3), (2, 3, 3)), atol=1e-12)


def test_log_likelihood_by_hand():
    rows = np.array([[0.0], [1.0]])
    run = Run(0.0, 1, np.array([0.5, 0.5]), np.array([[0.0], [1.0]]), np.ones((2, 1, 1)))
    expected = 2 * np.log(0.5 * (1 + np.exp(-0.5)) / np.sqrt(2 * np.pi))
    assert measure.log_likelihood(rows, run) == pytest.approx(expected, rel=1e-14)
    assert measure.agree(-100.0, -100.0 * (1 + 1e-10), 1e-9)
    assert not measure.agree(-100.0, -100.0 * (1 + 1e-8), 1e-9)
    assert not measure.agree(float("nan"), -100.0, 1.0)


class FakeWorker:
    """Iterations of 2 s after a second that every run takes, up to `most` iterations."""

    def __init__(self, most=10**9):
        self.most = most

    def iterate(self, n_iter):
        done = min(n_iter, self.most)
        return 1.0 + 2.0 * done, done


def test_seconds_per_iteration():
    assert measure.seconds_per_iteration(FakeWorker(), 4, 1.0) == 2.0
    assert measure.seconds_per_iteration(FakeWorker(most=3), 40, 1.0) == 2.0
    with pytest.raises(WorkerError, match="stops after 1 iterations"):
        measure.seconds_per_iteration(FakeWorker(most=1), 4, 1.0)
    assert measure.choose_iterations(FakeWorker(), 110.0) > 40
    assert measure.choose_iterations(FakeWorker(most=3), 110.0) == 2


def workers_for(agreeing, seconds, monkeypatch):
    """Pretend that every worker takes some seconds an iteration and ends where `agreeing` says."""

    class Pretender:
        def __init__(self, name):
            self.name = name

        def iterate(self, n_iter):
            return n_iter * seconds[self.name], n_iter

        def run(self, call, n_iter):
            return self.name

    monkeypatch.setattr(measure, "log_likelihood", lambda rows, name: agreeing[name])
    return {name: Pretender(name) for name in agreeing}


class NoRows:
    rows = ()


def test_peers_that_disagree_or_dawdle_are_left_out(monkeypatch):
    agreeing = {"scikit-learn": -10.0, "fastgmm": -10.0, "oneDAL": -10.001, "gmmx": -10.0001, "Armadillo": -10.0}
    seconds = dict.fromkeys(agreeing, 1.0) | {"Armadillo": 30.0}
    workers = workers_for(agreeing, seconds, monkeypatch)
    skipped = {}
    found = measure._prepare(workers, NoRows(), measure.Effort(1, 1.0, 20.0), skipped)
    assert set(found) == set(workers) == {"scikit-learn", "fastgmm", "gmmx"}  # gmmx is allowed float32's digits
    assert "-10.001" in skipped["oneDAL"] and "20 times" in skipped["Armadillo"]


def test_fastgmm_may_not_disagree(monkeypatch):
    workers = workers_for({"scikit-learn": -10.0, "fastgmm": -10.1}, {"scikit-learn": 1.0, "fastgmm": 1.0}, monkeypatch)
    with pytest.raises(measure.Disagreement, match="fastgmm: reached"):
        measure._prepare(workers, NoRows(), measure.Effort(1, 1.0, 20.0), {})


def test_worker_process_answers_and_reports_errors():
    with Task(SMALL) as task, Worker(peers.PEERS[0], sys.executable, 1) as worker:
        run = worker.take(task).run("iterate", n_iter=3)
        assert run.n_iter == 3 and run.seconds > 0.0 and run.covariances.shape == (2, 3, 3)
        assert np.isfinite(measure.log_likelihood(task.rows, run))
        with pytest.raises(WorkerError, match="no_such_method"):
            worker.ask("no_such_method")
        with pytest.raises(WorkerError, match="no answer within"):
            worker.ask("iterate", longest=0.01, n_iter=10**6)
        assert not worker.alive


def test_pool_says_who_is_left_out_and_keeps_its_processes():
    wrong = peers.Peer("wrong", "no_such_library", "x")
    choosy = peers.Peer("choosy", "scikit_learn", "sklearn", ("diag", "tied"))
    nowhere = peers.Peer("nowhere", "scikit_learn", "sklearn")
    python = dict.fromkeys((peers.PEERS[0], wrong, choosy), sys.executable) | {nowhere: "/no/such/python"}
    with Task(SMALL) as task, Pool(python, 1) as pool:
        skipped = {}
        first = pool.take(task, skipped)
        assert list(first) == ["scikit-learn"]
        assert "no_such_library" in skipped["wrong"] and "/no/such/python" in skipped["nowhere"]
        assert skipped["choosy"] == "offers diag and tied only"
        assert pool.take(task, {}) == first
        first["scikit-learn"].close()
        assert pool.take(task, {}) != first


def kernels(**ratios):
    def one(name, ratio):
        return {"name": name, "stats": {"min": 2.0 * ratio}, "extra_info": {"reference": 2.0}}

    return {"benchmarks": [one(name, ratio) for name, ratio in ratios.items()]}


def test_comparison_names_what_got_slower(tmp_path):
    baseline, first, second = (tmp_path / name for name in ("baseline.json", "first.json", "second.json"))
    first.write_text(json.dumps(kernels(a=1.0, b=1.0, c=1.0, gone=1.0)))
    said, slower = compare.compare_kernels([first], baseline, 1.25, save=True)
    assert said.startswith("4 kernels") and not slower
    first.write_text(json.dumps(kernels(a=1.5, b=1.5, c=0.5, fresh=1.0)))
    second.write_text(json.dumps(kernels(a=1.4, b=1.0, c=0.6)))  # b was slow by chance
    said, slower = compare.compare_kernels([first, second], baseline, 1.25, save=False)
    assert slower == {"a": 1.4}
    assert said.splitlines() == [
        "slower: a: 1.40 times the baseline's time",
        "faster: c: 2.00 times as fast",
        "new: fresh",
        "not measured: gone",
        "1 slower, 1 faster, 1 within 1.25 times of the baseline",
    ]


def test_comparison_needs_the_reference():
    measured = kernels(a=1.0)
    del measured["benchmarks"][0]["extra_info"]["reference"]
    with pytest.raises(ValueError, match="a has no reference"):
        compare.ratios_to_reference(measured)


def test_problems_are_named_once():
    assert len({problem.name for problem in PROBLEMS}) == len(PROBLEMS)


def test_problems_measured_again_join_those_of_the_same_conditions(results, tmp_path):
    path = tmp_path / "full-1-thread.json"
    path.write_text(json.dumps(results))
    machine = {**results["machine"], "date": "a day later"}
    now = {"machine": machine, "threads": 1, "rounds": 2, "notes": {"fastgmm": "new"}, "agreements": {}}
    kept = _measured_before(now, path, ["W2"])
    assert [row["problem"]["name"] for row in kept] == ["W1"]
    assert report._machine(results).endswith("; D.") and report._machine(now).endswith("; D to a day later.")
    assert now["notes"] == {"scikit-learn": "", "fastgmm": "new", "oneDAL": "through daal4py"}
    assert _measured_before({**now, "rounds": 3}, path, ["W2"]) == []
    assert _measured_before({**now, "machine": {**machine, "processor": "Q"}}, path, ["W2"]) == []
    assert _measured_before({**now, "machine": {**machine, "vector_bits": 512}}, path, ["W2"]) == []
    assert _measured_before(now, tmp_path / "none.json", ["W2"]) == []


def test_fits_of_a_file_are_compared_and_told(tmp_path, monkeypatch):
    seconds = {"in memory": 2.0, "mapped": 3.0, "in blocks": 2.5}
    answers = {
        way: {"seconds": {"1": {"iteration": each, "fit": 9.0}}, "anonymous": 2**20, "log_likelihood": -1.5}
        for way, each in seconds.items()
    }
    paths = []

    def answer(command, **_):
        paths.append(Path(command[4]))
        assert np.load(paths[-1], mmap_mode="r").shape == (1_100_000, chunks.FEATURES)
        return SimpleNamespace(stdout=json.dumps(answers[command[3]]))

    monkeypatch.setattr(chunks.subprocess, "run", answer)
    found = chunks.measure_chunks(1_100_000, [1], str(tmp_path))
    assert len(paths) == 3 and not paths[0].exists()
    lines = tables.chunks_table(found).splitlines()
    assert lines[0] == "|  | 1 thread, ns | times in memory | memory |"
    assert [line.split(" | ")[1:] for line in lines[2:]] == [
        ["1,818", "1.00", "1.0 |"],
        ["2,727", "1.50", "1.0 |"],
        ["2,273", "1.25", "1.0 |"],
    ]
    answers["mapped"]["log_likelihood"] = -1.6
    with pytest.raises(RuntimeError, match="different log-likelihoods"):
        chunks.measure_chunks(1_100_000, [1], str(tmp_path))
