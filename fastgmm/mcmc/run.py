"""Chains in groups on threads: what goes on between the blocks of the compiled loop."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from fastgmm.kernels import chain as kernels
from fastgmm.kernels._jit import COMPILED, TILE_ROWS, TILE_STRIDE, address_of
from fastgmm.kernels.adapt import work_features
from fastgmm.kernels.calls import MOVE
from fastgmm.kernels.random import new_generators, numbers_per_step
from fastgmm.kernels.vectors import aligned_zeros
from fastgmm.mcmc.ahead import Foresight
from fastgmm.mcmc.proposals import Move
from fastgmm.mcmc.targets import LANE, Target

# A block is long enough that its call (0.5 ms) is lost in it, and short enough for Ctrl-C.
_BLOCK_SECONDS = 0.03
_FIRST_BLOCK = 16
# A block of a trial, in which its call (10 µs) does not count for much; with threads, which have to be woken.
_TRIAL_SECONDS, _TRIAL_OF_THREADS = 1e-4, 1e-3
# Lanes of a group where they are worked on in vectors: fewer would save nothing.
_LEAST_LANES = 8
# The child of the seed that chooses among moves; chains have the numbers from 0 on.
_SCHEDULE = 2**32 - 1

_ADAPTATIONS = {None: kernels.FIXED, "ram": kernels.RAM, "am": kernels.AM}


class State(NamedTuple):
    """Where chains are, in whole: from here they go on as if they had never stopped."""

    generators: np.ndarray  # (chain, 4) uint64
    schedule: np.ndarray  # (4,) uint64
    position: np.ndarray  # (chain, dim)
    log_density: np.ndarray  # (chain,)
    factors: np.ndarray  # (chain, entries) of random walks that were adapted, lower triangles row by row
    fixed: np.ndarray  # (entries,) of those that were not
    proposed: np.ndarray  # (move,) steps after warm-up
    accepted: np.ndarray  # (chain, move)
    rejected_nan: np.ndarray  # (chain,)
    rejected_overflow: np.ndarray  # (chain,)
    steps: int  # taken, warm-up included
    until_kept: int  # steps to go until the next draw


class Progress(NamedTuple):
    """How far a run is, as its callback sees it."""

    done: int  # steps that each chain has taken, warm-up included
    total: int
    warming_up: bool
    draws: np.ndarray  # (chain, draw, dim), those that are there; a view, not to be written to
    log_density: np.ndarray  # (chain, draw)


class InfiniteDensity(ValueError):
    """A density of +inf: no chain can leave such a point."""


def new_state(
    sequence: np.random.SeedSequence, moves: Sequence[Move], starts: np.ndarray, densities: np.ndarray, generators: Any
) -> State:
    """Return the state of chains that begin at `starts` (chain, dim)."""
    chains = len(starts)
    choice = np.random.SeedSequence(
        sequence.entropy, spawn_key=(*sequence.spawn_key, _SCHEDULE), pool_size=sequence.pool_size
    )
    walks = [move for move in moves if move.factor is not None]
    adapting = [_triangle(move.factor) for move in walks if move.adapt]
    fixed = [_triangle(move.factor) for move in walks if not move.adapt]
    counts = np.zeros(chains, dtype=np.int64)
    return State(
        generators=np.ascontiguousarray(generators.T),
        schedule=choice.generate_state(4, np.uint64),
        position=np.array(starts),
        log_density=np.array(densities),
        factors=np.tile(np.concatenate([np.zeros(0), *adapting]), (chains, 1)),
        fixed=np.concatenate([np.zeros(0), *fixed]),
        proposed=np.zeros(len(moves), dtype=np.int64),
        accepted=np.zeros((chains, len(moves)), dtype=np.int64),
        rejected_nan=counts,
        rejected_overflow=counts.copy(),
        steps=0,
        until_kept=0,
    )


def _triangle(factor: Any) -> np.ndarray:
    return np.asarray(factor[np.tril_indices(len(factor))])


class Run:
    """Chains on their way: `take` lets all of them step on together.

    All groups take a block before any takes the next, so that between blocks every chain is at the same step. That is
    where kernels join which move chains by one another, such as differential evolution or swaps of parallel tempering:
    groups are no populations, as they depend on the threads. What such a kernel needs is its period, at whose
    multiples `take` has to end a block, a function from one `State` to the next, and a generator of its own, in
    `State` beside `schedule`. Tempered chains need one number a lane more in `Group`, by which `settle` multiplies the
    difference of log-densities.
    """

    def __init__(self, target: Target, moves: Sequence[Move], state: State, workers: int, patient: bool) -> None:
        self.target = target
        self._density = target.compiled(state.position.shape[1])
        self.moves = moves
        self._patient = patient
        self._dimensions = state.position.shape[1]
        self._plan, self._words = _plan(moves, state)
        self._uniforms = int(self._plan.uniforms[0])
        self._spans = list(_spans(len(state.position), workers, target.together))
        self._groups = [self._group(state, span) for span in self._spans]
        self._packed = [target.pack(self._dimensions) for _ in self._spans]
        self._kernel = kernels.block_kernel()  # here, so that the threads do not wait for one another
        if COMPILED:
            self._kernel = self._kernel.overloads[self._kernel.signatures[0]].entry_point
        self._workers = min(workers, len(self._groups))
        self._executor = ThreadPoolExecutor(self._workers) if self._workers > 1 else None
        self._block = _FIRST_BLOCK
        alone = len(moves) == 1 and moves[0].factor is not None and all(s.stop - s.start == 1 for s in self._spans)
        foresees = target.foresees if alone and self._density.separate else False
        self._foresight = Foresight(foresees, _TRIAL_OF_THREADS if self._executor else _TRIAL_SECONDS)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    @property
    def steps(self) -> int:
        """Steps that every chain has taken."""
        return int(self._groups[0].tally[kernels.STEP])

    @property
    def kept(self) -> int:
        """Draws kept since the last `keep_into`."""
        return int(self._groups[0].tally[kernels.KEPT])

    def keep_into(self, until_kept: int) -> None:
        """Keep the next draw after so many steps, as the first of an array."""
        for group in self._groups:
            group.tally[kernels.UNTIL_KEPT] = until_kept
            group.tally[kernels.KEPT] = 0

    def take(
        self, steps: int, thin: int, adapting: bool, draws: np.ndarray, log_densities: np.ndarray
    ) -> Iterator[None]:
        """Take `steps` steps, and come up for air after each block of them.

        Raises
        ------
        KeyboardInterrupt
            When a block is complete in all groups.
        """
        end = self.steps + steps
        steady = not (adapting and any(move.adapt is not None for move in self.moves))
        while self.steps < end:
            goal = min(self.steps + self._block, end)
            self._look_ahead(steady and self._foresight.choose())
            began = time.perf_counter()
            size = goal - self.steps
            self._take_block(goal, thin, adapting, draws, log_densities)
            elapsed = max(time.perf_counter() - began, 1e-6)
            seconds = (self._foresight.learn(size, elapsed) if steady else None) or _BLOCK_SECONDS
            self._block = max(1, min(8 * size, int(size * seconds / elapsed)))
            yield

    def _look_ahead(self, wanted: bool) -> None:
        """Have single chains look ahead in the next block or not; never after the density has raised where they did."""
        foresees = self._plan.foresees
        if foresees[0] != kernels.NEVER_AGAIN:
            foresees[0] = kernels.LOOK_AHEAD if wanted else kernels.STEP_BY_STEP

    def _take_block(self, goal: int, *arguments: Any) -> None:
        try:
            self._all_to(goal, *arguments)
        except KeyboardInterrupt:
            self._all_to(goal, *arguments)  # those that are there already take no step
            raise

    def _all_to(self, goal: int, *arguments: Any) -> None:
        numbers = range(len(self._groups))
        if self._executor is None:
            for g in numbers:
                self._one_to(g, goal, *arguments)
            return
        futures = [self._executor.submit(self._one_to, g, goal, *arguments) for g in numbers]
        errors = []
        try:
            errors = [future.exception() for future in futures]
        except KeyboardInterrupt:
            for future in futures:
                future.exception()
            raise
        for error in errors:
            if error is not None:
                raise error

    def _one_to(
        self, g: int, goal: int, thin: int, adapting: bool, draws: np.ndarray, log_densities: np.ndarray
    ) -> None:
        group, packed, span = self._groups[g], self._packed[g], self._spans[g]
        steps = goal - int(group.tally[kernels.STEP])
        packed[LANE] = -1
        try:
            with np.errstate(all="ignore"):
                status = self._kernel(
                    self._density.address,
                    packed,
                    self._plan,
                    group,
                    steps,
                    thin,
                    adapting,
                    self._patient,
                    draws[span],
                    log_densities[span],
                )
        except Exception as error:
            error.add_note(self._where(g, int(packed[LANE])))
            raise
        if status == kernels.INFINITE:
            raise InfiniteDensity(
                f"The log-density {self.target.name!r} is +inf, {self._where(g, int(group.tally[kernels.LANE]))}: it "
                "is unbounded, or in error; no chain can leave such a point."
            )
        if status == kernels.NOT_A_NUMBER:
            raise ValueError(
                f"The log-density {self.target.name!r} is NaN, {self._where(g, int(group.tally[kernels.LANE]))}; "
                "nan='reject' rejects such candidates."
            )

    def _where(self, g: int, lane: int) -> str:
        group, span = self._groups[g], self._spans[g]
        step = f"at step {group.tally[kernels.STEP]} (warm-up included)"
        if lane < 0:  # a batch density does not say where it was
            return f"in one of chains {span.start} to {span.stop - 1} {step}"
        return f"in chain {span.start + lane} {step}, x = {show(group.candidate[lane::TILE_STRIDE])}"

    def first_nan(self) -> tuple[int, int, np.ndarray] | None:
        """Step, chain and place of this run's first density of NaN."""
        found = []
        for group, span in zip(self._groups, self._spans, strict=True):
            steps = group.first_nan_step[: span.stop - span.start]
            lanes = np.flatnonzero(steps).tolist()
            found += [(int(steps[i]), span.start + i, group.first_nan[i::TILE_STRIDE]) for i in lanes]
        return min(found, key=lambda nan: nan[:2], default=None)

    def state(self) -> State:
        """Return a copy of where the chains are."""
        groups = self._groups
        lanes = [span.stop - span.start for span in self._spans]

        def gathered(name: str) -> np.ndarray:
            """A feature, or several, of all chains: (chain, features)."""
            parts = [
                getattr(group, name).reshape(-1, TILE_STRIDE)[:, :n].T for group, n in zip(groups, lanes, strict=True)
            ]
            return np.ascontiguousarray(np.concatenate(parts))

        factors = [group.factors.reshape(-1, _stride(n))[:, :n].T for group, n in zip(groups, lanes, strict=True)]
        return State(
            generators=np.ascontiguousarray(np.concatenate([group.generators.T for group in groups])),
            schedule=groups[0].schedule[:, 0].copy(),
            position=gathered("position"),
            log_density=gathered("log_density")[:, 0],
            factors=np.ascontiguousarray(np.concatenate(factors)),
            fixed=self._plan.fixed.copy(),
            proposed=groups[0].proposed.copy(),
            accepted=gathered("accepted"),
            rejected_nan=gathered("rejected_nan")[:, 0],
            rejected_overflow=gathered("rejected_overflow")[:, 0],
            steps=self.steps,
            until_kept=int(groups[0].tally[kernels.UNTIL_KEPT]),
        )

    def _group(self, state: State, span: slice) -> kernels.Group:
        d, moves, lanes = self._dimensions, len(self.moves), span.stop - span.start

        def features(values: np.ndarray) -> np.ndarray:
            """(chain, features) -> features in places."""
            part = values[span].reshape(lanes, -1)
            places = aligned_zeros((part.shape[1], TILE_STRIDE), part.dtype)
            places[:, :lanes] = part.T
            return places.ravel()

        factors = aligned_zeros((state.factors.shape[1], _stride(lanes)))
        factors[:, :lanes] = state.factors[span].T
        position = features(state.position)
        adapting = sum(move.adapt is not None for move in self.moves)
        work = max([work_features(d), *(move.work for move in self.moves)])
        tally = np.zeros(kernels.N_TALLIES, dtype=np.int64)
        tally[kernels.STEP], tally[kernels.UNTIL_KEPT] = state.steps, state.until_kept
        return kernels.Group(
            generators=np.ascontiguousarray(state.generators[span].T),
            schedule=state.schedule.reshape(4, 1).copy(),
            position=position,
            log_density=features(state.log_density),
            factors=factors.ravel(),
            centres=np.tile(position, adapting),
            adapted=np.zeros(moves, dtype=np.int64),
            proposed=state.proposed.copy(),
            accepted=features(state.accepted),
            rejected_nan=features(state.rejected_nan),
            rejected_overflow=features(state.rejected_overflow),
            first_nan_step=np.zeros(TILE_STRIDE, dtype=np.int64),
            first_nan=np.zeros(d * TILE_STRIDE),
            tally=tally,
            noise=aligned_zeros(((numbers_per_step(d) + self._uniforms) * TILE_STRIDE,)),
            choices=np.ones(TILE_STRIDE),
            candidate=features(state.position),
            proposal=aligned_zeros((TILE_STRIDE,)),
            log_ratio=aligned_zeros((TILE_STRIDE,)),
            taken=aligned_zeros((TILE_STRIDE,), np.int64),
            work=aligned_zeros((work * TILE_STRIDE,)),
            words=self._words.copy(),
        )


def _stride(lanes: int) -> int:
    """`triangle_stride`, which from here would be compiled alone."""
    return -(-lanes // 8) * 8


def _spans(chains: int, workers: int, together: bool) -> Iterator[slice]:
    """Share the chains out among groups: enough for all threads, but no vectors left half empty."""
    size = -(-chains // workers)
    if together:
        size = -(-size // _LEAST_LANES) * _LEAST_LANES
    size = min(size, TILE_ROWS)
    for first in range(0, chains, size):
        yield slice(first, min(first + size, chains))


def _plan(moves: Sequence[Move], state: State) -> tuple[kernels.Plan, np.ndarray]:
    """Return the table of the moves, and their packed values one after the other."""
    functions: list[Any] = []
    table = np.zeros((len(moves), kernels.N_COLUMNS), dtype=np.int64)
    words = fixed = adapting = centres = 0
    for row, move in zip(table, moves, strict=True):
        row[kernels.FIRST_WORD], row[kernels.LAST_WORD] = words, words + len(move.packed)
        words += len(move.packed)
        if move.factor is None:
            if move.function not in functions:
                functions.append(move.function)
            row[kernels.FUNCTION] = functions.index(move.function)
            continue
        d = len(move.factor)
        row[kernels.FUNCTION], row[kernels.ADAPT] = kernels.WALK, _ADAPTATIONS[move.adapt]
        if move.adapt is None:
            row[kernels.FACTOR] = fixed
            fixed += kernels.triangle(d)
            continue
        row[kernels.FACTOR] = adapting
        adapting += kernels.triangle(d)
        row[kernels.CENTRE] = centres
        centres += d
    addresses: Any = [address_of(function, MOVE) for function in functions]
    if COMPILED:
        addresses = np.array(addresses, dtype=np.int64)
    weights = np.array([move.weight for move in moves], dtype=np.float64)
    shares = np.cumsum(weights / weights.sum())
    uniforms = np.array([max(move.uniforms for move in moves)], dtype=np.int64)
    packed = np.concatenate([move.packed for move in moves]).astype(np.int64)
    return kernels.Plan(table, shares, state.fixed, uniforms, np.zeros(1, dtype=np.int64), addresses), packed


def evaluate(target: Target, points: np.ndarray, note: Callable[[int], str]) -> np.ndarray:
    """Return the log-densities of points (n, d); what one raises comes with a note on its number."""
    n, d = points.shape
    values = np.empty(n)
    packed, density = target.pack(d), target.compiled(d)
    for first in range(0, n, TILE_ROWS):
        part = points[first : first + TILE_ROWS]
        places, out = np.zeros((d, TILE_STRIDE)), np.zeros(TILE_STRIDE)
        places[:, : len(part)] = part.T
        packed[LANE] = -1
        try:
            with np.errstate(all="ignore"):
                kernels.ask_kernel()(density.address, places.ravel(), len(part), out, packed)
        except Exception as error:
            error.add_note(note(first + max(int(packed[LANE]), 0)))
            raise
        values[first : first + len(part)] = out[: len(part)]
    return values


def chain_generators(sequence: np.random.SeedSequence, chains: int) -> np.ndarray:
    """Generators of the chains, (4, chain)."""
    return new_generators(sequence, chains)


def name_chains(numbers: np.ndarray | range) -> str:
    """List chains in words, the first ten."""
    names = ", ".join(str(number) for number in numbers[:10]) + (", ..." if len(numbers) > 10 else "")
    return f"chain{'s' * (len(numbers) > 1)} {names}"


def show(point: np.ndarray) -> str:
    """Print a point on one line."""
    return np.array2string(point, precision=6, threshold=12, separator=", ", max_line_width=10**6)
