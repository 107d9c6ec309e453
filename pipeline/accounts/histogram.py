"""How values are spread, in a bounded place: averages exact, percentiles to within two per cent. Pure.

Counts in bins whose bounds grow by two per cent, so any number of values takes a few kilobytes, and two
spreads are added by adding their counts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_GROWTH = 1.02
_LEAST = 1e-9  # smaller ones count as it; zero has a bin of its own
_BINS = 2350  # up to about 1e11


class Histogram:
    """Of non-negative numbers."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.least = float("inf")
        self.most = 0.0
        self._bins = np.zeros(_BINS + 1, dtype=np.int64)

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Take in some; NaN is no value."""
        values = values[np.isfinite(values) & (values >= 0)]
        if not len(values):
            return
        self.count += len(values)
        self.total += float(values.sum())
        self.least = min(self.least, float(values.min()))
        self.most = max(self.most, float(values.max()))
        places = np.log(np.maximum(values, _LEAST) / _LEAST) / np.log(_GROWTH)
        numbers = np.where(values == 0, 0, 1 + np.minimum(places.astype(np.int64), _BINS - 1))
        self._bins += np.bincount(numbers, minlength=_BINS + 1)

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """The value that so many per cent do not exceed; 0 where there is none."""
        if not self.count:
            return 0.0
        rank = max(1, int(np.ceil(self.count * percent / 100)))
        number = int(np.searchsorted(np.cumsum(self._bins), rank))
        if number == 0:
            return 0.0
        middle = _LEAST * _GROWTH ** (number - 0.5)
        return float(min(max(middle, self.least), self.most))

    def columns(self, most: int, is_whole: bool = False) -> list[tuple[float, float, int]]:
        """At most so many bars, (from, to, count), of equal width up to the 99th percentile; what is above in the last.

        is_whole: of whole numbers, each in the middle of its bar as far as there are few.
        """
        if not self.count:
            return []
        low, high = self.least, max(self.percentile(99), self.least)
        if is_whole and round(high) - low < most:
            low, high, most = low - 0.5, round(high) + 0.5, int(round(high) - low) + 1
        if high <= low:
            return [(low, high, self.count)]
        edges = np.linspace(low, high, most + 1)
        # a bin of ours is shared out among the bars that it reaches into, or they would show a comb
        bounds = np.concatenate(([0.0], _LEAST * _GROWTH ** np.arange(_BINS + 1)))
        up_to = np.concatenate(([0], np.cumsum(self._bins)))
        below = np.round(np.interp(edges, bounds, up_to))
        below[0], below[-1] = 0, self.count
        counts = np.diff(np.maximum.accumulate(below)).astype(int)
        return [(float(edges[n]), float(edges[n + 1]), int(counts[n])) for n in range(most)]
