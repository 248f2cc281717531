"""Who looks on while a fit runs: what `verbose` prints, a bar, the user's callback."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fastgmm.covariance import Parameters
from fastgmm.em.engine import Run
from fastgmm.mixture import Mixture


class Watch:
    """Everyone that wants to know of a fit's progress; a context, so that a bar ends with it.

    Parameters
    ----------
    verbose, interval : int
        Print as scikit-learn does: 1 every `interval`-th step, 2 also its time and change.
    progress : bool
        Show a bar for each start; needs tqdm.
    callback : callable or None
        Called as callback(iteration, mixture, log_likelihood); ends the fit by returning True or raising
        StopIteration.
    covariance_type : str
        Of the mixtures that `callback` gets.
    max_iter : int
        The length of a bar.

    Raises
    ------
    ImportError
        If a bar is wanted and tqdm is not installed.
    """

    def __init__(
        self,
        verbose: int,
        interval: int,
        progress: bool,
        callback: Callable[[int, Mixture, float], Any] | None,
        covariance_type: str,
        max_iter: int,
    ) -> None:
        self._verbose, self._interval = int(verbose), interval
        self._bars = import_tqdm() if progress else None
        self._bar: Any = None
        self._callback = callback
        self._covariance_type = covariance_type
        self._max_iter = max_iter
        self._started = self._last = 0.0

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def wanted(self) -> bool:
        """Whether there is anyone to be told of steps."""
        return bool(self._verbose or self._bars is not None or self._callback is not None)

    def begin(self, index: int) -> None:
        """A start is being looked for."""
        if self._verbose:
            print(f"Initialization {index}")
        if self._bars is not None:
            self._bar = self._bars(total=self._max_iter, unit="iteration", desc=f"start {index}")
        self._started = self._last = time.perf_counter()

    def step(self, iteration: int, parameters: Parameters, log_likelihood: float, change: float) -> bool:
        """EM has taken a step from `parameters`; whether it was to be the last."""
        if self._verbose and iteration % self._interval == 0:
            self._print_step(iteration, change)
        if self._bar is not None:
            self._bar.set_postfix_str(f"log-likelihood {log_likelihood:.5g}", refresh=False)
            self._bar.update()
        if self._callback is None:
            return False
        mixture = Mixture.from_parameters(parameters, self._covariance_type)
        try:
            answer = self._callback(iteration, mixture, log_likelihood)
        except StopIteration:
            return True
        return isinstance(answer, (bool, np.bool_)) and bool(answer)

    def _print_step(self, iteration: int, change: float) -> None:
        if self._verbose == 1:
            self._print(f"  Iteration {iteration}")
        else:
            now = time.perf_counter()
            self._print(f"  Iteration {iteration}\t time lapse {now - self._last:.5f}s\t ll change {change:.5f}")
            self._last = now

    def _print(self, line: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._bar is None:
            print(line)
        else:
            self._bar.write(line)

    def end(self, run: Run) -> None:
        """The start has been followed to its end."""
        if self._bar is not None:
            self._bar.total = self._bar.n
            self._bar.close()
        if not self._verbose:
            return
        status = {"converged": "converged", "failed": f"failed at {run.failure}"}.get(run.outcome, "did not converge")
        if self._verbose == 1:
            print(f"Initialization {status}.")
        else:
            elapsed = time.perf_counter() - self._started
            print(f"Initialization {status}. time lapse {elapsed:.5f}s\t lower bound {run.lower_bound:.5f}.")


def import_tqdm() -> Any:
    """The class of bars."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError("progress=True needs tqdm: `pip install 'fastgmm[progress]'`.") from None
    return tqdm
