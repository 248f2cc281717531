"""What a step of chains in lanes does besides asking the density: candidates of the random walk, and the decision.

Both work on whole vectors of lanes. A loop over single lanes would not only be slower: a vector that is read where
single numbers were just written waits until they have reached the cache, which for one chain is a sixth of its step.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from fastgmm.kernels._jit import COMPILED, TILE_STRIDE, kernel
from fastgmm.kernels.lanes import LANES, WIDE
from fastgmm.kernels.triangles import BLOCK_ROWS
from fastgmm.kernels.vectors import INDEX, integer_intrinsic, rest, rows_of, void_intrinsic

# d dimensions


def _make_walk_strip(vectors: int) -> Any:
    def walk_strip(factor, own, stride, noise, x, r, out):
        """out[r] = x[r] + Σ_j L[r, j] noise[j] over j <= r on one strip; entries are strips if `own`, else numbers."""
        width = vectors * LANES
        total = x[r * TILE_STRIDE : r * TILE_STRIDE + width].copy()
        for j in range(r + 1):
            entry = factor[j * stride : j * stride + width] if own else factor[j]
            total += entry * noise[j * TILE_STRIDE : j * TILE_STRIDE + width]
        out[r * TILE_STRIDE : r * TILE_STRIDE + width] = total

    def emit(e, factor, own, stride, noise, x, r, out):
        b = e.builder
        row = b.mul(r, INDEX(TILE_STRIDE))
        places = [b.add(row, INDEX(v * e.lanes)) for v in range(vectors)]
        sums = [e.variable(e.load(x, place)) for place in places]
        end = b.add(r, INDEX(1))

        def add(entries, j):
            at = b.mul(j, INDEX(TILE_STRIDE))
            for v, sum_ in enumerate(sums):
                z = e.load(noise, b.add(at, INDEX(v * e.lanes)))
                b.store(e.multiply_add(entries(v), z, b.load(sum_)), sum_)

        with b.if_else(b.icmp_signed("!=", own, INDEX(0))) as (each, all_):
            with each, cgutils.for_range(b, end) as loop:
                first = b.mul(loop.index, stride)
                add(lambda v: e.load(factor, b.add(first, INDEX(v * e.lanes))), loop.index)
            with all_, cgutils.for_range(b, end) as loop:
                entry = e.broadcast(factor, loop.index)
                add(lambda v: entry, loop.index)
        for place, sum_ in zip(places, sums, strict=True):
            e.store(b.load(sum_), out, place)

    def typed(typing_context, factor, own, stride, noise, x, r, out):
        return void_intrinsic(emit, factor, own, stride, noise, x, r, out)

    return intrinsic(typed) if COMPILED else walk_strip


def _make_walk_block(height: int) -> Any:
    def walk_block(factor, noise, x, r, out):
        """What `walk_strip` does for rows r ... r + height - 1, of which the first begins at `factor`."""
        width = WIDE * LANES
        for row in range(r, r + height):
            total = x[row * TILE_STRIDE : row * TILE_STRIDE + width].copy()
            for j in range(row + 1):
                total += factor[j] * noise[j * TILE_STRIDE : j * TILE_STRIDE + width]
            out[row * TILE_STRIDE : row * TILE_STRIDE + width] = total
            factor = factor[row + 1 :]

    def emit(e, factor, noise, x, r, out):
        b = e.builder
        first = b.mul(r, INDEX(TILE_STRIDE))
        places = [[b.add(first, INDEX(h * TILE_STRIDE + v * e.lanes)) for v in range(WIDE)] for h in range(height)]
        sums = [[e.variable(e.load(x, place)) for place in row] for row in places]
        rows = [e.at(factor, b.add(b.mul(r, INDEX(h)), INDEX(h * (h + 1) // 2))) for h in range(height)]

        def add(j, above):
            entries = [e.broadcast(row, j) for row in rows[above:]]
            at = b.mul(j, INDEX(TILE_STRIDE))
            for v in range(WIDE):
                z = e.load(noise, b.add(at, INDEX(v * e.lanes)))
                for entry, sum_ in zip(entries, sums[above:], strict=True):
                    e.add_product(entry, z, sum_[v])

        with cgutils.for_range(b, b.add(r, INDEX(1))) as loop:
            add(loop.index, 0)
        for h in range(1, height):
            add(b.add(r, INDEX(h)), h)
        for row, of_row in zip(places, sums, strict=True):
            for place, sum_ in zip(row, of_row, strict=True):
                e.store(b.load(sum_), out, place)

    def typed(typing_context, factor, noise, x, r, out):
        return void_intrinsic(emit, factor, noise, x, r, out)

    return intrinsic(typed) if COMPILED else walk_block


_walk_wide, _walk_narrow = (_make_walk_strip(vectors) for vectors in (WIDE, 1))
_walk_block = _make_walk_block(BLOCK_ROWS)

# Lanes by which the entries of triangles of one's own are apart: whole vectors of any width.
_WHOLE = 8


@kernel
def triangle_stride(lanes):
    """From an entry of all lanes' triangles to the next."""
    return (lanes + _WHOLE - 1) // _WHOLE * _WHOLE


@kernel
def walk(factor, own, d, lanes, noise, x, candidate):
    """candidate = x + L noise; L[e] of lane i is factor[e * triangle_stride(lanes) + i] if `own`, else factor[e].

    Rows of L one after the other, each from the left.
    """
    stride = triangle_stride(lanes) if own else 1
    factor, noise, x, candidate = rest(factor, 0), rest(noise, 0), rest(x, 0), rest(candidate, 0)
    for i in range(0, lanes - lanes % (WIDE * LANES), WIDE * LANES):
        entry = i if own else 0
        in_blocks = 0 if own else d - d % BLOCK_ROWS
        for r in range(0, in_blocks, BLOCK_ROWS):
            _walk_block(rest(factor, entry), rest(noise, i), rest(x, i), r, rest(candidate, i))
            entry += BLOCK_ROWS * r + BLOCK_ROWS * (BLOCK_ROWS + 1) // 2
        for r in range(in_blocks, d):
            _walk_wide(rest(factor, entry), own, stride, rest(noise, i), rest(x, i), r, rest(candidate, i))
            entry += (r + 1) * stride
    for i in range(lanes - lanes % (WIDE * LANES), lanes, LANES):
        entry = i if own else 0
        for r in range(d):
            _walk_narrow(rest(factor, entry), own, stride, rest(noise, i), rest(x, i), r, rest(candidate, i))
            entry += (r + 1) * stride


# Steps whose decisions a vector foresees: lane b is where a chain is if of these it accepts those of b's bits.
FORESEEN = LANES.bit_length() - 1


def _make_walk_branch():
    def walk_branch(factor, stride, noise, x, r, out):
        """out[r] = x[r] and in lane b what the steps of b's bits add, step by step as `walk_strip` adds it.

        Returns 0 if all are finite.
        """
        places = np.full(LANES, x[r * TILE_STRIDE])
        for s in range(FORESEEN):
            total = places.copy()
            for j in range(r + 1):
                total += factor[j * stride] * noise[j * TILE_STRIDE + s]
            places = np.where(np.arange(LANES) >> s & 1, total, places)
        out[r * TILE_STRIDE : r * TILE_STRIDE + LANES] = places
        return int(not np.isfinite(places).all())

    def emit(e, factor, stride, noise, x, r, out):
        b = e.builder
        row = b.mul(r, INDEX(TILE_STRIDE))
        places = e.variable(e.broadcast(x, row))
        end = b.add(r, INDEX(1))
        for s in range(FORESEEN):
            total = e.variable(b.load(places))
            with cgutils.for_range(b, end) as loop:
                entry = e.broadcast(factor, b.mul(loop.index, stride))
                z = e.broadcast(noise, b.add(b.mul(loop.index, INDEX(TILE_STRIDE)), INDEX(s)))
                e.add_product(entry, z, total)
            accepted = ir.Constant(ir.VectorType(ir.IntType(1), e.lanes), [lane >> s & 1 for lane in range(e.lanes)])
            b.store(b.select(accepted, b.load(total), b.load(places)), places)
        e.store(b.load(places), out, row)
        # x - x is 0 or NaN.
        return _mask(e, b.fcmp_unordered("uno", *[b.fsub(b.load(places), b.load(places))] * 2))

    def typed(typing_context, factor, stride, noise, x, r, out):
        return integer_intrinsic(emit, factor, stride, noise, x, r, out)

    return intrinsic(typed) if COMPILED else walk_branch


def _mask(e, bits):
    """A number of the bits of all lanes."""
    return e.builder.zext(e.builder.bitcast(bits, ir.IntType(e.lanes)), INDEX)


_walk_branch = _make_walk_branch()


@kernel
def walk_branches(factor, own, d, noise, x, candidates):
    """candidates = where one chain may be after the next FORESEEN steps, in a lane each; lane 0 is x.

    `factor` is that of `walk` for one lane, and the bits of a lane are those of `walk` from place to place. Returns
    whether all candidates are finite.
    """
    stride = triangle_stride(1) if own else 1
    factor, noise, x, candidates = rest(factor, 0), rest(noise, 0), rest(x, 0), rest(candidates, 0)
    entry = odd = 0
    for r in range(d):
        odd |= _walk_branch(rest(factor, entry), stride, noise, x, r, candidates)
        entry += (r + 1) * stride
    return odd == 0


def _make_foresee():
    # Before its last step the chain of lane b is in lane b - 2**s, s the highest of b's bits.
    last_steps = [max(lane.bit_length() - 1, 0) for lane in range(LANES)]
    parents = [lane - (1 << s) if lane else 0 for lane, s in enumerate(last_steps)]

    def foresee(exponentials, log_density, log_densities):
        """Bit b: whether lane b of `walk_branches` has its last step accepted; -1 if a density is NaN or +inf.

        `log_densities` are those of the lanes but for lane 0, which gets `log_density`.
        """
        values = log_densities[:LANES]
        values[0] = log_density[0]
        if not (values < np.inf).all():
            return -1
        with np.errstate(invalid="ignore"):
            accepted = exponentials[:FORESEEN][last_steps] > 0.0 - (values - values[parents])
        return int(accepted @ (1 << np.arange(LANES)))

    def emit(e, exponentials, log_density, log_densities):
        b = e.builder

        def taken_from(vector, lanes):
            numbers = ir.Constant(ir.VectorType(ir.IntType(32), e.lanes), lanes)
            return b.shuffle_vector(vector, ir.Constant(e.vector, ir.Undefined), numbers)

        # Put in here: a vector that is read where one number was just written waits for that.
        values = b.insert_element(e.load(log_densities, 0), b.load(log_density), ir.IntType(32)(0))
        e.store(values, log_densities, 0)
        ratio = b.fsub(values, taken_from(values, parents))
        limits = taken_from(e.load(exponentials, 0), last_steps)
        accepted = _mask(e, b.fcmp_ordered(">", limits, b.fsub(e.zeros(), ratio)))
        odd = _mask(e, b.fcmp_unordered(">=", values, e.constant(np.inf)))
        return b.select(b.icmp_signed("!=", odd, INDEX(0)), INDEX(-1), accepted)

    def typed(typing_context, exponentials, log_density, log_densities):
        return integer_intrinsic(emit, exponentials, log_density, log_densities)

    return intrinsic(typed) if COMPILED else foresee


foresee = _make_foresee()


def _make_settle():
    def settle(exponentials, candidate, proposal, log_ratio, position, log_density, taken, accepted, d, lanes, counted):
        """Decide on the candidates and go where they are accepted: log u < log ratio, with the exponentials -log u.

        `log_ratio` becomes log p(y) q(x | y) / p(x) q(y | x); NaN is a rejection. `taken` is 1 where it was accepted
        and else 0, and `accepted` grows by that if `counted` is 1. Returns 0 if no proposal is NaN or +inf.
        """
        log_ratio[:lanes] = (proposal[:lanes] - log_density[:lanes]) + log_ratio[:lanes]
        taken[:lanes] = yes = exponentials[:lanes] > 0.0 - log_ratio[:lanes]
        accepted[:lanes] += counted * yes
        log_density[:lanes] = np.where(yes, proposal[:lanes], log_density[:lanes])
        places = rows_of(position, d, lanes)
        places[:] = np.where(yes, rows_of(candidate, d, lanes), places)
        return int(not (proposal[:lanes] < np.inf).all())

    def emit(
        e, exponentials, candidate, proposal, log_ratio, position, log_density, taken, accepted, d, lanes, counted
    ):
        b = e.builder
        numbers = ir.Constant(e.integers, list(range(e.lanes)))
        weight = e.spread(b.sub(INDEX(0), counted))
        # Of one lane the density has written one number, which is there sooner when it is read as one.
        proposals = e.variable(e.zeros())
        wrong = e.variable(ir.Constant(ir.VectorType(ir.IntType(1), e.lanes), None))
        with cgutils.for_range_slice(b, INDEX(0), lanes, INDEX(e.lanes), inc=True) as (i, _):
            with b.if_else(b.icmp_signed("==", lanes, INDEX(1))) as (one, several):
                with one:
                    b.store(b.insert_element(e.zeros(), b.load(proposal), ir.IntType(32)(0)), proposals)
                with several:
                    b.store(e.load(proposal, i), proposals)
            proposed, current = b.load(proposals), e.load(log_density, i)
            ratio = b.fadd(b.fsub(proposed, current), e.load(log_ratio, i))
            yes = b.fcmp_ordered(">", e.load(exponentials, i), b.fsub(e.zeros(), ratio))
            e.store(ratio, log_ratio, i)
            e.store(b.select(yes, proposed, current), log_density, i)
            ones = b.zext(yes, e.integers)
            e.store(ones, taken, i)
            e.store(b.add(e.load_integers(accepted, i), b.and_(ones, weight)), accepted, i)
            there = b.icmp_signed("<", numbers, e.spread(b.sub(lanes, i)))
            odd = b.and_(there, b.fcmp_unordered(">=", proposed, e.constant(np.inf)))
            b.store(b.or_(b.load(wrong), odd), wrong)
            with cgutils.for_range(b, d) as loop:
                at = b.add(b.mul(loop.index, INDEX(TILE_STRIDE)), i)
                e.store(b.select(yes, e.load(candidate, at), e.load(position, at)), position, at)
        return b.zext(b.bitcast(b.load(wrong), ir.IntType(e.lanes)), INDEX)

    def typed(
        typing_context,
        exponentials,
        candidate,
        proposal,
        log_ratio,
        position,
        log_density,
        taken,
        accepted,
        d,
        lanes,
        counted,
    ):
        return integer_intrinsic(
            emit,
            exponentials,
            candidate,
            proposal,
            log_ratio,
            position,
            log_density,
            taken,
            accepted,
            d,
            lanes,
            counted,
        )

    return intrinsic(typed) if COMPILED else settle


settle = _make_settle()
