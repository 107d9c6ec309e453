"""An outcome -> a record without secrets -> an entry of the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from ..nouns.address import Address
from ..nouns.console import Console
from ..nouns.rows import Outcome, Spending
from ..store import parts
from ..store.checkpoint import Checkpoint
from ..store.journal import Entry


class CheckpointRecorder:
    """What the runner tells of its rows: outcomes and lost attempts for the checkpoint, lines for the user.

    model: that a row was asked with where its endpoint has none of its own. addresses: their keys are removed from
    every record. console: gets the lines.
    """

    def __init__(
        self, checkpoint: Checkpoint, model: str, addresses: Sequence[Address], console: Console
    ) -> None:
        self._checkpoint = checkpoint
        self._model = model
        self._addresses = addresses
        self._console = console

    async def record(self, outcome: Outcome) -> None:
        """Return when the row is durable. Raises RunError where it could not be made so."""
        kind = outcome.failure.kind if outcome.failure else None
        record = parts.to_record(outcome, self._model)
        for address in self._addresses:
            record = address.scrub_record(record)
        await self._checkpoint.record(
            Entry(
                outcome.row.id,
                kind,
                record,
                outcome.row.content_hash,
                is_empty=outcome.reply is not None
                and outcome.reply.is_empty
                and not (outcome.label or outcome.failure),
            )
        )

    async def unfinish(self, ids: list[str]) -> None:
        """Forget that these rows failed. Raises RunError where that could not be made durable."""
        await self._checkpoint.unfinish(ids)

    def unanswered(self, kind: str, spending: Spending) -> None:
        """Note an attempt that brought no answer, at the most that it may have cost."""
        self._checkpoint.unanswered(kind, spending)

    def tell(self, text: str) -> None:
        """Show the user a line."""
        self._console.tell(text)
