"""What becomes of an answer on its way into an export: openings, replacements, tags, length, trigger words.

Pure text. The answer in the dataset is never changed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..nouns.errors import UsageError

CLIP_TOKENS = 77  # what CLIP's text encoder reads, its start and end marks included
_CLIP_MARKS = 2
_LETTERS_A_TOKEN = 5
# CLIP's own splitting: contractions, runs of letters, single digits, runs of other signs
_CLIP_PIECES = re.compile(r"'(?:s|t|re|ve|m|ll|d)\b|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.I)
# no consumer takes them in a text, and XML forbids them; the line breaks among them are handled before
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_LINE_BREAKS = re.compile(
    r"[ \t]*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+[ \t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]*"
)
_SENTENCE_END = re.compile(r"(?:[.!?…]+[\"'”’)\]]*(?=\s|$))|[。！？]+[”’）」]*")
_OPENINGS = re.compile(
    r"^(?:(?:sure|certainly|of course)[,!.:]?\s+)?(?:here(?:'s| is) (?:a|the) (?:caption|description)[^:]{0,40}:\s*)?"
    r"(?:(?:this|the|in this|in the)\s+(?:image|picture|photo|photograph)"
    r"(?:\s+(?:shows|depicts|features|displays|captures|presents|is of|contains|we see))?,?\s+"
    r"(?:there (?:is|are)\s+)?)?",
    re.I,
)


@dataclass(frozen=True, slots=True)
class TextSettings:
    """How a text is finished; applied in this order.

    strip_openings: remove "The image shows" and the like. replace: (find, put) pairs, in order. lower: lower case.
    unique_tags: a comma-separated list of tags without repetition. one_line: join lines by a space.
    max_chars: end at a sentence within so many characters. max_tokens: within so many tokens of CLIP, which are
    estimated (`clip_tokens`). trigger, trigger_after: words before and after. None and empty: not done.
    """

    strip_openings: bool = False
    replace: tuple[tuple[str, str], ...] = ()
    lower: bool = False
    unique_tags: bool = False
    one_line: bool = True
    max_chars: int | None = None
    max_tokens: int | None = None
    trigger: str = ""
    trigger_after: str = ""

    def __post_init__(self) -> None:
        for words in (self.trigger, self.trigger_after):
            if words != words.strip() or _LINE_BREAKS.search(words):
                raise UsageError(f"trigger {words!r}: one line without blanks around it is needed")
        if not self._fits(self._with_triggers("")):
            raise UsageError("the trigger words alone are longer than the length allowed")

    def finish(self, text: str) -> str:
        """The text of an export; empty where nothing is left. text: as the model wrote it."""
        text = self._cleaned(text)
        if not text:
            return ""
        if self._fits(whole := self._with_triggers(text)):
            return whole
        return self._with_triggers(self._shortened(text))

    def _cleaned(self, text: str) -> str:
        text = _CONTROLS.sub("", text).strip()
        if self.strip_openings:
            text = without_opening(text)
        for find, put in self.replace:
            text = text.replace(find, put)
        if self.lower:
            text = text.lower()
        if self.unique_tags:
            text = unique_tags(text)
        if self.one_line:
            text = one_line(text)
        return text.strip()

    def _with_triggers(self, text: str) -> str:
        """With the trigger words, unless it has them there already."""
        before = self.trigger if self.trigger and not text.startswith(self.trigger) else ""
        after = self.trigger_after if self.trigger_after and not text.endswith(self.trigger_after) else ""
        return ", ".join(part for part in (before, text, after) if part)

    def _fits(self, text: str) -> bool:
        is_short = self.max_chars is None or len(text) <= self.max_chars
        return is_short and (self.max_tokens is None or clip_tokens(text) <= self.max_tokens)

    def _shortened(self, text: str) -> str:
        """The longest beginning that fits with the trigger words: whole sentences, or else whole words."""
        sentences = [match.end() for match in _SENTENCE_END.finditer(text)]
        words = [match.start() for match in re.finditer(r"\s+", text)]
        for ends in (sentences, words, range(1, len(text))):
            low, high = 0, len(ends)  # ends[:low] fit
            while low < high:
                middle = (low + high) // 2
                if self._fits(self._with_triggers(text[: ends[middle]].rstrip(" ,;"))):
                    low = middle + 1
                else:
                    high = middle
            if low and (kept := text[: ends[low - 1]].rstrip(" ,;")):
                return kept
        return ""


def one_line(text: str) -> str:
    """All lines joined by one space each; any sign that some reader takes for a line break counts."""
    return _LINE_BREAKS.sub(" ", text).strip()


def has_lines(text: str) -> bool:
    """Whether `one_line` would join something."""
    return _LINE_BREAKS.search(text.strip()) is not None


def without_opening(text: str) -> str:
    """Without "The image shows" and the like; what follows begins with a capital letter."""
    rest = text[_OPENINGS.match(text).end() :]  # type: ignore[union-attr]  # it matches an empty beginning too
    return rest[:1].upper() + rest[1:] if rest and len(rest) < len(text) else text


def unique_tags(text: str) -> str:
    """Tags between commas, each once, upper and lower case alike; the first spelling stays."""
    first: dict[str, str] = {}
    for tag in map(one_line, text.split(",")):
        if tag:
            first.setdefault(tag.casefold(), tag)
    return ", ".join(first.values())


def clip_tokens(text: str) -> int:
    """An estimate of CLIP's tokens that errs to the high side; no vocabulary is loaded.

    Text is split as CLIP's tokenizer does. A word of ASCII letters counts one token for each started five letters
    (most common words are one), other pieces one for each byte; two for the marks at start and end.
    """
    count = _CLIP_MARKS
    for piece in _CLIP_PIECES.findall(text):
        is_word = piece.isascii() and piece.isalpha()
        count += -(-len(piece) // _LETTERS_A_TOKEN) if is_word else len(piece.encode("utf-8", "replace"))
    return count
