"""Processes of their own, for what happens once a process or is left to the next."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fastgmm

PACKAGE = Path(fastgmm.__file__).parent


def start(code, package, cache=None, preamble="", timeout=300, **environment):
    """Run `code` in a process of its own with the package that lies in `package`; the finished process."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "XDG_", "COV"))}
    variables |= {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
    variables |= {"NUMBA_CACHE_DIR": str(cache)} if cache else {}
    variables |= {name: value for name, value in environment.items() if value is not None}
    for name in [name for name, value in environment.items() if value is None]:
        variables.pop(name, None)
    command = [sys.executable, "-c", f"{preamble}\n{code}"]
    done = subprocess.run(command, env=variables, cwd=package, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done


def run(code, *arguments, **keywords):
    """The `result` and `folder` of a process that `start` starts."""
    return json.loads(start(f"{code}\nimport json\nprint(json.dumps([result, folder]))", *arguments, **keywords).stdout)


def machine_code(folder):
    """The files of compiled kernels in a folder, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*.nbc")}
