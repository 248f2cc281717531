"""The Metropolis-Hastings loop of a group of chains, which take their steps side by side in the processor's vectors."""

import functools
from typing import Any, NamedTuple

import numpy as np
from numba import types

from fastgmm.kernels._jit import SEPARATE, TILE_ROWS, TILE_STRIDE, kernel, kernel_with_signature
from fastgmm.kernels.adapt import adapt_haario, adapt_robust, adapt_shape
from fastgmm.kernels.calls import DENSITY, call_density, call_move, try_density
from fastgmm.kernels.lanes import LANES, clear
from fastgmm.kernels.random import fill_noise, fill_uniforms
from fastgmm.kernels.steps import FORESEEN, foresee, settle, triangle_stride, walk, walk_branches
from fastgmm.kernels.vectors import rest

# d dimensions, n kept draws, lanes: the chains of the group, at most TILE_ROWS

# Status of a block.
DONE = 0
INFINITE = 1  # a density of +inf, in lane LANE
NOT_A_NUMBER = 2  # a density of NaN, in lane LANE, and the caller does not bear with that

# Places in the tally of a group.
STEP = 0  # steps begun since the chains started
UNTIL_KEPT = 1  # steps to go until the next kept draw
KEPT = 2  # draws kept
LANE = 3  # the lane of an error
N_TALLIES = 4

# Columns of the table of moves.
FUNCTION = 0  # number of the function, or WALK
FIRST_WORD, LAST_WORD = 1, 2  # where the function's packed values are
FACTOR = 3  # where the walk's factor begins: in `fixed`, or with ADAPT in `factors`, counted in entries
ADAPT = 4
CENTRE = 5  # where the running means of a walk that adapts begin, counted in features
N_COLUMNS = 6

WALK = -1
FIXED, RAM, AM = 0, 1, 2

# Whether one chain looks ahead; the loop itself writes NEVER_AGAIN where the density raised.
STEP_BY_STEP, LOOK_AHEAD, NEVER_AGAIN = 0, 1, 2

# What is foreseen where nothing is: a place that is not finite, or a density of NaN or +inf; or the density raised.
_NOTHING, _RAISED = -1, -2


class Plan(NamedTuple):
    """What the groups have in common."""

    table: np.ndarray  # (moves, N_COLUMNS) int64
    shares: np.ndarray  # (moves,), cumulated: a uniform u takes the first move with u <= share
    fixed: np.ndarray  # factors of walks that do not adapt: lower triangles, row by row
    uniforms: np.ndarray  # (1,) int64, how many extra ones a step draws
    foresees: np.ndarray  # (1,) int64, whether one chain asks about the candidates of several steps at once
    functions: Any  # int64, the addresses of moves; uncompiled a list of the functions


class Group(NamedTuple):
    """What a group carries from block to block, written in place; below the line what only spares allocations."""

    generators: np.ndarray  # (4, lanes) uint64
    schedule: np.ndarray  # (4, 1) uint64: the generator that chooses moves, in the same state in every group
    position: np.ndarray  # d features
    log_density: np.ndarray  # a feature, at `position`
    factors: np.ndarray  # triangles of the walks that adapt: entry e of lane i at e * triangle_stride(lanes) + i
    centres: np.ndarray  # running means of the walks that adapt: features
    adapted: np.ndarray  # (moves,) int64, how often each was adapted
    proposed: np.ndarray  # (moves,) int64
    accepted: np.ndarray  # a feature a move, int64
    rejected_nan: np.ndarray  # a feature, int64
    rejected_overflow: np.ndarray  # a feature, int64: candidates with a coordinate that is not finite
    first_nan_step: np.ndarray  # a feature, int64
    first_nan: np.ndarray  # d features: where the density was first NaN
    tally: np.ndarray  # (N_TALLIES,) int64
    # ---
    noise: np.ndarray  # a tile
    choices: np.ndarray  # a feature
    candidate: np.ndarray  # d features
    proposal: np.ndarray  # a feature: the log-density at `candidate`
    log_ratio: np.ndarray  # a feature: first log q(x | y) - log q(y | x), then that of Metropolis and Hastings
    taken: np.ndarray  # a feature, int64: 1 where the candidate is accepted
    work: np.ndarray  # features for moves and for adaptation
    words: np.ndarray  # int64, the packed values of all moves


def triangle(d: int) -> int:
    """Entries of a lower triangle."""
    return d * (d + 1) // 2


@kernel(flags=SEPARATE, merge=True)
def _all_finite(values, features, lanes):
    wrong = 0
    for j in range(features):
        for i in range(lanes):
            wrong += 0 if abs(values[j * TILE_STRIDE + i]) < np.inf else 1
    return wrong == 0


@kernel(flags=SEPARATE)
def _withdraw_overflows(d, lanes, position, candidate, log_ratio, counts):
    """Put the position in the place of a candidate that is not finite: the density is not asked there."""
    for i in range(lanes):
        wrong = False
        for j in range(d):
            wrong |= not abs(candidate[j * TILE_STRIDE + i]) < np.inf
        if wrong:
            counts[i] += 1
            log_ratio[i] = np.nan
            for j in range(d):
                candidate[j * TILE_STRIDE + i] = position[j * TILE_STRIDE + i]


@kernel(flags=SEPARATE)
def _look_into(d, lanes, proposal, candidate, counts, first_step, first, tally):
    """Count densities of NaN, keep the first, and say where one is +inf."""
    status = DONE
    for i in range(lanes):
        if proposal[i] == np.inf and status != INFINITE:
            status = INFINITE
            tally[LANE] = i
        elif np.isnan(proposal[i]):
            if status == DONE:
                status = NOT_A_NUMBER
                tally[LANE] = i
            counts[i] += 1
            if first_step[i] == 0:  # of this run, whatever one before it counted
                first_step[i] = tally[STEP]
                for j in range(d):
                    first[j * TILE_STRIDE + i] = candidate[j * TILE_STRIDE + i]
    return status


@kernel(flags=SEPARATE)
def _choose(shares, uniform):
    """The first move whose cumulated share reaches the uniform."""
    move = 0
    while move < len(shares) - 1 and uniform > shares[move]:
        move += 1
    return move


@kernel(flags=SEPARATE, merge=True)
def _keep(d, lanes, position, log_density, n, draws, log_densities):
    for i in range(lanes):
        log_densities[i, n] = log_density[i]
        for j in range(d):
            draws[i, n, j] = position[j * TILE_STRIDE + i]


@kernel(flags=SEPARATE)
def _look_ahead(density, packed, factor, own, d, noise, exponentials, position, log_density, places, log_densities):
    """Find where one chain may be after the next FORESEEN steps, and the log-densities there, all in one vector.

    What a random walk adds does not depend on where it is, unless it adapts; and the operations of one density wait for
    one another, so that one costs what a vector does: 33 ns a step instead of 83 for two components in the plane.
    Returns what `foresee` does, _NOTHING also where a place is not finite, and _RAISED: then a step at a time finds out
    what that means.

    Arrays are mere pointers here and in `_go_ahead`: to count their references would take a third of the time.
    """
    if not walk_branches(factor, own, d, noise, position, places):
        return _NOTHING
    if try_density(density, places, LANES, log_densities, packed):
        return _RAISED
    return foresee(exponentials, log_density, log_densities)


@kernel(flags=SEPARATE)
def _go_ahead(decisions, d, places, densities, thin, position, log_density, tally, draws, log_densities):
    """Take the steps that `_look_ahead` foresaw, and return how many of them were accepted."""
    lane = count = 0
    until_kept = tally[UNTIL_KEPT]
    for s in range(FORESEEN):
        yes = decisions >> (lane | 1 << s) & 1
        lane |= yes << s
        count += yes
        until_kept -= 1
        if until_kept == 0:
            until_kept = thin
            kept = tally[KEPT]
            log_densities[kept] = densities[lane]
            for j in range(d):
                draws[kept * d + j] = places[j * TILE_STRIDE + lane]
            tally[KEPT] = kept + 1
    tally[STEP] += FORESEEN
    tally[UNTIL_KEPT] = until_kept
    for j in range(d):
        position[j * TILE_STRIDE] = places[j * TILE_STRIDE + lane]
    log_density[0] = densities[lane]
    return count


def run_block(
    density: Any,
    packed: np.ndarray,
    plan: Plan,
    group: Group,
    steps: int,
    thin: int,
    adapting: bool,
    patient: bool,
    draws: np.ndarray,
    log_densities: np.ndarray,
) -> int:
    """Take `steps` Metropolis-Hastings steps with every chain of a group.

    Writes `group`, and `draws` (lanes, n, d) and `log_densities` (lanes, n) as they fall due. A step of a chain draws
    the same numbers whatever happens, and its arithmetic is elementwise over the lanes and rounded as written. So a
    chain is the same chain however the run is cut into blocks and whatever else is in its group.

    A density of NaN is a rejection that is counted, or if not `patient` ends the block; one of +inf always does. A
    candidate with an infinite coordinate is rejected without asking the density.
    """
    # By name, as every access to a part of a tuple counts references: 300 ns a step.
    generators, schedule, position, log_density, factors, centres, adapted, proposed, accepted = group[:9]
    rejected_nan, rejected_overflow, first_nan_step, first_nan, tally = group[9:14]
    noise, choices, candidate, proposal, log_ratio, taken, work, words = group[14:]
    table, shares, fixed, uniforms, foresees, functions = plan
    lanes = generators.shape[1]
    d = len(position) // TILE_STRIDE
    stride = triangle_stride(lanes)
    moves = len(table)
    decisive = (d + d % 2) * TILE_STRIDE  # the exponential, behind pairs of normals
    ahead = TILE_ROWS // lanes
    counted = 0 if adapting else 1
    alone = foresees[0] == LOOK_AHEAD and lanes == 1 and moves == 1 and table[0, FUNCTION] == WALK
    own = alone and table[0, ADAPT] != FIXED
    foreseen = FORESEEN if alone and not (own and adapting) else 0  # steps at a time
    frozen = rest(factors if own else fixed, table[0, FACTOR] * (stride if own else 1))
    done = 0
    while done < steps:
        count = min(ahead, steps - done)
        fill_noise(generators, count, d, uniforms[0], noise)
        if moves > 1:
            fill_uniforms(schedule, count, 1, choices)
        s = 0
        while s < count:
            place = s * lanes
            if foreseen and s + foreseen <= count:
                decisions = _look_ahead(
                    density,
                    rest(packed, 0),
                    frozen,
                    own,
                    d,
                    rest(noise, s),
                    rest(noise, decisive + s),
                    rest(position, 0),
                    rest(log_density, 0),
                    rest(candidate, 0),
                    rest(proposal, 0),
                )
                if decisions >= 0:
                    yes = _go_ahead(
                        decisions,
                        d,
                        rest(candidate, 0),
                        rest(proposal, 0),
                        thin,
                        rest(position, 0),
                        rest(log_density, 0),
                        rest(tally, 0),
                        rest(draws, 0),
                        rest(log_densities, 0),
                    )
                    accepted[0] += counted * yes
                    proposed[0] += counted * foreseen
                    s += foreseen
                    continue
                if decisions == _RAISED:
                    foresees[0] = NEVER_AGAIN
                    foreseen = 0
            tally[STEP] += 1
            move = _choose(shares, choices[s]) if moves > 1 else 0
            function, first, adapt = table[move, FUNCTION], table[move, FACTOR], table[move, ADAPT]
            if function == WALK:
                clear(rest(log_ratio, 0), lanes)
                if adapt == FIXED:
                    walk(rest(fixed, first), 0, d, lanes, rest(noise, place), position, candidate)
                else:
                    walk(rest(factors, first * stride), 1, d, lanes, rest(noise, place), position, candidate)
            else:
                packed_move = words[table[move, FIRST_WORD] : table[move, LAST_WORD]]
                call_move(functions[function], position, lanes, noise[place:], candidate, log_ratio, work, packed_move)
            if not _all_finite(candidate, d, lanes):
                _withdraw_overflows(d, lanes, position, candidate, log_ratio, rejected_overflow)
            call_density(density, candidate, lanes, proposal, packed)
            odd = settle(
                rest(noise, decisive + place),
                rest(candidate, 0),
                rest(proposal, 0),
                rest(log_ratio, 0),
                rest(position, 0),
                rest(log_density, 0),
                rest(taken, 0),
                rest(accepted, move * TILE_STRIDE),
                d,
                lanes,
                counted,
            )
            if odd:
                status = _look_into(d, lanes, proposal, candidate, rejected_nan, first_nan_step, first_nan, tally)
                if status == INFINITE or (status == NOT_A_NUMBER and not patient):
                    return status
            if not adapting:
                proposed[move] += 1
            elif adapt != FIXED:
                adapted[move] += 1
                factor = rest(factors, first * stride)
                centre = rest(centres, table[move, CENTRE] * TILE_STRIDE)
                if adapt == AM:
                    adapt_haario(factor, d, lanes, adapted[move], position, centre, work)
                else:
                    adapt_robust(factor, d, lanes, adapted[move], rest(noise, place), log_ratio, work)
                    if moves == 1 and d > 1:  # other moves may lead to other modes, whose distances are no shape of one
                        adapt_shape(factor, d, lanes, adapted[move], taken, position, centre, work)
            tally[UNTIL_KEPT] -= 1
            if tally[UNTIL_KEPT] == 0:
                tally[UNTIL_KEPT] = thin
                _keep(d, lanes, rest(position, 0), rest(log_density, 0), tally[KEPT], draws, log_densities)
                tally[KEPT] += 1
            s += 1
        done += count
    return DONE


def block_signature() -> Any:
    """Declare the types of `run_block`."""
    counts, places = types.int64[::1], types.float64[::1]
    words = types.uint64[:, ::1]
    plan = types.NamedTuple((types.int64[:, ::1], places, places, counts, counts, counts), Plan)
    kinds = {"generators": words, "schedule": words}
    kinds |= dict.fromkeys(
        [
            "adapted",
            "proposed",
            "accepted",
            "rejected_nan",
            "rejected_overflow",
            "first_nan_step",
            "tally",
            "words",
            "taken",
        ],
        counts,
    )
    group = types.NamedTuple(tuple(kinds.get(name, places) for name in Group._fields), Group)
    flags = (types.boolean, types.boolean)
    draws, log_densities = types.float64[:, :, ::1], types.float64[:, ::1]
    return types.int64(types.int64, counts, plan, group, types.int64, types.int64, *flags, draws, log_densities)


@functools.cache
def block_kernel() -> Any:
    """Compile `run_block` or load it from the disk cache, at the first chain rather than at import."""
    return kernel_with_signature(run_block, block_signature())


def ask(density: Any, x: np.ndarray, lanes: int, out: np.ndarray, packed: np.ndarray) -> None:
    """Call a density from Python."""
    call_density(density, x, lanes, out, packed)


@functools.cache
def ask_kernel() -> Any:
    """`ask`, compiled."""
    return kernel_with_signature(ask, types.void(types.int64, *DENSITY.args))
