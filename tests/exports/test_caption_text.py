"""The text of an export: laws that hold for any text."""

from __future__ import annotations

import pytest
from captionmill.exports.caption_text import TextSettings, clip_tokens, unique_tags
from hypothesis import given
from hypothesis import strategies as st

TEXTS = st.text(st.characters(exclude_categories=()), max_size=200)


@given(TEXTS)
def test_one_line_is_one_line(text):
    """No reader finds a second line, and UTF-8 can hold it."""
    done = TextSettings().finish(text)
    assert len(done.splitlines()) <= 1
    done.encode("utf-8")
    assert "\0" not in done


@given(TEXTS, st.integers(12, 80), st.booleans())
def test_a_length_is_kept(text, most, is_tokens):
    """With the trigger words, in characters and in tokens."""
    settings = TextSettings(trigger="ohwx", **{"max_tokens" if is_tokens else "max_chars": most})
    done = settings.finish(text)
    assert (clip_tokens(done) if is_tokens else len(done)) <= most


@given(TEXTS)
def test_finishing_twice_changes_nothing(text):
    """Trigger words and tags are not added again."""
    settings = TextSettings(trigger="ohwx", trigger_after="film", lower=True)
    assert settings.finish(settings.finish(text)) == settings.finish(text)


@pytest.mark.parametrize(
    ("settings", "text", "done"),
    [
        ({"strip_openings": True}, "The image shows a boat.", "A boat."),
        ({"strip_openings": True}, "In this photo, there is a boat.", "A boat."),
        ({"strip_openings": True}, "Here's a description of the image: a boat.", "A boat."),
        ({"strip_openings": True}, "Imagery of a boat.", "Imagery of a boat."),
        ({"max_chars": 20}, "A boat. A long second sentence.", "A boat."),
        ({"max_chars": 9}, "one two three", "one two"),
        ({"replace": (("boat", "ship"),)}, "a boat", "a ship"),
        ({"unique_tags": True}, "Sea, sky, sea,, sky ", "Sea, sky"),
        ({"trigger": "ohwx", "trigger_after": "film"}, "boat", "ohwx, boat, film"),
    ],
)
def test_each_setting(settings, text, done):
    """What each setting does."""
    assert TextSettings(**settings).finish(text) == done


def test_tags_keep_their_order_and_first_spelling():
    """Each tag stays where it came first."""
    assert unique_tags("B, a, b, C, A") == "B, a, C"
