"""Random numbers for chains in lanes: a generator for each chain, and normals from pairs of its uniforms.

What a step of a chain draws does not depend on where the chain is, so the noise of many steps is drawn ahead, a tile at
a time, as the rows of data are worked on. The TILE_ROWS places of a feature are (step, chain), chains innermost, and
the features are the numbers of a step, always in this order:

    0 ... 2p - 1    the p = ceil(d / 2) pairs that become 2p normals; with d odd the last is not used
    2p              what becomes an exponential, for the decision on the candidate
    2p + 1 ...      uniforms in (0, 1], as many as the kernels of the chains ask for

A chain's numbers are the same whatever the number of chains and wherever tiles end: its generator's words are drawn
step by step, and all arithmetic behind them is elementwise and rounded as written. Normals have the same bits on every
machine; one without instructions for fused multiply-adds is only slower.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastgmm.kernels._jit import COMPILED, SEPARATE, TILE_ROWS, TILE_STRIDE, VECTOR_BYTES, kernel
from fastgmm.kernels.elementary import fma, log_of_normal

_LANES = VECTOR_BYTES // 8

# First constants and factors of the two hashes of `numpy.random.SeedSequence` (O'Neill 2015), and the mixing factors.
_HASH_A, _HASH_B = (0x43B0D7E5, 0x931E8875), (0x8B51F9DD, 0x58F38DED)
_MIX_LEFT, _MIX_RIGHT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)

_UNUSED_BITS = np.uint64(11)
_UNIT = 2.0**-53
# Adding 1.5 * 2**52 rounds a float64 to an integer and leaves that integer in its low bits.
_ROUNDER = 6755399441055744.0
_ONE, _TWO, _TO_SIGN = np.uint64(1), np.uint64(2), np.uint64(62)

# sin 2πf = f (s0 + s1 z + ... + s6 z⁶) and cos 2πf = 1 + z (c0 + ... + c6 z⁶), z = f², on |f| <= 1/8, by Remez's
# exchange: relative errors 3.3e-18 and 3.9e-20.
_S0, _S1, _S2, _S3 = 6.283185307179586, -41.341702240399634, 81.60524927594452, -76.70585970331518
_S4, _S5, _S6 = 42.058684902060016, -15.09379750551969, 3.780726176843008
_C0, _C1, _C2, _C3 = -19.739208802178716, 64.93939402266798, -85.45681720652902, 60.2446413295097
_C4, _C5, _C6 = -26.426250938158862, 7.903092067215269, -1.696843038214309


def new_generators(sequence: np.random.SeedSequence, chains: int) -> np.ndarray:
    """Return the states (4, chains) of generators; the c-th depends on the sequence and c alone.

    It is seeded by the child that `sequence.spawn` would give as its c-th if it had spawned none; nothing is spawned.
    All children are made at once: NumPy takes 10 µs for each, and a short run of many chains is shorter than that.
    """
    # A child's entropy is its parent's and one word more, c. What is mixed into the pool before that is common to all.
    pool = [np.full(chains, word, dtype=np.uint32) for word in sequence.pool]
    words = max(_count_words(sequence.entropy), len(pool)) + _count_words(sequence.spawn_key)
    constant = _HASH_A[0] * pow(_HASH_A[1], len(pool) * words, 2**32) % 2**32
    child = np.arange(chains, dtype=np.uint32)
    for i, word in enumerate(pool):
        hashed, constant = _hash(child, constant, _HASH_A[1])
        pool[i] = _folded(_MIX_LEFT * word - _MIX_RIGHT * hashed)
    constant, halves = _HASH_B[0], []
    for i in range(8):
        hashed, constant = _hash(pool[i % len(pool)], constant, _HASH_B[1])
        halves.append(hashed.astype(np.uint64))
    return np.array([halves[i] | halves[i + 1] << np.uint64(32) for i in range(0, 8, 2)])


def _count_words(entropy: Any) -> int:
    """How many words of 32 bits `SeedSequence` makes of integers."""
    if isinstance(entropy, (int, np.integer)):
        return max(1, -(-int(entropy).bit_length() // 32))
    return sum(_count_words(number) for number in entropy)


def _hash(words: np.ndarray, constant: int, factor: int) -> tuple[np.ndarray, int]:
    """Hash words as `SeedSequence` does; return the next constant as well."""
    following = constant * factor % 2**32
    return _folded((words ^ np.uint32(constant)) * np.uint32(following)), following


def _folded(words: np.ndarray) -> np.ndarray:
    folded: np.ndarray = words ^ words >> np.uint32(16)
    return folded


def numbers_per_step(d: int) -> int:
    """How many numbers a step in d dimensions draws beside its extra uniforms, which are the features from there on."""
    return d + d % 2 + 1


def steps_per_tile(chains: int) -> int:
    """How many steps of so many chains, at most TILE_ROWS, a tile of noise holds."""
    return TILE_ROWS // chains


@kernel(flags=SEPARATE, merge=True)
def _rotate(x, count):
    return np.uint64(x << np.uint64(count)) | np.uint64(x >> np.uint64(64 - count))


@kernel(flags=SEPARATE, merge=True)
def _advance(s0, s1, s2, s3):
    """Return the next 64 random bits and the state behind them: xoshiro256++ (Blackman and Vigna 2021)."""
    word = np.uint64(_rotate(np.uint64(s0 + s3), 23) + s0)
    shifted = np.uint64(s1 << np.uint64(17))
    s2 ^= s0
    s3 ^= s1
    return word, s0 ^ s3, s1 ^ s2, s2 ^ shifted, _rotate(s3, 45)


@kernel(flags=SEPARATE, merge=True)
def _uniform(word):
    """One of the 2**53 multiples of 2**-53 in (0, 1]: never 0, whose logarithm is infinite."""
    return (float(np.int64(word >> _UNUSED_BITS)) + 1.0) * _UNIT


@kernel(flags=SEPARATE)
def _fill_chain(state, lane, steps, numbers, tile):
    chains = state.shape[1]
    s0, s1, s2, s3 = state[0, lane], state[1, lane], state[2, lane], state[3, lane]
    for step in range(steps):
        numbers_of_step = tile[step * chains + lane :]
        for j in range(numbers):
            word, s0, s1, s2, s3 = _advance(s0, s1, s2, s3)
            numbers_of_step[j * TILE_STRIDE] = _uniform(word)
    state[0, lane], state[1, lane], state[2, lane], state[3, lane] = s0, s1, s2, s3


def _make_fill_lanes():
    def fill_lanes(state, lane, steps, numbers, tile):
        """`_fill_chain` for the _LANES chains from `lane` on."""
        for i in range(_LANES):
            _fill_chain(state, lane + i, steps, numbers, tile)

    # LLVM vectorises a loop over chains too, but then loads and stores their states for every number: 4 times slower
    # with 16 chains, 10 times with 4. In registers the states stay where they are.
    integers, floats = ir.VectorType(ir.IntType(64), _LANES), ir.VectorType(ir.DoubleType(), _LANES)
    index = ir.IntType(64)

    def emit(builder, state, chains, lane, steps, numbers, tile):
        def vector_at(pointer, place, kind):
            return builder.bitcast(builder.gep(pointer, [place]), kind.as_pointer())

        def all_lanes(kind, value):
            return ir.Constant(kind, [value] * _LANES)

        def left(x, count):
            return builder.shl(x, all_lanes(integers, count))

        def right(x, count):
            return builder.lshr(x, all_lanes(integers, count))

        def rotate(x, count):
            return builder.or_(left(x, count), right(x, 64 - count))

        def as_mantissa(x, power, subtracted):
            """x as the last bits of a float64 in [power, 2 power), less a number."""
            bits = builder.or_(x, all_lanes(integers, int(np.float64(power).view(np.int64))))
            return builder.fsub(builder.bitcast(bits, floats), all_lanes(floats, subtracted))

        def uniform(word):
            # AVX2 does not convert 64-bit integers. 21 and 32 of the 53 bits become parts of a sum without rounding.
            high = as_mantissa(right(word, 43), 2.0**31, 2.0**31)
            low = builder.and_(right(word, 11), all_lanes(integers, 0xFFFFFFFF))
            return builder.fadd(high, as_mantissa(low, 0.5, 0.5 - _UNIT))

        places = [vector_at(state, builder.add(builder.mul(chains, index(r)), lane), integers) for r in range(4)]
        registers = [cgutils.alloca_once(builder, integers) for _ in places]
        for place, register in zip(places, registers, strict=True):
            builder.store(builder.load(place, align=8), register)
        with cgutils.for_range(builder, steps) as step:
            first = builder.add(builder.mul(step.index, chains), lane)
            with cgutils.for_range(builder, numbers) as number:
                s0, s1, s2, s3 = (builder.load(register) for register in registers)
                word = builder.add(rotate(builder.add(s0, s3), 23), s0)
                out = builder.add(first, builder.mul(number.index, index(TILE_STRIDE)))
                builder.store(uniform(word), vector_at(tile, out, floats), align=8)
                x2, x3 = builder.xor(s2, s0), builder.xor(s3, s1)
                following = (
                    builder.xor(s0, x3),
                    builder.xor(s1, x2),
                    builder.xor(x2, left(s1, 17)),
                    rotate(x3, 45),
                )
                for value, register in zip(following, registers, strict=True):
                    builder.store(value, register)
        for place, register in zip(places, registers, strict=True):
            builder.store(builder.load(register), place, align=8)

    def generate(context, builder, signature, values):
        state, lane, steps, numbers, tile = values
        state = context.make_array(signature.args[0])(context, builder, state)
        tile = context.make_array(signature.args[4])(context, builder, tile)
        chains = cgutils.unpack_tuple(builder, state.shape)[1]
        emit(builder, state.data, chains, lane, steps, numbers, tile.data)
        return context.get_dummy_value()

    def typed(typing_context, state, lane, steps, numbers, tile):
        return types.void(state, types.intp, types.intp, types.intp, tile), generate

    return intrinsic(typed) if COMPILED else fill_lanes


_fill_lanes = _make_fill_lanes()


@kernel(flags=SEPARATE)
def fill_uniforms(state, steps, numbers, tile):
    """Draw `steps` steps of `numbers` uniforms for all chains into a tile and advance `state` (4, chains) by them.

    Uniforms are multiples of 2**-53 in (0, 1]. Number j of a step in chain c goes to place (step, c) of feature j.
    Places that no step reaches get 1, so that what transforms whole features meets nothing else.
    """
    chains = state.shape[1]
    in_lanes = chains - chains % _LANES
    for lane in range(0, in_lanes, _LANES):
        _fill_lanes(state, lane, steps, numbers, tile)
    for lane in range(in_lanes, chains):
        _fill_chain(state, lane, steps, numbers, tile)
    for j in range(numbers):
        tile[j * TILE_STRIDE + steps * chains : (j + 1) * TILE_STRIDE] = 1.0


@kernel(flags=SEPARATE, merge=True)
def _with_sign(x, sign):
    """-x where the highest bit of `sign` is set."""
    return float(np.uint64(np.float64(x).view(np.uint64) ^ sign).view(np.float64))


@kernel(flags=SEPARATE, merge=True)
def normal_pair(first, second):
    """Two independent normals from two independent uniforms in (0, 1] (Box and Muller 1958).

    r = sqrt(-2 log u), angle 2πv. 4v = q + 4f with an integer q and |f| <= 1/8, without rounding; the q quarter turns
    exchange sine and cosine and set their signs.
    """
    radius = math.sqrt(0.0 - 2.0 * log_of_normal(first))
    shifted = fma(second, 4.0, _ROUNDER)
    f = fma(shifted - _ROUNDER, -0.25, second)
    z = f * f
    w = z * z
    sine = f * fma(w, fma(w, fma(_S6, w, fma(_S5, z, _S4)), fma(_S3, z, _S2)), fma(_S1, z, _S0))
    cosine = fma(z, fma(w, fma(w, fma(_C6, w, fma(_C5, z, _C4)), fma(_C3, z, _C2)), fma(_C1, z, _C0)), 1.0)
    quarters = np.float64(shifted).view(np.uint64)
    odd = np.uint64(quarters & _ONE) != np.uint64(0)
    x, y = (sine, cosine) if odd else (cosine, sine)
    x_sign = np.uint64(np.uint64(np.uint64(quarters + _ONE) & _TWO) << _TO_SIGN)
    y_sign = np.uint64(np.uint64(quarters & _TWO) << _TO_SIGN)
    return radius * _with_sign(x, x_sign), radius * _with_sign(y, y_sign)


@kernel(flags=SEPARATE)
def make_normal(first, second, places=TILE_ROWS):
    """Turn a tile's two features of uniforms into normals, in place; compiled, whole features are faster than parts."""
    for i in range(TILE_ROWS if COMPILED else places):
        first[i], second[i] = normal_pair(first[i], second[i])


@kernel(flags=SEPARATE)
def make_exponential(values, places=TILE_ROWS):
    """Turn a tile's feature of uniforms into exponentials, in place: e = -log u, so log u < t is e > -t."""
    for i in range(TILE_ROWS if COMPILED else places):
        values[i] = 0.0 - log_of_normal(values[i])


@kernel(flags=SEPARATE)
def fill_noise(state, steps, d, extra, tile):
    """Draw the noise of `steps` steps in d dimensions for all chains and advance `state` (4, chains) by them.

    `state` is contiguous, steps at most `steps_per_tile(chains)`, and the tile has `numbers_per_step(d) + extra`
    features. Feature j < d of the tile gets the j-th normal of each step, feature `numbers_per_step(d) - 1` its
    exponential, and the last `extra` ones uniforms in (0, 1].
    """
    pairs = (d + 1) // 2
    places = steps * state.shape[1]
    fill_uniforms(state, steps, 2 * pairs + 1 + extra, tile)
    for j in range(0, 2 * pairs, 2):
        make_normal(tile[j * TILE_STRIDE :], tile[(j + 1) * TILE_STRIDE :], places)
    make_exponential(tile[2 * pairs * TILE_STRIDE :], places)
