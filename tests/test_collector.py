"""The garbage collector looks rarely while kernels compile, and as often as before afterwards."""

import gc
from types import SimpleNamespace

import pytest
from processes import run

from fastgmm.kernels import _collector

USUAL = 700, 11, 12
RARE = _collector._MANY, 11, 12


def ours():
    """A kernel of the library."""


def theirs():
    """A function that a user compiles."""


def compiling(function):
    return SimpleNamespace(data={"dispatcher": SimpleNamespace(py_func=function)})


@pytest.fixture
def rarely():
    before = gc.get_threshold()
    gc.set_threshold(*USUAL)
    yield _collector.RareCollections({ours})
    gc.set_threshold(*before)


def test_kernels_within_kernels_have_objects_collected_rarely(rarely):
    for function, threshold in ((theirs, USUAL), (ours, RARE), (theirs, RARE), (ours, RARE)):
        rarely.on_start(compiling(function))
        assert gc.get_threshold() == threshold
    for function, threshold in ((ours, RARE), (theirs, RARE), (ours, USUAL), (theirs, USUAL)):
        rarely.on_end(compiling(function))
        assert gc.get_threshold() == threshold


@pytest.mark.parametrize("threshold", [(0, 11, 12), (2 * _collector._MANY, 11, 12)])
def test_whoever_collects_more_rarely_or_not_at_all_goes_on_so(rarely, threshold):
    gc.set_threshold(*threshold)
    rarely.on_start(compiling(ours))
    assert gc.get_threshold() == threshold
    rarely.on_end(compiling(ours))
    assert gc.get_threshold() == threshold


def test_a_forked_child_collects_as_before_what_its_parent_compiled(rarely):
    rarely.on_start(compiling(ours))
    rarely.on_start(compiling(ours))
    rarely.forget()
    assert gc.get_threshold() == USUAL
    rarely.on_end(compiling(ours))
    assert gc.get_threshold() == USUAL


SEEN = """
import gc
from numba.core import event
from fastgmm.kernels import math

class Threshold(event.Listener):
    def on_start(self, event):
        seen.add(gc.get_threshold()[0])

    def on_end(self, event):
        pass

seen, folder = set(), None
event.register("numba:compile", Threshold())
gc.set_threshold(555)
math.log(1.0, 1.0)
result = [sorted(seen), gc.get_threshold()[0]]
"""


@pytest.mark.compiled
def test_it_is_so_when_a_kernel_is_compiled(kernels_only, tmp_path):
    assert run(SEEN, kernels_only, tmp_path)[0] == [[_collector._MANY], 555]
