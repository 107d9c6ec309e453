"""One endpoint of a run: a connection, its flow control, and what is known of its usage. Attempts go through it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from decimal import Decimal

from ..nouns.console import Console
from ..nouns.errors import AccountError, AnswerError, RowError, RunError, WayRefused
from ..nouns.labels import Reading
from ..nouns.rows import Ask, Failure, HttpAnswer, Reply, Spending, TokenEstimate
from ..rules.flow.control import Admission, FlowControl
from ..rules.usage import UsageWatch, plausible
from .labelling import Labelling
from .ports import Connection

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Ticket:
    """Permission for one attempt, and what is known of it afterwards.

    most: what it may cost at the most, by what was known when it was admitted. latency_seconds: None until the
    attempt is over.
    """

    endpoint: Endpoint
    estimate: TokenEstimate
    admission: Admission
    most: Spending
    latency_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply with where it came from. cost_usd: in the run's currency, None where no price is known. ask: as it was
    sent. reading: what it says as a label; None outside labelling runs."""

    ticket: Ticket
    reply: Reply
    cost_usd: Decimal | None
    ask: Ask
    reading: Reading | None = None

    @property
    def spending(self) -> Spending:
        """What it cost; the most that it may have cost where the server does not say."""
        tokens = self.reply.usage.spent_tokens
        if tokens is None:
            return self.ticket.most
        return Spending(1, tokens, self.ticket.most.usd if self.cost_usd is None else self.cost_usd)


@dataclass(slots=True, eq=False)
class Endpoint:
    """Where requests go.

    weight: its share where several have room; 0: only when no other has. stops_on_anomaly: whether usage that
    cannot be true disables it. disabled: why nothing is sent there any more; None while it is in service.
    """

    connection: Connection
    flow: FlowControl
    console: Console
    weight: float = 1.0
    stops_on_anomaly: bool = False
    disabled: RunError | None = None  # set by the dispatcher
    usage: UsageWatch = field(default_factory=UsageWatch)
    labelling: Labelling | None = None  # None outside labelling runs

    def __repr__(self) -> str:
        return f"<Endpoint {self.name} {self.flow}>"

    @property
    def name(self) -> str:
        """Host and path, for the `endpoint` column."""
        return self.connection.name

    @property
    def model(self) -> str:
        """What is asked there."""
        return self.connection.model

    @property
    def ceiling(self) -> int:
        """What concurrency never exceeds: what a kill -9 may cost at this endpoint."""
        return self.flow.concurrency.ceiling

    @property
    def load(self) -> float:
        """How busy it would be with one more; the least loaded of those with room is chosen."""
        return (self.flow.in_flight + 1) / self.weight if self.weight else float("inf")

    @property
    def has_room_to_learn(self) -> bool:
        """Whether one more request may be in flight while the way to ask for a label is not known."""
        most = None if self.labelling is None else self.labelling.ladder.most_in_flight
        return most is None or self.flow.in_flight < most

    def estimate(self, ask: Ask) -> TokenEstimate:
        """What the request will take in tokens, in the way that it would be asked now."""
        return self.connection.estimate(ask if self.labelling is None else self.labelling.dressed(ask))

    def admit(self, now: float, estimate: TokenEstimate) -> Ticket:
        """Take place and tokens for one attempt. The ticket goes back to the dispatcher when it is over."""
        return Ticket(self, estimate, self.flow.admit(now, estimate), self.connection.most(estimate))

    async def send(self, ticket: Ticket, ask: Ask) -> Answer:
        """One POST and what it teaches. Raises an AnswerError where no answer came."""
        loop, admission = asyncio.get_running_loop(), ticket.admission
        if self.labelling is not None:
            ask = self.labelling.dressed(ask)
        admission.sent_at = loop.time()
        try:
            answer = await self.connection.post(ask)
        finally:
            now = loop.time()
            ticket.latency_seconds = now - admission.sent_at
        self.flow.reported(now, admission, *self.connection.limits(answer))
        base64_characters = sum(len(picture.base64) for picture in ask.pictures)
        characters = base64_characters + len(ask.text)
        reply = plausible(self._read(ask, answer, admission), ticket.estimate, characters)
        self._tell(self.flow.answered(now, admission, reply.usage.total_tokens))
        self._log_changes()
        self.connection.learn(ticket.estimate, reply.usage)
        if finding := self.usage.note(ticket.estimate, reply.usage, base64_characters, reply.is_usage_absurd):
            self._tell((finding,))
        return Answer(ticket, reply, self.connection.price(reply), ask, self._reading(ask, reply))

    def _read(self, ask: Ask, answer: HttpAnswer, admission: Admission) -> Reply:
        """The completion. Raises AnswerError; WayRefused, and no failure of the endpoint, where it is only the way."""
        try:
            return self.connection.read(answer)
        except AnswerError as error:
            meant = error if self.labelling is None else self.labelling.refused(ask, error)
            if isinstance(meant, WayRefused):
                self._tell(self.flow.answered(asyncio.get_running_loop().time(), admission, None))
                self._tell((str(meant),))
            raise meant from None

    def _reading(self, ask: Ask, reply: Reply) -> Reading | None:
        if self.labelling is None:
            return None
        reading, note = self.labelling.read(ask, reply)
        self._tell((note,) if note else ())
        return reading

    def failed(
        self, ticket: Ticket, error: AnswerError, row_id: str, attempt: int
    ) -> RunError | RowError | None:
        """A failed attempt: what it means for those that follow.

        Returns RunError where the endpoint is to be disabled, RowError where the row is to fail, None to go on.
        """
        if isinstance(error, RunError) and not isinstance(error, AccountError):  # true for every row
            return error
        now = asyncio.get_running_loop().time()
        verdict = self.flow.failed(now, ticket.admission, error, row_id, attempt)
        self._tell(verdict.notes)
        self._log_changes()
        return verdict.give_up

    def row_ended(self, failure: Failure | None) -> RunError | None:
        """A row that ended here is recorded. Returns why the endpoint is to be disabled; None to go on."""
        if failure is None and self.stops_on_anomaly and self.usage.finding is not None:
            return RunError(f"{self.name}: {self.usage.finding}", kind="usage_anomaly")
        return self.flow.row_ended(failure)

    def _log_changes(self) -> None:
        """Each change of mind about refusals, with its evidence, for the debug log."""
        for change in self.flow.changes():
            _log.debug("%s: refusals: %s", self.name, change)

    def _tell(self, notes: tuple[str, ...]) -> None:
        for note in notes:
            named = note if note.startswith(self.name) else f"{self.name}: {note}"
            self.console.tell(named)
