"""The table of peers: what each can fit, how closely it must agree, and which interpreter runs it.

To add a peer, write `bench/workers/<module>.py` with a class `Library` as its siblings have, and add a row here.
"""

import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

ALL_STRUCTURES = ("full", "tied", "diag", "spherical")
FULL_AND_DIAG = ("full", "diag")

# Of the log-likelihood, relative, after the same iterations from the same start.
FLOAT64_AGREEMENT = 1e-9
FLOAT32_AGREEMENT = 1e-4


@dataclass(frozen=True)
class Peer:
    """A library under measurement, which runs in a worker process of its own.

    Attributes
    ----------
    name : str
        What tables call it.
    module : str
        The file in `bench/workers` that drives it.
    imports : str
        A module that an interpreter must have for the worker to run there.
    structures : tuple of str
        Covariance structures it offers.
    agreement : float
        How closely its log-likelihood must agree with the reference's before its time counts.
    note : str
        What a reader of its times must know.
    on_request : bool
        Whether it is measured only where its name or its interpreter is given.
    """

    name: str
    module: str
    imports: str
    structures: tuple[str, ...] = ALL_STRUCTURES
    agreement: float = FLOAT64_AGREEMENT
    note: str = ""
    on_request: bool = False


REFERENCE = "scikit-learn"
OURS = "fastgmm"
ONEDAL = "oneDAL"
EARLIER = "earlier"

PEERS = (
    Peer(REFERENCE, "scikit_learn", "sklearn"),
    Peer(OURS, "fastgmm", "fastgmm"),
    Peer(ONEDAL, "onedal", "daal4py", FULL_AND_DIAG, note="`daal4py.em_gmm` of scikit-learn-intelex"),
    Peer("Armadillo", "armadillo", "numpy", FULL_AND_DIAG, note="`gmm_full` and `gmm_diag`, compiled with OpenMP"),
    Peer("gmmx", "gmmx", "gmmx", FULL_AND_DIAG, FLOAT32_AGREEMENT, note="float32, all it offers"),
    Peer("torchgmm", "torchgmm", "torchgmm", note="in one batch, one pass an iteration; as shipped it makes two"),
    Peer("pomegranate", "pomegranate", "pomegranate", FULL_AND_DIAG),
    Peer(EARLIER, "earlier", "fastgmm", note="the fastgmm that its interpreter has installed", on_request=True),
)

# Not a library: it measures what the processor can do, in the same rounds as the peers.
MACHINE = Peer("machine", "machine", "fastgmm")

WITHOUT_EXTRAS = (REFERENCE, OURS)


def environment_variable(name: str) -> str:
    """Return the variable that may hold the path of a peer's interpreter."""
    return f"BENCH_PYTHON_{name.upper().replace('-', '_')}"


def parse_interpreters(pairs: list[str]) -> dict[str, str]:
    """Return the interpreter of each peer named in `NAME=PATH` pairs.

    Raises
    ------
    ValueError
        If a pair has no `=`, or its name is no peer's.
    """
    names = {peer.name.lower(): peer.name for peer in PEERS}
    found = {}
    for pair in pairs:
        name, separator, path = pair.partition("=")
        if not separator or name.lower() not in names:
            raise ValueError(f"{pair!r} is not NAME=PATH with a name among {', '.join(names.values())}")
        found[names[name.lower()]] = path
    return found


def find_interpreter(peer: Peer, interpreters: Mapping[str, str]) -> str | None:
    """Return the Python that runs a peer: the one named, else this one if it has the package, else None."""
    named = interpreters.get(peer.name) or os.environ.get(environment_variable(peer.name))
    if named:
        return named
    return sys.executable if not peer.on_request and importlib.util.find_spec(peer.imports) else None


def choose_peers(names: list[str] | None, interpreters: Mapping[str, str]) -> tuple[dict[Peer, str], dict[str, str]]:
    """Return the peers to measure with their interpreters, and why others are left out.

    The reference and fastgmm are always among them; `names` chooses from the others, None takes all that are found.
    """
    chosen, skipped = {}, {}
    for peer in PEERS:
        if peer.name not in WITHOUT_EXTRAS and names is not None and peer.name.lower() not in names:
            continue
        python = find_interpreter(peer, interpreters)
        if python is None and peer.on_request and names is None:
            continue
        if python is None:
            skipped[peer.name] = f"no interpreter found that has {peer.imports}; name one by --peer-python"
        else:
            chosen[peer] = python
    return chosen, skipped
