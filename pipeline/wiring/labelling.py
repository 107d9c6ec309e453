"""The labelling side of one endpoint: the task, and the way to ask that this endpoint takes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..labels.ladder import Ladder, is_about_schema
from ..labels.task import LabelTask
from ..nouns.errors import AnswerError, RunError, WayRefused
from ..nouns.labels import Reading, Way
from ..nouns.rows import Ask, Reply


@dataclass(slots=True)
class Labelling:
    """ladder: changed by the answers; `start_with` sets what an earlier start found."""

    task: LabelTask
    ladder: Ladder = field(init=False)

    def __post_init__(self) -> None:
        self.ladder = Ladder(self.task.ways)

    def start_with(self, known: Way | None) -> None:
        """Ask in the way that an earlier start found; None to find out."""
        self.ladder = Ladder(self.task.ways, known)

    @property
    def known_way(self) -> Way | None:
        """The way that works here; None while it is not known."""
        return self.ladder.way if self.ladder.is_known else None

    def dressed(self, ask: Ask) -> Ask:
        """The ask in the way of this moment."""
        form = self.task.form(self.ladder.way, ask.correction)
        return replace(ask, form=form, is_trial=not self.ladder.is_known)

    def read(self, ask: Ask, reply: Reply) -> tuple[Reading, str | None]:
        """What an answer says, and a line for the user where it ends the way. ask: as it was sent."""
        choice = reply.choices[0]
        reading, note = self.task.read(choice), None
        # a refusal, and an answer that was cut off before its JSON, say nothing about the way
        if ask.form is not None and (reading.is_json or reading.label or reading.can_ask_again):
            note = self.ladder.answered(ask.form.way, reading.is_json)
        return reading, note

    def refused(self, ask: Ask, error: AnswerError) -> AnswerError:
        """The error that a refused request amounts to: of the way, of the user's schema, or of the row as it was."""
        if ask.form is None:
            return error
        message = str(error)
        if note := self.ladder.refused(ask.form.way, error.http_status, message):
            return WayRefused(note, kind="way_refused", http_status=error.http_status)
        if error.http_status in (400, 422, 500) and is_about_schema(message):
            return RunError(
                f"the endpoint refuses the schema: {message}",
                kind="bad_schema",
                http_status=error.http_status,
            )
        return error
