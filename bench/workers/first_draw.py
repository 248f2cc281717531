"""Seconds until the first draws of a density that this process has never seen: `python -m bench.workers.first_draw`."""

import json
import math
import time

import numba
import numpy as np


@numba.njit
def _two_modes(x):
    """The article's density, as a reader of it would write it."""
    u, v = x[0] + 1.0, x[1] + 1.0
    first = 0.38 * math.exp(-0.5 * (u * u + 1.6 * u * v + v * v) / 0.36) / 0.6
    u, v = x[0] - 1.0, x[1] - 2.0
    second = 0.62 * math.exp(-0.5 * (0.64 * u * u - 1.2 * u * v + 2.25 * v * v) / 1.08) / math.sqrt(1.08)
    return math.log(first + second)


def main() -> None:
    """Import, then draw, and print how long each took."""
    began = time.perf_counter()
    from fastgmm import sample

    imported = time.perf_counter()
    sample(_two_modes, np.zeros(2), draws=1_000, thin=10, chains=1, warmup=0, seed=0, proposal_cov=np.eye(2))
    print(json.dumps({"import": imported - began, "first_draw": time.perf_counter() - imported}))


if __name__ == "__main__":
    main()
