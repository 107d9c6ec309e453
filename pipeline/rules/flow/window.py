"""What was sent in the last 60 seconds: a sliding sum. Pure: `now` comes in from outside."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

WINDOW_SECONDS = 60.0
# amounts within so many seconds share an entry; the entry ages as its youngest amount does
ENTRY_SECONDS = 0.05


@dataclass(slots=True, eq=False)
class WindowEntry:
    """Amounts that were added within `ENTRY_SECONDS`, from first_time to last_time (seconds)."""

    first_time: float
    last_time: float
    amount: float


class SlidingWindow:
    """Amounts of the last minute, in the unit of the limit (tokens or requests)."""

    def __init__(self) -> None:
        self._entries: deque[WindowEntry] = deque()  # oldest first; `add` appends, drops what is older
        self._sum = 0.0  # of all entries, expired ones too until the next `add`

    def add(self, now: float, amount: float) -> WindowEntry:
        """Add an amount. Returns its entry, for `correct`."""
        while self._entries and self._is_expired(self._entries[0], now):
            self._sum -= self._entries.popleft().amount
        if not self._entries:
            self._sum = 0.0  # no float dust after hours
        entry = self._entries[-1] if self._entries else None
        if entry is None or now - entry.first_time > ENTRY_SECONDS:
            entry = WindowEntry(now, now, 0.0)
            self._entries.append(entry)
        entry.last_time = now
        entry.amount += amount
        self._sum += amount
        return entry

    def correct(self, now: float, entry: WindowEntry, difference: float) -> None:
        """Change an earlier amount by `difference`; one that has left the window stays gone."""
        if not self._is_expired(entry, now):
            entry.amount += difference
            self._sum += difference

    def total(self, now: float) -> float:
        """The sum over the last 60 seconds."""
        expired = sum(entry.amount for entry in self._expired(now))
        return max(0.0, self._sum - expired)

    def since(self, time: float) -> float:
        """The sum of what was added after `time`."""
        amount = 0.0
        for entry in reversed(self._entries):
            if entry.last_time <= time:
                break
            amount += entry.amount
        return amount

    def wait_seconds(self, now: float, excess: float) -> float:
        """Seconds until at least `excess` of the sum has left the window; 60 where it holds less."""
        for entry in self._entries:
            if self._is_expired(entry, now):
                continue
            excess -= entry.amount
            if excess <= 1e-9:
                return entry.last_time + WINDOW_SECONDS - now
        return WINDOW_SECONDS

    @staticmethod
    def _is_expired(entry: WindowEntry, now: float) -> bool:
        return entry.last_time <= now - WINDOW_SECONDS

    def _expired(self, now: float) -> Iterator[WindowEntry]:
        for entry in self._entries:
            if not self._is_expired(entry, now):
                return
            yield entry
