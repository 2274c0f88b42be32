"""Draw random numbers that are the same on every machine."""

import random
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from math import cos, exp, log, sqrt
from math import tau as two_pi
from typing import TypeVar

T = TypeVar("T")


class PortableRandom:
    """A generator whose draws are made from `random.Random.random` alone.

    Python guarantees that this sequence never changes for a given seed. `choice`, `shuffle` and
    `sample` may change from version to version, so they are not used.

    Args:
        *seed: names the sequence: two generators with the same seed give the same numbers, and
            generators with different seeds are independent.

    Example:
        >>> PortableRandom(0, "notes", 7).pick("abc")
        'c'
    """

    def __init__(self, *seed: int | str) -> None:
        self.random = random.Random("/".join(map(str, seed))).random

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self.random() < probability

    def pick(self, items: Sequence[T]) -> T:
        """Return one of the items, all equally likely."""
        return items[int(self.random() * len(items))]

    def weighted(self, items: Sequence[T], cumulative: Sequence[float]) -> T:
        """Return one of the items, given the running sums of their weights."""
        return items[min(bisect(cumulative, self.random() * cumulative[-1]), len(items) - 1)]

    def integer(self, low: int, high: int) -> int:
        """Return a whole number between the bounds, both included."""
        return low + int(self.random() * (high - low + 1))

    def uniform(self, low: float, high: float) -> float:
        """Return a number between the bounds."""
        return low + (high - low) * self.random()

    def normal(self) -> float:
        """Return a standard normal number (Box-Muller)."""
        return sqrt(-2.0 * log(1.0 - self.random())) * cos(two_pi * self.random())

    def lognormal(self, median: float, sigma: float) -> float:
        """Return a log-normal number; sigma is the standard deviation of its logarithm."""
        return median * exp(sigma * self.normal())

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """Return up to `count` of the items, each at most once, in random order."""
        pool = list(items)
        taken = []
        for _ in range(min(count, len(pool))):
            place = int(self.random() * len(pool))
            pool[place], pool[-1] = pool[-1], pool[place]
            taken.append(pool.pop())
        return taken


def running_sums(weights: Sequence[float]) -> list[float]:
    """Return the cumulative weights for `PortableRandom.weighted`."""
    return list(accumulate(weights))
