"""A histogram in bounded memory: the mean is exact, percentiles to within two per cent. Pure.

The bounds of the bins grow by two per cent, so any number of values takes a few kilobytes, for any range.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_GROWTH = 1.02
_SMALLEST = 1e-9  # smaller values count as it; zero has its own bin
_BINS = 2350  # up to about 1e11


class Histogram:
    """Of non-negative numbers. count, total, minimum, maximum: of the values so far, exact; `add` changes them."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.minimum = float("inf")
        self.maximum = 0.0
        self._bins = np.zeros(_BINS + 1, dtype=np.int64)

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Count some values. NaN, infinite and negative ones are ignored."""
        values = values[np.isfinite(values) & (values >= 0)]
        if not len(values):
            return
        self.count += len(values)
        self.total += float(values.sum())
        self.minimum = min(self.minimum, float(values.min()))
        self.maximum = max(self.maximum, float(values.max()))
        places = np.log(np.maximum(values, _SMALLEST) / _SMALLEST) / np.log(_GROWTH)
        numbers = np.where(values == 0, 0, 1 + np.minimum(places.astype(np.int64), _BINS - 1))
        self._bins += np.bincount(numbers, minlength=_BINS + 1)

    @property
    def mean(self) -> float:
        """0 where there are no values."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """The value that `percent` per cent of the values do not exceed; 0 where there are no values."""
        if not self.count:
            return 0.0
        rank = max(1, int(np.ceil(self.count * percent / 100)))
        number = int(np.searchsorted(np.cumsum(self._bins), rank))
        if number == 0:
            return 0.0
        middle = _SMALLEST * _GROWTH ** (number - 0.5)
        return float(min(max(middle, self.minimum), self.maximum))

    def bars(self, max_bars: int, is_whole: bool = False) -> list[tuple[float, float, int]]:
        """(from, to, count) of bars of equal width up to the 99th percentile; the last bar has all values above it.

        max_bars: how many at most. is_whole: the values are whole numbers; a few of them get one bar each, in its middle.
        """
        if not self.count:
            return []
        low, high = self.minimum, max(self.percentile(99), self.minimum)
        if is_whole and round(high) - low < max_bars:
            low, high, max_bars = low - 0.5, round(high) + 0.5, int(round(high) - low) + 1
        if high <= low:
            return [(low, high, self.count)]
        edges = np.linspace(low, high, max_bars + 1)
        # the count of a bin is divided among the bars that it overlaps; else the bars would look like a comb
        bounds = np.concatenate(([0.0], _SMALLEST * _GROWTH ** np.arange(_BINS + 1)))
        up_to = np.concatenate(([0], np.cumsum(self._bins)))
        below = np.round(np.interp(edges, bounds, up_to))
        below[0], below[-1] = 0, self.count
        counts = np.diff(np.maximum.accumulate(below)).astype(int)
        return [(float(edges[n]), float(edges[n + 1]), int(counts[n])) for n in range(max_bars)]
