"""What an endpoint reports as used, against what was sent: pictures that no model saw, base64 counted as text. Pure.

Some hosted models drop the picture and answer anyway (seen on Vertex MaaS: 46 to 114 prompt tokens with a photo, where
vision models report 756 to 1943); some relays put it into a field that is counted as text. Both show in the prompt
tokens long before a person reads the captions or the invoice.

The two rules, `is_dropped` and `is_inflated`, hold for one answer and for arrays of them: a run asks them answer by
answer, a report for whole columns (accounts/anomalies.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..nouns.rows import TokenEstimate, Usage

_ANSWERS_IN_A_ROW = 3  # with the same suspicion, before it is a finding
# The most that a prompt without its picture is taken to have: the text, which is counted roughly, and a chat template.
# Not the template tokens of a reservation (tokens.py): this bound must stay below the smallest pictures, of 64 tokens.
_TEXT_TOLERANCE = 1.5
_TEMPLATE_TOLERANCE_TOKENS = 60
_INFLATED = 8  # times the formula: families of models differ by a factor of five
_CHARACTERS_A_TOKEN = 8  # of base64, at the most; tokenizers make a token of two to four


def is_dropped(text: Any, pictures: Any, reported: Any) -> Any:
    """Whether the reported prompt tokens are those of a request without its pictures.

    text, pictures: prompt tokens by the formula. reported: prompt tokens in the usage. Numbers, or numpy arrays of equal
    length. Returns a bool, or an array of them.
    """
    text_alone = _TEXT_TOLERANCE * text + _TEMPLATE_TOLERANCE_TOKENS
    is_text_alone = (reported <= text_alone) & (pictures >= 2 * text_alone)
    is_another_request = reported < text / 3
    return is_text_alone | is_another_request


def is_inflated(text: Any, pictures: Any, reported: Any, base64_characters: Any) -> Any:
    """Whether the reported prompt tokens are so many that the pictures' base64 was counted as text.

    base64_characters: of all pictures of the request. The other arguments and what it returns are as for `is_dropped`.
    """
    return (reported >= _INFLATED * (text + pictures)) & (reported >= base64_characters / _CHARACTERS_A_TOKEN)


@dataclass(slots=True)
class UsageWatch:
    """Watches the usage that one endpoint reports.

    finding: what is wrong, with figures; None until three answers in a row have shown the same. It never changes after.
    """

    finding: str | None = None
    _suspicion: str = ""  # of the last answer: dropped, inflated or nothing
    _in_a_row: int = 0  # answers with this suspicion, the last one included

    def note(self, estimate: TokenEstimate, usage: Usage, base64_characters: int) -> str | None:
        """Take in what an answer reports.

        base64_characters: of the pictures that were sent. Returns the finding when this answer made it one, else None.
        """
        if not usage.prompt_tokens or not estimate.pictures or self.finding is not None:
            return None
        suspicion = _suspicion(estimate, usage.prompt_tokens, base64_characters)
        self._in_a_row = self._in_a_row + 1 if suspicion == self._suspicion else 1
        self._suspicion = suspicion
        if not suspicion or self._in_a_row < _ANSWERS_IN_A_ROW:
            return None
        self.finding = _finding(suspicion, estimate, usage.prompt_tokens)
        return self.finding


def _suspicion(estimate: TokenEstimate, reported: int, base64_characters: int) -> str:
    text = estimate.formula - estimate.pictures
    if is_dropped(text, estimate.pictures, reported):
        return "dropped"
    return "inflated" if is_inflated(text, estimate.pictures, reported, base64_characters) else ""


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
