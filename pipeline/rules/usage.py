"""What an endpoint reports as used, against what was sent: pictures that no model saw, base64 counted as text. Pure.

Some hosted models drop the picture and answer anyway; some relays put it into the wrong field. Both show
in the prompt tokens long before anybody reads the captions or the invoice.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..nouns.rows import TokenEstimate, Usage

_IN_A_ROW = 3
# what a chat template and a rough count of the text may add to it
TEXT_TOLERANCE = 1.5
TEMPLATE_TOKENS = 60
INFLATED = 8
CHARACTERS_A_TOKEN = 8  # base64 makes two to four characters a token


@dataclass(slots=True)
class UsageWatch:
    """Of one endpoint. finding: what is wrong, with figures, once several answers in a row have said so."""

    finding: str | None = None
    _suspicion: str = ""
    _in_a_row: int = 0

    def note(self, estimate: TokenEstimate, usage: Usage, base64_characters: int) -> str | None:
        """Take in what an answer reports; the finding when it is new, else None."""
        if not usage.prompt_tokens or not estimate.pictures or self.finding is not None:
            return None
        suspicion = _suspicion(estimate, usage.prompt_tokens, base64_characters)
        self._in_a_row = self._in_a_row + 1 if suspicion == self._suspicion else 1
        self._suspicion = suspicion
        if not suspicion or self._in_a_row < _IN_A_ROW:
            return None
        self.finding = _finding(suspicion, estimate, usage.prompt_tokens)
        return self.finding


def _suspicion(estimate: TokenEstimate, reported: int, base64_characters: int) -> str:
    text = estimate.formula - estimate.pictures
    text_alone = TEXT_TOLERANCE * text + TEMPLATE_TOKENS
    if reported <= text_alone and estimate.pictures >= 2 * text_alone:
        return "dropped"
    if reported < text / 3:  # whatever was counted, it was not this request
        return "dropped"
    if reported >= INFLATED * estimate.formula and reported >= base64_characters / CHARACTERS_A_TOKEN:
        return "inflated"
    return ""


def _finding(suspicion: str, estimate: TokenEstimate, reported: int) -> str:
    text = estimate.formula - estimate.pictures
    if suspicion == "dropped":
        return (
            f"{reported:,} prompt tokens are reported where the text alone is about {text:,} and the picture about"
            f" {estimate.pictures:,}: the model may not be shown the pictures; read some captions"
        )
    return (
        f"{reported:,} prompt tokens are reported where text and picture are about {estimate.formula:,}"
        f" ({reported / estimate.formula:,.0f} times as many): the picture's base64 may be counted, and billed, as text"
    )
