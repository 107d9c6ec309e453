"""A key as users copy it: cleaned, or refused with a word that does not repeat it."""

from __future__ import annotations

import pytest
from captionmill.nouns.address import clean_key


@pytest.mark.parametrize(
    "text",
    ["sk-1", " sk-1\n", '"sk-1"', "'sk-1'", "Bearer sk-1", '"Bearer sk-1"', "bearer  sk-1", "sk-1 # my key", "sk-1,",
     "OPENAI_API_KEY=sk-1", "export OPENAI_API_KEY='sk-1'  # mine", "Authorization: Bearer sk-1", "`sk-1`"],
)  # fmt: skip
def test_what_was_copied_with_a_key_goes(text):
    """Quotation marks, Bearer, a comment, the variable's name."""
    assert clean_key(text) == "sk-1"


@pytest.mark.parametrize("text", ["", "  ", '""', "Bearer "])
def test_no_key(text):
    """Nothing is left."""
    assert clean_key(text) is None


@pytest.mark.parametrize("text", ["sk-1 sk-2", "schlüssel", "sk-\u20281", '"sk-1', "my secret key"])
def test_what_is_no_key_is_refused(text):
    """With a word, and without the key in it."""
    with pytest.raises(ValueError, match="has ") as caught:
        clean_key(text)
    assert "sk-1" not in str(caught.value)


def test_signs_of_a_key_stay():
    """Base64 padding, dots, slashes and a number sign inside."""
    assert clean_key("a#b/c+d==") == "a#b/c+d=="
