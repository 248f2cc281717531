"""Candidates that a mixture suggests, for many chains at once, with the exact ratio of their densities.

A move writes a candidate y for the position x of each lane, and log q(x | y) - log q(y | x), which the
Metropolis-Hastings ratio needs besides the target's densities at both. All arithmetic is elementwise per lane and
rounded as written, so that a chain has the same bits however many run beside it.

The mixture comes in one array of 64-bit words, `packed`; `pack` writes it and `unpack` reads it back.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from fastgmm.kernels._jit import SEPARATE, TILE_STRIDE, kernel, kernel_with_signature
from fastgmm.kernels.calls import MOVE
from fastgmm.kernels.elementary import exp, fma, log, log1p, log_of_normal
from fastgmm.kernels.lanes import squared_distances
from fastgmm.kernels.random import normal_pair

# d dimensions, k components. Number j of lane i is at j * TILE_STRIDE + i of every array that holds lanes.


class Components(NamedTuple):
    """A mixture as moves read it. Triangles are lower ones row by row, or diagonals alone."""

    constants: np.ndarray  # (k,), log of weight times density at the component's mean
    means: np.ndarray  # (k, d)
    factors: np.ndarray  # (k, length), as `lanes.squared_distances` takes them
    lowers: np.ndarray  # (k, size), triangles L with Σ = L Lᵀ


def pack(form: int, components: Components, extra: tuple[np.ndarray, ...]) -> np.ndarray:
    """Write a mixture, and what else a move needs, into one array of words; `form` is one of `lanes`."""
    k, d = components.means.shape
    header = np.array([d, k, form, components.factors.shape[1], components.lowers.shape[1]], dtype=np.int64)
    parts = [np.ravel(part).astype(np.float64).view(np.int64) for part in (*components, *extra)]
    return np.concatenate([header, *parts])


@kernel(flags=SEPARATE, merge=True)
def unpack(packed):
    """Return d, k, the form, the mixture's parts, and what stands behind them."""
    d, k, form = packed[0], packed[1], packed[2]
    words = packed[5:].view(np.float64)
    factors = k + k * d
    lowers = factors + k * packed[3]
    end = lowers + k * packed[4]
    return d, k, form, words[:k], words[k:factors], words[factors:lowers], words[lowers:end], words[end:]


@kernel(flags=SEPARATE, merge=True)
def feature(values, j):
    """The lanes of one number and what follows it."""
    return values[j * TILE_STRIDE :]


@kernel(flags=SEPARATE, merge=True)
def uniforms_of(noise, d):
    """The step's uniforms, behind the `random.numbers_per_step(d)` numbers that every step has."""
    return feature(noise, d + d % 2 + 1)


@kernel(flags=SEPARATE)
def copy(terms, k, out):
    """out = terms, k for each lane."""
    # Slice assignment would compile the text of its own error message: a second of a first call.
    for i in range(k * TILE_STRIDE):
        out[i] = terms[i]


@kernel(flags=SEPARATE)
def subtract(x, y, d, lanes, out):
    """out = x - y, lane by lane."""
    for j in range(d):
        a, b, c = feature(x, j), feature(y, j), feature(out, j)
        for i in range(lanes):
            c[i] = a[i] - b[i]


@kernel(flags=SEPARATE)
def component_densities(packed, x, lanes, work, terms):
    """terms_c = log w_c N(x | μ_c, Σ_c); `work` holds d numbers per lane."""
    d, k, form, constants, means, factors, _, _ = unpack(packed)
    squared_distances(form, factors, means, k, d, x, lanes, terms, work)
    for c in range(k):
        term = feature(terms, c)
        for i in range(lanes):
            term[i] = constants[c] - 0.5 * term[i]


@kernel(flags=SEPARATE)
def exponentiate(terms, k, lanes, largest, total):
    """Turn terms_c into exp(terms_c - the largest of a lane), in place; set `largest` and the sum, `total`."""
    for i in range(lanes):
        largest[i] = terms[i]
    for c in range(1, k):
        term = feature(terms, c)
        for i in range(lanes):
            largest[i] = term[i] if term[i] > largest[i] else largest[i]
    for c in range(k):
        term = feature(terms, c)
        for i in range(lanes):
            term[i] = exp(term[i] - largest[i])
            total[i] = total[i] + term[i] if c else term[i]


@kernel(flags=SEPARATE)
def log_sum(terms, k, lanes, largest, out):
    """out = log Σ_c exp(terms_c); the terms are overwritten."""
    exponentiate(terms, k, lanes, largest, out)
    for i in range(lanes):
        out[i] = largest[i] + log(out[i])


@kernel(flags=SEPARATE)
def choose(shares, k, total, uniform, lanes, running, chosen):
    """chosen = the first c with share_0 + ... + share_c >= uniform * total, for a uniform in (0, 1].

    The total is the sum in this order, so there is such a component, and its share is not zero.
    """
    for i in range(lanes):
        running[i] = 0.0
        chosen[i] = 0.0
    for c in range(k - 1):
        share = feature(shares, c)
        for i in range(lanes):
            running[i] += share[i]
            chosen[i] += 1.0 if running[i] < uniform[i] * total[i] else 0.0


@kernel(flags=SEPARATE)
def multiply_chosen(triangles, k, chosen, x, d, lanes, out):
    """out = T x, for each lane with the triangle T of the component chosen for it."""
    size = len(triangles) // k
    # Lane by lane: with all lanes innermost, which gathers every entry for each, it takes 1.5 times as long at d = 20.
    for i in range(lanes):
        entry = int(chosen[i]) * size
        for r in range(d):
            total = 0.0
            for p in range(r if size == d else 0, r + 1):
                total = fma(triangles[entry], x[p * TILE_STRIDE + i], total)
                entry += 1
            out[r * TILE_STRIDE + i] = total


@kernel(flags=SEPARATE)
def reject_undefined(log_q_ratio, lanes):
    """Densities beyond float64 have no ratio: their candidates are rejected."""
    for i in range(lanes):
        log_q_ratio[i] = log_q_ratio[i] if abs(log_q_ratio[i]) < math.inf else -math.inf


# Independence: y ~ q = (1 - δ) Σ_c w_c N(μ_c, Σ_c) + δ t_ν(m, S). The t is the last component.


@kernel(flags=SEPARATE)
def defended_density(packed, x, lanes, work, out):
    """out = log q(x); `work` holds k + d + 1 numbers per lane."""
    d, k, form, constants, means, factors, _, rest = unpack(packed)
    freedom = rest[0]
    normals = k - 1 if freedom > 0.0 else k
    terms, largest = work, feature(work, k)
    squared_distances(form, factors, means, k, d, x, lanes, terms, feature(work, k + 1))
    for c in range(normals):
        term = feature(terms, c)
        for i in range(lanes):
            term[i] = constants[c] - 0.5 * term[i]
    for c in range(normals, k):
        # log t = constant - (ν + d) / 2 log(1 + |F (x - m)|² / ν)
        term = feature(terms, c)
        for i in range(lanes):
            term[i] = constants[c] - 0.5 * (freedom + d) * log1p(term[i] / freedom)
    log_sum(terms, k, lanes, largest, out)


@kernel(flags=SEPARATE)
def heavy_scale(uniforms, freedom, lanes, out):
    """out = sqrt(ν / χ²_ν): a sum of exponentials, and the square of a normal if ν is odd."""
    pairs = freedom // 2
    for i in range(lanes):
        out[i] = 1.0
    for j in range(pairs):
        uniform = feature(uniforms, j)
        for i in range(lanes):
            out[i] *= uniform[i]
    if freedom % 2:
        first, second = feature(uniforms, pairs), feature(uniforms, pairs + 1)
        for i in range(lanes):
            normal, _ = normal_pair(first[i], second[i])
            out[i] = math.sqrt(freedom / fma(-2.0, log_of_normal(out[i]), normal * normal))
    else:
        for i in range(lanes):
            out[i] = math.sqrt(freedom / (-2.0 * log_of_normal(out[i])))


@kernel(flags=SEPARATE)
def draw_defended(packed, lanes, noise, candidate, work):
    """Draw from q; `work` holds three numbers per lane."""
    d, k, _, _, means, _, lowers, rest = unpack(packed)
    freedom, cumulative = int(rest[0]), rest[1:]
    chosen, scale = work, feature(work, 1)
    uniforms = uniforms_of(noise, d)
    for i in range(lanes):
        chosen[i] = 0.0
        scale[i] = 1.0
    for c in range(k - 1):
        for i in range(lanes):
            chosen[i] += 1.0 if cumulative[c] < uniforms[i] else 0.0
    if freedom:
        heavy = feature(work, 2)
        heavy_scale(feature(uniforms, 1), freedom, lanes, heavy)
        for i in range(lanes):
            scale[i] = heavy[i] if chosen[i] == k - 1 else 1.0
    multiply_chosen(lowers, k, chosen, noise, d, lanes, candidate)
    for j in range(d):
        y = feature(candidate, j)
        for i in range(lanes):
            y[i] = fma(scale[i], y[i], means[int(chosen[i]) * d + j])


def independence(x, lanes, noise, candidate, log_q_ratio, work, packed):
    """Draw y from q, whatever x is: log q(x) - log q(y)."""
    draw_defended(packed, lanes, noise, candidate, work)
    before, rest = work, feature(work, 1)
    defended_density(packed, x, lanes, rest, before)
    defended_density(packed, candidate, lanes, rest, log_q_ratio)
    for i in range(lanes):
        log_q_ratio[i] = before[i] - log_q_ratio[i]
    reject_undefined(log_q_ratio, lanes)


# MixtureLocal: y ~ q(y | x) = Σ_c r_c(x) N(y | x, s² Σ_c) with the responsibilities r of the mixture.


@kernel(flags=SEPARATE)
def step_densities(packed, step, lanes, work, out):
    """out_c = log N(y | x, s² Σ_c) but for what all components share; `work` holds d numbers per lane."""
    d, k, form, _, _, factors, _, rest = unpack(packed)
    scale, log_determinants, zeros = rest[0], rest[1 : k + 1], rest[k + 1 :]
    squared_distances(form, factors, zeros, k, d, step, lanes, out, work)
    for c in range(k):
        term = feature(out, c)
        for i in range(lanes):
            term[i] = log_determinants[c] - 0.5 * term[i] / (scale * scale)


@kernel(flags=SEPARATE)
def log_mean(terms, weights, k, lanes, work, out):
    """out = log Σ_c r_c exp(terms_c), r_c the shares of `weights`; both are overwritten, `work` holds 2 per lane."""
    for c in range(k):
        term, weight = feature(terms, c), feature(weights, c)
        for i in range(lanes):
            term[i] += weight[i]
    largest, total = work, feature(work, 1)
    log_sum(weights, k, lanes, largest, total)
    log_sum(terms, k, lanes, largest, out)
    for i in range(lanes):
        out[i] -= total[i]


def mixture_local(x, lanes, noise, candidate, log_q_ratio, work, packed):
    """Step with the covariance of a component chosen by responsibility: log q(x | y) - log q(y | x).

    q is summed over the components that may have been chosen, and so is the density of candidates.
    """
    d, k, _, _, _, _, lowers, rest = unpack(packed)
    scale = rest[0]
    weights, shares, steps = work, feature(work, k), feature(work, 2 * k)
    largest = feature(work, 3 * k)
    total, running, chosen = feature(largest, 1), feature(largest, 2), feature(largest, 3)
    before, step, scratch = feature(largest, 4), feature(largest, 5), feature(largest, 5 + d)
    component_densities(packed, x, lanes, scratch, weights)
    copy(weights, k, shares)
    exponentiate(shares, k, lanes, largest, total)
    choose(shares, k, total, uniforms_of(noise, d), lanes, running, chosen)
    multiply_chosen(lowers, k, chosen, noise, d, lanes, candidate)
    for j in range(d):
        y, start = feature(candidate, j), feature(x, j)
        for i in range(lanes):
            y[i] = fma(scale, y[i], start[i])
    subtract(candidate, x, d, lanes, step)  # what is left of the step after rounding
    step_densities(packed, step, lanes, scratch, steps)
    copy(steps, k, shares)
    log_mean(shares, weights, k, lanes, largest, before)
    component_densities(packed, candidate, lanes, scratch, weights)
    log_mean(steps, weights, k, lanes, largest, log_q_ratio)
    for i in range(lanes):
        log_q_ratio[i] -= before[i]
    reject_undefined(log_q_ratio, lanes)


# ModeJump: y = μ_b + L_b F_a (x - μ_a), from a component a chosen by responsibility to another b by given odds.


@kernel(flags=SEPARATE)
def choose_other(odds, k, origin, uniform, lanes, total, running, chosen):
    """chosen = b with probability odds_b / (the sum of all odds but those of `origin`)."""
    for i in range(lanes):
        total[i] = 0.0
        running[i] = 0.0
        chosen[i] = 0.0
    for c in range(k):
        for i in range(lanes):
            total[i] += 0.0 if origin[i] == c else odds[c]
    for c in range(k - 1):
        for i in range(lanes):
            running[i] += 0.0 if origin[i] == c else odds[c]
            chosen[i] += 1.0 if running[i] < uniform[i] * total[i] else 0.0


def mode_jump(x, lanes, noise, candidate, log_q_ratio, work, packed):
    """Map x from one component to another, Jacobian |L_b| / |L_a|.

    The ratio is r_b(y) o_ba |L_b| / (r_a(x) o_ab |L_a|) with the odds o_ab of b once a is left. As x and y are at the
    same distance from the means of a and b, determinants and distances cancel: with the mixture's density m it is
    m(x) / m(y) times w_b o_ba / (w_a o_ab), whose factors' logarithms `pack` was given for each component.
    """
    d, k, _, _, means, _, lowers, rest = unpack(packed)
    odds, log_balance, whites = rest[:k], rest[k : 2 * k], rest[2 * k :]
    terms, largest = work, feature(work, k)
    total, running, origin, chosen = (
        feature(largest, 1),
        feature(largest, 2),
        feature(largest, 3),
        feature(largest, 4),
    )
    scratch, white = feature(largest, 5), feature(largest, 5 + d)
    uniforms = uniforms_of(noise, d)
    component_densities(packed, x, lanes, scratch, terms)
    exponentiate(terms, k, lanes, largest, total)
    choose(terms, k, total, uniforms, lanes, running, origin)
    for i in range(lanes):
        log_q_ratio[i] = largest[i] + log(total[i])
    choose_other(odds, k, origin, feature(uniforms, 1), lanes, total, running, chosen)
    for j in range(d):
        shifted, start = feature(scratch, j), feature(x, j)
        for i in range(lanes):
            shifted[i] = start[i] - means[int(origin[i]) * d + j]
    multiply_chosen(whites, k, origin, scratch, d, lanes, white)
    multiply_chosen(lowers, k, chosen, white, d, lanes, candidate)
    for j in range(d):
        y = feature(candidate, j)
        for i in range(lanes):
            y[i] += means[int(chosen[i]) * d + j]
    component_densities(packed, candidate, lanes, scratch, terms)
    log_sum(terms, k, lanes, largest, total)
    for i in range(lanes):
        balance = log_balance[int(chosen[i])] - log_balance[int(origin[i])]
        log_q_ratio[i] = log_q_ratio[i] - total[i] + balance
    reject_undefined(log_q_ratio, lanes)


@functools.cache
def compiled_move(move: Any) -> Any:
    """Compile a move or load it from the disk cache, at its first use rather than at import."""
    return kernel_with_signature(move, MOVE, flags=SEPARATE)
