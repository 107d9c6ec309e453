"""Where the image of a row lies: at a URL, or at a path relative to the folder of its manifest. Pure text."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

_FILE_URL = re.compile(r"file:(?://(?:localhost)?(?=/)|(?=/(?!/)))", re.I)
_REMOTE = ("http://", "https://")


def is_remote(image: str) -> bool:
    """Whether an image is fetched by HTTP. image: as the manifest gives it, or resolved."""
    return image[:8].lower().startswith(_REMOTE)


def local(image: str) -> str:
    """A path as the system takes it: `file:///a%20b` is /a b, and ~/a lies in the home folder."""
    if found := _FILE_URL.match(image):
        return unquote(image[found.end() :])
    return os.path.expanduser(image) if image.startswith("~/") else image  # noqa: PTH111  may be undecodable


def named(image: str) -> str:
    """An image's name in the dataset: ./a.jpg and a//b.jpg are a.jpg and a/b.jpg, so one file is one row."""
    if "://" in image or not ("./" in image or "//" in image) or ".." in image:
        return image
    return os.path.normpath(image)


def resolve(folder: str, image: str, allow_outside: bool) -> str:
    """The path that is opened, or the URL that is fetched.

    folder: of the manifest. image: as the manifest gives it; an absolute path and a URL stay as they are.
    allow_outside: `..` follows symbolic links, as the operating system reads it; without, `link/../x` is x in
    the same folder, so a path that passes `leads_outside` cannot leave the folder by a link's parent.
    """
    if is_remote(image):
        return image
    image = local(image)
    if ".." in image and not allow_outside:
        image = os.path.normpath(image)
    return os.path.join(folder, image)  # noqa: PTH118  names may be undecodable; text throughout


def leads_outside(image: str) -> bool:
    """Whether a relative path, read as text, starts above the folder of its manifest."""
    return ".." in image and os.path.normpath(image).split(os.sep, 1)[0] == ".."
