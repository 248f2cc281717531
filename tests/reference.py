"""A plain NumPy twin of every kernel and of an EM step, written from the formulas.

Everything takes and returns arrays (n, k), (k, d), ... without tiles or padding, in the precision of its arguments:
with `np.longdouble` rows it is the exact answer that rounding is measured against.
"""

import mpmath
import numpy as np
from scipy.stats import multivariate_normal

from fastgmm.covariance import ALIASES, STRUCTURES, Parameters
from fastgmm.kernels._jit import TILE_ROWS, TILE_STRIDE
from fastgmm.kernels.triangular import Triangular

EPS = float(np.finfo(np.float64).eps)

# The structures whose statistics and forms are their own, and all of them, by one name each.
FAMILIAR = ["full", "tied", "diag", "spherical"]
DISTINCT = [name for name in STRUCTURES if name not in ALIASES]

# Structure, features and kind of form: with three components, every body that a pass can run.
ROUTES = [
    ("full", 2, "centred"),
    ("full", 5, "centred"),
    ("full", 5, "expanded"),
    ("full", 17, "expanded"),
    *((structure, 2, kind) for structure in ("tied", "diag", "spherical") for kind in ("centred", "expanded")),
]


def exact(values):
    """The same values in the widest float there is."""
    return np.asarray(values).astype(np.longdouble)


def as_tile(rows, dtype=np.float64):
    """TILE_ROWS rows (b, m) as kernels hold them, with NaN between the features for whoever reads too far."""
    tile = np.full((rows.shape[1], TILE_STRIDE), np.nan, dtype)
    tile[:, :TILE_ROWS] = rows.T
    return tile.ravel()


def from_tile(tile, m):
    """The first m features of a tile as rows (b, m)."""
    return tile[: m * TILE_STRIDE].reshape(m, TILE_STRIDE)[:, :TILE_ROWS].T


def kind_of(form):
    """How a form works: components "expanded" about its reference, "centred" on their means, "mixed"; or "masked"."""
    if isinstance(form, Triangular):
        return "centred" if form.centred.all() else "mixed" if form.centred.any() else "expanded"
    name = type(form).__name__
    return next((kind for kind in ("expanded", "masked") if name.startswith(kind.title())), "centred")


def form_of(structure, kind, parameters, single=False):
    """The form of that kind; an expanded one must be what the structure chooses by itself."""
    if kind == "centred":
        return STRUCTURES[structure].centred_form(parameters)
    form = STRUCTURES[structure].form(parameters, single)
    assert kind_of(form) == "expanded"
    assert form.means.dtype == (np.float32 if single else np.float64)
    return form


def deviations(rows, centres):
    """x_i - centre_c, shape (n, k, d)."""
    return rows[:, None, :] - centres[None, :, :]


def log_densities(rows, weights, means, factors):
    """log w_c + log N(x_i | μ_c, Σ_c), shape (n, k), for lower triangular factors (k, d, d) with FᵀF = Σ⁻¹."""
    # log N(x | μ, Σ) = log |F| - d/2 log 2π - |F (x - μ)|² / 2
    whitened = np.einsum("cjl,icl->icj", factors, deviations(rows, means))
    log_determinants = np.log(np.einsum("cjj->cj", factors)).sum(axis=1)
    with np.errstate(divide="ignore"):
        constants = np.log(weights) + log_determinants - rows.shape[1] / 2 * np.log(2 * exact(np.pi))
    return (constants - (whitened**2).sum(axis=2) / 2).astype(whitened.dtype)


def log_likelihoods(densities):
    """log Σ_c w_c N(x_i | μ_c, Σ_c), shape (n,)."""
    largest = densities.max(axis=1)
    return largest + np.log(np.exp(densities - largest[:, None]).sum(axis=1))


def responsibilities(densities):
    """r_ic = w_c N(x_i | μ_c, Σ_c) / Σ_j w_j N(x_i | μ_j, Σ_j), shape (n, k)."""
    return np.exp(densities - log_likelihoods(densities)[:, None])


def shape_of(structure):
    """Which of the familiar structures has covariances and statistics of this shape."""
    return STRUCTURES[structure].SHAPE


# Σ_ic s_ic y_ic y_icᵀ in each shape, for shares s (n, k) and deviations y (n, k, d).
_SECOND = {
    "full": lambda s, y: np.einsum("ic,icj,icl->cjl", s, y, y),
    "tied": lambda s, y: np.einsum("ic,icj,icl->jl", s, y, y),
    "diag": lambda s, y: np.einsum("ic,icj->cj", s, y**2),
    "spherical": lambda s, y: np.einsum("ic,icj->c", s, y**2),
}


def moments(shares, away, structure):
    """Weight Σ_i s_ic, first Σ_i s_ic y_ic and second moments of deviations y (n, k, d) with shares s (n, k)."""
    return shares.sum(axis=0), np.einsum("ic,icj->cj", shares, away), _SECOND[shape_of(structure)](shares, away)


def counted(parts, structure):
    """Weight, first and second moments with only the lower triangle of matrices, which is what statistics keep."""
    weight, first, second = parts
    return weight, first, np.tril(second) if STRUCTURES[structure].MATRICES else second


def maximise(rows, shares, structure, reg_covar=0.0):
    """Weights, means and covariances that maximise the expected log-likelihood, by two sweeps over the rows."""
    d = rows.shape[1]
    # N_c = Σ_i s_ic, w_c = N_c / N, μ_c = Σ_i s_ic x_i / N_c; then Σ_i s_ic (x_i - μ_c)(x_i - μ_c)ᵀ / N_c
    counts = shares.sum(axis=0)
    origin = rows[0]
    means = origin + shares.T @ (rows - origin) / counts[:, None]
    shape = shape_of(structure)
    second = _SECOND[shape](shares, deviations(rows, means))
    if shape == "full":
        covariances = second / counts[:, None, None] + reg_covar * np.eye(d)
    elif shape == "tied":
        covariances = second / counts.sum() + reg_covar * np.eye(d)
    elif shape == "diag":
        covariances = second / counts[:, None] + reg_covar
    else:
        covariances = second / (counts * d) + reg_covar
    return counts / counts.sum(), means, constrained(covariances, counts, structure)


def constrained(covariances, counts, structure):
    """The covariances a structure allows that are likeliest for components of these own covariances and counts.

    Celeux and Govaert (1995): EII, EEI, EVI in section 5, EEV and EVV in section 4.
    """
    n, d = counts.sum(), covariances.shape[-1]
    if structure in ("EII", "EEI"):
        return np.stack([np.tensordot(counts, covariances, 1) / n] * len(counts))
    if structure in ("EVI", "EVV"):
        determinants = np.prod(covariances, axis=1) if structure == "EVI" else np.linalg.det(covariances)
        shapes = (covariances.T / determinants ** (1 / d)).T
        return counts @ determinants ** (1 / d) / n * shapes
    if structure == "EEV":
        axes, variances, _ = np.linalg.svd(covariances)
        return axes * (counts @ variances / n) @ axes.swapaxes(1, 2)
    return covariances


def most_probable(rows, shares, structure, prior):
    """As `maximise`, for the posterior under a `Prior` whose scale has its full shape (Fraley and Raftery 2007)."""
    d, k, shape = rows.shape[1], shares.shape[1], shape_of(structure)
    counts, kappa, degrees = shares.sum(axis=0), prior.shrinkage, prior.degrees_of_freedom
    averages = shares.T @ rows / counts[:, None]
    means = (counts[:, None] * averages + kappa * prior.mean) / (counts + kappa)[:, None]
    # Σ_i s_ic (x_i - ȳ_c)(x_i - ȳ_c)ᵀ + κ N_c / (κ + N_c) (ȳ_c - m)(ȳ_c - m)ᵀ
    second = _SECOND[shape](shares, deviations(rows, averages))
    drawn = np.diag(kappa * counts / (kappa + counts))
    second = second + _SECOND[shape](drawn, np.repeat((averages - prior.mean)[:, None], k, axis=1))
    free = int(kappa > 0)
    if structure in ("EII", "EEI"):
        width = d if structure == "EII" else 1
        covariances = (second.sum(axis=0) + prior.scale) / (degrees + (counts.sum() + k * free) * width + 2)
        covariances = np.stack([covariances] * k)
    elif shape == "full":
        held = degrees + counts + d + 1 + free
        covariances = constrained((second + prior.scale) / held[:, None, None], held, structure)
    elif structure == "tied":
        covariances = (second + prior.scale) / (degrees + counts.sum() + d + 1 + k * free)
    elif shape == "diag":
        held = degrees + counts + 2 + free
        covariances = constrained((second + prior.scale) / held[:, None], held, structure)
    else:
        covariances = (second + prior.scale) / (degrees + (counts + free) * d + 2)
    weights = (counts + prior.weight_concentration - 1) / (counts.sum() + k * (prior.weight_concentration - 1))
    return weights, means, covariances


def em_step(rows, weights, means, covariances, structure, row_weights=None, reg_covar=0.0):
    """One EM step: the log-likelihood before it, and new weights, means and covariances."""
    densities = log_densities(rows, weights, means, factorise(covariances, structure, *means.shape))
    row_weights = np.ones(len(rows)) if row_weights is None else row_weights
    shares = row_weights[:, None] * responsibilities(densities)
    return row_weights @ log_likelihoods(densities), *maximise(rows, shares, structure, reg_covar)


def dense(values, structure, k, d):
    """Covariances or factors in a structure's shape as matrices (k, d, d)."""
    if shape_of(structure) == "full":
        return values
    if shape_of(structure) == "tied":
        return np.broadcast_to(values, (k, d, d))
    return np.stack([np.diag(np.broadcast_to(value, d)) for value in values])


def factorise(covariances, structure, k, d):
    """Inverse Cholesky factors (k, d, d), lower triangular, of covariances in a structure's shape."""
    return np.linalg.inv(np.linalg.cholesky(dense(covariances, structure, k, d)))


def squared_distances(rows, centres):
    """|x_i - centre_c|², shape (n, k)."""
    return (deviations(rows, centres) ** 2).sum(axis=2)


def conditional(row, mean, covariance):
    """A row with NaN completed by what a Gaussian expects there, and the covariance of that, 0 where observed."""
    o, m = ~np.isnan(row), np.isnan(row)
    # E[x_m | x_o] = μ_m + Σ_mo Σ_oo⁻¹ (x_o - μ_o), Cov[x_m | x_o] = Σ_mm - Σ_mo Σ_oo⁻¹ Σ_om
    regression = np.linalg.solve(covariance[np.ix_(o, o)], covariance[np.ix_(o, m)]).T
    completed, spread = row.copy(), np.zeros_like(covariance)
    completed[m] = mean[m] + regression @ (row[o] - mean[o])
    spread[np.ix_(m, m)] = covariance[np.ix_(m, m)] - regression @ covariance[np.ix_(o, m)]
    return completed, spread


def observed_log_densities(rows, weights, means, covariances):
    """log w_c + log N of the observed entries under their marginals, (n, k), for rows with NaN and (k, d, d)."""
    out = np.repeat(np.log(weights)[None], len(rows), axis=0)
    for pattern in np.unique(~np.isnan(rows), axis=0):
        o, same = np.flatnonzero(pattern), (~np.isnan(rows) == pattern).all(axis=1)
        for c, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
            if o.size:
                marginal = multivariate_normal(mean[o], covariance[np.ix_(o, o)])
                out[same, c] += marginal.logpdf(rows[same][:, o])
    return out


def completed_moments(rows, shares, means, covariances, centres):
    """Expected weight, first and dense second moments (k, d, d) about centres of rows with NaN, of shares (n, k)."""
    first, second = np.zeros_like(means), np.zeros_like(covariances)
    for row, row_shares in zip(rows, shares, strict=True):
        for c, share in enumerate(row_shares):
            completed, spread = conditional(row, means[c], covariances[c])
            away = completed - centres[c]
            first[c] += share * away
            second[c] += share * (np.outer(away, away) + spread)
    return shares.sum(axis=0), first, second


# Dense second moments (k, d, d) in the shape of each structure.
IN_SHAPE = {
    "full": np.tril,
    "tied": lambda second: np.tril(second.sum(axis=0)),
    "diag": lambda second: np.einsum("cjj->cj", second),
    "spherical": lambda second: np.einsum("cjj->c", second),
}


def knock_out(rows, share, random):
    """A copy of the rows in which each entry is NaN with probability `share`."""
    return np.where(random.uniform(size=rows.shape) < share, np.nan, rows)


def lloyd_pass(rows, centres, weights):
    """Weights (k,), weighted differences from the nearest centre (k, d), squared distances to it (n,)."""
    distances = squared_distances(rows, centres)
    nearest = distances.argmin(axis=1)
    members = weights[:, None] * np.eye(len(centres))[nearest]
    first = np.einsum("ic,icj->cj", members, deviations(rows, centres))
    return members.sum(axis=0), first, distances.min(axis=1)


def choose_seeds(rows, weights, first, draws):
    """Greedy k-means++ from uniform draws (k - 1, trials): indices of the seeds."""
    seeds = [first]
    for shares in draws:
        closest = weights * squared_distances(rows, rows[seeds]).min(axis=1)
        candidates = np.searchsorted(closest.cumsum(), shares * closest.sum())
        nearer = [np.minimum(closest, weights * squared_distances(rows, rows[[c]])[:, 0]) for c in candidates]
        potentials = [near.sum() for near in nearer]
        seeds.append(int(candidates[np.argmin(potentials)]))
    return seeds


def tree_sum(vectors):
    """The sum of a list in a binary tree: the largest power of two of them, plus the rest."""
    if len(vectors) == 1:
        return vectors[0]
    half = 1 << (len(vectors) - 1).bit_length() - 1
    return tree_sum(vectors[:half]) + tree_sum(vectors[half:])


def random_parameters(structure, k, d, random):
    """Overlapping components of moderate condition, as the library holds them."""
    shape = STRUCTURES[structure].covariances_shape(k, d)
    if STRUCTURES[structure].MATRICES:
        roots = random.normal(size=shape) / np.sqrt(d) + np.eye(d)
        covariances = roots @ roots.swapaxes(-1, -2) + 0.1 * np.eye(d)
    else:
        covariances = random.uniform(0.5, 2.0, size=shape)
    covariances = constrained(covariances, np.ones(k), structure)
    factors, failed = STRUCTURES[structure].factorise(covariances)
    assert failed == -1
    return Parameters(random.dirichlet(np.full(k, 5.0)), random.normal(size=(k, d)), covariances, factors)


def random_rows(parameters, structure, n, random):
    """Rows drawn from a mixture."""
    k, d = parameters.means.shape
    labels = random.choice(k, size=n, p=parameters.weights)
    lower = np.linalg.cholesky(dense(parameters.covariances, structure, k, d))
    return parameters.means[labels] + np.einsum("ijl,il->ij", lower[labels], random.normal(size=(n, d)))


def xoshiro(state, count):
    """The next `count` 64-bit words of xoshiro256++ in Python's integers, and the state behind them."""
    mask = 2**64 - 1

    def rotate(x, by):
        return (x << by | x >> (64 - by)) & mask

    s = [int(word) for word in state]
    words = []
    for _ in range(count):
        words.append((rotate((s[0] + s[3]) & mask, 23) + s[0]) & mask)
        shifted = s[1] << 17 & mask
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= shifted
        s[3] = rotate(s[3], 45)
    return words, s


def noise(state, steps, d):
    """What `steps` steps draw from a generator in that state: normals (steps, d) and exponentials (steps,)."""
    pairs = (d + 1) // 2
    words, _ = xoshiro(state, steps * (2 * pairs + 1))
    with mpmath.workdps(50):
        uniforms = np.array([mpmath.mpf((word >> 11) + 1) / 2**53 for word in words]).reshape(steps, 2 * pairs + 1)
        normals = np.empty((steps, 2 * pairs), dtype=object)
        for step in range(steps):
            for j in range(0, 2 * pairs, 2):
                # sqrt(-2 log u) (cos 2πv, sin 2πv)
                u, v = uniforms[step, j : j + 2]
                radius = mpmath.sqrt(-2 * mpmath.log(u))
                normals[step, j : j + 2] = radius * mpmath.cospi(2 * v), radius * mpmath.sinpi(2 * v)
        return normals[:, :d], np.array([-mpmath.log(u) for u in uniforms[:, -1]])
