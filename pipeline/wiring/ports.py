"""What a run needs from outside the event loop's own logic: pictures, a place to record, a connection.

The session hands in the real ones (PicturePool, Recorder, HttpConnection), tests their own.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Protocol

from ..nouns.rows import (
    Ask,
    HttpAnswer,
    LimitReport,
    Outcome,
    Prepared,
    Reply,
    Row,
    Spending,
    TokenEstimate,
    Usage,
)


class PictureSource(Protocol):
    """Prepares pictures away from the event loop."""

    @property
    def calls_at_once(self) -> int:
        """How many calls of `prepare` may run."""

    async def prepare(self, rows: list[Row]) -> list[Prepared]:
        """The first of these rows with their pictures: at least one, perhaps not all."""


class Recorder(Protocol):
    """Makes durable what has happened, and tells the user."""

    async def record(self, outcome: Outcome) -> None:
        """Return when the row is durable. Raises RunError where it could not be made so."""

    async def unfinish(self, ids: list[str]) -> None:
        """These rows failed, and were not at fault: they are as if they had not been asked. Raises RunError."""

    def unanswered(self, kind: str, spending: Spending) -> None:
        """Note an attempt that brought no answer that counts, and what it may have cost at the most."""

    def tell(self, text: str) -> None:
        """Show one line to the user at once."""


class Connection(Protocol):
    """The way to one endpoint, its prices, and its way of counting tokens.

    name: for the `endpoint` column. model: its name there.
    """

    name: str
    model: str

    def estimate(self, ask: Ask) -> TokenEstimate:
        """What the request will take in tokens."""

    def most(self, estimate: TokenEstimate) -> Spending:
        """What one attempt may cost at the most."""

    async def post(self, ask: Ask) -> HttpAnswer:
        """One attempt. Raises AnswerError where no whole answer came back."""

    def limits(self, answer: HttpAnswer) -> tuple[LimitReport | None, LimitReport | None]:
        """What the server says of its limits of tokens and of requests; None where it says nothing usable."""

    def read(self, answer: HttpAnswer) -> Reply:
        """The completion in an answer. Raises AnswerError where there is none."""

    def learn(self, estimate: TokenEstimate, usage: Usage) -> None:
        """Take in what the server counted for a request."""

    def price(self, reply: Reply) -> Decimal | None:
        """What an answer cost; None where no price is known."""
