"""Where a run sends its requests and where it is kept: from settings and the environment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..nouns.address import Address, chat_completions_url, clean_key
from ..nouns.config import EndpointEntry, RunConfig
from ..nouns.errors import UsageError

DEFAULT_BASE_URL = "https://api.openai.com/v1"


def read_addresses(config: RunConfig) -> tuple[Address, ...]:
    """Address and key of each endpoint, from the settings and the environment.

    Raises UsageError if a key is missing or cannot be one, or an address is wrong.
    """
    entries = config.endpoints()
    return _told_apart([_read_address(entry) for entry in entries], entries)


def names_of(entries: Sequence[EndpointEntry]) -> list[str]:
    """The names that endpoints have in the column `endpoint`. Raises UsageError where an address is wrong."""
    addresses = [Address(chat_completions_url(_base_url(entry)), None) for entry in entries]
    return [address.name for address in _told_apart(addresses, entries)]


def _told_apart(addresses: list[Address], entries: Sequence[EndpointEntry]) -> tuple[Address, ...]:
    """With a label where several have the same address."""
    names = [address.name for address in addresses]
    for number, (address, entry) in enumerate(zip(addresses, entries, strict=True)):
        if names.count(address.name) > 1:
            label = next(
                label
                for label in (entry.api_key_env, f"{entry.api_key_env}, {entry.model}", f"entry {number + 1}")
                if label not in {a.label for a in addresses[:number]}
            )
            addresses[number] = replace(address, label=label)
    return tuple(addresses)


def _base_url(entry: EndpointEntry) -> str:
    """Raises UsageError where only a variable of another program names an address: the key would go elsewhere."""
    if given := entry.base_url or os.environ.get("OPENAI_BASE_URL", "").strip():
        return given
    other = next(
        (name for name, value in sorted(os.environ.items()) if value.strip() and _names_an_address(name)),
        None,
    )
    if other is not None:
        raise UsageError(
            f"{other} is set, and this program reads OPENAI_BASE_URL: without it, key and images would go to"
            f" {DEFAULT_BASE_URL}. Set OPENAI_BASE_URL (or --base-url) to the address you mean"
        )
    return DEFAULT_BASE_URL


def _names_an_address(variable: str) -> bool:
    """Whether a variable names the endpoint for other programs: OPENAI_API_BASE (the OpenAI SDK before 1.0), and its kin."""
    parts = variable.upper().split("_")
    is_address = {"BASE", "URL", "BASEURL", "HOST", "ENDPOINT"} & set(parts)
    return parts[0] == "OPENAI" and bool(is_address) and "PROXY" not in parts


def _read_address(entry: EndpointEntry) -> Address:
    try:
        key = clean_key(os.environ.get(entry.api_key_env, ""))
    except ValueError as error:
        raise UsageError(f"the key in {entry.api_key_env} {error}") from None
    address = Address(chat_completions_url(_base_url(entry)), key)
    if key is None and not address.is_local:
        raise UsageError(
            f"no key: set the variable {entry.api_key_env} to the key for {address.name}"
            " (or name another variable with --api-key-env, or api_key_env in its [[endpoint]])"
        )
    return address


def default_run_path(source: Path) -> Path:
    """The run folder of a source, in the working directory: photos/ -> photos-captions, data.csv -> data-captions.

    Raises UsageError if the path cannot be resolved.
    """
    try:
        path = source.resolve()
        return Path(f"{path.stem if path.is_file() else path.name}-captions")
    except (OSError, RuntimeError) as error:  # a name that is too long, a link to itself
        raise UsageError(f"{source}: cannot be read ({error})") from None
