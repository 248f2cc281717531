"""The Metropolis-Hastings loop of one chain."""

import functools
import math
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from fastgmm.kernels._jit import kernel, kernel_with_signature

# d dimensions, n kept draws

# The one type under which every log-density reaches the loop: `log_density(x, packed)`. A function type, not a
# dispatcher, because a kernel that takes a dispatcher is compiled anew in every process; an indirect call costs 5 ns.
LOG_DENSITY = types.FunctionType(types.float64(types.float64[::1], types.int64[::1]))

# The types under which densities and moves reach the loop over chains in lanes. Vectors of all lanes are feature-major:
# number j of lane i is at j * TILE_STRIDE + i. A group has at most TILE_ROWS lanes, so there is always room for eight
# more: a kernel may work on whole vectors up to the next multiple of eight lanes, and what it finds or leaves beyond
# the last lane does not count (but is no signalling trap: any float64).

# density(x, lanes, out, packed) sets out[i] to the log-density of lane i.
DENSITY = types.FunctionType(types.void(types.float64[::1], types.int64, types.float64[::1], types.int64[::1]))

# move(x, lanes, noise, candidate, log_q_ratio, work, packed) sets the candidates y and log q(x | y) - log q(y | x).
# Number j of the step's noise for lane i is at noise[j * TILE_STRIDE + i]: j < d are normals, from
# `numbers_per_step(d)` on the uniforms in (0, 1] that the move asked for. It leaves x and noise as they are.
_PLACES = types.float64[::1]
MOVE = types.FunctionType(types.void(_PLACES, types.int64, _PLACES, _PLACES, _PLACES, _PLACES, types.int64[::1]))

# Status of a block.
DONE = 0
INFINITE = 1

# Places in the tally of a chain.
STEP = 0  # steps begun since the chain started
ACCEPTED = 1
REJECTED_NAN = 2
REJECTED_OVERFLOW = 3  # candidates with a coordinate that is not finite
FIRST_NAN = 4  # step of the first NaN
UNTIL_KEPT = 5  # steps to go until the next kept draw
KEPT = 6  # draws kept
N_TALLIES = 7


class ChainState(NamedTuple):
    """What one chain carries from block to block, written in place."""

    position: np.ndarray  # (d,)
    log_density: np.ndarray  # (1,), at `position`
    candidate: np.ndarray  # (d,)
    scratch: np.ndarray  # (d,), the copy of the candidate that the density sees
    noise: np.ndarray  # (d,)
    first_nan: np.ndarray  # (d,), where the density was first NaN
    tally: np.ndarray  # (N_TALLIES,)


def new_state(start: np.ndarray, log_density: float, until_kept: int) -> ChainState:
    """Make the state of a chain at `start` that keeps its first draw after `until_kept` steps."""
    position = np.array(start, dtype=np.float64)
    tally = np.zeros(N_TALLIES, dtype=np.int64)
    tally[UNTIL_KEPT] = until_kept
    return ChainState(
        position=position,
        log_density=np.array([log_density], dtype=np.float64),
        candidate=position.copy(),
        scratch=position.copy(),
        noise=np.zeros_like(position),
        first_nan=np.full_like(position, np.nan),
        tally=tally,
    )


@kernel(flags=frozenset())  # not fused: NumPy's chain has the same bits
def add_product(total: float, a: float, b: float) -> float:
    """Add `a * b` with two roundings."""
    return total + a * b


@kernel
def accepts(uniform: float, log_ratio: float) -> bool:
    """Decide on a candidate: `log u < log p(candidate) - log p(position)`."""
    # 1 - u has the law of u but is never 0, whose logarithm Python refuses.
    return math.log(1.0 - uniform) < log_ratio


def run_block(
    log_density: Any,
    packed: np.ndarray,
    generator: Any,
    factor: np.ndarray,
    state: ChainState,
    steps: int,
    thin: int,
    draws: np.ndarray,
    log_densities: np.ndarray,
) -> int:
    """Take `steps` Metropolis-Hastings steps with normal random-walk candidates.

    Writes `state`, and rows of `draws` (n, d) and `log_densities` (n,) as they fall due. `factor` (d, d) is the
    Cholesky factor of the proposal's covariance. Every step draws d normals and one uniform, whatever happens, so
    that a chain cut into blocks in any way is the same chain.

    A density of NaN is a rejection that is counted; one of +inf ends the block with the status INFINITE and leaves
    the point in `state.candidate`. A candidate with an infinite coordinate is rejected without asking the density.
    """
    position, current, candidate, scratch, noise, first_nan, tally = state
    d = len(position)
    for _ in range(steps):
        tally[STEP] += 1
        for i in range(d):
            noise[i] = generator.standard_normal()
        uniform = generator.random()
        # candidate = position + factor @ noise; here and not in a function of its own, whose arguments Numba would
        # count references of: 20 % of a step at d = 2.
        finite = True
        for i in range(d):
            step = 0.0
            for j in range(i + 1):
                step = add_product(step, factor[i, j], noise[j])
            candidate[i] = position[i] + step
            scratch[i] = candidate[i]
            finite &= math.isfinite(candidate[i])
        if finite:
            # The density sees a copy: one that writes to its argument cannot move the chain.
            proposed = log_density(scratch, packed)
            if proposed == np.inf:
                return INFINITE
            if math.isnan(proposed):
                tally[REJECTED_NAN] += 1
                if tally[REJECTED_NAN] == 1:
                    tally[FIRST_NAN] = tally[STEP]
                    first_nan[:] = candidate
            elif accepts(uniform, proposed - current[0]):
                tally[ACCEPTED] += 1
                for i in range(d):
                    position[i] = candidate[i]
                current[0] = proposed
        else:
            tally[REJECTED_OVERFLOW] += 1
        tally[UNTIL_KEPT] -= 1
        if tally[UNTIL_KEPT] == 0:
            tally[UNTIL_KEPT] = thin
            for i in range(d):
                draws[tally[KEPT], i] = position[i]
            log_densities[tally[KEPT]] = current[0]
            tally[KEPT] += 1
    return DONE


def block_signature() -> Any:
    """Declare the types of `run_block`."""
    vector = types.float64[::1]
    matrix = types.float64[:, ::1]
    counts = types.int64[::1]
    generator = numba.typeof(np.random.default_rng(0))
    state = types.NamedTuple((vector,) * 6 + (counts,), ChainState)
    return types.int64(LOG_DENSITY, counts, generator, matrix, state, types.int64, types.int64, matrix, vector)


@functools.cache
def block_kernel() -> Any:
    """Compile `run_block` or load it from the disk cache, at the first chain rather than at import."""
    return kernel_with_signature(run_block, block_signature())
