"""Whether one chain had better look ahead, which only a stopwatch tells."""

from fastgmm.kernels.steps import FORESEEN

# A trial is over when so many blocks were taken either way, or when a few steps ahead have taken so long.
_ROUNDS, _MOST_SECONDS = 3, 0.005
# After so many blocks there is a new one: the first may have been disturbed, or the chain be elsewhere.
_BLOCKS_BETWEEN = 100
# A density so slow is not asked about places that may not be needed.
_SLOWEST_STEP = 0.01


class Foresight:
    """Finds out whether a chain is faster when it asks about the places of several steps at once.

    It is if the density runs in vectors, and may be if it does not: a call often waits, while another could go on. The
    draws are the same, so that a few blocks can be taken either way, and what is found by the clock changes no bit.

    Parameters
    ----------
    decided : bool or None
        What is known beforehand; None is to be found out.
    seconds : float
        How long a block of a trial takes, long enough to be measured.
    """

    def __init__(self, decided: bool | None, seconds: float) -> None:
        self._decided, self._tries, self._seconds = decided, decided is None, seconds
        self._start()

    def _start(self) -> None:
        self._times: dict[bool, list[float]] = {False: [], True: []}  # of a step
        self._spent, self._blocks = 0.0, 0

    def choose(self) -> bool:
        """Whether the next block looks ahead."""
        if self._decided is None:
            return len(self._times[True]) < len(self._times[False])
        return self._decided

    def learn(self, steps: int, seconds: float) -> float | None:
        """Hear of a block that went as `choose` said; return how long the next should take, None as long as it may."""
        if self._decided is None:
            self._measure(steps, seconds)
        elif self._tries:
            self._blocks += 1
            if self._blocks == _BLOCKS_BETWEEN:
                self._decided = None
                self._start()
        if self._decided is None:
            return max(self._seconds, 1.01 * FORESEEN * seconds / steps)
        return None

    def _measure(self, steps: int, seconds: float) -> None:
        if seconds > _SLOWEST_STEP * steps:
            self._decided = False
            return
        if seconds < 0.5 * self._seconds or steps < FORESEEN:  # the first blocks are short, and the last may be
            return
        ahead = self.choose()
        self._times[ahead].append(seconds / steps)
        self._spent += seconds * ahead
        if len(self._times[True]) == _ROUNDS or (self._spent > _MOST_SECONDS and steps <= 2 * FORESEEN):
            self._decided = min(self._times[True]) < min(self._times[False])
