"""Where the image of a row lies: at a URL, or at a path relative to the folder of its manifest. Pure text."""

from __future__ import annotations

import os

_REMOTE = ("http://", "https://")


def is_remote(image: str) -> bool:
    """Whether an image is fetched by HTTP. image: as the manifest gives it, or resolved."""
    return image[:8].lower().startswith(_REMOTE)


def resolve(folder: str, image: str, allow_outside: bool) -> str:
    """The path that is opened, or the URL that is fetched.

    folder: of the manifest. image: as the manifest gives it; an absolute path and a URL stay as they are.
    allow_outside: `..` follows symbolic links, as the operating system reads it; without, `link/../x` is x in
    the same folder, so a path that passes `leads_outside` cannot leave the folder by a link's parent.
    """
    if is_remote(image):
        return image
    if ".." in image and not allow_outside:
        image = os.path.normpath(image)
    return os.path.join(folder, image)  # noqa: PTH118  names may be undecodable; text throughout


def leads_outside(image: str) -> bool:
    """Whether a relative path, read as text, starts above the folder of its manifest."""
    return ".." in image and os.path.normpath(image).split(os.sep, 1)[0] == ".."
