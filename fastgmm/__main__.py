"""The command line: `python -m fastgmm`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

_STRUCTURES = ["full", "tied", "diag", "spherical"]


def _positive(text: str) -> int:
    """Read a whole number of at least one."""
    try:
        number = int(text.replace("_", ""))
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


def _seed(text: str) -> int:
    """Read a seed that NumPy and scikit-learn both take."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2**32 - 1")
    return number


def _folder(text: str) -> Path:
    """Read the path of a folder, which need not exist yet."""
    path = Path(text).expanduser()
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise argparse.ArgumentTypeError(f"{str(nearest)!r} is a file, not a folder")
    return path


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fastgmm", description="Gaussian mixtures at compiled speed.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    tour = commands.add_parser(
        "tour",
        help="sample a density, fit mixtures to the draws, choose one, and draw four pictures",
        description="Sample a density of two Gaussians by Metropolis-Hastings, fit mixtures of all structures and "
        "several numbers of components to the draws, choose one by BIC, and draw four pictures.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    tour.add_argument("--out", type=_folder, default=Path("tour"), metavar="DIR", help="folder for the pictures")
    tour.add_argument("--steps", type=_positive, default=10_000, metavar="N", help="steps of the chain")
    tour.add_argument("--thin", type=_positive, default=10, metavar="N", help="keep every N-th state")
    tour.add_argument("--seed", type=_seed, default=0, metavar="N", help="seed of the chain and of the fits")
    tour.add_argument("--components", type=_positive, default=6, metavar="K", help="fit 1 to K components")
    tour.set_defaults(run=_run_tour, parser=tour)
    warmup = commands.add_parser(
        "warmup",
        help="compile all kernels beforehand",
        description="Compile all kernels into the cache folder, from which later processes load them. Takes some "
        "minutes; what is there already is not compiled again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    warmup.add_argument(
        "--structures",
        nargs="+",
        choices=_STRUCTURES,
        default=_STRUCTURES,
        metavar="NAME",
        help=f"covariance structures to compile for, of {', '.join(_STRUCTURES)}",
    )
    warmup.add_argument("--quiet", action="store_true", help="print nothing but errors")
    warmup.set_defaults(run=_run_warmup, parser=warmup)
    return parser


def _run_tour(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    fewest = max(options.components, 2)
    if options.thin > options.steps:
        parser.error(f"--thin {options.thin} is more than --steps {options.steps}: no draw would be kept")
    if options.steps // options.thin < fewest:
        parser.error(
            f"--steps {options.steps} with --thin {options.thin} keeps {options.steps // options.thin} draws, "
            f"but fitting up to {options.components} components needs at least {fewest}"
        )
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: cannot make the folder {str(options.out)!r}: {error.strerror}")
    # Compilers and libraries take a second to import: not before the options are known to be good.
    from fastgmm import tour

    try:
        tour.run(options.out, options.steps, options.thin, options.seed, options.components)
    except tour.PicturesUnavailable as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


def _run_warmup(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    from fastgmm import warmup

    try:
        warmup.run(options.structures, options.quiet)
    except warmup.NothingToWarm as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after the program's name; by default those of the running process.

    Returns
    -------
    int
        The exit status.
    """
    options = _build_parser().parse_args(arguments)
    options.run(options.parser, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
