"""Where a map is taken next: step after step, or with leaps to the same fixed point (SQUAREM)."""

import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np

Point = TypeVar("Point")

# The longest leap grows by this factor when it has been taken and served, and shrinks by it when it has not.
_GROWTH = 2.0
_TINY = float(np.finfo(np.float64).tiny)


class Pace(Generic[Point]):
    """Step after step: the next point is the last one's image.

    Parameters
    ----------
    start : Point
        Where the map will be taken first.
    to_vector : callable
        to_vector(point, origin): coordinates of a point in a chart about `origin`, where they are all zero.
    from_vector : callable
        Its inverse, from_vector(vector, origin), or None where no valid point has these coordinates.

    Attributes
    ----------
    leapt : bool
        Whether the map is to be taken where a leap led, and not where it led itself.
    saved : float
        About how many more steps of the map alone would have taken as far.
    """

    leapt = False
    saved = 0.0

    def __init__(
        self,
        start: Point,
        to_vector: Callable[[Point, Point], np.ndarray],
        from_vector: Callable[[np.ndarray, Point], Point | None],
    ) -> None:
        self._path = [start]
        self._to_vector, self._from_vector = to_vector, from_vector

    def go_on(self, image: Point) -> Point:
        """Where to take the map next, `image` being what it gave last."""
        return image

    def retreat(self) -> Point:
        """Where to take the map instead of where the last leap led."""
        return self._path[-1]


class Squarem(Pace[Point]):
    """Squared extrapolation of the map's steps, scheme S3 of Varadhan and Roland (2008).

    After two steps θ₀, θ₁ = M(θ₀), θ₂ = M(θ₁) it leaps: with r = θ₁ - θ₀, v = θ₂ - 2 θ₁ + θ₀ and s = |r| / |v|, to
    θ₀ + 2 s r + s² v, which for s = 1 is θ₂; the map's image of that begins the next cycle. From a leap that led down
    the caller retreats to θ₂, so that what the map never lowers is never lowered.
    """

    def __init__(self, *chart: Any) -> None:
        super().__init__(*chart)
        self._length, self._longest = 1.0, _GROWTH

    def go_on(self, image: Point) -> Point:
        """A step, or after two of them a leap."""
        self._path.append(image)
        if self.leapt:
            # Where steps are slow, as far as 2 s of them lead: log (1 - s u)² <= 2 s log (1 - u) for rates 1 - u.
            self.saved += 2.0 * self._length - 2.0
            if self._length == self._longest:
                self._longest *= _GROWTH
            return self._begin_anew()
        return image if len(self._path) < 3 else self._leap()

    def retreat(self) -> Point:
        """Where the two steps before the leap led."""
        self.saved -= 1.0
        if self._length == self._longest:
            self._longest = max(_GROWTH, self._longest / _GROWTH)
        return self._begin_anew()

    def _leap(self) -> Point:
        origin, *ahead = self._path
        first, second = (self._to_vector(point, origin) for point in ahead)
        bend = second - 2.0 * first
        self._length = min(math.sqrt((first @ first) / max(bend @ bend, _TINY)), self._longest)
        if self._length > 1.0:
            target = self._from_vector(2.0 * self._length * first + self._length**2 * bend, origin)
            if target is not None:
                self.leapt = True
                return target
        return self._begin_anew()

    def _begin_anew(self) -> Point:
        self.leapt, self._path = False, self._path[-1:]
        return self._path[0]


PACES: dict[str | None, type[Pace]] = {None: Pace, "squarem": Squarem}
