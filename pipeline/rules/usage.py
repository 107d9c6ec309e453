"""What an endpoint reports as used, against what was sent: pictures that no model saw, base64 counted as text. Pure.

Some hosted models drop the picture and answer anyway (seen on Vertex MaaS: 46 to 114 prompt tokens with a photo, where
vision models report 756 to 1943); some relays put it into a field that is counted as text. Both show in the prompt
tokens long before a person reads the captions or the invoice.

A third rule, `plausible`, takes counts that no request can have (10^9 tokens) out before anything is made of them.

The other two, `is_dropped` and `is_inflated`, hold for one answer and for arrays of them: a run asks them answer by
answer, a report for whole columns (accounts/anomalies.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..nouns.rows import Reply, TokenEstimate, Usage

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


# No tokenizer makes more than a token of a byte, and no chat template is larger; the formula of a small picture may be
# above its bytes
_TEMPLATE_AND_TOOLS_TOKENS = 100_000
_BYTES_A_CHARACTER = 4
_MOST_ANSWER_TOKENS = (
    2_000_000  # of one choice; the longest answers that models of 2026 give are 128,000 to 1,000,000
)


def plausible(reply: Reply, estimate: TokenEstimate, characters: int) -> Reply:
    """The reply without counts that cannot be true of any request like this.

    characters: of prompt and base64 that were sent. Such counts would empty a token bucket, spoil the estimates and
    add up to nonsense; the reply is marked instead (`is_usage_absurd`) and counts as one without usage.
    """
    usage = reply.usage
    most_prompt = _INFLATED * estimate.formula + _BYTES_A_CHARACTER * characters + _TEMPLATE_AND_TOOLS_TOKENS
    most_answer = max(_MOST_ANSWER_TOKENS * max(1, len(reply.choices)), 2 * estimate.longest_answer)
    prompt, answer = usage.prompt_tokens or 0, usage.completion_tokens or 0
    if prompt > most_prompt or answer > most_answer:
        return replace(reply, usage=Usage(), is_usage_absurd=True)
    if (usage.total_tokens or 0) > most_prompt + most_answer:
        return replace(reply, usage=replace(usage, total_tokens=prompt + answer))
    return reply


@dataclass(slots=True)
class UsageWatch:
    """Watches the usage that one endpoint reports.

    finding: what is wrong, with figures; None until three answers in a row have shown the same. It never changes after.
    """

    finding: str | None = None
    _suspicion: str = ""  # of the last answer: dropped, inflated, absurd or nothing
    _in_a_row: int = 0  # answers with this suspicion, the last one included

    def note(
        self, estimate: TokenEstimate, usage: Usage, base64_characters: int, is_absurd: bool = False
    ) -> str | None:
        """Take in what an answer reports.

        base64_characters: of the pictures that were sent. is_absurd: its counts were taken out by `plausible`. Returns the
        finding when this answer made it one, else None.
        """
        if self.finding is not None:
            return None
        if is_absurd:
            suspicion = "absurd"
        elif usage.prompt_tokens and estimate.pictures:
            suspicion = _suspicion(estimate, usage.prompt_tokens, base64_characters)
        else:
            return None
        self._in_a_row = self._in_a_row + 1 if suspicion == self._suspicion else 1
        self._suspicion = suspicion
        if not suspicion or self._in_a_row < _ANSWERS_IN_A_ROW:
            return None
        self.finding = _finding(suspicion, estimate, usage.prompt_tokens or 0)
        return self.finding


def _suspicion(estimate: TokenEstimate, reported: int, base64_characters: int) -> str:
    text = estimate.formula - estimate.pictures
    if is_dropped(text, estimate.pictures, reported):
        return "dropped"
    return "inflated" if is_inflated(text, estimate.pictures, reported, base64_characters) else ""


def _finding(suspicion: str, estimate: TokenEstimate, reported: int) -> str:
    if suspicion == "absurd":
        return "more tokens are reported than such a request can have; these counts are ignored, so the cost is not known"
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
