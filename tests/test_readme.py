"""What the documents show runs: the README's Python blocks, and the examples in the docstrings."""

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastgmm

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCKS = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def python_blocks(text):
    """The Python blocks of a document, each with the number of its first line."""
    return [(text[: found.start(1)].count("\n") + 1, found.group(1)) for found in BLOCKS.finditer(text)]


def as_program(blocks):
    """One program that runs the blocks in order and keeps the document's line numbers."""
    lines = []
    for line, block in blocks:
        lines += [""] * (line - 1 - len(lines)) + block.splitlines()
    return "\n".join(lines) + "\n"


def run_program(program, folder):
    """Run in a process of its own, as kernels of the reader's density need a file that stays."""
    path = folder / "README.py"
    path.write_text(program)
    search = os.pathsep.join(filter(None, [str(Path(fastgmm.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": search, "MPLBACKEND": "agg"}
    return subprocess.run([sys.executable, str(path)], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.compiled  # its chains are long for plain Python
@pytest.mark.skipif(not README.exists(), reason="there is no README.md beside the tests")
def test_readme_runs(tmp_path):
    blocks = python_blocks(README.read_text(encoding="utf-8"))
    assert blocks, "README.md shows no Python"
    run = run_program(as_program(blocks), tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_wrong_readme_fails(tmp_path):
    document = "# Title\n\n```python\nx = 1\n```\ntext\n```python\nassert x == 2\n```\n```sh\nno Python\n```\n"
    blocks = python_blocks(document)
    assert [line for line, _ in blocks] == [4, 8]
    run = run_program(as_program(blocks), tmp_path)
    assert run.returncode != 0 and "line 8" in run.stderr and "assert x == 2" in run.stderr


FOUND = pkgutil.walk_packages(fastgmm.__path__, "fastgmm.")
MODULES = ["fastgmm", *(module.name for module in FOUND if "__main__" not in module.name)]


# Chains are long for plain Python.
CHAINS = ("fastgmm.mcmc", "fastgmm.testing", "fastgmm.math")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.compiled] * name.startswith(CHAINS)) for name in MODULES]
)
def test_docstring_examples(name, tmp_path, monkeypatch):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.startswith("fastgmm"):
            raise
        pytest.skip(f"{error.name} is not installed")
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


@pytest.mark.parametrize("name", ["fastgmm", "fastgmm.mcmc", "fastgmm.math"])
def test_public_names_have_examples(name):
    """Every public class and function shows how it is used."""
    finder = doctest.DocTestFinder(recurse=False)
    module = importlib.import_module(name)
    public = [getattr(module, exported) for exported in module.__all__]
    shown = [thing for thing in public if not (isinstance(thing, type) and issubclass(thing, (Exception, Warning)))]
    assert len(shown) >= 3
    for thing in shown:
        assert any(found.examples for found in finder.find(thing)), thing
