"""May a request go to this endpoint now? One object that decides it. Pure: `now` comes in from outside.

    start          the first request wants to be sent
    wait_seconds   how long a request must wait          no side effects
    admit          it goes: takes a place and tokens
    reported       the server said what is left of its limits
    answered       a completion came
    failed         an attempt failed -> Verdict: what that means for the others
    left           the attempt is over, however it ended
    state          what to show

It owns the limits per minute, the rate that refusals show, the concurrency, and the circuit breaker.
Which of those who wait goes next is the dispatcher's matter (wiring/dispatcher.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...nouns.errors import AnswerError, RateLimited, RowError, RunError, TransientError
from ...nouns.rows import Failure, LimitReport, TokenEstimate
from .breaker import CircuitBreaker, Judgement
from .bucket import EPSILON
from .concurrency import ConcurrencyController, FixedConcurrency
from .limits import Limiter, LimitGrant
from .refusals import Attempt, Refusals
from .window import SlidingWindow, WindowEntry

Charge = Literal["auto", "reserved", "used"]


@dataclass(slots=True, eq=False)
class Admission:
    """Permission for one attempt.

    tokens: reserved for it. is_probe: the circuit is half open and this request finds out. sent_at: seconds,
    set by the endpoint when it sends. The rest is what it took, handed back when it is settled.
    """

    tokens: int
    grant: LimitGrant
    entry: WindowEntry
    attempt: Attempt
    is_probe: bool = False
    sent_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a failed attempt means for those that follow.

    give_up: RunError where the endpoint is to be disabled, RowError where only this row is to fail, None to go
    on. notes: what the user should be told, without the endpoint's name.
    """

    give_up: RunError | RowError | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FlowState:
    """One endpoint's flow at a moment.

    most_in_flight: allowed now. tokens_per_minute: the limit in force, given, reported or discovered; None where
    there is none. tokens_last_minute: sent in the last 60 seconds. paused_seconds: left of a pause or an open
    circuit. refusal: the server's words where nothing but refusals come; None else. limited_by: why refusals slow the
    run, in a few words; None where they do not. limited_seconds: for how long.
    """

    in_flight: int
    most_in_flight: int
    tokens_last_minute: float
    tokens_per_minute: float | None
    paused_seconds: float
    is_probing: bool
    refusal: str | None = None
    limited_by: str | None = None
    limited_seconds: float = 0.0


class FlowControl:
    """Flow control of one endpoint. charge: what is reserved, as in the settings."""

    def __init__(
        self,
        limiter: Limiter,
        concurrency: ConcurrencyController | FixedConcurrency,
        breaker: CircuitBreaker,
        charge: Charge = "auto",
    ) -> None:
        self.limiter = limiter
        self.concurrency = concurrency
        self.breaker = breaker
        self.refusals = Refusals(limiter.burst_seconds)
        self.in_flight = 0  # requests; `admit` and `left` move it
        self._charge = charge
        self._window = SlidingWindow()  # tokens sent in the last minute, for `state`
        self._probe: Admission | None = (
            None  # the request that probes a half-open circuit; None: none in flight
        )
        self._has_said_paused = False  # once for each outage: since the last answer
        self._precharge: _PrechargeCap | None = None  # None until a relay said that the money is gone

    def __repr__(self) -> str:
        return f"<FlowControl {self.in_flight}/{self.most_in_flight} in flight, {self.limiter}>"

    # ---- queries

    @property
    def most_in_flight(self) -> int:
        """Requests in flight that are allowed now; moves where it is discovered."""
        now = self.concurrency.limit
        return now if self._precharge is None else min(now, self._precharge.places)

    def reservation(self, estimate: TokenEstimate) -> int:
        """Tokens to take before sending: with the longest answer where the endpoint charges that up front."""
        up_front = self._charge == "reserved" or (self._charge == "auto" and self.limiter.is_server_reported)
        return estimate.prompt + (estimate.longest_answer if up_front else estimate.likely_answer)

    def refuse_impossible(self, estimate: TokenEstimate) -> None:
        """Raises RowError where such a request is above the whole limit that the user gave."""
        self.limiter.refuse_impossible(self.reservation(estimate))

    def wait_seconds(self, now: float, estimate: TokenEstimate) -> float:
        """Seconds until such a request may be sent, 0 when now; inf while another must come back first."""
        is_probed = self.breaker.is_half_open and self._probe is not None
        is_full = self.in_flight >= self.most_in_flight or not self.refusals.has_place(now, self.in_flight)
        if is_full or is_probed:
            return float("inf")
        tokens = self.reservation(estimate)
        wait = max(self.limiter.wait_seconds(now, tokens), self.breaker.open_until - now)
        wait = max(wait, self.refusals.wait_seconds(now, tokens))
        return wait if wait > EPSILON else 0.0

    def state(self, now: float) -> FlowState:
        """What to show of it."""
        limits = [self._discovered_rate(now)]
        if self.limiter.tokens is not None:
            limits.append(self.limiter.tokens.limit_per_minute)
        return FlowState(
            in_flight=self.in_flight,
            most_in_flight=self.most_in_flight,
            tokens_last_minute=self._window.total(now),
            tokens_per_minute=min((limit for limit in limits if limit is not None), default=None),
            paused_seconds=max(0.0, self.limiter.closed_seconds(now), self.breaker.open_until - now),
            is_probing=self.breaker.is_half_open,
            refusal=self.breaker.standing.text(now),
            limited_by=self.refusals.limited_by(now),
            limited_seconds=max(0.0, now - self.refusals.since) if self.refusals.belief != "none" else 0.0,
        )

    def _discovered_rate(self, now: float) -> float | None:
        """Tokens per minute that refusals show; None where they show none, or more than is allowed anyway."""
        rate, tokens = self.refusals.tokens_per_minute(now), self.limiter.tokens
        return None if rate is None or (tokens and rate >= tokens.limit_per_minute) else rate

    # ---- one attempt

    def start(self, now: float) -> None:
        """A request wants to be sent: the limits refill from now on, if they do not yet."""
        self.limiter.start(now)

    def admit(self, now: float, estimate: TokenEstimate) -> Admission:
        """Take place and tokens for one attempt; `left` gives the place back."""
        tokens = self.reservation(estimate)
        self.in_flight += 1
        attempt = self.refusals.sent(now, tokens, self.in_flight)
        admission = Admission(tokens, self.limiter.take(now, tokens), self._window.add(now, tokens), attempt)
        if self.breaker.is_half_open:
            self._probe, admission.is_probe = admission, True
        return admission

    def left(self, admission: Admission) -> None:
        """The attempt is over, however it ended."""
        self.in_flight -= 1
        self.refusals.left(admission.attempt)
        if self._probe is admission:
            self._probe = None

    def unused(self, now: float, admission: Admission) -> None:
        """Nothing was sent: the admission came when its row had just been given up."""
        self._settle(now, admission, 0)
        self.left(admission)

    def reported(
        self, now: float, admission: Admission, tokens: LimitReport | None, requests: LimitReport | None
    ) -> None:
        """The server said how much is left of its limits; None where it did not."""
        self.limiter.report(now, admission.grant, tokens, requests)

    def answered(self, now: float, admission: Admission, used_tokens: int | None) -> tuple[str, ...]:
        """A completion came. used_tokens: as the server reports, None where it does not. Returns notes for the user."""
        notes = ("works again",) if self.breaker.is_half_open else ()
        self._has_said_paused = False
        self.breaker.answered()
        self.refusals.answered(admission.attempt)
        self.concurrency.answered(now - admission.sent_at, self.in_flight)
        if used_tokens and self._charge != "reserved":
            self._settle(now, admission, used_tokens)
        return notes

    def failed(
        self, now: float, admission: Admission, error: AnswerError, row_id: str, attempt: int
    ) -> Verdict:
        """An attempt failed: the row's `attempt`-th. What it means for those that follow."""
        is_overload = error.facts.is_overload
        if is_overload:
            self.concurrency.overloaded(now)
        if self._may_be_precharge(error):
            if self._precharge is None:
                self._precharge = _PrechargeCap(max(1, self.in_flight // 4), now)
                return Verdict(notes=(self._precharge.note(error),))
            if admission.sent_at <= self._precharge.since:
                return Verdict()
        was_half_open, was_shortened = self.breaker.is_half_open, self.breaker.shortened_until is not None
        judgement = self.breaker.failed(
            error, row_id, attempt, admission.sent_at, now, is_overload=is_overload
        )
        if judgement.give_up is not None:
            return Verdict(judgement.give_up)
        told = self._take_in(now, admission, error, judgement, is_overload=is_overload)
        return Verdict(notes=(*self._news(error, judgement, was_half_open, was_shortened), *told))

    def row_ended(self, failure: Failure | None) -> RunError | None:
        """A row that ended here is recorded. Returns why the endpoint is to be disabled; None to go on."""
        return None if failure is None else self.breaker.row_failed(failure)

    def changes(self) -> list[str]:
        """Changes of mind about refusals since the last call, each with its evidence."""
        changes = list(self.refusals.changes)
        self.refusals.changes.clear()
        return changes

    # ---- what changes

    def _take_in(
        self, now: float, admission: Admission, error: AnswerError, judgement: Judgement, *, is_overload: bool
    ) -> list[str]:
        """Give back what was not charged, learn from a refusal, and pause where that is asked for. Returns notes."""
        told, asked = [], isinstance(error, TransientError) and error.retry_after_seconds is not None
        honours = True
        if isinstance(error, RateLimited):
            self._refused(now, admission)
            # where the server reports what is left, a refusal for want of it is in its headers already
            is_reported = self.limiter.is_server_reported and not self.limiter.has_room(now, admission.tokens)
            if not is_overload and not is_reported:
                told = self._discover(now, admission, error)
            honours = is_reported or (asked and self.refusals.honours_pauses)
        if judgement.hold_seconds > 0 and (is_overload or (asked and honours)):
            self.limiter.close_until(now, now + judgement.hold_seconds)
            self.refusals.paused(now, now + judgement.hold_seconds)
        return told

    def _discover(self, now: float, admission: Admission, error: RateLimited) -> list[str]:
        """What a refusal shows that the server's headers do not. Returns notes for the user."""
        self.refusals.refused(now, admission.attempt, admission.sent_at, admission.tokens, error.names)
        if error.retry_after_seconds is None:
            return []
        note = self.refusals.asked_to_wait(now, admission.attempt, error.retry_after_seconds)
        return [] if note is None else [note]

    def _refused(self, now: float, admission: Admission) -> None:
        self.limiter.refused(now, admission.grant)
        self._window.correct(now, admission.entry, -admission.tokens)

    def _settle(self, now: float, admission: Admission, used_tokens: int) -> None:
        """Replace what was reserved by what was used."""
        self.limiter.settle(now, admission.grant, used_tokens)
        self.refusals.settle(now, admission.attempt, admission.tokens, used_tokens)
        self._window.correct(now, admission.entry, used_tokens - admission.tokens)

    def _may_be_precharge(self, error: AnswerError) -> bool:
        """A relay charges prompt and max_tokens ahead for all in flight, so money may be left for fewer."""
        return error.facts.concerns == "credit" and error.http_status == 403 and self.breaker.has_answered

    def _news(
        self, error: AnswerError, judgement: Judgement, was_half_open: bool, was_shortened: bool
    ) -> list[str]:
        notes = [] if judgement.note is None else [judgement.note]
        if self.breaker.is_half_open and not was_half_open and not self._has_said_paused:
            self._has_said_paused = True
            notes.append(f"paused after repeated failures; probing with one request at a time ({error})")
        if self.breaker.shortened_until is not None and not was_shortened:
            asked = error.retry_after_seconds if isinstance(error, TransientError) else None
            notes.append(
                f"the server asked for a {asked or 0:,.0f} s pause; waiting {judgement.hold_seconds:,.0f} s"
                " (--max-wait), then retrying once"
            )
        return notes


@dataclass(frozen=True, slots=True)
class _PrechargeCap:
    """Fewer requests in flight, since a relay said that the money is gone. since: seconds."""

    places: int
    since: float

    def note(self, error: AnswerError) -> str:
        return f"{error}; reducing to {self.places} concurrent requests: this relay pre-charges each one"
