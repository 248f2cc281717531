"""How chains in lanes learn the factor of their random walk's covariance while they warm up.

All rules turn L Lᵀ into g L (I + c v vᵀ) Lᵀ. The Cholesky factor of I + c v vᵀ is known in closed form: with
t_j = 1 + c (v_0² + ... + v_{j-1}²) it has sqrt(t_{j+1} / t_j) on its diagonal and v_r c v_j / sqrt(t_j t_{j+1}) below.
L times that is a lower triangle again, row by row from the right, and every t is positive: for c > 0 clearly, and
where c < 0 because c |v|² > -1. So nothing can fail, as a downdate by rotations may.

Entry e of lane i's lower triangle, row by row, is at e * triangle_stride(lanes) + i; all else is in features.
"""

import math

import numpy as np

from fastgmm.kernels._jit import SEPARATE, TILE_STRIDE, kernel
from fastgmm.kernels.elementary import exp, fma, log_of_normal
from fastgmm.kernels.steps import triangle_stride

# Beyond these, steps would soon be 0 or infinite: the density is flat, or has a hole where the chain is.
_LARGEST, _SMALLEST = 1e150, 1e-150
# `work` begins with five features of sums and scales; then come v, and what C has on its diagonal and below.
_DIRECTION = 5


def work_features(d: int) -> int:
    """Features of `work` that an adaptation needs."""
    return _DIRECTION + 3 * d


@kernel(flags=SEPARATE)
def _multiply_triangle(factor, stride, d, lanes, work):
    """L <- scale L C with C the factor of I + c v vᵀ; work: [0] sums, [1] c, [2] scale, v from feature 5 on."""
    v, diagonal, below = _DIRECTION, _DIRECTION + d, _DIRECTION + 2 * d
    for i in range(lanes):
        work[i] = 1.0
    for j in range(d):
        for i in range(lanes):
            x = work[(v + j) * TILE_STRIDE + i]
            scaled = work[TILE_STRIDE + i] * x
            before = work[i]
            after = fma(scaled, x, before)
            scale = work[2 * TILE_STRIDE + i]
            work[i] = after
            work[(diagonal + j) * TILE_STRIDE + i] = scale * math.sqrt(after / before)
            work[(below + j) * TILE_STRIDE + i] = scale * (scaled / math.sqrt(before * after))
    for r in range(d):
        first = r * (r + 1) // 2
        for i in range(lanes):
            work[i] = 0.0
        for j in range(r, -1, -1):
            for i in range(lanes):
                entry = factor[(first + j) * stride + i]
                total = work[i]
                across = work[(below + j) * TILE_STRIDE + i] * total
                work[i] = fma(entry, work[(v + j) * TILE_STRIDE + i], total)
                factor[(first + j) * stride + i] = fma(entry, work[(diagonal + j) * TILE_STRIDE + i], across)


@kernel(flags=SEPARATE)
def _whiten(factor, stride, d, lanes, position, centre, work):
    """v = L⁻¹ (position - centre), and |v|² in feature 0; where that is beyond all bounds it is infinite and v is 0."""
    for i in range(lanes):
        work[i] = 0.0
    for r in range(d):
        first = r * (r + 1) // 2
        for i in range(lanes):
            work[(_DIRECTION + r) * TILE_STRIDE + i] = position[r * TILE_STRIDE + i] - centre[r * TILE_STRIDE + i]
        for j in range(r):
            for i in range(lanes):
                v = work[(_DIRECTION + j) * TILE_STRIDE + i]
                at = (_DIRECTION + r) * TILE_STRIDE + i
                work[at] = fma(0.0 - factor[(first + j) * stride + i], v, work[at])
        for i in range(lanes):
            at = (_DIRECTION + r) * TILE_STRIDE + i
            v = work[at] / factor[(first + r) * stride + i]
            work[at] = v
            work[i] = fma(v, v, work[i])
    for i in range(lanes):
        work[i] = work[i] if work[i] < _LARGEST else np.inf
    for j in range(d):
        for i in range(lanes):
            at = (_DIRECTION + j) * TILE_STRIDE + i
            work[at] = work[at] if work[i] < _LARGEST else 0.0


@kernel(flags=SEPARATE)
def adapt_robust(factor, d, lanes, count, noise, log_ratio, work):
    """Robust adaptive Metropolis: L Lᵀ <- L (I + η (α - α*) z zᵀ / |z|²) Lᵀ (Vihola 2012, equation 1).

    α = min(1, exp log_ratio) is the probability of acceptance that the step with noise z had, α* the one to come to,
    and η = min(1, min(d, 100 / d) n^(-2/3)) for the n-th adaptation. Vihola's d spoils a factor that is right in many
    dimensions: of a normal in 100, 16 chains of 20,000 steps have 670 effective draws with its own shape, and after
    4,000 steps of warm-up 106 where now they have 661.

    Equation 1 changes one direction of d at a time, so it is slow to mend a wrong size: steps 1,000 times too long in
    five dimensions stay so for thousands. Therefore L Lᵀ is multiplied by exp(min(1, 8 n^(-2/3)) (α - α*)) as well
    (Andrieu and Thoms 2008, algorithm 4), which mends that within 500.
    """
    decay = exp(-2.0 / 3.0 * log_of_normal(float(count)))
    rate, rate_of_size = min(1.0, min(d, 100.0 / d) * decay), min(1.0, 8.0 * decay)
    stride = triangle_stride(lanes)
    wanted = 0.44 if d == 1 else 0.234
    square, smallest, largest = 0, 3, 4
    for i in range(lanes):
        work[square + i] = 0.0
        work[smallest * TILE_STRIDE + i] = np.inf
        work[largest * TILE_STRIDE + i] = 0.0
    for j in range(d):
        diagonal = (j * (j + 1) // 2 + j) * stride
        for i in range(lanes):
            z = noise[j * TILE_STRIDE + i]
            work[(_DIRECTION + j) * TILE_STRIDE + i] = z
            work[i] = fma(z, z, work[i])
            entry = factor[diagonal + i]
            low, high = work[smallest * TILE_STRIDE + i], work[largest * TILE_STRIDE + i]
            work[smallest * TILE_STRIDE + i] = entry if entry < low else low
            work[largest * TILE_STRIDE + i] = entry if entry > high else high
    for i in range(lanes):
        ratio = log_ratio[i]
        alpha = exp(ratio if ratio < 0.0 else 0.0)
        # To 8 bits, lest the rounding of large log-densities, which leaves decisions as they are, should show in steps.
        alpha = math.floor(256.0 * alpha + 0.5) / 256.0 if ratio == ratio else 0.0
        excess = alpha - wanted
        excess = 0.0 if excess > 0.0 and work[largest * TILE_STRIDE + i] > _LARGEST else excess
        excess = 0.0 if excess < 0.0 and work[smallest * TILE_STRIDE + i] < _SMALLEST else excess
        work[TILE_STRIDE + i] = rate * excess / work[i] if work[i] > 0.0 else 0.0
        work[2 * TILE_STRIDE + i] = exp(0.5 * rate_of_size * excess)
    _multiply_triangle(factor, stride, d, lanes, work)


@kernel(flags=SEPARATE)
def adapt_shape(factor, d, lanes, count, taken, position, centre, work):
    """L Lᵀ <- (1 - w) L Lᵀ + w d (x - m) (x - m)ᵀ / |L⁻¹ (x - m)|² for chains that moved to x; m is their mean.

    With w = 1 / (n / 4 + d + d² / 5) at the n-th step, as a quarter of the steps are moves, this is Tyler's (1987)
    estimate of the positions' shape, in which the first factor counts as d + d² / 5 of them, since it takes some d
    moves to forget a position. It looks at directions alone, so that heavy tails do not trouble it. Equation 1 sees a
    shape only in how likely steps in each direction are accepted, which differs little in many dimensions.

    With both, 16 chains of 10,000 steps in ten dimensions whose neighbours are correlated by 0.9 have, in the worst,
    993 effective draws after 1,000 steps of warm-up and 3,739 after 4,000, with equation 1 alone 215 and 493, with the
    target's own shape 4,526; in five with variances from 1e-4 to 1 they have 2,986 and 7,382, alone 27 and 109, at the
    best 8,569.
    """
    stride = triangle_stride(lanes)
    weight = 1.0 / (0.25 * count + d + 0.2 * d * d)
    share = min(1.0, 4.0 / (count + 1.0))
    _whiten(factor, stride, d, lanes, position, centre, work)
    for i in range(lanes):
        square = work[i]
        moved = taken[i] != 0 and square > _SMALLEST and square < _LARGEST
        work[TILE_STRIDE + i] = weight / (1.0 - weight) * d / square if moved else 0.0
        work[2 * TILE_STRIDE + i] = math.sqrt(1.0 - weight) if moved else 1.0
    for j in range(d):
        for i in range(lanes):
            at = j * TILE_STRIDE + i
            deviation = position[at] - centre[at]
            centre[at] = fma(deviation, share, centre[at]) if taken[i] != 0 else centre[at]
    _multiply_triangle(factor, stride, d, lanes, work)


@kernel(flags=SEPARATE)
def adapt_haario(factor, d, lanes, count, position, centre, work):
    """Adaptive Metropolis: L Lᵀ becomes the covariance of the positions so far times 2.38² / d (Haario et al. 2001).

    The factor that the walk began with counts as the covariance of the first 2 d positions, which keeps what follows
    positive definite. `centre` is the mean of the `count` positions before this one.
    """
    stride = triangle_stride(lanes)
    before = float(2 * d + count)
    # With δ = x - mean, the sum of squared deviations grows by δ δᵀ count / (count + 1), and L v = δ.
    growth = (float(count) / (float(count) + 1.0)) / before * (2.38 * 2.38 / d)
    shrinkage = math.sqrt(before / (before + 1.0))
    share = 1.0 / (float(count) + 1.0)
    _whiten(factor, stride, d, lanes, position, centre, work)
    for i in range(lanes):
        sound = work[i] < _LARGEST
        work[TILE_STRIDE + i] = growth if sound else 0.0
        work[2 * TILE_STRIDE + i] = shrinkage if sound else 1.0
    for j in range(d):
        for i in range(lanes):
            at = j * TILE_STRIDE + i
            centre[at] = fma(position[at] - centre[at], share, centre[at])
    _multiply_triangle(factor, stride, d, lanes, work)
