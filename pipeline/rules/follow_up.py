"""What else to ask of a row whose answer came. Pure; the one place for asks that follow an answer."""

from __future__ import annotations

from dataclasses import replace

from ..nouns.rows import Ask, Reply


class FollowUps:
    """retry_length: tokens to allow where an answer was cut off; None for no second ask."""

    def __init__(self, retry_length: int | None) -> None:
        self._retry_length = retry_length

    def next_ask(self, ask: Ask, reply: Reply) -> Ask | None:
        """What to ask after `reply` came to `ask`; None where the row is answered."""
        is_cut = all(choice.finish == "length" for choice in reply.choices)
        if self._retry_length is None or ask.answer_tokens is not None or not is_cut:
            return None
        return replace(ask, answer_tokens=self._retry_length, reason="length")
