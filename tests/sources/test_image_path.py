"""Where the image of a row lies: at a URL, or at a path relative to the folder of its manifest."""

from __future__ import annotations

import pytest
from captionmill.nouns.image_path import is_remote, leads_outside, resolve


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("http://a/b.jpg", True),
        ("HTTPS://a/b.jpg", True),
        ("a/http://b.jpg", False),
        ("1a://b.jpg", False),
        ("https.jpg", False),
        ("", False),
    ],
)
def test_only_http_is_remote(image, expected):
    """An image is fetched only if it begins with http:// or https://, in any case."""
    assert is_remote(image) is expected


@pytest.mark.parametrize(
    ("image", "allow_outside", "expected"),
    [
        ("a/b.jpg", False, "/m/a/b.jpg"),
        ("/photos/b.jpg", False, "/photos/b.jpg"),
        ("https://a/../b.jpg", False, "https://a/../b.jpg"),
        ("link/../b.jpg", False, "/m/b.jpg"),
        ("link/../b.jpg", True, "/m/link/../b.jpg"),
    ],
)
def test_a_path_is_relative_to_the_manifest(image, allow_outside, expected):
    """Absolute paths and URLs stay; .. is read as text unless paths may lead outside."""
    assert resolve("/m", image, allow_outside) == expected


@pytest.mark.parametrize(
    ("image", "expected"),
    [("../a.jpg", True), ("a/../../b.jpg", True), ("..", True), ("a/../b.jpg", False), ("..a.jpg", False)],
)
def test_what_leads_outside(image, expected):
    """A path that starts above its folder once .. is resolved as text."""
    assert leads_outside(image) is expected
