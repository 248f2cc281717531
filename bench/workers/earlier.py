"""fastgmm as it was: what the interpreter has installed instead of what stands beside these files."""

import sys
import sysconfig

# The checkout comes first in the path, for `bench`; what is imported from here on is the interpreter's own.
sys.path.insert(0, sysconfig.get_path("purelib"))

import fastgmm
from bench.client import ROOT
from bench.workers.fastgmm import Library

__all__ = ["Library"]

if fastgmm.__file__.startswith(str(ROOT / "fastgmm")):
    raise ImportError("this interpreter has no fastgmm of its own; install the earlier one there, not as editable")
