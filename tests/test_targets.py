"""Every kind of target and argument reaches the chain as the same kind of function."""

import math
import re

import numba
import numpy as np
import pytest

from fastgmm.kernels._jit import COMPILED
from fastgmm.kernels.chain import block_kernel
from fastgmm.math import exp, log
from fastgmm.mcmc import adapters, run, sample, targets
from fastgmm.mcmc.targets import make_target
from fastgmm.mixture import Mixture

compiled_only = pytest.mark.skipif(not COMPILED, reason="about compilation, which is off")


def evaluate(target, x, *args):
    return value_of(make_target(target, args), np.array(x, dtype=np.float64))


def value_of(made, x):
    """What a target says of one point."""
    return run.evaluate(made, x[None], str)[0]


@numba.njit
def scaled_sum(x, argument):
    return x[0] * argument


@numba.njit
def first_of(x, pair):
    return x[0] * pair[0] + pair[1]


@numba.njit
def total_of(x, array):
    total = x[0]
    for value in array.flat:
        total += value
    return total


@numba.njit
def corner_of(x, array):
    return x[0] + array[1, 2]


@pytest.mark.parametrize(
    "argument",
    [-3, 2**62, -2.5, np.int8(-7), np.uint64(2**63 + 2**20), np.float32(0.1), np.bool_(True), False],
    ids=repr,
)
def test_scalars_arrive(argument):
    expected = float(scaled_sum.py_func(np.array([2.0]), argument)) if COMPILED else 2.0 * float(argument)
    assert evaluate(scaled_sum, [2.0], argument) == pytest.approx(expected, rel=1e-15)


def test_complex_numbers_arrive():
    @numba.njit
    def modulus(x, z):
        return x[0] * abs(z)

    assert evaluate(modulus, [2.0], 3 + 4j) == 10.0
    assert evaluate(modulus, [2.0], np.complex64(3 + 4j)) == 10.0


DTYPES = [bool, np.int8, np.uint16, np.int64, np.uint64, np.float32, ">f8", ">i2"]
SHAPES = [(), (5,), (2, 3, 4), (2, 1, 3, 2), (0, 3)]


@pytest.mark.parametrize("dtype, shape", [(dtype, (2, 3)) for dtype in DTYPES] + [(float, shape) for shape in SHAPES])
def test_arrays_arrive(dtype, shape):
    array = np.asarray(np.random.default_rng(0).random(shape) * 100).astype(dtype)
    if not COMPILED and array.dtype.kind == "b":
        pytest.skip("plain Python adds bools as NumPy does")
    assert evaluate(total_of, [1.0], array) == pytest.approx(1.0 + array.astype(float).sum(), rel=1e-12)


@pytest.mark.parametrize(
    "arrange", [np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2], lambda a: a[::-1][::-1]]
)
def test_arrays_in_any_order_arrive(arrange):
    array = np.arange(12.0).reshape(3, 4)
    assert evaluate(corner_of, [1.0], arrange(array)) == 1.0 + array[1, 2]


def test_read_only_arrays_arrive():
    array = np.arange(12.0).reshape(3, 4)
    array.flags.writeable = False
    assert evaluate(corner_of, [1.0], array) == 7.0


def test_nested_tuples_arrive():
    @numba.njit
    def nested(x, first, second):
        (a, b), c = first
        return x[0] + a * b[1] + c.sum() + second

    first = ((2, np.array([1.0, 10.0])), np.arange(6, dtype=np.float32).reshape(2, 3))
    assert evaluate(nested, [0.5], first, True) == 0.5 + 20.0 + 15.0 + 1.0
    assert evaluate(first_of, [2.0], (3.0, 4.0)) == 10.0


def test_large_arrays_are_shared_and_not_copied():
    data = np.zeros(100_000)
    made = make_target(total_of, (data,))
    data[-1] = 5.0
    assert value_of(made, np.ones(1)) == 6.0
    assert made.words.size <= 2


def test_the_arrays_are_kept_alive():
    made = make_target(total_of, (np.full((200, 300), 2)[:, ::2],))
    rubbish = [np.full((200, 150), 7) for _ in range(20)]
    assert value_of(made, np.zeros(1)) == 60_000 and len(rubbish) == 20


@compiled_only
def test_one_kernel_serves_every_target():
    start = np.zeros(1)
    for argument in (1.0, 2, (np.ones(3), 4)):

        @numba.njit
        def log_density(x, anything):
            return -x[0] * x[0]

        sample(log_density, start, 2, args=(argument,), chains=1, warmup=0)
    sample(Mixture([1.0], [[0.0]], [[[1.0]]]), start, 2, chains=1, warmup=0)
    assert len(block_kernel().signatures) == 1


@compiled_only
def test_the_adapter_is_compiled_once_for_equal_types():
    first = make_target(total_of, (np.zeros(3),))
    second = make_target(total_of, (np.ones(5),))
    assert first.compiled(1) is second.compiled(1)
    assert value_of(second, np.zeros(1)) == 5.0


@compiled_only
def test_what_is_compiled_already_is_not_compiled_again():
    @numba.njit
    def density(x):
        return -x[0]

    assert evaluate(density, [2.0]) == -2.0 and not density.signatures  # but without what a call from Python needs
    assert density(np.array([3.0])) == -3.0
    targets._without_wrappers.cache_clear()
    assert make_target(density, ()).compiled(1).keep[1] is density


def test_default_arguments_and_declared_signatures_work():
    @numba.njit
    def with_default(x, scale=3.0):
        return x[0] * scale

    @numba.njit("float64(float64[:], int64)")
    def declared(x, power):
        return x[0] ** power

    @numba.njit
    def any_number(x, scale, *pairs):
        return x[0] * scale + pairs[0][0] * pairs[1][1]

    assert evaluate(with_default, [2.0]) == 6.0
    assert evaluate(declared, [2.0], 3) == 8.0
    assert evaluate(any_number, [2.0], 3, (4, 5.0), (6.0, 7)) == 34.0


@compiled_only
def test_a_declared_signature_that_does_not_fit_is_refused():
    @numba.njit("float64(float64[:], int64)")
    def declared(x, power):
        return x[0] ** power

    with pytest.raises(TypeError, match="'declared' does not compile"):
        make_target(declared, (np.zeros(3),))


@numba.njit(error_model="numpy")
def smooth(x, scale):
    return log(exp(-scale * x[0] * x[0]) + exp(x[1] - 1.0) / 3.0)


@numba.njit(error_model="numpy")
def of_the_c_library(x, scale):
    return math.log(math.exp(-scale * x[0]) + x[1] * x[1])


@numba.njit(fastmath=True)
def reordered(x, scale):
    total = 0.0
    for i in range(len(x)):
        total += (x[i] - 0.1 * i) * scale
    return total


@numba.njit
def long_sum(x, scale):
    return x.sum() / scale


@compiled_only
@pytest.mark.parametrize("density, d", [(smooth, 2), (of_the_c_library, 2), (reordered, 16), (long_sum, 40)])
def test_a_point_has_the_same_density_in_any_company(density, d):
    made = make_target(density, (0.7,))
    points = np.random.default_rng(0).normal(size=(41, d))
    alone = [value_of(made, point) for point in points]
    for n in (2, 8, 16, 41):
        assert run.evaluate(made, points[:n], str).tolist() == alone[:n]


@compiled_only
def test_a_density_of_one_point_runs_in_vectors_unless_its_arithmetic_may_be_reordered():
    code = {density: make_target(density, (0.7,)).compiled(2).keep[0].get_llvm_str() for density in (smooth, reordered)}
    assert "x double>" in code[smooth] and not re.search("call i32 @.*smooth", code[smooth])
    assert re.search("call i32 @.*reordered", code[reordered])


def test_integers_are_numbers():
    @numba.njit
    def integer(x):
        return -2

    assert evaluate(integer, [1.0]) == -2.0


@pytest.mark.parametrize(
    "value, said",
    [("x", "index the array"), ("None", "return statement"), ("x[0] + 1j", "real part"), ("x[0] > 0", "bool")],
)
def test_what_is_not_a_real_number_is_refused(value, said):
    namespace = {}
    exec(f"def log_density(x):\n    return {value}\n", namespace)
    target = numba.njit(namespace["log_density"])
    with pytest.raises((TypeError, ValueError)) as caught:
        sample(target, np.zeros(2), 5)
    assert "'log_density' must return one real number" in str(caught.value)
    assert said in str(caught.value) or not COMPILED


@compiled_only
def test_a_path_without_return_is_refused():
    @numba.njit
    def forgetful(x):
        if x[0] > 0:
            return -x[0]

    with pytest.raises(TypeError, match=r"must return one real number but returns .*return statement is missing"):
        make_target(forgetful, ())


@compiled_only
def test_plain_functions_are_compiled_and_that_is_said(caplog, monkeypatch):
    monkeypatch.setattr(targets, "_told", False)

    def log_density(x):
        return -x[0]

    def another(x):
        return -x[0]

    with caplog.at_level("INFO", logger="fastgmm"):
        made = make_target(log_density, ())
        assert make_target(log_density, ()).compiled(1) is made.compiled(1)
        make_target(another, ())
    assert value_of(made, np.ones(1)) == -1.0
    said = "is a plain Python function and was compiled with numba.njit; so will be others."
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", f"The log-density 'log_density' {said}"),  # which is seen also where logging is not set up
        ("INFO", f"The log-density 'another' {said}"),
    ]


@compiled_only
def test_what_numba_cannot_compile_is_refused():
    class Model:
        def __call__(self, x):
            return -x[0]

    with pytest.raises(TypeError, match="'Model' is of type Model, which Numba does not compile"):
        make_target(Model(), ())


@pytest.mark.parametrize("target", [None, 3.0, "density"])
def test_what_cannot_be_called_is_refused(target):
    with pytest.raises(TypeError, match=r"must be a function of a 1-D array or a Mixture"):
        make_target(target, ())


@compiled_only
def test_a_function_that_does_not_compile_is_explained_in_a_paragraph():
    @numba.njit
    def unknown_name(x):
        return -x[0] * undefined_constant  # noqa: F821

    @numba.njit
    def unknown_attribute(x):
        return np.linalg.no_such_function(x)

    @numba.njit
    def wrong_types(x):
        return x[0] + "one"

    for target, reason in [
        (unknown_name, "undefined_constant"),
        (unknown_attribute, "no_such_function"),
        (wrong_types, "test_targets.py"),
    ]:
        with pytest.raises(TypeError) as caught:
            make_target(target, ())
        message = str(caught.value)
        assert f"'{target.__name__}' does not compile" in message and reason in message
        assert "\n" not in message and len(message) < 1000
        assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("density", "args", "vectorized", "said"),
    [
        (scaled_sum, (), False, r"takes \(x, argument\) but is called as scaled_sum\(x\), missing .*'argument'"),
        (scaled_sum, (1, 2), False, r"called as scaled_sum\(x, args\[0\], args\[1\]\), too many"),
        (scaled_sum, (1,), True, r"called as scaled_sum\(X, out, args\[0\]\), too many .*vectorized=True is for"),
    ],
)
def test_a_wrong_number_of_arguments_is_explained(density, args, vectorized, said):
    with pytest.raises(TypeError, match=said):
        make_target(density, args, vectorized)


@pytest.mark.parametrize(
    "argument, said",
    [
        ([1.0, 2.0], r"args\[0\] is a list"),
        ("text", r"args\[0\] is of type str"),
        ({"a": 1}, r"args\[0\] is of type dict"),
        (None, r"args\[0\] is of type NoneType"),
        (2**70, "64 bits"),
        ((1, [2]), r"args\[0\]\[1\] is a list"),
        (np.array(["a"]), "dtype <U1"),
        (np.array([None]), "dtype object"),
        (np.zeros(2, dtype=np.float16), "float16"),
        (np.zeros(2, dtype=[("a", float)]), "dtype"),
    ],
    ids=str,
)
def test_arguments_of_other_kinds_are_refused_by_name(argument, said):
    with pytest.raises(TypeError, match=said):
        make_target(scaled_sum, (argument,))


def test_args_must_be_a_tuple_and_not_go_to_a_mixture():
    with pytest.raises(TypeError, match="must be a tuple"):
        make_target(scaled_sum, 3.0)
    with pytest.raises(TypeError, match="Mixture target takes none"):
        make_target(Mixture([1.0], [[0.0]], [[[1.0]]]), (1,))


def covariances_of(structure, k, d, rng):
    roots = rng.normal(size=(k, d, d))
    full = roots @ roots.transpose(0, 2, 1) + 0.3 * np.eye(d)
    return {
        "full": full,
        "tied": full[0],
        "diag": rng.uniform(0.2, 3.0, size=(k, d)),
        "spherical": rng.uniform(0.2, 3.0, size=k),
    }[structure]


@pytest.mark.parametrize("structure", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("k, d", [(1, 1), (3, 2), (7, 5)])
def test_a_mixture_is_its_own_log_density(structure, k, d):
    rng = np.random.default_rng(k)
    weights = rng.dirichlet(np.ones(k))
    mixture = Mixture(weights, rng.normal(size=(k, d)), covariances_of(structure, k, d, rng), structure)
    points = np.concatenate([rng.normal(size=(20, d)) * 3, rng.normal(size=(5, d)) * 1e6])
    values = [evaluate(mixture, point) for point in points]
    np.testing.assert_allclose(values, mixture.logpdf(points), rtol=1e-11)


def test_a_mixture_far_away_is_minus_infinity_and_not_nan():
    mixture = Mixture([0.5, 0.5], [[0.0], [1.0]], [[[1.0]], [[2.0]]])
    assert evaluate(mixture, [1e200]) == -math.inf


def test_arguments_are_spelt_in_words():
    data = np.arange(6.0).reshape(2, 3)
    values = (True, -1, 2.5, np.float32(0.5), 1.0 + 2.0j, (3, data))
    words = list(adapters._words(values))
    one, minus_two = np.array([1.0, 2.0]).view(np.uint64)
    assert words[:2] == [1, 2**64 - 1]
    assert words[2:4] == [int(np.float64(x).view(np.uint64)) for x in (2.5, 0.5)]
    assert words[4:6] == [int(one), int(minus_two)]
    assert words[6:] == [3, data.ctypes.data, 2, 3]
    packed = adapters.pack_arguments(values)
    assert packed.dtype == np.int64 and packed.view(np.uint64).tolist() == words


def test_refusals_of_the_compiler_become_one_paragraph():
    wall = "Failed in nopython mode pipeline (step: frontend)\n\x1b[1mNo implementation of function f\x1b[0m\n"
    message = targets._compile_message("density", TypeError(wall + "x " * 900 + '\nFile "model.py", line 7:\n'))
    assert "'density' does not compile" in message and "line 7 of model.py" in message
    assert "No implementation of function f" in message and message.endswith("...")
    assert "\n" not in message and "\x1b" not in message and "pipeline" not in message


@pytest.mark.parametrize(
    ("returned", "hint"),
    [("none", "return statement"), ("array(float64, 1d, C)", "sum or index"), ("OptionalType(float64)", "some path")],
)
def test_what_a_density_returns_instead_is_named(returned, hint):
    message = targets._return_message("density", returned)
    assert hint in message and not message.endswith("?.")
