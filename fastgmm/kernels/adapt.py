"""How chains in lanes learn the factor of their random walk's covariance while they warm up.

Both rules turn L Lᵀ into (1 - g) L (I + c v vᵀ) Lᵀ. The Cholesky factor of I + c v vᵀ is known in closed form: with
t_j = 1 + c (v_0² + ... + v_{j-1}²) it has sqrt(t_{j+1} / t_j) on its diagonal and v_r c v_j / sqrt(t_j t_{j+1}) below.
L times that is a lower triangle again, row by row from the right, and every t is positive: for c > 0 clearly, and
where c < 0 because |v| = 1 and c > -1. So nothing can fail, as a downdate by rotations may.

Entry e of lane i's lower triangle, row by row, is at e * triangle_stride(lanes) + i; all else is in features.
"""

import math

import numpy as np

from fastgmm.kernels._jit import SEPARATE, TILE_STRIDE, kernel
from fastgmm.kernels.elementary import exp, fma, log_of_normal
from fastgmm.kernels.lanes import triangle_stride

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
def adapt_robust(factor, d, lanes, count, noise, log_ratio, work):
    """Robust adaptive Metropolis: L Lᵀ <- L (I + η (α - α*) z zᵀ / |z|²) Lᵀ (Vihola 2012, equation 1).

    α = min(1, exp log_ratio) is the probability of acceptance that the step with noise z had, α* the one to come to,
    and η = min(1, d n^(-2/3)) for the n-th adaptation.
    """
    rate = min(1.0, d * exp(-2.0 / 3.0 * log_of_normal(float(count))))
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
        alpha = alpha if ratio == ratio else 0.0
        change = rate * (alpha - wanted)
        change = 0.0 if change > 0.0 and work[largest * TILE_STRIDE + i] > _LARGEST else change
        change = 0.0 if change < 0.0 and work[smallest * TILE_STRIDE + i] < _SMALLEST else change
        work[TILE_STRIDE + i] = change / work[i] if work[i] > 0.0 else 0.0
        work[2 * TILE_STRIDE + i] = 1.0
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
    for i in range(lanes):
        work[i] = 0.0
    for r in range(d):
        first = r * (r + 1) // 2
        for i in range(lanes):
            at = r * TILE_STRIDE + i
            deviation = position[at] - centre[at]
            work[(_DIRECTION + r) * TILE_STRIDE + i] = deviation
            centre[at] = fma(deviation, share, centre[at])
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
        sound = work[i] < _LARGEST
        work[TILE_STRIDE + i] = growth if sound else 0.0
        work[2 * TILE_STRIDE + i] = shrinkage if sound else 1.0
    for j in range(d):
        for i in range(lanes):
            at = (_DIRECTION + j) * TILE_STRIDE + i
            work[at] = work[at] if abs(work[at]) < _LARGEST else 0.0
    _multiply_triangle(factor, stride, d, lanes, work)
