"""What else to ask of a row whose answer came. Pure; the one place for asks that follow an answer."""

from __future__ import annotations

from dataclasses import replace

from ..nouns.labels import Correction, Reading
from ..nouns.rows import Ask, Reply


class FollowUps:
    """retry_length: tokens to allow where an answer was cut off; None for no second ask. max_reasks: further asks for a
    label that is not valid."""

    def __init__(self, retry_length: int | None, max_reasks: int = 0) -> None:
        self._retry_length = retry_length
        self._max_reasks = max_reasks

    def next_ask(self, ask: Ask, reply: Reply, reading: Reading | None = None) -> Ask | None:
        """What to ask after `reply` came to `ask`; None where the row has ended.

        ask: as it was sent. reading: of the reply, None outside labelling runs.
        """
        if reading is not None and reading.label is not None:
            return None
        is_cut = all(choice.finish == "length" for choice in reply.choices)
        if self._retry_length is not None and ask.answer_tokens is None and is_cut:
            return replace(ask, answer_tokens=self._retry_length, reason="length")
        if reading is None or not reading.can_ask_again:
            return None
        if (
            ask.is_trial and not reading.is_json
        ):  # it showed that a way does not work; the row is not at fault
            return replace(ask, reason="way")
        if ask.reasks >= self._max_reasks:
            return None
        correction = Correction(reading.raw, reading.problem)
        return replace(ask, reason="reask", correction=correction, reasks=ask.reasks + 1)
