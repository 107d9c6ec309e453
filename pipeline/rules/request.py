"""Row + prepared pictures -> the body of one chat request. Pure.

The body is spliced: everything that is the same for all rows is JSON once, at the start; a row adds
its prompt and the base64 of its pictures. A picture never passes through a JSON encoder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..nouns.config import API_ORDER, ChatSettings
from ..nouns.labels import Correction, RequestForm
from ..nouns.rows import Picture, Row

_JSON = json.JSONEncoder(separators=(",", ":"))  # made once: json.dumps with options makes one for each call


def _json(value: object) -> bytes:
    # ASCII only: a prompt made of an undecodable file name stays valid JSON
    return _JSON.encode(value).encode("ascii")


class RequestBuilder:
    """Builds the requests for one endpoint.

    chat: system message and parameters, the same for every row. model: its name at this endpoint.
    """

    def __init__(self, chat: ChatSettings, model: str) -> None:
        head: dict[str, object] = {"model": model}
        head |= {k: v for k in API_ORDER if (v := getattr(chat, k)) is not None}
        head |= chat.param or {}
        head["stream"] = False
        messages = _json([{"role": "system", "content": chat.system}])[1:-1] + b"," if chat.system else b""
        self._parameters = head
        self._messages = b',"messages":[' + messages + b'{"role":"user","content":[{"type":"text","text":'
        self._head = _json(head)[:-1] + self._messages
        self._bound = "max_completion_tokens" if chat.max_completion_tokens else "max_tokens"
        self._picture_end = (f'","detail":"{chat.detail}"}}}}' if chat.detail else '"}}').encode()

        self._heads: dict[str, bytes] = {}  # by the way of a form; `_head_of` adds

    def build(
        self,
        row: Row,
        pictures: Sequence[Picture],
        answer_tokens: int | None = None,
        form: RequestForm | None = None,
    ) -> bytes:
        """The body for one row: the text, then its pictures in their order.

        answer_tokens: how long the answer may be, where that is not what the run says. form: of a labelling run; the
        same parameters each time for a way.
        """
        head = self._head
        if answer_tokens is not None:
            more = dict(form.parameters) if form else {}
            head = _json(self._parameters | more | {self._bound: answer_tokens})[:-1] + self._messages
        elif form is not None:
            head = self._head_of(form)
        text = row.prompt if form is None or not form.text else f"{row.prompt}\n\n{form.text}"
        pieces = [head, _json(text), b"}"]
        for picture in pictures:
            pieces += (
                b',{"type":"image_url","image_url":{"url":"data:%b;base64,' % picture.mime.encode(),
                picture.base64,
                self._picture_end,
            )
        pieces.append(b"]}")
        if form is not None and form.correction is not None:
            pieces.append(b"," + _json(_corrected(form.correction))[1:-1])
        pieces.append(b"]}")
        return b"".join(pieces)

    def _head_of(self, form: RequestForm) -> bytes:
        if form.way not in self._heads:
            self._heads[form.way] = _json(self._parameters | dict(form.parameters))[:-1] + self._messages
        return self._heads[form.way]


def _corrected(correction: Correction) -> list[dict[str, str]]:
    """The turns that follow: the answer that was not valid, and why."""
    words = (
        f"That is not valid: {correction.words}\nAnswer again in the required form (JSON), with nothing else."
    )
    return [
        {"role": "assistant", "content": correction.answer or "(no answer)"},
        {"role": "user", "content": words},
    ]
