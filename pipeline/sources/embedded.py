"""Pictures that stand in the manifest itself: bytes, data: URLs, base64."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, NamedTuple

from .record import Embedded

_DATA_URL = re.compile(r"data:[\w.+/;= -]*;base64,", re.I)
# how the base64 of a JPEG, PNG, GIF, WebP, TIFF and BMP begins
_BASE64_BEGINS = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "SUkqA", "TU0AK", "Qk0")
_MIN_BASE64 = 128  # characters: shorter texts are paths
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")


class Picture(NamedTuple):
    """name: in the dataset. data: None where the reader was not asked for it."""

    name: str
    data: bytes | None


def embedded_pictures(value: Any, base: str) -> list[Picture]:
    """The pictures of a row; empty where it has paths.

    value: of the image column. base: the row's id, or its place in the manifest: the name of a picture without one;
    with a number where the row has several.
    """
    values = value if isinstance(value, list) else [value]
    found = [_picture(item) for item in values]
    if None in found:
        return []
    pictures = [item for item in found if item is not None]
    return [
        Picture(item.name or (base if len(pictures) == 1 else f"{base}/{number}"), item.data)
        for number, item in enumerate(pictures, 1)
    ]


def _picture(value: Any) -> Embedded | None:
    if isinstance(value, Embedded):
        return value
    if not isinstance(value, str):
        return None
    if found := _DATA_URL.match(value):
        return Embedded(None, _decoded(value[found.end() :]))
    if len(value) >= _MIN_BASE64 and value.startswith(_BASE64_BEGINS) and _BASE64.fullmatch(value):
        return Embedded(None, _decoded(value))
    return None


def _decoded(text: str) -> bytes:
    """Broken base64 is a broken picture: no bytes."""
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return b""
