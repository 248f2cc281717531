"""How fast an EM iteration could be: its least arithmetic at the rates of dgemm and exp measured beside it."""

from bench.problems import Problem


def least_operations(problem: Problem) -> float:
    """Return the floating-point operations that one EM iteration cannot do without, exponentials apart.

    Log-densities and moments are both sums of products, n rows, d features, k components:

    - full: a triangular product and a symmetric update per row and component, n k d² each;
    - tied: the same once per row, n d² each, and two products (n x d)(d x k) for distances and first moments;
    - diag: distances from x and x², moments of x and x², four such products;
    - spherical: as diag, but x² only as one number a row, two products.
    """
    n, d, k = problem.rows, problem.features, problem.components
    product = 2.0 * n * k * d
    return {
        "full": 2.0 * n * k * d * d,
        "tied": 2.0 * n * d * d + 2.0 * product,
        "diag": 4.0 * product,
        "spherical": 2.0 * product,
    }[problem.structure]


def floor_seconds(problem: Problem, rates: dict[str, float]) -> float:
    """Return the limit of one EM iteration.

    The least operations at the rate of a large matrix product, and after them one exponential for every row and
    component: floor = operations / dgemm + n k / exp. Reading the rows, logarithms and the M-step are left out.
    """
    return least_operations(problem) / rates["dgemm"] + problem.rows * problem.components / rates["exp"]


def is_bound_by_products(problem: Problem) -> bool:
    """Whether the share of dgemm's rate alone says how near to the limit a pass is."""
    return problem.structure == "full" and problem.features >= 16
