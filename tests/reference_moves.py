"""The moves around a mixture, written from their formulas with SciPy, and the loop in which a step takes one."""

import numpy as np
from scipy import stats
from scipy.special import logsumexp

from fastgmm.kernels._jit import TILE_ROWS, TILE_STRIDE
from fastgmm.kernels.random import numbers_per_step


def log_normal(x, mean, covariance):
    return np.atleast_1d(stats.multivariate_normal(mean, covariance).logpdf(x))


def log_components(mixture, x):
    """log w_c N(x | μ_c, Σ_c), (n, k)."""
    covariances = mixture.covariances_dense
    with np.errstate(divide="ignore"):
        return np.stack(
            [
                np.log(mixture.weights[c]) + log_normal(x, mixture.means[c], covariances[c])
                for c in range(mixture.n_components)
            ],
            axis=1,
        )


def log_responsibilities(mixture, x):
    terms = log_components(mixture, x)
    return terms - logsumexp(terms, axis=1, keepdims=True)


def choose(shares, uniforms):
    """The first component whose cumulative share reaches the uniform."""
    cumulative = np.cumsum(shares, axis=1)
    return (uniforms[:, None] * cumulative[:, -1:] > cumulative).sum(axis=1)


def whole_covariance(mixture):
    if mixture.covariance_type in ("diag", "spherical"):
        return np.diag(np.diagonal(mixture.cov))
    return mixture.cov


def log_defended(kernel, x):
    """log q of `Independence`."""
    mixture, widen = kernel.mixture, kernel.widen
    terms = [
        np.log1p(-kernel.defensive) + np.log(weight) + log_normal(x, mean, widen * covariance)
        for weight, mean, covariance in zip(mixture.weights, mixture.means, mixture.covariances_dense, strict=True)
        if weight > 0.0
    ]
    if kernel.defensive > 0.0:
        student = stats.multivariate_t(mixture.mean, whole_covariance(mixture), df=kernel.tail)
        terms.append(np.log(kernel.defensive) + np.atleast_1d(student.logpdf(x)))
    return logsumexp(terms, axis=0)


def independence(kernel, x, normals, uniforms):
    mixture, freedom = kernel.mixture, kernel.tail
    lowers = np.sqrt(kernel.widen) * np.linalg.cholesky(mixture.covariances_dense)
    weights, means = (1.0 - kernel.defensive) * mixture.weights, mixture.means
    if kernel.defensive > 0.0:
        lowers = np.concatenate([lowers, np.linalg.cholesky(whole_covariance(mixture))[None]])
        weights, means = np.append(weights, kernel.defensive), np.vstack([means, mixture.mean])
    chosen = choose(np.broadcast_to(weights, (len(x), len(weights))), uniforms[:, 0])
    steps = np.einsum("nij,nj->ni", lowers[chosen], normals)
    if kernel.defensive > 0.0:
        exponentials, pair = uniforms[:, 1 : 1 + freedom // 2], uniforms[:, 1 + freedom // 2 :]
        square = -2.0 * np.log(exponentials).sum(axis=1)
        if freedom % 2:
            square += -2.0 * np.log(pair[:, 0]) * np.cos(2.0 * np.pi * pair[:, 1]) ** 2
        heavy = chosen == mixture.n_components
        steps[heavy] *= np.sqrt(freedom / square[heavy])[:, None]
    y = means[chosen] + steps
    return y, log_defended(kernel, x) - log_defended(kernel, y)


def log_local(kernel, y, x):
    """log q(y | x) of `MixtureLocal`."""
    covariances = kernel.scale**2 * kernel.mixture.covariances_dense
    zero = np.zeros(kernel.mixture.n_features)
    steps = np.stack([log_normal(y - x, zero, covariance) for covariance in covariances], axis=1)
    return logsumexp(log_responsibilities(kernel.mixture, x) + steps, axis=1)


def mixture_local(kernel, x, normals, uniforms):
    lowers = np.linalg.cholesky(kernel.mixture.covariances_dense)
    chosen = choose(np.exp(log_responsibilities(kernel.mixture, x)), uniforms[:, 0])
    y = x + kernel.scale * np.einsum("nij,nj->ni", lowers[chosen], normals)
    return y, log_local(kernel, x, y) - log_local(kernel, y, x)


def mode_jump(kernel, x, normals, uniforms):
    mixture, odds, n = kernel.mixture, np.array(kernel.odds), np.arange(len(x))
    lowers = np.linalg.cholesky(mixture.covariances_dense)
    log_volumes = np.log(np.diagonal(lowers, axis1=1, axis2=2)).sum(axis=1)
    before = log_responsibilities(mixture, x)
    origin = choose(np.exp(before), uniforms[:, 0])
    others = np.where(np.arange(mixture.n_components) == origin[:, None], 0.0, odds)
    chosen = choose(others, uniforms[:, 1])
    white = np.linalg.solve(lowers[origin], (x - mixture.means[origin])[..., None])
    y = mixture.means[chosen] + (lowers[chosen] @ white)[..., 0]
    after = log_responsibilities(mixture, y)
    there = before[n, origin] + np.log(odds[chosen] / (1.0 - odds[origin]))
    back = after[n, chosen] + np.log(odds[origin] / (1.0 - odds[chosen]))
    return y, back - there + log_volumes[chosen] - log_volumes[origin]


TWINS = {"Independence": independence, "MixtureLocal": mixture_local, "ModeJump": mode_jump}


def only_move(kernel):
    (move,) = getattr(kernel, "prepare_within", kernel.prepare)(kernel.mixture.n_features)
    return move


def apply_move(move, x, normals, uniforms):
    """Run a compiled move on rows x (n, d), at most TILE_ROWS; return candidates (n, d) and log ratios (n,)."""
    n, d = x.shape
    tile, candidate = np.zeros((d + 1, TILE_STRIDE)), np.zeros((d, TILE_STRIDE))
    noise = np.ones((numbers_per_step(d) + move.uniforms, TILE_STRIDE))
    tile[:d, :n], noise[:d, :n], noise[numbers_per_step(d) :, :n] = x.T, normals.T, uniforms.T
    log_q_ratio, work = np.zeros(TILE_STRIDE), np.zeros(move.work * TILE_STRIDE)
    move.function(tile.ravel(), n, noise.ravel(), candidate.ravel(), log_q_ratio, work, move.packed)
    return candidate[:, :n].T.copy(), log_q_ratio[:n].copy()


def draw_noise(move, n, d, generator):
    return generator.standard_normal((n, d)), 1.0 - generator.random((n, move.uniforms))


def propose(move, x, generator):
    """Candidates and log ratios for any number of rows."""
    parts = []
    for begin in range(0, len(x), TILE_ROWS):
        rows = x[begin : begin + TILE_ROWS]
        parts.append(apply_move(move, rows, *draw_noise(move, *rows.shape, generator)))
    return np.concatenate([y for y, _ in parts]), np.concatenate([ratio for _, ratio in parts])


def metropolis_hastings(target, move, change=lambda log_q_ratio: log_q_ratio, accepts=None):
    """A step of all chains for `check_invariance`; `change` and `accepts` may put faults into it."""

    def step(x, generator):
        y, log_q_ratio = propose(move, x, generator)
        log_ratio = target.logpdf(y) - target.logpdf(x) + change(log_q_ratio)
        taken = generator.exponential(size=len(x)) > -log_ratio if accepts is None else accepts(log_ratio)
        return np.where(taken[:, None], y, x)

    return step
