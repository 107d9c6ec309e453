"""Spacing of requests at a rate that changes from moment to moment. Pure.

The account is kept in seconds, not in tokens: it refills one second a second, holds `burst_seconds`, and a
request takes tokens / rate. So a full bucket stays full when the rate grows or falls, and a wait never
shrinks to nothing again and again while the rate grows.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Slot:
    """What one request took. tokens: as reserved, corrected by `settle`. seconds_a_token: at its time."""

    tokens: float
    seconds_a_token: float


class Schedule:
    """When the next request may go at a given rate (tokens per minute)."""

    def __init__(self, burst_seconds: float) -> None:
        self._burst_seconds = burst_seconds
        self._saved_seconds = (
            0.0  # at `_updated`; negative for a debt. Changed by every method but wait_seconds
        )
        self._updated: float | None = None  # seconds; None before the first change

    def wait_seconds(self, now: float, tokens: float, per_minute: float) -> float:
        """Seconds until a request may go; 0 when now."""
        need = min(tokens * 60.0 / per_minute, self._burst_seconds)  # the rest becomes a debt
        return max(0.0, need - self._saved_at(now))

    def take(self, now: float, tokens: float, per_minute: float) -> Slot:
        """Take the time of one request."""
        slot = Slot(tokens, 60.0 / per_minute)
        self._set(now, self._saved_at(now) - slot.tokens * slot.seconds_a_token)
        return slot

    def settle(self, now: float, slot: Slot, used_tokens: float) -> None:
        """Give back the time of what was not used; take more where more was used."""
        difference = (slot.tokens - used_tokens) * slot.seconds_a_token
        slot.tokens = used_tokens
        self._set(now, min(self._saved_at(now) + difference, self._burst_seconds))

    def empty(self, now: float) -> None:
        """The server refused: nothing is saved up."""
        self._set(now, min(self._saved_at(now), 0.0))

    def restart(self, now: float) -> None:
        """A rate holds from now on, where there was none before."""
        self._set(now, 0.0)

    def is_idle(self, now: float, tokens: float, per_minute: float, seconds: float) -> bool:
        """Whether a request could have gone so much earlier: something else holds it."""
        if self._updated is None:
            return False
        need = min(tokens * 60.0 / per_minute, self._burst_seconds)
        return self._saved_seconds + now - self._updated - need >= min(seconds, 0.9 * self._burst_seconds)

    def _saved_at(self, now: float) -> float:
        if self._updated is None:
            return self._saved_seconds
        refilled = self._saved_seconds + max(0.0, now - self._updated)
        return min(refilled, max(self._burst_seconds, self._saved_seconds))

    def _set(self, now: float, saved_seconds: float) -> None:
        self._saved_seconds, self._updated = saved_seconds, now
